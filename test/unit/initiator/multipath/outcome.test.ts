import { expect } from 'chai';
import {
  type FailedCommand,
  quiesceDelayMs,
  RETRIES_MAX,
  retryDelayMs,
  Verdict,
  verdictOf,
} from '../../../../src/initiator/multipath/outcome.ts';

const READ = { replayable: true, harmless: true, retries: 0, unsent: false };
const WRITE = { ...READ, harmless: false };
const PASSTHRU = { ...WRITE, replayable: false };
const DNR = 0x4000;
const { Deliver, Again, Hold, Unknown, Ana, OtherPath, Retry } = Verdict;

describe('multipath: what becomes of a failed command', () => {
  // status, command, verdict
  const cases: readonly (readonly [string, number, Omit<FailedCommand, 'status'>, number])[] = [
    ['a read, path lost', 0x370, READ, Again],
    ['a write, path lost', 0x370, WRITE, Hold],
    ['a passthru command, path lost', 0x370, PASSTHRU, Unknown],
    ['a write that was never sent', 0x370, { ...WRITE, unsent: true }, Again],
    ['a passthru command that was never sent', 0x370, { ...PASSTHRU, unsent: true }, Again],
    ['a write, its path disconnected by us', 0x371, WRITE, Hold],
    ['a read, its path disconnected by us', 0x371, READ, Again],
    ...[0x301, 0x302, 0x303].flatMap((status) =>
      [READ, WRITE, PASSTHRU, { ...WRITE, retries: RETRIES_MAX }].map(
        (command) => [`ANA ${status.toString(16)}`, status, command, Ana] as const,
      ),
    ),
    ['ANA with DNR', 0x302 | DNR, WRITE, Deliver],
    ['Internal Path Error', 0x300, WRITE, OtherPath],
    ['Controller Pathing Error', 0x360, READ, OtherPath],
    ['Internal Path Error of a passthru command', 0x300, PASSTHRU, Deliver],
    ['Internal Error', 0x006, WRITE, Retry],
    ['Command Interrupted with CRD', 0x021 | 0x0800, READ, Retry],
    ['Namespace Not Ready', 0x082, READ, Retry],
    ['Internal Error with DNR', 0x006 | DNR, WRITE, Deliver],
    ['Internal Error, once too often', 0x006, { ...READ, retries: RETRIES_MAX }, Deliver],
    ['Internal Error of a passthru command', 0x006, PASSTHRU, Deliver],
    ['Command Abort Requested', 0x007, READ, Deliver],
    ['LBA Out of Range with DNR', 0x080 | DNR, READ, Deliver],
  ];
  for (const [name, status, command, verdict] of cases) {
    it(`${name} (${JSON.stringify(command)})`, () => expect(verdictOf({ status, ...command })).to.equal(verdict));
  }

  it('waits as the controller asks, else longer each time', () => {
    const crdt = [3, 0, 50];
    expect(retryDelayMs(0x021 | (1 << 11), 0, crdt)).to.equal(300);
    expect(retryDelayMs(0x021 | (3 << 11), 4, crdt)).to.equal(5000);
    expect([0, 1, 2].map((retries) => retryDelayMs(0x021 | (2 << 11), retries, crdt))).to.deep.equal([10, 20, 40]);
    expect(retryDelayMs(0x006, 0, crdt)).to.equal(10);
  });

  it('an association is known dead after CQT, or after keep alive and CQT if the controller may not know', () => {
    const controller = { cqt: 250, ctratt: 0, katoMs: 4000 };
    for (const code of ['NVMEOF_ERR_CONNECTION_LOST', 'NVMEOF_ERR_PEER_TERMINATED', 'ECONNRESET', 'EPIPE']) {
      expect(quiesceDelayMs(code, controller), code).to.equal(250);
      expect(quiesceDelayMs(code, { ...controller, cqt: 0 }), code).to.equal(1000);
    }
    for (const code of ['NVMEOF_ERR_TIMEOUT', 'ETIMEDOUT', 'NVMEOF_ERR_RESET', 'NVMEOF_ERR_PROTOCOL', undefined]) {
      expect(quiesceDelayMs(code, controller), code).to.equal(4250);
      expect(quiesceDelayMs(code, { ...controller, ctratt: 0x40 }), code).to.equal(8250);
      expect(quiesceDelayMs(code, { ...controller, katoMs: 0 }), code).to.be.at.least(10_000);
    }
  });
});

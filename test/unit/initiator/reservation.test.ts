/** Reservations of the host side against a scripted controller: what is sent, and what becomes of odd answers. */
import { expect } from 'chai';
import { HostController } from '../../../src/initiator/controller.ts';
import type { ReservationNotice } from '../../../src/initiator/reservation.ts';
import { type HostPdu, pdu, ScriptedController, ScriptedTarget } from '../../support/scripted-target.ts';
import { rejection, settle, until } from './support.ts';

describe('reservations of the host', () => {
  let target: ScriptedTarget;
  let peer: ScriptedController;
  let controller: HostController;
  const commands: HostPdu[] = [];
  /** Answers to reservation commands and to Get Log Page 80h. */
  let answer: (command: HostPdu) => Buffer | number;

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    peer = new ScriptedController(target, { oncs: 0x20 });
    commands.length = 0;
    answer = () => 0;
    peer.override = (command, connection, qid) => {
      const isLog = qid === 0 && command.opcode === 0x02 && (command.cdw(10) & 0xff) === 0x80;
      if (!isLog && (qid === 0 || ![0x0d, 0x0e, 0x11, 0x15].includes(command.opcode))) return false;
      commands.push(command);
      const given = answer(command);
      if (typeof given === 'number') connection.send(pdu.capsuleResp(command.cid, { status: given }));
      else
        connection.send(pdu.c2hData(command.cid, given.subarray(0, command.sglLength)), pdu.capsuleResp(command.cid));
      return true;
    };
    controller = await HostController.connect({
      address: '127.0.0.1',
      port: target.port,
      subnqn: 'nqn.2024-01.test:sub',
      katoMs: 0,
    });
  });
  afterEach(async () => {
    await controller.close();
    await target.close();
  });

  it('register, acquire and release: every field in its place', async () => {
    const namespace = await controller.namespace(1);
    await namespace.reservationRegister({
      action: 2,
      currentKey: 0x11n,
      newKey: 0x22n,
      ignoreExistingKey: true,
      persistence: 3,
      dispersed: true,
    });
    await namespace.reservationAcquire({ action: 1, type: 6, currentKey: 0x11n, preemptKey: 0x33n });
    await namespace.reservationRelease({ action: 1, type: 2, currentKey: 0x11n });
    expect(commands.map(({ opcode }) => opcode)).to.deep.equal([0x0d, 0x11, 0x15]);
    expect(commands.map((command) => command.cdw(10) >>> 0)).to.deep.equal([0xc000_001a, 0x0601, 0x0201]);
    expect(commands.map(({ data }) => data.toString('hex'))).to.deep.equal([
      '11000000000000002200000000000000',
      '11000000000000003300000000000000',
      '1100000000000000',
    ]);
  });

  it('a status other than success rejects with its name', async () => {
    answer = () => 0x4083;
    const error = await rejection((await controller.namespace(1)).reservationRegister({ newKey: 1n }));
    expect(error).to.include({ code: 'NVMEOF_ERR_STATUS', status: 0x4083 });
    expect(error.message).to.equal('Reservation Register of namespace 1 failed: Reservation Conflict (0x4083)');
  });

  const statusOf = (count: number, header = 64, entry = 64): Buffer => {
    const bytes = Buffer.alloc(header + count * entry);
    bytes.writeUInt16LE(count, 5);
    for (let i = 0; i < count; i++) bytes.writeUInt16LE(i, header + i * entry);
    return bytes;
  };

  it('a report that is longer than expected is read again, all of it', async () => {
    answer = () => statusOf(100);
    const { registrants } = await (await controller.namespace(1)).reservationReport();
    expect(registrants.map(({ cntlid }) => cntlid)).to.deep.equal(Array.from({ length: 100 }, (_, i) => i));
    expect(commands.map((command) => (command.cdw(10) + 1) * 4)).to.deep.equal([64 * 17, 64 * 101]);
  });

  it('a controller that knows 64-bit host identifiers: the other structure', async () => {
    answer = (command) => ((command.cdw(11) & 1) === 1 ? 0x18 : statusOf(2, 24, 24));
    const report = await (await controller.namespace(1)).reservationReport();
    expect(report).to.include({ extended: false, regctl: 2 });
    expect(report.registrants[0]!.hostid.length).to.equal(8);
    const error = await rejection((await controller.namespace(1)).reservationReport({ extended: true }));
    expect(error.status).to.equal(0x18);
  });

  describe('notices', () => {
    const page = (count: number, type: number, left: number): Buffer => {
      const bytes = Buffer.alloc(64);
      bytes.writeBigUInt64LE(BigInt(count), 0);
      bytes.writeUInt8(type, 8);
      bytes.writeUInt8(left, 9);
      bytes.writeUInt32LE(7, 12);
      return bytes;
    };

    it('an event: pages are read until none is left, each becomes a notice', async () => {
      const pages = [page(1, 1, 2), page(2, 2, 1), page(3, 3, 0)];
      answer = () => pages.shift() ?? page(0, 0, 0);
      const notices: ReservationNotice[] = [];
      controller.on('reservationNotice', (notice) => notices.push(notice));
      await until(() => peer.event(0x0080_0006), 'an AER');
      await until(() => notices.length === 3, 'three notices');
      expect(notices).to.deep.equal([1, 2, 3].map((n) => ({ nsid: 7, type: n, count: BigInt(n) })));
      expect(
        commands.every((command) => (command.cdw(10) & 0x8000) === 0),
        'RAE 0',
      ).to.equal(true);
    });

    it('a controller that never runs out of pages is not followed for ever', async () => {
      let count = 0;
      answer = () => page(++count, 1, 255);
      await until(() => peer.event(0x0080_0006), 'an AER');
      await until(() => count === 256, '256 pages');
      await settle(20);
      expect(count).to.equal(256);
    });

    it('a log that cannot be read: the connection stays', async () => {
      answer = () => 0x4109;
      await until(() => peer.event(0x0080_0006), 'an AER');
      await until(() => commands.length === 1, 'the log is asked for');
      await settle();
      expect(controller.state).to.equal('live');
    });
  });
});

/** The command on targets that are broken on purpose: the case that is about it fails, and says so. */
import { expect } from 'chai';
import type { CaseResult } from '../../../src/conformance/case.ts';
import type { PeerOptions } from '../../../src/conformance/peer.ts';
import { runTargetCases } from '../../../src/conformance/target-run.ts';
import { pdu, ScriptedController, ScriptedTarget } from '../../support/scripted-target.ts';

const HOSTS = [1, 2].map((n) => ({
  hostnqn: `nqn.2026-01.test.nvmeferry:host-${n}`,
  hostid: new Uint8Array(16).fill(n),
})) as unknown as PeerOptions['hosts'];

describe('conformance command on broken targets', () => {
  let target: ScriptedTarget;
  let controller: ScriptedController;
  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    controller = new ScriptedController(target);
  });
  afterEach(() => target.close());

  async function run(id: string, more: { peer?: 'nvmet'; answerMs?: number } = {}): Promise<CaseResult> {
    const { results } = await runTargetCases({
      address: '127.0.0.1',
      port: target.port,
      subnqn: 'nqn.2026-01.test.nvmeferry:scripted',
      hosts: HOSTS,
      nsid: undefined,
      deniedHostnqn: undefined,
      answerMs: more.answerMs ?? 2000,
      elapse: async () => {},
      operator: undefined,
      only: [id],
      skip: [],
      allowWrites: true,
      allowDestroy: true,
      slow: true,
      caseTimeoutMs: 5000,
      peer: more.peer ?? 'none',
    });
    return results[0]!;
  }

  async function expectFailure(id: string, reason: RegExp, more: { answerMs?: number } = {}): Promise<void> {
    const result = await run(id, more);
    expect(result.verdict, result.reason).to.equal('fail');
    expect(result.reason).to.match(reason);
  }

  it('a target that does as it should passes', async () => {
    for (const id of ['tcp-1', 'nvme-25', 'nvme-28']) expect((await run(id)).verdict, id).to.equal('pass');
  });

  it('Property Get of what does not exist succeeds: nvme-2', () =>
    expectFailure('nvme-2', /Property Get of offset 4h: found 0x000 Success.*, needed 0x002/));

  it('CNTLID of Identify is another one: nvme-25', async () => {
    controller.override = (command, connection, qid) => {
      if (qid !== 0 || command.opcode !== 0x06 || command.cdw(10) !== 1) return false;
      const data = controller.identify(1, 0);
      data.writeUInt16LE(77, 78);
      connection.send(pdu.c2hData(command.cid, data), pdu.capsuleResp(command.cid));
      return true;
    };
    await expectFailure('nvme-25', /CNTLID: found 77, needed 1/);
  });

  it('an ICReq with HPDA 32 is accepted: tcp-7', () =>
    expectFailure('tcp-7', /HPDA 32: answered by ICResp, needed C2HTermReq FES 1 FEI 10/));

  it('the wrong FEI: tcp-7', async () => {
    target.onConnection = (connection) => {
      connection.handler = (request) => {
        if (request.type === 0) {
          connection.send(request.bytes[10]! > 31 ? pdu.c2hTermReq(1, 11) : pdu.icResp());
          return true;
        }
        return false;
      };
    };
    const plain = target.onConnection;
    new ScriptedController(target);
    const served = target.onConnection;
    target.onConnection = (connection) => {
      served(connection);
      const serve = connection.handler!;
      plain(connection);
      const refuse = connection.handler!;
      connection.handler = (request, self) => refuse(request, self) || serve(request, self);
    };
    await expectFailure('tcp-7', /found C2HTermReq FES 1 FEI 11, needed FES 1 FEI 10/);
  });

  it('a close without C2HTermReq fails, unless the peer is known for it', async () => {
    const served = target.onConnection!;
    target.onConnection = (connection) => {
      served(connection);
      const serve = connection.handler!;
      connection.handler = (request, self) => {
        if (request.type !== 0 || request.bytes[10]! <= 31) return serve(request, self);
        connection.destroy();
        return true;
      };
    };
    await expectFailure('tcp-7', /closed without C2HTermReq/);
    const known = await run('tcp-7', { peer: 'nvmet' });
    expect([known.verdict, known.because]).to.satisfy(([verdict, because]: string[]) => verdict === 'quirk' && because);
  });

  it('no answer at all: fail by time', async () => {
    controller.override = (command, _connection, qid) => qid === 0 && command.opcode === 0x7f && command.cdw(11) === 4;
    await expectFailure('nvme-2', /Property Get: nothing within 100 ms/, { answerMs: 100 });
  });

  it('a read that has fewer bytes than asked for: tcp-68', async () => {
    controller.override = (command, connection, qid) => {
      if (qid === 0 || command.opcode !== 2) return false;
      connection.send(pdu.c2hData(command.cid, new Uint8Array(512)), pdu.capsuleResp(command.cid));
      return true;
    };
    await expectFailure('tcp-68', /bytes read: found 512, needed/);
  });

  it('two controllers are not offered what they do not advertise: not applicable', async () => {
    expect((await run('nvme-45')).verdict).to.equal('not-applicable');
    expect((await run('nvme-57')).verdict).to.equal('not-applicable');
  });

  it('Connect is refused in the middle of a run: inconclusive', async () => {
    let connects = 0;
    controller.override = (command, connection) => {
      if (command.opcode !== 0x7f || command.fctype !== 1 || ++connects === 1) return false;
      connection.send(pdu.capsuleResp(command.cid, { status: 0x181 }));
      return true;
    };
    const result = await run('nvme-2');
    expect([result.verdict, result.reason]).to.deep.equal([
      'inconclusive',
      'admin Connect was refused: 0x181 Connect Controller Busy',
    ]);
  });
});

/** Connect: the failure matrix (sheet of commands, 4.2) and checklist lines 8 to 15. Numbers in case names are the checklist's. */
import { expect } from 'chai';
import {
  type Completion,
  type ConnectFields,
  connectData,
  connectSqe,
  HOST_NQN,
  pattern,
  type RawHost,
  sqeBytes,
} from '../support/raw-host.ts';
import { DISCOVERY_NQN, SUBSYSTEM_NQN, TestTarget, type TestTargetOptions } from '../support/test-target.ts';

const Connect = { IncompatibleFormat: 0x180, ControllerBusy: 0x181, InvalidParameters: 0x182, InvalidHost: 0x184 };
const COMMAND_SEQUENCE_ERROR = 0x0c;
const SGL_LENGTH_INVALID = 0x0f;
const KEEP_ALIVE_INVALID = 0x1a;
const IN_DATA = 0x10000;
const CNTLID = IN_DATA | 16;
const SUBNQN = IN_DATA | 256;
const HOSTNQN = IN_DATA | 512;

describe('conformance: Connect failure matrix', () => {
  let t: TestTarget;
  async function start(options: TestTargetOptions = {}): Promise<void> {
    t = await TestTarget.start(options);
  }
  afterEach(() => t.close());

  async function connect(fields: ConnectFields & { host?: RawHost } = {}): Promise<Completion> {
    const host = fields.host ?? (await t.initialized());
    return host.connectQueue({ subnqn: SUBSYSTEM_NQN, ...fields });
  }
  /** The host tries again on the same connection, rightly this time. */
  async function expectUsable(host: RawHost): Promise<void> {
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
  }

  const refusals: [string, ConnectFields, number, number][] = [
    ['8: RECFMT 1', { recfmt: 1 }, Connect.IncompatibleFormat, 0],
    ['9: QID 0 with CNTLID 1 on a dynamic subsystem', { cntlid: 1 }, Connect.InvalidParameters, CNTLID],
    ['9: CNTLID FFFEh on a dynamic subsystem', { cntlid: 0xfffe }, Connect.InvalidParameters, CNTLID],
    ['CNTLID FFF0h', { cntlid: 0xfff0 }, Connect.InvalidParameters, CNTLID],
    ['CNTLID FFFDh', { cntlid: 0xfffd }, Connect.InvalidParameters, CNTLID],
    ['10: unknown SUBNQN', { subnqn: 'nqn.2024-01.org.example:none' }, Connect.InvalidParameters, SUBNQN],
    ['10: SUBNQN in other case', { subnqn: SUBSYSTEM_NQN.toUpperCase() }, Connect.InvalidParameters, SUBNQN],
    ['10: empty SUBNQN', { subnqn: '' }, Connect.InvalidParameters, SUBNQN],
    ['SUBNQN without NUL', { edit: (data) => data.fill(0x61, 256, 512) }, Connect.InvalidParameters, SUBNQN],
    ['SUBNQN of 224 bytes', { edit: (data) => data.fill(0x61, 256, 256 + 224) }, Connect.InvalidParameters, SUBNQN],
    ['SUBNQN that is no UTF-8', { edit: (data) => data.fill(0xff, 256, 260) }, Connect.InvalidParameters, SUBNQN],
    ['HOSTNQN without NUL', { edit: (data) => data.fill(0x61, 512, 768) }, Connect.InvalidParameters, HOSTNQN],
    ['HOSTNQN of 224 bytes', { edit: (data) => data.fill(0x61, 512, 512 + 224) }, Connect.InvalidParameters, HOSTNQN],
    ['HOSTNQN that is no UTF-8', { edit: (data) => data.fill(0xc0, 512, 516) }, Connect.InvalidParameters, HOSTNQN],
    ['11: SQSIZE 0', { sqsize: 0 }, Connect.InvalidParameters, 44],
    ['SQSIZE over the limit of the admin queue', { sqsize: 4096 }, Connect.InvalidParameters, 44],
    ['SQSIZE FFFFh', { sqsize: 0xffff }, Connect.InvalidParameters, 44],
    ['QID 1 with a CNTLID nobody has', { qid: 1, cntlid: 77 }, Connect.InvalidParameters, CNTLID],
    ['QID 1 with CNTLID FFFFh', { qid: 1, cntlid: 0xffff }, Connect.InvalidParameters, CNTLID],
    ['QID 1 on a discovery subsystem', { qid: 1, subnqn: DISCOVERY_NQN }, Connect.InvalidParameters, CNTLID],
    ['CNTLID 1 on the discovery subsystem', { cntlid: 1, subnqn: DISCOVERY_NQN }, Connect.InvalidParameters, CNTLID],
  ];
  for (const [name, fields, code, dw0] of refusals) {
    it(`${name}: ${code.toString(16)}h, DNR, DW0 ${dw0.toString(16).padStart(8, '0')}h`, async () => {
      await start();
      const host = await t.initialized();
      const completion = await connect({ host, ...fields });
      expect({
        code: completion.code,
        dnr: completion.dnr,
        more: completion.more,
        dw0: completion.result0,
      }).to.deep.equal({ code, dnr: true, more: false, dw0 });
      expect([...t.subsystem.controllers].length, 'controllers').to.equal(0);
      await expectUsable(host);
    });
  }

  it('12: a host that is not on the list: 84h DNR', async () => {
    await start({ subsystem: { allowAnyHost: false, hosts: ['nqn.2024-01.org.example:friend'] } });
    const refused = await connect();
    expect([refused.code, refused.dnr, refused.result0]).to.deep.equal([Connect.InvalidHost, true, HOSTNQN]);
    expect((await connect({ hostnqn: 'nqn.2024-01.org.example:friend' })).status).to.equal(0);
  });

  it('a HOSTNQN of 223 bytes is accepted', async () => {
    await start();
    expect((await connect({ hostnqn: `nqn.2024-01.org.example:${'h'.repeat(199)}` })).status).to.equal(0);
  });

  it('12: an empty HOSTNQN matches no list, only "any host"', async () => {
    await start({ subsystem: { allowAnyHost: false, hosts: [HOST_NQN] } });
    expect((await connect({ hostnqn: '' })).code).to.equal(Connect.InvalidHost);
    t.target.setHosts(t.subsystem, true, []);
    expect((await connect({ hostnqn: '' })).status).to.equal(0);
  });

  it('a host that is taken off the list is disconnected, others stay', async () => {
    await start({ subsystem: { allowAnyHost: false, hosts: [HOST_NQN, 'nqn.2024-01.org.example:friend'] } });
    const { admin, io } = await t.association();
    const friend = await t.admin({ hostnqn: 'nqn.2024-01.org.example:friend' });
    t.target.setHosts(t.subsystem, false, ['nqn.2024-01.org.example:friend']);
    await admin.expectClosed();
    await io.expectClosed();
    expect((await friend.csts()) & 1).to.equal(1);
    expect((await connect()).code).to.equal(Connect.InvalidHost);
  });

  it('a subsystem that the port does not expose is unknown there', async () => {
    await start({ port: { subsystems: [] } });
    expect((await connect()).result0).to.equal(SUBNQN);
    t.target.setPortSubsystems(t.port, [SUBSYSTEM_NQN]);
    expect((await connect()).status).to.equal(0);
  });

  it('static subsystem: ids by name, FFFEh for any, 81h if busy, 82h outside of the range', async () => {
    await start({ subsystem: { controllerModel: 'static', cntlidMin: 5, cntlidMax: 6 } });
    const first = await t.admin({ cntlid: 6 });
    expect(first.cntlid).to.equal(6);
    expect((await first.identify(1)).data.readUInt8(1802) & 1, 'FCATT').to.equal(1);
    const busy = await connect({ cntlid: 6 });
    expect([busy.code, busy.result0]).to.deep.equal([Connect.ControllerBusy, 0]);
    expect(busy.dnr, 'it may be free later').to.equal(false);
    for (const cntlid of [4, 7, 0xffff, 0xfff0]) {
      const refused = await connect({ cntlid });
      expect([refused.code, refused.result0], `CNTLID ${cntlid}`).to.deep.equal([Connect.InvalidParameters, CNTLID]);
    }
    expect((await connect({ cntlid: 0xfffe })).result0).to.equal(5);
    expect((await connect({ cntlid: 0xfffe })).code).to.equal(Connect.ControllerBusy);
    first.destroy();
    await t.until(() => t.subsystem.controller(6) === undefined);
    expect((await connect({ cntlid: 6 })).result0).to.equal(6);
  });

  it('no free controller: 81h without DNR; free again after a disconnect', async () => {
    await start({ subsystem: { controllersMax: 2 } });
    const one = await t.admin();
    await t.admin();
    const busy = await connect();
    expect([busy.code, busy.dnr, busy.result0]).to.deep.equal([Connect.ControllerBusy, false, 0]);
    one.destroy();
    await t.until(() => [...t.subsystem.controllers].length === 1);
    expect((await connect()).status).to.equal(0);
  });

  it('a CNTLID is not used again at once', async () => {
    await start();
    const seen = new Set<number>();
    for (let i = 0; i < 20; i++) {
      const admin = await t.admin({ enable: false });
      expect(seen.has(admin.cntlid)).to.equal(false);
      seen.add(admin.cntlid);
      admin.destroy();
      await t.until(() => t.connectionCount === 0);
    }
  });

  it('13: I/O Connect with another HOSTNQN: 82h, DW0 names CNTLID', async () => {
    await start();
    const admin = await t.admin();
    const completion = await connect({ qid: 1, cntlid: admin.cntlid, hostnqn: 'nqn.2024-01.org.example:other' });
    expect([completion.code, completion.result0]).to.deep.equal([Connect.InvalidParameters, CNTLID]);
  });

  it('I/O Connect with another HOSTID: 82h, DW0 names HOSTID; 0 is accepted', async () => {
    await start();
    const admin = await t.admin();
    const wrong = await connect({ qid: 1, cntlid: admin.cntlid, hostid: pattern(16, 3) });
    expect([wrong.code, wrong.result0]).to.deep.equal([Connect.InvalidParameters, IN_DATA]);
    expect((await connect({ qid: 1, cntlid: admin.cntlid, hostid: new Uint8Array(16) })).status).to.equal(0);
  });

  it('I/O Connect with the CNTLID of another subsystem: 82h', async () => {
    await start();
    const other = 'nqn.2024-01.org.example:other';
    t.target.addSubsystem({ nqn: other, allowAnyHost: true });
    const admin = await t.admin();
    const completion = await connect({ qid: 1, cntlid: admin.cntlid, subnqn: other });
    expect([completion.code, completion.result0]).to.deep.equal([Connect.InvalidParameters, CNTLID]);
  });

  it('QID over the limit: 82h, DW0 names QID', async () => {
    await start({ subsystem: { ioQueuesMax: 2 } });
    const admin = await t.admin();
    for (const qid of [3, 0xffff]) {
      const completion = await connect({ qid, cntlid: admin.cntlid });
      expect([completion.code, completion.result0]).to.deep.equal([Connect.InvalidParameters, 42]);
    }
    expect((await connect({ qid: 2, cntlid: admin.cntlid })).status).to.equal(0);
  });

  it('QID over what Set Features 07h granted: 82h', async () => {
    await start();
    const admin = await t.admin();
    expect((await admin.setFeature(7, 0)).result0).to.equal(0);
    expect((await connect({ qid: 2, cntlid: admin.cntlid })).result0).to.equal(42);
    expect((await connect({ qid: 1, cntlid: admin.cntlid })).status).to.equal(0);
  });

  it('I/O Connect to a discovery controller: 82h, DW0 names QID', async () => {
    await start();
    const admin = await t.initialized();
    await admin.connectQueue({ subnqn: DISCOVERY_NQN });
    const completion = await connect({ qid: 1, cntlid: admin.cntlid, subnqn: DISCOVERY_NQN });
    expect([completion.code, completion.result0]).to.deep.equal([Connect.InvalidParameters, 42]);
  });

  it('I/O SQSIZE: CAP.MQES is accepted, one more is 82h', async () => {
    await start({ port: { queueEntriesMax: 64 } });
    const admin = await t.admin();
    expect((await admin.propertyGet(0, 8)).result0 & 0xffff, 'MQES').to.equal(63);
    expect((await connect({ qid: 1, cntlid: admin.cntlid, sqsize: 64 })).result0).to.equal(44);
    expect((await connect({ qid: 1, cntlid: admin.cntlid, sqsize: 63 })).status).to.equal(0);
  });

  it('14: two I/O Connects with one QID: Command Sequence Error', async () => {
    await start();
    const { admin, io } = await t.association();
    const second = await connect({ qid: 1, cntlid: admin.cntlid });
    expect([second.code, second.dnr]).to.deep.equal([COMMAND_SEQUENCE_ERROR, true]);
    expect((await io.read(0, 1)).status, 'the first queue').to.equal(0);
  });

  it('I/O Connect before CC.EN: Command Sequence Error', async () => {
    await start();
    const admin = await t.admin({ enable: false });
    expect((await connect({ qid: 1, cntlid: admin.cntlid })).code).to.equal(COMMAND_SEQUENCE_ERROR);
    await admin.enable();
    expect((await connect({ qid: 1, cntlid: admin.cntlid })).status).to.equal(0);
  });

  it('a second Connect on a live admin queue: Command Sequence Error, the first stays', async () => {
    await start();
    const admin = await t.admin();
    const again = await connect({ host: admin });
    expect(again.code).to.equal(COMMAND_SEQUENCE_ERROR);
    expect((await admin.identify(1)).status).to.equal(0);
    expect([...t.subsystem.controllers].length).to.equal(1);
  });

  it('a second Connect on a live I/O queue is refused, the first stays', async () => {
    await start();
    const { admin, io } = await t.association();
    const again = await io.connectQueue({ subnqn: SUBSYSTEM_NQN, qid: 2, cntlid: admin.cntlid });
    expect(again.code).to.be.oneOf([COMMAND_SEQUENCE_ERROR, 0x01, 0x02]);
    expect((await io.read(0, 1)).status).to.equal(0);
  });

  for (const [name, fields] of [
    ['Identify', { opcode: 6, cdw10: 1 }],
    ['Keep Alive', { opcode: 0x18 }],
    ['Property Get', { opcode: 0x7f, fctype: 4 }],
    ['Property Set', { opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: 0x460001 }],
    ['Disconnect', { opcode: 0x7f, fctype: 8 }],
    ['a reserved FCTYPE', { opcode: 0x7f, fctype: 0x3f }],
    ['an I/O Read', { opcode: 2, nsid: 1 }],
  ] as const) {
    it(`${name} as first command is refused, then Connect works`, async () => {
      await start();
      const host = await t.initialized();
      const completion = await host.command(fields, { readBytes: 4096 });
      expect(completion.code).to.be.oneOf([0x01, COMMAND_SEQUENCE_ERROR]);
      expect(completion.dnr).to.equal(true);
      expect(completion.data.length).to.equal(0);
      await expectUsable(host);
    });
  }

  for (const bytes of [1020, 1028, 512, 0, 4096]) {
    it(`data length ${bytes}: Data SGL Length Invalid, in and out of the capsule`, async () => {
      await start();
      const host = await t.initialized();
      const data = Buffer.concat([connectData({ subnqn: SUBSYSTEM_NQN }), Buffer.alloc(4096)]).subarray(0, bytes);
      for (const id of [0x01, 0x5a]) {
        const sqe = connectSqe({}, 7, 'capsule');
        sqe.writeUInt32LE(bytes, 32);
        sqe.writeUInt8(id, 39);
        const done = host.completion(7);
        await host.send(host.capsule(sqe, id === 1 ? data : undefined));
        expect((await done).code).to.equal(SGL_LENGTH_INVALID);
      }
      await expectUsable(host);
    });
  }

  it('KATO too large: Keep Alive Timeout Invalid', async () => {
    await start();
    expect((await connect({ katoMs: 0xffff_ffff })).code).to.equal(KEEP_ALIVE_INVALID);
  });

  it('KATO 0 on an I/O controller is tolerated, and KATO of an I/O queue ignored', async () => {
    await start();
    const admin = await t.admin({ katoMs: 0 });
    expect((await admin.getFeature(0x0f)).result0).to.equal(0);
    await t.io(admin, { katoMs: 0xffff_ffff });
    expect((await admin.getFeature(0x0f)).result0).to.equal(0);
  });

  it('15: failed Connects leave no Error Information entry', async () => {
    await start();
    const { admin } = await t.association();
    for (const fields of [{ qid: 1, cntlid: admin.cntlid }, { sqsize: 0 }, { recfmt: 1 }, { subnqn: 'x' }]) {
      expect((await connect(fields)).status).to.not.equal(0);
    }
    const log = (await admin.logPage(1, 64)).data;
    expect(log.readBigUInt64LE(0)).to.equal(0n);
  });

  it('a success names the controller, asks for no authentication, and CNTLID is what Identify says', async () => {
    await start();
    const host = await t.initialized();
    const completion = await connect({ host });
    expect(completion.result0 >>> 16, 'AUTHREQ').to.equal(0);
    expect(completion.result1).to.equal(0);
    await host.enable();
    expect((await host.identify(1)).data.readUInt16LE(78)).to.equal(completion.result0 & 0xffff);
  });

  it('70: SQHD advances with flow control, wraps at the queue size', async () => {
    await start();
    const host = await t.initialized();
    expect((await connect({ host, sqsize: 4 })).sqhd).to.equal(1);
    const seen: (number | undefined)[] = [];
    for (let i = 0; i < 6; i++) seen.push((await host.propertyGet(8)).sqhd);
    expect(seen).to.deep.equal([2, 3, 4, 0, 1, 2]);
  });

  it('70: without flow control SQHD is FFFFh in the Connect response and 0 later', async () => {
    await start();
    const host = await t.initialized();
    expect((await connect({ host, cattr: 4 })).sqhd).to.equal(0xffff);
    expect((await host.propertyGet(8)).sqhd).to.equal(0);
    await host.enable();
    const io = await t.io(host, { cattr: 4 });
    expect((await io.command({ opcode: 0, nsid: 1 })).sqhd).to.equal(0);
  });

  it('queues of one controller may differ in flow control', async () => {
    await start();
    const { admin, io } = await t.association({ cattr: 4 });
    expect((await admin.identify(1)).sqhd).to.be.greaterThan(0);
    expect((await io.read(0, 1)).sqhd).to.equal(undefined);
  });

  it('a pipelined command right behind Connect is served by the connected queue', async () => {
    await start();
    const host = await t.initialized();
    const connected = host.completion(1);
    const property = host.completion(2);
    await host.send(
      host.capsule(connectSqe({}, 1, 'capsule'), connectData({ subnqn: SUBSYSTEM_NQN })),
      host.capsule(sqeBytes({ opcode: 0x7f, fctype: 4, cid: 2, cdw11: 8 })),
    );
    expect((await connected).status).to.equal(0);
    expect((await property).result0).to.equal(0x20100);
  });
});

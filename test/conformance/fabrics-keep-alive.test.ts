/** Keep alive by a clock that moves when told: sheet of commands 6, checklist lines 18 to 20. */
import { expect } from 'chai';
import { CC_ENABLE, type RawHost } from '../support/raw-host.ts';
import { DISCOVERY_NQN, SUBSYSTEM_NQN, settle, TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const Csts = { CFS: 2 };

describe('conformance: keep alive', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  /** Lets `ms` pass; true if the host still is connected. */
  async function alive(host: RawHost, ms: number): Promise<boolean> {
    t.clock.advance(ms);
    await settle();
    return !host.ended;
  }

  it('18: without any command the association ends with the timeout, and a new Connect is accepted', async () => {
    const admin = await t.admin({ katoMs: 5000 });
    const io = await t.io(admin);
    const controller = t.subsystem.controller(admin.cntlid)!;
    expect(await alive(admin, 5000), 'the commands of the set-up count').to.equal(true);
    expect(await alive(admin, 4999)).to.equal(true);
    t.clock.advance(1);
    await admin.expectClosed();
    await io.expectClosed();
    expect(controller.csts & Csts.CFS, 'CSTS.CFS').to.equal(Csts.CFS);
    expect(controller.errorLog.entries()[0]?.status, 'error log entry').to.equal(0x4019);
    expect(t.clock.timerCount).to.equal(0);
    expect((await (await t.admin({ katoMs: 5000 })).csts()) & 1).to.equal(1);
  });

  it('CTRATT says traffic based; 20: I/O traffic alone keeps the association', async () => {
    const admin = await t.admin({ katoMs: 5000 });
    expect((await admin.identify(1)).data.readUInt32LE(96) & 0x40).to.equal(0x40);
    expect((await admin.identify(1)).data.readUInt16LE(320), 'KAS').to.be.greaterThan(0);
    const io = await t.io(admin);
    for (let i = 0; i < 10; i++) {
      expect((await io.read(0, 1)).status).to.equal(0);
      expect(await alive(admin, 4999)).to.equal(true);
    }
  });

  it('Keep Alive alone keeps it, also a failing command does', async () => {
    const admin = await t.admin({ katoMs: 1000 });
    for (let i = 0; i < 10; i++) {
      expect((await admin.command({ opcode: 0x18 })).status).to.equal(0);
      expect(await alive(admin, 1000)).to.equal(true);
      expect((await admin.command({ opcode: 0xff })).code).to.equal(INVALID_OPCODE);
      expect(await alive(admin, 1000)).to.equal(true);
    }
  });

  it('KATO 0: never', async () => {
    const admin = await t.admin({ katoMs: 0 });
    expect(await alive(admin, 24 * 3600 * 1000)).to.equal(true);
  });

  it('the timer runs neither before CC.EN nor after a shutdown', async () => {
    const admin = await t.admin({ katoMs: 1000, enable: false });
    expect(await alive(admin, 60_000)).to.equal(true);
    await admin.enable();
    await admin.propertySet(0x14, CC_ENABLE | (1 << 14));
    expect(await alive(admin, 60_000)).to.equal(true);
  });

  it('19: Set Features above the limit: Keep Alive Timeout Invalid, old value kept', async () => {
    const admin = await t.admin({ katoMs: 5000 });
    expect((await admin.setFeature(0x0f, 0xffff_ffff)).code).to.equal(0x1a);
    expect((await admin.getFeature(0x0f)).result0).to.equal(5000);
  });

  it('Set Features rounds up to the granularity of KAS, and the new value counts', async () => {
    const admin = await t.admin({ katoMs: 60_000 });
    expect((await admin.setFeature(0x0f, 1001)).status).to.equal(0);
    const kas = (await admin.identify(1)).data.readUInt16LE(320) * 100;
    const value = (await admin.getFeature(0x0f)).result0;
    expect(value).to.equal(Math.ceil(1001 / kas) * kas);
    expect(await alive(admin, value)).to.equal(true);
    expect(await alive(admin, value)).to.equal(false);
  });

  it('Set Features 0 turns it off', async () => {
    const admin = await t.admin({ katoMs: 1000 });
    expect((await admin.setFeature(0x0f, 0)).status).to.equal(0);
    expect(await alive(admin, 3600_000)).to.equal(true);
  });

  it('Keep Alive on an I/O queue: Invalid Opcode', async () => {
    const { io } = await t.association();
    expect((await io.command({ opcode: 0x18 })).code).to.equal(INVALID_OPCODE);
  });

  it('a discovery controller with KATO 0 goes after two idle minutes, with KATO by its timer', async () => {
    const idle = await t.initialized();
    await idle.connectQueue({ subnqn: DISCOVERY_NQN });
    await idle.enable();
    const persistent = await t.initialized();
    await persistent.connectQueue({ subnqn: DISCOVERY_NQN, katoMs: 300_000 });
    await persistent.enable();
    expect(await alive(idle, 120_000), 'active until now').to.equal(true);
    expect(await alive(idle, 120_000)).to.equal(false);
    expect(persistent.ended).to.equal(false);
    expect(await alive(persistent, 600_000)).to.equal(false);
  });

  it('associations expire one by one', async () => {
    const one = await t.admin({ katoMs: 1000 });
    const two = await t.admin({ katoMs: 10_000 });
    t.clock.advance(1000);
    t.clock.advance(1000);
    await one.expectClosed();
    expect((await two.identify(1)).status).to.equal(0);
    expect([...t.subsystem.controllers].map((controller) => controller.cntlid)).to.deep.equal([two.cntlid]);
    const connect = await (await t.initialized()).connectQueue({ subnqn: SUBSYSTEM_NQN });
    expect(connect.status).to.equal(0);
  });
});

/** Properties, the controller's state machine and keep alive: sheet of commands 4.3, 5 and 6, checklist lines 1 to 7, 17 to 20, 68, 69. */
import { expect } from 'chai';
import { CC_ENABLE } from '../support/raw-host.ts';
import { settle, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_OPCODE = 0x01;
const COMMAND_SEQUENCE_ERROR = 0x0c;
const Property = { CAP: 0x00, VS: 0x08, CC: 0x14, CSTS: 0x1c, NSSR: 0x20, CRTO: 0x68 };
const Csts = { RDY: 1, CFS: 2, SHST: 0x0c, SHST_COMPLETE: 0x08 };

describe('conformance: properties and controller state', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  it('properties have the values the sheet says, with their exact widths', async () => {
    const admin = await t.admin({ enable: false });
    const cap = await admin.propertyGet(Property.CAP, 8);
    expect(cap.status).to.equal(0);
    const value = BigInt(cap.result0) | (BigInt(cap.result1) << 32n);
    expect(Number(value & 0xffffn), 'MQES').to.equal(1023);
    expect(Number((value >> 16n) & 1n), 'CQR').to.equal(1);
    expect(Number((value >> 24n) & 0xffn), 'TO').to.be.greaterThan(0);
    expect(Number((value >> 37n) & 0xffn) & 1, 'CSS: NVM command set').to.equal(1);
    expect(Number((value >> 48n) & 0xfn), 'MPSMIN').to.equal(0);
    expect((await admin.propertyGet(Property.VS)).result0, 'VS').to.equal(0x20100);
    expect((await admin.propertyGet(Property.CC)).result0, 'CC').to.equal(0);
    expect((await admin.propertyGet(Property.CSTS)).result0, 'CSTS').to.equal(0);
    const crto = await admin.propertyGet(Property.CRTO);
    expect(crto.result0 & 0xffff, 'CRWMT, as CAP.CRMS says it exists').to.be.greaterThan(0);
  });

  for (const [line, name, offset, bytes] of [
    ['2', 'offset 4h', 0x04, 4],
    ['3', 'CAP with 4 bytes', Property.CAP, 4],
    ['2', 'VS with 8 bytes', Property.VS, 8],
    ['2', 'CC with 8 bytes', Property.CC, 8],
    ['2', 'NSSR (not supported)', Property.NSSR, 4],
    ['2', 'an admin queue attribute', 0x24, 4],
    ['2', 'offset FFFFFFFFh', 0xffff_ffff, 4],
    ['2', 'an unaligned offset', 0x15, 4],
  ] as const) {
    it(`${line}: Property Get of ${name}: Invalid Field`, async () => {
      const admin = await t.admin({ enable: false });
      const completion = await admin.propertyGet(offset, bytes);
      expect([completion.code, completion.dnr]).to.deep.equal([INVALID_FIELD, true]);
    });
  }

  it('2: a reserved property size is Invalid Field', async () => {
    const admin = await t.admin({ enable: false });
    for (const size of [2, 3, 7]) {
      const get = { opcode: 0x7f, fctype: 4, cdw10: size, cdw11: Property.VS };
      expect((await admin.command(get)).code).to.equal(INVALID_FIELD);
      const set = { opcode: 0x7f, fctype: 0, cdw10: size, cdw11: Property.CC, cdw12: CC_ENABLE };
      expect((await admin.command(set)).code).to.equal(INVALID_FIELD);
    }
  });

  for (const [name, offset, bytes] of [
    ['CSTS', Property.CSTS, 4],
    ['CAP', Property.CAP, 8],
    ['VS', Property.VS, 4],
    ['CC with 8 bytes', Property.CC, 8],
    ['NSSR', Property.NSSR, 4],
    ['an unknown offset', 0x1000, 4],
  ] as const) {
    it(`4: Property Set of ${name}: Invalid Field, nothing changes`, async () => {
      const admin = await t.admin();
      expect((await admin.propertySet(offset, 0x4e56_4d65, bytes)).code).to.equal(INVALID_FIELD);
      expect((await admin.csts()) & 3).to.equal(Csts.RDY);
      expect((await admin.propertyGet(Property.CC)).result0).to.equal(CC_ENABLE);
    });
  }

  it('1: Admin commands with CC.EN = 0: Command Sequence Error; Fabrics commands work', async () => {
    const admin = await t.admin({ enable: false });
    for (const opcode of [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18, 0xff]) {
      const completion = await admin.command({ opcode, cdw10: 1 }, { readBytes: 4096 });
      expect([completion.code, completion.data.length], `opcode ${opcode}`).to.deep.equal([COMMAND_SEQUENCE_ERROR, 0]);
    }
    await admin.enable();
    expect((await admin.identify(1)).status).to.equal(0);
  });

  for (const [name, cc] of [
    ['IOSQES 0', 0x0040_0001],
    ['IOCQES 0', 0x0006_0001],
    ['IOSQES 7', 0x0047_0001],
    ['MPS 1', CC_ENABLE | 0x80],
    ['AMS 1', CC_ENABLE | 0x800],
    ['CSS 001b', CC_ENABLE | 0x10],
  ] as const) {
    it(`5: CC.EN with ${name}: CFS, never RDY; reset and enable again work`, async () => {
      const admin = await t.admin({ enable: false });
      expect((await admin.propertySet(Property.CC, cc)).status).to.equal(0);
      expect((await admin.csts()) & 3).to.equal(Csts.CFS);
      expect((await admin.identify(1)).code).to.equal(COMMAND_SEQUENCE_ERROR);
      await admin.propertySet(Property.CC, 0);
      expect((await admin.csts()) & 3).to.equal(0);
      await admin.enable();
    });
  }

  for (const [name, shn] of [
    ['01b (normal)', 1],
    ['10b (abrupt)', 2],
  ] as const) {
    it(`6: CC.SHN = ${name}: SHST 10b, Admin and I/O commands are refused, Fabrics commands and connections stay`, async () => {
      const { admin, io } = await t.association();
      await admin.propertySet(Property.CC, CC_ENABLE | (shn << 14));
      expect((await admin.csts()) & Csts.SHST).to.equal(Csts.SHST_COMPLETE);
      expect((await admin.identify(1)).code).to.equal(COMMAND_SEQUENCE_ERROR);
      expect((await io.read(0, 1)).code).to.equal(COMMAND_SEQUENCE_ERROR);
      expect((await admin.propertyGet(Property.VS)).status).to.equal(0);
      await settle();
      expect([admin.ended, io.ended]).to.deep.equal([false, false]);
      // clearing SHN alone does not bring it back; a reset does
      await admin.propertySet(Property.CC, CC_ENABLE);
      expect((await admin.identify(1)).code).to.equal(COMMAND_SEQUENCE_ERROR);
      await admin.propertySet(Property.CC, 0);
      await admin.enable();
      expect((await admin.identify(1)).status).to.equal(0);
    });
  }

  it('6: after a shutdown with EN = 0, one write of EN = 1 with SHN = 00b starts it again', async () => {
    const admin = await t.admin();
    await admin.propertySet(Property.CC, CC_ENABLE | (1 << 14));
    await admin.propertySet(Property.CC, 0);
    await admin.propertySet(Property.CC, 1 << 14);
    expect((await admin.csts()) & Csts.SHST).to.equal(Csts.SHST_COMPLETE);
    await admin.enable();
    expect((await admin.csts()) & Csts.SHST).to.equal(0);
  });

  it('7: CC.EN 1 -> 0: RDY 0, I/O queues gone, and again on the same connection', async () => {
    const { admin, io, controller } = await t.association();
    for (let round = 0; round < 3; round++) {
      const queue = round === 0 ? io : await t.io(admin);
      await admin.propertySet(Property.CC, 0);
      expect(await admin.csts()).to.equal(0);
      expect((await admin.propertyGet(Property.CC)).result0).to.equal(0);
      await queue.expectClosed();
      expect(controller.ioQueueCount).to.equal(0);
      await admin.enable();
    }
    expect((await (await t.io(admin)).read(0, 1)).status).to.equal(0);
    expect((await admin.identify(1)).data.readUInt16LE(78)).to.equal(admin.cntlid);
  });

  it('7: a reset makes AERs vanish without an answer, and features fall back', async () => {
    const admin = await t.admin();
    const aer = [admin.command({ opcode: 0x0c, cid: 100 }), admin.command({ opcode: 0x0c, cid: 101 })];
    let answered = 0;
    for (const one of aer)
      one.then(
        () => answered++,
        () => {},
      );
    await admin.setFeature(0x0b, 0x100);
    await admin.setFeature(0x01, 0x03);
    await admin.setFeature(0x04, 0x111);
    await admin.setFeature(0x07, 0x0001_0001);
    await admin.propertySet(Property.CC, 0);
    await admin.enable();
    expect((await admin.getFeature(0x0b)).result0).to.equal(0);
    expect((await admin.getFeature(0x01)).result0).to.equal(0x07);
    expect((await admin.getFeature(0x04)).result0).to.equal(0x157);
    expect((await admin.getFeature(0x07)).result0, 'queues').to.equal(0x007f_007f);
    // the slots and CIDs of the AERs are free: as many as the queue holds go at once
    const all = Array.from({ length: 32 }, (_, i) => admin.command({ opcode: 0x18, cid: 90 + i }));
    for (const completion of await Promise.all(all)) expect(completion.status).to.equal(0);
    expect(answered, 'answers to the old AERs').to.equal(0);
    expect(admin.ended).to.equal(false);
  });

  it('7: a reset with I/O in flight frees it, and the answer of the backend goes nowhere', async () => {
    await t.close();
    const { CopyBackend } = await import('../support/test-target.ts');
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    const { admin, io } = await t.association();
    void io.read(0, 8);
    void io.write(0, Buffer.alloc(4096), { by: 'r2t' });
    await t.until(() => backend.held.length === 2);
    await admin.propertySet(Property.CC, 0);
    await io.untilEnded();
    await t.until(() => t.connectionCount === 1);
    backend.release();
    expect(t.target.pool.usedBytes).to.equal(0);
    await admin.enable();
  });

  it('not enabled within two minutes: the association goes', async () => {
    const admin = await t.admin({ enable: false });
    t.clock.advance(119_999);
    await settle();
    expect(admin.ended).to.equal(false);
    t.clock.advance(1);
    await admin.expectClosed();
  });

  it('the two minutes start again with a reset, and stop with an enable', async () => {
    const admin = await t.admin();
    t.clock.advance(200_000);
    await admin.propertySet(Property.CC, 0);
    t.clock.advance(119_999);
    await settle();
    expect(admin.ended).to.equal(false);
    await admin.enable();
    t.clock.advance(200_000);
    await settle();
    expect(admin.ended).to.equal(false);
  });

  it('17: Disconnect: Invalid Queue Type on the admin queue; not supported on I/O queues', async () => {
    const { admin, io } = await t.association();
    const onAdmin = await admin.command({ opcode: 0x7f, fctype: 8 });
    expect([onAdmin.code, onAdmin.dnr]).to.deep.equal([0x185, true]);
    expect((await admin.identify(1)).data.readUInt16LE(1804), 'OFCS').to.equal(0);
    expect((await io.command({ opcode: 0x7f, fctype: 8 })).code).to.be.oneOf([INVALID_OPCODE, INVALID_FIELD]);
    expect((await io.read(0, 1)).status).to.equal(0);
  });

  it('68: reserved and unsupported FCTYPEs: Invalid Field', async () => {
    const admin = await t.admin();
    for (const fctype of [0x02, 0x03, 0x05, 0x06, 0x07, 0x09, 0x3f, 0xc0, 0xff]) {
      expect((await admin.command({ opcode: 0x7f, fctype })).code, `FCTYPE ${fctype}`).to.equal(INVALID_FIELD);
    }
  });

  it('69: Create and Delete I/O queue commands: Invalid Opcode', async () => {
    const admin = await t.admin();
    for (const opcode of [0x00, 0x01, 0x04, 0x05, 0x7c]) {
      expect((await admin.command({ opcode })).code, `opcode ${opcode}`).to.equal(INVALID_OPCODE);
    }
  });

  it('every Admin opcode that the effects log does not name is Invalid Opcode; every one it names is not', async () => {
    const admin = await t.admin();
    const effects = (await admin.logPage(5, 4096)).data;
    for (let opcode = 0; opcode < 256; opcode++) {
      if (opcode === 0x7f || opcode === 0x0c) continue;
      const supported = (effects.readUInt32LE(opcode * 4) & 1) === 1;
      const completion = await admin.command({ opcode, nsid: 0xffff_fff0 }, { readBytes: 4096 });
      expect(completion.code !== INVALID_OPCODE, `opcode ${opcode.toString(16)}h`).to.equal(supported);
    }
    for (const opcode of [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18]) {
      expect(effects.readUInt32LE(opcode * 4) & 1, `mandatory opcode ${opcode}`).to.equal(1);
    }
  });
});

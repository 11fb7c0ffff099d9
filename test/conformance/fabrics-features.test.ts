/** Features: sheet of commands 9; checklist numbers in case names. */
import { expect } from 'chai';
import type { RawHost } from '../support/raw-host.ts';
import { CopyBackend, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const COMMAND_SEQUENCE_ERROR = 0x0c;
const ALL = 0xffff_ffff;

describe('conformance: features', () => {
  let t: TestTarget;
  let admin: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start({ subsystem: { ioQueuesMax: 8 } });
    admin = await t.admin();
  });
  afterEach(() => t.close());

  it('37: Set Features 07h with FFFFh: Invalid Field', async () => {
    for (const value of [ALL, 0xffff, 0xffff_0000]) {
      expect((await admin.setFeature(7, value)).code).to.equal(INVALID_FIELD);
    }
    expect((await admin.getFeature(7)).result0).to.equal(0x0007_0007);
  });

  it('07h: the grant is what is asked for, at most what there is; after an I/O Connect: Command Sequence Error', async () => {
    expect((await admin.setFeature(7, 0x0003_0003)).result0).to.equal(0x0003_0003);
    expect((await admin.setFeature(7, 0x00ff_00ff)).result0).to.equal(0x0007_0007);
    expect((await admin.getFeature(7)).result0).to.equal(0x0007_0007);
    await t.io(admin);
    expect((await admin.setFeature(7, 0x0003_0003)).code).to.equal(COMMAND_SEQUENCE_ERROR);
  });

  it('38: Set Features 81h: Command Sequence Error; 93: with EXHID 0: Invalid Field', async () => {
    expect((await admin.setFeature(0x81, 1, { data: new Uint8Array(16) })).code).to.equal(COMMAND_SEQUENCE_ERROR);
    expect((await admin.setFeature(0x81, 0, { data: new Uint8Array(8) })).code).to.equal(INVALID_FIELD);
  });

  it('Get Features 81h gives the Host Identifier of Connect, with EXHID only', async () => {
    const { data } = await admin.getFeature(0x81, { cdw11: 1, readBytes: 16 });
    expect([...data]).to.deep.equal(Array.from({ length: 16 }, (_, i) => i + 0x10));
    expect((await admin.getFeature(0x81, { cdw11: 0, readBytes: 8 })).code).to.equal(INVALID_FIELD);
  });

  it('39: SEL 3 gives capabilities: changeable or not, never saveable', async () => {
    for (const fid of [0x01, 0x02, 0x04, 0x07, 0x0a, 0x0b, 0x0e, 0x0f, 0x15, 0x16]) {
      const completion = await admin.getFeature(fid, { sel: 3 });
      expect([completion.status, completion.result0], `FID ${fid}`).to.deep.equal([0, 4]);
    }
    for (const fid of [0x05, 0x84]) {
      expect((await admin.getFeature(fid, { sel: 3 })).result0, `FID ${fid}, of namespaces`).to.equal(6);
    }
    expect((await admin.getFeature(0x81, { sel: 3 })).result0, 'host identifier').to.equal(0);
    for (const sel of [4, 7]) expect((await admin.getFeature(1, { sel })).code).to.equal(INVALID_FIELD);
  });

  it('SEL 1 gives the default, SEL 0 what was set', async () => {
    expect((await admin.setFeature(0x01, 0x0203_0405)).status).to.equal(0);
    expect((await admin.getFeature(0x01)).result0).to.equal(0x0203_0405);
    expect((await admin.getFeature(0x01, { sel: 1 })).result0).to.equal(0x07);
  });

  it('an unknown feature: Invalid Field, Get and Set', async () => {
    for (const fid of [0x00, 0x03, 0x08, 0x0c, 0x78, 0x80, 0xc0, 0xff]) {
      expect((await admin.getFeature(fid)).code, `FID ${fid}`).to.equal(INVALID_FIELD);
      expect((await admin.setFeature(fid, 0)).code, `FID ${fid}`).to.equal(INVALID_FIELD);
    }
  });

  it('SAVE: Feature Identifier Not Saveable; an NSID: Feature Not Namespace Specific', async () => {
    expect((await admin.setFeature(1, 0, { save: true })).code).to.equal(0x10d);
    expect((await admin.setFeature(1, 0, { nsid: 1 })).code).to.equal(0x10f);
  });

  it('06h is there only with a volatile cache, and cannot be changed', async () => {
    expect((await admin.getFeature(6)).code).to.equal(INVALID_FIELD);
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new CopyBackend({ volatileWriteCache: true }) });
    expect((await admin.getFeature(6)).result0).to.equal(1);
    expect((await admin.setFeature(6, 0)).code).to.equal(0x10e);
    expect((await admin.getFeature(6, { sel: 3 })).result0).to.equal(0);
  });

  it('04h: over and under thresholds are apart', async () => {
    expect((await admin.setFeature(4, 350)).status).to.equal(0);
    expect((await admin.setFeature(4, 250 | (1 << 20))).status).to.equal(0);
    expect((await admin.getFeature(4)).result0).to.equal(350);
    expect((await admin.getFeature(4, { cdw11: 1 << 20 })).result0).to.equal(250);
    expect((await admin.setFeature(4, 350 | (3 << 16))).code, 'no such sensor').to.equal(INVALID_FIELD);
  });

  it('0Eh: the timestamp runs on with the clock', async () => {
    const data = Buffer.alloc(8);
    data.writeUIntLE(1_700_000_000_000, 0, 6);
    expect((await admin.setFeature(0x0e, 0, { data })).status).to.equal(0);
    t.clock.advance(1234);
    const stamp = await admin.getFeature(0x0e, { readBytes: 8 });
    expect(stamp.data.readUIntLE(0, 6)).to.equal(1_700_000_001_234);
    expect((stamp.data[6]! >>> 1) & 7, 'origin: Set Features').to.equal(1);
  });

  it('0Eh by R2T, and an SGL that is too short', async () => {
    const data = Buffer.alloc(8, 1);
    const done = await admin.command({ opcode: 9, cdw10: 0x0e }, { data, by: 'r2t' });
    expect([done.status, done.r2ts.length]).to.deep.equal([0, 1]);
    expect((await admin.command({ opcode: 9, cdw10: 0x0e }, { data: data.subarray(0, 4) })).code).to.equal(0x0f);
  });

  it('94: Set Features 0Bh with bits of events that do not exist: Invalid Field', async () => {
    expect((await admin.setFeature(0x0b, 0x9ff)).status).to.equal(0);
    expect((await admin.setFeature(0x0b, 0x8000_0000)).code).to.equal(INVALID_FIELD);
    expect((await admin.getFeature(0x0b)).result0).to.equal(0x9ff);
    const oaes = (await admin.identify(1)).data.readUInt32LE(92);
    expect(oaes, 'OAES').to.equal(0x8_2900);
  });
});

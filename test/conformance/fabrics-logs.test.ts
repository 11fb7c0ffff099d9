/** Log pages and error information: sheet of commands 8; checklist numbers in case names. */
import { expect } from 'chai';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_LOG_PAGE = 0x109;
const ALL = 0xffff_ffff;

describe('conformance: log pages', () => {
  let t: TestTarget;
  let admin: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start();
    admin = await t.admin();
  });
  afterEach(() => t.close());

  it('LID 00h names exactly the pages that are served; 27, 31: any other is Invalid Log Page', async () => {
    const supported = (await admin.logPage(0, 1024)).data;
    for (let lid = 0; lid < 256; lid++) {
      const completion = await admin.logPage(lid, 512);
      if ((supported.readUInt32LE(lid * 4) & 1) === 1) expect(completion.status, `LID ${lid}`).to.equal(0);
      else {
        expect([completion.code, completion.data.length], `LID ${lid}`).to.deep.equal([INVALID_LOG_PAGE, 0]);
      }
    }
    for (const lid of [0x00, 0x01, 0x02, 0x03, 0x05, 0x12]) {
      expect(supported.readUInt32LE(lid * 4) & 1, `mandatory LID ${lid}`).to.equal(1);
    }
    expect(supported.readUInt32LE(0x70 * 4), 'discovery log').to.equal(0);
  });

  it('28: NUMD 0 returns 4 bytes', async () => {
    expect((await admin.logPage(2, 4)).data.length).to.equal(4);
  });

  it('29: LPO unaligned or past the end: Invalid Field; within: the rest, then zeroes', async () => {
    for (const offset of [1, 2, 3, 5, 516, 0x8000_0000]) {
      expect((await admin.logPage(2, 512, { offset })).code, `LPO ${offset}`).to.equal(INVALID_FIELD);
    }
    const whole = (await admin.logPage(5, 4096)).data;
    const tail = await admin.logPage(5, 512, { offset: 4000 });
    expect(tail.data.subarray(0, 96).equals(whole.subarray(4000))).to.equal(true);
    expect(tail.data.subarray(96).every((byte) => byte === 0)).to.equal(true);
    const middle = await admin.logPage(5, 64, { offset: 16 });
    expect(middle.data.equals(whole.subarray(16, 80))).to.equal(true);
  });

  it('29: the upper half of LPO counts', async () => {
    const fields = { opcode: 2, cdw10: 2 | (127 << 16), cdw12: 0, cdw13: 1 };
    expect((await admin.command(fields, { readBytes: 512 })).code).to.equal(INVALID_FIELD);
  });

  it('an index offset (OT) where the page has none: Invalid Field', async () => {
    expect((await admin.logPage(2, 512, { cdw14: 1 << 23 })).code).to.equal(INVALID_FIELD);
  });

  it('more than MDTS: Invalid Field; MDTS itself is served', async () => {
    expect((await admin.logPage(2, (1 << 20) + 4)).code).to.equal(INVALID_FIELD);
    expect((await admin.logPage(2, 1 << 20)).data.length).to.equal(1 << 20);
  });

  it('an SGL shorter than NUMD: Data SGL Length Invalid', async () => {
    const fields = { opcode: 2, cdw10: 2 | (127 << 16) };
    expect((await admin.command(fields, { readBytes: 508 })).code).to.equal(0x0f);
  });

  it('SMART counts I/O; NSID 0 and FFFFFFFFh are the controller, others Invalid Field', async () => {
    const io = await t.io(admin);
    for (let i = 0; i < 10; i++) await io.write(0, Buffer.alloc(8192));
    for (let i = 0; i < 5; i++) await io.read(0, 2048);
    for (const nsid of [0, ALL]) {
      const { data } = await admin.logPage(2, 512, { nsid });
      expect(data[0], 'critical warning').to.equal(0);
      expect(data.readBigUInt64LE(64), 'reads').to.equal(5n);
      expect(data.readBigUInt64LE(80), 'writes').to.equal(10n);
      expect(data.readBigUInt64LE(32), 'units of 512,000 bytes read').to.equal(11n);
      expect(data.readBigUInt64LE(48), 'written').to.equal(1n);
      expect(data.readUInt16LE(1), 'temperature, K').to.be.within(273, 343);
    }
    expect((await admin.logPage(2, 512, { nsid: 1 })).code).to.equal(INVALID_FIELD);
  });

  it('SMART: power-on hours follow the clock', async () => {
    t.clock.advance(5 * 3600_000);
    expect((await admin.logPage(2, 512)).data.readBigUInt64LE(128)).to.equal(5n);
  });

  it('firmware: slot 1 is active and names the revision of Identify', async () => {
    const { data } = await admin.logPage(3, 512);
    expect(data[0]! & 7).to.equal(1);
    expect(data.toString('latin1', 8, 16)).to.equal((await admin.identify(1)).data.toString('latin1', 64, 72));
  });

  it('effects: writes change blocks, reads do not; another CSI is Invalid Field', async () => {
    const { data } = await admin.logPage(5, 4096);
    const io = (opcode: number): number => data.readUInt32LE(1024 + opcode * 4) & 3;
    expect([io(0), io(1), io(2), io(8), io(9)]).to.deep.equal([1, 3, 1, 3, 3]);
    const more = [io(0x04), io(0x05), io(0x0c), io(0x19)];
    expect(more, 'Write Uncorrectable, Compare, Verify, Copy').to.deep.equal([3, 1, 1, 3]);
    expect([io(0x0d), io(0x0e), io(0x11), io(0x15)], 'reservations').to.deep.equal([1, 1, 1, 1]);
    for (const opcode of [0x12]) expect(data.readUInt32LE(1024 + opcode * 4)).to.equal(0);
    expect((await admin.logPage(5, 4096, { cdw14: 1 << 24 })).code).to.equal(INVALID_FIELD);
  });

  it('LID 12h names exactly the features that Get Features knows', async () => {
    const { data } = await admin.logPage(0x12, 1024);
    for (let fid = 0; fid < 256; fid++) {
      const known = (await admin.getFeature(fid, { sel: 3 })).status === 0;
      expect((data.readUInt32LE(fid * 4) & 1) === 1, `FID ${fid}`).to.equal(known);
    }
  });

  describe('error information', () => {
    const entry = async (index = 0): Promise<Record<string, number>> => {
      const { data } = await admin.logPage(1, 64, { offset: index * 64 });
      return {
        count: Number(data.readBigUInt64LE(0)),
        sqid: data.readUInt16LE(8),
        cid: data.readUInt16LE(10),
        status: data.readUInt16LE(12) >>> 1,
        byte: data.readUInt16LE(14) & 0xff,
        bit: data.readUInt16LE(14) >>> 8,
        lba: Number(data.readBigUInt64LE(16)),
        nsid: data.readUInt32LE(24),
        trtype: data.readUInt8(29),
        opcode: data.readUInt8(31),
      };
    };

    it('has no entry at first, and as many slots as ELPE says', async () => {
      expect((await entry()).count).to.equal(0);
      expect((await admin.identify(1)).data[262]).to.equal(63);
    });

    it('names queue, command, status with More and DNR, and the byte at fault; newest first', async () => {
      const io = await t.io(admin);
      await admin.identify(0xff, { cid: 0x77 });
      await io.read(123, 1, { nsid: 5, cid: 0x88 });
      expect(await entry(0)).to.deep.equal({
        count: 2,
        sqid: 1,
        cid: 0x88,
        status: 0x6002,
        byte: 4,
        bit: 0,
        lba: 123,
        nsid: 5,
        trtype: 3,
        opcode: 2,
      });
      const older = await entry(1);
      expect([older.count, older.sqid, older.cid, older.byte, older.opcode]).to.deep.equal([1, 0, 0x77, 40, 6]);
      const numErrLogEntries = (await admin.logPage(2, 512)).data.readBigUInt64LE(176);
      expect(numErrLogEntries, 'SMART agrees').to.equal(2n);
    });

    it('the CQE of such a command has More, that of one without location has not', async () => {
      expect((await admin.identify(0xff)).more).to.equal(true);
      const io = await t.io(admin);
      expect((await io.read(0x7fff_ffff, 1)).more).to.equal(false);
      expect((await entry()).count).to.equal(1);
    });

    it('keeps the newest 64', async () => {
      for (let i = 0; i < 70; i++) await admin.identify(0xff, { cid: i });
      expect((await entry(0)).count).to.equal(70);
      const last = await entry(63);
      expect([last.count, last.cid]).to.deep.equal([7, 6]);
      expect((await admin.logPage(1, 64 * 64)).data.length).to.equal(4096);
    });

    for (const [name, send, byte, bit] of [
      ['PSDT', (): Promise<Completion> => admin.command({ opcode: 6, flags: 0xc0, cdw10: 1 }), 1, 6],
      ['FUSE', (): Promise<Completion> => admin.command({ opcode: 6, flags: 0x41, cdw10: 1 }), 1, 0],
      ['opcode', (): Promise<Completion> => admin.command({ opcode: 0xff }), 0, 0],
      ['log page', (): Promise<Completion> => admin.logPage(0xff, 4), 40, 0],
      ['LPO', (): Promise<Completion> => admin.logPage(2, 512, { offset: 3 }), 48, 0],
      ['feature', (): Promise<Completion> => admin.getFeature(0xff), 40, 0],
      ['SAVE', (): Promise<Completion> => admin.setFeature(1, 0, { save: true }), 43, 7],
      [
        'SGL type',
        (): Promise<Completion> => admin.command({ opcode: 6, cdw10: 1, sgl: { id: 0x40, length: 4096 } }),
        39,
        0,
      ],
      ['SGL length', (): Promise<Completion> => admin.command({ opcode: 6, cdw10: 1 }, { readBytes: 4092 }), 32, 0],
      ['property offset', (): Promise<Completion> => admin.propertyGet(0x100), 44, 0],
      ['property size', (): Promise<Completion> => admin.propertyGet(0, 4), 40, 0],
      ['FCTYPE', (): Promise<Completion> => admin.command({ opcode: 0x7f, fctype: 0x3f }), 4, 0],
    ] as const) {
      it(`the location of a wrong ${name} is byte ${byte}, bit ${bit}`, async () => {
        expect((await send()).more).to.equal(true);
        const found = await entry();
        expect([found.byte, found.bit]).to.deep.equal([byte, bit]);
      });
    }
  });
});

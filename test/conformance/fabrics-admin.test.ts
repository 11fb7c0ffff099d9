/** Identify, log pages, features, asynchronous events, Abort: sheet of commands 7 to 10; checklist numbers in case names. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { NullBackend } from '../../src/backend/null.ts';
import { identifyControllerCodec } from '../../src/wire/cold/identify-controller.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { CopyBackend, SUBSYSTEM_NQN, settle, TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const COMMAND_SEQUENCE_ERROR = 0x0c;
const INVALID_LOG_PAGE = 0x109;
const ALL = 0xffff_ffff;
const UUID = '12345678-9abc-4def-8123-456789abcdef';

describe('conformance: Identify', () => {
  let t: TestTarget;
  let admin: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start({ subsystem: { nsidMax: 2000 } });
    admin = await t.admin();
  });
  afterEach(() => t.close());

  function add(nsid: number, more: { uuid?: string; nguid?: string; eui64?: string; readOnly?: boolean } = {}): void {
    t.target.addNamespace(t.subsystem, {
      nsid,
      backend: new NullBackend({ blockSize: 4096, blockCount: 1024 }),
      ...more,
    });
  }
  const nsids = (completion: Completion): number[] => {
    const list: number[] = [];
    for (let at = 0; at < 4096; at += 4) list.push(completion.data.readUInt32LE(at));
    return list.slice(0, list.indexOf(0) < 0 ? 1024 : list.indexOf(0));
  };

  it('21: CNS FFh, and every CNS that is not served: Invalid Field naming byte 40', async () => {
    for (const cns of [0x04, 0x09, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1c, 0xff]) {
      const completion = await admin.identify(cns, { nsid: 1 });
      expect([completion.code, completion.dnr, completion.data.length]).to.deep.equal([INVALID_FIELD, true, 0]);
    }
  });

  it('25, 26: Identify Controller carries what hosts on fabrics insist on', async () => {
    const { data } = await admin.identify(1);
    expect(data.readUInt16LE(78), 'CNTLID').to.equal(admin.cntlid);
    expect(data.readUInt32LE(80), 'VER').to.equal((await admin.propertyGet(8)).result0);
    expect(data.readUInt8(111), 'CNTRLTYPE').to.equal(1);
    expect(data.readUInt16LE(514), 'MAXCMD').to.be.greaterThan(0);
    expect(data.readUInt32LE(1792), 'IOCCSZ').to.be.at.least(4);
    expect(data.readUInt32LE(1796), 'IORCSZ').to.equal(1);
    expect(data.readUInt16LE(1800), 'ICDOFF').to.equal(0);
    expect(data.readUInt8(1802), 'FCATT: dynamic').to.equal(0);
    expect(data.readUInt8(1803), 'MSDBD').to.equal(1);
    expect(data.readUInt32LE(536) & 3, 'SGLS').to.not.equal(0);
    expect(data.readUInt16LE(320), 'KAS').to.be.greaterThan(0);
    expect([data.readUInt8(512), data.readUInt8(513)], 'SQES, CQES').to.deep.equal([0x66, 0x44]);
    expect(data.readUInt32LE(516), 'NN').to.equal(2000);
    expect(data.readUInt32LE(540), 'MNAN').to.be.within(1, 2000);
    expect(data.toString('latin1', 768, 1024).split('\0')[0], 'SUBNQN').to.equal(SUBSYSTEM_NQN);
    expect(data.toString('latin1', 4, 72), 'SN, MN, FR padded with spaces').to.match(/^[\x20-\x7e]{68}$/);
    expect(data.readUInt8(77), 'MDTS: as the I/O commands have it').to.equal(8);
    expect(data.readUInt16LE(256), 'OACS').to.equal(0);
    expect(data.readUInt16LE(520) & 0x0c, 'ONCS: DSM, Write Zeroes').to.equal(0x0c);
    expect(data.readUInt8(525) & 6, 'VWC: Flush of all namespaces').to.equal(6);
  });

  it('the structure is the same through the codec that hosts use', async () => {
    const value = identifyControllerCodec.decode((await admin.identify(1)).data);
    expect([value.cntlid, value.subnqn, value.aerl, value.acl]).to.deep.equal([admin.cntlid, SUBSYSTEM_NQN, 3, 3]);
  });

  it('VWC is set if one namespace has a volatile cache', async () => {
    expect((await admin.identify(1)).data.readUInt8(525) & 1).to.equal(0);
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new CopyBackend({ volatileWriteCache: true }) });
    expect((await admin.identify(1)).data.readUInt8(525) & 1).to.equal(1);
    expect((await admin.identify(8, { nsid: 1 })).data[0]! & 0x20, 'VWC not present').to.equal(0x20);
    expect((await admin.identify(8, { nsid: 2 })).data[0]! & 0x20, 'VWC not present').to.equal(0);
  });

  it('CNS 00h: geometry, one format, ids', async () => {
    add(7, { nguid: '00112233445566778899aabbccddeeff', eui64: '0123456789abcdef', readOnly: true });
    const { data } = await admin.identify(0, { nsid: 7 });
    expect(data.readBigUInt64LE(0), 'NSZE').to.equal(1024n);
    expect(data.readBigUInt64LE(8), 'NCAP').to.equal(1024n);
    expect(data.readBigUInt64LE(16) <= 1024n, 'NUSE').to.equal(true);
    expect([data[25], data[26], data[27], data[28], data[29]], 'NLBAF, FLBAS, MC, DPC, DPS').to.deep.equal([0, 0, 0, 0, 0]);
    expect(data.readUInt32LE(128) >>> 16, 'LBADS').to.equal(12);
    expect(data.toString('hex', 104, 120), 'NGUID').to.equal('00112233445566778899aabbccddeeff');
    expect(data.toString('hex', 120, 128), 'EUI64').to.equal('0123456789abcdef');
    expect(data[99]! & 1, 'NSATTR: write protected').to.equal(1);
    expect((await admin.identify(0, { nsid: 1 })).data.readUInt32LE(128) >>> 16, 'LBADS of 512').to.equal(9);
  });

  it('CNS 02h: active NSIDs above the one given, ascending; 22: FFFFFFFEh and FFFFFFFFh are invalid', async () => {
    add(1000);
    add(3);
    expect(nsids(await admin.identify(2))).to.deep.equal([1, 3, 1000]);
    expect(nsids(await admin.identify(2, { nsid: 1 }))).to.deep.equal([3, 1000]);
    expect(nsids(await admin.identify(2, { nsid: 1000 }))).to.deep.equal([]);
    expect(nsids(await admin.identify(2, { nsid: 0xffff_fffd }))).to.deep.equal([]);
    for (const nsid of [0xffff_fffe, ALL]) {
      const completion = await admin.identify(2, { nsid });
      expect([completion.code, completion.data.length]).to.deep.equal([INVALID_NAMESPACE, 0]);
    }
  });

  it('CNS 02h: more than 1024 namespaces come in two lists', async () => {
    for (let nsid = 2; nsid <= 1030; nsid++) add(nsid);
    const first = nsids(await admin.identify(2));
    expect(first.length).to.equal(1024);
    expect(nsids(await admin.identify(2, { nsid: first.at(-1)! }))).to.deep.equal([1025, 1026, 1027, 1028, 1029, 1030]);
  });

  it('23, 74: CNS 03h: each NIDT once, UUID always there, CSI, terminated', async () => {
    add(2, { uuid: UUID, nguid: '00112233445566778899aabbccddeeff', eui64: '0123456789abcdef' });
    const parse = (data: Buffer): Map<number, string> => {
      const found = new Map<number, string>();
      let at = 0;
      for (; data[at + 1] !== 0; at += 4 + data[at + 1]!) {
        expect(found.has(data[at]!), 'a NIDT twice').to.equal(false);
        found.set(data[at]!, data.toString('hex', at + 4, at + 4 + data[at + 1]!));
      }
      expect(data.subarray(at).every((byte) => byte === 0)).to.equal(true);
      return found;
    };
    const all = parse((await admin.identify(3, { nsid: 2 })).data);
    expect([...all.entries()].sort()).to.deep.equal([
      [1, '0123456789abcdef'],
      [2, '00112233445566778899aabbccddeeff'],
      [3, UUID.replaceAll('-', '')],
      [4, '00'],
    ]);
    const made = parse((await admin.identify(3, { nsid: 1 })).data);
    expect([...made.keys()].sort()).to.deep.equal([3, 4]);
    expect(made.get(3)).to.not.equal('00'.repeat(16));
    const other = await t.admin();
    const again = await other.identify(3, { nsid: 1 });
    expect(parse(again.data)).to.deep.equal(made);
  });

  it('24: CNS 08h: NSTAT bit 0', async () => {
    const { data } = await admin.identify(8, { nsid: 1 });
    expect(data[14]! & 1).to.equal(1);
  });

  it('71: an NSID without namespace: zeroes for CNS 00h, 05h, 08h; Invalid Field for 03h', async () => {
    for (const cns of [0x00, 0x05, 0x08]) {
      const completion = await admin.identify(cns, { nsid: 50 });
      expect([completion.status, completion.data.length]).to.deep.equal([0, 4096]);
      expect(completion.data.every((byte) => byte === 0)).to.equal(true);
    }
    expect((await admin.identify(3, { nsid: 50 })).code).to.equal(INVALID_FIELD);
  });

  for (const nsid of [0, 2001, 0xffff_fffe, ALL]) {
    it(`71, 100: NSID ${nsid.toString(16)}h is Invalid Namespace or Format for CNS 00h, 03h, 05h, 08h`, async () => {
      for (const cns of [0x00, 0x03, 0x05, 0x08]) {
        const completion = await admin.identify(cns, { nsid });
        expect([completion.code, completion.dnr, completion.data.length]).to.deep.equal([INVALID_NAMESPACE, true, 0]);
      }
    });
  }

  it('72: CNS 11h (namespace management) is not served: Invalid Field', async () => {
    expect((await admin.identify(0x11, { nsid: 1 })).code).to.equal(INVALID_FIELD);
  });

  it('73: a CSI that is not served: Invalid Field for CNS 05h, 06h, 07h; CSI 0 is served', async () => {
    for (const cns of [0x05, 0x06, 0x07]) {
      expect((await admin.identify(cns, { nsid: 1, cdw11: 2 << 24 })).code).to.equal(INVALID_FIELD);
      expect((await admin.identify(cns, { nsid: cns === 5 ? 1 : 0, cdw11: 0 })).status).to.equal(0);
    }
    expect(nsids(await admin.identify(0x07))).to.deep.equal([1]);
  });

  it('24 of section 7.4: a removed namespace is gone from the lists', async () => {
    add(2);
    await t.target.removeNamespace(t.subsystem, 2);
    expect(nsids(await admin.identify(2))).to.deep.equal([1]);
    expect((await admin.identify(0, { nsid: 2 })).data.every((byte) => byte === 0)).to.equal(true);
  });
});

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
    for (const opcode of [0x04, 0x05, 0x0c, 0x0d, 0x19]) expect(data.readUInt32LE(1024 + opcode * 4)).to.equal(0);
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
      ['SGL type', (): Promise<Completion> => admin.command({ opcode: 6, cdw10: 1, sgl: { id: 0x40, length: 4096 } }), 39, 0],
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
    for (const fid of [0x01, 0x02, 0x04, 0x05, 0x07, 0x0a, 0x0b, 0x0e, 0x0f]) {
      const completion = await admin.getFeature(fid, { sel: 3 });
      expect([completion.status, completion.result0], `FID ${fid}`).to.deep.equal([0, 4]);
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
    for (const fid of [0x00, 0x03, 0x08, 0x0c, 0x16, 0x78, 0x80, 0x82, 0x84, 0xc0, 0xff]) {
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
    expect((await admin.setFeature(0x0b, 0x1ff)).status).to.equal(0);
    expect((await admin.setFeature(0x0b, 0x8000_0000)).code).to.equal(INVALID_FIELD);
    expect((await admin.getFeature(0x0b)).result0).to.equal(0x1ff);
    const oaes = (await admin.identify(1)).data.readUInt32LE(92);
    expect(oaes & ~0x1ff, 'OAES').to.equal(0);
  });
});

describe('conformance: asynchronous events and Abort', () => {
  let t: TestTarget;
  let admin: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start();
    admin = await t.admin();
  });
  afterEach(() => t.close());

  const NAMESPACE_NOTICE = 0x0004_0002;
  const aer = (host = admin): Promise<Completion> => host.command({ opcode: 0x0c });
  function add(nsid: number): void {
    t.target.addNamespace(t.subsystem, { nsid, backend: new NullBackend({ blockSize: 512, blockCount: 8 }) });
  }
  async function pendingStill(promise: Promise<unknown>): Promise<boolean> {
    let settled = false;
    promise.then(
      () => {
        settled = true;
      },
      () => {},
    );
    await settle();
    return !settled;
  }
  const changed = async (rae = false): Promise<number[]> => {
    const { data } = await admin.logPage(4, 4096, { nsid: ALL, rae });
    const list: number[] = [];
    for (let at = 0; at < 4096 && data.readUInt32LE(at) !== 0; at += 4) list.push(data.readUInt32LE(at));
    return list;
  };

  it('33: more AERs than AERL + 1: SCT 1 SC 05h; the others stay', async () => {
    const limit = (await admin.identify(1)).data[259]! + 1;
    const all = Array.from({ length: limit }, () => aer());
    const over = await aer();
    expect([over.code, over.dnr]).to.deep.equal([0x105, true]);
    for (const one of all) expect(await pendingStill(one)).to.equal(true);
  });

  it('34: a namespace is added: DW0 00040002h; no second AER until LID 04h is read with RAE 0', async () => {
    await admin.setFeature(0x0b, 0x100);
    const first = aer();
    const second = aer();
    add(2);
    expect((await first).result0).to.equal(NAMESPACE_NOTICE);
    add(3);
    expect(await pendingStill(second)).to.equal(true);
    expect(await changed(true), 'RAE 1 keeps list and event').to.deep.equal([2, 3]);
    expect(await pendingStill(second)).to.equal(true);
    expect(await changed()).to.deep.equal([2, 3]);
    expect(await changed(), 'read once').to.deep.equal([]);
    expect(await pendingStill(second), 'the event of NSID 3 is void: its list was read').to.equal(true);
    await t.target.removeNamespace(t.subsystem, 2);
    expect((await second).result0).to.equal(NAMESPACE_NOTICE);
    expect(await changed()).to.deep.equal([2]);
  });

  it('an event without AER is kept, and several are one', async () => {
    await admin.setFeature(0x0b, 0x100);
    add(2);
    add(3);
    const first = aer();
    expect((await first).result0).to.equal(NAMESPACE_NOTICE);
    expect(await pendingStill(aer())).to.equal(true);
  });

  it('an event whose log page was read meanwhile is not sent', async () => {
    await admin.setFeature(0x0b, 0x100);
    add(2);
    expect(await changed()).to.deep.equal([2]);
    expect(await pendingStill(aer())).to.equal(true);
  });

  it('an event that is not enabled is not sent; the list is kept all the same', async () => {
    const one = aer();
    add(2);
    expect(await pendingStill(one)).to.equal(true);
    expect(await changed()).to.deep.equal([2]);
  });

  it('each controller has its own events', async () => {
    const other = await t.admin();
    await admin.setFeature(0x0b, 0x100);
    await other.setFeature(0x0b, 0x100);
    const mine = aer();
    const theirs = aer(other);
    add(2);
    expect([(await mine).result0, (await theirs).result0]).to.deep.equal([NAMESPACE_NOTICE, NAMESPACE_NOTICE]);
    await changed();
    const next = [aer(), aer(other)];
    add(3);
    expect((await next[0]!).result0).to.equal(NAMESPACE_NOTICE);
    expect(await pendingStill(next[1]!), 'it has not read its log').to.equal(true);
  });

  it('more than 1024 changes: a single FFFFFFFFh', async () => {
    await t.close();
    t = await TestTarget.start({ subsystem: { nsidMax: 4000 } });
    admin = await t.admin();
    for (let nsid = 2; nsid <= 1025; nsid++) add(nsid);
    expect((await changed(true)).length).to.equal(1024);
    add(1026);
    expect(await changed()).to.deep.equal([ALL]);
    add(1027);
    expect(await changed()).to.deep.equal([1027]);
  });

  it('a namespace that grows by writes raises nothing', async () => {
    await admin.setFeature(0x0b, 0x100);
    const one = aer();
    const io = await t.io(admin);
    await io.write(0, Buffer.alloc(4096, 1));
    expect(await pendingStill(one)).to.equal(true);
  });

  it('62: Abort of an unknown CID or SQID: success, DW0 bit 0 = 1', async () => {
    for (const cdw10 of [0x0500_0000, 0x0005_0000 | 9, ALL]) {
      const completion = await admin.command({ opcode: 8, cdw10 });
      expect([completion.status, completion.result0 & 1]).to.deep.equal([0, 1]);
    }
  });

  it('Abort of an AER: it ends with Command Abort Requested, DW0 0', async () => {
    const first = admin.command({ opcode: 0x0c, cid: 0x60 });
    const second = aer();
    await settle();
    const completion = await admin.command({ opcode: 8, cdw10: 0x0060_0000 });
    expect([completion.status, completion.result0]).to.deep.equal([0, 0]);
    expect((await first).code).to.equal(0x07);
    await admin.setFeature(0x0b, 0x100);
    add(2);
    expect((await second).result0).to.equal(NAMESPACE_NOTICE);
  });

  it('Abort of itself, and of a command that is done: not aborted', async () => {
    const itself = await admin.command({ opcode: 8, cid: 0x70, cdw10: 0x0070_0000 });
    expect([itself.status, itself.result0]).to.deep.equal([0, 1]);
    await admin.command({ opcode: 0x18, cid: 0x71 });
    expect((await admin.command({ opcode: 8, cdw10: 0x0071_0000 })).result0).to.equal(1);
  });

  it('Abort of a write that waits for its data: not aborted, the write goes on', async () => {
    const io = await t.io(admin);
    const data = Buffer.alloc(512, 9);
    const done = io.completion(0x55, { manual: true, data });
    await io.send(io.commandBytes({ opcode: 1, nsid: 1, cid: 0x55 }, { data, by: 'r2t' }));
    const r2t = await io.next();
    expect((await admin.command({ opcode: 8, cdw10: 1 | (0x55 << 16) })).result0).to.equal(1);
    await io.send(io.h2cData({ cccid: 0x55, ttag: r2t.ttag, offset: 0, last: true }, data));
    expect((await done).status).to.equal(0);
  });

  it('MemoryBackend namespaces report NUSE by what is written', async () => {
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(16)).to.equal(0n);
    const io = await t.io(admin);
    await io.write(0, Buffer.alloc(8192, 1));
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(16)).to.equal(16n);
    expect(t.backend).to.be.instanceOf(MemoryBackend);
  });

  it('I/O opcodes and AER are unknown on the other kind of queue', async () => {
    const io = await t.io(admin);
    expect((await io.command({ opcode: 0x0c })).code).to.be.oneOf([INVALID_OPCODE]);
    expect((await io.command({ opcode: 0x06, cdw10: 1 }, { readBytes: 4096 })).code).to.equal(INVALID_OPCODE);
  });
});

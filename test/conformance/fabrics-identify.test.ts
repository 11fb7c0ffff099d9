/** Identify: sheet of commands 7; checklist numbers in case names. */
import { expect } from 'chai';
import { NullBackend } from '../../src/backend/null.ts';
import { identifyControllerCodec } from '../../src/wire/cold/identify-controller.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { CopyBackend, SUBSYSTEM_NQN, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
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
    for (const cns of [0x04, 0x09, 0x0a, 0x10, 0x11, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1c, 0xff]) {
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
    expect(data.readUInt16LE(256), 'OACS: Format, Get LBA Status').to.equal(0x202);
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
    expect([data[25], data[26], data[27], data[28], data[29]], 'NLBAF, FLBAS, MC, DPC, DPS').to.deep.equal([
      0, 0, 0, 0, 0,
    ]);
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

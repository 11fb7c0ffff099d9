import { expect } from 'chai';
import { type Codec, type Decoded, structure } from '../../../src/wire/cold/table.ts';
import * as wire from '../../../src/wire.ts';
import { hex } from '../../vectors/layout.ts';

/** Declared tables as a second, independent decoder of what the hot accessors read and write. */
const SQE = [
  [0, 'opc', 'u8'],
  [1, 'flags', 'u8'],
  [2, 'cid', 'u16'],
  [4, 'nsid', 'u32'],
  [8, 'cdw2', 'u32'],
  [12, 'cdw3', 'u32'],
  [16, 'mptr', 'u64'],
  [24, 'address', 'u64'],
  [32, 'length', 'u32'],
  [36, 'reserved', 3],
  [39, 'sglid', 'u8'],
  [40, 'cdw', 'u32[]', 6],
] as const;
const sqeTable: Codec<Decoded<typeof SQE>> = structure('SQE', 64, SQE);

const CQE = [
  [0, 'dw0', 'u32'],
  [4, 'dw1', 'u32'],
  [8, 'sqhd', 'u16'],
  [10, 'sqid', 'u16'],
  [12, 'cid', 'u16'],
  [14, 'sts', 'u16'],
] as const;
const cqeTable: Codec<Decoded<typeof CQE>> = structure('CQE', 16, CQE);

const DATA_PDU = [
  [0, 'type', 'u8'],
  [1, 'flags', 'u8'],
  [2, 'hlen', 'u8'],
  [3, 'pdo', 'u8'],
  [4, 'plen', 'u32'],
  [8, 'cccid', 'u16'],
  [10, 'ttag', 'u16'],
  [12, 'datao', 'u32'],
  [16, 'datal', 'u32'],
  [20, 'rsvd', 'u32'],
] as const;
const dataTable: Codec<Decoded<typeof DATA_PDU>> = structure('DataPdu', 24, DATA_PDU);

/** Bytes that differ everywhere, with and without top bits. */
function samples(size: number): Uint8Array[] {
  const rows = [0, 1, 0x55, 0x80, 0xff].map((seed) =>
    Uint8Array.from({ length: size }, (_, i) => (seed + i * 29) & 0xff),
  );
  return [...rows, new Uint8Array(size), new Uint8Array(size).fill(0xff)];
}

/** The bytes at an odd offset of a larger buffer, since entries lie anywhere in a chunk. */
function embed(bytes: Uint8Array): { view: DataView; base: number; bytes: Uint8Array } {
  const room = new Uint8Array(bytes.length + 32).fill(0xee);
  room.set(bytes, 13);
  return { view: new DataView(room.buffer, 4), base: 9, bytes: room.subarray(13, 13 + bytes.length) };
}

describe('wire/sqe', () => {
  it('reads what the table reads', () => {
    for (const sample of samples(64)) {
      const { view, base } = embed(sample);
      const table = sqeTable.decode(sample);
      expect(wire.sqeOpcode(view, base)).to.equal(table.opc);
      expect(wire.sqeFlags(view, base)).to.equal(table.flags);
      expect(wire.sqeCid(view, base)).to.equal(table.cid);
      expect(wire.sqeNsid(view, base)).to.equal(table.nsid);
      expect(wire.sqeFctype(view, base)).to.equal(table.nsid & 0xff);
      expect(BigInt(wire.sqeSglAddressLow(view, base)) | (BigInt(wire.sqeSglAddressHigh(view, base)) << 32n)).to.equal(
        table.address,
      );
      expect(wire.sqeSglLength(view, base)).to.equal(table.length);
      expect(wire.sqeSglId(view, base)).to.equal(table.sglid);
      const cdw = [wire.sqeCdw10, wire.sqeCdw11, wire.sqeCdw12, wire.sqeCdw13, wire.sqeCdw14, wire.sqeCdw15];
      expect(cdw.map((read) => read(view, base))).to.deep.equal(table.cdw);
      expect([2, 3].map((n) => wire.sqeDword(view, base, n))).to.deep.equal([table.cdw2, table.cdw3]);
      expect(table.cdw.map((_, n) => wire.sqeDword(view, base, 10 + n))).to.deep.equal(table.cdw);
      expect(wire.sqeSlba(view, base)).to.equal(Number((BigInt(table.cdw[1]!) << 32n) | BigInt(table.cdw[0]!)));
      expect(wire.sqeBlockCount(view, base)).to.equal((table.cdw[2]! & 0xffff) + 1);
    }
  });

  it('never makes an SLBA of 2^53 and more look smaller', () => {
    const slba = (text: string): number => wire.sqeSlba(new DataView(hex(text.padStart(48 * 2, '0')).buffer), 0);
    expect(slba('ffffffffffff1f00')).to.equal(2 ** 53 - 1);
    expect(slba('0000000000002000')).to.equal(2 ** 53);
    expect(slba('0100000000002000')).to.be.at.least(2 ** 53);
    expect(slba('ffffffffffffffff')).to.be.at.least(2 ** 53);
  });

  it('writes a command and its SGL, and nothing outside', () => {
    for (const nsid of [0, 1, 0xffffffff]) {
      const { view, base, bytes } = embed(new Uint8Array(64).fill(0xee));
      wire.writeSqe(view, base, 0x82, 0xfffe, nsid);
      wire.writeSgl(view, base, wire.SglId.TransportDataBlock, 0x80000000);
      expect(sqeTable.decode(bytes)).to.deep.equal({
        opc: 0x82,
        flags: 0x40,
        cid: 0xfffe,
        nsid,
        cdw2: 0,
        cdw3: 0,
        mptr: 0n,
        address: 0n,
        length: 0x80000000,
        sglid: 0x5a,
        cdw: [0, 0, 0, 0, 0, 0],
      });
      expect(bytes.subarray(36, 40)).to.deep.equal(hex('0000005a'));
      expect(wire.sqeSglId(view, base)).to.equal(0x5a);
      expect([view.getUint8(base - 1), view.getUint8(base + 64)]).to.deep.equal([0xee, 0xee]);
    }
  });

  it('writes the Connect command that a host sends, byte by byte', () => {
    const view = new DataView(new ArrayBuffer(64));
    wire.writeSqe(view, 0, wire.FABRICS_OPCODE, 0, wire.Fctype.Connect);
    wire.writeSgl(view, 0, wire.SglId.DataBlockOffset, 1024);
    expect(new Uint8Array(view.buffer)).to.deep.equal(
      hex(`7f 40 0000 01 000000 ${'00'.repeat(16)} ${'00'.repeat(8)} 00040000 000000 01 ${'00'.repeat(24)}`),
    );
  });
});

describe('wire/cqe', () => {
  it('reads what the table reads, whatever the phase', () => {
    for (const sample of samples(16)) {
      const { view, base } = embed(sample);
      const table = cqeTable.decode(sample);
      expect(wire.cqeDw0(view, base)).to.equal(table.dw0);
      expect(wire.cqeDw1(view, base)).to.equal(table.dw1);
      expect(wire.cqeSqhd(view, base)).to.equal(table.sqhd);
      expect(wire.cqeCid(view, base)).to.equal(table.cid);
      expect(wire.cqeStatus(view, base)).to.equal(table.sts >> 1);
    }
  });

  it('writes every status one bit up, with phase and SQID 0', () => {
    for (const status of [0, 1, 0x4002, 0x7fff, wire.DNR | wire.FabricsStatus.ConnectInvalidParameters]) {
      const { view, base, bytes } = embed(new Uint8Array(16).fill(0xee));
      wire.writeCqe(view, base, 0xfffffffe, 0x80000001, 0xffff, 0xfffd, status);
      expect(cqeTable.decode(bytes)).to.deep.equal({
        dw0: 0xfffffffe,
        dw1: 0x80000001,
        sqhd: 0xffff,
        sqid: 0,
        cid: 0xfffd,
        sts: status * 2,
      });
      expect(wire.cqeStatus(view, base)).to.equal(status);
      expect([view.getUint8(base - 1), view.getUint8(base + 16)]).to.deep.equal([0xee, 0xee]);
    }
  });
});

describe('wire/pdu', () => {
  it('reads what the table reads', () => {
    for (const sample of samples(24)) {
      const { view, base } = embed(sample);
      const table = dataTable.decode(sample);
      expect(wire.pduType(view, base)).to.equal(table.type);
      expect(wire.pduFlags(view, base)).to.equal(table.flags);
      expect(wire.pduHlen(view, base)).to.equal(table.hlen);
      expect(wire.pduPdo(view, base)).to.equal(table.pdo);
      expect(wire.pduPlen(view, base)).to.equal(table.plen);
      expect(wire.pduCccid(view, base)).to.equal(table.cccid);
      expect(wire.pduTtag(view, base)).to.equal(table.ttag);
      expect(wire.pduDataOffset(view, base)).to.equal(table.datao);
      expect(wire.pduDataLength(view, base)).to.equal(table.datal);
    }
  });

  it('writes what the table reads, and nothing outside', () => {
    const value = {
      type: 0x07,
      flags: 0x0f,
      hlen: 24,
      pdo: 0x80,
      plen: 0xfffffffc,
      cccid: 0xfffe,
      ttag: 0xfffd,
      datao: 0x80000000,
      datal: 0xfffffff0,
    };
    const { view, base, bytes } = embed(new Uint8Array(24).fill(0xee));
    wire.writeCommonHeader(view, base, value.type, value.flags, value.hlen, value.pdo, value.plen);
    wire.writeDataHeader(view, base, value.cccid, value.ttag, value.datao, value.datal);
    expect(dataTable.decode(bytes)).to.deep.equal({ ...value, rsvd: 0 });
    expect([view.getUint8(base - 1), view.getUint8(base + 24)]).to.deep.equal([0xee, 0xee]);
  });

  it('writes the R2T of the digest vector, byte by byte', () => {
    const view = new DataView(new ArrayBuffer(24));
    wire.writeCommonHeader(view, 0, wire.PduType.R2T, wire.PduFlag.Hdgst, 24, 0, 28);
    wire.writeDataHeader(view, 0, 0x1234, 1, 0, 4096);
    expect(new Uint8Array(view.buffer)).to.deep.equal(hex('090118001c00000034120100000000000010000000000000'));
  });

  it('starts DATA at the next multiple of the alignment after header and digest', () => {
    // TCP 1.0 section 3.5.1: xPDA 0 to 31 is 4 to 128 bytes
    for (const [hlen, digest, align, pdo] of [
      [24, false, 4, 24],
      [24, true, 4, 28],
      [72, false, 4, 72],
      [72, true, 4, 76],
      [24, false, 32, 32],
      [24, true, 28, 28],
      [72, false, 48, 96],
      [72, true, 128, 128],
      [24, false, 24, 24],
    ] as const) {
      expect(wire.dataOffsetFor(hlen, digest, align), `${hlen} ${digest} ${align}`).to.equal(pdo);
    }
  });

  it('knows which way a PDU flows', () => {
    const toController = Object.values(wire.PduType).filter(wire.isHostToController);
    expect(toController).to.have.members([0, 2, 4, 6]);
    expect([8, 10, 11, 255].some(wire.isHostToController)).to.equal(false);
  });
});

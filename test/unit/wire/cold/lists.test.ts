import { expect } from 'chai';
import {
  decodeChangedNamespaces,
  decodeControllerList,
  decodeNamespaceDescriptors,
  decodeNsidList,
  encodeChangedNamespaces,
  encodeControllerList,
  encodeNamespaceDescriptors,
  encodeNsidList,
} from '../../../../src/wire.ts';
import { hex, place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

const FULL = Array.from({ length: 1024 }, (_, i) => i + 1);

describe('wire/cold lists: namespaces', () => {
  it('builds and reads the bytes of Base 2.1 section 4.6.1', () => {
    const bytes = place(4096, [0, '01000000 03000000 feffffff']);
    expect(encodeNsidList([1, 3, 0xfffffffe])).to.deep.equal(bytes);
    expect(decodeNsidList(bytes)).to.deep.equal([1, 3, 0xfffffffe]);
    expect(decodeNsidList(new Uint8Array(4096))).to.deep.equal([]);
    expect(encodeNsidList([])).to.deep.equal(new Uint8Array(4096));
  });

  it('holds 1024 and no more', () => {
    const bytes = encodeNsidList(FULL);
    expect([...bytes.subarray(4092)]).to.deep.equal([0, 4, 0, 0]);
    expect(decodeNsidList(bytes)).to.deep.equal(FULL);
    expect(wireError(() => encodeNsidList([...FULL, 1025])).reason).to.equal('range');
  });

  it('stops at the first 0', () => {
    expect(decodeNsidList(place(4096, [0, '05000000 00000000 07000000']))).to.deep.equal([5]);
  });

  it('refuses what does not ascend, in both directions', () => {
    expect(wireError(() => encodeNsidList([2, 1])).reason).to.equal('invalid');
    expect(wireError(() => encodeNsidList([0])).reason).to.equal('invalid');
    expect(wireError(() => encodeNsidList([2, 2])).reason).to.equal('invalid');
    expect(wireError(() => decodeNsidList(place(4096, [0, '02000000 01000000']))).reason).to.equal('invalid');
    expect(wireError(() => decodeNsidList(place(4096, [0, '02000000 02000000']))).reason).to.equal('invalid');
  });

  it('refuses every truncation', () => {
    const bytes = encodeNsidList([1, 2]);
    for (let length = 0; length < 4096; length++) {
      if (wireError(() => decodeNsidList(bytes.subarray(0, length))).reason !== 'short') expect.fail(`${length} bytes`);
    }
  });
});

describe('wire/cold lists: changed namespaces', () => {
  it('lists up to 1024, and says so when there are more', () => {
    expect(encodeChangedNamespaces([4])).to.deep.equal(place(4096, [0, '04000000']));
    expect(encodeChangedNamespaces(FULL)).to.deep.equal(encodeNsidList(FULL));
    expect(encodeChangedNamespaces([...FULL, 1025])).to.deep.equal(place(4096, [0, 'ffffffff']));
  });

  it('reads both forms', () => {
    expect(decodeChangedNamespaces(place(4096, [0, '04000000 09000000']))).to.deep.equal([4, 9]);
    expect(decodeChangedNamespaces(new Uint8Array(4096))).to.deep.equal([]);
    expect(decodeChangedNamespaces(place(4096, [0, 'ffffffff']))).to.equal(undefined);
    expect(wireError(() => decodeChangedNamespaces(new Uint8Array(4095))).reason).to.equal('short');
    expect(wireError(() => decodeChangedNamespaces(new Uint8Array(3))).reason).to.equal('short');
  });
});

describe('wire/cold lists: controllers', () => {
  it('builds and reads a count and the identifiers', () => {
    const bytes = place(4096, [0, '0300 0000 0100 efff']);
    expect(encodeControllerList([0, 1, 0xffef])).to.deep.equal(bytes);
    expect(decodeControllerList(bytes)).to.deep.equal([0, 1, 0xffef]);
    expect(decodeControllerList(new Uint8Array(4096))).to.deep.equal([]);
  });

  it('holds 2047 and no more', () => {
    const full = Array.from({ length: 2047 }, (_, i) => i);
    expect(decodeControllerList(encodeControllerList(full))).to.deep.equal(full);
    expect(wireError(() => encodeControllerList([...full, 2047])).reason).to.equal('range');
    expect(wireError(() => decodeControllerList(place(4096, [0, '0008'])))).to.include({
      reason: 'invalid',
      field: 'numid',
    });
  });

  it('refuses what does not ascend or does not fit', () => {
    expect(wireError(() => encodeControllerList([1, 1])).reason).to.equal('invalid');
    expect(wireError(() => decodeControllerList(place(4096, [0, '0200 0200 0100']))).reason).to.equal('invalid');
    expect(wireError(() => encodeControllerList([0x10000])).reason).to.equal('range');
    expect(wireError(() => decodeControllerList(new Uint8Array(4095))).reason).to.equal('short');
  });
});

describe('wire/cold lists: namespace identification descriptors', () => {
  const EUI64 = '002538b1b1b1b1b1';
  const NGUID = '0123456789abcdeffedcba9876543210';
  const UUID = 'f81d4fae7dec11d0a76500a0c91e6bf6';
  const BYTES = place(4096, [0, `01 08 0000 ${EUI64} 02 10 0000 ${NGUID} 03 10 0000 ${UUID} 04 01 0000 00`]);
  const VALUE = { eui64: hex(EUI64), nguid: hex(NGUID), uuid: hex(UUID), csi: 0 };

  it('builds and reads all four types', () => {
    expect(encodeNamespaceDescriptors(VALUE)).to.deep.equal(BYTES);
    expect(decodeNamespaceDescriptors(BYTES)).to.deep.equal(VALUE);
  });

  it('builds and reads one, and none', () => {
    const one = place(4096, [0, `03 10 0000 ${UUID}`]);
    expect(encodeNamespaceDescriptors({ uuid: hex(UUID) })).to.deep.equal(one);
    expect(decodeNamespaceDescriptors(one)).to.deep.equal({ uuid: hex(UUID) });
    expect(decodeNamespaceDescriptors(new Uint8Array(4096))).to.deep.equal({});
  });

  it('skips types it does not know, keeps the first of two, ignores reserved bytes', () => {
    const bytes = place(4096, [0, '09 03 ffff 010203 04 01 ffff 02 04 01 0000 01']);
    expect(decodeNamespaceDescriptors(bytes)).to.deep.equal({ csi: 2 });
  });

  it('ends at the first NIDL 0, whatever its type and whatever follows', () => {
    const bytes = place(4096, [0, '04 01 0000 02 01 00 0000 02 10 0000 ffffffff']);
    expect(decodeNamespaceDescriptors(bytes)).to.deep.equal({ csi: 2 });
  });

  it('refuses wrong lengths', () => {
    expect(wireError(() => encodeNamespaceDescriptors({ uuid: new Uint8Array(15) })).field).to.equal('nidl');
    expect(wireError(() => encodeNamespaceDescriptors({ csi: 256 })).field).to.equal('csi');
    for (const bad of ['01 10', '02 08', '03 11', '04 02']) {
      expect(wireError(() => decodeNamespaceDescriptors(place(4096, [0, bad])))).to.include({
        reason: 'invalid',
        fieldOffset: 1,
      });
    }
  });

  it('never reads past the end, wherever the bytes are cut', () => {
    const end = 8 + 16 + 16 + 1 + 4 * 4;
    const boundaries = new Set([0, 12, 32, 52, end]);
    for (let length = 0; length < end; length++) {
      const cut = BYTES.subarray(0, length);
      const inHeader = [0, 12, 32, 52].some((start) => length >= start && length < start + 4);
      // a header cut short is as good as the end; an identifier cut short is not
      if (boundaries.has(length) || inHeader) expect(() => decodeNamespaceDescriptors(cut), `${length}`).not.to.throw();
      else expect(wireError(() => decodeNamespaceDescriptors(cut)).reason, `${length}`).to.equal('invalid');
    }
    const unknown = new Uint8Array(4096).fill(0xff);
    expect(wireError(() => decodeNamespaceDescriptors(unknown)).reason).to.equal('invalid');
  });
});

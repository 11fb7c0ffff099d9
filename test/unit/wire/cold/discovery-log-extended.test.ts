/** Extended discovery log entries: bytes worked out by hand from Base 2.1 section 5.1.12.3.1. */
import { expect } from 'chai';
import {
  type DiscoveryLogEntry,
  decodeExtendedDiscoveryEntries,
  ExtendedAttribute,
  encodeExtendedDiscoveryEntry,
  textAttribute,
} from '../../../../src/wire.ts';
import { place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

const ascii = (text: string): string => Buffer.from(text).toString('hex');
const FIXED: readonly (readonly [number, string])[] = [
  [0, '03 01 02 06 0300 ffff 8000 0000'],
  [32, ascii('4420'.padEnd(32))],
  [256, ascii('nqn.2026-01.org.example:disk')],
  [512, ascii('192.0.2.1'.padEnd(256))],
];
const ENTRY: DiscoveryLogEntry = {
  trtype: 3,
  adrfam: 1,
  subtype: 2,
  treq: 6,
  portid: 3,
  cntlid: 0xffff,
  asqsz: 128,
  eflags: 0,
  trsvcid: '4420',
  subnqn: 'nqn.2026-01.org.example:disk',
  traddr: '192.0.2.1',
  sectype: 0,
};
const PLAIN = place(1032, ...FIXED, [1024, '08040000 0000 0000']);
/** A symbolic name of five characters, padded to eight, and a host identifier. */
const WITH_ATTRIBUTES = place(
  1032 + 12 + 20,
  ...FIXED,
  [1024, '28040000 0200 0000'],
  [1032, `0200 0800 ${ascii('front')}`],
  [1044, '0100 1000 000102030405060708090a0b0c0d0e0f'],
);
const ATTRIBUTES = [
  textAttribute(ExtendedAttribute.SymbolicName, 'front'),
  { type: ExtendedAttribute.HostId, value: Uint8Array.from({ length: 16 }, (_, i) => i) },
];

describe('wire: extended discovery log entries', () => {
  it('are encoded', () => {
    expect(encodeExtendedDiscoveryEntry(ENTRY)).to.deep.equal(PLAIN);
    expect(encodeExtendedDiscoveryEntry(ENTRY, ATTRIBUTES)).to.deep.equal(WITH_ATTRIBUTES);
  });

  it('are decoded one after the other, each by its own length', () => {
    const bytes = Buffer.concat([WITH_ATTRIBUTES, PLAIN, new Uint8Array(2000)]);
    expect(decodeExtendedDiscoveryEntries(bytes, 2)).to.deep.equal([
      { ...ENTRY, attributes: ATTRIBUTES },
      { ...ENTRY, attributes: [] },
    ]);
    expect(decodeExtendedDiscoveryEntries(bytes, 0)).to.deep.equal([]);
  });

  it('truncated at any byte: short or invalid, never a wrong entry', () => {
    for (let length = 0; length < WITH_ATTRIBUTES.length; length++) {
      const { reason } = wireError(() => decodeExtendedDiscoveryEntries(WITH_ATTRIBUTES.subarray(0, length), 1));
      expect(reason, `${length} bytes`).to.equal(length < 1032 ? 'short' : 'invalid');
    }
  });

  it('a TEL below the fixed part, and attributes past TEL: invalid', () => {
    for (const tel of ['00000000', '07040000']) {
      const bytes = place(1032, ...FIXED, [1024, tel]);
      expect(wireError(() => decodeExtendedDiscoveryEntries(bytes, 1))).to.include({ reason: 'invalid', field: 'tel' });
    }
    for (const [at, text] of [
      [1028, '0300'], // one attribute more than there are
      [1034, '0c00'], // the first is longer, which moves the second past the end
      [1046, '1400'],
    ] as const) {
      const bytes = Uint8Array.from(WITH_ATTRIBUTES);
      bytes.set(place(2, [0, text]), at);
      const error = wireError(() => decodeExtendedDiscoveryEntries(bytes, 1));
      expect(error, `offset ${at}`).to.include({ reason: 'invalid', field: 'numexat' });
    }
  });

  it('an attribute whose length is no multiple of 4 is refused', () => {
    const odd = { type: 2, value: new Uint8Array(5) };
    expect(wireError(() => encodeExtendedDiscoveryEntry(ENTRY, [odd]))).to.include({ reason: 'range' });
  });
});

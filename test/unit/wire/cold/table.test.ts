import { expect } from 'chai';
import { AssertionError } from '../../../../src/util/assert.ts';
import { type Codec, structure, type Table } from '../../../../src/wire/cold/table.ts';
import { hex } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

/** A structure of one field, typed loosely: these tests pass what types would forbid. */
function single(row: readonly unknown[], size: number): Codec<{ v: unknown }> {
  return structure('S', size, [row] as unknown as Table);
}

describe('wire/cold table: integers', () => {
  const KINDS: readonly (readonly [kind: string, size: number])[] = [
    ['u8', 1],
    ['u16', 2],
    ['u24', 3],
    ['u32', 4],
    ['u48', 6],
  ];
  for (const [kind, size] of KINDS) {
    const codec = single([0, 'v', kind], size);
    const max = 2 ** (8 * size) - 1;

    it(`${kind} takes 0 to ${max} and writes it little-endian`, () => {
      expect(codec.encode({ v: max })).to.deep.equal(new Uint8Array(size).fill(0xff));
      expect(codec.encode({ v: max - 1 })).to.deep.equal(new Uint8Array(size).fill(0xff).fill(0xfe, 0, 1));
      expect(codec.decode(new Uint8Array(size).fill(0xff)).v).to.equal(max);
      const ascending = Uint8Array.from({ length: size }, (_, i) => i + 0x81);
      const number = [...ascending].reduceRight((sum, byte) => sum * 256 + byte, 0);
      expect(codec.encode({ v: number })).to.deep.equal(ascending);
      expect(codec.decode(ascending).v).to.equal(number);
    });

    it(`${kind} refuses what it cannot hold instead of clamping it`, () => {
      for (const v of [-1, max + 1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        const error = wireError(() => codec.encode({ v }));
        expect(error.reason, `${v}`).to.equal('range');
        expect(error.message).to.equal(`S.v is ${v}, allowed are integers from 0 to ${max}`);
      }
      for (const v of ['1', 1n, null, true, [1]]) expect(wireError(() => codec.encode({ v })).reason).to.equal('type');
    });
  }

  it('u64 and u128 are bigint through dwords', () => {
    const u64 = single([0, 'v', 'u64'], 8);
    expect(u64.encode({ v: 0xf1e2d3c4b5a69788n })).to.deep.equal(hex('8897a6b5c4d3e2f1'));
    expect(u64.decode(hex('8897a6b5c4d3e2f1')).v).to.equal(0xf1e2d3c4b5a69788n);
    const u128 = single([0, 'v', 'u128'], 16);
    const wide = 0x8f0e0d0c0b0a09080706050403020180n;
    expect(u128.encode({ v: wide })).to.deep.equal(hex('80 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 8f'));
    expect(u128.decode(u128.encode({ v: wide })).v).to.equal(wide);
  });

  it('u64 and u128 refuse numbers and what is out of range', () => {
    for (const [kind, size] of [['u64', 8] as const, ['u128', 16] as const]) {
      const codec = single([0, 'v', kind], size);
      expect(wireError(() => codec.encode({ v: -1n })).reason).to.equal('range');
      expect(wireError(() => codec.encode({ v: 1n << BigInt(8 * size) })).reason).to.equal('range');
      expect(wireError(() => codec.encode({ v: 1 })).reason).to.equal('type');
      expect(codec.encode({ v: (1n << BigInt(8 * size)) - 1n })).to.deep.equal(new Uint8Array(size).fill(0xff));
    }
  });

  it('a mask hides reserved bits from decode and refuses them in encode', () => {
    const codec = single([0, 'v', 'u32', 0x8000_0003], 4);
    expect(codec.decode(hex('ff ff ff ff')).v).to.equal(0x8000_0003);
    expect(codec.encode({ v: 0x8000_0001 })).to.deep.equal(hex('01 00 00 80'));
    expect(wireError(() => codec.encode({ v: 4 })).reason).to.equal('range');
  });
});

describe('wire/cold table: strings and bytes', () => {
  const text = single([0, 'v', 'text', 8], 8);
  const ascii = single([0, 'v', 'ascii', 8], 8);
  const bytes = single([0, 'v', 'bytes', 4], 4);

  it('text is UTF-8 with a NUL, padded with NULs', () => {
    expect(text.encode({ v: 'aöb' })).to.deep.equal(hex('61 c3b6 62 00 00 00 00'));
    expect(text.encode({ v: '1234567' })).to.deep.equal(hex('31323334353637 00'));
    expect(text.decode(hex('61 c3b6 62 00 ff fe 01')).v).to.equal('aöb');
    expect(text.decode(hex('0061626364656667')).v).to.equal('');
    expect(text.decode(hex('efbbbf 61 00 00 00 00')).v, 'a byte order mark is a character').to.equal('\ufeffa');
  });

  it('text without a NUL is an error at once, and tells so', () => {
    const error = wireError(() => text.decode(hex('4141414141414141')));
    expect(error).to.include({ reason: 'unterminated', structure: 'S', field: 'v', fieldOffset: 0 });
    expect(error.code).to.equal('NVMEOF_ERR_WIRE');
    expect(error.message).to.equal('S.v has no NUL in its 8 bytes');
  });

  it('text that is not UTF-8 is an error', () => {
    for (const bad of ['ff', 'c3', 'c080', 'eda080', 'f8888080']) {
      const padded = new Uint8Array(8);
      padded.set(hex(bad));
      expect(wireError(() => text.decode(padded)).reason, bad).to.equal('encoding');
    }
  });

  it('text refuses what does not fit with its NUL, NULs, and lone surrogates', () => {
    expect(wireError(() => text.encode({ v: '12345678' })).message).to.equal(
      'S.v is 8 bytes long, allowed are 7 and a NUL',
    );
    expect(wireError(() => text.encode({ v: 'öööö' })).reason).to.equal('range');
    expect(wireError(() => text.encode({ v: 'a\0b' })).reason).to.equal('encoding');
    expect(wireError(() => text.encode({ v: 'a\ud800' })).reason).to.equal('encoding');
    expect(wireError(() => text.encode({ v: 7 })).reason).to.equal('type');
  });

  it('ascii is padded with spaces, and all zero if empty', () => {
    expect(ascii.encode({ v: 'SN 1' })).to.deep.equal(hex('534e2031 20202020'));
    expect(ascii.encode({ v: '12345678' })).to.deep.equal(hex('3132333435363738'));
    expect(ascii.encode({ v: '' })).to.deep.equal(new Uint8Array(8));
  });

  it('ascii is read whether padded with spaces or NULs, and never yields control characters', () => {
    expect(ascii.decode(hex('534e2031 20202020')).v).to.equal('SN 1');
    expect(ascii.decode(hex('34343230 00000000')).v).to.equal('4420');
    expect(ascii.decode(hex('2020 61 00 62626262')).v).to.equal('  a');
    expect(ascii.decode(hex('2020202020202020')).v).to.equal('');
    expect(ascii.decode(hex('1b5b324a 7f 80 ff 61')).v).to.equal('?[2J???a');
  });

  it('ascii refuses what does not fit or cannot be printed', () => {
    expect(wireError(() => ascii.encode({ v: '123456789' })).reason).to.equal('range');
    for (const v of ['ö', 'a\n', '\0', '\x7f'])
      expect(wireError(() => ascii.encode({ v })).reason).to.equal('encoding');
    expect(wireError(() => ascii.encode({ v: 7 })).reason).to.equal('type');
  });

  it('bytes have their exact length and are copied both ways', () => {
    expect(wireError(() => bytes.encode({ v: new Uint8Array(3) })).reason).to.equal('range');
    expect(wireError(() => bytes.encode({ v: new Uint8Array(5) })).reason).to.equal('range');
    expect(wireError(() => bytes.encode({ v: [1, 2, 3, 4] })).reason).to.equal('type');
    const source = Buffer.from([1, 2, 3, 4]);
    const encoded = bytes.encode({ v: source });
    const decoded = bytes.decode(source).v;
    source.fill(9);
    expect(encoded).to.deep.equal(hex('01020304'));
    expect(decoded).to.deep.equal(hex('01020304'));
  });
});

describe('wire/cold table: arrays', () => {
  const pair = structure<{ a: number; b: number }>('Pair', 2, [
    [0, 'a', 'u8'],
    [1, 'b', 'u8'],
  ]);
  const codec = structure<{ w: number[]; d: number[]; q: bigint[]; p: { a: number; b: number }[] }>(
    'Arrays',
    34,
    [
      [0, 'w', 'u16[]', 3],
      [6, 'd', 'u32[]', 2],
      [14, 'q', 'u64[]', 2],
      [30, 'p', 'array', 2, 2],
    ],
    { p: pair },
  );
  const BYTES = hex('0100 ffff 0000  02000000 feffffff  0300000000000000 ffffffffffffffff  0405 0607');
  const VALUE = {
    w: [1, 0xffff, 0],
    d: [2, 0xfffffffe],
    q: [3n, 0xffffffffffffffffn],
    p: [
      { a: 4, b: 5 },
      { a: 6, b: 7 },
    ],
  };

  it('hold integers and structures', () => {
    expect(codec.decode(BYTES)).to.deep.equal(VALUE);
    expect(codec.encode(VALUE)).to.deep.equal(BYTES);
  });

  it('may be given shorter, with elements left incomplete', () => {
    const bytes = codec.encode({ w: [1], d: [], p: [{ b: 9 }] });
    expect(bytes).to.deep.equal(hex(`0100 0000 0000 ${'00'.repeat(24)} 0009 0000`));
  });

  it('may not be given longer, nor hold what does not fit', () => {
    expect(wireError(() => codec.encode({ w: [1, 2, 3, 4] })).message).to.equal(
      'Arrays.w has 4 elements, allowed are at most 3',
    );
    expect(wireError(() => codec.encode({ d: [2 ** 32] })).field).to.equal('d');
    expect(wireError(() => codec.encode({ q: [-1n] })).field).to.equal('q');
    expect(wireError(() => codec.encode({ p: [{ a: 256 }] })).structure).to.equal('Pair');
    expect(wireError(() => codec.encode({ p: [{}, {}, {}] })).field).to.equal('p');
    expect(wireError(() => codec.encode({ w: 'no' as unknown as number[] })).reason).to.equal('type');
  });
});

describe('wire/cold table: declarations', () => {
  const U8 = [0, 'a', 'u8'] as const;

  it('refuses gaps, overlaps and wrong sizes when the module loads', () => {
    expect(() => structure('S', 3, [U8, [2, 'b', 'u8']])).to.throw(AssertionError, 'S.b is declared at 2');
    expect(() => structure('S', 1, [U8, [0, 'b', 'u8']])).to.throw(AssertionError, 'S.b is declared at 0');
    expect(() => structure('S', 2, [U8])).to.throw(AssertionError, 'S declares 1 bytes, not 2');
    expect(() => structure('S', 1, [[0, 'reserved', 0], U8])).to.throw(AssertionError);
    expect(() => structure('S', 1, [[0, 'a', 'bytes', 0], U8])).to.throw(AssertionError);
    expect(() => structure('S', 2.5, [[0, 'a', 'bytes', 2.5]])).to.throw(AssertionError);
  });

  it('refuses duplicate names, masks that do not fit, and arrays without their codec', () => {
    expect(() => structure('S', 2, [U8, [1, 'a', 'u8']])).to.throw(AssertionError, 'declared twice');
    expect(() => structure('S', 1, [[0, 'a', 'u8', 0x100]])).to.throw(AssertionError, 'mask');
    expect(() => structure('S', 3, [[0, 'a', 'u24', 1]])).to.throw(AssertionError, 'mask');
    expect(() => structure('S', 2, [[0, 'a', 'array', 1, 2]])).to.throw(AssertionError, 'needs a codec');
    const codec = structure('E', 1, [U8]);
    expect(() => structure('S', 4, [[0, 'a', 'array', 2, 2]], { a: codec })).to.throw(AssertionError, 'elements of 2');
    expect(() => structure('S', 1, [U8], { z: codec })).to.throw(AssertionError, 'S.z is not in the table');
  });

  it('takes any name: letters, digits and underscores of names are no format', () => {
    const codec = structure<Record<string, number>>('S', 6, [
      [0, 'B_4', 'u8'],
      [1, '2I', 'u8'],
      [2, 'S', 'u16'],
      [4, 'x3', 'u8'],
      [5, 'reserved', 1],
    ]);
    expect(codec.decode(hex('01 02 0304 05 06'))).to.deep.equal({ B_4: 1, '2I': 2, S: 0x0403, x3: 5 });
    expect(codec.encode({ B_4: 1, '2I': 2, S: 0x0403, x3: 5 })).to.deep.equal(hex('01 02 0304 05 00'));
  });

  it('knows the offset of every field', () => {
    const codec = structure<{ a: number; b: number }>('S', 4, [U8, [1, 'reserved', 1], [2, 'b', 'u16']]);
    expect([codec.offsetOf('a'), codec.offsetOf('b')]).to.deep.equal([0, 2]);
    expect(() => codec.offsetOf('c' as 'a')).to.throw(AssertionError);
  });
});

describe('wire/cold table: use', () => {
  const codec = structure<{ a: number; b: number }>('S', 4, [
    [0, 'a', 'u8'],
    [1, 'reserved', 1],
    [2, 'b', 'u16'],
  ]);

  it('zeroes reserved bytes of the buffer it writes into', () => {
    const bytes = new Uint8Array(4).fill(0xee);
    codec.encodeInto(bytes, 0, { a: 1, b: 2 });
    expect(bytes).to.deep.equal(hex('01 00 0200'));
  });

  it('writes nothing if one value is refused', () => {
    const bytes = new Uint8Array(4).fill(0xee);
    wireError(() => codec.encodeInto(bytes, 0, { a: 1, b: -1 }));
    expect(bytes).to.deep.equal(new Uint8Array(4).fill(0xee));
  });

  it('takes a room too small and unknown fields for bugs', () => {
    expect(() => codec.encodeInto(new Uint8Array(4), 1, {})).to.throw(AssertionError, 'does not fit');
    expect(() => codec.encodeInto(new Uint8Array(4), -1, {})).to.throw(AssertionError);
    expect(() => codec.decode(new Uint8Array(9), -1)).to.throw(AssertionError);
    expect(() => codec.decode(new Uint8Array(9), 0.5)).to.throw(AssertionError);
    expect(() => codec.encode({ c: 1 } as object)).to.throw(AssertionError, 'S has no field c');
  });

  it('names what is short', () => {
    expect(wireError(() => codec.decode(new Uint8Array(9), 6)).message).to.equal('S is 3 bytes long, 4 are needed');
    expect(wireError(() => codec.decode(new Uint8Array(3), 9)).message).to.equal('S is 0 bytes long, 4 are needed');
  });

  it('treats a field given as undefined as left out', () => {
    expect(codec.encode({ a: undefined, b: 1 })).to.deep.equal(hex('00 00 0100'));
  });

  it('reads memory shared between threads', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(8));
    shared.set(hex('61 62 00'), 2);
    expect(single([0, 'v', 'text', 4], 4).decode(shared, 2).v).to.equal('ab');
  });
});

/**
 * Structures of the control path, declared once: a table of fields gives the layout, the checks, and the TypeScript type. The only importer of
 * bufferpack, whose formats are generated here and never written by hand (it skips letters it does not know, clamps numbers, and returns
 * falsy values instead of throwing).
 *
 * A table is a literal, one row a field in wire order, offsets as the specification prints them:
 *
 *     const IC_RESP = [
 *       [8, 'pfv', 'u16'],
 *       [11, 'dgst', 'u8', 0x03],    bits outside the mask are reserved: ignored by decode, refused by encode
 *       [16, 'reserved', 112],       zeroed by encode, ignored by decode
 *     ] as const;
 *
 * | Kind | Value | Wire form |
 * |---|---|---|
 * | u8 u16 u24 u32 u48 | number | little-endian |
 * | u64 u128 | bigint | little-endian |
 * | bytes n | Uint8Array of exactly n | as is |
 * | ascii n | string | padded with spaces; all zero if empty. Decode stops at a NUL, drops trailing spaces, shows unprintable bytes as `?` |
 * | text n | string | UTF-8, NUL-terminated and padded with NULs |
 * | u16[] u32[] u64[] n | array of n | an array given to encode may be shorter: the rest is zero |
 * | array size n | array of n structures of `size` bytes | their codec is passed beside the table |
 */
import bufferpack from 'bufferpack';
import { assert } from '../../util/assert.ts';
import { WireError } from './wire-error.ts';

type NumberKind = 'u8' | 'u16' | 'u24' | 'u32' | 'u48';
type BigintKind = 'u64' | 'u128';
type SizedKind = 'bytes' | 'ascii' | 'text' | 'u16[]' | 'u32[]' | 'u64[]';

/** One field: `[offset, name, kind, ...]`; see the top of this file. */
export type Row =
  | readonly [offset: number, name: string, kind: NumberKind, mask?: number]
  | readonly [offset: number, name: string, kind: BigintKind]
  | readonly [offset: number, name: string, kind: SizedKind, count: number]
  | readonly [offset: number, name: string, kind: 'array', elementBytes: number, count: number]
  | readonly [offset: number, reserved: 'reserved', bytes: number];
export type Table = readonly Row[];

type ValueOf<R, Nested> = R extends readonly [number, infer Name, infer Kind, ...unknown[]]
  ? Kind extends NumberKind
    ? number
    : Kind extends BigintKind
      ? bigint
      : Kind extends 'bytes'
        ? Uint8Array
        : Kind extends 'ascii' | 'text'
          ? string
          : Kind extends 'u16[]' | 'u32[]'
            ? number[]
            : Kind extends 'u64[]'
              ? bigint[]
              : Name extends keyof Nested
                ? Nested[Name][]
                : never
  : never;

/** The TypeScript type of a table's structure; `Nested` names the element types of its `array` fields. */
export type Decoded<T extends Table, Nested = object> = {
  [R in T[number] as R extends readonly [number, infer Name extends string, string, ...unknown[]]
    ? Name
    : never]: ValueOf<R, Nested>;
};

/** What `encode` takes: every field may be left out (zero), arrays may be shorter (the rest is zero). */
export type Encodable<T> = {
  readonly [K in keyof T]?:
    | (T[K] extends Uint8Array
        ? Uint8Array
        : T[K] extends readonly (infer E)[]
          ? readonly (E extends object ? Encodable<E> : E)[]
          : T[K])
    | undefined;
};

/** Encoder and decoder of one fixed-size structure. @public */
export interface Codec<T> {
  /** The structure's name, for messages. */
  readonly name: string;
  /** Bytes of the structure. */
  readonly size: number;
  /** Byte offset of a field. */
  offsetOf(field: keyof T & string): number;
  /**
   * @returns a new array of `size` bytes; fields left out and reserved bytes are zero
   * @throws WireError if a value does not fit its field
   */
  encode(value: Encodable<T>): Uint8Array;
  /** Writes `size` bytes at `offset`; as `encode`. */
  encodeInto(bytes: Uint8Array, offset: number, value: Encodable<T>): void;
  /**
   * @returns a value that shares no memory with `bytes`
   * @throws WireError if fewer than `size` bytes follow `offset`, or a text field is not terminated
   */
  decode(bytes: Uint8Array, offset?: number): T;
}

type Raw = number | Uint8Array;
/** One compiled field: `letters` of the format stand for `rawCount` positional values. */
interface Field {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  readonly format: string;
  readonly rawCount: number;
  /** Appends exactly `rawCount` values. */
  encode(value: unknown, raw: Raw[]): void;
  decode(raw: readonly Raw[], at: number): unknown;
}

/** What an `array` field needs of its elements' codec. */
interface ElementCodec {
  readonly size: number;
  encodeInto(bytes: Uint8Array, offset: number, value: never): void;
  decode(bytes: Uint8Array, offset: number): unknown;
}
type ElementCodecs = Readonly<Record<string, ElementCodec>>;

/** Compiles a table; asserts that its offsets are gapless and that its fields make up `size` bytes. */
export function structure<T>(name: string, size: number, table: Table, nested: ElementCodecs = {}): Codec<T> {
  return new TableCodec<T>(name, size, table, nested);
}

class TableCodec<T> implements Codec<T> {
  readonly name: string;
  readonly size: number;
  readonly #format: string;
  readonly #fields: readonly Field[];
  readonly #offsets: ReadonlyMap<string, number>;

  constructor(name: string, size: number, table: Table, nested: ElementCodecs) {
    const fields: Field[] = [];
    const offsets = new Map<string, number>();
    let format = '<';
    let end = 0;
    for (const row of table) {
      assert(row[0] === end, `${name}.${row[1]} is declared at ${row[0]}, the field before it ends at ${end}`);
      const piece = isReserved(row) ? undefined : compile(name, row, nested);
      if (piece !== undefined) {
        assert(!offsets.has(piece.name), `${name}.${piece.name} is declared twice`);
        fields.push(piece);
        offsets.set(piece.name, piece.offset);
      }
      const pieceFormat = piece?.format ?? `${row[2]}x`;
      const pieceSize = piece?.size ?? Number(row[2]);
      assert(
        Number.isInteger(pieceSize) && pieceSize > 0 && bufferpack.calcLength(`<${pieceFormat}`) === pieceSize,
        `${name}.${row[1]} has format ${pieceFormat}, which is not ${pieceSize} bytes`,
      );
      format += pieceFormat;
      end += pieceSize;
    }
    assert(end === size, `${name} declares ${end} bytes, not ${size}`);
    assert(bufferpack.calcLength(format) === size, `${name} has a format of other than ${size} bytes`);
    for (const key of Object.keys(nested)) assert(offsets.has(key), `${name}.${key} is not in the table`);
    this.name = name;
    this.size = size;
    this.#format = format;
    this.#fields = fields;
    this.#offsets = offsets;
  }

  offsetOf(field: keyof T & string): number {
    const offset = this.#offsets.get(field);
    assert(offset !== undefined, `${this.name} has no field ${field}`);
    return offset;
  }

  encode(value: Encodable<T>): Uint8Array {
    const bytes = new Uint8Array(this.size);
    this.encodeInto(bytes, 0, value);
    return bytes;
  }

  encodeInto(bytes: Uint8Array, offset: number, value: Encodable<T>): void {
    assert(
      Number.isInteger(offset) && offset >= 0 && offset + this.size <= bytes.length,
      `${this.name} does not fit into ${bytes.length} bytes at ${offset}`,
    );
    const values = value as Readonly<Record<string, unknown>>;
    for (const key of Object.keys(values)) assert(this.#offsets.has(key), `${this.name} has no field ${key}`);
    const raw: Raw[] = [];
    for (const field of this.#fields) field.encode(values[field.name], raw);
    const done = bufferpack.packTo(this.#format, bytes, offset, raw);
    assert(done !== false, `${this.name} was not packed`);
  }

  decode(bytes: Uint8Array, offset = 0): T {
    assert(Number.isInteger(offset) && offset >= 0, `${this.name} cannot be at ${offset}`);
    const available = Math.max(0, bytes.length - offset);
    if (available < this.size) {
      throw new WireError('short', this.name, undefined, 0, `is ${available} bytes long, ${this.size} are needed`);
    }
    // A plain Uint8Array, since bufferpack takes byte fields with slice(), and Buffer's does not copy
    const plain = new Uint8Array(bytes.buffer, bytes.byteOffset + offset, this.size);
    const raw = bufferpack.unpack(this.#format, plain, 0);
    assert(raw !== undefined, `${this.name} was not unpacked`);
    const value: Record<string, unknown> = {};
    let at = 0;
    for (const field of this.#fields) {
      value[field.name] = field.decode(raw, at);
      at += field.rawCount;
    }
    assert(at === raw.length, `${this.name} unpacked to ${raw.length} values, not ${at}`);
    return value as T;
  }
}

function isReserved(row: Row): row is readonly [number, 'reserved', number] {
  return typeof row[2] === 'number';
}

type FieldRow = Exclude<Row, readonly [number, 'reserved', number]>;

function compile(structureName: string, row: FieldRow, nested: ElementCodecs): Field {
  const [offset, name, kind] = row;
  const place: Place = { structureName, name, offset };
  switch (kind) {
    case 'u8':
    case 'u16':
    case 'u24':
    case 'u32':
    case 'u48':
      return numberField(place, kind, row[3]);
    case 'u64':
    case 'u128':
      return bigintField(place, kind === 'u64' ? 2 : 4);
    case 'bytes':
      return bytesField(place, row[3]);
    case 'ascii':
      return stringField(place, row[3], encodeAscii, decodeAscii);
    case 'text':
      return stringField(place, row[3], encodeText, decodeText);
    case 'u16[]':
      return numbersField(place, 2, row[3]);
    case 'u32[]':
      return numbersField(place, 4, row[3]);
    case 'u64[]':
      return bigintsField(place, row[3]);
    case 'array': {
      const codec = nested[name];
      assert(codec !== undefined, `${structureName}.${name} needs a codec`);
      assert(codec.size === row[3], `${structureName}.${name} declares elements of ${row[3]} bytes, not ${codec.size}`);
      return arrayField(place, codec, row[4]);
    }
  }
}

/** Where a field stands; and how a complaint about it is made. */
interface Place {
  readonly structureName: string;
  readonly name: string;
  readonly offset: number;
}

function fail(place: Place, reason: WireError['reason'], detail: string, options?: { cause?: unknown }): WireError {
  return new WireError(reason, place.structureName, place.name, place.offset, detail, options);
}

/** Never more than a line of what may come from anywhere. */
function show(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

function checkNumber(place: Place, value: unknown, max: number): number {
  if (value === undefined) return 0;
  if (typeof value !== 'number') throw fail(place, 'type', `is ${typeof value} ${show(value)}, not a number`);
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw fail(place, 'range', `is ${value}, allowed are integers from 0 to ${max}`);
  }
  return value;
}

function checkBigint(place: Place, value: unknown, bits: bigint): bigint {
  if (value === undefined) return 0n;
  if (typeof value !== 'bigint') throw fail(place, 'type', `is ${typeof value} ${show(value)}, not a bigint`);
  if (value < 0n || value >> bits !== 0n) throw fail(place, 'range', `is ${value}, allowed are 0 to 2^${bits} - 1`);
  return value;
}

function checkArray(place: Place, value: unknown, count: number): readonly unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw fail(place, 'type', `is ${show(value)}, not an array`);
  if (value.length > count) throw fail(place, 'range', `has ${value.length} elements, allowed are at most ${count}`);
  return value;
}

/** Wide numbers are two positional values: the low part and the rest. */
const NUMBER_KINDS = {
  u8: { format: 'B', size: 1, lowScale: 0 },
  u16: { format: 'H', size: 2, lowScale: 0 },
  u24: { format: 'HB', size: 3, lowScale: 2 ** 16 },
  u32: { format: 'I', size: 4, lowScale: 0 },
  u48: { format: 'IH', size: 6, lowScale: 2 ** 32 },
} as const;

function numberField(place: Place, kind: NumberKind, mask: number | undefined): Field {
  const { format, size, lowScale } = NUMBER_KINDS[kind];
  const max = 2 ** (size * 8) - 1;
  assert(mask === undefined || (lowScale === 0 && mask > 0 && mask <= max), `${place.name} has a bad mask`);
  return {
    ...place,
    size,
    format,
    rawCount: lowScale === 0 ? 1 : 2,
    encode(value, raw) {
      const number = checkNumber(place, value, max);
      if (mask !== undefined && (number & ~mask) !== 0) {
        throw fail(place, 'range', `is 0x${number.toString(16)}, allowed are the bits 0x${mask.toString(16)}`);
      }
      if (lowScale === 0) raw.push(number);
      else raw.push(number % lowScale, Math.floor(number / lowScale));
    },
    decode(raw, at) {
      const low = raw[at] as number;
      if (mask !== undefined) return (low & mask) >>> 0;
      return lowScale === 0 ? low : low + (raw[at + 1] as number) * lowScale;
    },
  };
}

function pushBigint(value: bigint, dwords: number, raw: Raw[]): void {
  for (let i = 0; i < dwords; i++) raw.push(Number((value >> BigInt(32 * i)) & 0xffffffffn));
}

function joinBigint(raw: readonly Raw[], at: number, dwords: number): bigint {
  let value = 0n;
  for (let i = dwords - 1; i >= 0; i--) value = (value << 32n) | BigInt(raw[at + i] as number);
  return value;
}

function bigintField(place: Place, dwords: number): Field {
  return {
    ...place,
    size: dwords * 4,
    format: `${dwords}I`,
    rawCount: dwords,
    encode: (value, raw) => pushBigint(checkBigint(place, value, BigInt(dwords * 32)), dwords, raw),
    decode: (raw, at) => joinBigint(raw, at, dwords),
  };
}

function bytesField(place: Place, count: number): Field {
  return {
    ...place,
    size: count,
    format: `${count}A`,
    rawCount: 1,
    encode(value, raw) {
      const bytes = value === undefined ? new Uint8Array(count) : value;
      if (!(bytes instanceof Uint8Array)) throw fail(place, 'type', `is ${show(bytes)}, not a Uint8Array`);
      if (bytes.length !== count) throw fail(place, 'range', `is ${bytes.length} bytes long, allowed are ${count}`);
      raw.push(bytes);
    },
    decode: (raw, at) => raw[at],
  };
}

function stringField(
  place: Place,
  count: number,
  encode: (place: Place, value: string, count: number) => Uint8Array,
  decode: (place: Place, bytes: Uint8Array) => string,
): Field {
  return {
    ...place,
    size: count,
    format: `${count}A`,
    rawCount: 1,
    encode(value, raw) {
      const text = value === undefined ? '' : value;
      if (typeof text !== 'string') throw fail(place, 'type', `is ${show(text)}, not a string`);
      raw.push(encode(place, text, count));
    },
    decode: (raw, at) => decode(place, raw[at] as Uint8Array),
  };
}

function encodeAscii(place: Place, value: string, count: number): Uint8Array {
  if (value.length > count) throw fail(place, 'range', `is ${value.length} characters long, allowed are ${count}`);
  const bytes = new Uint8Array(count);
  if (value === '') return bytes;
  bytes.fill(0x20);
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code < 0x20 || code > 0x7e) throw fail(place, 'encoding', `is ${show(value)}, allowed is printable ASCII`);
    bytes[i] = code;
  }
  return bytes;
}

function decodeAscii(_place: Place, bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) {
    if (byte === 0) break;
    text += byte < 0x20 || byte > 0x7e ? '?' : String.fromCharCode(byte);
  }
  return text.trimEnd();
}

const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function encodeText(place: Place, value: string, count: number): Uint8Array {
  if (value.includes('\0')) throw fail(place, 'encoding', `is ${show(value)}, a NUL is not allowed`);
  if (/\p{Surrogate}/u.test(value))
    throw fail(place, 'encoding', `is ${show(value)}, which is not well-formed Unicode`);
  const encoded = utf8Encoder.encode(value);
  if (encoded.length >= count) {
    throw fail(place, 'range', `is ${encoded.length} bytes long, allowed are ${count - 1} and a NUL`);
  }
  const bytes = new Uint8Array(count);
  bytes.set(encoded);
  return bytes;
}

function decodeText(place: Place, bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  if (end < 0) throw fail(place, 'unterminated', `has no NUL in its ${bytes.length} bytes`);
  try {
    return utf8Decoder.decode(bytes.subarray(0, end));
  } catch (cause) {
    throw fail(place, 'encoding', 'is not UTF-8', { cause });
  }
}

function numbersField(place: Place, width: 2 | 4, count: number): Field {
  const max = 2 ** (width * 8) - 1;
  return {
    ...place,
    size: width * count,
    format: `${count}${width === 2 ? 'H' : 'I'}`,
    rawCount: count,
    encode(value, raw) {
      const given = checkArray(place, value, count);
      for (let i = 0; i < count; i++) raw.push(checkNumber(place, given[i], max));
    },
    decode: (raw, at) => raw.slice(at, at + count),
  };
}

function bigintsField(place: Place, count: number): Field {
  return {
    ...place,
    size: 8 * count,
    format: `${2 * count}I`,
    rawCount: 2 * count,
    encode(value, raw) {
      const given = checkArray(place, value, count);
      for (let i = 0; i < count; i++) pushBigint(checkBigint(place, given[i], 64n), 2, raw);
    },
    decode: (raw, at) => Array.from({ length: count }, (_, i) => joinBigint(raw, at + 2 * i, 2)),
  };
}

function arrayField(place: Place, codec: ElementCodec, count: number): Field {
  const size = codec.size * count;
  return {
    ...place,
    size,
    format: `${size}A`,
    rawCount: 1,
    encode(value, raw) {
      const given = checkArray(place, value, count);
      const bytes = new Uint8Array(size);
      given.forEach((element, i) => {
        codec.encodeInto(bytes, i * codec.size, element as never);
      });
      raw.push(bytes);
    },
    decode: (raw, at) => Array.from({ length: count }, (_, i) => codec.decode(raw[at] as Uint8Array, i * codec.size)),
  };
}

/**
 * Golden bytes for fixed-size structures, from layouts written as the specification prints them: `name first..last kind`. The bytes follow a
 * pattern in which no two neighbouring fields look alike and half of the fields have their top bit set; the expected values are read from them
 * here, by shifting, without the code under test. What no row names is reserved.
 *
 * | Kind | Value |
 * |---|---|
 * | none | number up to 6 bytes, bigint from 8 |
 * | `/03` | number; only the bits of the (hexadecimal) mask are defined |
 * | `bytes`, `ascii`, `text` | as in `wire/cold/table.ts` |
 * | `[4]` | array of little-endian integers of 4 bytes |
 * | `{lbaf}` | array of the named element layout |
 */
/** A codec of whatever type. */
export interface AnyCodec {
  readonly size: number;
  encode(value: never): Uint8Array;
  encodeInto(bytes: Uint8Array, offset: number, value: never): void;
  decode(bytes: Uint8Array, offset?: number): object;
}

export interface Layout {
  readonly codec: AnyCodec;
  readonly size: number;
  readonly fields: string;
  readonly elements?: Readonly<Record<string, { readonly size: number; readonly fields: string }>>;
}

export interface Golden {
  readonly bytes: Uint8Array;
  readonly value: Record<string, unknown>;
  /** For each byte the bits that a decoder must ignore. */
  readonly ignored: Uint8Array;
  /** First and last byte of each field. */
  readonly edges: readonly number[];
}

interface Row {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  readonly kind: string;
}

function parse(fields: string): Row[] {
  return fields
    .split(/[\n,]/)
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map((line) => {
      const [name, range, kind = ''] = line.split(/\s+/);
      const [first, last = first] = range!.split('..').map(Number);
      return { name: name!, first: first!, last: last!, kind };
    });
}

function pattern(i: number): number {
  return (i * 37 + (i >> 8) * 101 + 11) & 0xff;
}

/** Makes the golden bytes and the value they stand for. */
export function golden(layout: Layout): Golden {
  const bytes = new Uint8Array(layout.size);
  const ignored = new Uint8Array(layout.size).fill(0xff);
  const edges: number[] = [];
  const value = fill(layout, layout.fields, 0, bytes, ignored, edges);
  return { bytes, value, ignored, edges };
}

function fill(
  layout: Layout,
  fields: string,
  base: number,
  bytes: Uint8Array,
  ignored: Uint8Array,
  edges: number[],
): Record<string, unknown> {
  const value: Record<string, unknown> = {};
  for (const row of parse(fields)) {
    const first = base + row.first;
    const last = base + row.last;
    const element = /^\{(.+)\}$/.exec(row.kind)?.[1];
    if (element !== undefined) {
      const { size, fields: elementFields } = layout.elements![element]!;
      const list: unknown[] = [];
      for (let at = first; at < last; at += size) list.push(fill(layout, elementFields, at, bytes, ignored, edges));
      value[row.name] = list;
      continue;
    }
    edges.push(first, last);
    value[row.name] = field(row.kind, bytes.subarray(first, last + 1), ignored.subarray(first, last + 1), first);
  }
  return value;
}

function field(kind: string, bytes: Uint8Array, ignored: Uint8Array, first: number): unknown {
  ignored.fill(0);
  if (kind === 'ascii') {
    for (let i = 0; i < bytes.length; i++) bytes[i] = 0x41 + ((first + i * 5) % 26);
    bytes.fill(0x20, Math.ceil(bytes.length * 0.75));
    return String.fromCharCode(...bytes.subarray(0, Math.ceil(bytes.length * 0.75)));
  }
  if (kind === 'text') {
    const text = `nqn.2014-08.org.example:${first}:ö`;
    const encoded = new TextEncoder().encode(text);
    bytes.set(encoded);
    ignored.fill(0xff, encoded.length + 1); // the NUL itself matters, what follows does not
    return text;
  }
  for (let i = 0; i < bytes.length; i++) bytes[i] = pattern(first + i);
  if (kind === 'bytes') return Uint8Array.from(bytes);
  const width = /^\[(\d+)\]$/.exec(kind)?.[1];
  if (width !== undefined) {
    const list: (number | bigint)[] = [];
    for (let at = 0; at < bytes.length; at += Number(width)) list.push(integer(bytes.subarray(at, at + Number(width))));
    return list;
  }
  if (kind.startsWith('/')) {
    const mask = Number.parseInt(kind.slice(1), 16);
    bytes[0] = mask & 0xa5 || mask;
    ignored[0] = ~mask & 0xff;
    return bytes[0];
  }
  return integer(bytes);
}

function integer(bytes: Uint8Array): number | bigint {
  let value = 0n;
  for (let i = 0; i < bytes.length; i++) value |= BigInt(bytes[i]!) << BigInt(8 * i);
  return bytes.length >= 8 ? value : Number(value);
}

/** Bytes of a hexadecimal text; blanks are ignored. */
export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/\s/g, '');
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** `size` zero bytes with some filled: `[offset, hex]`. */
export function place(size: number, ...parts: readonly (readonly [number, string])[]): Uint8Array {
  const bytes = new Uint8Array(size);
  for (const [offset, text] of parts) bytes.set(hex(text), offset);
  return bytes;
}

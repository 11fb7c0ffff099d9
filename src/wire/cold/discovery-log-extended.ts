/**
 * Extended Discovery Log Page Entries (EXTDLPE): the fixed 1,024 bytes, how long the entry is, and attributes. Base 2.1 section 5.1.12.3.1
 * (TP8010).
 */
import { DISCOVERY_ENTRY_BYTES, type DiscoveryLogEntry, discoveryLogEntryCodec } from './discovery-log.ts';
import { type Codec, type Decoded, type Encodable, structure } from './table.ts';
import { WireError } from './wire-error.ts';

/** @public */
export const ExtendedAttribute = { HostId: 1, SymbolicName: 2 } as const;

const NAME = 'ExtendedDiscoveryLogEntry';
const TAIL_BYTES = 8;
const ATTRIBUTE_HEADER_BYTES = 4;
/** An entry without attributes. */
export const EXTENDED_ENTRY_BYTES_MIN: number = DISCOVERY_ENTRY_BYTES + TAIL_BYTES;

const TAIL = [
  [0, 'tel', 'u32'],
  [4, 'numexat', 'u16'],
  [6, 'reserved', 2],
] as const;
const tailCodec: Codec<Decoded<typeof TAIL>> = structure(`${NAME}Tail`, TAIL_BYTES, TAIL);
const ATTRIBUTE = [
  [0, 'exattype', 'u16'],
  [2, 'exatlen', 'u16'],
] as const;
const attributeCodec: Codec<Decoded<typeof ATTRIBUTE>> = structure(
  `${NAME}Attribute`,
  ATTRIBUTE_HEADER_BYTES,
  ATTRIBUTE,
);

/** @public */
export interface DiscoveryAttribute {
  /** `ExtendedAttribute`. */
  readonly type: number;
  /** EXATVAL; its length is EXATLEN, a multiple of 4. */
  readonly value: Uint8Array;
}

/** @public */
export interface ExtendedDiscoveryLogEntry extends DiscoveryLogEntry {
  attributes: DiscoveryAttribute[];
}

/** The attributes of a text: NUL padded to a multiple of 4. @public */
export function textAttribute(type: number, text: string): DiscoveryAttribute {
  const bytes = new TextEncoder().encode(text);
  const value = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
  value.set(bytes);
  return { type, value };
}

/** One entry. @throws WireError if a value does not fit @public */
export function encodeExtendedDiscoveryEntry(
  entry: Encodable<DiscoveryLogEntry>,
  attributes: readonly DiscoveryAttribute[] = [],
): Uint8Array {
  let length = EXTENDED_ENTRY_BYTES_MIN;
  for (const { value } of attributes) length += ATTRIBUTE_HEADER_BYTES + value.length;
  const bytes = new Uint8Array(length);
  discoveryLogEntryCodec.encodeInto(bytes, 0, entry);
  tailCodec.encodeInto(bytes, DISCOVERY_ENTRY_BYTES, { tel: length, numexat: attributes.length });
  let at = EXTENDED_ENTRY_BYTES_MIN;
  for (const { type, value } of attributes) {
    if (value.length % 4 !== 0) {
      throw new WireError('range', NAME, 'exatlen', at + 2, `is ${value.length}, it must be a multiple of 4`);
    }
    attributeCodec.encodeInto(bytes, at, { exattype: type, exatlen: value.length });
    bytes.set(value, at + ATTRIBUTE_HEADER_BYTES);
    at += ATTRIBUTE_HEADER_BYTES + value.length;
  }
  return bytes;
}

/**
 * Extended entries that follow each other.
 * @param count how many; @throws WireError `short` if `bytes` holds fewer, `invalid` if lengths contradict each other
 * @public
 */
export function decodeExtendedDiscoveryEntries(bytes: Uint8Array, count: number): ExtendedDiscoveryLogEntry[] {
  const entries: ExtendedDiscoveryLogEntry[] = [];
  for (let at = 0; entries.length < count; ) {
    if (at + EXTENDED_ENTRY_BYTES_MIN > bytes.length) {
      const detail = `has ${count} entries, which do not fit into ${bytes.length} bytes`;
      throw new WireError('short', NAME, 'numrec', 8, detail);
    }
    const { tel, numexat } = tailCodec.decode(bytes, at + DISCOVERY_ENTRY_BYTES);
    if (tel < EXTENDED_ENTRY_BYTES_MIN || at + tel > bytes.length) {
      const detail = `is ${tel}, allowed are ${EXTENDED_ENTRY_BYTES_MIN} to the ${bytes.length - at} bytes there are`;
      throw new WireError('invalid', NAME, 'tel', DISCOVERY_ENTRY_BYTES, detail);
    }
    entries.push({
      ...discoveryLogEntryCodec.decode(bytes, at),
      attributes: decodeAttributes(bytes.subarray(at, at + tel), numexat),
    });
    at += tel;
  }
  return entries;
}

function decodeAttributes(entry: Uint8Array, count: number): DiscoveryAttribute[] {
  const attributes: DiscoveryAttribute[] = [];
  for (let at = EXTENDED_ENTRY_BYTES_MIN; attributes.length < count; ) {
    const room = entry.length - at - ATTRIBUTE_HEADER_BYTES;
    const { exattype, exatlen } =
      room < 0 ? { exattype: 0, exatlen: Number.POSITIVE_INFINITY } : attributeCodec.decode(entry, at);
    if (exatlen > room) {
      const detail = `has ${count} attributes, which do not fit into the entry's ${entry.length} bytes`;
      throw new WireError('invalid', NAME, 'numexat', DISCOVERY_ENTRY_BYTES + 4, detail);
    }
    const from = at + ATTRIBUTE_HEADER_BYTES;
    attributes.push({ type: exattype, value: entry.slice(from, from + exatlen) });
    at = from + exatlen;
  }
  return attributes;
}

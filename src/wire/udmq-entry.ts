// @hot
/** User Data Migration Queue entry type 0 (32 bytes). NVM Command Set 1.2 section 5.6. */
import { EntryRange } from '../spec/migration.ts';

export const UDMQ_ENTRY_BYTES = 32;
/** Dwords of an entry: CDQSIZE counts in dwords. */
export const UDMQ_ENTRY_DWORDS = 8;
/** Byte with LBACIR, DLBA, ESA and the phase: written last. */
export const UDMQ_ATTRIBUTES_OFFSET = 31;
/** The most blocks of one entry: NLB is 0's based and has 32 bits. */
export const UDMQ_BLOCKS_MAX = 0x1_0000_0000;

/** Byte 31. @param sequence `EntrySequence` @param range `EntryRange` @param phase 0 or 1 */
export const udmqAttributes = (sequence: number, range: number, deallocated: boolean, phase: number): number =>
  (range << 6) | (deallocated ? 0x20 : 0) | (sequence << 1) | phase;

export const entryNsid = (v: DataView, base: number): number => v.getUint32(base, true);
/** Blocks of the range, 1 and more; 0 unless the entry has a range. */
export const entryBlockCount = (v: DataView, base: number): number =>
  entryRange(v, base) === EntryRange.Blocks ? v.getUint32(base + 4, true) + 1 : 0;
export const entrySlba = (v: DataView, base: number): number =>
  v.getUint32(base + 8, true) + v.getUint32(base + 12, true) * 0x1_0000_0000;
export const entryPhase = (v: DataView, base: number): number => v.getUint8(base + UDMQ_ATTRIBUTES_OFFSET) & 1;
export const entrySequence = (v: DataView, base: number): number =>
  (v.getUint8(base + UDMQ_ATTRIBUTES_OFFSET) >> 1) & 7;
export const entryDeallocated = (v: DataView, base: number): boolean =>
  (v.getUint8(base + UDMQ_ATTRIBUTES_OFFSET) & 0x20) !== 0;
export const entryRange = (v: DataView, base: number): number => v.getUint8(base + UDMQ_ATTRIBUTES_OFFSET) >> 6;

export const isDeallocated = (attributes: number): boolean => (attributes & 0x20) !== 0;
/** `EntryRange` of an entry's attributes. */
export const rangeOfAttributes = (attributes: number): number => attributes >> 6;

// ---- by words -------------------------------------------------------------------------------------------------------------------------
// A DataView takes twice the time, where each write of a host is an entry.

/** Words are in the machine's order, and entries are little-endian: this machine is not. */
export const UDMQ_WORDS_ARE_SWAPPED: boolean = new Uint8Array(Uint32Array.of(1).buffer)[0] !== 1;
const swapped = (word: number): number =>
  UDMQ_WORDS_ARE_SWAPPED
    ? ((word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24)) >>> 0
    : word;

/**
 * Writes an entry, but for what is reserved, which is zero from the start.
 * @param words whole entries
 * @param at the entry's first word
 * @param blockCount 1 to `UDMQ_BLOCKS_MAX`; 0 for an entry without a range
 * @param attributes byte 31
 */
export function writeEntry(
  words: Uint32Array,
  at: number,
  nsid: number,
  slba: number,
  blockCount: number,
  attributes: number,
): void {
  words[at] = swapped(nsid);
  words[at + 1] = blockCount === 0 ? 0 : swapped(blockCount - 1);
  words[at + 2] = swapped(slba); // modulo 2^32
  words[at + 3] = slba > 0xffff_ffff ? swapped(Math.floor(slba / 0x1_0000_0000)) : 0;
  words[at + 7] = swapped(attributes << 24);
}

export const entryWordNsid = (words: Uint32Array, at: number): number => swapped(words[at]!);
/** @returns 1 and more: only for an entry that has a range */
export const entryWordBlockCount = (words: Uint32Array, at: number): number => swapped(words[at + 1]!) + 1;
export const entryWordSlba = (words: Uint32Array, at: number): number =>
  swapped(words[at + 2]!) + swapped(words[at + 3]!) * 0x1_0000_0000;
export const entryWordAttributes = (words: Uint32Array, at: number): number => swapped(words[at + 7]!) >>> 24;

/**
 * The vendor part of a controller's state: what a guest or host could notice and version 0 of the specification does not carry. A list of blocks, each
 * with its kind, version and valid size, sealed by a CRC32C: a reader takes newer minor versions (longer blocks, kinds it may skip), and
 * refuses as a whole what is damaged or needs more than it knows. Layout: docs/live-migration.md.
 */
import { crc32c } from '../wire/crc32c.ts';
import { MigrationError } from './migration-error.ts';

/** UUID of this format in Identify CNS 20h and in the UUID list, bytes in RFC 9562 order. */
export const STATE_SECTION_UUID: Uint8Array = Uint8Array.from(Buffer.from('b1e2c6a04d0b4f7e9a536e766d666572', 'hex'));
const MAGIC = 0x59465f4e; // "N_FY", little-endian
const MAJOR = 1;
const HEADER_BYTES = 24;
const BLOCK_HEADER_BYTES = 16;
/** Blocks begin at multiples of this. */
const ALIGNMENT = 8;

/** One part of the state. */
export interface StateBlock {
  /** What it is about; each kind occurs once. */
  readonly kind: number;
  /** Of the block's layout; a higher one has only added to the end. */
  readonly version: number;
  /** A reader that does not know the kind must refuse the whole; false: it may skip the block. */
  readonly essential: boolean;
  readonly bytes: Uint8Array;
}

const align = (bytes: number): number => (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);

/** @param minor of the writer */
export function encodeStateSection(blocks: readonly StateBlock[], minor = 0): Uint8Array {
  const size = blocks.reduce((sum, block) => sum + BLOCK_HEADER_BYTES + align(block.bytes.length), HEADER_BYTES);
  const section = new Uint8Array(size);
  const view = new DataView(section.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, MAJOR, true);
  view.setUint16(6, minor, true);
  view.setUint32(8, size, true);
  view.setUint32(12, blocks.length, true);
  let offset = HEADER_BYTES;
  for (const { kind, version, essential, bytes } of blocks) {
    view.setUint16(offset, kind, true);
    view.setUint16(offset + 2, version, true);
    view.setUint32(offset + 4, essential ? 1 : 0, true);
    view.setUint32(offset + 8, bytes.length, true);
    section.set(bytes, offset + BLOCK_HEADER_BYTES);
    offset += BLOCK_HEADER_BYTES + align(bytes.length);
  }
  view.setUint32(16, crc32c(section), true); // with the field itself 0
  return section;
}

/** All that is in a section, of whatever minor version. */
export interface StateSection {
  /** Of the writer. */
  readonly minor: number;
  /** In the order in which they stand; copies. */
  readonly blocks: readonly StateBlock[];
}

/** The part begins as one of this format does. */
export const isStateSection = (part: Uint8Array): boolean =>
  part.length >= HEADER_BYTES && new DataView(part.buffer, part.byteOffset).getUint32(0, true) === MAGIC;

/**
 * @param known kinds that the reader understands
 * @returns the blocks of known kinds, by kind; copies
 * @throws MigrationError NVMEOF_ERR_STATE_FORMAT: damaged, of another major version, or with an essential block of an unknown kind
 */
export function decodeStateSection(section: Uint8Array, known: ReadonlySet<number>): Map<number, StateBlock> {
  const blocks = new Map<number, StateBlock>();
  for (const block of readStateSection(section).blocks) {
    if (known.has(block.kind)) blocks.set(block.kind, block);
    else if (block.essential) throw wrong(`needs a reader that knows blocks of kind ${block.kind}`);
  }
  return blocks;
}

/** @throws MigrationError NVMEOF_ERR_STATE_FORMAT: damaged, or of another major version */
export function readStateSection(section: Uint8Array): StateSection {
  const view = new DataView(section.buffer, section.byteOffset, section.byteLength);
  if (section.length < HEADER_BYTES || view.getUint32(0, true) !== MAGIC) throw wrong('is not of this format');
  const major = view.getUint16(4, true);
  if (major !== MAJOR) throw wrong(`has version ${major}, known is ${MAJOR}`);
  const size = view.getUint32(8, true);
  if (size < HEADER_BYTES || size > section.length || section.length - size >= ALIGNMENT) {
    throw wrong(`says ${size} bytes, there are ${section.length}`);
  }
  const sealed = section.slice(0, size);
  new DataView(sealed.buffer).setUint32(16, 0, true);
  if (crc32c(sealed) !== view.getUint32(16, true)) throw wrong('is damaged: its checksum differs');
  const blocks = new Map<number, StateBlock>();
  let offset = HEADER_BYTES;
  for (let i = view.getUint32(12, true); i > 0; i--) {
    if (offset + BLOCK_HEADER_BYTES > size) throw wrong('has fewer blocks than it says');
    const kind = view.getUint16(offset, true);
    const version = view.getUint16(offset + 2, true);
    const essential = (view.getUint32(offset + 4, true) & 1) !== 0;
    const length = view.getUint32(offset + 8, true);
    const start = offset + BLOCK_HEADER_BYTES;
    if (length > size - start) throw wrong(`has a block of kind ${kind} that does not end in it`);
    if (blocks.has(kind)) throw wrong(`has two blocks of kind ${kind}`);
    blocks.set(kind, { kind, version, essential, bytes: section.slice(start, start + length) });
    offset = start + align(length);
  }
  if (offset !== size) throw wrong('has bytes that belong to no block');
  return { minor: view.getUint16(6, true), blocks: [...blocks.values()] };
}

function wrong(what: string): MigrationError {
  return new MigrationError('NVMEOF_ERR_STATE_FORMAT', `Controller state ${what}`);
}

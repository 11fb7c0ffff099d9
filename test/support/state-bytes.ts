/** A controller's state taken apart and put together by hand: docs/live-migration-over-tcp.md, "Suspend, and the state". */
import { crc32c } from '@node-rs/crc32';

export interface RawBlock {
  kind: number;
  version: number;
  essential: boolean;
  bytes: Buffer;
}

const HEADER = 48;
const SECTION = 24;
const align = (bytes: number): number => Math.ceil(bytes / 8) * 8;

/** @param state without an NVMe part */
export function blocksOf(state: Buffer): RawBlock[] {
  const section = state.subarray(HEADER);
  let at = SECTION;
  return Array.from({ length: section.readUInt32LE(12) }, (): RawBlock => {
    const length = section.readUInt32LE(at + 8);
    const block = {
      kind: section.readUInt16LE(at),
      version: section.readUInt16LE(at + 2),
      essential: (section.readUInt32LE(at + 4) & 1) === 1,
      bytes: Buffer.from(section.subarray(at + 16, at + 16 + length)),
    };
    at += 16 + align(length);
    return block;
  });
}

/** The whole structure, sealed. */
export function stateOf(blocks: readonly RawBlock[], fields: { minor?: number; major?: number } = {}): Buffer {
  const size = blocks.reduce((sum, { bytes }) => sum + 16 + align(bytes.length), SECTION);
  const state = Buffer.alloc(HEADER + size);
  const section = state.subarray(HEADER);
  state.writeUInt32LE(size / 4, 32);
  section.write('N_FY', 0, 'latin1');
  section.writeUInt16LE(fields.major ?? 1, 4);
  section.writeUInt16LE(fields.minor ?? 0, 6);
  section.writeUInt32LE(size, 8);
  section.writeUInt32LE(blocks.length, 12);
  let at = SECTION;
  for (const { kind, version, essential, bytes } of blocks) {
    section.writeUInt16LE(kind, at);
    section.writeUInt16LE(version, at + 2);
    section.writeUInt32LE(essential ? 1 : 0, at + 4);
    section.writeUInt32LE(bytes.length, at + 8);
    bytes.copy(section, at + 16);
    at += 16 + align(bytes.length);
  }
  section.writeUInt32LE(crc32c(section), 16);
  return state;
}

/**
 * Log pages C8h and C9h, vendor specific: a User Data Migration Queue kept by the controller, and the blocks of a namespace that were changed. For hosts
 * behind NVMe/TCP, whose memory a controller cannot write. docs/live-migration-over-tcp.md
 */
import { UDMQ_ENTRY_BYTES } from '../udmq-entry.ts';
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

/** Of both pages, before their lists. */
export const MIGRATION_LOG_HEADER_BYTES = 64;

const QUEUE_HEADER = [
  [0, 'ver', 'u8'],
  [1, 'flags', 'u8', 0x0f],
  [2, 'cdqid', 'u16'],
  [4, 'cntlid', 'u16'], // whose changes are logged
  [6, 'esz', 'u16'], // bytes of an entry
  [8, 'head', 'u32'],
  [12, 'tail', 'u32'],
  [16, 'nent', 'u32'], // entries from HEAD on
  [20, 'cap', 'u32'], // slots
  [24, 'seq', 'u64'], // number of the entry at HEAD
  [32, 'nonce', 'u64'], // chosen at creation
  [40, 'reserved', 24],
] as const;
/** @public */
export type ResidentQueueHeader = Decoded<typeof QUEUE_HEADER>;
/** @public */
export const residentQueueHeaderCodec: Codec<ResidentQueueHeader> = structure(
  'ResidentQueueLog',
  MIGRATION_LOG_HEADER_BYTES,
  QUEUE_HEADER,
);
/** Bits of `ResidentQueueHeader.flags`. @public */
export const ResidentQueueFlag = { More: 0x01, Logging: 0x02, Full: 0x04, Suspended: 0x08 } as const;

/** Log page C8h. @public */
export interface ResidentQueueLog {
  readonly header: ResidentQueueHeader;
  /** Entries of 32 bytes each, from HEAD on. */
  readonly entries: Uint8Array;
}

/** @param bytes of log page C8h, from its beginning on @throws WireError if we do not know how it is laid out */
export function residentQueueHeaderOf(bytes: Uint8Array): ResidentQueueHeader {
  const header = residentQueueHeaderCodec.decode(bytes);
  if (header.ver !== 0) throw new WireError('invalid', 'ResidentQueueLog', 'ver', 0, `is ${header.ver}, known is 0`);
  if (header.esz !== UDMQ_ENTRY_BYTES) {
    throw new WireError('invalid', 'ResidentQueueLog', 'esz', 6, `is ${header.esz}, known is ${UDMQ_ENTRY_BYTES}`);
  }
  return header;
}

/** @param bytes header and entries; a part of an entry at the end is left out @throws WireError @public */
export function decodeResidentQueueLog(bytes: Uint8Array): ResidentQueueLog {
  const header = residentQueueHeaderOf(bytes);
  const there = Math.floor((bytes.length - MIGRATION_LOG_HEADER_BYTES) / UDMQ_ENTRY_BYTES);
  const count = Math.min(header.nent, there);
  return {
    header,
    entries: bytes.slice(MIGRATION_LOG_HEADER_BYTES, MIGRATION_LOG_HEADER_BYTES + count * UDMQ_ENTRY_BYTES),
  };
}

const CHANGED_HEADER = [
  [0, 'ver', 'u8'],
  [1, 'flags', 'u8', 0x03],
  [2, 'reserved', 2],
  [4, 'nsid', 'u32'],
  [8, 'epoch', 'u64'], // of the snapshot that follows; what acknowledges it
  [16, 'granule', 'u32'], // blocks
  [20, 'reserved', 4],
  [24, 'runs', 'u64'], // that follow
  [32, 'granules', 'u64'], // in them
  [40, 'reserved', 24],
] as const;
/** @public */
export type ChangedBlocksHeader = Decoded<typeof CHANGED_HEADER>;
/** @public */
export const changedBlocksHeaderCodec: Codec<ChangedBlocksHeader> = structure(
  'ChangedBlocksLog',
  MIGRATION_LOG_HEADER_BYTES,
  CHANGED_HEADER,
);

/** Bits of `ChangedBlocksHeader.flags`. `More`: the next snapshot has more of the same time. @public */
export const ChangedBlocksFlag = { Tracking: 0x01, More: 0x02 } as const;

/** First block (8 bytes), blocks (4, 0's based), reserved: by hand, since a page has 65,536 of them. */
export const CHANGED_RUN_BYTES = 16;

/** Consecutive blocks. @public */
export interface BlockRun {
  readonly slba: number;
  readonly blockCount: number;
}

/** @param blockCount 1 to 2^32 */
export function writeChangedRun(view: DataView, offset: number, slba: number, blockCount: number): void {
  view.setUint32(offset, slba >>> 0, true);
  view.setUint32(offset + 4, Math.floor(slba / 2 ** 32), true);
  view.setUint32(offset + 8, blockCount - 1, true);
}

/** The runs of a part of log page C9h behind its header. @throws WireError for a block address beyond 2^53 @public */
export function decodeChangedRuns(bytes: Uint8Array): BlockRun[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const runs: BlockRun[] = [];
  for (let at = 0; at + CHANGED_RUN_BYTES <= bytes.length; at += CHANGED_RUN_BYTES) {
    const slba = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    if (slba > Number.MAX_SAFE_INTEGER) {
      throw new WireError('range', 'ChangedBlocksRun', 'slba', 0, `is ${slba}, allowed are up to 2^53`);
    }
    runs.push({ slba, blockCount: view.getUint32(at + 8, true) + 1 });
  }
  return runs;
}

const CDQ_FEATURE = [
  [0, 'hp', 'u32'], // head slot
  [4, 'tpt', 'u32'], // trigger slot
  [8, 'reserved', 504],
] as const;
/** Data of Get Features 21h. Base 2.1 section 5.1.25.1.23. @public */
export type CdqFeature = Decoded<typeof CDQ_FEATURE>;
/** @public */
export const cdqFeatureCodec: Codec<CdqFeature> = structure('ControllerDataQueueFeature', 512, CDQ_FEATURE);

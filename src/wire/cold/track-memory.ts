/** Data of Track Memory Changes and of Tracked Memory Changes. Base 2.1 sections 5.1.26, 5.1.27. */
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

const TRACK_HEADER = [
  [0, 'ver', 'u8'],
  [1, 'reserved', 2],
  [3, 'rmrtg', 'u8'], // granularity: 2^n x 4 KiB
  [4, 'rnmrtd', 'u32'], // 1's based
] as const;
export const TRACK_MEMORY_HEADER_BYTES = 8;
const trackHeaderCodec: Codec<Decoded<typeof TRACK_HEADER>> = structure(
  'TrackMemoryChanges',
  TRACK_MEMORY_HEADER_BYTES,
  TRACK_HEADER,
);
const TRACK_RANGE = [
  [0, 'saddr', 'u64'],
  [8, 'len', 'u32'], // granularity units
] as const;
/** Packed: every second range is only aligned to 4 bytes. */
export const TRACK_MEMORY_RANGE_BYTES = 12;
const trackRangeCodec: Codec<Decoded<typeof TRACK_RANGE>> = structure(
  'MemoryRange',
  TRACK_MEMORY_RANGE_BYTES,
  TRACK_RANGE,
);

/** A range in units of the granularity. @public */
export interface TrackedUnits {
  readonly saddr: bigint;
  readonly len: number;
}
/** @public */
export interface TrackMemoryChanges {
  readonly ver: number;
  readonly rmrtg: number;
  readonly ranges: readonly TrackedUnits[];
}

/** @public */
export function encodeTrackMemory({ ver, rmrtg, ranges }: TrackMemoryChanges): Uint8Array {
  const bytes = new Uint8Array(TRACK_MEMORY_HEADER_BYTES + ranges.length * TRACK_MEMORY_RANGE_BYTES);
  trackHeaderCodec.encodeInto(bytes, 0, { ver, rmrtg, rnmrtd: ranges.length });
  ranges.forEach((range, i) => {
    trackRangeCodec.encodeInto(bytes, TRACK_MEMORY_HEADER_BYTES + i * TRACK_MEMORY_RANGE_BYTES, range);
  });
  return bytes;
}

/** The command has no length: its data's own count says it. @param bytes the first 8 bytes and more @public */
export function trackMemoryBytes(bytes: Uint8Array): number {
  return TRACK_MEMORY_HEADER_BYTES + trackHeaderCodec.decode(bytes).rnmrtd * TRACK_MEMORY_RANGE_BYTES;
}

/** @throws WireError `short` if the ranges are not wholly in `bytes` @public */
export function decodeTrackMemory(bytes: Uint8Array): TrackMemoryChanges {
  const { ver, rmrtg, rnmrtd } = trackHeaderCodec.decode(bytes);
  if (trackMemoryBytes(bytes) > bytes.length) {
    throw new WireError('short', 'TrackMemoryChanges', 'rnmrtd', 4, `is ${rnmrtd}, in ${bytes.length} bytes`);
  }
  const ranges = Array.from({ length: rnmrtd }, (_, i) =>
    trackRangeCodec.decode(bytes, TRACK_MEMORY_HEADER_BYTES + i * TRACK_MEMORY_RANGE_BYTES),
  );
  return { ver, rmrtg, ranges };
}

const REPORT_HEADER = [
  [0, 'ver', 'u8'],
  [1, 'flags', 'u8', 0x03], // bit 0 MTR: more, bit 1 SUSP: suspended during the command
  [2, 'cntlid', 'u16'],
  [4, 'ntmcd', 'u32'],
  [8, 'rpmpg', 'u16'], // granularity of this report
  [10, 'reserved', 6],
] as const;
export const MEMORY_REPORT_HEADER_BYTES = 16;
const reportHeaderCodec: Codec<Decoded<typeof REPORT_HEADER>> = structure(
  'TrackedMemoryChanges',
  MEMORY_REPORT_HEADER_BYTES,
  REPORT_HEADER,
);
const REPORT_RANGE = [
  [0, 'saddr', 'u64'],
  [8, 'len', 'u32'],
  [12, 'reserved', 4],
] as const;
export const MEMORY_REPORT_RANGE_BYTES = 16;
const reportRangeCodec: Codec<TrackedUnits> = structure('TrackedMemoryChange', MEMORY_REPORT_RANGE_BYTES, REPORT_RANGE);

/** @public */
export interface TrackedMemoryChanges {
  readonly more: boolean;
  readonly suspended: boolean;
  readonly cntlid: number;
  readonly rpmpg: number;
  readonly changes: readonly TrackedUnits[];
}

/** @public */
export function encodeMemoryReport({ more, suspended, cntlid, rpmpg, changes }: TrackedMemoryChanges): Uint8Array {
  const bytes = new Uint8Array(MEMORY_REPORT_HEADER_BYTES + changes.length * MEMORY_REPORT_RANGE_BYTES);
  const flags = (more ? 1 : 0) | (suspended ? 2 : 0);
  reportHeaderCodec.encodeInto(bytes, 0, { flags, cntlid, ntmcd: changes.length, rpmpg });
  changes.forEach((change, i) => {
    reportRangeCodec.encodeInto(bytes, MEMORY_REPORT_HEADER_BYTES + i * MEMORY_REPORT_RANGE_BYTES, change);
  });
  return bytes;
}

/** @param bytes what follows the last change is ignored @throws WireError @public */
export function decodeMemoryReport(bytes: Uint8Array): TrackedMemoryChanges {
  const { ver, flags, cntlid, ntmcd, rpmpg } = reportHeaderCodec.decode(bytes);
  if (ver !== 0) throw new WireError('invalid', 'TrackedMemoryChanges', 'ver', 0, `is ${ver}, known is 0`);
  if (MEMORY_REPORT_HEADER_BYTES + ntmcd * MEMORY_REPORT_RANGE_BYTES > bytes.length) {
    throw new WireError('short', 'TrackedMemoryChanges', 'ntmcd', 4, `is ${ntmcd}, in ${bytes.length} bytes`);
  }
  const changes = Array.from({ length: ntmcd }, (_, i) =>
    reportRangeCodec.decode(bytes, MEMORY_REPORT_HEADER_BYTES + i * MEMORY_REPORT_RANGE_BYTES),
  );
  return { more: (flags & 1) !== 0, suspended: (flags & 2) !== 0, cntlid, rpmpg, changes };
}

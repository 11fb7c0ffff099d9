/** Data of Get LBA Status. NVM Command Set 1.2 section 4.2.1. */
import { type Codec, type Decoded, structure } from './table.ts';

const LBA_STATUS = [
  [0, 'nlsd', 'u32'], // descriptors that follow
  [4, 'cmpc', 'u8'], // 0 nothing said, 1 there is more, 2 complete
  [5, 'reserved', 3],
] as const;
/** Its first 8 bytes. @public */
export type LbaStatus = Decoded<typeof LBA_STATUS>;
/** @public */
export const lbaStatusCodec: Codec<LbaStatus> = structure('LbaStatus', 8, LBA_STATUS);

const LBA_STATUS_DESCRIPTOR = [
  [0, 'dslba', 'u64'],
  [8, 'nlb', 'u32'], // 0's based
  [12, 'reserved', 1],
  [13, 'status', 'u8', 0x07], // 0 maybe unreadable, 1 unreadable, 2 holds allocated blocks, 3 Write Uncorrectable
  [14, 'reserved', 2],
] as const;
/** @public */
export type LbaStatusDescriptor = Decoded<typeof LBA_STATUS_DESCRIPTOR>;
/** @public */
export const lbaStatusDescriptorCodec: Codec<LbaStatusDescriptor> = structure(
  'LbaStatusDescriptor',
  16,
  LBA_STATUS_DESCRIPTOR,
);

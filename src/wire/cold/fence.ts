/** Data of feature CAh (vendor specific): who may use a namespace. docs/live-migration-over-tcp.md */
import { FENCE_DATA_BYTES } from '../../spec/migration.ts';
import { type Codec, type Decoded, structure } from './table.ts';

export const FenceFlag = {
  /** Only managers may use it. */
  Closed: 0x01,
  /** What is set outlives the target's process. */
  Durable: 0x02,
} as const;

const FENCE = [
  [0, 'ver', 'u8'],
  [1, 'flags', 'u8'],
  [2, 'reserved', 6],
  [8, 'epoch', 'u64'],
  [16, 'reserved', 48],
] as const;
/** @public */
export type FenceData = Decoded<typeof FENCE>;
export const fenceCodec: Codec<FenceData> = structure('Fence', FENCE_DATA_BYTES, FENCE);

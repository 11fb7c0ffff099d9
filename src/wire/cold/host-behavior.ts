/** Data of feature 16h, Host Behavior Support. Base 2.1 section 5.1.25.1.14. */
import { type Codec, type Decoded, structure } from './table.ts';

export const HOST_BEHAVIOR_BYTES = 512;

const HOST_BEHAVIOR = [
  [0, 'acre', 'u8'],
  [1, 'etdas', 'u8'],
  [2, 'lbafee', 'u8'],
  [3, 'hdisns', 'u8'],
  [4, 'cdfe', 'u16'], // bit n: copy descriptor format n, n = 2 to 4
  [6, 'reserved', 506],
] as const;
/** @public */
export type HostBehavior = Decoded<typeof HOST_BEHAVIOR>;
/** @public */
export const hostBehaviorCodec: Codec<HostBehavior> = structure('HostBehavior', HOST_BEHAVIOR_BYTES, HOST_BEHAVIOR);

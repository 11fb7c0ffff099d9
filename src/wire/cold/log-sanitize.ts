/** Sanitize Status log page (LID 81h). Base 2.1 section 5.1.12.1.33. */
import { type Codec, type Decoded, structure } from './table.ts';

export const SANITIZE_LOG_BYTES = 512;

const SANITIZE = [
  [0, 'sprog', 'u16'], // of 65,536; FFFFh when none is in progress
  [2, 'sstat', 'u16'], // 2:0 status, 7:3 passes completed, 8 global data erased
  [4, 'scdw10', 'u32'],
  [8, 'eto', 'u32'], // seconds, as those that follow; FFFFFFFFh: not reported
  [12, 'etbe', 'u32'],
  [16, 'etce', 'u32'],
  [20, 'etond', 'u32'],
  [24, 'etbend', 'u32'],
  [28, 'etcend', 'u32'],
  [32, 'etpvds', 'u32'],
  [36, 'ssi', 'u8'],
  [37, 'reserved', 475],
] as const;
/** @public */
export type SanitizeLog = Decoded<typeof SANITIZE>;
/** @public */
export const sanitizeLogCodec: Codec<SanitizeLog> = structure('SanitizeLog', SANITIZE_LOG_BYTES, SANITIZE);

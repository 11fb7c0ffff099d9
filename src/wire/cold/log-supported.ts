/** Supported Log Pages log page (LID 00h). Base 2.1 section 5.1.12.1.1. */
import { type Codec, type Decoded, structure } from './table.ts';

export const SUPPORTED_LOG_BYTES = 1024;

const SUPPORTED = [[0, 'lids', 'u32[]', 256]] as const;
/** @public */
export type SupportedLogPages = Decoded<typeof SUPPORTED>;
/** `lids[lid]` is that log page's LID Supported and Effects dword. @public */
export const supportedLogPagesCodec: Codec<SupportedLogPages> = structure(
  'SupportedLogPages',
  SUPPORTED_LOG_BYTES,
  SUPPORTED,
);
/** Bits of one log page's dword; 31:16 are specific to the page. @public */
export const LogPageSupport = { Supported: 0x1, IndexOffset: 0x2 } as const;

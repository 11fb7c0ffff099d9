/** Error Information log page (LID 01h): entries of 64 bytes, newest first. Base 2.1 section 5.1.12.1.2. */
import { type Codec, type Decoded, type Encodable, structure } from './table.ts';

export const ERROR_LOG_ENTRY_BYTES = 64;
/** SQID or CID of an error that belongs to no command, and PARM_ERROR_LOCATION of one that belongs to no field. */
export const ERROR_LOG_NONE = 0xffff;

const ENTRY = [
  [0, 'errorCount', 'u64'], // 0: the entry is not used
  [8, 'sqid', 'u16'],
  [10, 'cmdid', 'u16'],
  [12, 'statusField', 'u16'], // as CQE bytes 14..15: the 15-bit status stands one bit higher
  [14, 'parmErrorLocation', 'u16'], // byte 7:0, bit 10:8
  [16, 'lba', 'u64'],
  [24, 'nsid', 'u32'],
  [28, 'vs', 'u8'],
  [29, 'trtype', 'u8'],
  [30, 'csi', 'u8'],
  [31, 'opcode', 'u8'],
  [32, 'cs', 'u64'],
  [40, 'trtypeSpecInfo', 'u16'],
  [42, 'reserved', 21],
  [63, 'logPageVersion', 'u8'],
] as const;
/** @public */
export type ErrorLogEntry = Decoded<typeof ENTRY>;
/** @public */
export const errorLogEntryCodec: Codec<ErrorLogEntry> = structure('ErrorLogEntry', ERROR_LOG_ENTRY_BYTES, ENTRY);

/** A page of `slots` (ELPE + 1) entries; those past the end of `entries` are zero. @public */
export function encodeErrorLog(
  entries: readonly Encodable<ErrorLogEntry>[],
  slots: number = entries.length,
): Uint8Array {
  const bytes = new Uint8Array(slots * ERROR_LOG_ENTRY_BYTES);
  entries.slice(0, slots).forEach((entry, i) => {
    errorLogEntryCodec.encodeInto(bytes, i * ERROR_LOG_ENTRY_BYTES, entry);
  });
  return bytes;
}

/** The used entries among the whole entries that `bytes` holds. @public */
export function decodeErrorLog(bytes: Uint8Array): ErrorLogEntry[] {
  const count = Math.floor(bytes.length / ERROR_LOG_ENTRY_BYTES);
  const all = Array.from({ length: count }, (_, i) => errorLogEntryCodec.decode(bytes, i * ERROR_LOG_ENTRY_BYTES));
  return all.filter((entry) => entry.errorCount !== 0n);
}

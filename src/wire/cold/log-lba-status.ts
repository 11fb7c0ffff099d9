/** LBA Status Information log (LID 0Eh). NVM Command Set 1.2 section 4.1.4.5. */
import { type Codec, type Decoded, structure } from './table.ts';

const LBA_STATUS_LOG = [
  [0, 'lslplen', 'u32'], // bytes of the page
  [4, 'nlslne', 'u32'], // elements that follow
  [8, 'estulb', 'u32'], // estimate of unrecoverable blocks; FFFFFFFFh: unknown
  [12, 'reserved', 2],
  [14, 'lsgc', 'u16'], // generation
] as const;
/** Its first 16 bytes. @public */
export type LbaStatusLog = Decoded<typeof LBA_STATUS_LOG>;
/** @public */
export const lbaStatusLogCodec: Codec<LbaStatusLog> = structure('LbaStatusLog', 16, LBA_STATUS_LOG);

const LBA_STATUS_LOG_ELEMENT = [
  [0, 'neid', 'u32'], // NSID
  [4, 'nlrd', 'u32'], // range descriptors that follow; FFFFFFFFh: none, examine the whole namespace
  [8, 'ratype', 'u8'], // ATYPE to examine it with
  [9, 'reserved', 7],
] as const;
/** One namespace. @public */
export type LbaStatusLogElement = Decoded<typeof LBA_STATUS_LOG_ELEMENT>;
/** @public */
export const lbaStatusLogElementCodec: Codec<LbaStatusLogElement> = structure(
  'LbaStatusLogElement',
  16,
  LBA_STATUS_LOG_ELEMENT,
);

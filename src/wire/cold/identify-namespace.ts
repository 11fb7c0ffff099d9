/** Identify Namespace of the NVM Command Set (CNS 00h and 11h). NVM Command Set 1.2 figure 114. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';

const LBA_FORMAT = [
  [0, 'ms', 'u16'],
  [2, 'lbads', 'u8'], // log2 of the block size; 0: the format is not available
  [3, 'rp', 'u8', 0x03],
] as const;
/** LBA Format. @public */
export type LbaFormat = Decoded<typeof LBA_FORMAT>;
/** @public */
export const lbaFormatCodec: Codec<LbaFormat> = structure('LbaFormat', 4, LBA_FORMAT);

const IDENTIFY_NAMESPACE = [
  [0, 'nsze', 'u64'],
  [8, 'ncap', 'u64'],
  [16, 'nuse', 'u64'],
  [24, 'nsfeat', 'u8'],
  [25, 'nlbaf', 'u8'], // 0's based
  [26, 'flbas', 'u8'],
  [27, 'mc', 'u8'],
  [28, 'dpc', 'u8'],
  [29, 'dps', 'u8'],
  [30, 'nmic', 'u8'],
  [31, 'rescap', 'u8'],
  [32, 'fpi', 'u8'],
  [33, 'dlfeat', 'u8'],
  [34, 'nawun', 'u16'],
  [36, 'nawupf', 'u16'],
  [38, 'nacwu', 'u16'],
  [40, 'nabsn', 'u16'],
  [42, 'nabo', 'u16'],
  [44, 'nabspf', 'u16'],
  [46, 'noiob', 'u16'],
  [48, 'nvmcap', 'u128'],
  [64, 'npwg', 'u16'], // 0's based, as NPWA, NPDG, NPDA and NOWS
  [66, 'npwa', 'u16'],
  [68, 'npdg', 'u16'],
  [70, 'npda', 'u16'],
  [72, 'nows', 'u16'],
  [74, 'mssrl', 'u16'],
  [76, 'mcl', 'u32'],
  [80, 'msrc', 'u8'], // 0's based
  [81, 'kpios', 'u8'],
  [82, 'nulbaf', 'u8'],
  [83, 'reserved', 1],
  [84, 'kpiodaag', 'u32'],
  [88, 'reserved', 4],
  [92, 'anagrpid', 'u32'],
  [96, 'reserved', 3],
  [99, 'nsattr', 'u8'],
  [100, 'nvmsetid', 'u16'],
  [102, 'endgid', 'u16'],
  [104, 'nguid', 'bytes', 16], // byte strings, most significant byte first
  [120, 'eui64', 'bytes', 8],
  [128, 'lbaf', 'array', 4, 64],
  [384, 'vs', 'bytes', 3712],
] as const;
/** @public */
export type IdentifyNamespace = Decoded<typeof IDENTIFY_NAMESPACE, { lbaf: LbaFormat }>;
/** @public */
export const identifyNamespaceCodec: Codec<IdentifyNamespace> = structure(
  'IdentifyNamespace',
  IDENTIFY_BYTES,
  IDENTIFY_NAMESPACE,
  { lbaf: lbaFormatCodec },
);

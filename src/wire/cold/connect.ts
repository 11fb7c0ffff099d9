/** The command-specific parts of Connect and the Property commands, and Connect's data. Base 2.1 section 6. */
import { type Codec, type Decoded, structure } from './table.ts';

/** Where the command-specific part of a Fabrics SQE starts, for an IPO that points into the SQE. */
export const FABRICS_SPECIFIC_OFFSET = 40;
/** Bytes of that part. */
export const FABRICS_SPECIFIC_BYTES = 24;
export const CONNECT_DATA_BYTES = 1024;

const CONNECT_COMMAND = [
  [0, 'recfmt', 'u16'],
  [2, 'qid', 'u16'],
  [4, 'sqsize', 'u16'], // 0's based
  [6, 'cattr', 'u8', 0x1f],
  [7, 'reserved', 1],
  [8, 'kato', 'u32'], // ms
  [12, 'nvmsetid', 'u16'],
  [14, 'reserved', 10],
] as const;
/** SQE bytes 40 to 63 of Connect. @public */
export type ConnectCommand = Decoded<typeof CONNECT_COMMAND>;
/** @public */
export const connectCommandCodec: Codec<ConnectCommand> = structure(
  'ConnectCommand',
  FABRICS_SPECIFIC_BYTES,
  CONNECT_COMMAND,
);

/** Bits of CATTR. Bits 1:0 are the priority class. @public */
export const Cattr = { DisableSqFlowControl: 0x04, IndividualIoQueueDeletion: 0x08, Connent: 0x10 } as const;

const CONNECT_DATA = [
  [0, 'hostid', 'bytes', 16],
  [16, 'cntlid', 'u16'],
  [18, 'reserved', 238],
  [256, 'subnqn', 'text', 256],
  [512, 'hostnqn', 'text', 256],
  [768, 'reserved', 256],
] as const;
/** @public */
export type ConnectData = Decoded<typeof CONNECT_DATA>;
/** A NQN without its NUL is a WireError whose `fieldOffset` is the IPO of the answer. @public */
export const connectDataCodec: Codec<ConnectData> = structure('ConnectData', CONNECT_DATA_BYTES, CONNECT_DATA);

const PROPERTY_GET = [
  [0, 'attrib', 'u8', 0x07], // 0: 4 bytes, 1: 8 bytes
  [1, 'reserved', 3],
  [4, 'ofst', 'u32'],
  [8, 'reserved', 16],
] as const;
/** SQE bytes 40 to 63 of Property Get. @public */
export type PropertyGetCommand = Decoded<typeof PROPERTY_GET>;
/** @public */
export const propertyGetCodec: Codec<PropertyGetCommand> = structure(
  'PropertyGetCommand',
  FABRICS_SPECIFIC_BYTES,
  PROPERTY_GET,
);

const PROPERTY_SET = [
  [0, 'attrib', 'u8', 0x07],
  [1, 'reserved', 3],
  [4, 'ofst', 'u32'],
  [8, 'value', 'u32'],
  [12, 'valueHigh', 'u32'], // reserved for 4-byte properties
  [16, 'reserved', 8],
] as const;
/** SQE bytes 40 to 63 of Property Set. @public */
export type PropertySetCommand = Decoded<typeof PROPERTY_SET>;
/** @public */
export const propertySetCodec: Codec<PropertySetCommand> = structure(
  'PropertySetCommand',
  FABRICS_SPECIFIC_BYTES,
  PROPERTY_SET,
);
/** ATTRIB of the Property commands. @public */
export const PropertySize = { Bytes4: 0, Bytes8: 1 } as const;

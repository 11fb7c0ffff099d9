/** Discovery log page (LID 70h). Base 2.1 section 5.1.12.3.1, figures 294 to 296. */
import { type Codec, type Decoded, type Encodable, structure } from './table.ts';
import { WireError } from './wire-error.ts';

export const DISCOVERY_HEADER_BYTES = 1024;
export const DISCOVERY_ENTRY_BYTES = 1024;
/** What hosts ask for first: GENCTR, NUMREC and RECFMT are in it. */
export const DISCOVERY_HEADER_BYTES_MIN = 18;
const NAME = 'DiscoveryLog';

/** @public */
export const TransportType = { Rdma: 1, FibreChannel: 2, Tcp: 3, Loop: 254 } as const;
/** @public */
export const AddressFamily = { Ipv4: 1, Ipv6: 2, InfiniBand: 3, FibreChannel: 4, Loop: 254 } as const;
/** @public */
export const SubsystemType = { Referral: 1, Nvm: 2, CurrentDiscovery: 3 } as const;
/** TREQ: TSC is the value of `secureChannelMask`, the rest are bits. @public */
export const Treq = {
  secureChannelMask: 0x03,
  SecureChannelRequired: 0x01,
  SecureChannelNotRequired: 0x02,
  DisableSqFlowControl: 0x04,
  ZeroHostId: 0x08,
} as const;
/** Bits of LSP that a host may ask for, of DLPF that say what it got, and of the LID's parameter in the Supported Log Pages. @public */
export const DiscoveryLogOption = {
  /** EXTDLPE: extended entries. */
  Extended: 0x1,
  /** PLEO: only entries of the port that is asked. */
  PortLocal: 0x2,
  /** ALLSUBE: entries of all subsystems, also of those that are closed to the host that asks. */
  AllSubsystems: 0x4,
} as const;
/** EFLAGS. @public */
export const Eflags = {
  DuplicateReturnedInformation: 0x1,
  ExplicitPersistentConnections: 0x2,
  NoCdcConnectivity: 0x4,
} as const;
/** TSAS byte 0 for TCP. @public */
export const SecurityType = { None: 0, Tls12: 1, Tls13: 2 } as const;

const HEADER = [
  [0, 'genctr', 'u64'],
  [8, 'numrec', 'u64'],
  [16, 'recfmt', 'u16'],
  [18, 'dlpf', 'u8'],
  [19, 'reserved', 1],
  [20, 'tdlpl', 'u32'],
  [24, 'reserved', 1000],
] as const;
/** @public */
export type DiscoveryLogHeader = Decoded<typeof HEADER>;
/** @public */
export const discoveryLogHeaderCodec: Codec<DiscoveryLogHeader> = structure(NAME, DISCOVERY_HEADER_BYTES, HEADER);

const ENTRY = [
  [0, 'trtype', 'u8'],
  [1, 'adrfam', 'u8'],
  [2, 'subtype', 'u8'],
  [3, 'treq', 'u8'],
  [4, 'portid', 'u16'],
  [6, 'cntlid', 'u16'],
  [8, 'asqsz', 'u16'],
  [10, 'eflags', 'u16'],
  [12, 'reserved', 20],
  [32, 'trsvcid', 'ascii', 32],
  [64, 'reserved', 192],
  [256, 'subnqn', 'text', 256],
  [512, 'traddr', 'ascii', 256],
  [768, 'sectype', 'u8'], // TSAS of TCP
  [769, 'reserved', 255],
] as const;
/** @public */
export type DiscoveryLogEntry = Decoded<typeof ENTRY>;
/** @public */
export const discoveryLogEntryCodec: Codec<DiscoveryLogEntry> = structure(
  'DiscoveryLogEntry',
  DISCOVERY_ENTRY_BYTES,
  ENTRY,
);

/** @public */
export interface DiscoveryLog extends DiscoveryLogHeader {
  entries: DiscoveryLogEntry[];
}

/** The whole page: NUMREC is the number of entries. @throws WireError if a value does not fit @public */
export function encodeDiscoveryLog(
  header: Encodable<Omit<DiscoveryLogHeader, 'numrec'>>,
  entries: readonly Encodable<DiscoveryLogEntry>[],
): Uint8Array {
  const bytes = new Uint8Array(DISCOVERY_HEADER_BYTES + entries.length * DISCOVERY_ENTRY_BYTES);
  discoveryLogHeaderCodec.encodeInto(bytes, 0, { ...header, numrec: BigInt(entries.length) });
  entries.forEach((entry, i) => {
    discoveryLogEntryCodec.encodeInto(bytes, DISCOVERY_HEADER_BYTES + i * DISCOVERY_ENTRY_BYTES, entry);
  });
  return bytes;
}

/**
 * The header alone, of which hosts read as little as 20 bytes: what is not there is zero.
 * @throws WireError `short` below 18 bytes
 * @public
 */
export function decodeDiscoveryLogHeader(bytes: Uint8Array): DiscoveryLogHeader {
  if (bytes.length < DISCOVERY_HEADER_BYTES_MIN) {
    const detail = `is ${bytes.length} bytes long, ${DISCOVERY_HEADER_BYTES_MIN} are needed`;
    throw new WireError('short', NAME, undefined, 0, detail);
  }
  const padded = new Uint8Array(DISCOVERY_HEADER_BYTES);
  padded.set(bytes.subarray(0, DISCOVERY_HEADER_BYTES));
  return discoveryLogHeaderCodec.decode(padded);
}

/**
 * Entries of RECFMT 0 that follow each other.
 * @param count how many; @throws WireError `short` if `bytes` holds fewer
 * @public
 */
export function decodeDiscoveryLogEntries(bytes: Uint8Array, count: number): DiscoveryLogEntry[] {
  if (bytes.length < count * DISCOVERY_ENTRY_BYTES) {
    const detail = `has ${count} entries, which do not fit into ${bytes.length} bytes`;
    throw new WireError('short', NAME, 'numrec', 8, detail);
  }
  return Array.from({ length: count }, (_, i) => discoveryLogEntryCodec.decode(bytes, i * DISCOVERY_ENTRY_BYTES));
}

/** The whole page. @throws WireError `short` if fewer than NUMREC entries follow, `invalid` if RECFMT is not 0 @public */
export function decodeDiscoveryLog(bytes: Uint8Array): DiscoveryLog {
  const header = discoveryLogHeaderCodec.decode(bytes);
  if (header.recfmt !== 0) throw new WireError('invalid', NAME, 'recfmt', 16, `is ${header.recfmt}, known is 0`);
  // Past 2^53 a count is inexact, and still far too large
  return {
    ...header,
    entries: decodeDiscoveryLogEntries(bytes.subarray(DISCOVERY_HEADER_BYTES), Number(header.numrec)),
  };
}

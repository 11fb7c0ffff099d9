/**
 * The blocks of the vendor part of a controller's state: bytes to values and back. Which controller they come from, and what they do to another one,
 * is target/migration's affair. Layouts: docs/live-migration-over-tcp.md.
 */
import { type Codec, type Decoded, type Encodable, structure } from './table.ts';
import { WireError } from './wire-error.ts';

/** What a block is about. @public */
export const StateBlockKind = {
  Host: 1,
  Settings: 2,
  Features: 3,
  ChangedNamespaces: 4,
  DeallocatedErrors: 5,
  ErrorCount: 6,
  Timestamp: 7,
  ChangedAllocatedNamespaces: 8,
  AnaCounts: 9,
  Errors: 10,
  Events: 11,
  Namespaces: 12,
  Reservations: 13,
  ReservationNotices: 14,
  LbaStatus: 15,
  PcieFunction: 16,
  EventRequests: 17,
  PcieRegisters: 18,
} as const;

// ---- lists ---------------------------------------------------------------------------------------------------------------------------

const LIST_HEADER = [
  [0, 'count', 'u32'],
  [4, 'entryBytes', 'u32'], // a newer writer may have longer ones: what is added stands at their ends
] as const;
const listHeaderCodec: Codec<Decoded<typeof LIST_HEADER>> = structure('StateList', 8, LIST_HEADER);
/** More than any list of ours; keeps a count that was made up from costing time. */
const LIST_MAX = 65_536;

/** Encoder and decoder of a block that is a list. */
export interface ListCodec<T> {
  encode(entries: readonly Encodable<T>[]): Uint8Array;
  /** @throws WireError */
  decode(bytes: Uint8Array): T[];
}

function list<T>(entry: Codec<T>): ListCodec<T> {
  return {
    encode(entries) {
      const bytes = new Uint8Array(listHeaderCodec.size + entries.length * entry.size);
      listHeaderCodec.encodeInto(bytes, 0, { count: entries.length, entryBytes: entry.size });
      entries.forEach((value, i) => {
        entry.encodeInto(bytes, listHeaderCodec.size + i * entry.size, value);
      });
      return bytes;
    },
    decode(bytes) {
      const { count, entryBytes } = listHeaderCodec.decode(bytes);
      if (count > LIST_MAX || (count > 0 && entryBytes < entry.size)) {
        throw new WireError('invalid', entry.name, 'entryBytes', 4, `is ${entryBytes}, of ${count} entries`);
      }
      if (listHeaderCodec.size + count * entryBytes > bytes.length) {
        throw new WireError('short', entry.name, 'count', 0, `is ${count}, in ${bytes.length} bytes`);
      }
      return Array.from({ length: count }, (_, i) => entry.decode(bytes, listHeaderCodec.size + i * entryBytes));
    },
  };
}

/** Blocks 4, 5 and 8: NSIDs, ascending; block 3: id and value in turns; block 6: one number. No header. */
export const dwordsCodec: ListCodec<number> = {
  encode(values) {
    const bytes = new Uint8Array(values.length * 4);
    const view = new DataView(bytes.buffer);
    values.forEach((value, i) => {
      view.setUint32(i * 4, value, true);
    });
    return bytes;
  },
  decode(bytes) {
    if (bytes.length % 4 !== 0) {
      throw new WireError('short', 'StateDwords', undefined, 0, `has ${bytes.length} bytes, allowed are whole dwords`);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from({ length: bytes.length / 4 }, (_, i) => view.getUint32(i * 4, true));
  },
};

// ---- kind 1 --------------------------------------------------------------------------------------------------------------------------

const HOST_ID_BYTES = 16;
const HOST_NQN_MAX = 223;

/** @public */
export interface StateHost {
  readonly hostid: Uint8Array;
  readonly hostnqn: string;
}

export const hostBlockCodec = {
  encode: ({ hostid, hostnqn }: StateHost): Uint8Array =>
    Buffer.concat([hostid, Buffer.from(hostnqn.slice(0, HOST_NQN_MAX))]),
  decode(bytes: Uint8Array): StateHost {
    if (bytes.length <= HOST_ID_BYTES || bytes.length > HOST_ID_BYTES + HOST_NQN_MAX) {
      throw new WireError('short', 'StateHost', 'hostnqn', HOST_ID_BYTES, `ends at ${bytes.length}`);
    }
    return { hostid: bytes.slice(0, HOST_ID_BYTES), hostnqn: Buffer.from(bytes.subarray(HOST_ID_BYTES)).toString() };
  },
};

// ---- kind 2 --------------------------------------------------------------------------------------------------------------------------

const SETTINGS = [
  [0, 'katoMs', 'u32'],
  [4, 'asyncEvents', 'u32'], // feature 0Bh
  [8, 'acre', 'u8'], // feature 16h
  [9, 'etdas', 'u8'],
  [10, 'cdfe', 'u16'],
] as const;
/** Version 1. @public */
export type StateSettings = Decoded<typeof SETTINGS>;
export const settingsCodec: Codec<StateSettings> = structure('StateSettings', 12, SETTINGS);
const QUEUES = [
  [0, 'ioQueuesMax', 'u16'], // feature 07h: queues that the host was granted
  [2, 'reserved', 2],
] as const;
/** Version 2 has this behind it. */
export const settingsQueuesCodec: Codec<Decoded<typeof QUEUES>> = structure('StateSettings2', 4, QUEUES);

// ---- kind 7 --------------------------------------------------------------------------------------------------------------------------

const TIMESTAMP = [
  [0, 'ms', 'u64'], // feature 0Eh at the moment of the suspension
  [8, 'flags', 'u8', 0x03],
  [9, 'reserved', 7],
] as const;
/** @public */
export type StateTimestamp = Decoded<typeof TIMESTAMP>;
export const timestampCodec: Codec<StateTimestamp> = structure('StateTimestamp', 16, TIMESTAMP);
/** `WasSet`: by Set Features; else it counts from the start. `Stopped`: it has stood still in between (SYNCH). */
export const TimestampFlag = { WasSet: 0x01, Stopped: 0x02 } as const;

// ---- kind 9 --------------------------------------------------------------------------------------------------------------------------

const ANA_COUNT = [
  [0, 'anagrpid', 'u32'], // 0: of the whole log page
  [4, 'reserved', 4],
  [8, 'count', 'u64'],
] as const;
/** @public */
export type StateAnaCount = Decoded<typeof ANA_COUNT>;
export const anaCountsCodec: ListCodec<StateAnaCount> = list(structure('StateAnaCount', 16, ANA_COUNT));

// ---- kind 10 -------------------------------------------------------------------------------------------------------------------------

const ERROR = [
  [0, 'errorCount', 'u64'],
  [8, 'sqid', 'u16'],
  [10, 'cid', 'u16'],
  [12, 'status', 'u16'], // 15 bits, without the phase
  [14, 'location', 'u16'],
  [16, 'lba', 'u64'],
  [24, 'nsid', 'u32'],
  [28, 'opcode', 'u8'],
  [29, 'reserved', 3],
] as const;
/** @public */
export type StateErrorEntry = Decoded<typeof ERROR>;
/** Newest first, as log page 01h. */
export const errorsCodec: ListCodec<StateErrorEntry> = list(structure('StateError', 32, ERROR));

// ---- kind 11 -------------------------------------------------------------------------------------------------------------------------

const EVENT = [
  [0, 'type', 'u8'],
  [1, 'info', 'u8'],
  [2, 'lid', 'u8'],
  [3, 'state', 'u8'],
  [4, 'result1', 'u32'],
] as const;
/** @public */
export type StateEvent = Decoded<typeof EVENT>;
/** `Reported`: no more of its kind until the log page is read. */
export const EventState = { Waiting: 0, Reported: 1 } as const;
export const eventsCodec: ListCodec<StateEvent> = list(structure('StateEvent', 8, EVENT));

// ---- kind 12 -------------------------------------------------------------------------------------------------------------------------

const NAMESPACE = [
  [0, 'nsid', 'u32'],
  [4, 'blockSize', 'u32'],
  [8, 'blockCount', 'u64'],
  [16, 'protection', 'u8'], // feature 84h
  [17, 'reserved', 7],
  [24, 'readBytes', 'u64'], // what log page 02h counts
  [32, 'writtenBytes', 'u64'],
  [40, 'readCommands', 'u64'],
  [48, 'writeCommands', 'u64'],
] as const;
/** @public */
export type StateNamespace = Decoded<typeof NAMESPACE>;
/** Those that are attached to the controller, by NSID. */
export const namespacesCodec: ListCodec<StateNamespace> = list(structure('StateNamespace', 56, NAMESPACE));

// ---- kind 13 -------------------------------------------------------------------------------------------------------------------------

const RESERVATION = [
  [0, 'nsid', 'u32'],
  [4, 'generation', 'u32'],
  [8, 'type', 'u8'], // of what the host holds; 0 if it holds nothing
  [9, 'flags', 'u8', 0x03],
  [10, 'reserved', 6],
  [16, 'key', 'u64'],
] as const;
/** @public */
export type StateReservation = Decoded<typeof RESERVATION>;
/** Bits of `StateReservation.flags`: the host is registered; reservations of the namespace persist through power loss. */
export const ReservationFlag = { Registered: 0x01, Persistent: 0x02 } as const;
export const reservationsCodec: ListCodec<StateReservation> = list(structure('StateReservation', 24, RESERVATION));

// ---- kind 14 -------------------------------------------------------------------------------------------------------------------------

const NOTICE = [
  [0, 'count', 'u64'],
  [8, 'nsid', 'u32'],
  [12, 'type', 'u8'], // of the notice; or the bits of the mask
  [13, 'what', 'u8'],
  [14, 'reserved', 2],
] as const;
/** @public */
export type StateReservationNotice = Decoded<typeof NOTICE>;
/** `Counter`: the number of the newest notice (once, first); `Notice`: waits in log page 80h; `Mask`: feature 82h of a namespace. */
export const NoticeEntry = { Counter: 0, Notice: 1, Mask: 2 } as const;
export const noticesCodec: ListCodec<StateReservationNotice> = list(structure('StateReservationNotice', 16, NOTICE));

const PCIE_REGISTERS = [
  [0, 'cap', 'u64'],
  [8, 'vs', 'u32'],
  [12, 'reserved', 4],
] as const;
/** What a guest has read of its controller's registers, and nobody can set: CAP and VS. Base 2.1 section 3.1.4. */
export type PcieRegistersBlock = Decoded<typeof PCIE_REGISTERS>;
export const pcieRegistersCodec: Codec<PcieRegistersBlock> = structure('PcieRegistersBlock', 16, PCIE_REGISTERS);

/** Host Managed Live Migration. Base 2.1 sections 5.1.4, 5.1.16, 5.1.17, 5.1.25.1.23, 5.1.26, 5.1.27, 8.1.6, 8.1.12; NVM Command Set 1.2 section 5.6. */

/** SEL of the Controller Data Queue command. */
export const CdqSelect = { Create: 0x00, Delete: 0x01 } as const;
/** Queue type (QT). */
export const CdqType = {
  /** User Data Migration Queue in host memory. */
  UserDataMigration: 0x00,
  /** Vendor specific: the same queue, kept by the controller and read by log page C8h. docs/live-migration-over-tcp.md */
  ResidentUserDataMigration: 0xc0,
} as const;

/** One-Shot asynchronous events (AEI); DW1 names the queue. */
export const CdqEvent = { TailPointer: 0x00, Full: 0x01 } as const;

/** SEL of Track Send. */
export const TrackSendSelect = { LogUserData: 0x00, TrackMemory: 0x01 } as const;
/** SEL of Migration Send. The example flow of section 8.1.12.1 numbers them otherwise; the command section decides. */
export const MigrationSendSelect = { Suspend: 0x00, Resume: 0x01, SetControllerState: 0x02 } as const;
/** SEL of Migration Receive. */
export const MigrationReceiveSelect = { GetControllerState: 0x00 } as const;
/** STYPE of Suspend. */
export const SuspendType = { Notification: 0x00, Suspend: 0x01 } as const;
/** SEQIND of Set Controller State. */
export const SequenceIndicator = { Middle: 0, First: 1, Last: 2, Only: 3 } as const;

/** ESA of a User Data Migration Queue entry: bits 3:1 of byte 31. */
export const EntrySequence = { Middle: 0, First: 1, HostStopped: 2, Suspended: 3, Full: 7 } as const;
/** LBACIR: bits 7:6 of byte 31. */
export const EntryRange = { Blocks: 0, WholeNamespace: 1, None: 2 } as const;

/** Feature 21h. */
export const CDQ_FEATURE_DATA_BYTES = 512;
/** Bits of a log page request or an event that is ours: LID of the resident queue, and of the change bitmap. */
export const MigrationLogPage = { ResidentQueue: 0xc8, ChangedBlocks: 0xc9 } as const;
/** TRATTR of Identify Controller. */
export const TrackingAttribute = { HostMemory: 0x01, UserData: 0x02, PowerOfTwoRanges: 0x04 } as const;

/** Tracking units of memory are 2^n times this. */
export const MEMORY_UNIT_BYTES = 4096;

/** Feature C9h, vendor specific: tracking of changed blocks. CDW12/13 hold the epoch that `Acknowledge` means. */
export const CHANGED_BLOCKS_FEATURE = 0xc9;
/** CDW11 of Set Features C9h. */
export const ChangedBlocksAction = { Stop: 0, Start: 1, Acknowledge: 2, GiveBack: 3 } as const;

/** Features of a move across fabrics, vendor specific. docs/live-migration-over-tcp.md */
export const MoveFeature = { Fence: 0xca, Reservations: 0xcb, Peer: 0xcc, WriteLimit: 0xcd, Reset: 0xce } as const;
/** Data of Get Features CAh. */
export const FENCE_DATA_BYTES = 64;
/** CDW11 of Set Features CAh. */
export const FenceAction = { Open: 0, Close: 1 } as const;
/** CDW11 of Set Features CCh. */
export const PeerAction = { Remove: 0, Add: 1 } as const;

/** UUID of the vendor commands, in the UUID list (Identify CNS 17h): QT C0h, log pages C8h and C9h, features C9h to CEh. RFC 9562 order. */
export const MIGRATION_EXTENSION_UUID: Uint8Array = Uint8Array.of(
  ...[0x5d, 0x3c, 0x0e, 0x61, 0x8f, 0x27, 0x4b, 0x9a, 0x8c, 0x52, 0x1f, 0x70, 0xa4, 0xe9, 0x36, 0xbd],
);

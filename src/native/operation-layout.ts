/** The packed operations of the addon; mirrors `native/src/operation.h`, which the loader checks by size. Indices are 32-bit words. */

export const ENTRY_WORDS = 32;
export const COMPLETION_WORDS = 4;

export const Operation = {
  Nop: 0,
  Read: 1,
  Write: 2,
  Fsync: 3,
  Fdatasync: 4,
  Fallocate: 5,
  Discard: 6,
  ZeroOut: 7,
  NvmeIo: 8,
  NvmeAdmin: 9,
} as const;

export const EntryWord = {
  Op: 0,
  Fd: 1,
  Flags: 2,
  Slot: 3,
  OffsetLow: 4,
  OffsetHigh: 5,
  LengthLow: 6,
  LengthHigh: 7,
  Mode: 8,
  BufferCount: 9,
  BufferSkip: 10,
  BufferIndex: 11,
  MetadataLength: 12,
  FileIndex: 13,
  OpcodeFlags: 16,
  Nsid: 17,
  Cdw2: 18,
  Cdw3: 19,
  Cdw10: 20,
  TimeoutMs: 26,
} as const;

/** `Pool`: by a thread. `Inline`: by the caller, within `submit`. */
export const EntryFlag = { FixedFile: 1, FixedBuffer: 2, Pool: 4, Inline: 8 } as const;

export const CompletionWord = { Slot: 0, Result: 1, Result0: 2, Result1: 3 } as const;

/** Words of the engine's state area. */
export const EngineState = { Unsubmitted: 0, InFlight: 1, Enters: 2, WakeUps: 3, PoolJobs: 4, InlineJobs: 5 } as const;

/** Flags of pwritev2(2). */
export const RWF_DSYNC = 2;

/** Modes of fallocate(2). */
export const FallocateMode = { KeepSize: 1, PunchHole: 2, ZeroRange: 16 } as const;

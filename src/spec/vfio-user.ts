/** The vfio-user protocol: how a VMM reaches a PCI device of another process over a Unix socket (QEMU, docs/interop/vfio-user.rst). */

/** Commands. 14 was the dirty page log of an earlier draft. */
export const VfioUserCommand = {
  Version: 1,
  DmaMap: 2,
  DmaUnmap: 3,
  DeviceGetInfo: 4,
  DeviceGetRegionInfo: 5,
  DeviceGetRegionIoFds: 6,
  DeviceGetIrqInfo: 7,
  DeviceSetIrqs: 8,
  RegionRead: 9,
  RegionWrite: 10,
  /** Server to client, as the next. */
  DmaRead: 11,
  DmaWrite: 12,
  DeviceReset: 13,
  RegionWriteMulti: 15,
  DeviceFeature: 16,
  MigDataRead: 17,
  MigDataWrite: 18,
} as const;

export const VFIO_USER_HEADER_BYTES = 16;
/** Major version 0, minor 0: what QEMU speaks. */
export const VFIO_USER_MAJOR = 0;
export const VFIO_USER_MINOR = 0;

/** Bits of the header's flags; the lowest four are the type. */
export const VfioUserFlag = { TypeMask: 0x0f, Command: 0, Reply: 1, NoReply: 0x10, Error: 0x20 } as const;

/** Errors in replies: errno of Linux. */
export const Errno = {
  NoEntry: 2,
  IoError: 5,
  BadAddress: 14,
  Busy: 16,
  Exists: 17,
  Invalid: 22,
  NoSpace: 28,
  NotSupported: 95,
} as const;

export const DmaFlag = { Readable: 1, Writable: 2 } as const;
export const DmaUnmapFlag = { DirtyBitmap: 1, All: 2 } as const;

export const DeviceFlag = { Reset: 1, Pci: 2 } as const;
export const RegionFlag = { Read: 1, Write: 2, Mmap: 4, Capabilities: 8 } as const;
/** BARs are 0 to 5. */
export const RegionIndex = { ExpansionRom: 6, Config: 7, Vga: 8 } as const;
export const REGION_COUNT = 9;

export const IrqIndex = { Intx: 0, Msi: 1, MsiX: 2, Error: 3, Request: 4 } as const;
export const IRQ_INDEX_COUNT = 5;
export const IrqInfoFlag = { EventFd: 1, Maskable: 2, AutoMasked: 4, NoResize: 8 } as const;
/** SET_IRQS: one bit of what the data are, one of what to do. */
export const IrqSetFlag = {
  DataNone: 1,
  DataBool: 2,
  DataEventFd: 4,
  DataMask: 7,
  ActionMask: 8,
  ActionUnmask: 0x10,
  ActionTrigger: 0x20,
  ActionsMask: 0x38,
} as const;

/** DEVICE_FEATURE: number in bits 15:0, then what to do with it. */
export const FeatureFlag = { NumberMask: 0xffff, Get: 0x1_0000, Set: 0x2_0000, Probe: 0x4_0000 } as const;
export const DeviceFeature = {
  Migration: 1,
  MigDeviceState: 2,
  DmaLoggingStart: 6,
  DmaLoggingStop: 7,
  DmaLoggingReport: 8,
} as const;
/** Answer to feature `Migration`. */
export const MigrationFlag = { StopCopy: 1, P2p: 2, PreCopy: 4 } as const;
/** States of a device in migration. */
export const MigState = {
  Error: 0,
  Stop: 1,
  Running: 2,
  StopCopy: 3,
  Resuming: 4,
  RunningP2p: 5,
  PreCopy: 6,
  PreCopyP2p: 7,
} as const;

/** Default of `max_data_xfer_size`. */
export const MAX_DATA_XFER_SIZE_DEFAULT: number = 1 << 20;

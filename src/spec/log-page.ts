/** Log page identifiers (Base 2.1 figure 206) and asynchronous events (figures 149 to 154). */
export const LogPage = {
  SupportedLogPages: 0x00,
  ErrorInformation: 0x01,
  SmartHealth: 0x02,
  FirmwareSlot: 0x03,
  ChangedNamespaces: 0x04,
  CommandsSupportedAndEffects: 0x05,
  DeviceSelfTest: 0x06,
  EnduranceGroup: 0x09,
  Ana: 0x0c,
  PersistentEvent: 0x0d,
  LbaStatus: 0x0e,
  FeatureEffects: 0x12,
  ChangedAllocatedNamespaces: 0x1c,
  Discovery: 0x70,
  ReservationNotification: 0x80,
  SanitizeStatus: 0x81,
} as const;

export const AsyncEventType = {
  Error: 0,
  Smart: 1,
  Notice: 2,
  Immediate: 3,
  OneShot: 4,
  IoCommandSet: 6,
  Vendor: 7,
} as const;
/** Bits of CRITICAL WARNING (log page 02h), and the lowest byte of feature 0Bh, which makes each an event. */
export const CriticalWarning = {
  Spare: 0x01,
  Temperature: 0x02,
  Reliability: 0x04,
  ReadOnly: 0x08,
  VolatileBackup: 0x10,
  PersistentMemory: 0x20,
} as const;

/** Information of SMART / health events. */
export const AsyncSmart = { Reliability: 0x00, TemperatureThreshold: 0x01, SpareBelowThreshold: 0x02 } as const;
export const AsyncNotice = {
  NamespaceAttribute: 0x00,
  FirmwareActivation: 0x01,
  AnaChange: 0x03,
  LbaStatusInformation: 0x05,
  AllocatedNamespaceAttribute: 0x09,
  DiscoveryChange: 0xf0,
} as const;

/** Events of type 6 (I/O command set specific). */
export const IoCommandSetEvent = { ReservationLogAvailable: 0x00, SanitizeCompleted: 0x01 } as const;

/** Bits of OAES and of feature 0Bh (Asynchronous Event Configuration). */
export const AsyncEventBit = {
  NamespaceAttribute: 0x100,
  FirmwareActivation: 0x200,
  AnaChange: 0x800,
  LbaStatusInformation: 0x2000,
  AllocatedNamespaceAttribute: 0x80000,
  DiscoveryChange: 0x80000000,
} as const;
/** What an I/O controller of ours reports. */
export const IO_EVENT_BITS: number =
  AsyncEventBit.NamespaceAttribute |
  AsyncEventBit.AnaChange |
  AsyncEventBit.LbaStatusInformation |
  AsyncEventBit.AllocatedNamespaceAttribute;

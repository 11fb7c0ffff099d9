/** Opcodes. Base 2.1 figures 28, 89, 90, 554; NVM Command Set 1.2 figure 20. */

export const AdminOpcode = {
  DeleteIoSq: 0x00,
  CreateIoSq: 0x01,
  GetLogPage: 0x02,
  DeleteIoCq: 0x04,
  CreateIoCq: 0x05,
  Identify: 0x06,
  Abort: 0x08,
  SetFeatures: 0x09,
  GetFeatures: 0x0a,
  AsyncEventRequest: 0x0c,
  NamespaceManagement: 0x0d,
  FirmwareCommit: 0x10,
  FirmwareDownload: 0x11,
  DeviceSelfTest: 0x14,
  NamespaceAttachment: 0x15,
  KeepAlive: 0x18,
  TrackSend: 0x3d,
  TrackReceive: 0x3e,
  MigrationSend: 0x41,
  MigrationReceive: 0x42,
  ControllerDataQueue: 0x45,
  DoorbellBufferConfig: 0x7c,
  FormatNvm: 0x80,
  SecuritySend: 0x81,
  SecurityReceive: 0x82,
  Sanitize: 0x84,
  GetLbaStatus: 0x86,
} as const;

export const IoOpcode = {
  Flush: 0x00,
  Write: 0x01,
  Read: 0x02,
  WriteUncorrectable: 0x04,
  Compare: 0x05,
  WriteZeroes: 0x08,
  DatasetManagement: 0x09,
  Verify: 0x0c,
  ReservationRegister: 0x0d,
  ReservationReport: 0x0e,
  ReservationAcquire: 0x11,
  ReservationRelease: 0x15,
  Copy: 0x19,
} as const;

/** The opcode of every Fabrics command; FCTYPE tells which. */
export const FABRICS_OPCODE = 0x7f;

export const Fctype = {
  PropertySet: 0x00,
  Connect: 0x01,
  PropertyGet: 0x04,
  AuthenticationSend: 0x05,
  AuthenticationReceive: 0x06,
  Disconnect: 0x08,
} as const;

/** Direction of a command's data: bits 1:0 of the opcode (of FCTYPE for Fabrics). Base 2.1 section 3.3.3.1. */
export const Direction = { None: 0, HostToController: 1, ControllerToHost: 2, Bidirectional: 3 } as const;
export type Direction = (typeof Direction)[keyof typeof Direction];

/** Feature identifiers. Base 2.1 figure 385; NVM Command Set 1.2 figure 97. */
export const Feature = {
  Arbitration: 0x01,
  PowerManagement: 0x02,
  LbaRangeType: 0x03,
  TemperatureThreshold: 0x04,
  ErrorRecovery: 0x05,
  VolatileWriteCache: 0x06,
  NumberOfQueues: 0x07,
  InterruptCoalescing: 0x08,
  InterruptVectorConfiguration: 0x09,
  WriteAtomicityNormal: 0x0a,
  AsyncEventConfiguration: 0x0b,
  Timestamp: 0x0e,
  KeepAliveTimer: 0x0f,
  LbaStatusInformationInterval: 0x15,
  HostBehaviorSupport: 0x16,
  SanitizeConfig: 0x17,
  ControllerDataQueue: 0x21,
  HostIdentifier: 0x81,
  ReservationNotificationMask: 0x82,
  ReservationPersistence: 0x83,
  NamespaceWriteProtection: 0x84,
} as const;
/** SEL of Get Features. */
export const FeatureSelect = { Current: 0, Default: 1, Saved: 2, Capabilities: 3 } as const;

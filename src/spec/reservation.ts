/** Reservations: encodings of their commands, capabilities and notifications. Base 2.1 sections 7.3 to 7.6 and 8.1.22. */

/** RTYPE. 0: nothing is held. */
export const ReservationType = {
  WriteExclusive: 1,
  ExclusiveAccess: 2,
  WriteExclusiveRegistrantsOnly: 3,
  ExclusiveAccessRegistrantsOnly: 4,
  WriteExclusiveAllRegistrants: 5,
  ExclusiveAccessAllRegistrants: 6,
} as const;

/** RREGA, action of Reservation Register. */
export const RegisterAction = { Register: 0, Unregister: 1, Replace: 2 } as const;
/** RACQA, action of Reservation Acquire. */
export const AcquireAction = { Acquire: 0, Preempt: 1, PreemptAndAbort: 2 } as const;
/** RRELA, action of Reservation Release. */
export const ReleaseAction = { Release: 0, Clear: 1 } as const;

/** CPTPL: what Reservation Register does to the Persist Through Power Loss state. 1 is reserved. */
export const ChangePersistence = { None: 0, Clear: 2, Set: 3 } as const;

/** CDW10 of the reservation commands. */
export const ReservationField = {
  actionMask: 0x7,
  ignoreExistingKey: 0x8,
  typeShift: 8,
  persistenceShift: 30,
} as const;

/** RESCAP of Identify Namespace. */
export const ReservationCapability = {
  PersistThroughPowerLoss: 0x01,
  /** Every type of `ReservationType`. */
  AllTypes: 0x7e,
  /** Ignore Existing Key as of revision 1.3: only Register takes it. */
  IgnoreExistingKey13: 0x80,
} as const;

/** Type of a Reservation Notification log page; 0 is an empty page. */
export const ReservationNotification = {
  RegistrationPreempted: 1,
  ReservationReleased: 2,
  ReservationPreempted: 3,
} as const;

/** CNTLID of a registrant that is not connected. */
export const CNTLID_NOT_CONNECTED = 0xffff;

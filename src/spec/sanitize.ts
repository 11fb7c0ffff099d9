/** Sanitize (84h) and its status log page (81h). Base 2.1 sections 5.1.22 and 5.1.12.1.33. */

/** SANACT. */
export const SanitizeAction = { ExitFailureMode: 1, BlockErase: 2, Overwrite: 3, CryptoErase: 4 } as const;
/** SSTAT bits 2:0. */
export const SanitizeStatus = { Never: 0, Completed: 1, InProgress: 2, Failed: 3 } as const;
/** Bits of SANICAP. */
export const SanitizeCapability = {
  CryptoErase: 0x1,
  BlockErase: 0x2,
  Overwrite: 0x4,
  /** Media is deallocated afterwards in any case. */
  NoDeallocateInhibited: 0x2000_0000,
  /** NODMMAS 01b: media is not modified after the operation has completed. */
  NotModifiedAfterwards: 0x4000_0000,
} as const;

/** What the controller says of itself in Identify, where a command also needs it. */

/** FR. */
export const FIRMWARE_REVISION = '0.1';
/** MDTS as log2 of 4 KiB pages: 1 MiB. */
export const MDTS = 8;
export const TRANSFER_BYTES_MAX: number = 4096 << MDTS;
/** ACL, 0's based. Aborts complete at once, so this is never exceeded. */
export const ABORT_LIMIT = 3;

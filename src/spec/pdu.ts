/** NVMe/TCP PDU constants. NVM Express TCP Transport Specification 1.0, sections 3.5 and 3.6. */

/** PDU types (bit 0 gives the direction: 0 host to controller, 1 controller to host). */
export const PduType = {
  ICReq: 0x00,
  ICResp: 0x01,
  H2CTermReq: 0x02,
  C2HTermReq: 0x03,
  CapsuleCmd: 0x04,
  CapsuleResp: 0x05,
  H2CData: 0x06,
  C2HData: 0x07,
  R2T: 0x09,
} as const;
export type PduType = (typeof PduType)[keyof typeof PduType];

/** Bits of the FLAGS byte. */
export const PduFlag = { Hdgst: 0x01, Ddgst: 0x02, LastPdu: 0x04, Success: 0x08 } as const;

/** HLEN of each PDU type, indexed by type; 0 where the type is unassigned. */
export const PDU_HLEN: readonly number[] = [128, 128, 24, 24, 72, 24, 24, 24, 0, 24];

export const CH_SIZE = 8;
export const IC_SIZE = 128;
export const CAPSULE_CMD_HLEN = 72;
export const CAPSULE_RESP_HLEN = 24;
export const DATA_HLEN = 24;
export const R2T_HLEN = 24;
export const TERM_REQ_HLEN = 24;
export const DIGEST_SIZE = 4;
/** A TermReq carries at most this much of the offending header. */
export const TERM_REQ_DATA_MAX = 128;

/** Fatal Error Status of a TermReq (TCP 1.0, figures 21 and 24). */
export const Fes = {
  InvalidPduHeaderField: 0x01,
  PduSequenceError: 0x02,
  HeaderDigestError: 0x03,
  DataTransferOutOfRange: 0x04,
  /** C2HTermReq: Data Transfer Limit Exceeded; H2CTermReq: R2T Limit Exceeded. */
  LimitExceeded: 0x05,
  UnsupportedParameter: 0x06,
} as const;
export type Fes = (typeof Fes)[keyof typeof Fes];

const FES_NAMES: Record<number, string> = {
  1: 'Invalid PDU Header Field',
  2: 'PDU Sequence Error',
  3: 'Header Digest Error',
  4: 'Data Transfer Out of Range',
  5: 'Data Transfer / R2T Limit Exceeded',
  6: 'Unsupported Parameter',
};
/** The specification's name of a Fatal Error Status. */
export function fesName(fes: number): string {
  return FES_NAMES[fes] ?? `Reserved FES 0x${fes.toString(16)}`;
}

/** ICReq / ICResp DGST bits. */
export const Dgst = { Header: 0x01, Data: 0x02 } as const;

/** SGL descriptor identifier byte (type << 4 | subtype), Base 2.1 section 4.3.2. */
export const SglId = { DataBlockOffset: 0x01, TransportDataBlock: 0x5a, Null: 0x00 } as const;

/** In-capsule data that every controller takes on the admin queue and for Fabrics commands (TCP 1.0, section 3.6.2.2). */
export const ADMIN_IN_CAPSULE_BYTES = 8192;

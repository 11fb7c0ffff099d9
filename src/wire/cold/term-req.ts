/** H2CTermReq and C2HTermReq: the last PDU of a side that found the other breaking the rules. TCP 1.0 section 3.6.2, figures 21 and 24. */
import { PduType, TERM_REQ_DATA_MAX, TERM_REQ_HLEN } from '../../spec/pdu.ts';
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

const NAME = 'TermReq';
const TERM_REQ = [
  [0, 'type', 'u8'],
  [1, 'reserved', 1],
  [2, 'hlen', 'u8'],
  [3, 'reserved', 1],
  [4, 'plen', 'u32'],
  [8, 'fes', 'u16'],
  [10, 'fei', 'u32'], // not aligned
  [14, 'reserved', 10],
] as const;
/** The 24 bytes before the copied header. @public */
export type TermReqHeader = Decoded<typeof TERM_REQ>;
/** @public */
export const termReqHeaderCodec: Codec<TermReqHeader> = structure(NAME, TERM_REQ_HLEN, TERM_REQ);

/** @public */
export interface TermReq {
  /** `PduType.H2CTermReq` or `PduType.C2HTermReq`. */
  readonly type: number;
  /** Fatal Error Status, one of `Fes`. */
  readonly fes: number;
  /** Fatal Error Information: a byte offset or the digest received, by `fes`. */
  readonly fei: number;
  /** The header of the PDU at fault, 0 to 128 bytes. */
  readonly header: Uint8Array;
}

/** A whole TermReq, 24 to 152 bytes; of `header` at most the first 128 bytes are sent. @public */
export function encodeTermReq(value: TermReq): Uint8Array {
  checkType(value.type);
  const header = value.header.subarray(0, TERM_REQ_DATA_MAX);
  const plen = TERM_REQ_HLEN + header.length;
  const bytes = new Uint8Array(plen);
  const { type, fes, fei } = value;
  termReqHeaderCodec.encodeInto(bytes, 0, { type, hlen: TERM_REQ_HLEN, plen, fes, fei });
  bytes.set(header, TERM_REQ_HLEN);
  return bytes;
}

/**
 * @param bytes from the first byte of the PDU; what follows PLEN bytes is ignored
 * @throws WireError `invalid` for the wrong type, HLEN or PLEN (its content must not be believed then), `short` for fewer than PLEN bytes
 * @public
 */
export function decodeTermReq(bytes: Uint8Array): TermReq {
  const { type, hlen, plen, fes, fei } = termReqHeaderCodec.decode(bytes);
  checkType(type);
  if (hlen !== TERM_REQ_HLEN)
    throw new WireError('invalid', NAME, 'hlen', 2, `is ${hlen}, allowed is ${TERM_REQ_HLEN}`);
  const max = TERM_REQ_HLEN + TERM_REQ_DATA_MAX;
  if (plen < TERM_REQ_HLEN || plen > max) {
    throw new WireError('invalid', NAME, 'plen', 4, `is ${plen}, allowed are ${TERM_REQ_HLEN} to ${max}`);
  }
  if (bytes.length < plen) {
    throw new WireError('short', NAME, undefined, 0, `is ${bytes.length} bytes long, ${plen} are needed`);
  }
  return { type, fes, fei, header: Uint8Array.from(bytes.subarray(TERM_REQ_HLEN, plen)) };
}

function checkType(type: number): void {
  if (type !== PduType.H2CTermReq && type !== PduType.C2HTermReq) {
    throw new WireError('invalid', NAME, 'type', 0, `is 0x${type.toString(16)}, allowed are 0x2 and 0x3`);
  }
}

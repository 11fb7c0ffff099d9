/** ICReq and ICResp, the PDUs that open a connection. TCP 1.0 section 3.6.2, figures 19 and 20. */
import { IC_SIZE, PduType } from '../../spec/pdu.ts';
import { type Codec, type Decoded, type Encodable, structure } from './table.ts';

const IC_REQ = [
  [0, 'type', 'u8'],
  [1, 'flags', 'u8'],
  [2, 'hlen', 'u8'],
  [3, 'reserved', 1],
  [4, 'plen', 'u32'],
  [8, 'pfv', 'u16'],
  [10, 'hpda', 'u8'], // dwords, 0's based; above 31 is for the reader to refuse, who answers with the offset
  [11, 'dgst', 'u8', 0x03],
  [12, 'maxr2t', 'u32'], // 0's based
  [16, 'reserved', 112],
] as const;
/** @public */
export type IcReq = Decoded<typeof IC_REQ>;
/** @public */
export const icReqCodec: Codec<IcReq> = structure('ICReq', IC_SIZE, IC_REQ);

const IC_RESP = [
  [0, 'type', 'u8'],
  [1, 'flags', 'u8'],
  [2, 'hlen', 'u8'],
  [3, 'reserved', 1],
  [4, 'plen', 'u32'],
  [8, 'pfv', 'u16'],
  [10, 'cpda', 'u8'],
  [11, 'dgst', 'u8', 0x03],
  [12, 'maxh2cdata', 'u32'], // bytes, a multiple of 4
  [16, 'reserved', 112],
] as const;
/** @public */
export type IcResp = Decoded<typeof IC_RESP>;
/** @public */
export const icRespCodec: Codec<IcResp> = structure('ICResp', IC_SIZE, IC_RESP);

type Header = 'type' | 'hlen' | 'plen';

/** A whole ICReq; the common header is filled in. @throws WireError if a value does not fit @public */
export function encodeIcReq(value: Encodable<Omit<IcReq, Header>>): Uint8Array {
  return icReqCodec.encode({ ...value, type: PduType.ICReq, hlen: IC_SIZE, plen: IC_SIZE });
}

/** A whole ICResp; the common header is filled in. @throws WireError if a value does not fit @public */
export function encodeIcResp(value: Encodable<Omit<IcResp, Header>>): Uint8Array {
  return icRespCodec.encode({ ...value, type: PduType.ICResp, hlen: IC_SIZE, plen: IC_SIZE });
}

// @hot
/** NVMe/TCP PDU headers over a DataView. TCP 1.0 section 3.6.2. `base` is PDU byte 0. */
import { PduType } from '../spec/pdu.ts';

export const pduType = (v: DataView, base: number): number => v.getUint8(base);
export const pduFlags = (v: DataView, base: number): number => v.getUint8(base + 1);
export const pduHlen = (v: DataView, base: number): number => v.getUint8(base + 2);
export const pduPdo = (v: DataView, base: number): number => v.getUint8(base + 3);
export const pduPlen = (v: DataView, base: number): number => v.getUint32(base + 4, true);

/** H2CData, C2HData and R2T: CCCID; H2CData and R2T: TTAG; DATAO / R2TO; DATAL / R2TL. */
export const pduCccid = (v: DataView, base: number): number => v.getUint16(base + 8, true);
export const pduTtag = (v: DataView, base: number): number => v.getUint16(base + 10, true);
export const pduDataOffset = (v: DataView, base: number): number => v.getUint32(base + 12, true);
export const pduDataLength = (v: DataView, base: number): number => v.getUint32(base + 16, true);

/** Common header: type, flags, HLEN, PDO in one dword, then PLEN. */
export function writeCommonHeader(
  v: DataView,
  base: number,
  type: number,
  flags: number,
  hlen: number,
  pdo: number,
  plen: number,
): void {
  v.setUint32(base, type | (flags << 8) | (hlen << 16) | (pdo << 24), true);
  v.setUint32(base + 4, plen, true);
}

/** Bytes 8..23 of H2CData, C2HData (ttag 0) and R2T. */
export function writeDataHeader(
  v: DataView,
  base: number,
  cccid: number,
  ttag: number,
  dataOffset: number,
  dataLength: number,
): void {
  v.setUint32(base + 8, cccid | (ttag << 16), true);
  v.setUint32(base + 12, dataOffset, true);
  v.setUint32(base + 16, dataLength, true);
  v.setUint32(base + 20, 0, true);
}

/** Where DATA starts: HLEN and HDGST rounded up to the negotiated alignment (`(xPDA + 1) * 4` bytes). TCP 1.0 section 3.5.1. */
export const dataOffsetFor = (hlen: number, headerDigest: boolean, alignBytes: number): number => {
  const base = headerDigest ? hlen + 4 : hlen;
  return Math.ceil(base / alignBytes) * alignBytes;
};

/** Whether `type` is one that flows from host to controller. */
export const isHostToController = (type: number): boolean =>
  type === PduType.ICReq || type === PduType.H2CTermReq || type === PduType.CapsuleCmd || type === PduType.H2CData;

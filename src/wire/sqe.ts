// @hot
/**
 * Submission queue entry (64 bytes) by accessors over a DataView. Base 2.1 section 4.1.1.
 * `base` is the offset of the entry's byte 0. 64-bit fields come as numbers when they are block addresses (range-checked by the caller
 * through `sqeSlbaFits`), else as two dwords.
 */
export const SQE_BYTES = 64;
/** CDW0 byte 1: PSDT 01b (SGL for the data), no fuse. What hosts send on every command. */
export const SQE_FLAGS_SGL = 0x40;

export const sqeOpcode = (v: DataView, base: number): number => v.getUint8(base);
export const sqeFlags = (v: DataView, base: number): number => v.getUint8(base + 1);
export const sqeCid = (v: DataView, base: number): number => v.getUint16(base + 2, true);
export const sqeNsid = (v: DataView, base: number): number => v.getUint32(base + 4, true);
/** FCTYPE of a Fabrics command. */
export const sqeFctype = (v: DataView, base: number): number => v.getUint8(base + 4);
export const sqeSglAddressLow = (v: DataView, base: number): number => v.getUint32(base + 24, true);
export const sqeSglAddressHigh = (v: DataView, base: number): number => v.getUint32(base + 28, true);
export const sqeSglLength = (v: DataView, base: number): number => v.getUint32(base + 32, true);
export const sqeSglId = (v: DataView, base: number): number => v.getUint8(base + 39);
/** Command dword `n`, 0..15. */
export const sqeDword = (v: DataView, base: number, n: number): number => v.getUint32(base + n * 4, true);
export const sqeCdw10 = (v: DataView, base: number): number => v.getUint32(base + 40, true);
export const sqeCdw11 = (v: DataView, base: number): number => v.getUint32(base + 44, true);
export const sqeCdw12 = (v: DataView, base: number): number => v.getUint32(base + 48, true);
export const sqeCdw13 = (v: DataView, base: number): number => v.getUint32(base + 52, true);
export const sqeCdw14 = (v: DataView, base: number): number => v.getUint32(base + 56, true);
export const sqeCdw15 = (v: DataView, base: number): number => v.getUint32(base + 60, true);

/** SLBA as a number; exact below 2^53, and never below 2^53 when the field is not. */
export const sqeSlba = (v: DataView, base: number): number =>
  v.getUint32(base + 40, true) + v.getUint32(base + 44, true) * 0x1_0000_0000;
/** NLB + 1. */
export const sqeBlockCount = (v: DataView, base: number): number => v.getUint16(base + 48, true) + 1;

/** Writes the data pointer: one SGL descriptor. */
export function writeSgl(v: DataView, base: number, sglId: number, length: number): void {
  v.setUint32(base + 24, 0, true);
  v.setUint32(base + 28, 0, true);
  v.setUint32(base + 32, length, true);
  v.setUint32(base + 36, sglId << 24, true);
}

/** Writes opcode, SGL flag, CID and NSID, and zeroes everything else. */
export function writeSqe(v: DataView, base: number, opcode: number, cid: number, nsid: number): void {
  v.setUint32(base, opcode | (SQE_FLAGS_SGL << 8) | (cid << 16), true);
  v.setUint32(base + 4, nsid, true);
  for (let i = 8; i < SQE_BYTES; i += 4) v.setUint32(base + i, 0, true);
}

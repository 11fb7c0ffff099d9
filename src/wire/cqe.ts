// @hot
/** Completion queue entry (16 bytes). Base 2.1 section 4.2.1. `status` is the 15-bit form of `spec/status.ts`. */
export const CQE_BYTES = 16;

export const cqeDw0 = (v: DataView, base: number): number => v.getUint32(base, true);
export const cqeDw1 = (v: DataView, base: number): number => v.getUint32(base + 4, true);
export const cqeSqhd = (v: DataView, base: number): number => v.getUint16(base + 8, true);
export const cqeCid = (v: DataView, base: number): number => v.getUint16(base + 12, true);
export const cqeStatus = (v: DataView, base: number): number => v.getUint16(base + 14, true) >> 1;

export function writeCqe(
  v: DataView,
  base: number,
  dw0: number,
  dw1: number,
  sqhd: number,
  cid: number,
  status: number,
): void {
  v.setUint32(base, dw0, true);
  v.setUint32(base + 4, dw1, true);
  v.setUint32(base + 8, sqhd, true); // SQID is reserved on fabrics
  v.setUint32(base + 12, cid | (status << 17), true);
}

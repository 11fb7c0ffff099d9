// @hot
/** Header and region accesses of vfio-user by accessors over a DataView: doorbells are such messages. `base` is the offset of the message. */
import { VFIO_USER_HEADER_BYTES } from '../spec/vfio-user.ts';

export const messageId = (v: DataView, base: number): number => v.getUint16(base, true);
export const messageCommand = (v: DataView, base: number): number => v.getUint16(base + 2, true);
/** Of the whole message. */
export const messageBytes = (v: DataView, base: number): number => v.getUint32(base + 4, true);
export const messageFlags = (v: DataView, base: number): number => v.getUint32(base + 8, true);
export const messageErrno = (v: DataView, base: number): number => v.getUint32(base + 12, true);

export function writeMessageHeader(
  v: DataView,
  base: number,
  id: number,
  command: number,
  bytes: number,
  flags: number,
  errno: number,
): void {
  v.setUint16(base, id, true);
  v.setUint16(base + 2, command, true);
  v.setUint32(base + 4, bytes, true);
  v.setUint32(base + 8, flags, true);
  v.setUint32(base + 12, errno, true);
}

/** What REGION_READ and REGION_WRITE have behind the header: offset, region, count; then the data. */
export const REGION_ACCESS_BYTES = 16;
const ACCESS = VFIO_USER_HEADER_BYTES;
/** Exact below 2^53, and never below 2^53 when the field is not. */
export const accessOffset = (v: DataView, base: number): number =>
  v.getUint32(base + ACCESS, true) + v.getUint32(base + ACCESS + 4, true) * 0x1_0000_0000;
export const accessRegion = (v: DataView, base: number): number => v.getUint32(base + ACCESS + 8, true);
export const accessCount = (v: DataView, base: number): number => v.getUint32(base + ACCESS + 12, true);

/** One of REGION_WRITE_MULTI: offset, region, count, 8 bytes of which `count` are data. */
export const MULTI_WRITE_BYTES = 24;

// @hot
/**
 * The one receive buffer of this thread, shared by all connections, of hosts and of the target: node:net hands us the bytes in a synchronous callback, so nothing in it
 * outlives the callback. Reads start at `RECEIVE_HOME` or below, so that the PDU in progress always ends at the same place; the
 * offsets of a steady workload repeat, and so do the views that `TypedArray.set` needs.
 */
import { MemoryArena } from '../../native/arena.ts';
import { ViewCache } from '../../util/view-cache.ts';

/** Where the next PDU header is made to land. What is left of a payload goes in front of it. */
export const RECEIVE_HOME: number = 64 * 1024;
const READ_BYTES = 256 * 1024;

const arena = new MemoryArena(RECEIVE_HOME + READ_BYTES);
const { bytes } = arena;
/** Its number for the addon; 0 without it. */
export const receiveArenaId: number = arena.id;
export const receiveBytes: Uint8Array = bytes;
export const receiveView: DataView = new DataView(bytes.buffer);

const cache = new ViewCache(bytes);
const tails = new ViewCache(bytes);
/** `length` received bytes at `offset`; the same object for the same place and length. */
export function receivedSlice(offset: number, length: number): Uint8Array {
  return cache.view(offset, length);
}
/** Where to read to, so that `pending` more bytes of the PDU in progress end at `RECEIVE_HOME`. */
export function receiveStart(pending: number): number {
  return pending < RECEIVE_HOME ? RECEIVE_HOME - pending : 0;
}
/** Bytes that a read to `offset` may bring. */
export function receiveRoom(offset: number): number {
  return bytes.length - offset;
}
/** The buffer from `offset` on, to read into. */
export function receiveTail(offset: number): Uint8Array {
  return tails.view(offset, bytes.length - offset);
}

/**
 * Memory that was lent to a socket which could not send it at once. Its owner must not overwrite it until it is unpinned: it copies the page
 * elsewhere first. Empty as long as every peer reads as fast as we send, so the check costs one comparison.
 */
const pins = new Map<ArrayBufferLike, number>();
/** Number of pinned buffers of this thread. */
export let pinnedCount = 0;

export function pin(buffer: ArrayBufferLike): void {
  pins.set(buffer, (pins.get(buffer) ?? 0) + 1);
  pinnedCount = pins.size;
}

export function unpin(buffer: ArrayBufferLike): void {
  const count = pins.get(buffer) ?? 0;
  if (count > 1) pins.set(buffer, count - 1);
  else pins.delete(buffer);
  pinnedCount = pins.size;
}

export function isPinned(buffer: ArrayBufferLike): boolean {
  return pinnedCount !== 0 && pins.has(buffer);
}

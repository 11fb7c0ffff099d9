// @hot
/**
 * Views into one fixed buffer, remembered by their offset, so that a steady workload makes none. Direct mapped: an offset keeps the last
 * length asked for; another length replaces it. Bounded by the buffer's size.
 */
export class ViewCache {
  readonly buffer: Uint8Array;
  readonly #views: (Uint8Array | undefined)[];

  constructor(buffer: Uint8Array) {
    this.buffer = buffer;
    this.#views = new Array<Uint8Array | undefined>((buffer.length >>> 2) + 1).fill(undefined);
  }

  /** `length` bytes of the buffer at `offset`. */
  view(offset: number, length: number): Uint8Array {
    const index = offset >>> 2;
    const known = this.#views[index];
    if (known !== undefined && known.length === length && known.byteOffset === this.buffer.byteOffset + offset)
      return known;
    const made = this.buffer.subarray(offset, offset + length);
    this.#views[index] = made;
    return made;
  }
}

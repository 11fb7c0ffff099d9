/** A controller state that is being received in parts: nothing of it is looked at before it is whole. */

/** More than the state of any controller of ours, whatever namespaces it has. */
const STAGED_BYTES_MAX = 16 << 20;

export class StateStaging {
  readonly csvi: number;
  readonly csuuidi: number;
  #bytes = new Uint8Array(64 << 10);
  #length = 0;

  constructor(csvi: number, csuuidi: number) {
    this.csvi = csvi;
    this.csuuidi = csuuidi;
  }

  /** @returns false: the part begins behind what there is, or it is too much */
  put(offset: number, part: Uint8Array): boolean {
    const end = offset + part.length;
    if (offset > this.#length || end > STAGED_BYTES_MAX) return false;
    if (end > this.#bytes.length) {
      const grown = new Uint8Array(Math.min(STAGED_BYTES_MAX, Math.max(end, this.#bytes.length * 2)));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    this.#bytes.set(part, offset);
    this.#length = Math.max(this.#length, end);
    return true;
  }

  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

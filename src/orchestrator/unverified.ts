/** Which parts of a namespace have to be compared yet: a bit for each 64 KiB, constant memory. */
import type { BlockRun } from './volume.ts';

const GRANULE_BYTES_MIN = 64 << 10;

export class Unverified {
  readonly granuleBlocks: number;
  readonly #blockCount: number;
  readonly #blockSize: number;
  readonly #pending: Uint8Array;
  /** Those that are compared at all; undefined: each. */
  #sample: Uint8Array | undefined;
  #count = 0;

  constructor(blockSize: number, blockCount: number) {
    this.#blockSize = blockSize;
    this.#blockCount = blockCount;
    this.granuleBlocks = Math.max(1, GRANULE_BYTES_MIN / blockSize);
    this.#pending = new Uint8Array(Math.ceil(Math.ceil(blockCount / this.granuleBlocks) / 8));
  }

  get bytes(): number {
    return this.#count * this.granuleBlocks * this.#blockSize;
  }

  get granules(): number {
    return this.#count;
  }

  add(run: BlockRun): void {
    this.#each(run, (at) => {
      if (this.#sample === undefined || bit(this.#sample, at)) this.#set(at);
    });
  }

  addGranule(granule: number): void {
    this.#set(granule);
  }

  #each({ slba, blockCount }: BlockRun, act: (granule: number) => void): void {
    const last = Math.floor((slba + blockCount - 1) / this.granuleBlocks);
    for (let at = Math.floor(slba / this.granuleBlocks); at <= last; at++) act(at);
  }

  #set(granule: number): void {
    if (bit(this.#pending, granule)) return;
    this.#pending[granule >> 3]! |= 1 << (granule & 7);
    this.#count++;
  }

  /** Leaves `most` of what is pending now, evenly spread, and of what is added later only those. */
  keepSample(most: number): void {
    const every = Math.max(1, Math.ceil(this.#count / most));
    const sample = new Uint8Array(this.#pending.length);
    let seen = 0;
    this.#count = 0;
    for (const granule of this.#granules()) {
      if (seen++ % every !== 0) continue;
      sample[granule >> 3]! |= 1 << (granule & 7);
      this.#count++;
    }
    this.#pending.set(sample);
    this.#sample = sample;
  }

  *#granules(): Generator<number> {
    for (let byte = 0; byte < this.#pending.length; byte++) {
      if (this.#pending[byte] === 0) continue;
      for (let i = 0; i < 8; i++) if (bit(this.#pending, byte * 8 + i)) yield byte * 8 + i;
    }
  }

  /** Takes what is pending, a granule at a time: it is not pending any more. */
  *take(): Generator<{ readonly granule: number; readonly run: BlockRun }> {
    for (const granule of this.#granules()) {
      this.#pending[granule >> 3]! &= ~(1 << (granule & 7));
      this.#count--;
      const slba = granule * this.granuleBlocks;
      yield { granule, run: { slba, blockCount: Math.min(this.granuleBlocks, this.#blockCount - slba) } };
    }
  }
}

function bit(bits: Uint8Array, at: number): boolean {
  return (bits[at >> 3]! & (1 << (at & 7))) !== 0;
}

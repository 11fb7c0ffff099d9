/**
 * Copies the memory of an in-process guest to where it will run. What its CPU has changed is found by comparison: there is no page table that would
 * tell, and a comparison leaves nothing out.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { GUEST_PAGE_BYTES, type GuestRam } from './guest-ram.ts';

/** Guest memory, by guest address. */
export interface GuestMemoryRun {
  readonly address: number;
  readonly lengthBytes: number;
}

/** Between two of them the guest runs. */
const PIECE_BYTES = 1 << 20;

/** What the orchestrator calls a GuestMemoryMover. @public */
export class GuestMemoryCopy {
  readonly ranges: readonly GuestMemoryRun[];
  readonly #base: number;
  readonly #from: Uint8Array;
  readonly #to: Uint8Array;
  #isFirst = true;

  /** @param to as long as the guest's RAM */
  constructor(ram: GuestRam, to: Uint8Array) {
    this.ranges = [{ address: ram.base, lengthBytes: ram.lengthBytes }];
    this.#base = ram.base;
    this.#from = ram.bytes;
    this.#to = to;
  }

  /** @returns bytes copied */
  async copy(runs: readonly GuestMemoryRun[]): Promise<number> {
    let bytes = 0;
    for (const { address, lengthBytes } of runs) {
      const end = address - this.#base + lengthBytes;
      for (let at = address - this.#base; at < end; at += PIECE_BYTES) {
        const pieceEnd = Math.min(end, at + PIECE_BYTES);
        this.#to.set(this.#from.subarray(at, pieceEnd), at);
        bytes += pieceEnd - at;
        if (pieceEnd - at === PIECE_BYTES) await nextTurn();
      }
    }
    return bytes;
  }

  /** Pages that differ from their copy; all of the memory the first time. */
  async changes(): Promise<readonly GuestMemoryRun[]> {
    if (this.#isFirst) {
      this.#isFirst = false;
      return this.ranges;
    }
    const runs: { address: number; lengthBytes: number }[] = [];
    for (let at = 0; at < this.#from.length; at += GUEST_PAGE_BYTES) {
      const end = Math.min(at + GUEST_PAGE_BYTES, this.#from.length);
      if (Buffer.compare(this.#from.subarray(at, end), this.#to.subarray(at, end)) === 0) continue;
      const last = runs.at(-1);
      const address = this.#base + at;
      if (last !== undefined && last.address + last.lengthBytes === address) last.lengthBytes += end - at;
      else runs.push({ address, lengthBytes: end - at });
    }
    return runs;
  }
}

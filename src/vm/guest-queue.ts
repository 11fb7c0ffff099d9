// @hot
/** A guest driver's end of one queue pair: submission queue with its tail, completion queue with head and phase, and what waits for which CID. */
import { assert } from '../util/assert.ts';
import { CQE_BYTES } from '../wire/cqe.ts';
import { SQE_BYTES } from '../wire/sqe.ts';
import type { GuestRam } from './guest-ram.ts';

/** Called with the 16 bytes of the entry in `cqe`, valid until it returns. */
export type OnCompletion = (cqe: DataView, offset: number) => void;

export class GuestQueue {
  readonly qid: number;
  readonly cqid: number;
  readonly entries: number;
  readonly completionEntries: number;
  readonly sqAddress: number;
  readonly cqAddress: number;
  readonly vector: number;
  readonly #ram: GuestRam;
  tail = 0;
  /** As completions say (SQHD). */
  head = 0;
  cqHead = 0;
  phase = 1;
  readonly #waiting: (OnCompletion | undefined)[];
  readonly #free: number[] = [];
  /** Entries that came for no command of ours: there should be none. */
  strays = 0;

  constructor(ram: GuestRam, options: { qid: number; entries: number; completionEntries?: number; vector: number }) {
    this.#ram = ram;
    this.qid = options.qid;
    this.cqid = options.qid;
    this.entries = options.entries;
    this.completionEntries = options.completionEntries ?? options.entries;
    this.vector = options.vector;
    this.sqAddress = ram.allocate(this.entries * SQE_BYTES);
    this.cqAddress = ram.allocate(this.completionEntries * CQE_BYTES);
    ram.fill(this.cqAddress, this.completionEntries * CQE_BYTES, 0);
    const cids = Math.max(64, this.entries);
    this.#waiting = new Array<OnCompletion | undefined>(cids).fill(undefined);
    for (let cid = cids - 1; cid >= 0; cid--) this.#free.push(cid);
  }

  /** Commands that can be put into the queue now. */
  get room(): number {
    const used = this.tail >= this.head ? this.tail - this.head : this.tail - this.head + this.entries;
    return Math.min(this.entries - 1 - used, this.#free.length);
  }

  get outstanding(): number {
    return this.#waiting.length - this.#free.length;
  }

  /** Guest address of the entry that `put` fills next. */
  get slotAddress(): number {
    return this.sqAddress + this.tail * SQE_BYTES;
  }

  /** Takes the next slot; the caller fills it, with the CID that is returned, and rings the doorbell. */
  take(done: OnCompletion): number {
    assert(this.room > 0, 'The guest submits more than its queue holds');
    const cid = this.#free.pop()!;
    this.#waiting[cid] = done;
    this.tail = this.tail + 1 === this.entries ? 0 : this.tail + 1;
    return cid;
  }

  /** Hands out what was completed. @returns how many entries: then the head doorbell is due */
  reap(): number {
    let count = 0;
    for (;;) {
      const { view } = this.#ram;
      const at = this.#ram.at(this.cqAddress) + this.cqHead * CQE_BYTES;
      const last = view.getUint32(at + 12, true);
      if (((last >>> 16) & 1) !== this.phase) return count;
      count++;
      if (++this.cqHead === this.completionEntries) {
        this.cqHead = 0;
        this.phase ^= 1;
      }
      this.head = view.getUint16(at + 8, true);
      const cid = last & 0xffff;
      const done = this.#waiting[cid];
      if (done === undefined) {
        this.strays++;
        continue;
      }
      this.#waiting[cid] = undefined;
      this.#free.push(cid);
      done(view, at);
    }
  }

  release(): void {
    this.#ram.release(this.sqAddress, this.entries * SQE_BYTES);
    this.#ram.release(this.cqAddress, this.completionEntries * CQE_BYTES);
  }
}

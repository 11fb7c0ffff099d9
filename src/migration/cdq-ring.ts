// @hot
/**
 * The ring of a Controller Data Queue: slots, head, tail, phase, the tail pointer trigger. Base 2.1 section 8.1.6. Where the entries stand is one of
 * two: in memory of its own, for the queue that NVMe/TCP hosts read by log page, or in a host's, for the queue of the specification.
 */

import { assert } from '../util/assert.ts';

/** A host's memory where a ring's entries stand. */
export interface CdqMemory {
  /**
   * Writes the entry; its last byte, which holds the phase, after all others.
   * @param slot 0 to slots - 1
   * @param entry valid until the call returns
   */
  write(slot: number, entry: DataView): void;
}

export class CdqRing {
  // what posting an entry needs stands together
  /** Where the next entry is made, at word `base`. All entries of a ring that has them itself stand here. */
  readonly words: Uint32Array;
  /** The word where the next entry begins: it is made there, with its phase bit from `phase`, and posted then. 0 if it is written elsewhere then. */
  base = 0;
  /** Posting below this word moves `base`, and that is all: it neither wraps, nor triggers, nor takes the last room. */
  #plainEnd = 0;
  readonly #entryWords: number;
  /** The phase of the entry at `tail`: 1 in the first pass, inverted in each. */
  phase = 1;

  readonly slots: number;
  readonly #entry: DataView;
  readonly #memory: CdqMemory | undefined;
  /** The next entry that the host will consume. */
  head = 0;
  /** The next slot to be posted, of entries that stand elsewhere. */
  #tailThere = 0;
  /** Entries consumed since creation: the sequence number of the one at `head`. */
  consumed = 0;
  /** ETPT. */
  triggerEnabled = false;
  /** TPT. */
  triggerSlot = 0;
  readonly #onTrigger: () => void;

  /**
   * @param slots 2 or more; one less can be outstanding
   * @param onTrigger an entry was posted in the trigger's slot; the trigger is disarmed
   * @param place where the entries stand: in a host's memory, or here, in memory that is zeroed. Default: here
   */
  constructor(slots: number, entryBytes: number, onTrigger: () => void, place?: CdqMemory | Uint32Array) {
    const isHere = place === undefined || place instanceof Uint32Array;
    this.slots = slots;
    this.#entryWords = entryBytes / 4;
    this.#onTrigger = onTrigger;
    this.#memory = isHere ? undefined : place;
    this.words = isHere ? (place ?? new Uint32Array(slots * this.#entryWords)) : new Uint32Array(this.#entryWords);
    assert(!isHere || this.words.length === slots * this.#entryWords, 'A ring has room for its slots');
    this.#entry = new DataView(this.words.buffer, this.words.byteOffset, this.#entryWords * 4);
    this.#plan();
  }

  /** The host sees an entry as soon as it is posted. */
  get isElsewhere(): boolean {
    return this.#memory !== undefined;
  }

  /** The next slot to be posted. */
  get tail(): number {
    return this.#memory === undefined ? this.base / this.#entryWords : this.#tailThere;
  }

  /** Entries posted and not consumed. */
  get used(): number {
    const { head, tail, slots } = this;
    return tail >= head ? tail - head : tail - head + slots;
  }

  /** Entries that can be posted before the ring is full. */
  get free(): number {
    return this.slots - 1 - this.used;
  }

  /** There is room for the next entry, and for another one behind it: true is for certain, and cheap. */
  get isPlain(): boolean {
    return this.base < this.#plainEnd;
  }

  /** Posts the entry at `base`. There must be room. */
  post(): void {
    if (this.base < this.#plainEnd) this.base += this.#entryWords;
    else this.#postWithCare();
  }

  #postWithCare(): void {
    const slot = this.tail;
    const isLast = slot + 1 === this.slots;
    const next = isLast ? 0 : slot + 1;
    if (isLast) this.phase ^= 1;
    if (this.#memory === undefined) {
      this.base = next * this.#entryWords;
    } else {
      this.#tailThere = next;
      this.#memory.write(slot, this.#entry);
    }
    const isTrigger = this.triggerEnabled && slot === this.triggerSlot;
    if (isTrigger) {
      this.triggerEnabled = false;
      this.triggerSlot = 0;
    }
    this.#plan();
    if (isTrigger) this.#onTrigger();
  }

  /**
   * HP of feature 21h: the host has consumed what stands before `head`.
   * @returns false if that slot is not among the posted ones (or just behind them)
   */
  consume(head: number): boolean {
    if (!Number.isInteger(head) || head < 0 || head >= this.slots) return false;
    const count = head >= this.head ? head - this.head : head - this.head + this.slots;
    if (count > this.used) return false;
    this.head = head;
    this.consumed += count;
    this.#plan();
    return true;
  }

  /**
   * ETPT and TPT of feature 21h. Only a later post triggers: after arming, the host looks at the ring once more.
   * @returns false if the slot does not exist
   */
  arm(enabled: boolean, slot: number): boolean {
    if (enabled && (slot < 0 || slot >= this.slots)) return false;
    this.triggerEnabled = enabled;
    this.triggerSlot = enabled ? slot : 0;
    this.#plan();
    return true;
  }

  /** Finds the first slot, from the tail on, that takes more than moving the tail. */
  #plan(): void {
    if (this.#memory !== undefined) return; // each of its entries is written somewhere else
    const { head, tail, slots } = this;
    const lastRoom = tail >= head ? head + slots - 2 : head - 2;
    let end = Math.min(slots - 1, lastRoom);
    if (this.triggerEnabled && this.triggerSlot >= tail) end = Math.min(end, this.triggerSlot);
    this.#plainEnd = end * this.#entryWords;
  }
}

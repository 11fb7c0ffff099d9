// @hot
/**
 * The ring of a Controller Data Queue: slots, head, tail, phase, the tail pointer trigger. Base 2.1 section 8.1.6. Where the entries stand is the
 * memory's affair: host memory for the queue of the specification, the controller's own for the one that NVMe/TCP hosts read by log page.
 */

/** One entry that is about to be written: the same bytes twice. */
export interface CdqEntry {
  readonly view: DataView;
  /** In the machine's own order: for copies only. */
  readonly words: Uint32Array;
}

/** Where a ring's entries stand. */
export interface CdqMemory {
  /**
   * Writes the entry; its last byte, which holds the phase, after all others.
   * @param slot 0 to slots - 1
   * @param entry valid until the call returns
   */
  write(slot: number, entry: CdqEntry): void;
}

export class CdqRing {
  readonly slots: number;
  readonly #memory: CdqMemory;
  /** The next entry that the host will consume. */
  head = 0;
  /** The next slot to be posted. */
  tail = 0;
  /** The phase of the entry at `tail`: 1 in the first pass, inverted in each. */
  phase = 1;
  /** Entries posted since creation. */
  posted = 0;
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
   */
  constructor(slots: number, memory: CdqMemory, onTrigger: () => void) {
    this.slots = slots;
    this.#memory = memory;
    this.#onTrigger = onTrigger;
  }

  /** Entries posted and not consumed. */
  get used(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail - this.head + this.slots;
  }

  /** Entries that can be posted before the ring is full. */
  get free(): number {
    return this.slots - 1 - this.used;
  }

  /** The phase of the newest entry. */
  get lastPhase(): number {
    return this.tail === 0 ? 1 ^ this.phase : this.phase;
  }

  /** Posts an entry, whose phase bit the caller has set from `phase`. There must be room. */
  post(entry: CdqEntry): void {
    const slot = this.tail;
    this.#memory.write(slot, entry);
    this.posted++;
    this.tail = slot + 1;
    if (slot + 1 === this.slots) {
      this.tail = 0;
      this.phase ^= 1;
    }
    if (this.triggerEnabled && slot === this.triggerSlot) {
      this.triggerEnabled = false;
      this.triggerSlot = 0;
      this.#onTrigger();
    }
  }

  /** Writes the newest entry again; only while the host cannot have seen it. */
  rewriteLast(entry: CdqEntry): void {
    this.#memory.write(this.tail === 0 ? this.slots - 1 : this.tail - 1, entry);
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
    return true;
  }
}

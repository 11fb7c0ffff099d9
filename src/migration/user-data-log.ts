// @hot
/**
 * Logging of user data changes into a Controller Data Queue: the session of one Migratable Controller, its first and last entries, what happens when
 * the queue becomes full. NVM Command Set 1.2 section 5.6. A change is logged when its effect is in place, before the host sees the completion.
 */
import { EntryRange, EntrySequence } from '../spec/migration.ts';
import {
  UDMQ_ATTRIBUTES_OFFSET,
  UDMQ_BLOCKS_MAX,
  UDMQ_ENTRY_BYTES,
  udmqAttributes,
  writeEntryRange,
} from '../wire/udmq-entry.ts';
import type { CdqEntry, CdqRing } from './cdq-ring.ts';

/** Blocks of a range that is one entry for certain, in a number that is small for the machine. */
const ENTRY_BLOCKS_QUICK = 0x1000_0000;

/** Off: never started or stopped. Suspended: goes on when the controller is resumed. Full: changes were lost. */
export const LogState = { Off: 0, Logging: 1, Suspended: 2, Full: 3 } as const;

export class UserDataLog {
  readonly ring: CdqRing;
  readonly #onFull: () => void;
  readonly #entry: CdqEntry = makeEntry();
  state: number = LogState.Off;
  /** Entries that the host can have seen: a later change of the same blocks needs an entry of its own. */
  #seen = 0;
  /** The newest entry has grown, and stands in the fields below only: its memory is written when somebody may look, or another entry comes. */
  #grown = false;
  // the newest entry, while it may still be extended
  #lastNsid = 0;
  #lastSlba = 0;
  #lastEnd = 0;
  #lastDeallocated = false;

  /** Entries stand where the host looks at any time. */
  readonly #seenAtOnce: boolean;

  /** @param onFull the queue became full: the Full Error event @param seenAtOnce the host sees entries as they are posted: none is rewritten */
  constructor(ring: CdqRing, onFull: () => void, seenAtOnce = false) {
    this.ring = ring;
    this.#onFull = onFull;
    this.#seenAtOnce = seenAtOnce;
  }

  get logging(): boolean {
    return this.state === LogState.Logging;
  }

  /** @returns false if the queue has no room to start (Controller Data Queue Full) */
  start(): boolean {
    // one entry for the start, one for what comes then
    if (this.ring.free < 2) return false;
    this.state = LogState.Logging;
    this.#marker(EntrySequence.First);
    return true;
  }

  /** The host ends the session. */
  stop(): void {
    if (this.state === LogState.Logging) this.#marker(EntrySequence.HostStopped);
    this.state = LogState.Off;
  }

  /** The controller was suspended: every command that it had fetched has been logged. */
  suspend(): void {
    if (this.state !== LogState.Logging) return;
    this.#marker(EntrySequence.Suspended);
    this.state = LogState.Suspended;
  }

  /** The controller was resumed: logging goes on where it was on. */
  resume(): void {
    if (this.state !== LogState.Suspended) return;
    if (!this.start()) this.#full(0, 0, 0, false);
  }

  /**
   * Blocks were changed.
   * @param blockCount 1 and more
   * @param deallocated they were deallocated, not written
   */
  changed(nsid: number, slba: number, blockCount: number, deallocated: boolean): void {
    if (this.state !== LogState.Logging) return;
    const end = slba + blockCount;
    if (this.#extend(nsid, slba, end, deallocated)) return;
    if (blockCount <= ENTRY_BLOCKS_QUICK) this.#range(nsid, slba, blockCount, deallocated);
    else this.#ranges(nsid, slba, end, deallocated);
  }

  #ranges(nsid: number, slba: number, end: number, deallocated: boolean): void {
    for (let at = slba; at < end && this.state === LogState.Logging; ) {
      const count = Math.min(end - at, UDMQ_BLOCKS_MAX);
      this.#range(nsid, at, count, deallocated);
      at += count;
    }
  }

  /** The entry that takes the last slot says so, and is the last. */
  #range(nsid: number, slba: number, count: number, deallocated: boolean): void {
    if (this.ring.free === 1) this.#full(nsid, slba, count, deallocated);
    else this.#post(nsid, slba, count, deallocated, EntrySequence.Middle, EntryRange.Blocks);
  }

  /** An entry did not reach the host. */
  lost(): void {
    this.state = LogState.Full;
    this.#onFull();
  }

  /** Everything posted is the host's to see: it stands in memory, and nothing of it changes any more. */
  markSeen(): void {
    this.#settle();
    this.#seen = this.ring.posted;
  }

  #settle(): void {
    if (!this.#grown) return;
    this.#grown = false;
    const { ring } = this;
    writeEntryRange(this.#entry.view, 0, this.#lastNsid, this.#lastSlba, this.#lastEnd - this.#lastSlba);
    const { Middle } = EntrySequence;
    const attributes = udmqAttributes(Middle, EntryRange.Blocks, this.#lastDeallocated, ring.lastPhase);
    this.#entry.view.setUint8(UDMQ_ATTRIBUTES_OFFSET, attributes);
    ring.rewriteLast(this.#entry);
  }

  /** One entry for changes of the same or neighbouring blocks, as long as nobody can have seen it. */
  #extend(nsid: number, slba: number, end: number, deallocated: boolean): boolean {
    const { ring } = this;
    if (ring.posted === this.#seen || this.#lastEnd === 0 || nsid !== this.#lastNsid) return false;
    if (deallocated !== this.#lastDeallocated || slba > this.#lastEnd || end < this.#lastSlba) return false;
    const first = Math.min(slba, this.#lastSlba);
    const last = Math.max(end, this.#lastEnd);
    if (last - first > UDMQ_BLOCKS_MAX) return false;
    this.#grown = true;
    this.#lastSlba = first;
    this.#lastEnd = last;
    return true;
  }

  #full(nsid: number, slba: number, count: number, deallocated: boolean): void {
    const range = count === 0 ? EntryRange.None : EntryRange.Blocks;
    if (this.ring.free > 0) this.#post(nsid, slba, count, deallocated, EntrySequence.Full, range);
    this.state = LogState.Full;
    this.#onFull();
  }

  #marker(sequence: number): void {
    this.#post(0, 0, 0, false, sequence, EntryRange.None);
  }

  #post(nsid: number, slba: number, count: number, deallocated: boolean, sequence: number, range: number): void {
    this.#settle();
    writeEntryRange(this.#entry.view, 0, nsid, slba, count);
    this.#entry.view.setUint8(UDMQ_ATTRIBUTES_OFFSET, udmqAttributes(sequence, range, deallocated, this.ring.phase));
    this.ring.post(this.#entry);
    if (this.#seenAtOnce) this.markSeen();
    const mayGrow = sequence === EntrySequence.Middle;
    this.#lastNsid = nsid;
    this.#lastSlba = slba;
    this.#lastEnd = mayGrow ? slba + count : 0;
    this.#lastDeallocated = deallocated;
  }
}

function makeEntry(): CdqEntry {
  const bytes = new ArrayBuffer(UDMQ_ENTRY_BYTES);
  return { view: new DataView(bytes), words: new Uint32Array(bytes) };
}

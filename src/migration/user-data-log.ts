// @hot
/**
 * Logging of user data changes into a Controller Data Queue: the session of one Migratable Controller, its first and last entries, what happens when
 * the queue becomes full. NVM Command Set 1.2 section 5.6. A change is logged when its effect is in place, before the host sees the completion.
 */
import { EntryRange, EntrySequence } from '../spec/migration.ts';
import {
  entryWordAttributes,
  entryWordBlockCount,
  entryWordNsid,
  entryWordSlba,
  isDeallocated,
  UDMQ_BLOCKS_MAX,
  UDMQ_ENTRY_DWORDS,
  UDMQ_WORDS_ARE_SWAPPED,
  udmqAttributes,
  writeEntry,
} from '../wire/udmq-entry.ts';
import type { CdqRing } from './cdq-ring.ts';

/** Off: never started or stopped. Suspended: goes on when the controller is resumed. Full: changes were lost. */
export const LogState = { Off: 0, Logging: 1, Suspended: 2, Full: 3 } as const;

// What `changed` uses of other modules, as constants of this one: each import is a load of its own, from a cache that the data of the write have
// emptied just before. (40 ns of a write, measured.)
const WRITTEN = udmqAttributes(EntrySequence.Middle, EntryRange.Blocks, false, 0);
const MUST_SWAP = UDMQ_WORDS_ARE_SWAPPED;

export class UserDataLog {
  readonly ring: CdqRing;
  #state: number = LogState.Off;
  /** `state` is `Logging`. */
  #isOn = false;
  /** The newest entry is of blocks, and no host can have seen it: a change of the same blocks needs no other one. */
  #mayGrow = false;
  readonly #onFull: () => void;

  /** @param onFull the queue became full: the Full Error event */
  constructor(ring: CdqRing, onFull: () => void) {
    this.ring = ring;
    this.#onFull = onFull;
  }

  get state(): number {
    return this.#state;
  }

  get logging(): boolean {
    return this.#isOn;
  }

  #enter(state: number): void {
    this.#state = state;
    this.#isOn = state === LogState.Logging;
  }

  /** The queue is gone. */
  end(): void {
    this.#enter(LogState.Off);
  }

  /** @returns false if the queue has no room to start (Controller Data Queue Full) */
  start(): boolean {
    // one entry for the start, one for what comes then
    if (this.ring.free < 2) return false;
    this.#enter(LogState.Logging);
    this.#marker(EntrySequence.First);
    return true;
  }

  /** The host ends the session. */
  stop(): void {
    if (this.#isOn) this.#marker(EntrySequence.HostStopped);
    this.#enter(LogState.Off);
  }

  /** The controller was suspended: every command that it had fetched has been logged. */
  suspend(): void {
    if (!this.#isOn) return;
    this.#marker(EntrySequence.Suspended);
    this.#enter(LogState.Suspended);
  }

  /** The controller was resumed: logging goes on where it was on. */
  resume(): void {
    if (this.#state !== LogState.Suspended) return;
    if (!this.start()) this.#full(0, 0, 0, false);
  }

  /**
   * Blocks were changed.
   * @param blockCount 1 and more
   * @param deallocated they were deallocated, not written
   */
  changed(nsid: number, slba: number, blockCount: number, deallocated: boolean): void {
    if (!this.#isOn) return;
    const { ring } = this;
    const { base } = ring;
    // short, so that it becomes part of whoever calls it: a call costs a third of the entry
    if (MUST_SWAP || deallocated || base === 0 || !ring.isPlain || slba > 0xffff_ffff || blockCount > 0x1_0000) {
      this.#ranges(nsid, slba, blockCount, deallocated);
      return;
    }
    const { words } = ring;
    // whole numbers of 32 bits from here on: they came as floating point
    const first = slba >>> 0;
    const count = blockCount | 0;
    if (this.#mayGrow) {
      // to the newest entry, which is the one before; modulo 2^32: what is no neighbour then is none
      const distance = (first - words[base - 6]!) | 0;
      if (distance >= -count && distance <= words[base - 7]! + 1) {
        this.#near(nsid, first, count, distance);
        return;
      }
    }
    // as `writeEntry` does
    words[base] = nsid;
    words[base + 1] = count - 1;
    words[base + 2] = first;
    words[base + 3] = 0;
    words[base + 7] = (WRITTEN | ring.phase) << 24;
    this.#mayGrow = true;
    ring.post();
  }

  /** Beside the newest entry, or in it, as far as 32 bits tell. @param distance from where that one begins */
  #near(nsid: number, first: number, count: number, distance: number): void {
    const { words, base, phase } = this.ring;
    const blocks = words[base - 7]! + 1;
    const isNext = distance === blocks && words[base - 8] === nsid && words[base - 1] === (WRITTEN | phase) << 24;
    // writes in order; where nothing has more than 32 bits
    if (isNext && words[base - 5] === 0 && blocks < 0x1000_0000) words[base - 7] = blocks + count - 1;
    else this.#ranges(nsid, first, count, false);
  }

  #ranges(nsid: number, slba: number, blockCount: number, deallocated: boolean): void {
    const end = slba + blockCount;
    if (this.#mayGrow && this.#grow(nsid, slba, end, deallocated)) return;
    for (let at = slba; at < end && this.#isOn; ) {
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
    this.#enter(LogState.Full);
    this.#onFull();
  }

  /** Everything posted is the host's to see: nothing of it changes any more. */
  markSeen(): void {
    this.#mayGrow = false;
  }

  /** HP of feature 21h. @returns false if that slot is not among the posted ones (or just behind them) */
  consume(head: number): boolean {
    this.markSeen(); // a host may release what it never looked at
    return this.ring.consume(head);
  }

  /** One entry for changes of the same or neighbouring blocks. */
  #grow(nsid: number, slba: number, end: number, deallocated: boolean): boolean {
    const { words, base } = this.ring;
    const newest = (base === 0 ? words.length : base) - UDMQ_ENTRY_DWORDS;
    const attributes = entryWordAttributes(words, newest);
    if (nsid !== entryWordNsid(words, newest) || deallocated !== isDeallocated(attributes)) return false;
    const newestSlba = entryWordSlba(words, newest);
    const newestEnd = newestSlba + entryWordBlockCount(words, newest);
    if (slba > newestEnd || end < newestSlba) return false;
    const first = Math.min(slba, newestSlba);
    const last = Math.max(end, newestEnd);
    if (last - first > UDMQ_BLOCKS_MAX) return false;
    writeEntry(words, newest, nsid, first, last - first, attributes);
    return true;
  }

  #full(nsid: number, slba: number, count: number, deallocated: boolean): void {
    const range = count === 0 ? EntryRange.None : EntryRange.Blocks;
    if (this.ring.free > 0) this.#post(nsid, slba, count, deallocated, EntrySequence.Full, range);
    this.lost();
  }

  #marker(sequence: number): void {
    this.#post(0, 0, 0, false, sequence, EntryRange.None);
  }

  #post(nsid: number, slba: number, count: number, deallocated: boolean, sequence: number, range: number): void {
    const { ring } = this;
    writeEntry(ring.words, ring.base, nsid, slba, count, udmqAttributes(sequence, range, deallocated, ring.phase));
    ring.post();
    this.#mayGrow = sequence === EntrySequence.Middle && !ring.isElsewhere;
  }
}

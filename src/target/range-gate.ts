// @hot
/**
 * Who may touch which bytes of a namespace while an operation has a range for itself (Compare and Write). Plain operations share; an exclusive
 * one waits for all that overlap it, and whoever overlaps it waits behind it, in order of arrival, so nobody starves.
 */

/** Where an entry is; `Limited`: before the gate, because of a `WriteLimit`. */
export const GateState = { Outside: 0, Waiting: 1, Inside: 2, Limited: 3 } as const;

/** An operation at the gate. Its fields belong to the gate. */
export interface GateEntry {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  gateState: number;
  gateExclusive: boolean;
  gateNext: GateEntry | undefined;
  gatePrevious: GateEntry | undefined;
  /** It is inside now, after it had to wait. */
  gateOpened(): void;
}

class EntryList {
  first: GateEntry | undefined = undefined;
  last: GateEntry | undefined = undefined;

  push(entry: GateEntry): void {
    entry.gatePrevious = this.last;
    entry.gateNext = undefined;
    if (this.last === undefined) this.first = entry;
    else this.last.gateNext = entry;
    this.last = entry;
  }

  remove(entry: GateEntry): void {
    if (entry.gatePrevious === undefined) this.first = entry.gateNext;
    else entry.gatePrevious.gateNext = entry.gateNext;
    if (entry.gateNext === undefined) this.last = entry.gatePrevious;
    else entry.gateNext.gatePrevious = entry.gatePrevious;
    entry.gateNext = undefined;
    entry.gatePrevious = undefined;
  }

  /** An entry before `end` that `entry` must not run beside. */
  conflicts(entry: GateEntry, end: GateEntry | undefined): boolean {
    for (let other = this.first; other !== end && other !== undefined; other = other.gateNext) {
      if (
        (entry.gateExclusive || other.gateExclusive) &&
        entry.offsetBytes < other.offsetBytes + other.lengthBytes &&
        other.offsetBytes < entry.offsetBytes + entry.lengthBytes
      ) {
        return true;
      }
    }
    return false;
  }
}

export class RangeGate {
  readonly #inside = new EntryList();
  readonly #waiting = new EntryList();
  /** Exclusive entries, inside or waiting: without any, nobody needs to be compared. */
  #exclusiveCount = 0;
  #opening = false;
  #openAgain = false;

  get waitingCount(): number {
    let count = 0;
    for (let entry = this.#waiting.first; entry !== undefined; entry = entry.gateNext) count++;
    return count;
  }

  get isEmpty(): boolean {
    return this.#inside.first === undefined && this.#waiting.first === undefined;
  }

  /** @returns true if it is inside at once; else `gateOpened` comes later */
  enter(entry: GateEntry, exclusive: boolean): boolean {
    entry.gateExclusive = exclusive;
    if (exclusive) this.#exclusiveCount++;
    if (
      this.#exclusiveCount > 0 &&
      (this.#inside.conflicts(entry, undefined) || this.#waiting.conflicts(entry, undefined))
    ) {
      entry.gateState = GateState.Waiting;
      this.#waiting.push(entry);
      return false;
    }
    entry.gateState = GateState.Inside;
    this.#inside.push(entry);
    return true;
  }

  /** An entry that is inside has its range for itself from now on: whoever comes after it waits. */
  claim(entry: GateEntry): void {
    entry.gateExclusive = true;
    this.#exclusiveCount++;
  }

  /** It is done; or, if it still waited, it will not come. */
  leave(entry: GateEntry): void {
    (entry.gateState === GateState.Waiting ? this.#waiting : this.#inside).remove(entry);
    entry.gateState = GateState.Outside;
    if (entry.gateExclusive) this.#exclusiveCount--;
    if (this.#waiting.first !== undefined) this.#open();
  }

  /** Lets in whoever waits for nobody any more. What enters may be done at once and call `leave`: that starts over, it does not recurse. */
  #open(): void {
    if (this.#opening) {
      this.#openAgain = true;
      return;
    }
    this.#opening = true;
    do {
      this.#openAgain = false;
      let entry = this.#waiting.first;
      while (entry !== undefined) {
        const next: GateEntry | undefined = entry.gateNext;
        if (!this.#inside.conflicts(entry, undefined) && !this.#waiting.conflicts(entry, entry)) {
          this.#waiting.remove(entry);
          entry.gateState = GateState.Inside;
          this.#inside.push(entry);
          entry.gateOpened();
          // the lists may have changed: from the start
          this.#openAgain = true;
          break;
        }
        entry = next;
      }
    } while (this.#openAgain);
    this.#opening = false;
  }
}

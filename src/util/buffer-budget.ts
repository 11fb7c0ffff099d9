// @hot
/**
 * What all connections of a target may hold in data buffers together, beyond the one command that each may always have under way: so many hosts
 * that owe or do not take their data cannot fill the memory, and cannot stop the others either. Who finds no room is told when there is some
 * again, first come, first served.
 */

/** A connection with commands that wait for room. */
export interface BudgetWaiter {
  /** There may be room: goes on, or waits again. */
  roomAgain(): void;
}

export class BufferBudget {
  readonly #bytesMax: number;
  readonly #waiting = new Set<BudgetWaiter>();
  #wakes = false;
  readonly #wake: () => void = () => this.#wakeWaiting();
  usedBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  hasRoom(bytes: number): boolean {
    return this.usedBytes + bytes <= this.#bytesMax;
  }

  take(bytes: number): void {
    this.usedBytes += bytes;
  }

  give(bytes: number): void {
    this.usedBytes -= bytes;
    if (this.#waiting.size === 0 || this.#wakes) return;
    // not within the turn of the connection that gives
    this.#wakes = true;
    setImmediate(this.#wake);
  }

  /** Has `roomAgain` called once, after bytes were given back. */
  await(waiter: BudgetWaiter): void {
    this.#waiting.add(waiter);
  }

  forget(waiter: BudgetWaiter): void {
    this.#waiting.delete(waiter);
  }

  #wakeWaiting(): void {
    this.#wakes = false;
    // who waits again comes behind those that are here now
    let turns = this.#waiting.size;
    for (const waiter of this.#waiting) {
      if (turns-- === 0 || this.usedBytes >= this.#bytesMax) return;
      this.#waiting.delete(waiter);
      waiter.roomAgain();
    }
  }
}

/** Virtual time: events in order of their moment, then of their making. Between two events everything that promises can do is done. */
import type { Clock, Timer } from '../../src/util/clock.ts';

interface Entry {
  readonly atMs: number;
  readonly order: number;
  callback: (() => void) | undefined;
}

/** Twice: what promises lead to may be sent at the end of the turn, which lets further promises go on. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

const isBefore = (a: Entry, b: Entry): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);

export class SimClock implements Clock {
  #nowMs = 0;
  #order = 0;
  /** A binary heap. */
  readonly #heap: Entry[] = [];
  eventCount = 0;

  nowMs(): number {
    return this.#nowMs;
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const entry: Entry = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, callback };
    this.#push(entry);
    return {
      cancel: () => {
        entry.callback = undefined;
      },
    };
  }

  delay(ms: number): Promise<void> {
    return new Promise((resolve) => void this.setTimer(resolve, ms));
  }

  /** @returns false if `untilMs` came first, or nothing is left to happen */
  async run(isDone: () => boolean, untilMs: number): Promise<boolean> {
    await settled();
    while (!isDone()) {
      const entry = this.#pop();
      if (entry === undefined || entry.atMs > untilMs) return false;
      const { callback } = entry;
      if (callback === undefined) continue;
      this.#nowMs = entry.atMs;
      this.eventCount++;
      callback();
      await settled();
    }
    return true;
  }

  #push(entry: Entry): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(entry);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (isBefore(heap[parent]!, entry)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = entry;
  }

  #pop(): Entry | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (isBefore(last, heap[child]!)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

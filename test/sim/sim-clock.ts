/** Virtual time: events in order of their moment, then of their making. Between two events everything that promises can do is done. */
import type { Clock, Timer } from '../../src/util/clock.ts';
import { progress } from './watchdog.ts';

/** So many events at one moment, or in one run, are no progress: somebody asks again and again. (Runs that come to an end have some thousands.) */
const EVENTS_OF_MOMENT_MAX = 20_000;
const EVENTS_MAX = 1_000_000;
/** Nearer than that is the same moment: sums of times are not exact. */
const MOMENT_MS = 1e-6;

/** Why a run is given up: what was waited for has come, its time is over, nothing will happen any more, or always the same. */
export type Ended = 'done' | 'late' | 'idle' | 'restless';

interface Entry {
  readonly atMs: number;
  readonly order: number;
  callback: (() => void) | undefined;
  /** For the picture: what it leads to. */
  readonly shown: () => void;
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

  setTimer(callback: () => void, delayMs: number, shown: () => void = callback): Timer {
    const entry: Entry = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, callback, shown };
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

  async run(isDone: () => boolean, untilMs: number): Promise<Ended> {
    await settled();
    let momentMs = this.#nowMs;
    let ofMoment = 0;
    while (!isDone()) {
      const entry = this.#pop();
      if (entry === undefined) return 'idle';
      if (entry.atMs > untilMs) return 'late';
      const { callback } = entry;
      if (callback === undefined) continue;
      if (entry.atMs > momentMs + MOMENT_MS) {
        momentMs = entry.atMs;
        ofMoment = 0;
      }
      if (++ofMoment > EVENTS_OF_MOMENT_MAX || this.eventCount >= EVENTS_MAX) {
        this.#push(entry);
        return 'restless';
      }
      this.#nowMs = entry.atMs;
      this.eventCount++;
      progress();
      callback();
      await settled();
    }
    return 'done';
  }

  /** Timers that are set: how many of each kind, by what they call, and when the first of them is due. */
  get picture(): string {
    const kinds = new Map<string, { count: number; firstMs: number }>();
    for (const { callback, shown, atMs } of this.#heap) {
      if (callback === undefined) continue;
      const text = `${shown.name} ${String(shown).replace(/\s+/g, ' ').slice(0, 80)}`;
      const kind = kinds.get(text) ?? { count: 0, firstMs: atMs };
      kinds.set(text, { count: kind.count + 1, firstMs: Math.min(kind.firstMs, atMs) });
    }
    const lines = [...kinds].map(([text, { count, firstMs }]) => `${count} at ${firstMs.toFixed(2)} ms: ${text}`);
    return lines.length === 0 ? 'no timer' : lines.join('\n  ');
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

import type { Clock, Timer } from '../../src/util/clock.ts';

/** A clock that moves when told. Timers of one moment run in the order in which they were set. */
export class ManualClock implements Clock {
  #nowMs = 0;
  #timers: { atMs: number; callback: () => void }[] = [];

  nowMs(): number {
    return this.#nowMs;
  }

  get timerCount(): number {
    return this.#timers.length;
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const entry = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.push(entry);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== entry);
      },
    };
  }

  advance(ms: number): void {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      let next: { atMs: number; callback: () => void } | undefined;
      for (const entry of this.#timers)
        if (entry.atMs <= untilMs && (next === undefined || entry.atMs < next.atMs)) next = entry;
      if (next === undefined) break;
      const due = next;
      this.#timers = this.#timers.filter((other) => other !== due);
      this.#nowMs = due.atMs;
      due.callback();
    }
    this.#nowMs = untilMs;
  }
}

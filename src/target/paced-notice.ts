/** A notice that comes at most once in so long: what happens sooner is told when that time is over. */
import type { Clock, Timer } from '../util/clock.ts';

export class PacedNotice {
  readonly #clock: Clock;
  readonly #send: () => void;
  #lastMs = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;

  constructor(clock: Clock, send: () => void) {
    this.#clock = clock;
    this.#send = send;
  }

  /** @param intervalMs from one notice to the next */
  due(intervalMs: number): void {
    if (this.#timer !== undefined) return;
    const waitMs = this.#lastMs + intervalMs - this.#clock.nowMs();
    if (waitMs <= 0) this.#fire();
    else this.#timer = this.#clock.setTimer(() => this.#fire(), waitMs);
  }

  #fire(): void {
    this.#timer = undefined;
    this.#lastMs = this.#clock.nowMs();
    this.#send();
  }

  /** As if nothing had ever been told. */
  reset(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#lastMs = Number.NEGATIVE_INFINITY;
  }
}

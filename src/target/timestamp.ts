/** Feature 0Eh of one controller: what its host has set goes on counting, but not while the controller is suspended. Base 2.1 section 5.1.25.1.7. */
import type { Clock } from '../util/clock.ts';

export class Timestamp {
  readonly #clock: Clock;
  /** What the timestamp is ahead of the clock. */
  #offsetMs: number;
  #frozenAtMs: number | undefined;
  /** By Set Features; else it counts from the controller's start. */
  wasSet = false;
  /** It may have stood still (SYNCH): its controller has moved. */
  stopped = false;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#offsetMs = -clock.nowMs();
  }

  get #nowMs(): number {
    return this.#frozenAtMs ?? this.#clock.nowMs();
  }

  /** Whole milliseconds. */
  nowMs(): number {
    return Math.round(this.#nowMs + this.#offsetMs);
  }

  set(ms: number): void {
    this.#offsetMs = ms - this.#nowMs;
    this.wasSet = true;
    this.stopped = false;
  }

  /** The timestamp of another controller at the moment when that was suspended. */
  restore(ms: number, wasSet: boolean, stopped: boolean): void {
    this.#offsetMs = ms - this.#nowMs;
    this.wasSet = wasSet;
    this.stopped = stopped;
  }

  /** Shows the moment of the suspension until it is over; then it is as if there had been none. */
  setFrozen(frozen: boolean): void {
    this.#frozenAtMs = frozen ? this.#clock.nowMs() : undefined;
  }
}

/**
 * How many bytes a second hosts may write to a namespace while a move follows it (feature CDh): a bucket of tokens. A write that finds it empty waits
 * in order of arrival; one timer lets on what has waited long enough. No write fails for it, and none waits longer than `WAIT_MS_MAX`: hosts give
 * commands up that take too long.
 */
import type { Clock, Timer } from '../util/clock.ts';
import { GateState } from './range-gate.ts';

export const WAIT_MS_MAX = 5000;
/** What may be written at once after a pause. */
const BURST_MS = 100;

/** A write, as far as the limit goes. */
export interface LimitedIo {
  readonly lengthBytes: number;
  gateState: number;
  retain(): void;
}

interface Waiting<T> {
  readonly io: T;
  readonly sinceMs: number;
}

export class WriteLimit<T extends LimitedIo> {
  #bytesPerSecond: number;
  readonly #clock: Clock;
  readonly #pass: (io: T) => void;
  #waiting: Waiting<T>[] = [];
  /** Bytes that may be written now; below 0: what was written too much. */
  #tokens: number;
  #filledMs: number;
  #timer: Timer | undefined;

  /** @param bytesPerSecond 1 or more @param pass gets what has waited, in order */
  constructor(bytesPerSecond: number, clock: Clock, pass: (io: T) => void) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
    this.#pass = pass;
    this.#tokens = this.#burst;
    this.#filledMs = clock.nowMs();
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** For what waits, too. */
  setRate(bytesPerSecond: number): void {
    const now = this.#refill();
    this.#bytesPerSecond = bytesPerSecond;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#arm(now);
  }

  get #burst(): number {
    return (this.#bytesPerSecond * BURST_MS) / 1000;
  }

  /** @returns true: it may go on; else `pass` is called for it later */
  admit(io: T): boolean {
    const now = this.#refill();
    if (this.#waiting.length === 0 && this.#tokens > 0) {
      this.#tokens -= io.lengthBytes;
      return true;
    }
    io.gateState = GateState.Limited;
    io.retain();
    this.#waiting.push({ io, sinceMs: now });
    this.#arm(now);
    return false;
  }

  #refill(): number {
    const now = this.#clock.nowMs();
    const gained = ((now - this.#filledMs) * this.#bytesPerSecond) / 1000;
    this.#tokens = Math.min(this.#burst, this.#tokens + gained);
    this.#filledMs = now;
    return now;
  }

  #arm(now: number): void {
    const first = this.#waiting[0];
    if (this.#timer !== undefined || first === undefined) return;
    const untilTokensMs = Math.floor((-this.#tokens * 1000) / this.#bytesPerSecond) + 1;
    const ms = Math.max(1, Math.min(untilTokensMs, first.sinceMs + WAIT_MS_MAX - now));
    this.#timer = this.#clock.setTimer(() => this.#due(), ms);
  }

  #due(): void {
    this.#timer = undefined;
    const now = this.#refill();
    // what `pass` leads to may let others through, or end the limit
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (this.#tokens <= 0 && now - first.sinceMs < WAIT_MS_MAX) break;
      this.#waiting.shift();
      this.#tokens -= first.io.lengthBytes;
      this.#release(first.io);
    }
    // one that was too long for the bucket does not make all behind it late for ever
    this.#tokens = Math.max(this.#tokens, (-this.#bytesPerSecond * WAIT_MS_MAX) / 1000);
    this.#arm(now);
  }

  #release(io: T): void {
    io.gateState = GateState.Outside;
    this.#pass(io);
  }

  /** Those go on at once, whatever the limit. */
  letThrough(which: (io: T) => boolean): void {
    const gone = this.#waiting.filter(({ io }) => which(io));
    if (gone.length === 0) return;
    this.#waiting = this.#waiting.filter(({ io }) => !which(io));
    for (const { io } of gone) this.#release(io);
  }

  /** It is not to go on at all. */
  takeBack(io: T): void {
    this.#waiting = this.#waiting.filter((one) => one.io !== io);
    io.gateState = GateState.Outside;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** The limit ends: all that waits goes on. */
  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.letThrough(() => true);
  }
}

/** So many bytes a second, in bursts of up to a tenth of that. First come, first served. */
import type { Clock, Timer } from '../util/clock.ts';
import { NvmeofError } from '../util/error.ts';

/** How long a limit that was not used may be made up for. */
const BURST_MS = 100;

interface Waiter {
  readonly bytes: number;
  readonly go: () => void;
}

export class RateLimit {
  readonly #clock: Clock;
  #bytesPerMs = Number.POSITIVE_INFINITY;
  /** May be negative: a transfer that is longer than a burst goes, and those after it wait. */
  #credit = 0;
  #atMs: number;
  readonly #waiting: Waiter[] = [];
  #timer: Timer | undefined;

  /** @param bytesPerSecond above 0; Infinity for none */
  constructor(clock: Clock, bytesPerSecond: number = Number.POSITIVE_INFINITY) {
    this.#clock = clock;
    this.#atMs = clock.nowMs();
    this.set(bytesPerSecond);
  }

  get bytesPerSecond(): number {
    return this.#bytesPerMs * 1000;
  }

  /** @throws NvmeofError NVMEOF_ERR_ARGUMENT */
  set(bytesPerSecond: number): void {
    if (!(bytesPerSecond > 0)) {
      throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `A rate of ${bytesPerSecond} bytes a second: above 0 is needed`);
    }
    this.#earn();
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#credit = Math.min(this.#credit, this.burstBytes);
    this.#serve();
  }

  /** What goes at once after a while without any. */
  get burstBytes(): number {
    return this.#bytesPerMs * BURST_MS;
  }

  #earn(): void {
    const nowMs = this.#clock.nowMs();
    if (this.#bytesPerMs !== Number.POSITIVE_INFINITY) {
      this.#credit = Math.min(this.burstBytes, this.#credit + (nowMs - this.#atMs) * this.#bytesPerMs);
    }
    this.#atMs = nowMs;
  }

  /** Resolves when `bytes` may be moved. */
  take(bytes: number): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push({ bytes, go: resolve });
      this.#serve();
    });
  }

  /** Everybody who waits goes at once, and nothing is limited any more. */
  release(): void {
    this.set(Number.POSITIVE_INFINITY);
  }

  #serve(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#earn();
    const unlimited = this.#bytesPerMs === Number.POSITIVE_INFINITY;
    while (this.#waiting.length > 0 && (unlimited || this.#credit >= 0)) {
      const { bytes, go } = this.#waiting.shift()!;
      if (!unlimited) this.#credit -= bytes;
      go();
    }
    if (this.#waiting.length === 0) return;
    this.#timer = this.#clock.setTimer(() => this.#serve(), Math.max(1, Math.ceil(-this.#credit / this.#bytesPerMs)));
  }
}

import type { Clock, Timer } from '../util/clock.ts';

/**
 * Keep Alive of one association. Base 2.1 section 3.9: command based, one is sent every KATO/2; traffic based (CTRATT.TBKAS), every KATO/4 it
 * is looked whether anything completed, and one is sent only if not.
 */
export class KeepAlive {
  readonly #clock: Clock;
  readonly #katoMs: number;
  readonly #periodMs: number;
  readonly #completedCount: (() => number) | undefined;
  readonly #send: () => Promise<void>;
  readonly #onExpired: () => void;
  #timer: Timer | undefined;
  #sentAtMs: number | undefined;
  #lastCount = 0;
  #stopped = false;
  /** Keep Alive commands sent, for statistics. */
  sentCount = 0;

  /**
   * @param completedCount commands completed so far; given if the controller counts traffic
   * @param send sends one; settles when it is answered
   * @param onExpired one was not answered within KATO
   */
  constructor(
    clock: Clock,
    katoMs: number,
    completedCount: (() => number) | undefined,
    send: () => Promise<void>,
    onExpired: () => void,
  ) {
    this.#clock = clock;
    this.#katoMs = katoMs;
    this.#periodMs = completedCount === undefined ? katoMs / 2 : katoMs / 4;
    this.#completedCount = completedCount;
    this.#lastCount = completedCount?.() ?? 0;
    this.#send = send;
    this.#onExpired = onExpired;
    this.#arm();
  }

  #arm(): void {
    if (!this.#stopped) this.#timer = this.#clock.setTimer(() => this.#period(), this.#periodMs);
  }

  #period(): void {
    if (this.#sentAtMs !== undefined) {
      if (this.#clock.nowMs() - this.#sentAtMs >= this.#katoMs) {
        this.stop();
        this.#onExpired();
        return;
      }
    } else if (!this.#sawTraffic()) {
      this.#sentAtMs = this.#clock.nowMs();
      this.sentCount++;
      this.#send().then(
        () => {
          this.#sentAtMs = undefined;
        },
        () => {
          // no slot was free: the next period tries again; or the association is lost, and its owner knows
          this.#sentAtMs = undefined;
        },
      );
    }
    this.#arm();
  }

  #sawTraffic(): boolean {
    const count = this.#completedCount?.() ?? 0;
    const traffic = count !== this.#lastCount;
    this.#lastCount = count;
    return traffic;
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}

/** One life of a process: its timers and its connections end with it, and nothing that it waits for comes any more. */
import type { Clock, Timer } from '../../src/util/clock.ts';
import type { SimClock } from './sim-clock.ts';

/** What ends with a process. */
export interface Mortal {
  /** @param losesSent: what it had sent and nobody has received yet is gone with it */
  kill(losesSent: boolean): void;
}

export class Life {
  isOver = false;
  readonly sockets: Set<Mortal> = new Set();
  readonly #clock: SimClock;

  constructor(clock: SimClock) {
    this.#clock = clock;
  }

  /** Time as the process has it. */
  get clock(): Clock {
    return {
      nowMs: () => this.#clock.nowMs(),
      setTimer: (callback, delayMs): Timer =>
        this.#clock.setTimer(
          () => {
            if (!this.isOver) callback();
          },
          delayMs,
          callback,
        ),
    };
  }

  /** Never resolves once the process is gone. */
  delay(ms: number): Promise<void> {
    return new Promise((resolve) => void this.clock.setTimer(resolve, ms));
  }

  /** @param losesSent its machine has lost power: what is on its way is gone; otherwise its system sends that still */
  end(losesSent: boolean): void {
    this.isOver = true;
    for (const socket of [...this.sockets]) socket.kill(losesSent);
  }
}

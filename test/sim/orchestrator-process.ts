/** One process of the orchestrator: what it does outside is counted in steps, and all of it stops when it is killed. */
import type { Clock, Timer } from '../../src/util/clock.ts';
import type { Network } from './network.ts';
import type { SimClock } from './sim-clock.ts';
import type { SimLink } from './sim-link.ts';

/** Never settles: the process that waits for it is gone. */
const never = <T>(): Promise<T> => new Promise<T>(() => {});

/** Faults happen here. What is thrown is what the orchestrator gets to see of the step. */
export interface StepHook {
  before(name: string): void;
  after(name: string): void;
}

export class Orchestrator {
  readonly network: Network;
  readonly links = new Set<SimLink>();
  readonly #hook: StepHook;
  readonly #clock: SimClock;
  isDead = false;

  constructor(clock: SimClock, network: Network, hook: StepHook) {
    this.#clock = clock;
    this.network = network;
    this.#hook = hook;
  }

  /** Time as the process has it: its timers end with it. */
  get clock(): Clock {
    return {
      nowMs: () => this.#clock.nowMs(),
      setTimer: (callback, delayMs): Timer =>
        this.#clock.setTimer(() => {
          if (!this.isDead) callback();
        }, delayMs),
    };
  }

  /** Settles as `promise` does, unless the process is dead by then. */
  async alive<T>(promise: Promise<T>): Promise<T> {
    try {
      const value = await promise;
      return this.isDead ? await never<T>() : value;
    } catch (error) {
      if (this.isDead) await never();
      throw error;
    }
  }

  async step<T>(name: string, act: () => Promise<T>): Promise<T> {
    if (this.isDead) return never<T>();
    this.#hook.before(name);
    if (this.isDead) return never<T>();
    const value = await this.alive(act());
    this.#hook.after(name);
    return this.isDead ? never<T>() : value;
  }

  kill(): void {
    this.isDead = true;
    for (const link of this.links) link.close();
  }
}

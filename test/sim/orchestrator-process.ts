/** One process of the orchestrator: what it does outside is counted in steps, and all of it stops when it is killed. */
import type { Clock } from '../../src/util/clock.ts';
import { Life } from './life.ts';
import type { SimClock } from './sim-clock.ts';

/** Never settles: the process that waits for it is gone. */
const never = <T>(): Promise<T> => new Promise<T>(() => {});

/** Faults happen here. What is thrown is what the orchestrator gets to see of the step. */
export interface StepHook {
  /** @returns the step's number */
  before(name: string): number;
  after(name: string, step: number): void;
}

export class Orchestrator {
  readonly life: Life;
  readonly #hook: StepHook;
  /** Steps under way. */
  readonly waiting: Map<number, string> = new Map();

  constructor(clock: SimClock, hook: StepHook) {
    this.life = new Life(clock);
    this.#hook = hook;
  }

  /** Time as the process has it: its timers end with it. */
  get clock(): Clock {
    return this.life.clock;
  }

  get isDead(): boolean {
    return this.life.isOver;
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
    const step = this.#hook.before(name);
    if (this.isDead) return never<T>();
    this.waiting.set(step, name);
    try {
      const value = await this.alive(act());
      this.#hook.after(name, step);
      return this.isDead ? never<T>() : value;
    } finally {
      this.waiting.delete(step);
    }
  }

  kill(): void {
    this.life.end(false);
  }
}

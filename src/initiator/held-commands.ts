/** Commands of lost associations that must not be repeated while the controller may still execute their first copy. */
import type { Clock, Timer } from '../util/clock.ts';

/** What was under way on one lost association. */
interface Hold<T> {
  readonly commands: readonly T[];
  readonly timer: Timer;
}

export class HeldCommands<T> {
  readonly #clock: Clock;
  readonly #released: (commands: readonly T[]) => void;
  readonly #holds = new Set<Hold<T>>();

  /** @param released called with the commands of one association when their time has come */
  constructor(clock: Clock, released: (commands: readonly T[]) => void) {
    this.#clock = clock;
    this.#released = released;
  }

  get count(): number {
    let count = 0;
    for (const { commands } of this.#holds) count += commands.length;
    return count;
  }

  /** Keeps them for so long. */
  hold(commands: readonly T[], delayMs: number): void {
    if (commands.length === 0) return;
    const hold: Hold<T> = {
      commands,
      timer: this.#clock.setTimer(() => {
        this.#holds.delete(hold);
        this.#released(commands);
      }, delayMs),
    };
    this.#holds.add(hold);
  }

  /** Ends the waits. @returns what was held */
  take(): T[] {
    const all: T[] = [];
    for (const { commands, timer } of this.#holds) {
      timer.cancel();
      all.push(...commands);
    }
    this.#holds.clear();
    return all;
  }
}

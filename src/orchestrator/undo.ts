/**
 * Takes the steps of a move back, at both ends side by side: an end that does not answer keeps nothing from the other, and both have one patience. What
 * is left then stays for another process.
 */
import type { Clock } from '../util/clock.ts';
import type { Step } from './steps.ts';

/** A step that is not undone, and why. */
export interface Left {
  readonly step: Step;
  /** Undefined: it waits for another one. */
  readonly error: unknown;
}

export interface UndoOptions {
  /** That have begun and are not undone, the last one first. */
  readonly steps: readonly Step[];
  readonly clock: Clock;
  /** Nothing is begun later. */
  readonly deadlineMs: number;
  readonly retryMs: number;
  /** @throws if it has to be tried again */
  readonly undo: (step: Step) => Promise<void>;
  /** Hosts, or the guest, go on. */
  readonly onUrgentDone: () => void;
}

/** @returns what is left, the last step first; empty: everything is as before */
export async function undoSteps(options: UndoOptions): Promise<readonly Left[]> {
  const undoing = new Undoing(options);
  await Promise.all([undoing.at('source'), undoing.at('destination')]);
  return [...undoing.left.values()];
}

/** In that order at each end. */
const URGENCY = { first: 0, later: 1, once: 2 } as const;

const urgency = ({ undoing }: Step): number => URGENCY[undoing ?? 'later'];

class Undoing {
  readonly left: Map<Step, Left>;
  readonly #options: UndoOptions;
  /** Those who wait for a step of the other end. */
  readonly #waiting = new Set<() => void>();

  constructor(options: UndoOptions) {
    this.#options = options;
    this.left = new Map(options.steps.map((step) => [step, { step, error: undefined }]));
    if (!this.#isUrgent) options.onUrgentDone();
  }

  get #isUrgent(): boolean {
    return [...this.left.keys()].some(({ undoing }) => undoing === 'first');
  }

  get #isLate(): boolean {
    return this.#options.clock.nowMs() >= this.#options.deadlineMs;
  }

  async at(end: 'source' | 'destination'): Promise<void> {
    const steps = this.#options.steps
      .filter(({ undoneAt }) => undoneAt === end)
      .sort((one, other) => urgency(one) - urgency(other));
    for (;;) {
      for (const step of steps) {
        if (!this.left.has(step) || this.#hasToWait(step)) continue;
        // what ends with the connection anyway is never left
        if (!this.#isLate || step.undoing === 'once') await this.#attempt(step);
      }
      if (this.#isLate || steps.every((step) => !this.left.has(step))) return;
      await this.#wait(steps.some((step) => this.left.has(step) && this.#hasToWait(step)));
    }
  }

  async #attempt(step: Step): Promise<void> {
    try {
      await this.#options.undo(step);
    } catch (error) {
      this.left.set(step, { step, error });
      return;
    }
    const wasUrgent = this.#isUrgent;
    this.left.delete(step);
    if (wasUrgent && !this.#isUrgent) this.#options.onUrgentDone();
    for (const wake of this.#waiting) wake();
  }

  /** Hosts and the guest use the source again before the destination may be used for anything; and a guest runs only where nothing is closed to it. */
  #hasToWait({ undoneAfter }: Step): boolean {
    return undoneAfter !== undefined && [...this.left.keys()].some(({ name }) => name === undoneAfter);
  }

  /** @param forOthers until one of them is done, at most */
  #wait(forOthers: boolean): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        timer.cancel();
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = this.#options.clock.setTimer(wake, this.#options.retryMs);
      if (forOthers) this.#waiting.add(wake);
    });
  }
}

/** Whether the function runs: it is stopped for a migration, and while no client is there. Several may wait for the same stop. */
import type { PciFunction } from '../pcie/pci-function.ts';

export class RunState {
  readonly #function: PciFunction;
  #state: 'running' | 'stopping' | 'stopped' = 'running';
  #waiting: (() => void)[] = [];
  /** A stop that was overtaken by a resume or reset says nothing any more. */
  #round = 0;

  constructor(pciFunction: PciFunction) {
    this.#function = pciFunction;
  }

  get isRunning(): boolean {
    return this.#state === 'running';
  }

  /** @param onQuiet called once nothing is under way; not if it is resumed or reset before */
  stop(onQuiet: () => void): void {
    if (this.#state === 'stopped') {
      onQuiet();
      return;
    }
    this.#waiting.push(onQuiet);
    if (this.#state === 'stopping') return;
    this.#state = 'stopping';
    const round = ++this.#round;
    this.#function.stop(() => {
      if (round !== this.#round) return;
      this.#state = 'stopped';
      for (const waiting of this.#waiting.splice(0)) waiting();
    });
  }

  resume(): void {
    if (this.#state === 'running') return;
    this.#forget();
    this.#function.resume();
  }

  /** The function is as after power-on, and runs. */
  reset(): void {
    this.#forget();
    this.#function.reset();
    if (this.#function.isStopped) this.#function.resume();
  }

  #forget(): void {
    this.#round++;
    this.#waiting = [];
    this.#state = 'running';
  }
}

/** Runs of memory in ascending order, in bounded room: where there are too many, those that are near each other become one, with what is between. */
import type { MemoryRun } from './end.ts';

const RUNS_MAX = 1 << 15;

export class RunList {
  readonly #max: number;
  readonly #unitBytes: number;
  #gapBytes = 0;
  #runs: { address: number; lengthBytes: number }[] = [];

  /** @param unitBytes of which all addresses and lengths are multiples */
  constructor(unitBytes: number, max: number = RUNS_MAX) {
    this.#unitBytes = unitBytes;
    this.#max = max;
  }

  get runs(): readonly MemoryRun[] {
    return this.#runs;
  }

  /** Begins at or behind the end of the last one. */
  add(address: number, lengthBytes: number): void {
    if (this.#join(address, lengthBytes)) return;
    this.#runs.push({ address, lengthBytes });
    while (this.#runs.length > this.#max) {
      this.#gapBytes = Math.max(this.#unitBytes, this.#gapBytes * 2);
      const before = this.#runs;
      this.#runs = [];
      for (const run of before) if (!this.#join(run.address, run.lengthBytes)) this.#runs.push(run);
    }
  }

  #join(address: number, lengthBytes: number): boolean {
    const last = this.#runs.at(-1);
    if (last === undefined || address - (last.address + last.lengthBytes) > this.#gapBytes) return false;
    last.lengthBytes = address + lengthBytes - last.address;
    return true;
  }
}

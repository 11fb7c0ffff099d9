/** What of the network works, for managers and for hosts. */
import type { Party } from './scenario.ts';

export class Network {
  readonly #cut = new Map<string, number>();
  readonly #stalled = new Map<string, number>();
  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  cut(what: string, ms: number): void {
    this.#cut.set(what, Math.max(this.#cut.get(what) ?? 0, this.#nowMs() + ms));
  }

  stall(what: string, ms: number): void {
    this.#stalled.set(what, Math.max(this.#stalled.get(what) ?? 0, this.#nowMs() + ms));
  }

  isCut(what: string): boolean {
    return (this.#cut.get(what) ?? 0) > this.#nowMs();
  }

  /** How long nothing arrives. */
  stallMs(what: Party): number {
    return Math.max(0, (this.#stalled.get(what) ?? 0) - this.#nowMs());
  }

  heal(): void {
    this.#cut.clear();
    this.#stalled.clear();
  }
}

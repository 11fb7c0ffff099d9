/** What of the network works, for managers and for hosts. */

export class Network {
  readonly #cut = new Map<string, number>();
  readonly #stalled = new Map<string, { readonly sinceMs: number; readonly untilMs: number }>();
  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  cut(what: string, ms: number): void {
    this.#cut.set(what, Math.max(this.#cut.get(what) ?? 0, this.#nowMs() + ms));
  }

  stall(what: string, ms: number): void {
    const nowMs = this.#nowMs();
    this.#stalled.set(what, { sinceMs: nowMs, untilMs: Math.max(this.#stalled.get(what)?.untilMs ?? 0, nowMs + ms) });
  }

  isCut(what: string): boolean {
    return (this.#cut.get(what) ?? 0) > this.#nowMs();
  }

  /** How long nothing arrives. @param bornMs a connection that was made since goes another way */
  stallMs(what: string, bornMs = 0): number {
    const stall = this.#stalled.get(what);
    return stall === undefined || stall.sinceMs < bornMs ? 0 : Math.max(0, stall.untilMs - this.#nowMs());
  }

  heal(): void {
    this.#cut.clear();
    this.#stalled.clear();
  }
}

import type { StateStore } from '../../src/target/state-store.ts';

/** A StateStore that keeps what a crash would leave: JSON of what was saved to its end. */
export class ControlledStateStore implements StateStore {
  readonly kept: Map<string, string> = new Map();
  /** Saves wait for `release`. */
  hold = false;
  /** The next save fails with this. */
  failure: Error | undefined;
  readonly #held: (() => void)[] = [];

  load(name: string): unknown {
    const text = this.kept.get(name);
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  }

  async save(name: string, value: unknown): Promise<void> {
    const text = value === undefined ? undefined : JSON.stringify(value);
    if (this.hold) await new Promise<void>((resolve) => this.#held.push(resolve));
    const { failure } = this;
    if (failure !== undefined) {
      this.failure = undefined;
      throw failure;
    }
    if (text === undefined) this.kept.delete(name);
    else this.kept.set(name, text);
  }

  get heldCount(): number {
    return this.#held.length;
  }

  release(): void {
    this.hold = false;
    for (const go of this.#held.splice(0)) go();
  }
}

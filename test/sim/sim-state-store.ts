/** What a target keeps on its own disk: a value is durable some time after it was given, and its process learns that later still. */
import type { StateStore } from '../../src/target/state-store.ts';
import type { Life } from './life.ts';

const SYNC_MS = 0.15;

export class SimStateStore implements StateStore {
  /** Outlives the process. */
  readonly #kept: Map<string, string>;
  readonly #life: Life;

  constructor(kept: Map<string, string>, life: Life) {
    this.#kept = kept;
    this.#life = life;
  }

  load(name: string): unknown {
    const text = this.#kept.get(name);
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  }

  async save(name: string, value: unknown): Promise<void> {
    const text = value === undefined ? undefined : JSON.stringify(value);
    await this.#life.delay(SYNC_MS);
    if (text === undefined) this.#kept.delete(name);
    else this.#kept.set(name, text);
    await this.#life.delay(SYNC_MS);
  }
}

/** A StateStore in memory: what it keeps survives the target, not the test. */
import type { StateStore } from '../../src/target/state-store.ts';

export class MemoryStateStore implements StateStore {
  readonly values: Map<string, string> = new Map<string, string>();
  /** Saves fail with it. */
  failure: Error | undefined;
  /** Called before each save. */
  onSave: ((name: string) => void) | undefined;

  load(name: string): unknown {
    const text = this.values.get(name);
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  }

  async save(name: string, value: unknown): Promise<void> {
    this.onSave?.(name);
    if (this.failure !== undefined) throw this.failure;
    if (value === undefined) this.values.delete(name);
    else this.values.set(name, JSON.stringify(value));
  }
}

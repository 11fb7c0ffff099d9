/** The memory of a VM that moves to another memory: what its controller writes, told by the controller, and what its CPUs write, told by the mover. */
import type { EndController, GuestMemoryMover, MemoryRun } from './end.ts';
import type { Stream } from './stream.ts';

export class MemoryStream implements Stream {
  readonly name = 'guest memory';
  readonly #mover: GuestMemoryMover;
  readonly #controller: EndController;
  #left: readonly MemoryRun[] = [];
  #isFinal = false;
  allocatedBytes = 0;
  copiedBytes = 0;
  dirtiedBytes = 0;

  constructor(mover: GuestMemoryMover, controller: EndController) {
    this.#mover = mover;
    this.#controller = controller;
  }

  async first(signal: AbortSignal | undefined): Promise<void> {
    await this.#controller.trackMemory(this.#mover.ranges);
    await this.#mover.changes(); // all of it: copied below
    this.allocatedBytes = bytesIn(this.#mover.ranges);
    signal?.throwIfAborted();
    this.copiedBytes += await this.#mover.copy(this.#mover.ranges);
  }

  async look(): Promise<number> {
    const [written, changed] = await Promise.all([this.#controller.memoryChanges(), this.#mover.changes()]);
    // what is not copied yet stays: the controller has forgotten it
    this.#left = merged([...this.#left, ...written.runs, ...changed]);
    this.#isFinal = written.isFinal;
    return bytesIn(this.#left);
  }

  async again(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const bytes = await this.#mover.copy(this.#left);
    this.copiedBytes += bytes;
    this.dirtiedBytes += bytes;
    this.#left = [];
  }

  /** The VM and its controller are still: `isFinal` comes. */
  async finish(signal: AbortSignal | undefined): Promise<void> {
    do {
      await this.look();
      if (this.#left.length > 0) await this.again(signal);
      signal?.throwIfAborted();
    } while (!this.#isFinal);
  }
}

function bytesIn(runs: readonly MemoryRun[]): number {
  return runs.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

/** In ascending order, none twice. */
export function merged(runs: readonly MemoryRun[]): MemoryRun[] {
  const result: { address: number; lengthBytes: number }[] = [];
  for (const { address, lengthBytes } of [...runs].sort((a, b) => a.address - b.address)) {
    const last = result.at(-1);
    if (last !== undefined && address <= last.address + last.lengthBytes) {
      last.lengthBytes = Math.max(last.lengthBytes, address + lengthBytes - last.address);
    } else result.push({ address, lengthBytes });
  }
  return result;
}

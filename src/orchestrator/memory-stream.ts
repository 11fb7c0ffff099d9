/** The memory of a VM that moves to another memory: what its controller writes, told by the controller, and what its CPUs write, told by the mover. */
import type { Clock } from '../util/clock.ts';
import type { EndController, GuestMemoryMover, MemoryRun } from './end.ts';
import type { RateLimit } from './rate-limit.ts';
import type { Stream } from './stream.ts';

const PIECE_BYTES = 1 << 20;

export interface MemoryStreamOptions {
  readonly mover: GuestMemoryMover;
  /** Of the source. */
  readonly controller: EndController;
  readonly rate: RateLimit;
  readonly clock: Clock;
}

export class MemoryStream implements Stream {
  readonly name = 'guest memory';
  readonly #mover: GuestMemoryMover;
  readonly #controller: EndController;
  readonly #rate: RateLimit;
  readonly #clock: Clock;
  #left: readonly MemoryRun[] = [];
  allocatedBytes = 0;
  copiedBytes = 0;
  dirtiedBytes = 0;
  /** It is looked for what the CPUs have changed, once more: as long as it took the last time. */
  finishMs = 0;

  constructor({ mover, controller, rate, clock }: MemoryStreamOptions) {
    this.#mover = mover;
    this.#controller = controller;
    this.#rate = rate;
    this.#clock = clock;
  }

  async first(signal: AbortSignal | undefined): Promise<void> {
    await this.#controller.trackMemory(this.#mover.ranges);
    await this.#mover.changes(); // all of it: copied below
    this.allocatedBytes = await this.#copy((await this.#mover.used?.()) ?? this.#mover.ranges, signal);
  }

  /** In pieces: within the rate, and soon ended. What needs no copy (it is zero at both sides) takes nothing of the rate. */
  async #copy(runs: readonly MemoryRun[], signal: AbortSignal | undefined): Promise<number> {
    let bytes = 0;
    for (const { address, lengthBytes } of runs) {
      for (let done = 0; done < lengthBytes; done += PIECE_BYTES) {
        const piece = Math.min(PIECE_BYTES, lengthBytes - done);
        signal?.throwIfAborted();
        const copied = await this.#mover.copy([{ address: address + done, lengthBytes: piece }]);
        bytes += copied;
        this.copiedBytes += copied;
        if (copied > 0) await this.#rate.take(copied);
      }
    }
    return bytes;
  }

  async look(): Promise<number> {
    const [{ runs }, changed] = await Promise.all([this.#controller.memoryChanges(), this.#changes()]);
    // what is not copied yet stays: the controller has forgotten it
    this.#left = merged([...this.#left, ...runs, ...changed]);
    return bytesIn(this.#left);
  }

  async #changes(): Promise<readonly MemoryRun[]> {
    const startMs = this.#clock.nowMs();
    const changed = await this.#mover.changes();
    this.finishMs = this.#clock.nowMs() - startMs;
    return changed;
  }

  async again(signal: AbortSignal | undefined): Promise<void> {
    this.dirtiedBytes += await this.#copy(this.#left, signal);
    this.#left = [];
  }

  /** The VM and its controller are still: `isFinal` comes. */
  async finish(signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      const { runs, isFinal } = await this.#controller.memoryChanges();
      this.#left = merged([...this.#left, ...runs]);
      if (isFinal) break;
      signal?.throwIfAborted();
    }
    this.#left = merged([...this.#left, ...(await this.#changes())]);
    await this.again(signal);
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

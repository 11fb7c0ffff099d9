// @hot
/**
 * Data buffers for requests that must hold their data: powers of two from 4 KiB up. Buffers are reused and zeroed on the way out of
 * a request's hands only where a later user could see old bytes: every user fills what it sends.
 */
import { BufferBudget } from './buffer-budget.ts';
import { WorkMemory } from './work-memory.ts';

const SHIFT_MIN = 12;
export const TRANSFER_BYTES_MAX_DEFAULT: number = 1 << 30;

export class BufferPool {
  readonly #free: Uint8Array[][] = [];
  readonly #retainBytesMax: number;
  /** Bytes handed out now. */
  usedBytes = 0;
  #retainedBytes = 0;
  /** Buffers that commands work with beside their own transfers. */
  readonly work: WorkMemory = new WorkMemory(this);

  /** Buffers of transfers, over all connections. */
  readonly transfers: BufferBudget;

  /**
   * @param retainBytesMax free buffers kept for reuse; the rest goes back to the process
   * @param transferBytesMax of `transfers`
   */
  constructor(retainBytesMax: number = 64 << 20, transferBytesMax: number = TRANSFER_BYTES_MAX_DEFAULT) {
    this.#retainBytesMax = retainBytesMax;
    this.transfers = new BufferBudget(transferBytesMax);
    for (let shift = SHIFT_MIN; shift <= 31; shift++) this.#free.push([]);
  }

  /** A buffer of at least `length` bytes (1 to 2^31); its content is undefined. */
  take(length: number): Uint8Array {
    const index = length <= 4096 ? 0 : 32 - Math.clz32(length - 1) - SHIFT_MIN;
    const list = this.#free[index]!;
    const bytes = 1 << (index + SHIFT_MIN);
    this.usedBytes += bytes;
    if (list.length > 0) {
      this.#retainedBytes -= bytes;
      return list.pop()!;
    }
    return new Uint8Array(new ArrayBuffer(bytes));
  }

  /** Returns a buffer that `take` gave. */
  give(buffer: Uint8Array): void {
    const bytes = buffer.length;
    this.usedBytes -= bytes;
    if (this.#retainedBytes + bytes > this.#retainBytesMax) return;
    this.#retainedBytes += bytes;
    this.#free[31 - Math.clz32(bytes) - SHIFT_MIN]!.push(buffer);
  }

  /** Frees what is kept. */
  trim(): void {
    for (const list of this.#free) list.length = 0;
    this.#retainedBytes = 0;
  }
}

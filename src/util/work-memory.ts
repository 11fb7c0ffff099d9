/**
 * Buffers of commands that work on data which is nobody's transfer (Copy, Compare, Verify): at most so many bytes at once for all of them;
 * who comes later waits, first come, first served.
 */
import type { BufferPool } from './buffer-pool.ts';

interface Waiter {
  readonly bytes: number;
  readonly granted: (buffer: Uint8Array) => void;
}

export class WorkMemory {
  readonly #pool: BufferPool;
  readonly #bytesMax: number;
  readonly #waiting: Waiter[] = [];
  usedBytes = 0;

  constructor(pool: BufferPool, bytesMax: number = 16 << 20) {
    this.#pool = pool;
    this.#bytesMax = bytesMax;
  }

  /** Calls `granted` with a buffer of at least `bytes`, at once if there is room. */
  take(bytes: number, granted: (buffer: Uint8Array) => void): void {
    if (this.#waiting.length > 0 || !this.#hasRoom(bytes)) {
      this.#waiting.push({ bytes, granted });
      return;
    }
    granted(this.#grant(bytes));
  }

  /** One that asks for more than all of it gets it when nobody else has any. */
  #hasRoom(bytes: number): boolean {
    return this.usedBytes === 0 || this.usedBytes + bytes <= this.#bytesMax;
  }

  #grant(bytes: number): Uint8Array {
    const buffer = this.#pool.take(bytes);
    this.usedBytes += buffer.length;
    return buffer;
  }

  give(buffer: Uint8Array): void {
    this.usedBytes -= buffer.length;
    this.#pool.give(buffer);
    while (this.#waiting.length > 0 && this.#hasRoom(this.#waiting[0]!.bytes)) {
      const { bytes, granted } = this.#waiting.shift()!;
      granted(this.#grant(bytes));
    }
  }
}

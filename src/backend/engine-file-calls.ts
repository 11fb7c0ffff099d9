// @hot
/** The system calls of a file backend through the I/O engine. */
import type { IoEngine } from '../native/io-engine.ts';
import type { MappedMemory } from '../native/mapped-memory.ts';
import { RWF_DSYNC } from '../native/operation-layout.ts';
import { assert } from '../util/assert.ts';
import type { Done, FileCalls } from './file.ts';

/** By the page cache, straight from and to the buffers of the commands. */
export class EngineFileCalls implements FileCalls {
  readonly durableWrites = true;
  readonly #engine: IoEngine;

  constructor(engine: IoEngine) {
    this.#engine = engine;
  }

  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number, done: Done): void {
    this.#engine.read(fd, buffer, offset, length, position, done);
  }

  write(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    done: Done,
    durable = false,
  ): void {
    this.#engine.write(fd, buffer, offset, length, position, durable ? RWF_DSYNC : 0, done);
  }

  writev(fd: number, buffers: readonly Uint8Array[], position: number, done: Done, durable = false): void {
    let length = 0;
    for (let i = 0; i < buffers.length; i++) length += buffers[i]!.length;
    this.#engine.writev(fd, buffers, 0, length, position, durable ? RWF_DSYNC : 0, done);
  }

  fdatasync(fd: number, done: (error: NodeJS.ErrnoException | null) => void): void {
    this.#engine.fdatasync(fd, done);
  }
}

/** Bytes of one slab: a longer transfer takes several calls. */
export const SLAB_BYTES: number = 128 << 10;

/** One aligned slab and the transfer that uses it. */
class Slab {
  readonly offset: number;
  readonly view: Uint8Array;
  buffer: Uint8Array | undefined = undefined;
  bufferOffset = 0;
  done: Done | undefined = undefined;
  readonly onMoved: Done;

  constructor(offset: number, view: Uint8Array, moved: (slab: Slab, error: Error | null, bytes: number) => void) {
    this.offset = offset;
    this.view = view;
    this.onMoved = (error, bytes) => moved(this, error, bytes);
  }
}

/**
 * Past the page cache (O_DIRECT): the kernel wants aligned memory, so the bytes go through slabs that are registered with it once.
 * Owns `memory`; one slab per call in flight.
 */
export class DirectFileCalls implements FileCalls {
  readonly durableWrites = true;
  /** They are copied: however small they are, a call moves whole blocks. */
  readonly segmentsMax: number = Number.MAX_SAFE_INTEGER;
  readonly #engine: IoEngine;
  readonly #bufferIndex: number;
  readonly #blockSize: number;
  readonly #free: Slab[] = [];

  /**
   * @param memory a multiple of `SLAB_BYTES`, as many slabs as calls may be in flight
   * @param blockSize transfers are multiples of it
   */
  constructor(engine: IoEngine, memory: MappedMemory, blockSize: number) {
    this.#engine = engine;
    this.#blockSize = blockSize;
    this.#bufferIndex = engine.registerBuffer(memory.buffer);
    for (let offset = memory.byteLength - SLAB_BYTES; offset >= 0; offset -= SLAB_BYTES) {
      const view = new Uint8Array(memory.buffer, offset, SLAB_BYTES);
      this.#free.push(new Slab(offset, view, (slab, error, bytes) => this.#moved(slab, error, bytes)));
    }
  }

  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number, done: Done): void {
    const slab = this.#take(done);
    slab.buffer = buffer;
    slab.bufferOffset = offset;
    this.#transfer(slab, false, fd, Math.min(length, SLAB_BYTES), position, 0);
  }

  write(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    done: Done,
    durable = false,
  ): void {
    const slab = this.#take(done);
    const bytes = Math.min(length, SLAB_BYTES);
    slab.view.set(offset === 0 && bytes === buffer.length ? buffer : buffer.subarray(offset, offset + bytes));
    this.#transfer(slab, true, fd, bytes, position, durable ? RWF_DSYNC : 0);
  }

  writev(fd: number, buffers: readonly Uint8Array[], position: number, done: Done, durable = false): void {
    const slab = this.#take(done);
    let bytes = 0;
    for (let i = 0; i < buffers.length && bytes < SLAB_BYTES; i++) {
      const buffer = buffers[i]!;
      const left = SLAB_BYTES - bytes;
      slab.view.set(buffer.length <= left ? buffer : buffer.subarray(0, left), bytes);
      bytes += Math.min(buffer.length, left);
    }
    // a list of views may end inside a block: the rest comes with the next call
    this.#transfer(slab, true, fd, bytes - (bytes % this.#blockSize), position, durable ? RWF_DSYNC : 0);
  }

  fdatasync(fd: number, done: (error: NodeJS.ErrnoException | null) => void): void {
    this.#engine.fdatasync(fd, done);
  }

  /** Gives the registration back; before `memory` is unmapped. */
  release(): void {
    if (this.#bufferIndex >= 0) this.#engine.unregisterBuffer(this.#bufferIndex);
  }

  #take(done: Done): Slab {
    const slab = this.#free.pop();
    assert(slab !== undefined, 'More calls in flight than a direct file has slabs');
    slab.done = done;
    return slab;
  }

  #transfer(slab: Slab, writes: boolean, fd: number, bytes: number, position: number, mode: number): void {
    if (this.#bufferIndex >= 0) {
      this.#engine.transferFixed(writes, fd, this.#bufferIndex, slab.offset, bytes, position, mode, slab.onMoved);
    } else if (writes) {
      this.#engine.write(fd, slab.view, 0, bytes, position, mode, slab.onMoved);
    } else {
      this.#engine.read(fd, slab.view, 0, bytes, position, slab.onMoved);
    }
  }

  #moved(slab: Slab, error: NodeJS.ErrnoException | null, bytes: number): void {
    const done = slab.done!;
    if (slab.buffer !== undefined && bytes > 0) {
      slab.buffer.set(bytes === SLAB_BYTES ? slab.view : slab.view.subarray(0, bytes), slab.bufferOffset);
    }
    slab.buffer = undefined;
    slab.done = undefined;
    this.#free.push(slab);
    done(error, bytes);
  }
}

// @hot
/**
 * Null backend: reads give zeroes, writes are dropped. It measures everything but storage. Nothing is allocated once each transfer length
 * has been seen.
 */
import { MemoryArena } from '../native/arena.ts';
import { Status } from '../spec/status.ts';
import type { BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

/** Never written, so all its pages are the kernel's one zero page: reading it costs no memory bandwidth. */
const ZERO_BYTES = 128 * 1024;
const ZEROES = new MemoryArena(ZERO_BYTES);
/** @public */
export class NullBackend implements BlockBackend {
  readonly kind = 'null';
  readonly blockSize: number;
  blockCount: number;
  readonly volatileWriteCache = false;
  readonly readsZeroAfterDeallocate = true;
  readonly lendsMemory = true;
  readonly immediate = true;
  readonly isVolatile = true;
  readonly readOnly: boolean;

  constructor(options: { blockSize: number; blockCount: number; readOnly?: boolean }) {
    this.blockSize = options.blockSize;
    this.blockCount = options.blockCount;
    this.readOnly = options.readOnly ?? false;
  }

  allocatedBytes(): number {
    return 0;
  }

  get allocationUnitBytes(): number {
    return Math.max(this.blockSize, 4096);
  }

  /** It keeps nothing of what is written. */
  nextAllocated(): ByteRun | undefined {
    return undefined;
  }

  read(io: BlockIo): void {
    let left = io.lengthBytes;
    for (; left > ZERO_BYTES; left -= ZERO_BYTES) io.lendAt(ZEROES, 0, ZERO_BYTES);
    io.lendAt(ZEROES, 0, left);
    io.complete(Status.Success);
  }

  write(io: BlockIo): void {
    this.#drop(io);
  }

  flush(io: BlockIo): void {
    io.complete(Status.Success);
  }

  writeZeroes(io: BlockIo, _mayDeallocate: boolean): void {
    this.#drop(io);
  }

  deallocate(io: BlockIo): void {
    this.#drop(io);
  }

  #drop(io: BlockIo): void {
    io.complete(this.readOnly ? Status.NamespaceWriteProtected : Status.Success);
  }

  async grow(blockCount: number): Promise<void> {
    this.blockCount = blockCount;
  }

  async close(): Promise<void> {}
}

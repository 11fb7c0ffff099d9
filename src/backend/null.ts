// @hot
/**
 * Null backend: reads give zeroes, writes are dropped. It measures everything but storage. Nothing is allocated once each transfer length
 * has been seen.
 */
import { Status } from '../spec/status.ts';
import type { BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

/** Never written, so all its pages are the kernel's one zero page: reading it costs no memory bandwidth. */
const ZERO_BYTES = 128 * 1024;
const ZEROES = new Uint8Array(new ArrayBuffer(ZERO_BYTES));
/** A prefix of `ZEROES` per length, by units of 512 bytes. */
const LENGTH_SHIFT = 9;
const views = new Array<Uint8Array | undefined>((ZERO_BYTES >>> LENGTH_SHIFT) + 1).fill(undefined);

function zeroes(length: number): Uint8Array {
  const index = length >>> LENGTH_SHIFT;
  const known = views[index];
  if (known !== undefined && known.length === length) return known;
  const made = ZEROES.subarray(0, length);
  views[index] = made;
  return made;
}

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
    while (left > ZERO_BYTES) {
      io.lend(ZEROES);
      left -= ZERO_BYTES;
    }
    io.lend(zeroes(left));
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

/**
 * What a namespace of the real core stands on: a disk whose commands take time, in two halves, so that what happens in between shows. Its process
 * may end at any moment: nothing of it goes on then.
 */
import type { BlockBackend, BlockIo, ByteRun } from '../../src/backend/block-backend.ts';
import { MediaStatus } from '../../src/spec/status.ts';
import type { Random } from '../support/random.ts';
import type { Life } from './life.ts';
import { BLOCK_SIZE, type SimDisk } from './sim-disk.ts';

/** Some operations take longer than others by far: whoever waits for all of them notices, and so does who does not. */
const SLOW_ONE_IN = 20;
const SLOW_MS = 5;
/** Of those that are slow, some are as slow as a disk that seeks: longer than all that a cut consists of. */
const SLOWEST_ONE_IN = 4;
const SLOWEST_MS = 40;

export interface SimBackendEvents {
  /** It takes effect. */
  effect(io: BlockIo, opcode: 'read' | 'write' | 'deallocate'): void;
  /** Blocks that are bad are so for it. */
  minds(io: BlockIo): boolean;
}

export class SimBackend implements BlockBackend {
  readonly kind = 'sim';
  readonly blockSize: number = BLOCK_SIZE;
  blockCount: number;
  readonly volatileWriteCache = true;
  readonly readsZeroAfterDeallocate = true;
  readonly readOnly = false;
  readonly allocationUnitBytes: number = BLOCK_SIZE;
  readonly #disk: SimDisk;
  readonly #life: Life;
  readonly #random: Random;
  readonly #events: SimBackendEvents;

  constructor(disk: SimDisk, life: Life, random: Random, events: SimBackendEvents) {
    this.blockCount = disk.blockCount;
    this.#disk = disk;
    this.#life = life;
    this.#random = random;
    this.#events = events;
  }

  #later(act: () => void): void {
    const random = this.#random;
    const mostMs = random.oneIn(SLOW_ONE_IN) ? (random.oneIn(SLOWEST_ONE_IN) ? SLOWEST_MS : SLOW_MS) : 0;
    const slowMs = mostMs === 0 ? 0 : random.below(mostMs);
    this.#life.clock.setTimer(act, 0.02 + this.#random.below(100) / 500 + slowMs);
  }

  /** One half, then the other, then the end of it. */
  #halves(io: BlockIo, act: (slba: number, blockCount: number) => void): void {
    const slba = io.offsetBytes / BLOCK_SIZE;
    const blockCount = io.lengthBytes / BLOCK_SIZE;
    const half = blockCount >> 1;
    this.#later(() => {
      act(slba, half);
      this.#later(() => {
        act(slba + half, blockCount - half);
        io.complete(0);
      });
    });
  }

  #change(io: BlockIo, opcode: 'write' | 'deallocate', act: (slba: number, blockCount: number) => void): void {
    const slba = io.offsetBytes / BLOCK_SIZE;
    if (this.#disk.isBad(slba, io.lengthBytes / BLOCK_SIZE) && this.#events.minds(io)) {
      this.#later(() => io.complete(MediaStatus.WriteFault));
      return;
    }
    let isFirst = true;
    this.#halves(io, (from, count) => {
      if (isFirst) this.#events.effect(io, opcode);
      isFirst = false;
      act(from, count);
      if (io.fua) this.#disk.writeThrough(from, count);
    });
  }

  read(io: BlockIo): void {
    const buffer = io.provide();
    let at = 0;
    this.#halves(io, (slba, count) => {
      if (at === 0) this.#events.effect(io, 'read');
      this.#disk.read(slba, buffer.subarray(at, at + count * BLOCK_SIZE));
      at += count * BLOCK_SIZE;
    });
  }

  write(io: BlockIo): void {
    io.retain();
    const first = io.offsetBytes / BLOCK_SIZE;
    this.#change(io, 'write', (slba, count) => {
      const data = Buffer.concat(io.segments.slice(0, io.segmentCount));
      const from = (slba - first) * BLOCK_SIZE;
      this.#disk.write(slba, data.subarray(from, from + count * BLOCK_SIZE));
    });
  }

  writeZeroes(io: BlockIo): void {
    this.#change(io, 'deallocate', (slba, count) => this.#disk.fill(slba, count, 0));
  }

  deallocate(io: BlockIo): void {
    this.writeZeroes(io);
  }

  flush(io: BlockIo): void {
    this.#later(() => {
      this.#disk.flush();
      this.#later(() => io.complete(0));
    });
  }

  async grow(blockCount: number): Promise<void> {
    await this.#life.delay(1);
    this.#disk.grow(blockCount);
    this.blockCount = blockCount;
  }

  nextAllocated(fromBytes: number, endBytes: number): ByteRun | undefined {
    const end = endBytes / BLOCK_SIZE;
    let first = fromBytes / BLOCK_SIZE;
    while (first < end && !this.#disk.isAllocated(first)) first++;
    if (first === end) return undefined;
    let last = first;
    while (last < end && this.#disk.isAllocated(last)) last++;
    return { startBytes: first * BLOCK_SIZE, endBytes: last * BLOCK_SIZE };
  }

  async close(): Promise<void> {}
}

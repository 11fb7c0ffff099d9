/**
 * Blocks that Write Uncorrectable made unreadable, until they are written again (NVM Command Set 1.2 section 3.3.7). As ranges, so that the
 * memory is bounded; kept over a restart where the blocks themselves are.
 */
import type { BlockIo } from '../backend/block-backend.ts';
import { MediaStatus, Status } from '../spec/status.ts';
import { type BlockRange, BlockRanges } from '../util/block-ranges.ts';

/** Keeps `[first block, count]` pairs. */
export interface UncorrectableKeeper {
  load(): readonly (readonly [number, number])[];
  /** Resolves when durable. */
  save(ranges: readonly (readonly [number, number])[]): Promise<void>;
}

/** More separate ranges than this are refused (Write Fault). */
export const UNCORRECTABLE_RANGES_MAX = 4096;

export class UncorrectableBlocks {
  readonly #blockSize: number;
  readonly #keeper: UncorrectableKeeper | undefined;
  readonly #ranges = new BlockRanges();

  constructor(blockSize: number, keeper?: UncorrectableKeeper) {
    this.#blockSize = blockSize;
    this.#keeper = keeper;
    for (const [start, count] of keeper?.load() ?? []) this.#ranges.add(start, count);
  }

  /** Raised by every change. */
  generation = 0;
  /** Called when blocks became unreadable. */
  onMarked: () => void = () => {};

  get blockCount(): number {
    let count = 0;
    for (const { start, end } of this.#ranges.within(0, Number.POSITIVE_INFINITY)) count += end - start;
    return count;
  }

  get isEmpty(): boolean {
    return this.#ranges.isEmpty;
  }

  /** Unrecovered Read Error if a block of it is uncorrectable. */
  readFault(offsetBytes: number, lengthBytes: number): number {
    const start = offsetBytes / this.#blockSize;
    return this.#ranges.intersects(start, lengthBytes / this.#blockSize) ? MediaStatus.UnrecoveredReadError : 0;
  }

  /** Marks the blocks of `io` and completes it. */
  mark(io: BlockIo): void {
    if (this.#ranges.rangeCount >= UNCORRECTABLE_RANGES_MAX) {
      io.complete(MediaStatus.WriteFault);
      return;
    }
    this.#ranges.add(io.offsetBytes / this.#blockSize, io.lengthBytes / this.#blockSize);
    this.generation++;
    this.#keep(io);
    this.onMarked();
  }

  /**
   * The blocks of `io` were written.
   * @returns false if that must first be made durable: `io.complete` is called again then
   */
  clear(io: BlockIo): boolean {
    const removed = this.#ranges.remove(io.offsetBytes / this.#blockSize, io.lengthBytes / this.#blockSize);
    if (removed) this.generation++;
    if (!removed || this.#keeper === undefined) return true;
    this.#keep(io);
    return false;
  }

  #keep(io: BlockIo): void {
    if (this.#keeper === undefined) {
      io.complete(Status.Success);
      return;
    }
    this.#keeper.save(this.#list()).then(
      () => io.complete(Status.Success),
      () => io.complete(MediaStatus.WriteFault),
    );
  }

  #list(): (readonly [number, number])[] {
    return [...this.#ranges.within(0, Number.POSITIVE_INFINITY)].map(({ start, end }) => [start, end - start]);
  }

  /** The parts from block `start` to before `end`, ascending. */
  within(start: number, end: number): Iterable<BlockRange> {
    return this.#ranges.within(start, end);
  }

  /** Blocks from `blockCount` on are no more. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  async truncate(blockCount: number): Promise<void> {
    if (!this.#ranges.remove(blockCount, Number.MAX_SAFE_INTEGER - blockCount)) return;
    this.generation++;
    await this.#keeper?.save(this.#list());
  }

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  async forget(): Promise<void> {
    if (this.#ranges.isEmpty) return;
    this.#ranges.clear();
    this.generation++;
    await this.#keeper?.save([]);
  }
}

/**
 * The blocks of a namespace while its hosts write: first what is allocated, then what was changed meanwhile. What is read later is also written
 * later, so an old copy never overwrites a newer one.
 */
import { assert } from '../util/assert.ts';
import type { BlockCopier } from './block-copier.ts';
import { MoveError, resized } from './move-error.ts';
import type { Verification } from './move-spec.ts';
import type { RateLimit } from './rate-limit.ts';
import type { Stream } from './stream.ts';
import { Unverified } from './unverified.ts';
import {
  type BlockRun,
  blocksIn,
  type ChangeSnapshot,
  type DestinationVolume,
  type SourceVolume,
  withContent,
} from './volume.ts';

/** Parts of 64 KiB that a sample has: 16 MiB from each side. */
const SAMPLE_GRANULES = 256;
const COMPARES_AT_ONCE = 8;
/** Columns of the heat map. */
export const HEAT_COLUMNS = 128;

export interface BlockStreamOptions {
  readonly name: string;
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  readonly copier: BlockCopier;
  /** Nothing was ever written to the destination. */
  readonly destinationIsZero: boolean;
  readonly verification?: Verification;
  /** Reads what was written; needed to verify. */
  readonly written?: SourceVolume;
  /** Of what is compared. */
  readonly rate?: RateLimit;
}

export class BlockStream implements Stream {
  readonly name: string;
  readonly #options: BlockStreamOptions;
  /** What was changed and is not copied yet. */
  #left: ChangeSnapshot | undefined;
  readonly #unverified: Unverified | undefined;
  /** As the move began. */
  readonly #blockCount: number;
  /**
   * They differed when they were compared last. While hosts write that says nothing: a write that is under way shows at the source before it is
   * among the changes, and may take as long as it likes.
   */
  readonly #suspects = new Set<number>();
  allocatedBytes = 0;
  dirtiedBytes = 0;
  verifiedBytes = 0;
  /** Blocks that each look found changed, by part of the namespace. */
  readonly heat: Uint32Array[] = [];

  constructor(options: BlockStreamOptions) {
    this.#options = options;
    this.name = options.name;
    const { source, verification = 'none' } = options;
    this.#blockCount = source.blockCount;
    if (verification !== 'none') this.#unverified = new Unverified(source.blockSize, source.blockCount);
  }

  get copiedBytes(): number {
    return this.#options.copier.counters.read;
  }

  get unverifiedBytes(): number {
    return this.#unverified?.bytes ?? 0;
  }

  async first(signal: AbortSignal | undefined): Promise<void> {
    const { source, copier, destinationIsZero } = this.#options;
    await source.startTracking();
    const runs = this.#counted(source.allocated(signal));
    // what is not allocated reads zero, and has to at the destination as well
    await copier.copy(destinationIsZero ? runs : this.#withHoles(runs), { destinationIsZero, signal });
    if (this.#unverified === undefined) return;
    // what the destination has and the source has not counts as well
    for await (const run of this.#options.written!.allocated(signal)) this.#unverified.add(run);
    if (this.#options.verification === 'sampled') this.#unverified.keepSample(SAMPLE_GRANULES);
  }

  async *#counted(runs: AsyncIterable<BlockRun>): AsyncGenerator<BlockRun> {
    for await (const run of runs) {
      this.allocatedBytes += run.blockCount * this.#options.source.blockSize;
      this.#unverified?.add(run);
      yield run;
    }
  }

  /** Passes the runs on, and clears what is between them. */
  async *#withHoles(runs: AsyncIterable<BlockRun>): AsyncGenerator<BlockRun> {
    const { destination, source } = this.#options;
    let at = 0;
    for await (const run of runs) {
      if (run.slba > at) await destination.clear(at, run.slba - at);
      at = run.slba + run.blockCount;
      yield run;
    }
    if (at < source.blockCount) await destination.clear(at, source.blockCount - at);
  }

  async look(): Promise<number> {
    const { source } = this.#options;
    const left = await source.changes();
    this.#mustFit(left);
    this.#left = left;
    this.#note(left.runs);
    // of changes that do not fit a snapshot only a bound is known
    return (left.complete ? blocksIn(withContent(left.runs)) : source.blockCount) * source.blockSize;
  }

  /** @throws MoveError if the namespace was resized meanwhile */
  #mustFit({ runs }: ChangeSnapshot): void {
    const { name, source } = this.#options;
    const last = runs.at(-1);
    const blockCount = Math.max(source.blockCount, last === undefined ? 0 : last.slba + last.blockCount);
    if (blockCount === this.#blockCount) return;
    const { blockSize } = source;
    throw resized(
      `${name[0]!.toUpperCase()}${name.slice(1)}`,
      { blockSize, blockCount: this.#blockCount },
      { blockSize, blockCount },
    );
  }

  #note(runs: readonly BlockRun[]): void {
    const heat = new Uint32Array(HEAT_COLUMNS);
    const { blockCount } = this.#options.source;
    for (const run of runs) {
      this.#unverified?.add(run);
      addHeat(heat, run, blockCount);
    }
    this.heat.push(heat);
  }

  async again(signal: AbortSignal | undefined): Promise<void> {
    const { copier, source } = this.#options;
    while (this.#left !== undefined) {
      const left = this.#left;
      this.dirtiedBytes += blocksIn(withContent(left.runs)) * source.blockSize;
      await copier.copy(left.runs, { signal });
      await left.acknowledge();
      this.#left = undefined;
      if (left.complete) break;
      this.#left = await source.changes();
      this.#mustFit(this.#left);
      this.#note(this.#left.runs);
    }
  }

  async finish(signal: AbortSignal | undefined): Promise<void> {
    await this.again(signal);
    for (;;) {
      await this.look();
      // what was deallocated has no bytes, and is a change all the same
      if (this.#left!.complete && this.#left!.runs.length === 0) break;
      await this.again(signal);
    }
    this.#left = undefined;
    await this.verify(signal);
    // nothing is under way any more, and all that was changed is copied
    if (this.#suspects.size > 0) throw this.#miscompare([...this.#suspects]);
    await this.#options.destination.flush();
  }

  async verify(signal: AbortSignal | undefined): Promise<void> {
    const unverified = this.#unverified;
    if (unverified === undefined) return;
    const { source, written, rate } = this.#options;
    assert(written !== undefined, 'What was written cannot be read');
    // all of them are compared again
    this.#suspects.clear();
    const todo = unverified.take();
    const worker = async (): Promise<void> => {
      const bytes = unverified.granuleBlocks * source.blockSize;
      const buffers = [new Uint8Array(bytes), new Uint8Array(bytes)] as const;
      for (const { granule, run } of todo) {
        signal?.throwIfAborted();
        const length = run.blockCount * source.blockSize;
        await rate?.take(length);
        const [ours, theirs] = [buffers[0].subarray(0, length), buffers[1].subarray(0, length)];
        const read = await Promise.allSettled([source.readInto(run.slba, ours), written.readInto(run.slba, theirs)]);
        for (const result of read) if (result.status === 'rejected') throw result.reason;
        this.verifiedBytes += length;
        if (Buffer.compare(ours, theirs) !== 0) this.#suspects.add(granule);
      }
    };
    const results = await Promise.allSettled(Array.from({ length: COMPARES_AT_ONCE }, worker));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    for (const granule of this.#suspects) unverified.addGranule(granule);
  }

  #miscompare(granules: readonly number[]): MoveError {
    const { granuleBlocks } = this.#unverified!;
    const first = Math.min(...granules) * granuleBlocks;
    const where = `${granules.length} parts, the first at blocks ${first} to ${first + granuleBlocks - 1}`;
    const remedy = 'see who else writes to the destination, and its health';
    return new MoveError(
      'NVMEOF_ERR_MISCOMPARE',
      `The copy of ${this.name} differs from its source in ${where}: ${remedy}`,
      'as-before',
    );
  }
}

function addHeat(heat: Uint32Array, { slba, blockCount }: BlockRun, blocks: number): void {
  const columnBlocks = blocks / heat.length;
  const end = slba + blockCount;
  for (let at = slba; at < end; ) {
    const column = Math.min(heat.length - 1, Math.floor(at / columnBlocks));
    const next =
      column === heat.length - 1 ? end : Math.min(end, Math.max(at + 1, Math.ceil((column + 1) * columnBlocks)));
    heat[column]! += next - at;
    at = next;
  }
}

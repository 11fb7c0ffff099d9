/**
 * Copies runs of blocks from one volume to another: many chunks at once, in buffers that are made once, when they are needed; zeroes as holes. A run never overlaps one
 * that is still being copied: `copy` returns when all its chunks are written, so what is read later is also written later.
 */
import PQueue from 'p-queue';
import { assert } from '../util/assert.ts';
import { NvmeofError } from '../util/error.ts';
import type { RateLimit } from './rate-limit.ts';
import type { ChangedRun, DestinationVolume, SourceVolume } from './volume.ts';

const CHUNK_BYTES_DEFAULT = 1 << 20;
/** Smaller ones would cost more than they are worth. */
const CHUNK_BYTES_MIN = 64 << 10;
const IN_FLIGHT_BYTES_DEFAULT = 16 << 20;
/** Zeroes shorter than this inside data are written as data: a hole costs a command. */
const HOLE_BYTES_MIN = 64 << 10;
/** Cleared at once: a call can be ended between two of them. */
const HOLE_BLOCKS_MAX = 2 ** 22;

export interface BlockCopierOptions {
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  readonly rate: RateLimit;
  /** Of one read and one write; rounded down to whole blocks. Default 1 MiB, less if the rate is so low that this is longer than a burst. */
  readonly chunkBytes?: number;
  /** Bytes read and not yet written, at most: the memory it takes. Default 16 MiB. */
  readonly inFlightBytes?: number;
}

/** Bytes since the copier was made. */
export interface CopyCounters {
  read: number;
  written: number;
  /** Zeroes that became holes. */
  cleared: number;
  /** Zeroes that the destination has already. */
  skipped: number;
}

export class BlockCopier {
  readonly #source: SourceVolume;
  readonly #destination: DestinationVolume;
  readonly #rate: RateLimit;
  readonly #chunkBlocks: number;
  /** Those that are not in use. */
  readonly #buffers: Uint8Array[] = [];
  #unmade: number;
  readonly #queue: PQueue;
  readonly counters: CopyCounters = { read: 0, written: 0, cleared: 0, skipped: 0 };
  #copying = false;

  /** @throws NvmeofError NVMEOF_ERR_ARGUMENT if the destination cannot hold the source */
  constructor(options: BlockCopierOptions) {
    const { source, destination } = options;
    if (source.blockSize !== destination.blockSize) {
      throw mismatch(`blocks of ${destination.blockSize} bytes, the source has ${source.blockSize}`);
    }
    if (source.blockCount !== destination.blockCount) {
      throw mismatch(`${destination.blockCount} blocks, the source has ${source.blockCount}`);
    }
    this.#source = source;
    this.#destination = destination;
    this.#rate = options.rate;
    // a longer one than a burst would go at once: a short round would look fast, and the pause be forecast short
    const chunkBytes =
      options.chunkBytes ?? Math.min(CHUNK_BYTES_DEFAULT, Math.max(CHUNK_BYTES_MIN, options.rate.burstBytes));
    this.#chunkBlocks = Math.max(1, Math.floor(chunkBytes / source.blockSize));
    const bytes = this.#chunkBlocks * source.blockSize;
    const count = Math.max(1, Math.floor((options.inFlightBytes ?? IN_FLIGHT_BYTES_DEFAULT) / bytes));
    this.#unmade = count;
    this.#queue = new PQueue({ concurrency: count });
  }

  /**
   * Copies what the source has there now; what is deallocated there is so at the destination, and not read. One call at a time.
   * @param options.destinationIsZero nothing was ever written there: zeroes need no command
   * @throws the first error of either volume, or the signal's reason; nothing is under way any more then
   */
  async copy(
    runs: Iterable<ChangedRun> | AsyncIterable<ChangedRun>,
    options: { readonly destinationIsZero?: boolean; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    assert(!this.#copying, 'A copier copies one list of runs at a time');
    this.#copying = true;
    const zero = options.destinationIsZero === true;
    const failure = new FirstError();
    try {
      for await (const run of runs) {
        const isHole = run.isDeallocated === true;
        const partBlocks = isHole ? HOLE_BLOCKS_MAX : this.#chunkBlocks;
        for (let done = 0; done < run.blockCount && failure.error === undefined; done += partBlocks) {
          const blockCount = Math.min(partBlocks, run.blockCount - done);
          // memory is bounded, and so is what waits for it
          await this.#queue.onSizeLessThan(1);
          if (options.signal?.aborted === true) failure.note(options.signal.reason);
          if (failure.error !== undefined) break;
          void this.#queue
            .add(() =>
              isHole ? this.#hole(run.slba + done, blockCount) : this.#chunk(run.slba + done, blockCount, zero),
            )
            .catch((error) => failure.note(error));
        }
        if (failure.error !== undefined) break;
      }
    } catch (error) {
      failure.note(error); // of the runs themselves
    } finally {
      await this.#queue.onIdle();
      this.#copying = false;
    }
    failure.rethrow();
  }

  #makeBuffer(): Uint8Array {
    assert(this.#unmade > 0, 'More chunks are under way than there are buffers');
    this.#unmade--;
    return new Uint8Array(new ArrayBuffer(this.#chunkBlocks * this.#source.blockSize));
  }

  async #hole(slba: number, blockCount: number): Promise<void> {
    await this.#destination.clear(slba, blockCount);
    this.counters.cleared += blockCount * this.#source.blockSize;
  }

  async #chunk(slba: number, blockCount: number, destinationIsZero: boolean): Promise<void> {
    const { blockSize } = this.#source;
    const bytes = blockCount * blockSize;
    await this.#rate.take(bytes);
    const buffer = this.#buffers.pop() ?? this.#makeBuffer();
    try {
      const data = buffer.subarray(0, bytes);
      await this.#source.readInto(slba, data);
      this.counters.read += bytes;
      for (const piece of pieces(data, blockSize)) {
        const at = slba + piece.start / blockSize;
        const length = piece.end - piece.start;
        if (!piece.zero) {
          await this.#destination.write(at, data.subarray(piece.start, piece.end));
          this.counters.written += length;
        } else if (destinationIsZero) {
          this.counters.skipped += length;
        } else {
          await this.#destination.clear(at, length / blockSize);
          this.counters.cleared += length;
        }
      }
    } finally {
      this.#buffers.push(buffer);
    }
  }
}

/** The first error of several chunks; the others are its consequences, or come too late. */
class FirstError {
  error: { readonly cause: unknown } | undefined;

  note(cause: unknown): void {
    this.error ??= { cause };
  }

  rethrow(): void {
    if (this.error !== undefined) throw this.error.cause;
  }
}

function mismatch(what: string): NvmeofError {
  return new NvmeofError('NVMEOF_ERR_ARGUMENT', `The destination has ${what}: make it with the geometry of the source`);
}

interface Piece {
  readonly start: number;
  readonly end: number;
  readonly zero: boolean;
}

/** `data` cut into what is zero and what is not, in whole blocks; short zeroes between data stay data. */
export function pieces(data: Uint8Array, blockSize: number): Piece[] {
  const found: Piece[] = [];
  let start = 0;
  let zero = isZero(data, 0, blockSize);
  for (let at = blockSize; at <= data.length; at += blockSize) {
    const next = at < data.length ? isZero(data, at, at + blockSize) : !zero;
    if (next === zero) continue;
    found.push({ start, end: at, zero });
    start = at;
    zero = next;
  }
  if (found.length === 1) return found;
  return joined(found);
}

/** Zeroes that are too short for a hole go to the data beside them. */
function joined(found: readonly Piece[]): Piece[] {
  const result: Piece[] = [];
  for (const piece of found) {
    const zero = piece.zero && piece.end - piece.start >= HOLE_BYTES_MIN;
    const last = result.at(-1);
    if (last !== undefined && last.zero === zero)
      result[result.length - 1] = { start: last.start, end: piece.end, zero };
    else result.push({ start: piece.start, end: piece.end, zero });
  }
  return result;
}

export function isZero(data: Uint8Array, start: number, end: number): boolean {
  const whole = start + (((end - start) >>> 3) << 3);
  const view = new BigUint64Array(data.buffer, data.byteOffset + start, (whole - start) >>> 3);
  if (view.some((word) => word !== 0n)) return false;
  for (let i = whole; i < end; i++) if (data[i] !== 0) return false;
  return true;
}

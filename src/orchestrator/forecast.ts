/** How a move would go if things stayed as they are: rates are watched for a moment, rounds are reckoned. Nothing is changed by it. */
import type { Clock } from '../util/clock.ts';
import { Convergence } from './convergence.ts';
import { all } from './move-error.ts';
import { blocksIn, type SourceVolume } from './volume.ts';

const READ_BYTES = 1 << 20;
const READS_AT_ONCE = 8;
const ROUNDS_MAX = 100;
/** Where there is nothing to read. */
const RATE_UNKNOWN = 100 << 20;

/** Bytes a second that hosts change, at the granularity of the tracker. */
export async function dirtyRateOf(sources: readonly SourceVolume[], observeMs: number, clock: Clock): Promise<number> {
  let bytes = 0;
  const startMs = clock.nowMs();
  try {
    await all(sources, (source) => source.startTracking());
    await new Promise<void>((resolve) => {
      clock.setTimer(resolve, observeMs);
    });
    await all(sources, async (source) => {
      const { runs, acknowledge } = await source.changes();
      bytes += blocksIn(runs) * source.blockSize;
      await acknowledge();
    });
  } finally {
    await all(sources, (source) => source.stopTracking());
  }
  return (bytes / Math.max(1, clock.nowMs() - startMs)) * 1000;
}

/** Bytes a second that the sources give, read as a copy reads. */
export async function readRateOf(
  sources: readonly SourceVolume[],
  observeMs: number,
  clock: Clock,
  signal: AbortSignal | undefined,
): Promise<number> {
  const startMs = clock.nowMs();
  let bytes = 0;
  for (const source of sources) {
    const chunkBlocks = Math.max(1, Math.floor(READ_BYTES / source.blockSize));
    const chunks = chunksOf(source, chunkBlocks, signal);
    const worker = async (): Promise<void> => {
      const buffer = new Uint8Array(chunkBlocks * source.blockSize);
      while (clock.nowMs() - startMs < observeMs) {
        const next = await chunks.next();
        if (next.done === true) return;
        const length = next.value.blockCount * source.blockSize;
        await source.readInto(next.value.slba, buffer.subarray(0, length));
        bytes += length;
      }
    };
    await all(Array.from({ length: READS_AT_ONCE }), worker);
    await chunks.return(undefined);
  }
  const durationMs = clock.nowMs() - startMs;
  return bytes === 0 || durationMs <= 0 ? RATE_UNKNOWN : (bytes / durationMs) * 1000;
}

async function* chunksOf(
  source: SourceVolume,
  chunkBlocks: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ slba: number; blockCount: number }, undefined> {
  for await (const run of source.allocated(signal)) {
    for (let done = 0; done < run.blockCount; done += chunkBlocks) {
      yield { slba: run.slba + done, blockCount: Math.min(chunkBlocks, run.blockCount - done) };
    }
  }
  return undefined;
}

/** Rounds at those rates, until the pause fits or they get no shorter. */
export function forecast(
  allocatedBytes: number,
  rates: { readonly copyBytesPerSecond: number; readonly dirtyBytesPerSecond: number },
  blackoutBudgetMs: number,
  switchMs: number,
): { readonly totalMs: number | undefined; readonly blackoutMs: number | undefined } {
  const convergence = new Convergence({ blackoutBudgetMs, switchMs });
  let left = allocatedBytes;
  let totalMs = 0;
  for (let i = 0; i < ROUNDS_MAX; i++) {
    const durationMs = (left / rates.copyBytesPerSecond) * 1000;
    const dirtiedBytes = Math.min(allocatedBytes, (rates.dirtyBytesPerSecond * durationMs) / 1000);
    totalMs += durationMs;
    convergence.add({ bytes: left, durationMs, dirtiedBytes });
    const { kind } = convergence.verdict;
    if (kind === 'cut') return { totalMs: totalMs + convergence.blackoutMs, blackoutMs: convergence.blackoutMs };
    if (kind === 'stuck') break;
    left = dirtiedBytes;
  }
  return { totalMs: undefined, blackoutMs: undefined };
}

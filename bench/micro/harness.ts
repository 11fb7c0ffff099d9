/**
 * Times small operations. A bench is a function that runs the operation `count` times: the loop is inside, so that each bench is compiled for
 * itself. Run with `--expose-gc --max-semi-space-size=64`: garbage is the growth of the heap over a run in which no collection takes place.
 */

/** One line of the report, as JSON on stdout. */
export interface MicroResult {
  readonly name: string;
  readonly nsPerOp: readonly number[];
  readonly bytesPerOp: number;
}

const SAMPLE_MS = 40;
const SAMPLES = process.argv.includes('--full') ? 15 : 7;
/** Garbage of one measured run stays below this: half a semi-space. */
const GARBAGE_BYTES_MAX = 24 << 20;
const GARBAGE_COUNT = 20_000;

function timeMs(bench: (count: number) => void, count: number): number {
  const start = performance.now();
  bench(count);
  return performance.now() - start;
}

/** How often `bench` must run for one sample; compiles it on the way. */
function calibrate(bench: (count: number) => void): number {
  let count = 64;
  for (;;) {
    const ms = timeMs(bench, count);
    if (ms > SAMPLE_MS / 4) return Math.max(1, Math.ceil((count * SAMPLE_MS) / ms));
    count *= 2;
  }
}

export function report(result: MicroResult): void {
  process.stdout.write(`${JSON.stringify(result)}\n`);
}

export function bench(name: string, run: (count: number) => void): void {
  const count = calibrate(run);
  const nsPerOp: number[] = [];
  for (let i = 0; i < SAMPLES; i++) nsPerOp.push((timeMs(run, count) * 1e6) / count);
  report({ name, nsPerOp, bytesPerOp: garbage(run, Math.min(count, GARBAGE_COUNT)) });
}

/** Bytes that one operation leaves on the heap. */
export function garbage(run: (count: number) => void, count: number): number {
  const { gc } = globalThis;
  if (gc === undefined) return Number.NaN;
  let best = Number.POSITIVE_INFINITY;
  let length = count;
  for (let tries = 0; tries < 5; tries++) {
    gc();
    const empty = heapGrowth(() => {});
    const grown = heapGrowth(() => run(length)) - empty;
    if (grown > GARBAGE_BYTES_MAX || grown < -1024) {
      length = Math.max(1, length >> 2); // a collection may have come in between
      continue;
    }
    best = Math.min(best, Math.max(0, grown) / length);
  }
  return best;
}

function heapGrowth(run: () => void): number {
  const before = process.memoryUsage().heapUsed;
  run();
  return process.memoryUsage().heapUsed - before;
}

/** Keeps a result from being optimized away. */
export const sink: Float64Array = new Float64Array(1);

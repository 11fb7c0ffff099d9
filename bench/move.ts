/**
 * Moves of a namespace between two `nvmeferry target` on loopback, under a host that writes at a given rate: how long it takes, how long the host waits,
 * what is copied. How fast the copying is, beside plain loops of the same initiator in the same run. And what the host notices of the copying, by its
 * rate limit.
 *
 *     node dist-test/bench/move.js [--rounds 3] [--sizes 64,256] [--rates 0,20,80] [--only moves|copy|latency] [--plot FILE.svg]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { HostController, MultipathSubsystem, parseNvmeUri } from '../src/initiator.ts';
import {
  bytesOf,
  FabricEnd,
  Journal,
  Move,
  type MoveEvent,
  type MoveReport,
  type MoveTuning,
} from '../src/migration.ts';
import { systemClock } from '../src/util/clock.ts';
import { Histogram } from './lib/histogram.ts';
import { LOAD_CORE, pinSelf } from './lib/machine.ts';
import { linePlot } from './lib/plot.ts';
import { ProductTarget } from './lib/product.ts';
import { median, short, spread, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    sizes: { type: 'string', default: '64,256' },
    rates: { type: 'string', default: '0,20,80' },
    only: { type: 'string', default: '' },
    plot: { type: 'string' },
  },
});
const ROUNDS = Number(values.rounds);
const SIZES = values.sizes.split(',').map(Number);
const RATES = values.rates.split(',').map(Number);
const NQN = 'nqn.2026-01.io.nvmeferry:bench-move';
const MANAGER = 'nqn.2026-01.io.nvmeferry:bench-mover';
const UUID = '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa';
const MIB = 1 << 20;
const BLOCK_BYTES = 4096;
const CHUNK_BYTES = MIB;
/** As the orchestrator's own default. */
const IN_FLIGHT = 32;
/** The namespace is sparse: what is written stands in its first part. */
const NAMESPACE_MIB = 1024;
const WRITER_TICK_MS = 5;

const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-bench-'));

interface Pair {
  readonly a: ProductTarget;
  readonly b: ProductTarget;
}

async function startTarget(name: string, isClosed: boolean): Promise<ProductTarget> {
  const path = join(folder, `${name}.json`);
  const backend = { type: 'memory', size: `${NAMESPACE_MIB}MiB`, blockSize: BLOCK_BYTES };
  const namespace = { nsid: 1, uuid: UUID, backend, ...(isClosed ? { closed: true } : {}) };
  const subsystem = {
    nqn: NQN,
    allowAnyHost: true,
    namespaces: [namespace],
    migration: { managers: { hosts: [MANAGER] } },
  };
  const port = { portId: 1, address: '127.0.0.1', service: 0, subsystems: [NQN] };
  writeFileSync(
    path,
    JSON.stringify({ subsystems: [subsystem], ports: [port], discovery: 'off', log: { level: 'error' } }),
  );
  return ProductTarget.fromConfig(path);
}

const addressOf = (target: ProductTarget): { address: string; port: number; subnqn: string } => {
  const { nsid: _, subnqn, address, port } = parseNvmeUri(target.uri);
  return { address, port: port!, subnqn: subnqn! };
};

async function whilePaired<T>(act: (pair: Pair) => Promise<T>): Promise<T> {
  const a = await startTarget('a', false);
  const b = await startTarget('b', true);
  try {
    return await act({ a, b });
  } finally {
    await Promise.all([a.stop(), b.stop()]);
  }
}

/** Random data, so that nothing is a hole. */
async function fill({ a }: Pair, mib: number): Promise<void> {
  const host = await HostController.connect(addressOf(a));
  const namespace = await host.namespace(1);
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let i = 0; i < chunk.length; i++) chunk[i] = 1 + ((i * 31) % 255);
  for (let at = 0; at < mib; at++) await namespace.write((at * CHUNK_BYTES) / BLOCK_BYTES, chunk);
  await host.close();
}

/** Writes 4 KiB blocks at random places of the part in use, so many bytes a second, eight at a time. */
class Writer {
  readonly #subsystem: MultipathSubsystem;
  readonly #blocks: number;
  readonly #bytesPerSecond: number;
  #isOver = false;
  #done: Promise<void> | undefined;
  longestMs = 0;
  /** Of each write, while it is set. */
  latencies: Histogram | undefined;

  constructor(subsystem: MultipathSubsystem, mib: number, mibPerSecond: number) {
    this.#subsystem = subsystem;
    this.#blocks = (mib * MIB) / BLOCK_BYTES;
    this.#bytesPerSecond = mibPerSecond * MIB;
  }

  async start(): Promise<void> {
    const namespace = await this.#subsystem.namespace(1);
    const data = new Uint8Array(BLOCK_BYTES).fill(0x5a);
    let seed = 12_345;
    let owed = 0;
    let atMs = performance.now();
    const lane = async (): Promise<void> => {
      while (!this.#isOver) {
        const nowMs = performance.now();
        owed = Math.min(owed + ((nowMs - atMs) * this.#bytesPerSecond) / 1000, MIB);
        atMs = nowMs;
        if (owed < BLOCK_BYTES) {
          await new Promise((resolve) => setTimeout(resolve, WRITER_TICK_MS));
          continue;
        }
        owed -= BLOCK_BYTES;
        seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
        await namespace.write((seed >>> 0) % this.#blocks, data);
        const tookMs = performance.now() - nowMs;
        this.longestMs = Math.max(this.longestMs, tookMs);
        this.latencies?.record(Histogram.units(tookMs));
      }
    };
    this.#done = Promise.all(Array.from({ length: 8 }, lane)).then(() => {});
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#done;
  }
}

async function move({ a, b }: Pair, more: MoveTuning = {}, onEvent?: (event: MoveEvent) => void): Promise<MoveReport> {
  const [source, destination] = await Promise.all(
    [a, b].map((target) => FabricEnd.connect({ ...addressOf(target), hostnqn: MANAGER })),
  );
  const path = join(folder, `journal-${performance.now()}`);
  const journal = await Journal.open(path);
  try {
    const tuning = { blackoutBudgetMs: 300, whenStuck: 'cut', chunkBytes: CHUNK_BYTES, ...more } as const;
    // neither outlives the figures
    const spec = { kind: 'namespaces', acceptForgetful: true } as const;
    const ends = { source: source!, destination: destination! };
    return await new Move({ ...ends, journal, clock: systemClock, spec, tuning, onEvent }).run();
  } finally {
    await Promise.all([source!.close(), destination!.close(), journal.close()]);
  }
}

interface Result {
  readonly report: MoveReport;
  /** As the host saw it; undefined without one. */
  readonly longestMs: number | undefined;
}

function moveUnder(mib: number, mibPerSecond: number): Promise<Result> {
  return whilePaired(async (pair) => {
    await fill(pair, mib);
    if (mibPerSecond === 0) return { report: await move(pair), longestMs: undefined };
    const host = await MultipathSubsystem.connect({ paths: [addressOf(pair.a), addressOf(pair.b)] });
    const writer = new Writer(host, mib, mibPerSecond);
    await writer.start();
    const report = await move(pair);
    await writer.end();
    await host.close();
    return { report, longestMs: writer.longestMs };
  });
}

async function moves(): Promise<void> {
  const results = new Map<string, Result[]>();
  const key = (mib: number, rate: number): string => `${mib}/${rate}`;
  for (let round = 0; round < ROUNDS; round++) {
    for (const mib of SIZES) {
      for (const rate of RATES) {
        const list = results.get(key(mib, rate)) ?? [];
        list.push(await moveUnder(mib, rate));
        results.set(key(mib, rate), list);
      }
    }
  }
  const rows = SIZES.flatMap((mib) =>
    RATES.map((rate) => {
      const list = results.get(key(mib, rate))!;
      const of = (pick: (result: Result) => number): string => spread(list.map(pick));
      return [
        `${mib}`,
        `${rate}`,
        of(({ report }) => report.totalMs),
        of(({ report }) => report.rounds.length),
        of(({ report }) => bytesOf(report).moved / MIB),
        of(({ report }) => bytesOf(report).moved / bytesOf(report).minimum),
        of(({ report }) => report.blackoutForecastMs ?? Number.NaN),
        of(({ report }) => report.blackoutMs ?? Number.NaN),
        rate === 0 ? '-' : of(({ longestMs }) => longestMs ?? Number.NaN),
      ];
    }),
  );
  const head = [
    'MiB in use',
    'written MiB/s',
    'total ms',
    'rounds',
    'copied MiB',
    'of the least',
    'forecast ms',
    'pause ms',
    'longest write ms',
  ];
  console.log(`\nMoves, budget 300 ms, median (least - most) of ${ROUNDS}\n`);
  console.log(
    table(
      head,
      head.map(() => 'right' as const),
      rows,
    ),
  );
  if (values.plot === undefined) return;
  const series = SIZES.map((mib) => ({
    name: `${mib} MiB in use`,
    points: RATES.map(
      (rate) => [rate, median(results.get(key(mib, rate))!.map(({ report }) => report.blackoutMs ?? 0))] as const,
    ),
  }));
  writeFileSync(values.plot, linePlot({ title: 'Pause of a move', x: 'MiB/s written meanwhile', y: 'ms', series }));
}

/** Reads a chunk and writes it, `lanes` at once. @returns MiB/s */
async function plainLoop({ a, b }: Pair, mib: number, lanes: number): Promise<number> {
  const [source, destination] = await Promise.all(
    [a, b].map((target) => HostController.connect({ ...addressOf(target), hostnqn: MANAGER, ioQueues: 4 })),
  );
  const [from, to] = [await source!.namespace(1), await destination!.namespace(1)];
  let next = 0;
  const start = performance.now();
  const lane = async (): Promise<void> => {
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (let at = next++; at < mib; at = next++) {
      const slba = (at * CHUNK_BYTES) / BLOCK_BYTES;
      await from.readInto(slba, buffer);
      await to.write(slba, buffer);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  await to.flush();
  const seconds = (performance.now() - start) / 1000;
  await Promise.all([source!.close(), destination!.close()]);
  return mib / seconds;
}

async function copies(): Promise<void> {
  const mib = SIZES.at(-1)!;
  const rates = { one: [] as number[], many: [] as number[], move: [] as number[] };
  for (let round = 0; round < ROUNDS; round++) {
    rates.one.push(await whilePaired((pair) => fill(pair, mib).then(() => plainLoop(pair, mib, 1))));
    rates.many.push(await whilePaired((pair) => fill(pair, mib).then(() => plainLoop(pair, mib, IN_FLIGHT))));
    rates.move.push(
      await whilePaired(async (pair) => {
        await fill(pair, mib);
        const { steps } = await move(pair);
        const { durationMs } = steps.find(({ step }) => step === 'pre-copy')!;
        return mib / (durationMs / 1000);
      }),
    );
  }
  const against = (base: readonly number[]): string => spread(rates.move.map((rate, i) => rate / base[i]!));
  console.log(`\nCopying ${mib} MiB, MiB/s, median (least - most) of ${ROUNDS}; chunks of 1 MiB\n`);
  console.log(
    table(
      ['', 'MiB/s', 'the move against it'],
      ['left', 'right', 'right'],
      [
        ['plain loop, one chunk at a time', spread(rates.one), against(rates.one)],
        [`plain loop, ${IN_FLIGHT} chunks at once`, spread(rates.many), against(rates.many)],
        ['pre-copy of a move', spread(rates.move), short(1)],
      ],
    ),
  );
}

/** MiB/s that the copying may take; undefined: no limit. */
const LIMITS: readonly (number | undefined)[] = [undefined, 200, 50, 10];

/** A host writes 20 MiB/s: each write before, and while the first copy runs. */
async function latency(): Promise<void> {
  const quiet = new Histogram();
  const copying = LIMITS.map(() => new Histogram());
  const mib = SIZES[0]!;
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, limit] of LIMITS.entries()) {
      await whilePaired(async (pair) => {
        await fill(pair, mib);
        const host = await MultipathSubsystem.connect({ paths: [addressOf(pair.a), addressOf(pair.b)] });
        const writer = new Writer(host, mib, 20);
        await writer.start();
        await new Promise((resolve) => setTimeout(resolve, 500));
        writer.latencies = quiet;
        await new Promise((resolve) => setTimeout(resolve, 1000));
        writer.latencies = undefined;
        await move(pair, { bytesPerSecond: limit === undefined ? undefined : limit * MIB, roundsMax: 1 }, (event) => {
          if (event.event !== 'step' || event.step !== 'pre-copy') return;
          writer.latencies = event.state === 'begun' ? copying[i] : undefined;
        });
        await writer.end();
        await host.close();
      });
    }
  }
  const row = (name: string, histogram: Histogram): string[] => [
    name,
    short(histogram.percentileUs(0.5)),
    short(histogram.percentileUs(0.99)),
    short(histogram.percentileUs(0.999)),
  ];
  console.log(`\nWrites of 4 KiB, 20 MiB/s, while ${mib} MiB are copied: us, all of ${ROUNDS} rounds\n`);
  console.log(
    table(
      ['copying', 'p50', 'p99', 'p99.9'],
      ['left', 'right', 'right', 'right'],
      [
        row('none', quiet),
        ...LIMITS.map((limit, i) => row(limit === undefined ? 'no limit' : `${limit} MiB/s`, copying[i]!)),
      ],
    ),
  );
}

pinSelf(LOAD_CORE);
try {
  const parts = { moves, copy: copies, latency };
  for (const [name, run] of Object.entries(parts)) if (values.only === '' || values.only === name) await run();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

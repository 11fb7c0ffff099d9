/**
 * What it costs to follow changes: 4 KiB writes at depth 128 with the bitmap and with a queue, each between two times with tracking off, which it is
 * compared with; memory of the bitmap of 1 TiB; time to drain a million changed granules. The queue is drained by the load's own process, or by
 * another one on the load's core: the target's CPU time is the log's and that of giving it out, the load's the drainer's.
 *
 *     node dist-test/bench/migration.js [--rounds 9] [--writes 330000] [--only writes|random|shares|drain] [--modes bitmap,queue,process]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { HostController, type HostNamespace, parseNvmeUri } from '../src/initiator.ts';
import { ChangeBitmap } from '../src/migration/change-bitmap.ts';
import { LiveMigration, QueueReader } from '../src/migration.ts';
import { type Child, compiled, cpuTimeOf, LOAD_CORE, pinned, pinSelf, start, stop } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { QueueDrain } from './lib/queue-drain.ts';
import type { DrainerReport, DrainerSetting } from './lib/queue-drainer.ts';
import { median, short, spread, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '9' },
    writes: { type: 'string', default: '330000' },
    only: { type: 'string', default: '' },
    modes: { type: 'string', default: 'bitmap,queue,process' },
  },
});
const ROUNDS = Number(values.rounds);
const WRITES = Number(values.writes);
const DEPTH = 128;
const BLOCK_BYTES = 4096;
const NQN = 'nqn.2026-01.io.nvmeferry:bench';
const NQN_PLAIN = `${NQN}-plain`;
const HOST = 'nqn.2026-01.io.nvmeferry:bench-manager';
const MEMORY_BYTES = 512 << 20;
const GRANULES = 2 ** 20;
/** Writes of a burst, and pairs of bursts before the queue is drained: less than it has slots. */
const BURST = 4096;
const BURST_PAIRS = 30;
const QUEUE_SLOTS = 131_072;
const DATA = new Uint8Array(BLOCK_BYTES).fill(0x5a);

// ---- memory and draining, without a target ---------------------------------------------------------------------------------------------

function bitmapOfTebibyte(): void {
  const blocks = 2 ** 40 / BLOCK_BYTES;
  const bitmap = new ChangeBitmap(1, blocks);
  console.log(`Bitmap of 1 TiB in granules of 4 KiB: ${short(bitmap.byteLength / 2 ** 20)} MiB`);
  const results: [string, (i: number) => number][] = [
    ['one run', (i) => i],
    ['every second granule', (i) => i * 2],
    ['over all of 1 TiB', (i) => i * (blocks / GRANULES)],
  ];
  for (const [name, place] of results) {
    const times: number[] = [];
    let runs = 0;
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < GRANULES; i++) bitmap.mark(place(i), 1);
      const start = performance.now();
      const epoch = bitmap.takeSnapshot();
      runs = 0;
      let granules = 0;
      for (let run = bitmap.nextRun(0); run !== undefined; run = bitmap.nextRun(run.first + run.count)) {
        runs++;
        granules += run.count;
      }
      bitmap.acknowledge(epoch);
      times.push(performance.now() - start);
      if (granules !== GRANULES) throw new Error(`${granules} granules were found, ${GRANULES} were marked`);
    }
    console.log(`Draining ${GRANULES} granules, ${name}: ${runs} runs, ${spread(times)} ms`);
  }
}

// ---- over NVMe/TCP -------------------------------------------------------------------------------------------------------------------

const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-bench-'));
const config = join(folder, 'target.json');

/** Two subsystems, so that one is followed and the other is not. */
function targetOf(backend: object): Promise<ProductTarget> {
  const subsystem = (nqn: string): object => ({
    nqn,
    allowAnyHost: true,
    namespaces: [{ nsid: 1, backend }],
    migration: { managers: { hosts: [HOST] } },
  });
  writeFileSync(
    config,
    JSON.stringify({
      subsystems: [subsystem(NQN), subsystem(NQN_PLAIN)],
      ports: [{ portId: 1, address: '127.0.0.1', service: 0, subsystems: [NQN, NQN_PLAIN] }],
      discovery: 'off',
    }),
  );
  return ProductTarget.fromConfig(config);
}

const connect = (uri: string, hostnqn: string | undefined, ioQueues: number, subnqn = NQN): Promise<HostController> => {
  const { nsid: _, subnqn: _first, ...rest } = parseNvmeUri(uri);
  return HostController.connect({ ...rest, subnqn, hostnqn, ioQueues, queueSize: DEPTH + 1 });
};

/** Writes at full depth, at places of no order. */
function writeBurst(namespace: HostNamespace, count: number, next: () => number): Promise<void> {
  const step = BLOCK_BYTES / namespace.blockSize;
  return new Promise<void>((resolve, reject) => {
    let left = count;
    let flying = 0;
    const submit = (): void => {
      left--;
      flying++;
      namespace.submitWrite(next() * step, step, DATA, done, undefined);
    };
    const done = (status: number): void => {
      flying--;
      if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
      if (left > 0) submit();
      else if (flying === 0) resolve();
    };
    for (let i = 0; i < DEPTH; i++) submit();
  });
}

function randomPlaces(): () => number {
  const blocks = MEMORY_BYTES / BLOCK_BYTES;
  let seed = 12_345;
  return () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
    return (seed >>> 0) % blocks;
  };
}

interface Load {
  readonly iops: number;
  /** CPU time of the target, user and kernel, a write. */
  readonly cpuUs: number;
  /** CPU time of the load's process, with what it drains meanwhile, a write. */
  readonly loadUs: number;
}

/** So many writes at full depth: of a fixed number, so that as much is drained in each turn. */
async function load(host: HostController, pid: number, sequential: boolean): Promise<Load> {
  const namespace = await host.namespace(1);
  const blocks = MEMORY_BYTES / BLOCK_BYTES;
  let at = 0;
  const next = sequential ? (): number => at++ % blocks : randomPlaces();
  const before = cpuTimeOf(pid);
  const ownBefore = process.cpuUsage();
  const start = performance.now();
  await writeBurst(namespace, WRITES, next);
  const iops = WRITES / ((performance.now() - start) / 1000);
  const after = cpuTimeOf(pid);
  const own = process.cpuUsage(ownBefore);
  return {
    iops,
    cpuUs: ((after.user + after.system - before.user - before.system) * 1e6) / WRITES,
    loadUs: (own.user + own.system) / WRITES,
  };
}

/** How changes are followed: `process`: by a queue that another process drains. */
const MODES = ['bitmap', 'queue', 'process'] as const;
type Mode = (typeof MODES)[number];
const LABELS: Record<Mode, string> = { bitmap: 'bitmap', queue: 'queue', process: 'queue, drained beside the load' };

/** A process of its own that drains. */
class Drainer {
  readonly #child: Child;
  readonly #answers: AsyncIterator<string>;

  private constructor(child: Child) {
    this.#child = child;
    child.stderr.pipe(process.stderr);
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  static async start(setting: DrainerSetting): Promise<Drainer> {
    const script = compiled('lib/queue-drainer.js');
    const drainer = new Drainer(start(pinned(LOAD_CORE, [process.execPath, script, JSON.stringify(setting)])));
    await drainer.#answer();
    return drainer;
  }

  async #answer(): Promise<DrainerReport> {
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error('The drainer has ended');
    return JSON.parse(value) as DrainerReport;
  }

  /** Starts or stops it, in turn. */
  toggle(): Promise<DrainerReport> {
    this.#child.stdin.write('\n');
    return this.#answer();
  }

  stop(): Promise<void> {
    this.#child.stdin.end();
    return stop(this.#child);
  }
}

/** `median (first quartile - third)` */
function quartiles(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): string => sorted[Math.floor((sorted.length - 1) * part)]!.toFixed(3);
  return `${median(values).toFixed(3)} (${at(0.25)} - ${at(0.75)})`;
}

async function writes(): Promise<void> {
  const target = await targetOf({ type: 'memory', size: `${MEMORY_BYTES >> 20}MiB`, blockSize: BLOCK_BYTES });
  const host = await connect(target.uri, undefined, 1);
  const manager = await connect(target.uri, HOST, 0);
  const lm = new LiveMigration(manager);
  const blockCount = MEMORY_BYTES / BLOCK_BYTES;
  let entries = 0;
  let drains = 0;
  const drainUs: number[] = [];
  const setting = { uri: target.uri, hostnqn: HOST, cntlid: host.cntlid, slots: QUEUE_SLOTS, blockCount };
  const drainer = await Drainer.start(setting);
  const follow = async (mode: Mode): Promise<() => Promise<void>> => {
    if (mode === 'bitmap') {
      await lm.trackChanges(1, true);
      return () => lm.trackChanges(1, false);
    }
    if (mode === 'process') {
      await drainer.toggle();
      return async () => {
        const report = await drainer.toggle();
        drainUs.push(report.cpuUs / report.entries);
      };
    }
    const drain = await QueueDrain.start(lm, host.cntlid, QUEUE_SLOTS, blockCount);
    return async () => {
      await drain.stop();
      entries += drain.entries;
      drains += drain.drains;
    };
  };
  await load(host, target.pid, false);
  const rows: string[][] = [];
  for (const isInOrder of values.only === 'random' ? [false] : [false, true]) {
    const modes = MODES.filter((mode) => (isInOrder ? mode === 'queue' : values.modes.split(',').includes(mode)));
    const off: Load[] = [];
    const on = new Map<Mode, Load[]>(modes.map((mode) => [mode, []]));
    const ratios = new Map<Mode, Load[]>(modes.map((mode) => [mode, []]));
    const without = async (): Promise<Load> => {
      const one = await load(host, target.pid, isInOrder);
      off.push(one);
      return one;
    };
    let before = await without();
    for (let round = 0; round < ROUNDS; round++) {
      for (const mode of modes) {
        const end = await follow(mode);
        const one = await load(host, target.pid, isInOrder);
        await end();
        const after = await without();
        const ratio = (value: keyof Load): number => (2 * one[value]) / (before[value] + after[value]);
        on.get(mode)!.push(one);
        ratios.get(mode)!.push({ iops: ratio('iops'), cpuUs: ratio('cpuUs'), loadUs: ratio('loadUs') });
        before = after;
      }
    }
    const cells = (of: readonly Load[], against?: readonly Load[]): string[] =>
      (['iops', 'cpuUs', 'loadUs'] as const).flatMap((value) => [
        spread(of.map((one) => one[value])),
        against === undefined ? '' : quartiles(against.map((one) => one[value])),
      ]);
    const how = isInOrder ? ', in order' : '';
    rows.push([`off${how}`, ...cells(off)]);
    for (const mode of modes) rows.push([`${LABELS[mode]}${how}`, ...cells(on.get(mode)!, ratios.get(mode)!)]);
  }
  const head = ['4 KiB write, depth 128', 'IOPS', 'on / off', 'target CPU us', 'on / off', 'load CPU us', 'on / off'];
  console.log(table(head, ['left', 'right', 'right', 'right', 'right', 'right', 'right'], rows));
  if (entries + drainUs.length > 0)
    console.log(
      `${entries} entries were drained in ${drains} times; by the other process for ${spread(drainUs)} us of its CPU time each`,
    );
  await drainer.stop();
  await host.close();
  await manager.close();
  await target.stop();
}

/**
 * The log and the drainer each by itself: bursts of some milliseconds, in turns on a subsystem that is followed and on one that is not, so that both have
 * the same moods of the machine; the queue is drained between them, by nobody else's time.
 */
async function shares(): Promise<void> {
  const target = await targetOf({ type: 'memory', size: `${MEMORY_BYTES >> 20}MiB`, blockSize: BLOCK_BYTES });
  const followed = await connect(target.uri, undefined, 1);
  const plain = await connect(target.uri, undefined, 1, NQN_PLAIN);
  const manager = await connect(target.uri, HOST, 0);
  const lm = new LiveMigration(manager);
  const cdqid = await lm.createQueue(followed.cntlid, QUEUE_SLOTS);
  const reader = new QueueReader(lm, cdqid);
  const places = randomPlaces();
  const namespaces = [await followed.namespace(1), await plain.namespace(1)];
  const times: [number[], number[]] = [[], []];
  let [entries, drainMs, drainUs, servedUs] = [0, 0, 0, 0];
  for (let round = -3; round < ROUNDS; round++) {
    await lm.trackUserData(cdqid, true);
    for (let pair = 0; pair < BURST_PAIRS; pair++) {
      for (const which of pair % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
        const start = performance.now();
        await writeBurst(namespaces[which]!, BURST, places);
        if (round >= 0) times[which].push(((performance.now() - start) * 1e6) / BURST);
      }
    }
    await lm.trackUserData(cdqid, false);
    const start = performance.now();
    const before = process.cpuUsage();
    const targetBefore = cpuTimeOf(target.pid);
    let count = 0;
    await reader.drain((_entries, _base, more) => {
      count += more;
    });
    if (round < 0) continue;
    const { user, system } = process.cpuUsage(before);
    const after = cpuTimeOf(target.pid);
    entries += count;
    drainMs += performance.now() - start;
    drainUs += user + system;
    servedUs += (after.user + after.system - targetBefore.user - targetBefore.system) * 1e6;
  }
  const ratios = times[1].map((ns, i) => ns / times[0][i]!);
  const more = median(times[0].map((ns, i) => ns - times[1][i]!));
  console.log(
    `Logged, not drained: ${quartiles(ratios)} of the IOPS without, ${short(more)} ns more a write (${short(median(times[1]))} ns without; ${ratios.length} pairs)`,
  );
  const each = (sum: number): string => short((sum * 1e3) / entries);
  console.log(
    `Drained alone: ${each(drainMs * 1e3)} ns an entry, CPU ${each(drainUs)} of the reader, ${each(servedUs)} of the target (${entries} entries)`,
  );
  for (const host of [followed, plain, manager]) await host.close();
  await target.stop();
}

/** A million changed granules of a 16 GiB namespace, by log page C9h, until none is left. */
async function drain(): Promise<void> {
  const target = await targetOf({ type: 'null', size: '16GiB', blockSize: BLOCK_BYTES });
  const manager = await connect(target.uri, HOST, 1);
  const lm = new LiveMigration(manager);
  const namespace = await manager.namespace(1);
  for (const stride of [1, 2]) {
    await lm.trackChanges(1, true);
    const buffer = new Uint8Array(BLOCK_BYTES);
    let sent = 0;
    await new Promise<void>((resolve) => {
      let flying = 0;
      const submit = (): void => {
        flying++;
        namespace.submitWrite(sent++ * stride, 1, buffer, done, undefined);
      };
      const done = (): void => {
        flying--;
        if (sent < GRANULES) submit();
        else if (flying === 0) resolve();
      };
      for (let i = 0; i < DEPTH; i++) submit();
    });
    const start = performance.now();
    let granules = 0;
    let snapshots = 0;
    for (let count = -1; count !== 0; ) {
      const { header, runs } = await lm.changedBlocks(1);
      await lm.acknowledgeChanges(1, header);
      count = runs.length;
      granules += Number(header.granules);
      snapshots++;
    }
    const ms = performance.now() - start;
    const how = stride === 1 ? 'one run' : 'every second granule';
    console.log(`Draining ${granules} granules over NVMe/TCP, ${how}: ${snapshots} snapshots, ${short(ms)} ms`);
    await lm.trackChanges(1, false);
  }
  await manager.close();
  await target.stop();
}

pinSelf(LOAD_CORE);
try {
  const drains = values.only === '' || values.only === 'drain';
  if (drains) bitmapOfTebibyte();
  if (drains) await drain();
  if (values.only === '' || values.only === 'shares') await shares();
  if (values.only !== 'drain' && values.only !== 'shares') await writes();
} finally {
  rmSync(folder, { recursive: true });
}

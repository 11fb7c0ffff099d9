/**
 * The goal of issue 5 by one command: 4 KiB writes at depth 128 with tracking on against off, by itself and with everything that is logged drained
 * meanwhile. Bursts in pairs on one connection, on and off in random order, and the ways to follow in turn, so that all of them have the same moods of
 * the machine; CPU time of target, load and drainer by the scheduler's count, which is quieter than the clock.
 *
 *     node dist-test/bench/tracking-cost.js [--pairs 100] [--burst 16384] [--modes none,bitmap,log,load,beside] [--ahead 65536]
 *         [--in-order] [--package .../]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { HostController, type HostNamespace, parseNvmeUri } from '../src/initiator.ts';
import { LiveMigration } from '../src/migration.ts';
import { cpuNsOf, describeMachine, LOAD_CORE, pinSelf } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { QueueDrain } from './lib/queue-drain.ts';
import { QueueDrainer } from './lib/queue-drainer-process.ts';
import { logMean, median, quartiles, short, table } from './lib/stats.ts';
import { placesInOrder, randomPlaces, writeBurst } from './lib/write-burst.ts';

const { values } = parseArgs({
  options: {
    pairs: { type: 'string', default: '100' },
    burst: { type: 'string', default: '16384' },
    modes: { type: 'string', default: 'none,bitmap,log,load,beside' },
    /** Entries that wait before a drain. */
    ahead: { type: 'string', default: '65536' },
    /** Writes one behind the other. Default: at random places. */
    'in-order': { type: 'boolean', default: false },
    /** Whose `dist` the target is. */
    package: { type: 'string' },
  },
});
const PAIRS = Number(values.pairs);
const BURST = Number(values.burst);
const AHEAD = Number(values.ahead);
/** A drainer's code has to have seen some drains before it is what it is in a mover. */
const DRAINS_BEFORE = 6;
/** Not measured: what was changed just before settles. */
const SETTLING = 256;
const SLOTS = 131_072;
const DEPTH = 128;
const BLOCK_BYTES = 4096;
const MEMORY_BYTES = 512 << 20;
const BLOCKS = MEMORY_BYTES / BLOCK_BYTES;
const NQN = 'nqn.2026-01.io.nvmeferry:bench';
const HOST = 'nqn.2026-01.io.nvmeferry:bench-manager';

/** A way to follow the changes of one controller. */
interface Way {
  readonly label: string;
  readonly namespace: HostNamespace;
  /** While no write is under way. */
  track(on: boolean): Promise<void>;
  /** Entries drained so far. */
  drained(): Promise<number>;
  end(): Promise<void>;
}

interface Burst {
  readonly ns: number;
  /** CPU time of target, load and drainer, a write. */
  readonly cpu: readonly number[];
}

const nothing = async (): Promise<void> => {};
const none = async (): Promise<number> => 0;

async function wayOf(mode: string, target: ProductTarget, drainer: QueueDrainer): Promise<Way> {
  const host = await connect(target, undefined, 1);
  const namespace = await host.namespace(1);
  const end = (): Promise<void> => host.close();
  if (mode === 'none') return { label: 'neither is', namespace, track: nothing, drained: none, end };
  if (mode === 'beside') {
    await drainer.begin(host.cntlid, { slots: SLOTS, triggerAhead: AHEAD, blockCount: BLOCKS });
    await drainer.track(false);
    const track = async (on: boolean): Promise<void> => void (await drainer.track(on));
    const endBoth = async (): Promise<void> => {
      await drainer.end();
      await end();
    };
    return { label: 'queue, drained beside the load', namespace, track, drained: () => drainer.settle(), end: endBoth };
  }
  const manager = await connect(target, HOST, 0);
  const lm = new LiveMigration(manager);
  const closeBoth = async (): Promise<void> => {
    await end();
    await manager.close();
  };
  if (mode === 'bitmap') {
    return { label: 'bitmap', namespace, track: (on) => lm.trackChanges(1, on), drained: none, end: closeBoth };
  }
  const isDrained = mode === 'load';
  const triggerAhead = isDrained ? AHEAD : SLOTS - 2;
  const drain = await QueueDrain.start(lm, host.cntlid, { slots: SLOTS, triggerAhead, blockCount: BLOCKS });
  await drain.track(false);
  return {
    label: isDrained ? 'queue, drained by the load' : 'queue, logged only',
    namespace,
    track: async (on) => {
      if (!on && !isDrained) await drain.flush();
      await drain.settled();
      await drain.track(on);
    },
    drained: async () => (isDrained ? drain.entries : 0),
    end: async () => {
      await drain.stop();
      await closeBoth();
    },
  };
}

async function connect(target: ProductTarget, hostnqn: string | undefined, ioQueues: number): Promise<HostController> {
  const { nsid: _, subnqn, ...rest } = parseNvmeUri(target.uri);
  return HostController.connect({ ...rest, subnqn: subnqn!, hostnqn, ioQueues, queueSize: DEPTH + 1 });
}

async function startTarget(folder: string): Promise<ProductTarget> {
  const config = join(folder, 'target.json');
  const backend = { type: 'memory', size: `${MEMORY_BYTES >> 20}MiB`, blockSize: BLOCK_BYTES };
  const namespaces = [{ nsid: 1, backend }];
  const subsystem = { nqn: NQN, allowAnyHost: true, namespaces, migration: { managers: { hosts: [HOST] } } };
  const ports = [{ portId: 1, address: '127.0.0.1', service: 0, subsystems: [NQN] }];
  writeFileSync(config, JSON.stringify({ subsystems: [subsystem], ports, discovery: 'off' }));
  return ProductTarget.fromConfig(config, values.package);
}

async function measure(target: ProductTarget, drainer: QueueDrainer): Promise<void> {
  const places = values['in-order'] ? placesInOrder(BLOCKS) : randomPlaces(BLOCKS);
  const pids = [target.pid, process.pid, drainer.pid];
  const burst = async (way: Way, on: boolean): Promise<Burst> => {
    if (on) await way.track(true);
    await writeBurst(way.namespace, DEPTH, SETTLING, places);
    const before = pids.map(cpuNsOf);
    const start = performance.now();
    await writeBurst(way.namespace, DEPTH, BURST, places);
    const ns = ((performance.now() - start) * 1e6) / BURST;
    const cpu = pids.map((pid, i) => (cpuNsOf(pid) - before[i]!) / BURST);
    if (on) await way.track(false);
    return { ns, cpu };
  };

  const ways: Way[] = [];
  for (const mode of values.modes.split(',')) ways.push(await wayOf(mode, target, drainer));
  await writeBurst(ways[0]!.namespace, DEPTH, 4 * BLOCKS, places);
  const settlingPairs = Math.ceil((DRAINS_BEFORE * AHEAD) / BURST);
  const on = ways.map((): Burst[] => []);
  const off = ways.map((): Burst[] => []);
  const drained: number[] = [];
  for (let pair = -settlingPairs; pair < PAIRS; pair++) {
    if (pair === 0) for (const way of ways) drained.push(-(await way.drained()));
    for (const [i, way] of ways.entries()) {
      const isFirst = Math.random() < 0.5;
      const first = await burst(way, isFirst);
      const second = await burst(way, !isFirst);
      if (pair < 0) continue;
      on[i]!.push(isFirst ? first : second);
      off[i]!.push(isFirst ? second : first);
    }
  }
  for (const [i, way] of ways.entries()) drained[i]! += await way.drained();

  const rows = ways.map(({ label }, i) => {
    const [with_, without] = [on[i]!, off[i]!];
    const ratios = without.map(({ ns }, n) => ns / with_[n]!.ns);
    const cpuRatios = with_.map(({ cpu }, n) => cpu[0]! / without[n]!.cpu[0]!);
    const cpu = (of: readonly Burst[]): string =>
      pids.map((_, p) => short(of.reduce((sum, one) => sum + one.cpu[p]!, 0) / of.length)).join(' / ');
    return [
      label,
      quartiles(ratios),
      logMean(ratios),
      logMean(cpuRatios),
      short(1e9 / median(without.map(({ ns }) => ns))),
      cpu(without),
      cpu(with_),
      drained[i] === 0 ? '' : (drained[i]! / BURST / PAIRS).toFixed(2),
    ];
  });
  const head = ['followed by', 'IOPS on / off', 'mean', 'target CPU', 'IOPS off', 'CPU ns off', 'CPU ns on', 'drained'];
  console.log(table(head, ['left', 'right', 'right', 'right', 'right', 'right', 'right', 'right'], rows));
  console.log(
    `${PAIRS} pairs of bursts of ${BURST} writes each. IOPS: median (quartiles). mean: geometric, without the tenth at each end, +- standard error. CPU: ` +
      'of target / load / drainer a write, means; the target has a core, load and drainer share the other. drained: entries of a write, meanwhile.',
  );
  for (const way of ways) await way.end();
}

console.log(describeMachine());
pinSelf(LOAD_CORE);
const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-bench-'));
try {
  const target = await startTarget(folder);
  const drainer = await QueueDrainer.start(target.uri, HOST);
  await measure(target, drainer);
  await drainer.stop();
  await target.stop();
} finally {
  rmSync(folder, { recursive: true });
}

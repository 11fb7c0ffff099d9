/**
 * Reading what was followed: memory of the bitmap of 1 TiB, time to drain a million changed granules, a queue drained by a process that does nothing
 * else. What following costs the writes is bench/tracking-cost.ts.
 *
 *     node dist-test/bench/migration.js [--rounds 9]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { HostController, parseNvmeUri } from '../src/initiator.ts';
import { ChangeBitmap } from '../src/migration/change-bitmap.ts';
import { LiveMigration, QueueReader } from '../src/migration.ts';
import { cpuNsOf, LOAD_CORE, pinSelf } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { short, spread } from './lib/stats.ts';
import { randomPlaces, writeBurst } from './lib/write-burst.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '9' },
  },
});
const ROUNDS = Number(values.rounds);
const DEPTH = 128;
const BLOCK_BYTES = 4096;
const NQN = 'nqn.2026-01.io.nvmeferry:bench';
const HOST = 'nqn.2026-01.io.nvmeferry:bench-manager';
const MEMORY_BYTES = 512 << 20;
const GRANULES = 2 ** 20;
const QUEUE_SLOTS = 131_072;
/** Writes that leave room for the entries of start and stop. */
const FULL = QUEUE_SLOTS - 16;

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

function targetOf(backend: object): Promise<ProductTarget> {
  const subsystem = {
    nqn: NQN,
    allowAnyHost: true,
    namespaces: [{ nsid: 1, backend }],
    migration: { managers: { hosts: [HOST] } },
  };
  const ports = [{ portId: 1, address: '127.0.0.1', service: 0, subsystems: [NQN] }];
  writeFileSync(config, JSON.stringify({ subsystems: [subsystem], ports, discovery: 'off' }));
  return ProductTarget.fromConfig(config);
}

function connect(uri: string, hostnqn: string | undefined, ioQueues: number): Promise<HostController> {
  const { nsid: _, subnqn, ...rest } = parseNvmeUri(uri);
  return HostController.connect({ ...rest, subnqn: subnqn!, hostnqn, ioQueues, queueSize: DEPTH + 1 });
}

/** A full queue, read by a process that does nothing else meanwhile: bursts of writes first, whose time is not counted. */
async function drainAlone(): Promise<void> {
  const target = await targetOf({ type: 'memory', size: `${MEMORY_BYTES >> 20}MiB`, blockSize: BLOCK_BYTES });
  const host = await connect(target.uri, undefined, 1);
  const manager = await connect(target.uri, HOST, 0);
  const lm = new LiveMigration(manager);
  const cdqid = await lm.createQueue(host.cntlid, QUEUE_SLOTS);
  const reader = new QueueReader(lm, cdqid);
  const places = randomPlaces(MEMORY_BYTES / BLOCK_BYTES);
  const namespace = await host.namespace(1);
  let [entries, drainNs, readerNs, targetNs] = [0, 0, 0, 0];
  for (let round = -3; round < ROUNDS; round++) {
    await lm.trackUserData(cdqid, true);
    await writeBurst(namespace, DEPTH, FULL, places);
    await lm.trackUserData(cdqid, false);
    const before = [process.pid, target.pid].map(cpuNsOf);
    const start = performance.now();
    let count = 0;
    await reader.drain((_entries, _base, more) => {
      count += more;
    });
    if (round < 0) continue;
    entries += count;
    drainNs += (performance.now() - start) * 1e6;
    readerNs += cpuNsOf(process.pid) - before[0]!;
    targetNs += cpuNsOf(target.pid) - before[1]!;
  }
  const each = (sum: number): string => short(sum / entries);
  console.log(
    `Drained alone: ${each(drainNs)} ns an entry, CPU ${each(readerNs)} of the reader, ${each(targetNs)} of the target (${entries} entries)`,
  );
  await host.close();
  await manager.close();
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
  bitmapOfTebibyte();
  await drain();
  await drainAlone();
} finally {
  rmSync(folder, { recursive: true });
}

/**
 * What it costs to follow changes: 4 KiB writes at depth 128 with tracking off, with the bitmap, and with a queue that the load's own process drains, in turns of one
 * run, so that each round is compared with its neighbours; memory of the bitmap of 1 TiB; time to drain a million changed granules.
 *
 *     node dist-test/bench/migration.js [--rounds 5] [--seconds 1] [--only writes|drain]
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type AsyncEvent, HostController, parseNvmeUri } from '../src/initiator.ts';
import { ChangeBitmap } from '../src/migration/change-bitmap.ts';
import { LiveMigration } from '../src/migration.ts';
import { AsyncEventType } from '../src/spec/log-page.ts';
import { CdqEvent } from '../src/spec/migration.ts';
import { UDMQ_ENTRY_BYTES } from '../src/wire/udmq-entry.ts';
import { cpuTimeOf, LOAD_CORE, pinSelf } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { median, short, spread, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
  },
});
const ROUNDS = Number(values.rounds);
const SECONDS = Number(values.seconds);
const DEPTH = 128;
const BLOCK_BYTES = 4096;
const NQN = 'nqn.2026-01.io.nvmeferry:bench';
const HOST = 'nqn.2026-01.io.nvmeferry:bench-manager';
const MEMORY_BYTES = 512 << 20;
const GRANULES = 2 ** 20;
const QUEUE_SLOTS = 32_768;

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
  writeFileSync(
    config,
    JSON.stringify({
      subsystems: [
        {
          nqn: NQN,
          allowAnyHost: true,
          namespaces: [{ nsid: 1, backend }],
          migration: { managers: { hosts: [HOST] } },
        },
      ],
      ports: [{ portId: 1, address: '127.0.0.1', service: 0, subsystems: [NQN] }],
      discovery: 'off',
    }),
  );
  return ProductTarget.fromConfig(config);
}

const connect = (uri: string, hostnqn: string | undefined, ioQueues: number): Promise<HostController> => {
  const { nsid: _, subnqn, ...rest } = parseNvmeUri(uri);
  return HostController.connect({ ...rest, subnqn: subnqn!, hostnqn, ioQueues, queueSize: DEPTH + 1 });
};

interface Load {
  readonly iops: number;
  /** CPU time of the target, user and kernel, a write. */
  readonly cpuUs: number;
}

/** Writes at full depth for some time. */
async function load(host: HostController, pid: number, sequential: boolean): Promise<Load> {
  const namespace = await host.namespace(1);
  const blocks = MEMORY_BYTES / BLOCK_BYTES;
  const step = BLOCK_BYTES / namespace.blockSize;
  const buffer = new Uint8Array(BLOCK_BYTES).fill(0x5a);
  let seed = 12_345;
  let at = 0;
  const next = (): number => {
    if (sequential) return at++ % blocks;
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
    return (seed >>> 0) % blocks;
  };
  const before = cpuTimeOf(pid);
  const start = performance.now();
  const end = start + SECONDS * 1000;
  let count = 0;
  await new Promise<void>((resolve, reject) => {
    let flying = 0;
    let checks = 0;
    let over = false;
    const submit = (): void => {
      flying++;
      namespace.submitWrite(next() * step, step, buffer, done, undefined);
    };
    const done = (status: number): void => {
      flying--;
      count++;
      if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
      if ((++checks & 63) === 0) over ||= performance.now() >= end;
      if (!over) submit();
      else if (flying === 0) resolve();
    };
    for (let i = 0; i < DEPTH; i++) submit();
  });
  const iops = count / ((performance.now() - start) / 1000);
  const after = cpuTimeOf(pid);
  return { iops, cpuUs: ((after.user + after.system - before.user - before.system) * 1e6) / count };
}

type Mode = 'off' | 'bitmap' | 'queue' | 'off, in order' | 'queue, in order';
/** Each in turn, and what it is compared with. */
const MODES: readonly (readonly [Mode, Mode | undefined])[] = [
  ['off', undefined],
  ['bitmap', 'off'],
  ['queue', 'off'],
  ['off, in order', undefined],
  ['queue, in order', 'off, in order'],
];
const isQueue = (mode: Mode): boolean => mode.startsWith('queue');

/**
 * Follows a queue as the specification means it: waits for the trigger that is set half a queue ahead, reads, consumes, sets it anew. It shares the
 * load's process, and its core.
 */
class Drain {
  readonly #lm: LiveMigration;
  readonly #cdqid: number;
  readonly #onEvent: (event: AsyncEvent) => void;
  #busy: Promise<void> = Promise.resolve();
  entries = 0;
  reads = 0;

  private constructor(lm: LiveMigration, cdqid: number) {
    this.#lm = lm;
    this.#cdqid = cdqid;
    this.#onEvent = ({ type, info, parameter }) => {
      if (type !== AsyncEventType.OneShot || parameter !== cdqid) return;
      if (info === CdqEvent.Full) throw new Error('The queue became full: changes are lost');
      this.#busy = this.#busy.then(() => this.#read(true));
    };
    lm.controller.on('asyncEvent', this.#onEvent);
  }

  static async start(lm: LiveMigration, cdqid: number): Promise<Drain> {
    const drain = new Drain(lm, cdqid);
    await lm.trackUserData(cdqid, true);
    await drain.#read(true);
    return drain;
  }

  async #read(again: boolean): Promise<void> {
    for (let waiting = QUEUE_SLOTS; waiting >= QUEUE_SLOTS / 2; ) {
      const { header, entries } = await this.#lm.readQueue(this.#cdqid, QUEUE_SLOTS);
      this.entries += entries.length / UDMQ_ENTRY_BYTES;
      this.reads++;
      const trigger = (header.tail + QUEUE_SLOTS / 2) % QUEUE_SLOTS;
      await this.#lm.consumeQueue(this.#cdqid, header.tail, again ? trigger : undefined);
      // what came before the trigger was set does not fire it
      waiting = (await this.#lm.readQueue(this.#cdqid, 1)).header.nent;
    }
  }

  async stop(): Promise<void> {
    this.#lm.controller.off('asyncEvent', this.#onEvent);
    await this.#busy;
    await this.#lm.trackUserData(this.#cdqid, false);
    await this.#read(false);
  }
}

async function writes(): Promise<void> {
  const target = await targetOf({ type: 'memory', size: `${MEMORY_BYTES >> 20}MiB`, blockSize: BLOCK_BYTES });
  const host = await connect(target.uri, undefined, 1);
  const manager = await connect(target.uri, HOST, 0);
  const lm = new LiveMigration(manager);
  const cdqid = await lm.createQueue(host.cntlid, QUEUE_SLOTS);
  const loads = new Map<Mode, Load[]>(MODES.map(([mode]) => [mode, []]));
  let entries = 0;
  let reads = 0;
  await load(host, target.pid, false);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [mode] of MODES) {
      if (mode === 'bitmap') await lm.trackChanges(1, true);
      const drain = isQueue(mode) ? await Drain.start(lm, cdqid) : undefined;
      loads.get(mode)!.push(await load(host, target.pid, mode.endsWith('in order')));
      if (drain !== undefined) {
        await drain.stop();
        entries += drain.entries;
        reads += drain.reads;
      }
      if (mode === 'bitmap') await lm.trackChanges(1, false);
    }
  }
  const ratio = (value: keyof Load, on: Mode, off: Mode): string =>
    median(loads.get(on)!.map((one, i) => one[value] / loads.get(off)![i]![value])).toFixed(3);
  const rows = MODES.map(([mode, off]) => {
    const cells = (value: keyof Load): string[] => [
      spread(loads.get(mode)!.map((one) => one[value])),
      off === undefined ? '' : ratio(value, mode, off),
    ];
    return [mode, ...cells('iops'), ...cells('cpuUs')];
  });
  const head = ['4 KiB write, depth 128', 'IOPS', 'on / off', 'target CPU us', 'on / off'];
  console.log(table(head, ['left', 'right', 'right', 'right', 'right'], rows));
  console.log(`${entries} entries were drained by ${reads} reads of the queue`);
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
  if (values.only !== 'writes') bitmapOfTebibyte();
  if (values.only !== 'writes') await drain();
  if (values.only !== 'drain') await writes();
} finally {
  rmSync(folder, { recursive: true });
}

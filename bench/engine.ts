/**
 * The file backend's I/O engine alone, beside `fio --ioengine=io_uring` with the same file, block size and depth, in turns. And 10^6 I/Os with flat
 * memory (`--soak`). Or a file in memory through the target, beside memory itself (`--through-target`): what the protocol costs is the same for both.
 *
 *     node dist-test/bench/engine.js [--soak | --through-target] [--count N] [--folder DIR...]
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { BlockIo } from '../src/backend/block-backend.ts';
import type { FileBackend } from '../src/backend/file.ts';
import { openFileBackend } from '../src/backend/file-open.ts';
import { NativeError } from '../src/native/native-error.ts';
import type { EngineChoice } from '../src/native/thread-engine.ts';
import { short, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    soak: { type: 'boolean', default: false },
    'through-target': { type: 'boolean', default: false },
    count: { type: 'string', default: '200000' },
    depth: { type: 'string', default: '32' },
    folder: { type: 'string', multiple: true, default: ['/dev/shm', process.cwd()] },
  },
});
const FILE_BYTES = 256 << 20;
const BLOCK_BYTES = 4096;
const depth = Number(values.depth);
/** Until the compiler is done: its work is no part of an I/O. */
const WARM_UP_COUNT = 200_000;

/** A slot of the load: completes into the next operation. */
class Slot implements BlockIo {
  offsetBytes = 0;
  readonly lengthBytes = BLOCK_BYTES;
  readonly fua = false;
  readonly segments: Uint8Array[];
  readonly segmentCount = 1;
  readonly #next: (slot: Slot) => void;

  constructor(next: (slot: Slot) => void) {
    this.segments = [new Uint8Array(new ArrayBuffer(BLOCK_BYTES))];
    this.#next = next;
  }
  retain(): void {}
  lend(): void {}
  lendAt(): void {}
  provide(): Uint8Array {
    return this.segments[0]!;
  }
  complete(status: number): void {
    if (status !== 0) throw new Error(`Status 0x${status.toString(16)}`);
    this.#next(this);
  }
}

/** Random reads or writes. @returns seconds of the clock and of the processor */
function load(backend: FileBackend, writes: boolean, count: number): Promise<{ wallS: number; cpuS: number }> {
  const blocks = FILE_BYTES / BLOCK_BYTES;
  const startNs = process.hrtime.bigint();
  const cpu = process.cpuUsage();
  let started = 0;
  let finished = 0;
  let seed = 1;
  return new Promise((resolve) => {
    const next = (slot: Slot): void => {
      if (slot.offsetBytes >= 0 && ++finished === count) {
        const used = process.cpuUsage(cpu);
        resolve({ wallS: Number(process.hrtime.bigint() - startNs) / 1e9, cpuS: (used.user + used.system) / 1e6 });
      }
      if (started === count) return;
      started++;
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      slot.offsetBytes = ((seed >>> 4) % blocks) * BLOCK_BYTES;
      if (writes) backend.write(slot);
      else backend.read(slot);
    };
    for (let i = 0; i < depth; i++) {
      const slot = new Slot(next);
      slot.offsetBytes = -1;
      next(slot);
    }
  });
}

interface FioJob {
  readonly read: { readonly iops: number };
  readonly write: { readonly iops: number };
}

/** User and system time of a program with all its threads, seconds: fio's own figures leave out those that the kernel adds for io_uring. */
function timed(args: readonly string[]): { stdout: string; cpuS: number } | undefined {
  const script = `TIMEFORMAT='%U %S'; time "$@" 2>/dev/null`;
  const run = spawnSync('bash', ['-c', script, 'bash', ...args], { encoding: 'utf8' });
  if (run.status !== 0) return undefined;
  const [user, system] = run.stderr.trim().split(' ').map(Number);
  return { stdout: run.stdout, cpuS: user! + system! };
}

/**
 * @param batched as many at once as are ready, as the engine does it; fio's own way is a call for each
 * @returns what it did per second, and processor time per I/O without what it takes to start
 */
function fio(
  path: string,
  writes: boolean,
  direct: boolean,
  batched: boolean,
  count: number,
): { iops: number; cpuUs: number } | undefined {
  const run = (operations: number): { iops: number; cpuS: number } | undefined => {
    const done = timed([
      ...['fio', '--name=x', `--filename=${path}`, `--rw=${writes ? 'randwrite' : 'randread'}`],
      ...[`--bs=${BLOCK_BYTES}`, '--ioengine=io_uring', `--iodepth=${depth}`, `--direct=${direct ? 1 : 0}`],
      ...[`--size=${FILE_BYTES}`, `--io_size=${operations * BLOCK_BYTES}`, '--norandommap', '--thread'],
      ...['--output-format=json', '--invalidate=0', '--fallocate=none', '--allow_file_create=0'],
      ...(batched ? [`--iodepth_batch_submit=${depth}`, `--iodepth_batch_complete_max=${depth}`] : []),
    ]);
    if (done === undefined) return undefined;
    const { jobs } = JSON.parse(done.stdout.slice(done.stdout.indexOf('{'))) as { jobs: FioJob[] };
    return { iops: jobs[0]!.read.iops + jobs[0]!.write.iops, cpuS: done.cpuS };
  };
  const start = run(1000);
  const whole = run(count + 1000);
  if (start === undefined || whole === undefined) return undefined;
  return { iops: whole.iops, cpuUs: ((whole.cpuS - start.cpuS) / count) * 1e6 };
}

async function open(path: string, engine: EngineChoice, direct: boolean): Promise<FileBackend> {
  return openFileBackend({ path, blockSize: BLOCK_BYTES, sizeBytes: FILE_BYTES, direct }, { engine });
}

async function compare(): Promise<void> {
  const count = Number(values.count);
  const rows: string[][] = [];
  for (const folder of values.folder) {
    const path = join(folder, `nvmeferry-bench-${process.pid}`);
    fs.writeFileSync(path, Buffer.alloc(FILE_BYTES, 1));
    try {
      for (const direct of folder === '/dev/shm' ? [false] : [false, true]) {
        for (const writes of [false, true]) {
          const what = `${folder === '/dev/shm' ? folder : 'disk'}${direct ? ', direct' : ''}, ${writes ? 'write' : 'read'}`;
          for (const engine of ['io_uring', 'thread-pool', 'node'] as const) {
            if (direct && engine === 'node') continue;
            const backend = await open(path, engine, direct);
            await load(backend, writes, Math.min(count, WARM_UP_COUNT));
            const { wallS, cpuS } = await load(backend, writes, count);
            await backend.close();
            rows.push([what, engine, short(count / wallS), short((cpuS / count) * 1e6)]);
          }
          for (const batched of [false, true]) {
            const by = `fio io_uring${batched ? ', batched' : ''}`;
            const theirs = fio(path, writes, direct, batched, count);
            if (theirs !== undefined) rows.push([what, by, short(theirs.iops), short(theirs.cpuUs)]);
            else rows.push([what, by, 'not there', '-']);
          }
        }
      }
    } finally {
      fs.rmSync(path);
    }
  }
  process.stdout.write(
    `${table([`4 KiB, depth ${depth}`, 'by', 'IOPS', 'CPU us per I/O'], ['left', 'left', 'right', 'right'], rows)}\n`,
  );
}

/** 10^6 I/Os: heap and memory outside it stay where they are. Fails if they do not. */
async function soak(): Promise<void> {
  if (global.gc === undefined) throw new Error('Run it with --expose-gc');
  const [folder = '/dev/shm'] = values.folder;
  const path = join(folder, `nvmeferry-soak-${process.pid}`);
  try {
    for (const engine of ['io_uring', 'thread-pool'] as const) {
      let backend: FileBackend;
      try {
        backend = await open(path, engine, false);
      } catch (error) {
        if (engine !== 'io_uring' || !(error instanceof NativeError)) throw error;
        process.stdout.write(`io_uring: skipped, ${error.message}\n`);
        continue;
      }
      const measure = async (): Promise<{ heapUsed: number; external: number; rss: number }> => {
        for (let i = 0; i < 3; i++) {
          global.gc!();
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        return process.memoryUsage();
      };
      await load(backend, true, 100_000);
      await load(backend, false, 100_000);
      const before = await measure();
      for (let round = 0; round < 5; round++) {
        await load(backend, true, 100_000);
        await load(backend, false, 100_000);
      }
      const after = await measure();
      const grown = (name: 'heapUsed' | 'external' | 'rss'): number => after[name] - before[name];
      process.stdout.write(
        `${engine}: 10^6 I/Os, heap ${grown('heapUsed')}, external ${grown('external')}, resident ${grown('rss')} bytes more\n`,
      );
      await backend.close();
      if (grown('heapUsed') > 1 << 20 || grown('external') > 1 << 20) process.exitCode = 1;
    }
  } finally {
    fs.rmSync(path, { force: true });
  }
}

const TARGET_ROUNDS = 3;
const TICKS_PER_S = 100;

/** Target CPU time per I/O on memory and on a file in memory, in turns; the rest of the file's is its engine's, which `compare` measures alone. */
async function throughTarget(): Promise<void> {
  const path = join(values.folder[0] ?? '/dev/shm', `nvmeferry-bench-${process.pid}`);
  const main = join(process.cwd(), 'dist/cli/main.js');
  const pinned = (core: number): string[] => ['taskset', '-c', String(core), process.execPath, main];
  fs.writeFileSync(path, Buffer.alloc(FILE_BYTES, 1));
  const [program, ...args] = pinned(0) as [string, ...string[]];
  const target = spawn(
    program,
    [
      ...args,
      ...['target', '--listen', '127.0.0.1:4499', '--discovery', 'off', '--output', 'json', '--log-level', 'error'],
      ...['--memory', `${FILE_BYTES},nsid=1`, '--file', `${path},nsid=2`],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  try {
    await once(target.stdout, 'data');
    const uri = (nsid: number): string => `nvme+tcp://127.0.0.1:4499/nqn.2026-01.io.nvmeferry:demo?nsid=${nsid}`;
    const cpuS = (): number => {
      const fields = fs.readFileSync(`/proc/${target.pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
      return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S;
    };
    const one = (nsid: number, writes: boolean, seconds: number): { iops: number; cpuUs: number } => {
      const before = cpuS();
      const [load, ...rest] = pinned(1) as [string, ...string[]];
      const options = ['--rw', writes ? 'randwrite' : 'randread', '--iodepth', values.depth, '--time', String(seconds)];
      const run = spawnSync(load, [...rest, 'bench', uri(nsid), ...options, '-o', 'json'], { encoding: 'utf8' });
      const job = JSON.parse(run.stdout) as Record<'read' | 'write', { iops: number; total_ios: number }>;
      const { iops, total_ios: count } = writes ? job.write : job.read;
      return { iops, cpuUs: ((cpuS() - before) / count) * 1e6 };
    };
    const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1]!;
    const rows: string[][] = [];
    for (const writes of [false, true]) {
      const samples = [1, 2].map((nsid) => ({ nsid, runs: [] as { iops: number; cpuUs: number }[] }));
      for (const { nsid } of samples) one(nsid, writes, 0.5); // the compiler's work
      for (let round = 0; round < TARGET_ROUNDS; round++) {
        for (const { nsid, runs } of samples) runs.push(one(nsid, writes, 1));
      }
      for (const { nsid, runs } of samples) {
        rows.push([
          writes ? 'write' : 'read',
          nsid === 1 ? 'memory' : 'file in memory',
          short(median(runs.map(({ iops }) => iops))),
          short(median(runs.map(({ cpuUs }) => cpuUs))),
        ]);
      }
    }
    const head = [`through the target, 4 KiB, depth ${depth}`, 'backend', 'IOPS', 'target CPU us per I/O'];
    process.stdout.write(`${table(head, ['left', 'left', 'right', 'right'], rows)}\n`);
  } finally {
    target.kill('SIGTERM');
    await once(target, 'close');
    fs.rmSync(path, { force: true });
  }
}

await (values.soak ? soak() : values['through-target'] ? throughTarget() : compare());

/** NBD servers under fio's nbd engine. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Child,
  cpuTimeOf,
  findProgram,
  LOAD_CORE,
  machineCpuTime,
  pinned,
  run,
  SERVER_CORE,
  start,
  stop,
} from '../lib/machine.ts';
import { type Case, HOW_TO_INSTALL, MEMORY_BYTES, type Sample, type Subject } from './subject.ts';

/** A port that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (typeof address !== 'object' || address === null) throw new Error('No port');
  return address.port;
}

/** Waits until something listens. */
export async function listening(port: number, child: Child): Promise<void> {
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2000);
  });
  for (let tries = 0; tries < 200; tries++) {
    if (child.exitCode !== null) break;
    const socket = createConnection(port, '127.0.0.1');
    const connected = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true));
      socket.once('error', () => resolve(false));
    });
    socket.destroy();
    if (connected) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error(`${child.spawnargs.join(' ')}: does not listen on port ${port}\n${said}`);
}

/** An empty file whose pages are memory, in a folder of its own. */
export function memoryFile(): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(findMemoryFolder(), 'nvmeferry-bench-'));
  const path = join(folder, 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, MEMORY_BYTES);
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  process.on('exit', remove);
  return { path, remove };
}

function findMemoryFolder(): string {
  try {
    execFileSync('test', ['-w', '/dev/shm']);
    return '/dev/shm';
  } catch {
    return tmpdir();
  }
}

interface FioSide {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly lat_ns: { readonly percentile: Readonly<Record<string, number>> };
}
interface FioReport {
  readonly jobs: readonly [
    {
      readonly read: FioSide;
      readonly write: FioSide;
      readonly usr_cpu: number;
      readonly sys_cpu: number;
      readonly job_runtime: number;
    },
  ];
}

const fio = findProgram('fio');
const FIO_PERCENTILES = ['50.000000', '90.000000', '99.000000', '99.900000'];

abstract class NbdSubject implements Subject {
  abstract readonly name: string;
  readonly missing: string | undefined;
  #child: Child | undefined;
  #port = 0;

  constructor(program: string | undefined) {
    const hasEngine = fio !== undefined && execFileSync(fio, ['--enghelp'], { encoding: 'utf8' }).includes('nbd');
    this.missing = program !== undefined && hasEngine ? undefined : HOW_TO_INSTALL;
  }

  /** The command that serves on `port`. */
  protected abstract command(port: number): readonly string[];

  takes(test: Case): boolean {
    return test.backend === 'memory' && !test.digests && test.nvmeOnly !== true;
  }

  async start(): Promise<void> {
    this.#port = await freePort();
    this.#child = start(pinned(SERVER_CORE, this.command(this.#port)));
    await listening(this.#port, this.#child);
    await this.#fio(['--rw=write', '--bs=128k', '--iodepth=8']);
  }

  async #fio(flags: readonly string[]): Promise<FioReport> {
    const output = await run(
      pinned(LOAD_CORE, [
        fio!,
        '--name=job',
        '--thread',
        '--ioengine=nbd',
        `--uri=nbd://127.0.0.1:${this.#port}`,
        `--size=${MEMORY_BYTES}`,
        '--output-format=json',
        ...flags,
      ]),
    );
    return JSON.parse(output.slice(output.indexOf('{'))) as FioReport;
  }

  async measure(test: Case, seconds: number): Promise<Sample> {
    const pid = this.#child!.pid!;
    const cpuBefore = cpuTimeOf(pid);
    const machineBefore = machineCpuTime();
    const startMs = performance.now();
    const report = await this.#fio([
      `--rw=rand${test.rw}`,
      `--bs=${test.blockBytes}`,
      `--iodepth=${Math.max(1, Math.floor(test.depth / test.connections))}`,
      `--numjobs=${test.connections}`,
      '--group_reporting',
      '--time_based',
      `--runtime=${Math.round(seconds * 1000)}ms`,
      '--norandommap',
      '--random_generator=tausworthe64',
      '--lat_percentiles=1',
      '--clat_percentiles=0',
      '--percentile_list=50:90:99:99.9',
    ]);
    const wallSeconds = (performance.now() - startMs) / 1000;
    const cpu = cpuTimeOf(pid);
    const machine = machineCpuTime();
    const job = report.jobs[0];
    const side = job[test.rw];
    const user = cpu.user - cpuBefore.user;
    const system = cpu.system - cpuBefore.system;
    const loadCores = ((job.usr_cpu + job.sys_cpu) / 100) * test.connections;
    const used = user + system + loadCores * seconds;
    const others = Math.max(0, machine.busy - machineBefore.busy - used) + machine.stolen - machineBefore.stolen;
    return {
      iops: side.iops,
      bytesPerSecond: side.bw_bytes,
      latencyUs: FIO_PERCENTILES.map((key) => (side.lat_ns.percentile[key] ?? Number.NaN) / 1000),
      // over the whole run: connecting and ending cost next to nothing
      serverUserUs: (user / side.total_ios) * 1e6,
      serverSystemUs: (system / side.total_ios) * 1e6,
      loadCores,
      otherCores: others / wallSeconds,
    };
  }

  async stop(): Promise<void> {
    if (this.#child !== undefined) await stop(this.#child);
  }
}

const qemuNbd = findProgram('qemu-nbd');
const nbdkit = findProgram('nbdkit');

/** A raw file in memory, as one exports a disk image. */
export class QemuNbdSubject extends NbdSubject {
  readonly name = 'qemu-nbd, file in memory (fio)';
  #file: ReturnType<typeof memoryFile> | undefined;

  constructor() {
    super(qemuNbd);
  }

  protected command(port: number): readonly string[] {
    this.#file = memoryFile();
    return [qemuNbd!, '-t', '-e', '64', '-f', 'raw', '-b', '127.0.0.1', '-p', String(port), this.#file.path];
  }

  override async stop(): Promise<void> {
    await super.stop();
    this.#file?.remove();
  }
}

export class NbdkitSubject extends NbdSubject {
  readonly name = 'nbdkit, memory plugin (fio)';

  constructor() {
    super(nbdkit);
  }

  protected command(port: number): readonly string[] {
    return [nbdkit!, '-f', '-i', '127.0.0.1', '-p', String(port), 'memory', String(MEMORY_BYTES)];
  }
}

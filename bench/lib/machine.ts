/** The machine and its processes: cores, CPU time, memory, programs. Linux; elsewhere the figures that need /proc are missing. */
import { type ChildProcess, type ChildProcessByStdio, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { delimiter, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';

/** The package's folder: compiled files run from `dist-test/bench/lib`. */
export const PACKAGE_ROOT: string = fileURLToPath(new URL('../../../', import.meta.url));
export const compiled = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** Core of the server under test, and of whoever loads it. */
export const SERVER_CORE = 0;
export const LOAD_CORE = 1;

/** The program's path, or undefined if it is not installed. */
export function findProgram(name: string): string | undefined {
  for (const folder of [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not in this folder
    }
  }
  return undefined;
}

const taskset = findProgram('taskset');
/** Server and load generator each have a core of their own. */
export const canPin: boolean = taskset !== undefined && availableParallelism() > LOAD_CORE;

/** The command line that runs `command` on one core. */
export function pinned(core: number, command: readonly string[]): [string, ...string[]] {
  const line = canPin ? [taskset!, '-c', String(core), ...command] : command;
  return line as [string, ...string[]];
}

/** This process, with all of its threads, stays on one core from here on. */
export function pinSelf(core: number): void {
  if (canPin) execFileSync(taskset!, ['-apc', String(core), String(process.pid)], { stdio: 'ignore' });
}

export type Child = ChildProcessByStdio<Writable, Readable, Readable>;
const children = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));

/** Starts a process that ends with this one. */
export function start(line: readonly string[]): Child {
  const child = spawn(line[0]!, line.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] });
  children.add(child);
  child.once('close', () => children.delete(child));
  child.stdin.on('error', () => {}); // it ended before it had read everything: its exit tells
  return child;
}

/** Runs a process to its end. @throws Error with what it said, if it fails */
export async function run(line: readonly string[], timeoutMs = 120_000): Promise<string> {
  const child = start(line);
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  clearTimeout(timer);
  if (code !== 0) throw new Error(`${line.join(' ')}: ended with ${code ?? signal}\n${stderr}${stdout.slice(-2000)}`);
  return stdout;
}

/** Ends a child: asks first. */
export async function stop(child: Child): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
  await closed;
  clearTimeout(timer);
}

// ---- /proc -----------------------------------------------------------------------------------------------------------------------

/** CPU seconds. */
export interface CpuTime {
  readonly user: number;
  readonly system: number;
}

let ticksPerSecond = 0;
function tickRate(): number {
  if (ticksPerSecond === 0) {
    try {
      ticksPerSecond = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
    } catch {
      ticksPerSecond = 100;
    }
  }
  return ticksPerSecond;
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return undefined;
  }
}

/** What the process used so far, all threads; NaN where there is no /proc. */
export function cpuTimeOf(pid: number): CpuTime {
  const stat = readProc(`/proc/${pid}/stat`);
  if (stat === undefined) return { user: Number.NaN, system: Number.NaN };
  // the name in parentheses may hold anything
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { user: Number(fields[11]) / tickRate(), system: Number(fields[12]) / tickRate() };
}

/** What the process used so far in all of its threads, to the nanosecond as the scheduler counts it; NaN where there is no /proc. */
export function cpuNsOf(pid: number): number {
  try {
    let sum = 0;
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      sum += Number(readProc(`/proc/${pid}/task/${thread}/schedstat`)?.split(' ')[0] ?? 0);
    }
    return sum;
  } catch {
    return Number.NaN;
  }
}

/** CPU seconds of the whole machine without interrupts and idling, and what the hypervisor gave to others. */
export function machineCpuTime(): { readonly busy: number; readonly stolen: number } {
  const fields = (readProc('/proc/stat') ?? '').split('\n')[0]!.split(/ +/).map(Number);
  const [, user = Number.NaN, nice = 0, system = 0, , , , , steal = 0] = fields;
  return { busy: (user + nice + system) / tickRate(), stolen: steal / tickRate() };
}

/** Resident memory in bytes. */
export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readProc(`/proc/${pid}/status`) ?? '');
  return match === null ? Number.NaN : Number(match[1]) * 1024;
}

/** Kernel memory of all TCP sockets of the machine, in bytes. */
export function socketBufferBytes(): number {
  const match = /^TCP: .* mem (\d+)/m.exec(readProc('/proc/net/sockstat') ?? '');
  return match === null ? Number.NaN : Number(match[1]) * 4096;
}

/** For the head of a report. */
export function describeMachine(): string {
  const model = cpus()[0]?.model ?? 'unknown CPU';
  const gib = (totalmem() / 2 ** 30).toFixed(0);
  const pins = canPin
    ? `server pinned to core ${SERVER_CORE}, load generator to core ${LOAD_CORE}`
    : 'NOT PINNED (needs taskset and two cores): figures vary more';
  return [
    `${availableParallelism()} x ${model}, ${gib} GiB, Linux ${release()}, Node ${process.versions.node}`,
    pins,
    `load average at the start: ${loadavg()
      .map((load) => load.toFixed(2))
      .join(' ')}`,
  ].join('\n');
}

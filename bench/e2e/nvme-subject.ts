/** NVMe/TCP targets under our own load generator: nvmeferry, and any other that is given by URI. */
import { compiled, LOAD_CORE, pinned, run } from '../lib/machine.ts';
import { ProductTarget } from '../lib/product.ts';
import type { LoadJob, LoadResult } from './load.ts';
import { type Case, MEMORY_BYTES, type Sample, type Subject } from './subject.ts';

const WARMUP_SECONDS = 0.4;
const FILL_BYTES = 128 << 10;

/** Runs the load generator once. @param otherLines gets what it printed beside its result (`--trace-gc`) */
export async function runLoad(
  job: LoadJob,
  nodeFlags: readonly string[] = [],
  otherLines: string[] = [],
): Promise<LoadResult> {
  // against one that hangs: a count is a long run, on a machine that may have other things to do
  const timeoutMs = 120_000 + (job.seconds * 2 + (job.ioCount ?? 0) / 2000) * 1000;
  const line = pinned(LOAD_CORE, [process.execPath, ...nodeFlags, compiled('e2e/load.js'), JSON.stringify(job)]);
  const lines = (await run(line, timeoutMs)).split('\n');
  const result = lines.find((text) => text.startsWith('{'));
  for (const text of lines) if (text !== result) otherLines.push(text);
  const nan = (value: number | null): number => value ?? Number.NaN;
  const { server, ...rest } = JSON.parse(result!) as LoadResult;
  return { ...rest, server: { user: nan(server.user), system: nan(server.system) } };
}

/** Writes every block once, each with its number in front. */
export function fill(uri: string): Promise<LoadResult> {
  return runLoad({
    uri,
    rw: 'fill',
    blockBytes: FILL_BYTES,
    depth: 8,
    connections: 1,
    digests: false,
    warmupSeconds: 0,
    seconds: 0,
    stamped: false,
  });
}

async function measure(
  uri: string,
  pid: number | undefined,
  stamped: boolean,
  test: Case,
  seconds: number,
): Promise<Sample> {
  const { rw, blockBytes, depth, connections, digests } = test;
  const job: LoadJob = {
    uri,
    rw,
    blockBytes,
    depth,
    connections,
    digests,
    warmupSeconds: WARMUP_SECONDS,
    seconds,
    stamped,
    ...(pid === undefined ? {} : { pid }),
  };
  const result = await runLoad(job);
  return {
    iops: result.ios / result.seconds,
    bytesPerSecond: (result.ios * blockBytes) / result.seconds,
    latencyUs: result.latencyUs,
    serverUserUs: (result.server.user / result.ios) * 1e6,
    serverSystemUs: (result.server.system / result.ios) * 1e6,
    loadCores: (result.load.user + result.load.system) / result.seconds,
    otherCores: result.others / result.seconds,
    ...(result.depth === depth ? {} : { depth: result.depth }),
  };
}

/** Ours: a process per backend. */
export class ProductSubject implements Subject {
  readonly name: string;
  readonly missing = undefined;
  readonly #backend: 'memory' | 'null';
  #target: ProductTarget | undefined;

  constructor(backend: 'memory' | 'null') {
    this.name = `nvmeferry, ${backend}`;
    this.#backend = backend;
  }

  takes(test: Case): boolean {
    return test.backend === this.#backend;
  }

  async start(): Promise<void> {
    const memory = this.#backend === 'memory';
    this.#target = await ProductTarget.start(memory ? ['--memory', String(MEMORY_BYTES)] : ['--null', '1GiB']);
    if (memory) await fill(this.#target.uri);
  }

  measure(test: Case, seconds: number): Promise<Sample> {
    const { uri, pid } = this.#target!;
    return measure(uri, pid, this.#backend === 'memory', test, seconds);
  }

  async stop(): Promise<void> {
    await this.#target?.stop();
  }
}

/** `NAME=URI[,pid=N][,null]`: what `--target` takes. */
export interface ExternalTarget {
  readonly name: string;
  readonly uri: string;
  readonly pid: number | undefined;
  readonly backend: 'memory' | 'null';
}

/** @throws Error what is wrong with it */
export function parseExternalTarget(text: string): ExternalTarget {
  const match = /^([^=]+)=(nvme\+tcp:\/\/[^,]+)((?:,[^,]+)*)$/.exec(text);
  if (match === null) throw new Error(`--target ${text}: expected NAME=nvme+tcp://HOST:PORT/NQN?nsid=N[,pid=N][,null]`);
  let pid: number | undefined;
  let backend: 'memory' | 'null' = 'memory';
  for (const option of match[3]!.split(',').slice(1)) {
    if (option === 'null') backend = 'null';
    else if (/^pid=\d+$/.test(option)) pid = Number(option.slice(4));
    else throw new Error(`--target ${text}: ${option} is not pid=N or null`);
  }
  return { name: match[1]!, uri: match[2]!, pid, backend };
}

/**
 * A target that somebody else started. With its process id, its CPU time is measured, and it is stopped (SIGSTOP) while others are: some poll,
 * and would take their core.
 */
export class ExternalSubject implements Subject {
  readonly name: string;
  readonly missing = undefined;
  readonly #external: ExternalTarget;

  constructor(external: ExternalTarget) {
    this.name = external.name;
    this.#external = external;
  }

  takes(test: Case): boolean {
    return test.backend === this.#external.backend;
  }

  async start(): Promise<void> {
    this.#signal('SIGCONT');
    if (this.#external.backend === 'memory') await fill(this.#external.uri);
    this.#signal('SIGSTOP');
  }

  async measure(test: Case, seconds: number): Promise<Sample> {
    this.#signal('SIGCONT');
    try {
      const { uri, pid, backend } = this.#external;
      return await measure(uri, pid, backend === 'memory', test, seconds);
    } finally {
      this.#signal('SIGSTOP');
    }
  }

  async stop(): Promise<void> {
    this.#signal('SIGCONT');
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#external.pid !== undefined) process.kill(this.#external.pid, signal);
  }
}

/**
 * What more connections cost the target, 4 KiB reads and writes: a host that throws the answers away unread (native/discarding-host.cc, compiled here)
 * takes little of its core, so that the target is the limit. With a depth of its own on each connection, and with 128 in flight in all. Before and after
 * a change: `--package` names another checkout that is built; `--target` another target, as in `npm run bench`. `--bare` adds what the sockets alone
 * cost (native/bare-target.cc).
 *
 *     node dist-test/bench/connections.js [--rounds 5] [--seconds 1] [--rw read,write] [--backend memory|null] [--depth own,shared] [--bare]
 *       [--package DIR] [--target NAME=URI,pid=N]
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseNvmeUri } from '../src/initiator.ts';
import { fill, parseExternalTarget } from './e2e/nvme-subject.ts';
import { MEMORY_BYTES } from './e2e/subject.ts';
import {
  type Child,
  cpuTimeOf,
  describeMachine,
  findProgram,
  LOAD_CORE,
  PACKAGE_ROOT,
  pinned,
  run,
  SERVER_CORE,
  start,
  stop,
} from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { median, short, spread, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    rw: { type: 'string', default: 'read,write' },
    backend: { type: 'string', default: 'memory' },
    depth: { type: 'string', default: 'own,shared' },
    bare: { type: 'boolean', default: false },
    package: { type: 'string', multiple: true, default: [] },
    target: { type: 'string', multiple: true, default: [] },
  },
});
const ROUNDS = Number(values.rounds);
const IO_BYTES = 4096;
const BLOCK_BYTES = 4096;
/** Connections, and what is in flight on each. The first is what the others are compared with. */
const OWN_DEPTH: readonly Shape[] = [1, 4, 16, 64].map((connections) => ({ connections, depth: 32 }));
const SHARED_DEPTH: readonly Shape[] = [1, 4, 16, 64].map((connections) => ({ connections, depth: 128 / connections }));

interface Shape {
  readonly connections: number;
  readonly depth: number;
}

interface Subject {
  readonly name: string;
  readonly uri: string;
  readonly pid: number | undefined;
  /** It has to be written before it is read. */
  readonly holds: boolean;
}
/** Sockets alone. */
const BARE = 'bare loop';

interface Sample {
  readonly iops: number;
  /** Answers per read of the host's socket. */
  readonly perVisit: number;
  readonly hostCores: number;
  readonly targetUs: number;
}

const keyOf = (subject: Subject, rw: string, { connections, depth }: Shape): string =>
  `${subject.name} ${rw} ${connections}x${depth}`;

/** @param name of a source in native/. @returns the program's path */
async function compile(name: string, folder: string): Promise<string> {
  const compiler = findProgram('c++') ?? findProgram('g++') ?? findProgram('clang++');
  if (compiler === undefined) throw new Error('No C++ compiler was found: install one (Debian: g++)');
  const program = join(folder, name);
  await run([compiler, '-O2', '-o', program, join(PACKAGE_ROOT, `bench/native/${name}.cc`)]);
  return program;
}

async function startBare(folder: string): Promise<Child> {
  return start(pinned(SERVER_CORE, [await compile('bare-target', folder), String(MEMORY_BYTES)]));
}

/** Once it listens, it says where. */
async function bareSubject(child: Child): Promise<Subject> {
  const [port] = (await once(child.stdout, 'data')) as [Buffer];
  return {
    name: BARE,
    uri: `nvme+tcp://127.0.0.1:${Number(port)}/nqn.2026-01.io.nvmeferry:bare?nsid=1`,
    pid: child.pid,
    holds: false,
  };
}

async function measure(program: string, subject: Subject, rw: string, shape: Shape): Promise<Sample> {
  const { address, port, subnqn, nsid } = parseNvmeUri(subject.uri);
  const what = [address, port, subnqn, nsid, shape.connections, shape.depth, values.seconds, rw];
  const line = [program, ...what.map(String), String(MEMORY_BYTES / BLOCK_BYTES), String(BLOCK_BYTES)];
  const cpu = (): number => {
    if (subject.pid === undefined) return Number.NaN;
    const { user, system } = cpuTimeOf(subject.pid);
    return user + system;
  };
  const before = cpu();
  const stdout = await run(pinned(LOAD_CORE, line));
  const after = cpu();
  const result = JSON.parse(stdout.split('\n').find((text) => text.startsWith('{'))!) as {
    ios: number;
    seconds: number;
    visits: number;
    cpuSeconds: number;
  };
  const iops = result.ios / result.seconds;
  return {
    iops,
    perVisit: result.ios / result.visits,
    hostCores: result.cpuSeconds / result.seconds,
    // its warm-up ran at the same rate: about right, and alike for all
    targetUs: ((after - before) / (iops * (result.seconds + WARM_UP_SECONDS))) * 1e6,
  };
}
/** As in discarding-host.cc. */
const WARM_UP_SECONDS = 0.4;

function report(title: string, shapes: readonly Shape[], subjects: readonly Subject[], rws: readonly string[]): void {
  const rows: string[][] = [];
  for (const rw of rws) {
    for (const subject of subjects) {
      for (const shape of shapes) {
        const of = (other: Shape): Sample[] => samples.get(keyOf(subject, rw, other))!;
        const mine = of(shape);
        const against = mine.map(({ iops }, i) => iops / of(shapes[0]!)[i]!.iops);
        const bare = samples.get(`${BARE} ${rw} ${shape.connections}x${shape.depth}`);
        const ofBare = bare === undefined ? [] : [spread(mine.map(({ iops }, i) => iops / bare[i]!.iops))];
        rows.push([
          `${rw}, ${subject.name}`,
          `${shape.connections} x ${shape.depth}`,
          spread(mine.map(({ iops }) => iops / 1000)),
          spread(against),
          ...ofBare,
          short(median(mine.map(({ perVisit }) => perVisit))),
          short(median(mine.map(({ hostCores }) => hostCores))),
          short(median(mine.map(({ targetUs }) => targetUs))),
        ]);
      }
    }
  }
  const head = [
    '',
    'connections x depth',
    'thousand IOPS',
    'against one',
    ...(values.bare ? ['of the bare loop'] : []),
    'answers per read',
    'host cores',
    'target us/IO',
  ];
  console.log(`\n${title}\n`);
  console.log(
    table(
      head,
      head.map((_, i) => (i === 0 ? 'left' : 'right')),
      rows,
    ),
  );
}

const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-bench-'));
const samples = new Map<string, Sample[]>();
const products: ProductTarget[] = [];
let bare: Child | undefined;
try {
  const program = await compile('discarding-host', folder);
  console.log(describeMachine());
  const flags = values.backend === 'memory' ? ['--memory', String(MEMORY_BYTES)] : ['--null', String(MEMORY_BYTES)];
  const subjects: Subject[] = [];
  const signal = (subject: Subject, name: NodeJS.Signals): void => {
    if (subject.pid !== undefined) process.kill(subject.pid, name);
  };
  for (const root of [PACKAGE_ROOT, ...values.package.map((path) => `${path}/`)]) {
    const product = await ProductTarget.start(flags, [], root);
    products.push(product);
    subjects.push({
      name: root === PACKAGE_ROOT ? 'nvmeferry' : `nvmeferry of ${root}`,
      uri: product.uri,
      pid: product.pid,
      holds: values.backend === 'memory',
    });
  }
  for (const text of values.target) {
    subjects.push({ ...parseExternalTarget(text), holds: values.backend === 'memory' });
  }
  if (values.bare) {
    bare = await startBare(folder);
    subjects.push(await bareSubject(bare));
  }
  for (const subject of subjects) {
    signal(subject, 'SIGCONT');
    if (subject.holds) await fill(subject.uri);
    signal(subject, 'SIGSTOP');
  }
  const rws = values.rw.split(',');
  const own = values.depth.includes('own') ? OWN_DEPTH : [];
  const shared = values.depth.includes('shared') ? SHARED_DEPTH : [];
  for (let round = 0; round <= ROUNDS; round++) {
    for (const shape of [...own, ...shared]) {
      for (const rw of rws) {
        for (let i = 0; i < subjects.length; i++) {
          const subject = subjects[(i + round) % subjects.length]!;
          const key = keyOf(subject, rw, shape);
          // both tables have 4 x 32
          if ((samples.get(key)?.length ?? 0) >= round && round > 0) continue;
          signal(subject, 'SIGCONT');
          const sample = await measure(program, subject, rw, shape);
          signal(subject, 'SIGSTOP');
          // the first round is warm-up
          if (round > 0) samples.set(key, [...(samples.get(key) ?? []), sample]);
        }
      }
    }
  }
  const what = `${IO_BYTES / 1024} KiB, ${values.backend}`;
  if (own.length > 0) report(`${what}, 32 in flight on each connection`, own, subjects, rws);
  if (shared.length > 0) report(`${what}, 128 in flight in all`, shared, subjects, rws);
} finally {
  if (bare !== undefined) {
    bare.kill('SIGCONT');
    await stop(bare);
  }
  for (const product of products) {
    process.kill(product.pid, 'SIGCONT');
    await product.stop();
  }
  for (const text of values.target) {
    const { pid } = parseExternalTarget(text);
    if (pid !== undefined) process.kill(pid, 'SIGCONT');
  }
  rmSync(folder, { recursive: true });
}

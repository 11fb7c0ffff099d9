/**
 * Ten million I/Os: does the data path leave garbage, does a heap grow? Both processes run with `--trace-gc`, which prints each collection with
 * the heap before and after.
 */
import { parseArgs } from 'node:util';
import { fill, runLoad } from './e2e/nvme-subject.ts';
import { MEMORY_BYTES } from './e2e/subject.ts';
import { residentBytes } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { type Align, short, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: { count: { type: 'string', default: '10000000' }, only: { type: 'string', default: '' } },
});
const COUNT = Number(values.count);
/** Of the names of the runs. */
const ONLY = new RegExp(values.only);
if (!(COUNT >= 1000)) throw new Error(`--count ${values.count}: at least 1000`);

interface Collections {
  readonly scavenges: number;
  /** Bytes allocated between the first collection and the last, by all that the process did. */
  readonly allocated: number;
  /** Heap after the first and after the last of them. */
  readonly first: number;
  readonly last: number;
}

/** Scavenge 12.3 (14.5) -> 10.1 (14.5) MB; collections that the bench itself asked for ("testing") are left out. */
function collections(lines: readonly string[]): Collections {
  const young = lines.flatMap((line) => {
    const match = /: (?:Scavenge|Mark-Compact)[^\d]* ([\d.]+) \([\d.]+\) -> ([\d.]+) \([\d.]+\) MB/.exec(line);
    if (match === null || line.includes('testing')) return [];
    return [{ before: Number(match[1]) * 2 ** 20, after: Number(match[2]) * 2 ** 20 }];
  });
  let allocated = 0;
  for (let i = 1; i < young.length; i++) allocated += Math.max(0, young[i]!.before - young[i - 1]!.after);
  return {
    scavenges: young.length,
    allocated,
    first: young[0]?.after ?? Number.NaN,
    last: young.at(-1)?.after ?? Number.NaN,
  };
}

interface Run {
  readonly rw: 'read' | 'write';
  readonly depth: number;
  readonly digests: boolean;
  readonly count: number;
}

const runs: Run[] = [];
for (const rw of ['read', 'write'] as const) {
  runs.push({ rw, depth: 128, digests: false, count: COUNT });
  runs.push({ rw, depth: 32, digests: false, count: COUNT / 10 });
  runs.push({ rw, depth: 1, digests: false, count: COUNT / 100 });
  runs.push({ rw, depth: 128, digests: true, count: COUNT / 10 });
}

const nameOf = ({ rw, depth, digests }: Run): string => `${rw}, depth ${depth}${digests ? ', digests' : ''}`;
const mib = (bytes: number): string => short(bytes / 2 ** 20);
/** Known only between collections. */
const perIo = ({ scavenges, allocated }: Collections, count: number): string =>
  scavenges < 2 ? '-' : short(allocated / count);
const rows: string[][] = [];
const target = await ProductTarget.start(['--memory', String(MEMORY_BYTES)], ['--trace-gc']);
await fill(target.uri);
let begin = 0;
for (const run of runs.filter((one) => ONLY.test(nameOf(one)))) {
  const { rw, depth, digests, count } = run;
  const job = {
    uri: target.uri,
    pid: target.pid,
    rw,
    depth,
    digests,
    blockBytes: 4096,
    connections: 1,
    seconds: 0,
    stamped: true,
  } as const;
  // the first read of a page makes its view, once for ever
  await runLoad({ ...job, warmupSeconds: 0, ioCount: 300_000, depth: 128 });
  begin = target.otherLines.length;
  const resident = residentBytes(target.pid);
  const lines: string[] = [];
  const result = await runLoad({ ...job, warmupSeconds: 0.5, ioCount: count }, ['--trace-gc', '--expose-gc'], lines);
  const ofTarget = collections(target.otherLines.slice(begin));
  const ofLoad = collections(lines.slice(lines.findIndex((line) => line.includes('testing')) + 1));
  const heap = (one: Collections): string =>
    Number.isNaN(one.first) ? 'no collection' : `${mib(one.first)} -> ${mib(one.last)}`;
  rows.push([
    nameOf(run),
    short(count),
    short(result.ios / result.seconds),
    String(ofTarget.scavenges),
    perIo(ofTarget, count),
    heap(ofTarget),
    `${mib(resident)} -> ${mib(residentBytes(target.pid))}`,
    String(ofLoad.scavenges),
    perIo(ofLoad, count),
    `${mib(result.heapBytes[0])} -> ${mib(result.heapBytes[1])}`,
  ]);
}
await target.stop();
const head = [
  '4 KiB, memory',
  'I/Os',
  'IOPS',
  'target: collections',
  'garbage bytes/IO',
  'heap MiB',
  'resident MiB',
  'host: collections',
  'garbage bytes/IO',
  'heap MiB',
];
const align: readonly Align[] = head.map((_, i) => (i === 0 ? 'left' : 'right'));
process.stdout.write(`${table(head, align, rows)}\n`);

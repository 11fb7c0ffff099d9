/** `npm run bench`: see README.md in this folder. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { parseArgs } from 'node:util';
import { TgtSubject } from './e2e/iscsi-subject.ts';
import { fullMatrix, OWN_DEPTH, quickMatrix, SHARED_DEPTH, scalingMatrix } from './e2e/matrix.ts';
import { type Measured, measureAll, report } from './e2e/measure.ts';
import { NbdkitSubject, QemuNbdSubject } from './e2e/nbd-subject.ts';
import { ExternalSubject, ProductSubject, parseExternalTarget } from './e2e/nvme-subject.ts';
import { type Case, caseName, type Subject } from './e2e/subject.ts';
import { compiled, describeMachine } from './lib/machine.ts';
import { median, short } from './lib/stats.ts';

const PARTS = ['e2e', 'scaling', 'micro', 'garbage', 'memory'] as const;
type Part = (typeof PARTS)[number];

const USAGE = `Usage: npm run bench -- [option...] [part...]

Parts (default: all): ${PARTS.join(', ')}

  --quick            a choice of the matrix, in under six minutes (default)
  --full             the whole matrix, longer and more often: about an hour
  --seconds N        length of one measurement (default: 1; 3 with --full)
  --rounds N         how often each is measured (default: 3; 5 with --full)
  --only REGEX       cases and servers that match, e.g. '4k read qd32|nbdkit'
  --no-peers         nvmeferry alone
  --target NAME=URI  another NVMe/TCP target beside it; repeatable. URI with ?nsid=N, then ",pid=N" for its CPU time (it is
                     stopped while others are measured) and ",null" if it drops what is written; all else is overwritten
  --json FILE        every sample, for other programs
  --list             what would be measured
`;

interface Options {
  readonly parts: readonly Part[];
  readonly full: boolean;
  readonly seconds: number;
  readonly rounds: number;
  readonly only: RegExp | undefined;
  readonly peers: boolean;
  readonly targets: readonly string[];
  readonly json: string | undefined;
  readonly list: boolean;
}

function parse(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: 'boolean' },
      full: { type: 'boolean' },
      seconds: { type: 'string' },
      rounds: { type: 'string' },
      only: { type: 'string' },
      'no-peers': { type: 'boolean' },
      target: { type: 'string', multiple: true },
      json: { type: 'string' },
      list: { type: 'boolean' },
      help: { type: 'boolean' },
    },
  });
  if (values.help === true) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const unknown = positionals.find((part) => !PARTS.includes(part as Part));
  if (unknown !== undefined) throw new Error(`${unknown} is no part of the bench: ${PARTS.join(', ')}`);
  const full = values.full === true;
  const number = (name: 'seconds' | 'rounds', fallback: number): number => {
    const value = Number(values[name] ?? fallback);
    if (!(value > 0)) throw new Error(`--${name} ${values[name]}: a number above 0 is needed`);
    return value;
  };
  return {
    parts: positionals.length === 0 ? PARTS : (positionals as Part[]),
    full,
    seconds: number('seconds', full ? 3 : 1),
    rounds: Math.ceil(number('rounds', full ? 5 : 3)),
    only: values.only === undefined ? undefined : new RegExp(values.only),
    peers: values['no-peers'] !== true,
    targets: values.target ?? [],
    json: values.json,
    list: values.list === true,
  };
}

const say = (text: string): void => void process.stdout.write(`${text}\n`);
const startMs = performance.now();
const onTerminal = process.stderr.isTTY === true;
function progress(text: string): void {
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0).padStart(4);
  if (onTerminal) process.stderr.write(`\r\x1b[K${seconds} s  ${text}`);
}
function endProgress(): void {
  if (onTerminal) process.stderr.write('\r\x1b[K');
}

/** Keeps what matches `--only`: by the case, or by the server's name. */
function chosen(subjects: readonly Subject[], only: RegExp | undefined): Subject[] {
  if (only === undefined) return [...subjects];
  return subjects.map((subject) => ({
    name: subject.name,
    missing: subject.missing,
    takes: (test: Case) => subject.takes(test) && only.test(`${caseName(test)}, ${subject.name}`),
    start: () => subject.start(),
    measure: (test: Case, seconds: number) => subject.measure(test, seconds),
    stop: () => subject.stop(),
  }));
}

/** A script of the bench in a process of its own; its output is the report. */
function script(path: string, nodeFlags: readonly string[], flags: readonly string[]): boolean {
  const { status } = spawnSync(process.execPath, [...nodeFlags, compiled(path), ...flags], { stdio: 'inherit' });
  return status === 0;
}

async function main(): Promise<void> {
  const options = parse();
  const externals = options.targets.map((text) => new ExternalSubject(parseExternalTarget(text)));
  const ours = [new ProductSubject('memory'), new ProductSubject('null')];
  const peers = options.peers ? [new NbdkitSubject(), new QemuNbdSubject(), new TgtSubject()] : [];
  const all = chosen([...ours, ...externals, ...peers], options.only);
  const matrix = options.full ? fullMatrix() : quickMatrix();
  if (options.list) {
    for (const test of matrix)
      for (const subject of all) if (subject.takes(test)) say(`${caseName(test)}, ${subject.name}`);
    return;
  }
  say(describeMachine());
  let good = true;
  const results: { e2e?: Measured[]; scaling?: Measured[] } = {};
  const measureOptions = { rounds: options.rounds, seconds: options.seconds, progress };
  for (const part of options.parts) {
    if (part === 'e2e') {
      results.e2e = await measureAll(all, matrix, measureOptions);
      endProgress();
      say(`\n## End to end (${options.rounds} rounds of ${options.seconds} s, interleaved)\n`);
      say(report(results.e2e));
    } else if (part === 'scaling') {
      const subjects = chosen([ours[0]!, ...externals], options.only);
      results.scaling = await measureAll(subjects, scalingMatrix(options.full), measureOptions);
      endProgress();
      say('\n## Connections\n');
      say(report(results.scaling));
      say(scalingVerdict(results.scaling));
    } else if (part === 'micro') {
      say('\n## Hot modules\n');
      good = script('micro/run.js', [], options.full ? ['--full'] : []) && good;
    } else if (part === 'garbage') {
      say('\n## Garbage\n');
      good = script('garbage.js', [], options.full ? [] : ['--count', '1000000']) && good;
    } else {
      say('\n## Memory of idle queues\n');
      good = script('idle-memory.js', [], options.full ? [] : ['--controllers', '50']) && good;
    }
  }
  say(
    `\n${((performance.now() - startMs) / 60_000).toFixed(1)} minutes; load average at the end: ${loadavg()[0]!.toFixed(2)}`,
  );
  if (options.json !== undefined) {
    writeFileSync(options.json, JSON.stringify({ machine: describeMachine(), ...results }, undefined, 1));
  }
  const failed = [...(results.e2e ?? []), ...(results.scaling ?? [])].some(({ missing }) =>
    missing?.startsWith('FAILED'),
  );
  if (failed || !good) process.exitCode = 1;
}

/** What more connections cost against one. */
function scalingVerdict(results: readonly Measured[]): string {
  const series: [string, (test: Case) => boolean][] = [
    [`${SHARED_DEPTH} in flight in all`, (test) => test.depth === SHARED_DEPTH],
    [`${OWN_DEPTH} in flight on each`, (test) => test.depth === OWN_DEPTH * test.connections],
  ];
  const lines: string[] = [];
  for (const subject of new Set(results.map((item) => item.subject))) {
    for (const rw of ['read', 'write'] as const) {
      for (const [title, belongs] of series) {
        const rates = results
          .filter((item) => item.subject === subject && item.test.rw === rw && belongs(item.test))
          .map(({ test, samples }) => [test.connections, median(samples.map((sample) => sample.iops))] as const);
        if (rates.length < 2) continue;
        const one = rates.find(([connections]) => connections === 1)?.[1] ?? Number.NaN;
        const text = rates.map(([connections, iops]) => `${connections}: ${short(iops / one)}`).join(', ');
        lines.push(`${subject}, ${rw}, ${title}; IOPS by connections, one = 1: ${text}`);
      }
    }
  }
  return `\n${lines.join('\n')}`;
}

try {
  await main();
} catch (error) {
  endProgress();
  process.stderr.write(`bench: ${(error as Error).message}\n`);
  process.exitCode = 2;
}

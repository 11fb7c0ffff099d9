/** Measures cases in rounds, everything once per round, so that what happens on the machine meanwhile falls on all alike. */
import { type Align, median, short, spread, table } from '../lib/stats.ts';
import { type Case, caseName, type Sample, type Subject } from './subject.ts';

/** The samples of one subject in one case. */
export interface Measured {
  readonly subject: string;
  readonly name: string;
  readonly test: Case;
  /** Why there are no samples. */
  missing: string | undefined;
  readonly samples: Sample[];
}

export interface MeasureOptions {
  readonly rounds: number;
  readonly seconds: number;
  readonly progress: (text: string) => void;
}

/** Cores busy with something else from which on a measurement says little. */
const CONTENDED_CORES = 0.2;

export async function measureAll(
  subjects: readonly Subject[],
  cases: readonly Case[],
  options: MeasureOptions,
): Promise<Measured[]> {
  const results: Measured[] = [];
  const work: { subject: Subject; measured: Measured }[] = [];
  for (const test of cases) {
    for (const subject of subjects) {
      if (!subject.takes(test)) continue;
      const measured = {
        subject: subject.name,
        name: caseName(test),
        test,
        missing: subject.missing,
        samples: [],
      };
      results.push(measured);
      if (subject.missing === undefined) work.push({ subject, measured });
    }
  }
  const used = subjects.filter((subject) => work.some((item) => item.subject === subject));
  try {
    for (const subject of used) {
      options.progress(`starting ${subject.name}`);
      try {
        await subject.start();
      } catch (error) {
        for (const item of work) if (item.subject === subject) item.measured.missing = failure(error);
      }
    }
    for (let round = 1; round <= options.rounds; round++) {
      for (const [index, { subject, measured }] of work.entries()) {
        if (measured.missing !== undefined) continue;
        const step = `round ${round}/${options.rounds}, ${index + 1}/${work.length}`;
        options.progress(`${step}: ${measured.name}, ${subject.name}`);
        try {
          measured.samples.push(await subject.measure(measured.test, options.seconds));
        } catch (error) {
          measured.missing = failure(error);
        }
      }
    }
  } finally {
    for (const subject of used) await subject.stop();
  }
  return results;
}

/** What a process that ended badly said last that names an error, as one cell of a table. */
function failure(error: unknown): string {
  const lines = (error instanceof Error ? error.message : String(error)).split('\n');
  const told = lines.find((line) => /^\w*Error\b.*:/.test(line.trim())) ?? lines[0]!;
  return `FAILED: ${told.trim().replaceAll('|', '/').slice(0, 120)}`;
}

const HEAD = [
  'case',
  'server',
  'IOPS, median (min - max)',
  'MiB/s',
  'p50 us',
  'p90 us',
  'p99 us',
  'p99.9 us',
  'server CPU us/IO (user + kernel)',
  'load cores',
  'notes',
];
const ALIGN: readonly Align[] = [
  'left',
  'left',
  'right',
  'right',
  'right',
  'right',
  'right',
  'right',
  'right',
  'right',
  'left',
];

export function report(results: readonly Measured[]): string {
  return table(HEAD, ALIGN, results.map(row));
}

function row({ name, subject, samples, missing }: Measured): string[] {
  if (samples.length === 0) return [name, subject, missing ?? 'not measured'];
  const of = (pick: (sample: Sample) => number): number => median(samples.map(pick));
  const user = of((sample) => sample.serverUserUs);
  const system = of((sample) => sample.serverSystemUs);
  return [
    name,
    subject,
    spread(samples.map((sample) => sample.iops)),
    short(of((sample) => sample.bytesPerSecond / 2 ** 20)),
    ...[0, 1, 2, 3].map((i) => short(of((sample) => sample.latencyUs[i]!))),
    `${short(user + system)} (${short(user)} + ${short(system)})`,
    short(of((sample) => sample.loadCores)),
    notes(samples, missing),
  ];
}

function notes(samples: readonly Sample[], missing: string | undefined): string {
  const list: string[] = missing === undefined ? [] : [missing];
  const depth = samples[0]?.depth;
  if (depth !== undefined) list.push(`${depth} in flight`);
  const contended = samples.filter((sample) => sample.otherCores > CONTENDED_CORES).length;
  if (contended > 0) list.push(`contended ${contended}/${samples.length}`);
  return list.join('; ');
}

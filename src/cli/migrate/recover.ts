/** `migrate --status`, `--abort` and `--resume`: a move that another process has begun, by its journal. */
import { access } from 'node:fs/promises';
import { Journal } from '../../orchestrator/journal.ts';
import { Move } from '../../orchestrator/move.ts';
import { type MoveStatus, moveStatus } from '../../orchestrator/move-status.ts';
import { ROLLBACK_ENTRY } from '../../orchestrator/steps.ts';
import { systemClock } from '../../util/clock.ts';
import { ConfigError } from '../../util/error.ts';
import { contextIn, reachableEnds } from './ends.ts';
import type { MigrateFlags } from './flags.ts';
import { mustTakeReport, tellReport } from './report-file.ts';
import { failureLines } from './report-text.ts';
import { withRemedy } from './run.ts';
import { Teller } from './say.ts';

const PHASES: Readonly<Record<MoveStatus['phase'], string>> = {
  none: 'nothing was begun',
  'before-commit': 'not committed: it can be undone (--abort, or --resume, which does the same)',
  'rolling-back': 'being undone: go on with --abort',
  committed: 'committed: it can only be finished (--resume)',
  moved: 'moved',
  'as-before': 'undone: as before',
};

export async function recoverMove(flags: MigrateFlags): Promise<void> {
  const path = flags.journal!;
  try {
    await access(path);
  } catch (cause) {
    throw new ConfigError(`migrate: journal ${path} cannot be read; name the one that the move has said`, { cause });
  }
  const teller = new Teller(flags.output);
  const journal = await Journal.open(path);
  try {
    const status = moveStatus(journal.entries);
    if (flags.status === true) sayStatus(status, teller);
    else await recover(journal, status, flags, teller);
  } catch (error) {
    throw withRemedy(error, path);
  } finally {
    await journal.close();
  }
}

function sayStatus({ phase, record, step, done, undone, failure }: MoveStatus, teller: Teller): void {
  const lines = [PHASES[phase]];
  if (record !== undefined) {
    const { controller } = record.spec;
    const what = controller === undefined ? '' : `controller ${controller.source} and `;
    const nsids = record.namespaces.map(({ nsid }) => nsid).join(', ');
    const context = contextIn(record);
    lines.push(`${what}namespaces ${nsids}, epoch ${record.epoch}`);
    lines.push(`from ${context.source.uri}`, `to   ${context.destination.uri}`);
  }
  if (done.length > 0) lines.push(`done: ${done.join(', ')}`);
  if (step !== undefined && step !== ROLLBACK_ENTRY) lines.push(`begun, and perhaps done: ${step}`);
  if (failure !== undefined) lines.push(...failureLines(failure));
  if (undone.length > 0) lines.push(`undone: ${undone.join(', ')}`);
  teller.line(lines.join('\n'), {
    event: 'status',
    phase,
    step: step ?? null,
    done,
    undone,
    failure: failure ?? null,
    ...(record === undefined ? {} : { record }),
  });
}

async function recover(journal: Journal, status: MoveStatus, flags: MigrateFlags, teller: Teller): Promise<void> {
  const { record } = status;
  if (record === undefined) throw new ConfigError(`migrate: journal ${journal.path} is empty: no move was begun`);
  await mustTakeReport(flags.report);
  const ends = await reachableEnds(contextIn(record));
  try {
    const tuning = { patienceMs: flags.patience * 1000 };
    const move = new Move({ ...ends, journal, clock: systemClock, tuning, onEvent: teller.event });
    teller.begin(move);
    try {
      await (flags.abort === true ? move.abort() : move.resume());
    } finally {
      teller.end();
      await tellReport(move.report, flags.report, teller);
    }
  } finally {
    await ends.close();
  }
}

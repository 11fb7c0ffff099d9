/** Where a move stands, from its journal alone. */
import type { JournalEntry } from './journal.ts';
import { MoveError } from './move-error.ts';
import { failureInJournal, silentFailure } from './move-failure.ts';
import type { MoveFailure } from './move-report.ts';
import type { MoveRecord } from './move-spec.ts';
import { COMMIT_ENTRY, MOVE_ENTRY, PLAN_ENTRY, ROLLBACK_ENTRY } from './steps.ts';

export type MovePhase =
  /** Nothing was begun. */
  | 'none'
  /** It can be undone, and not be finished. */
  | 'before-commit'
  | 'rolling-back'
  /** It can be finished, and not be undone. */
  | 'committed'
  | 'moved'
  | 'as-before';

export interface MoveStatus {
  readonly phase: MovePhase;
  readonly record: MoveRecord | undefined;
  /** The last step that was begun and is not known to be done. */
  readonly step: string | undefined;
  readonly done: readonly string[];
  readonly undone: readonly string[];
  /** Why it is undone, or has to be; undefined before that, and if it is committed. */
  readonly failure: MoveFailure | undefined;
}

export function moveStatus(entries: readonly JournalEntry[]): MoveStatus {
  const plan = entries.find(({ step }) => step === PLAN_ENTRY);
  if (plan === undefined) {
    if (entries.length > 0) {
      const message = 'The journal does not begin with a plan: it is no journal of a move';
      throw new MoveError('NVMEOF_ERR_MOVE_STATE', message, 'undecided');
    }
    return { phase: 'none', record: undefined, step: undefined, done: [], undone: [], failure: undefined };
  }
  const has = (step: string, state: JournalEntry['state']): boolean =>
    entries.some((entry) => entry.step === step && entry.state === state);
  const last = entries.at(-1)!;
  const done = entries.filter(({ state }) => state === 'done').map(({ step }) => step);
  const step = last.state === 'begun' ? last.step : undefined;
  // the end of a move is no step of it
  const undone = entries.filter((entry) => entry.state === 'undone' && entry.step !== MOVE_ENTRY);
  const phase = phaseOf(has);
  const isCommitted = phase === 'committed' || phase === 'moved';
  return {
    ...{ phase, step, done },
    record: plan.detail as MoveRecord,
    undone: undone.map((entry) => entry.step),
    failure: isCommitted ? undefined : (failureInJournal(entries, ROLLBACK_ENTRY) ?? silentFailure(entries)),
  };
}

function phaseOf(has: (step: string, state: JournalEntry['state']) => boolean): MovePhase {
  if (has(MOVE_ENTRY, 'done')) return 'moved';
  if (has(MOVE_ENTRY, 'undone')) return 'as-before';
  if (has(COMMIT_ENTRY, 'done')) return 'committed';
  return has(ROLLBACK_ENTRY, 'begun') ? 'rolling-back' : 'before-commit';
}

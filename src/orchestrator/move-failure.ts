/** Why a move did not come to its end: for its report, and in its journal for whoever comes later. */
import { NvmeofError } from '../util/error.ts';
import type { JournalEntry } from './journal.ts';
import { messageOf } from './move-error.ts';
import type { MoveFailure } from './move-report.ts';

const CAUSES_MAX = 8;

/** @param message what is said of it, where that is more than its own */
export function failureOf(step: string, code: string, error: unknown, message: string = messageOf(error)): MoveFailure {
  const causes: string[] = [];
  let below: unknown = error;
  for (let depth = 0; depth < CAUSES_MAX && below instanceof Error; depth++) {
    const said = below instanceof NvmeofError ? `${below.code}: ${below.message}` : below.message;
    // what the message has already need not be said again, unless it comes from another
    if (depth > 0 && !message.includes(below.message) && !causes.includes(said)) causes.push(said);
    below = below.cause;
  }
  return { step, code, message, causes };
}

/** As the entry of the rollback has it; a journal is read that another version, or nobody, has finished. */
export function failureInJournal(entries: readonly JournalEntry[], rollback: string): MoveFailure | undefined {
  for (const { step: name, state, detail } of entries) {
    if (name !== rollback || state !== 'begun' || typeof detail !== 'object' || detail === null) continue;
    const { reason, step, code, causes } = detail as Record<string, unknown>;
    if (typeof reason !== 'string') continue;
    return {
      step: typeof step === 'string' ? step : '',
      code: typeof code === 'string' ? code : 'NVMEOF_ERR_MOVE_FAILED',
      message: reason,
      causes: Array.isArray(causes) ? causes.filter((cause) => typeof cause === 'string') : [],
    };
  }
  return undefined;
}

/** Of one that says nothing. */
export function silentFailure(entries: readonly JournalEntry[]): MoveFailure {
  const { step, state } = entries.findLast((entry) => entry.state !== 'undone') ?? { step: 'plan', state: 'begun' };
  const where = state === 'begun' ? `in step ${step}` : `after step ${step}`;
  const message = `The orchestrator that began it ended ${where}, without saying why: it was killed, or could not write`;
  return { step, code: 'NVMEOF_ERR_ABORTED', message, causes: [] };
}

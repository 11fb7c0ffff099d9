import { NvmeofError, NvmeStatusError } from '../util/error.ts';

/**
 * Where a move that failed has left things.
 * - `as-before`: hosts and guest use the source, as if it had never begun
 * - `unfinished`: something has to be undone yet, at an end that cannot be reached (`--abort`)
 * - `moved-unfinished`: it is committed, and something has to be done yet (`--resume`)
 * - `undecided`: whether the commit is in the journal is not known; the next one who reads it goes by what is there (`--resume`)
 */
export type MoveOutcome = 'as-before' | 'unfinished' | 'moved-unfinished' | 'undecided';

/** `code` says what went wrong, `outcome` where that leaves the move; `cause` is the failure itself where it came from below. @public */
export class MoveError extends NvmeofError {
  override readonly name = 'MoveError';
  readonly outcome: MoveOutcome;
  constructor(code: MoveErrorCode, message: string, outcome: MoveOutcome, options?: { cause?: unknown }) {
    super(code, message, options);
    this.outcome = outcome;
  }
}

export type MoveErrorCode =
  /** The plan has found what stands against it; nothing was touched. */
  | 'NVMEOF_ERR_MOVE_REFUSED'
  /** The pause would be longer than allowed. */
  | 'NVMEOF_ERR_MOVE_BUDGET'
  /** Source and destination differ where they should not. */
  | 'NVMEOF_ERR_MISCOMPARE'
  | 'NVMEOF_ERR_ABORTED'
  /** A newer move has the namespaces. */
  | 'NVMEOF_ERR_MOVE_SUPERSEDED'
  /** A step failed. */
  | 'NVMEOF_ERR_MOVE_FAILED'
  /** What is asked does not fit the journal. */
  | 'NVMEOF_ERR_MOVE_STATE';

const STATUS_MASK = 0x7ff;
const COMMAND_SEQUENCE_ERROR = 0x00c;

/** The target has seen a newer epoch. */
export function isSuperseded(error: unknown): boolean {
  return error instanceof NvmeStatusError && (error.status & STATUS_MASK) === COMMAND_SEQUENCE_ERROR;
}

interface Size {
  readonly blockSize: number;
  readonly blockCount: number;
}

/** A namespace is not as it was planned: whatever was copied, hosts would find another one. */
export function resized(what: string, before: Size, now: Size): MoveError {
  const text = ({ blockSize, blockCount }: Size): string => `${blockCount} blocks of ${blockSize} bytes`;
  const remedy = 'move it again as it is now, to one of the same size';
  const message = `${what} has ${text(now)}, it had ${text(before)} when the move began: ${remedy}`;
  return new MoveError('NVMEOF_ERR_MOVE_FAILED', message, 'as-before');
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** All of them are over when it returns. @throws the first failure */
export async function all<T>(items: readonly T[], act: (item: T) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled(items.map(async (item) => act(item)));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Exit codes by kind of failure, and the one line that is said about it. */
import { MoveError } from '../orchestrator/move-error.ts';
import { ConfigError, NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';

export const ExitCode = {
  Ok: 0,
  /** A command completed with an NVMe status. */
  Status: 1,
  /** Arguments or configuration. */
  Usage: 2,
  /** Connection, transport, operating system. */
  Transport: 3,
  /** Data read differs from data written. */
  Miscompare: 4,
  /** A move that was not begun, or would have to overwrite, or whose journal does not allow it: nothing was touched. */
  Refused: 5,
  /** A move that would have paused its hosts for longer than allowed; as before. */
  Budget: 6,
  /** A move that has to be aborted or resumed. */
  Unfinished: 7,
  /** A bug of this program. */
  Internal: 70,
  Interrupted: 130,
} as const;

export function exitCodeOf(error: unknown): number {
  if (error instanceof MoveError) return exitCodeOfMove(error);
  if (error instanceof NvmeStatusError) return ExitCode.Status;
  if (error instanceof ConfigError || (error instanceof NvmeofError && error.code === 'NVMEOF_ERR_ARGUMENT'))
    return ExitCode.Usage;
  if (error instanceof TransportError || error instanceof NvmeofError) return ExitCode.Transport;
  return ExitCode.Internal;
}

function exitCodeOfMove({ code, outcome, cause }: MoveError): number {
  if (code === 'NVMEOF_ERR_MOVE_REFUSED' || code === 'NVMEOF_ERR_MOVE_STATE') return ExitCode.Refused;
  if (outcome !== 'as-before') return ExitCode.Unfinished;
  switch (code) {
    case 'NVMEOF_ERR_MOVE_BUDGET':
      return ExitCode.Budget;
    case 'NVMEOF_ERR_MISCOMPARE':
      return ExitCode.Miscompare;
    case 'NVMEOF_ERR_ABORTED':
      return ExitCode.Interrupted;
    default:
      return cause === undefined ? ExitCode.Transport : exitCodeOf(cause);
  }
}

/** The message; a stack only for what is a bug. */
export function oneLine(error: unknown): string {
  if (error instanceof NvmeofError) return error.message;
  return error instanceof Error
    ? `internal error: ${error.stack ?? error.message}`
    : `internal error: ${String(error)}`;
}

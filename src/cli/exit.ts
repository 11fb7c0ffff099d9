/** Exit codes by kind of failure, and the one line that is said about it. */
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
  /** A bug of this program. */
  Internal: 70,
  Interrupted: 130,
} as const;

export function exitCodeOf(error: unknown): number {
  if (error instanceof NvmeStatusError) return ExitCode.Status;
  if (error instanceof ConfigError || (error instanceof NvmeofError && error.code === 'NVMEOF_ERR_ARGUMENT'))
    return ExitCode.Usage;
  if (error instanceof TransportError || error instanceof NvmeofError) return ExitCode.Transport;
  return ExitCode.Internal;
}

/** The message; a stack only for what is a bug. */
export function oneLine(error: unknown): string {
  if (error instanceof NvmeofError) return error.message;
  return error instanceof Error
    ? `internal error: ${error.stack ?? error.message}`
    : `internal error: ${String(error)}`;
}

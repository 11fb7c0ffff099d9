import { getSystemErrorName } from 'node:util';
import { NvmeofError } from '../util/error.ts';

/** A system call of the addon failed, or the addon is not there. @public */
export class NativeError extends NvmeofError {
  override readonly name = 'NativeError';
  /** `ENOSPC`...; undefined if it was no system call. */
  readonly errno: string | undefined;
  readonly syscall: string | undefined;
  constructor(message: string, options: { errno?: number; syscall?: string; cause?: unknown } = {}) {
    super('NVMEOF_ERR_NATIVE', message, options.cause === undefined ? undefined : { cause: options.cause });
    this.errno = options.errno === undefined ? undefined : errnoName(options.errno);
    this.syscall = options.syscall;
  }
}

/** @param errno positive or negative */
export function errnoName(errno: number): string {
  try {
    return getSystemErrorName(-Math.abs(errno));
  } catch {
    return `errno ${Math.abs(errno)}`; // one that libuv has no name for
  }
}

/** The result of a call of the addon. @throws NativeError if it is an errno */
export function checked(result: number, syscall: string, what: string): number {
  if (result >= 0) return result;
  throw new NativeError(`${what}: ${syscall} failed with ${errnoName(result)}`, { errno: result, syscall });
}

/** What node:fs would have made of it, for callbacks that take either. */
export function systemError(errno: number, syscall: string): NodeJS.ErrnoException {
  const code = errnoName(errno);
  return Object.assign(new Error(`${code}: ${syscall} failed`), { code, errno: -Math.abs(errno), syscall });
}

import { constants } from 'node:os';
import { NativeError } from '../../native/native-error.ts';
import { Errno } from '../../spec/vfio-user.ts';
import { NvmeofError } from '../../util/error.ts';
import { WireError } from '../../wire/cold/wire-error.ts';
import { PciError } from '../pcie/pci-function.ts';

/** The client asked for what cannot be: an error reply. */
export class VfioUserError extends NvmeofError {
  override readonly name = 'VfioUserError';
  /** Positive. */
  readonly errno: number;
  constructor(errno: number, message: string) {
    super('NVMEOF_ERR_VFIO_USER', message);
    this.errno = errno;
  }
}

export const invalid = (message: string): VfioUserError => new VfioUserError(Errno.Invalid, message);

/** The number for the reply; undefined if the error is none of a request but a bug. */
export function errnoOf(error: unknown): number | undefined {
  if (error instanceof VfioUserError || error instanceof PciError) return error.errno;
  if (error instanceof WireError) return Errno.Invalid;
  if (error instanceof NativeError) {
    return (constants.errno as Readonly<Record<string, number>>)[error.errno ?? ''] ?? Errno.IoError;
  }
  return undefined;
}

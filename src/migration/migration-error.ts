import { NvmeofError } from '../util/error.ts';

/** Something about a migration cannot be; the message names the thing. @public */
export class MigrationError extends NvmeofError {
  override readonly name = 'MigrationError';
}

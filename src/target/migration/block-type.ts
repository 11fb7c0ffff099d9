/** One kind of block of a controller's state: how it is taken from a controller, and what it does to another one. */
import { MigrationError } from '../../migration/migration-error.ts';
import type { Controller } from '../controller.ts';

/** What a block that was found right will do. */
export interface Loaded {
  /** First, and it may fail, e.g. because a disk is full. @returns what undoes it */
  readonly durable?: (() => Promise<() => Promise<void>>) | undefined;
  /** Then; it cannot fail. */
  readonly apply?: (() => void) | undefined;
}

export interface BlockType {
  readonly kind: number;
  /** Of what `save` writes; a reader takes higher ones, which have only added to the end. */
  readonly version: number;
  /** A target that does not know it must refuse the state. */
  readonly essential: boolean;
  save(controller: Controller): Uint8Array;
  /** Checks all of it. @throws MigrationError, WireError: nothing is applied then */
  load(controller: Controller, bytes: Uint8Array): Loaded;
}

export function wrongState(what: string): MigrationError {
  return new MigrationError('NVMEOF_ERR_STATE_FORMAT', `Controller state ${what}`);
}

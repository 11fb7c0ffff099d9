/** `nvmeferry migrate`: moves namespaces or a controller from one fabric to another while they are in use. */
import type { Command } from 'commander';
import { addMigrateOptions, checkFlags, type MigrateFlags } from './flags.ts';

export function registerMigrateCommand(program: Command): void {
  addMigrateOptions(
    program.command('migrate').description('move namespaces, or a controller, to another target while they are in use'),
  ).action(async (source: string | undefined, destination: string | undefined, flags: MigrateFlags) => {
    checkFlags(source, destination, flags);
    if (flags.status === true || flags.abort === true || flags.resume === true) {
      await (await import('./recover.ts')).recoverMove(flags);
    } else await (await import('./run.ts')).runMove(source!, destination!, flags);
  });
}

/** `nvmeferry demo`: shows on loopback what this is for. */
import type { Command } from 'commander';

export function registerDemoCommand(program: Command): void {
  program
    .command('demo')
    .description('a running VM moves with its SSD from one fabric to another, on loopback, verified (no root needed)')
    .option(
      '--basics',
      'target and initiator instead: discovery, verified I/O, a namespace added, kill -9 and reconnect',
    )
    .action(async ({ basics }: { basics?: true }) => {
      if (basics === true) await (await import('./basics.ts')).runBasics();
      else await (await import('./migration.ts')).runMigrationDemo();
    });
}

#!/usr/bin/env node
/** The `nvmeferry` command. It loads what the given verb needs: most of the start-up time is loading. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { ExitCode, exitCodeOf, oneLine } from './exit.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

type Register = (program: Command) => void;

/** In the order of `--help`. */
const parts: Readonly<Record<string, () => Promise<Register>>> = {
  target: async () => (await import('./target.ts')).registerTargetCommand,
  dpu: async () => (await import('./dpu.ts')).registerDpuCommand,
  migrate: async () => (await import('./migrate/register.ts')).registerMigrateCommand,
  front: async () => (await import('./front.ts')).registerFrontCommand,
  demo: async () => (await import('./demo/register.ts')).registerDemoCommand,
  host: async () => (await import('./host/register.ts')).registerHostCommands,
  conformance: async () => (await import('./conformance/register.ts')).registerConformance,
};

function emptyProgram(): Command {
  return new Command('nvmeferry')
    .description('NVMe-oF/TCP target and initiator, and moves of what they serve from fabric to fabric')
    .version(version)
    .exitOverride()
    .showHelpAfterError('(--help shows what there is)');
}

/** @param first the first argument: a verb, or what needs them all */
async function programFor(first: string | undefined): Promise<Command> {
  const program = emptyProgram();
  if (first === '--version' || first === '-V') return program;
  const isHelp = first === undefined || first === 'help' || first.startsWith('-');
  // a verb is a part of its own, or one of the host's
  const name = isHelp ? undefined : first !== 'host' && Object.hasOwn(parts, first) ? first : 'host';
  if (name !== undefined) {
    (await parts[name]!())(program);
    if (program.commands.some((command) => command.name() === first || command.aliases().includes(first!))) {
      return program;
    }
  }
  const whole = emptyProgram();
  for (const load of Object.values(parts)) (await load())(whole);
  return whole;
}

try {
  const program = await programFor(process.argv[2]);
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? ExitCode.Ok : ExitCode.Usage;
  } else {
    process.stderr.write(`nvmeferry: ${oneLine(error)}\n`);
    process.exitCode = exitCodeOf(error);
  }
}

#!/usr/bin/env node
/** The `nvmeferry` command. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { registerConformance } from './conformance/register.ts';
import { registerDemoCommand } from './demo.ts';
import { registerDpuCommand } from './dpu.ts';
import { ExitCode, exitCodeOf, oneLine } from './exit.ts';
import { registerHostCommands } from './host/register.ts';
import { registerTargetCommand } from './target.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

export function makeProgram(): Command {
  const program = new Command('nvmeferry')
    .description('NVMe-oF/TCP target and initiator')
    .version(version)
    .exitOverride()
    .showHelpAfterError('(--help shows what there is)');
  registerTargetCommand(program);
  registerDpuCommand(program);
  registerDemoCommand(program);
  registerHostCommands(program);
  registerConformance(program);
  return program;
}

try {
  await makeProgram().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? ExitCode.Ok : ExitCode.Usage;
  } else {
    process.stderr.write(`nvmeferry: ${oneLine(error)}\n`);
    process.exitCode = exitCodeOf(error);
  }
}

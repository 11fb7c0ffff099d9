/** lm state decode, lm state diff: controller states in files. */
import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { MigrationError } from '../../../migration/migration-error.ts';
import { ConfigError } from '../../../util/error.ts';
import { WireError } from '../../../wire/cold/wire-error.ts';
import { ExitCode } from '../../exit.ts';
import type { OutputFormat } from '../address.ts';
import { printFields, printJson, printLine } from '../print.ts';
import { runVerb } from '../run.ts';
import { diffStates, leaves, type StateView, viewState } from './state-view.ts';

export function fileError(verb: string, path: string, error: unknown): ConfigError {
  return new ConfigError(`lm ${verb}: ${path}: ${(error as Error).message}`, { cause: error });
}

/** @throws ConfigError naming the file */
export async function readStateFile(verb: string, path: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(path));
  } catch (error) {
    throw fileError(verb, path, error);
  }
}

async function viewFile(verb: string, path: string): Promise<StateView> {
  const bytes = await readStateFile(verb, path);
  try {
    return viewState(bytes);
  } catch (error) {
    if (error instanceof WireError || error instanceof MigrationError) throw fileError(verb, path, error);
    throw error;
  }
}

export function printState(view: StateView, output: OutputFormat): void {
  if (output === 'json') {
    printJson(view);
    return;
  }
  const { nvme, vendor, ...header } = view;
  printLine('Controller state');
  printLeaves(header);
  if (nvme !== undefined) {
    printLine('NVMe controller state, version 0');
    printLeaves(nvme);
  }
  if (vendor === undefined) return;
  const version = vendor.minor === undefined ? '' : ` 1.${vendor.minor}`;
  printLine(`Vendor specific state, format ${vendor.format}${version}`);
  if (vendor.bytes !== undefined) printLeaves({ bytes: vendor.bytes });
  for (const { kind, name, version: layout, essential, length, content } of vendor.blocks ?? []) {
    printLine(`Block ${kind}: ${name}, version ${layout}, ${length} bytes${essential ? ', essential' : ''}`);
    printLeaves(content);
  }
}

function printLeaves(value: unknown): void {
  printFields(
    leaves(value).map(([path, text]) => [`  ${path || 'value'}`, text] as const),
    28,
  );
}

interface FileFlags {
  output: string;
}

const output = (): Option =>
  new Option('-o, --output <format>', 'output format').choices(['text', 'normal', 'json']).default('text');
const formatOf = ({ output: format }: FileFlags): OutputFormat => (format === 'json' ? 'json' : 'text');

export function registerStateFiles(group: Command): void {
  const state = group.command('state').description('controller states in files: decode, diff');
  state
    .command('decode')
    .description('what a controller state says')
    .argument('<file>', 'as migration-recv --output-file wrote it')
    .addOption(output())
    .action((file: string, flags: FileFlags) =>
      runVerb(async () => printState(await viewFile('state decode', file), formatOf(flags))),
    );
  state
    .command('diff')
    .description('what differs between two controller states; exit code 1 if anything does')
    .argument('<before>', 'a controller state')
    .argument('<after>', 'another one')
    .addOption(output())
    .action((before: string, after: string, flags: FileFlags) =>
      runVerb(async () => {
        const differences = diffStates(await viewFile('state diff', before), await viewFile('state diff', after));
        if (formatOf(flags) === 'json')
          printJson(differences.map((d) => ({ path: d.path, before: d.before ?? null, after: d.after ?? null })));
        for (const { path, before: a, after: b } of formatOf(flags) === 'json' ? [] : differences) {
          if (a !== undefined) printLine(`- ${path}: ${a}`);
          if (b !== undefined) printLine(`+ ${path}: ${b}`);
        }
        if (differences.length > 0) process.exitCode = ExitCode.Status;
      }),
    );
}

/** lm batch: several verbs on one connection, which is what queues, tracking and suspensions live by. */
import { open } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Command, CommanderError } from 'commander';
import { ConfigError, NvmeofError } from '../../../util/error.ts';
import { oneLine } from '../../exit.ts';
import { type AddressFlags, addAddress } from '../address.ts';
import type { LmRunner, LmSession } from './session.ts';
import { fileError } from './state-file.ts';

interface BatchFlags extends AddressFlags {
  file?: string;
  keepGoing?: boolean;
}

/** Words of a line as a shell has them: quotes keep blanks together, # begins a comment. @throws ConfigError */
export function wordsOf(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let quote = '';
  for (const character of line) {
    if (quote !== '') {
      if (character === quote) quote = '';
      else word += character;
    } else if (character === '"' || character === "'") {
      quote = character;
      word ??= '';
    } else if (character === '#' && word === undefined) break;
    else if (/\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = (word ?? '') + character;
  }
  if (quote !== '') throw new ConfigError(`a quote is not closed in ${JSON.stringify(line.trim())}`);
  return word === undefined ? words : [...words, word];
}

/** @param register adds the verbs of `lm` to a group, running on what the batch is connected to */
export function registerBatch(group: Command, run: LmRunner, register: (group: Command, run: LmRunner) => void): void {
  addAddress(group.command('batch').description('run lm verbs, one a line, on one connection'), 'f', false, true)
    .option('-f, --file <file>', 'where the lines are (default: standard input)')
    .option('--keep-going', 'go on after a verb that fails')
    .addHelpText(
      'after',
      '\nLines are verbs without an address, such as: create-cdq --cntlid=2 --size=8192. # begins a comment.',
    )
    .action((uri: string | undefined, flags: BatchFlags) =>
      run('batch', uri, flags, async (session) => {
        const shared: LmSession = { ...session, lasts: true };
        const onShared: LmRunner = (_verb, ownUri, _flags, work) => {
          if (ownUri !== undefined) throw new ConfigError(`${ownUri}: verbs of a batch have no address of their own`);
          return work(shared);
        };
        const execute = async (line: string): Promise<void> => {
          const words = wordsOf(line);
          if (words[0] === 'lm') words.shift();
          if (words.length === 0) return;
          const program = new Command('lm').exitOverride().configureOutput({ writeErr: () => {} });
          register(program, onShared);
          await program.parseAsync(['node', 'lm', ...withOutput(words, flags)]);
        };
        await eachLine(flags, execute);
      }),
    );
}

/** The output format of the batch, unless the line has its own. */
function withOutput(words: readonly string[], { output }: BatchFlags): string[] {
  const own = words.some((word) => /^(?:-o|--output)/.test(word));
  return output === 'json' && !own ? [...words, '--output', 'json'] : [...words];
}

async function eachLine({ file, keepGoing }: BatchFlags, execute: (line: string) => Promise<void>): Promise<void> {
  const handle =
    file === undefined
      ? undefined
      : await open(file).catch((error: unknown) => {
          throw fileError('batch', file, error);
        });
  const lines = createInterface({
    input: handle?.createReadStream() ?? process.stdin,
    crlfDelay: Number.POSITIVE_INFINITY,
  });
  let number = 0;
  let failed: unknown;
  try {
    for await (const line of lines) {
      number++;
      try {
        await execute(line);
      } catch (error) {
        const wrong = named(error, number);
        if (wrong === undefined) continue; // --help
        if (keepGoing !== true) throw wrong;
        process.stderr.write(`nvmeferry: ${oneLine(wrong)}\n`);
        failed ??= wrong;
      }
    }
  } finally {
    lines.close();
    await handle?.close();
  }
  if (failed !== undefined) throw failed;
}

/** With the number of its line. */
function named(error: unknown, line: number): unknown {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return undefined;
    return new ConfigError(`line ${line}: ${error.message.replace(/^error: /, '')}`);
  }
  if (error instanceof NvmeofError) error.message = `line ${line}: ${error.message}`;
  return error;
}

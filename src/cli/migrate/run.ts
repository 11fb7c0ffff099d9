/** A new move: plan, steps, report. */
import { randomInt } from 'node:crypto';
import { parseNvmeUri } from '../../initiator/uri.ts';
import { Journal } from '../../orchestrator/journal.ts';
import { Move } from '../../orchestrator/move.ts';
import { MoveError, type MoveErrorCode } from '../../orchestrator/move-error.ts';
import type { MoveOptions } from '../../orchestrator/move-options.ts';
import type { MoveSpec } from '../../orchestrator/move-spec.ts';
import { moveStatus } from '../../orchestrator/move-status.ts';
import { systemClock } from '../../util/clock.ts';
import { ConfigError } from '../../util/error.ts';
import { type AskTerminal, askWhatToDo } from './ask.ts';
import { connectEnds, contextOf, type Ends, type MoveContext, peerOf } from './ends.ts';
import type { MigrateFlags } from './flags.ts';
import { interruptible } from './interrupt.ts';
import { defaultJournal } from './journal-path.ts';
import { planText } from './plan-text.ts';
import { mustTakeReport, tellReport } from './report-file.ts';
import { Teller } from './say.ts';

const OBSERVE_MS = 1000;
const SALT_MAX = 2 ** 15;

export async function runMove(source: string, destination: string, flags: MigrateFlags): Promise<void> {
  checkTerminal(flags);
  await mustTakeReport(flags.report);
  const teller = new Teller(flags.output);
  const onFirst = (): void =>
    teller.line('interrupted: before the commit it is undone, after it finished', { event: 'interrupted' });
  await interruptible(onFirst, async (signal) => {
    const context = contextOf(source, destination, flags);
    const ends = await connected(context, signal, flags.memory);
    try {
      const spec = await specOf(ends, destination, flags);
      const options = { ...ends, spec, context, signal, clock: systemClock };
      if (flags.dryRun === true) await dryRun(options, flags, teller);
      else await moveWith(options, flags, teller, journalPath(source, flags));
    } finally {
      await ends.close();
    }
  });
}

/** @throws ConfigError where somebody is to be asked, and nobody would see it or could answer */
function checkTerminal({ whenStuck, throttle, dryRun }: MigrateFlags): void {
  if (whenStuck !== 'ask' || throttle === true || dryRun === true) return;
  // the question goes to stderr: stdout may be a program's
  const reason = !process.stdin.isTTY
    ? 'stdin is no terminal, so nobody could answer'
    : !process.stderr.isTTY
      ? 'stderr is no terminal, so nobody would see the question'
      : undefined;
  if (reason !== undefined) throw new ConfigError(`migrate: --when-stuck ask: ${reason}; say refuse, throttle or cut`);
}

async function connected(context: MoveContext, signal: AbortSignal, memory: MigrateFlags['memory']): Promise<Ends> {
  try {
    return await connectEnds(context, signal, memory);
  } catch (cause) {
    if (!signal.aborted) throw cause;
    const message = 'migrate: Interrupted before both ends were there; nothing was touched';
    throw new MoveError('NVMEOF_ERR_ABORTED', message, 'as-before', { cause });
  }
}

type Options = Omit<MoveOptions, 'journal' | 'tuning' | 'onEvent' | 'signal'> & { readonly signal: AbortSignal };

async function specOf(ends: Ends, destination: string, flags: MigrateFlags): Promise<MoveSpec> {
  const { namespaceId, shared, overwrite, acceptLess, acceptForgetful, controller, toController, announce } = flags;
  const common = {
    nsids: namespaceId.length === 0 ? undefined : namespaceId,
    ...{ shared, overwrite, acceptLess, acceptForgetful },
  };
  if (controller === undefined) return { ...common, kind: 'namespaces', peer: peerOf(destination, announce) };
  let to = toController;
  if (to === undefined) {
    const there = await ends.destination.migratable();
    if (there.length !== 1) {
      const found = there.length === 0 ? 'none' : there.join(', ');
      throw new ConfigError(
        `migrate: ${ends.destination.name} has controllers ${found} to choose from; name one with --to-controller`,
      );
    }
    to = there[0]!;
  }
  return { ...common, kind: 'controller', controller: { source: controller, destination: to } };
}

async function journalPath(source: string, flags: MigrateFlags): Promise<string> {
  return flags.journal ?? (await defaultJournal(parseNvmeUri(source).subnqn ?? ''));
}

function tuningOf(flags: MigrateFlags): NonNullable<MoveOptions['tuning']> {
  const { blackout, blackoutLimit, rate, verify, changes, queueEntries, throttle, whenStuck, patience } = flags;
  return {
    blackoutBudgetMs: blackout,
    blackoutLimitMs: blackoutLimit,
    bytesPerSecond: rate,
    verification: verify,
    changes,
    queueEntries,
    whenStuck: throttle === true ? 'throttle' : whenStuck === 'ask' ? 'refuse' : whenStuck,
    patienceMs: patience * 1000,
  };
}

async function dryRun(options: Options, flags: MigrateFlags, teller: Teller): Promise<void> {
  const journal = { entries: [], note: () => Promise.reject(new ConfigError('A dry run writes nothing down')) };
  const move = new Move({ ...options, journal, tuning: { ...tuningOf(flags), observeMs: OBSERVE_MS } });
  const plan = await held(move.plan());
  teller.line(planText(plan, options.source.name, options.destination.name), { event: 'plan', ...plan });
  if (plan.refusals.length > 0) {
    const message = `${plan.refusals.length === 1 ? 'one thing stands' : `${plan.refusals.length} things stand`} against it`;
    throw new MoveError('NVMEOF_ERR_MOVE_REFUSED', `migrate: ${message}`, 'as-before');
  }
}

/** The clock's timers do not hold the process: this does. */
async function held<T>(act: Promise<T>): Promise<T> {
  const hold = systemClock.hold();
  try {
    return await act;
  } finally {
    hold.cancel();
  }
}

async function moveWith(options: Options, flags: MigrateFlags, teller: Teller, path: Promise<string>): Promise<void> {
  const journal = await Journal.open(await path);
  try {
    const { phase } = moveStatus(journal.entries);
    if (phase === 'moved' || phase === 'as-before') await journal.clear();
    else if (phase !== 'none') throw unfinished(journal.path);
    const move = new Move({
      ...options,
      journal,
      salt: randomInt(SALT_MAX),
      tuning: tuningOf(flags),
      onEvent: teller.event,
      ...(flags.whenStuck === 'ask' && flags.throttle !== true
        ? { onStuck: askWhatToDo(teller, terminalOf(options.signal)) }
        : {}),
    });
    const plan = await held(move.plan());
    teller.line(planText(plan, options.source.name, options.destination.name), { event: 'plan', ...plan });
    teller.line(`journal: ${journal.path}`, { event: 'journal', path: journal.path });
    teller.begin(move);
    try {
      await move.run();
    } finally {
      teller.end();
      await tellReport(move.report, flags.report, teller);
    }
  } catch (error) {
    throw withRemedy(error, journal.path);
  } finally {
    await journal.close();
  }
}

/** What is asked goes to stderr: stdout may be a program's. */
function terminalOf(signal: AbortSignal): AskTerminal {
  return {
    ...{ input: process.stdin, output: process.stderr, signal },
    onInterrupt: () => process.kill(process.pid, 'SIGINT'),
  };
}

function unfinished(path: string): MoveError {
  const message = `migrate: a move in ${path} is not over: nvmeferry migrate --status, --abort or --resume --journal ${path}`;
  return new MoveError('NVMEOF_ERR_MOVE_STATE', message, 'undecided');
}

/** What to type next, where something is left to do. */
export function withRemedy(error: unknown, path: string): unknown {
  if (!(error instanceof MoveError) || error.code === 'NVMEOF_ERR_MOVE_STATE' || error.outcome === 'as-before')
    return error;
  const verb = error.outcome === 'unfinished' ? '--abort' : '--resume';
  const message = `${error.message}: nvmeferry migrate ${verb} --journal ${path}`;
  return new MoveError(error.code as MoveErrorCode, message, error.outcome, { cause: error.cause });
}

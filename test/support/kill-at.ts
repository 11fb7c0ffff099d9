/**
 * Loaded into `nvmeferry migrate` by `--import`: somebody is killed at exactly one point of the move, before it does anything else. A test that only
 * reads what it says kills somewhere behind it.
 */
import { writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

/** Environment of the process: a `KillAt` as JSON. */
export const KILL_AT = 'NVMEFERRY_TEST_KILL_AT';

export interface KillAt {
  readonly step: string;
  /**
   * `begun`, `done`, `undone`: it is in the journal, and said on stdout. `taken`: the step has had its effect, and the journal does not say so yet.
   * `torn`: half of the line that says so is in the journal.
   */
  readonly state: 'begun' | 'taken' | 'torn' | 'done' | 'undone';
  /** Absent: the process itself. */
  readonly pid?: number | undefined;
  /** Default SIGKILL. */
  readonly signal?: NodeJS.Signals | undefined;
}

const wanted = process.env[KILL_AT];
if (wanted !== undefined) await arm(JSON.parse(wanted) as KillAt);

async function arm({ step, state, pid = process.pid, signal = 'SIGKILL' }: KillAt): Promise<void> {
  let isDone = false;
  const kill = (): void => {
    if (!isDone) process.kill(pid, signal);
    isDone = true;
  };
  if (state === 'taken' || state === 'torn') {
    await beforeNote((line, fd) => {
      if (!isThat(line, step, 'done')) return;
      if (state === 'torn') writeSync(fd, line.slice(0, line.length / 2));
      kill();
    });
    return;
  }
  const write = process.stdout.write.bind(process.stdout);
  process.stdout.write = ((chunk: string, ...rest: never[]): boolean => {
    // a pipe is written at once
    const result = write(chunk, ...rest);
    if (isThat(chunk, step, state)) kill();
    return result;
  }) as typeof process.stdout.write;
}

/** The journal appends whole lines by this call. */
async function beforeNote(look: (line: string, fd: number) => void): Promise<void> {
  const some = await open(process.execPath);
  const prototype = Object.getPrototypeOf(some) as FileHandle;
  await some.close();
  const append = prototype.appendFile;
  prototype.appendFile = function (this: FileHandle, ...args: Parameters<FileHandle['appendFile']>): Promise<void> {
    look(String(args[0]), this.fd);
    return append.apply(this, args);
  };
}

function isThat(line: unknown, step: string, state: string): boolean {
  if (typeof line !== 'string' || !line.startsWith('{')) return false;
  const said = JSON.parse(line) as { step?: string; state?: string };
  return said.step === step && said.state === state;
}

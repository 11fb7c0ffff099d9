/**
 * The hypervisors of a VM that moves with its memory, by a program of the operator's: it stops the CPUs, connects the VM at the destination to its
 * controller, and lets them go on at either end. One call at a time, each may come again.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { access, constants, stat } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { ConfigError, TransportError } from '../util/error.ts';
import type { DeviceFront } from './end.ts';

/** A call that has not ended by then is killed, and counts as failed. */
const CALL_MS = 10_000;
const SAID_BYTES_MAX = 4096;
const SHOWN_CHARS_MAX = 300;
/** One that has failed is listened to until its stderr ends, or that long: what it has started may keep it open. */
const LISTEN_MS = 500;

/** @public */
export class HypervisorProgram implements DeviceFront {
  readonly path: string;
  readonly #callMs: number;

  constructor(path: string, options: { readonly callMs?: number } = {}) {
    this.path = path;
    this.#callMs = options.callMs ?? CALL_MS;
  }

  /** @throws ConfigError if it cannot be run */
  async check(): Promise<void> {
    try {
      if ((await stat(this.path)).isDirectory()) throw Object.assign(new Error('A directory'), { code: 'EISDIR' });
      await access(this.path, constants.X_OK);
    } catch (cause) {
      const reason = (cause as NodeJS.ErrnoException).code;
      throw new ConfigError(`--hypervisor: ${this.path} cannot be run (${reason}); name a program or script`, {
        cause,
      });
    }
  }

  /** The CPUs at the source stand still, and what they have asked of the device has arrived there. */
  pause(): Promise<void> {
    return this.#call('pause');
  }

  /** The VM there has the controller of that end as its device; its CPUs stand still yet. */
  attach(end: 'source' | 'destination'): Promise<void> {
    return this.#call('attach', end);
  }

  resume(end: 'source' | 'destination'): Promise<void> {
    return this.#call('resume', end);
  }

  async close(): Promise<void> {}

  async #call(...args: readonly string[]): Promise<void> {
    const name = `${this.path} ${args.join(' ')}`;
    const { child, stderr } = started(this.path, name, args);
    let said = '';
    stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-SAID_BYTES_MAX);
    });
    const silent = new Promise<void>((resolve) => {
      stderr.once('close', resolve);
    });
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      killGroup(child);
    }, this.#callMs);
    try {
      const ended = await new Promise<string | undefined>((resolve, reject) => {
        child.once('error', (cause) => reject(notStarted(name, cause)));
        child.once('exit', (code, signal) => {
          resolve(code === 0 ? undefined : code === null ? `was ended by ${signal}` : `ended with ${code}`);
        });
      });
      if (!isLate && ended === undefined) return;
      await heard(silent);
      if (isLate) throw failure(`${name} took longer than ${this.#callMs} ms: it has to end soon, hosts wait`, said);
      throw failure(`${name} ${ended}`, said);
    } finally {
      clearTimeout(timer);
      // a child of it may have the other end still
      stderr.destroy();
    }
  }
}

function started(
  path: string,
  name: string,
  args: readonly string[],
): { readonly child: ChildProcess; readonly stderr: Readable } {
  try {
    // a group of its own: Ctrl-C is for us, and we let it end what it has begun
    const child = spawn(path, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
    return { child, stderr: child.stderr };
  } catch (cause) {
    throw notStarted(name, cause);
  }
}

function notStarted(name: string, cause: unknown): TransportError {
  const code = (cause as NodeJS.ErrnoException).code;
  return failure(`${name} cannot be run (${code ?? (cause as Error).message})`, '', cause);
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it has just ended
  }
}

async function heard(silent: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, LISTEN_MS);
  });
  await Promise.race([silent, late]);
  clearTimeout(timer);
}

/** Its last line, as what a terminal can be given: no escape sequences, nothing without end. */
function lastLine(said: string): string {
  const lines = said
    .split(/[\r\n]+/)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is taken out
    .map((line) => line.replace(/\x1b\[[0-9;?]*[@-~]|[\x00-\x1f\x7f-\x9f\ufffd]/g, '').trim())
    .filter((line) => line !== '');
  const last = lines.at(-1) ?? '';
  return last.length > SHOWN_CHARS_MAX ? `${last.slice(0, SHOWN_CHARS_MAX)}...` : last;
}

function failure(what: string, said: string, cause?: unknown): TransportError {
  const last = lastLine(said);
  return new TransportError('NVMEOF_ERR_HYPERVISOR', last === '' ? what : `${what}: ${last}`, { cause });
}

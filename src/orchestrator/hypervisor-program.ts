/**
 * The hypervisors of a VM that moves with its memory, by a program of the operator's: it stops the CPUs, connects the VM at the destination to its
 * controller, and lets them go on at either end. One call at a time, each may come again.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { ConfigError, TransportError } from '../util/error.ts';
import type { DeviceFront } from './end.ts';

/** A call that has not ended by then is killed, and counts as failed. */
const CALL_MS = 10_000;
const SAID_BYTES_MAX = 4096;

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
    // a group of its own: Ctrl-C is for us, and we let it end what it has begun
    const child = spawn(this.path, args, { detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-SAID_BYTES_MAX);
    });
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      killGroup(child);
    }, this.#callMs);
    try {
      const ended = await new Promise<string | undefined>((resolve, reject) => {
        child.once('error', reject);
        child.once('exit', (code, signal) => {
          resolve(code === 0 ? undefined : code === null ? `was ended by ${signal}` : `ended with ${code}`);
        });
      });
      if (isLate) throw failure(`${name} took longer than ${this.#callMs} ms: it has to end soon, hosts wait`, said);
      if (ended !== undefined) throw failure(`${name} ${ended}`, said);
    } catch (cause) {
      if (cause instanceof TransportError) throw cause;
      throw failure(`${name} cannot be run: ${(cause as Error).message}`, '', cause);
    } finally {
      clearTimeout(timer);
      // a child of it may have the other end still
      child.stderr.destroy();
    }
  }
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // it has just ended
  }
}

function failure(what: string, said: string, cause?: unknown): TransportError {
  const last = said.trim().split('\n').at(-1) ?? '';
  return new TransportError('NVMEOF_ERR_HYPERVISOR', last === '' ? what : `${what}: ${last}`, { cause });
}

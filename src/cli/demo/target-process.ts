/** A target of the demo, as a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { NvmeofError } from '../../util/error.ts';

/** For what hangs: a busy machine may take long to start a process. */
export const TIMEOUT_MS = 60_000;

export class TargetProcess {
  readonly #configPath: string;
  readonly #timeoutMs: number;
  readonly #onEvent = new Map<string, (event: Record<string, unknown>) => void>();
  #child: ChildProcess | undefined;

  constructor(configPath: string, timeoutMs: number = TIMEOUT_MS) {
    this.#configPath = configPath;
    this.#timeoutMs = timeoutMs;
  }

  /** @returns what it says when it is ready; if that fails, there is no process any more @throws NvmeofError NVMEOF_ERR_DEMO */
  async start(): Promise<Record<string, unknown>> {
    const main = new URL('../main.js', import.meta.url).pathname;
    const args = ['target', '--config', this.#configPath, '--output', 'json', '--log-level', 'error'];
    this.#child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
    const ready = this.event('ready');
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      const event = JSON.parse(line) as { event: string };
      this.#onEvent.get(event.event)?.(event);
    });
    try {
      return await ready;
    } catch (error) {
      await this.end('SIGKILL'); // or it would keep the demo from its end
      throw error;
    }
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** The next event of this name. @throws NvmeofError NVMEOF_ERR_DEMO if it does not come, or the target ends */
  async event(name: string): Promise<Record<string, unknown>> {
    const { promise, resolve, reject } = withResolvers<Record<string, unknown>>();
    const fail = (what: string): void => reject(new NvmeofError('NVMEOF_ERR_DEMO', `Demo: the target ${what}`));
    const onExit = (code: number | null): void => fail(`ended (${code})`);
    const timer = setTimeout(() => fail(`did not say '${name}' within ${this.#timeoutMs / 1000} s`), this.#timeoutMs);
    const child = this.#child;
    child?.once('exit', onExit);
    this.#onEvent.set(name, resolve);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      child?.off('exit', onExit);
    }
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  reload(): Promise<Record<string, unknown>> {
    const reloaded = this.event('reloaded');
    this.#child?.kill('SIGHUP');
    return reloaded;
  }
}

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
}

/** A TCP port that nothing uses now: a target is started on it again after a kill. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Runs `nvmeferry` as a user does: the compiled command in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** The package: tests run from `dist-test/test/support`. */
export const PACKAGE_ROOT: string = fileURLToPath(new URL('../../../', import.meta.url));
export const MAIN: string = `${PACKAGE_ROOT}dist/cli/main.js`;

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end. */
export async function cli(
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; uid?: number } = {},
): Promise<CliResult> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: options.cwd,
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, stdout, stderr };
}

interface TargetEvent {
  readonly event: string;
  readonly [key: string]: unknown;
}

/** `nvmeferry target --output json`, or `dpu`, and what it says. */
export class CliTarget {
  readonly #child: ChildProcess;
  readonly #events: TargetEvent[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  stderr = '';
  /** What it said when it was ready. */
  ready: TargetEvent | undefined;

  private constructor(args: readonly string[], cwd: string | undefined, verb: string) {
    this.#child = spawn(process.execPath, [MAIN, verb, '--output', 'json', ...args], {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => {
      this.#events.push(JSON.parse(line) as TargetEvent);
      this.#wake?.();
    });
    this.#child.on('close', () => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /** Starts it and waits until it is ready. */
  static async start(
    args: readonly string[],
    options: { cwd?: string; verb?: 'target' | 'dpu' | 'front' } = {},
  ): Promise<CliTarget> {
    const target = new CliTarget(args, options.cwd, options.verb ?? 'target');
    target.ready = await target.event('ready');
    return target;
  }

  /** Takes the next event of this name, waiting for it. */
  async event(name: string): Promise<TargetEvent> {
    for (;;) {
      const index = this.#events.findIndex(({ event }) => event === name);
      if (index >= 0) return this.#events.splice(index, 1)[0]!;
      if (this.#ended) throw new Error(`The target ended without '${name}': ${this.stderr}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Ends it. @returns its exit code, or null if a signal ended it */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    if (!this.#ended) {
      const closed = once(this.#child, 'close');
      this.#child.kill(signal);
      await closed;
    }
    return this.#child.exitCode;
  }
}

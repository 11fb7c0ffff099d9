/**
 * The product under test, started the way a user starts it: its command line, in processes of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TargetConfigInput } from '../../../src/config/types.ts';
import { projectRoot } from './paths.ts';

const cliPath: string = join(projectRoot, 'dist', 'cli', 'main.js');

// for what hangs: what does not has ended long before
const startTimeoutMs = 120_000;
const drainTimeoutMs = 60_000;
const keptOutputCharacters = 20_000;

const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** `nvmeferry target`, or `nvmeferry dpu`, with a configuration file. */
export class TargetProcess {
  readonly #folder: string = mkdtempSync(join(tmpdir(), 'nvmeferry-target-'));
  readonly #verb: string;
  #child: ChildProcess | undefined;
  #exited: Promise<unknown> = Promise.resolve();
  #output = '';

  private constructor(verb: string) {
    this.#verb = verb;
  }

  /** Starts a target; resolves when it says that it is ready. `configure` is told a folder for backing files. */
  static async start(
    configure: (folder: string) => TargetConfigInput,
    verb: 'target' | 'dpu' = 'target',
  ): Promise<TargetProcess> {
    const target = new TargetProcess(verb);
    target.#writeConfig(configure(target.#folder));
    try {
      await target.restart();
      return target;
    } catch (error) {
      await target.discard();
      throw error;
    }
  }

  /** Starts it (again), as its configuration file now is. */
  async restart(): Promise<void> {
    const args = [requiredCli(), this.#verb, '--config', this.#configFile, '--output', 'json'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    running.add(child);
    this.#exited = once(child, 'exit').then(() => running.delete(child));
    const ready = new Promise<boolean>((resolve) => {
      createInterface({ input: child.stdout! }).on('line', (line) => {
        this.#keep(line);
        if (isReadyEvent(line)) resolve(true);
      });
      void this.#exited.then(() => resolve(false));
    });
    child.stderr!.on('data', (chunk: Buffer) => this.#keep(chunk.toString()));
    const timeout = new AbortController();
    const inTime = await Promise.race([
      ready,
      sleep(startTimeoutMs, false, { signal: timeout.signal, ref: false }).catch(() => false),
    ]);
    timeout.abort();
    if (!inTime) throw new Error(`The target did not become ready:\n${this.#output}`);
  }

  /** Changes the configuration of the running target: SIGHUP. */
  reload(config: TargetConfigInput): void {
    this.#writeConfig(config);
    this.#child?.kill('SIGHUP');
  }

  /** Changes the configuration that the next `restart` reads. */
  configure(config: TargetConfigInput): void {
    this.#writeConfig(config);
  }

  /** kill -9. */
  async kill(): Promise<void> {
    this.#child?.kill('SIGKILL');
    await this.#exited;
  }

  /** SIGTERM: it must drain and exit with status 0. */
  async stop(): Promise<void> {
    const child = this.#child;
    child?.kill('SIGTERM');
    await Promise.race([this.#exited, sleep(drainTimeoutMs, undefined, { ref: false })]);
    const { exitCode, signalCode } = child ?? { exitCode: 0, signalCode: null };
    const output = this.#output;
    await this.discard();
    if (exitCode !== 0) throw new Error(`The target ended with ${exitCode ?? signalCode ?? 'nothing'}:\n${output}`);
  }

  /** Ends it somehow and forgets its files; for clean-up. */
  async discard(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** What it printed lately. */
  get output(): string {
    return this.#output;
  }

  get #configFile(): string {
    return join(this.#folder, 'target.json');
  }

  #writeConfig(config: TargetConfigInput): void {
    writeFileSync(this.#configFile, JSON.stringify(config, undefined, 2)); // JSON is YAML
  }

  #keep(text: string): void {
    this.#output = `${this.#output}${text.trimEnd()}\n`.slice(-keptOutputCharacters);
  }
}

function isReadyEvent(line: string): boolean {
  try {
    return (JSON.parse(line) as { event?: unknown }).event === 'ready';
  } catch {
    return false;
  }
}

export interface CliResult {
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** `nvmeferry VERB ...`, to its end. */
export async function runCli(args: readonly string[], options: { timeoutMs?: number } = {}): Promise<CliResult> {
  const child = spawn(process.execPath, [requiredCli(), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: options.timeoutMs ?? 180_000,
    killSignal: 'SIGKILL',
  });
  running.add(child);
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  running.delete(child);
  const said = Buffer.concat(stderr).toString();
  if (code === null)
    throw new Error(`nvmeferry ${args.join(' ')} was killed (${signal}), perhaps by its time-out:\n${said}`);
  return { code, stdout: Buffer.concat(stdout), stderr: said };
}

/** As `runCli` with `--output json`, for verbs that must succeed: what they print. */
export async function cliJson<T>(args: readonly string[], options: { timeoutMs?: number } = {}): Promise<T> {
  const { code, stdout, stderr } = await runCli([...args, '--output', 'json'], options);
  if (code !== 0) throw new Error(`nvmeferry ${args.join(' ')} ended with ${code}:\n${stdout}\n${stderr}`);
  return JSON.parse(stdout.toString()) as T;
}

function requiredCli(): string {
  if (!existsSync(cliPath)) throw new Error(`No ${cliPath}: run npm run build first`);
  return cliPath;
}

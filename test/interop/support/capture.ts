/**
 * Records what passes between host and controller on this machine's loopback interface, and has it dissected.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Dissection, type DissectOptions, dissect } from './dissect.ts';
import { installedPath } from './paths.ts';

const bufferMiB = 256;
const captureFile = 'capture.pcap';

export class Capture {
  readonly #options: DissectOptions;
  readonly #folder: string;
  readonly #dumpcap: ChildProcess;
  readonly #exited: Promise<unknown>;
  #messages = '';
  #stopped = false;

  private constructor(options: DissectOptions) {
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), 'nvmeferry-capture-'));
    const filter = options.ports.map((port) => `tcp port ${port}`).join(' or ');
    const args = ['-q', '-P', '-i', 'lo', '-f', filter, '-B', String(bufferMiB), '-w', this.#file];
    this.#dumpcap = spawn(installedPath('bin', 'dumpcap'), args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#dumpcap.stderr?.on('data', (chunk: Buffer) => {
      this.#messages += chunk.toString();
    });
    this.#exited = once(this.#dumpcap, 'close');
  }

  /** Starts recording these ports; resolves when nothing can be missed any more. Needs root (or CAP_NET_RAW). */
  static async start(options: DissectOptions): Promise<Capture> {
    const capture = new Capture(options);
    const deadline = Date.now() + 60_000;
    while (!capture.#messages.includes('File: ')) {
      if (capture.#dumpcap.exitCode !== null || Date.now() > deadline) {
        await capture.discard();
        throw new Error(`Cannot capture on the loopback interface: ${capture.#messages}`);
      }
      await sleep(20);
    }
    return capture;
  }

  /**
   * Stops and dissects. Throws when the capture is no evidence: nothing was recorded, or packets were lost. A capture
   * with violations is kept, for a look at it, unless they were made on purpose.
   */
  async stop({ keep = true }: { keep?: boolean } = {}): Promise<Dissection> {
    this.#stopped = true;
    try {
      await sleep(800); // dumpcap gets packets in batches, up to 250 ms late
      this.#dumpcap.kill('SIGINT');
      await this.#exited;
      const totals = /Packets received\/dropped on interface .*: (\d+)\/(\d+)/.exec(this.#messages);
      if (!totals) throw new Error(`dumpcap did not finish: ${this.#messages}`);
      if (totals[2] !== '0') throw new Error(`The capture lost ${totals[2]} packets`);
    } catch (error) {
      await this.#remove();
      throw error;
    }
    return dissectAndRemove(this.#folder, this.#options, keep);
  }

  /** Stops and forgets, unless it was stopped before. */
  async discard(): Promise<void> {
    if (!this.#stopped) await this.#remove();
  }

  async #remove(): Promise<void> {
    this.#stopped = true;
    this.#dumpcap.kill('SIGKILL');
    await this.#exited;
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #file(): string {
    return join(this.#folder, captureFile);
  }
}

/** Dissects what was recorded elsewhere, such as in a guest. */
export async function dissectBytes(
  capture: Uint8Array,
  options: DissectOptions,
  { keep = true }: { keep?: boolean } = {},
): Promise<Dissection> {
  const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-capture-'));
  writeFileSync(join(folder, captureFile), capture);
  return dissectAndRemove(folder, options, keep);
}

/** A capture without any PDU proves nothing and is an error. */
async function dissectAndRemove(folder: string, options: DissectOptions, keep: boolean): Promise<Dissection> {
  const file = join(folder, captureFile);
  const found = await dissect(file, options);
  if (keep && found.violations.length > 0) return { ...found, violations: [...found.violations, `kept as ${file}`] };
  rmSync(folder, { recursive: true });
  if (found.pduCount === 0) throw new Error('The capture has no NVMe/TCP PDU');
  return found;
}

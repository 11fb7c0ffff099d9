/** `nvmeferry migrate --output json` as a process that may be killed, and what it says. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { MAIN } from './cli.ts';
import { KILL_AT, type KillAt } from './kill-at.ts';

export interface MigrateEvent {
  readonly event: string;
  readonly step?: string;
  readonly state?: string;
  readonly outcome?: string;
  readonly [key: string]: unknown;
}

export interface MigrateProcessOptions {
  readonly onEvent?: ((event: MigrateEvent) => void) | undefined;
  /** At exactly that line somebody is killed. */
  readonly killAt?: KillAt | undefined;
}

const PRELOAD = new URL('./kill-at.js', import.meta.url).href;

export class MigrateProcess {
  readonly child: ChildProcess;
  /** Its exit code; null: a signal ended it. */
  readonly ended: Promise<number | null>;
  readonly events: MigrateEvent[] = [];
  stderr = '';

  constructor(args: readonly string[], { onEvent, killAt }: MigrateProcessOptions = {}) {
    const preload = killAt === undefined ? [] : ['--import', PRELOAD];
    const env = killAt === undefined ? process.env : { ...process.env, [KILL_AT]: JSON.stringify(killAt) };
    this.child = spawn(process.execPath, [...preload, MAIN, 'migrate', '--output', 'json', ...args], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      const event = JSON.parse(line) as MigrateEvent;
      this.events.push(event);
      onEvent?.(event);
    });
    this.ended = once(this.child, 'close').then(([code]) => code as number | null);
  }

  /** Of the report, if there was one. */
  get outcome(): string | undefined {
    return this.report?.outcome;
  }

  get report(): MigrateEvent | undefined {
    return this.events.findLast(({ event }) => event === 'report');
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }
}

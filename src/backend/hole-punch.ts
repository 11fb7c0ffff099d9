/**
 * Punches holes into an open file where the native addon is missing. Node has no fallocate(2), so a small shell, started once per file, runs util-linux `fallocate` for each
 * range: the file reaches it as an inherited descriptor, and forking that shell stalls no data path. Slow (about
 * 1.2 ms per range on ext4 and tmpfs, 256 ranges in 0.3 s; more where a lot of data goes), but real.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';

/** Reads `offset length` lines; answers each with the exit status of fallocate. Its first answer is the probe's. */
const SCRIPT =
  'while read -r offset length; do fallocate --punch-hole --offset "$offset" --length "$length" /proc/self/fd/3 2>/dev/null; echo $?; done';

/** Ranges handed to the shell at once; the others wait here, where neighbours are joined. */
const BATCH_MAX = 64;

export interface HolePunch {
  /** Bytes `offset` to `offset + length` read as zero, their room given back, when `done(true)` comes. `done(false)`: nothing is known. */
  punch(offset: number, length: number, done: (ok: boolean) => void): void;
  /** They read as zero and keep their room when `done(true)` comes; absent, or `done(false)`: zeroes have to be written. */
  zero?(offset: number, length: number, done: (ok: boolean) => void): void;
  /** False: what was punched may read as anything (a device's discard). */
  readonly readsZero: boolean;
  /** Below this it is quicker to write zeroes. */
  readonly bytesMin: number;
  /** Ends the helper; call when nothing is outstanding. */
  close(): Promise<void>;
}

interface Waiting {
  readonly offset: number;
  readonly length: number;
  readonly done: (ok: boolean) => void;
}

interface Range {
  offset: number;
  end: number;
  readonly waiting: Waiting[];
}

class ShellHolePunch implements HolePunch {
  readonly readsZero = true;
  /** A range takes a process. */
  readonly bytesMin: number = 64 * 1024;
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #waiting: Waiting[] = [];
  /** Sent, not yet answered, in order. */
  #sent: Range[] = [];
  #partial = '';
  #dead = false;
  /** Why there is no shell. */
  failure: NodeJS.ErrnoException | undefined;

  constructor(fd: number) {
    // detached: a Ctrl-C at the terminal must not end it while the target drains; the end of its stdin does
    this.#child = spawn('sh', ['-c', SCRIPT], { stdio: ['pipe', 'pipe', 'ignore', fd], cwd: '/', detached: true });
    const { stdin, stdout } = this.#pipes();
    this.#exited = new Promise((resolve) => {
      this.#child.on('close', () => {
        this.#fail();
        resolve();
      });
      this.#child.on('error', (error) => {
        this.failure = error;
        this.#fail();
        resolve();
      });
    });
    if (stdin === undefined || stdout === undefined) {
      // no descriptors were left for the pipes; 'error' follows
      this.#dead = true;
      return;
    }
    stdin.on('error', () => this.#fail());
    stdout.on('error', () => this.#fail());
    stdout.setEncoding('latin1');
    stdout.on('data', (text: string) => this.#answer(text));
  }

  #pipes(): { stdin: Writable | undefined; stdout: Readable | undefined } {
    return this.#child as unknown as { stdin: Writable | undefined; stdout: Readable | undefined };
  }

  punch(offset: number, length: number, done: (ok: boolean) => void): void {
    if (this.#dead) {
      queueMicrotask(() => done(false));
      return;
    }
    this.#waiting.push({ offset, length, done });
    // ranges of one turn are joined before they go
    if (this.#waiting.length === 1 && this.#sent.length === 0) queueMicrotask(() => this.#send());
  }

  #send(): void {
    if (this.#dead || this.#sent.length > 0 || this.#waiting.length === 0) return;
    const batch = this.#waiting.splice(0, BATCH_MAX).sort((a, b) => a.offset - b.offset);
    let last: Range | undefined;
    let lines = '';
    for (const waiting of batch) {
      const end = waiting.offset + waiting.length;
      if (last !== undefined && waiting.offset <= last.end) {
        last.end = Math.max(last.end, end);
        last.waiting.push(waiting);
        continue;
      }
      last = { offset: waiting.offset, end, waiting: [waiting] };
      this.#sent.push(last);
    }
    for (const range of this.#sent) lines += `${range.offset} ${range.end - range.offset}\n`;
    this.#pipes().stdin!.write(lines);
  }

  #answer(text: string): void {
    const lines = (this.#partial + text).split('\n');
    this.#partial = lines.pop() ?? '';
    for (const line of lines) {
      const range = this.#sent.shift();
      if (range === undefined) continue;
      for (const waiting of range.waiting) waiting.done(line === '0');
    }
    if (this.#sent.length === 0) this.#send();
  }

  #fail(): void {
    if (this.#dead) return;
    this.#dead = true;
    const lost = [...this.#sent.flatMap((range) => range.waiting), ...this.#waiting];
    this.#sent = [];
    this.#waiting = [];
    for (const waiting of lost) waiting.done(false);
  }

  async close(): Promise<void> {
    this.#pipes().stdin?.end();
    await this.#exited;
  }
}

/**
 * The helper for the file open as `fd`, or undefined where holes cannot be punched (no `fallocate` program, or a file system without holes).
 * It asks by a range past the end, which changes nothing.
 * @param sizeBytes the size of the file
 * @throws the error of the system if no descriptor was left for it
 */
export async function openHolePunch(fd: number, sizeBytes: number): Promise<HolePunch | undefined> {
  const punch = new ShellHolePunch(fd);
  const ok = await new Promise<boolean>((resolve) => punch.punch(sizeBytes, 4096, resolve));
  if (ok) return punch;
  await punch.close();
  const { failure } = punch;
  if (failure?.code === 'EMFILE' || failure?.code === 'ENFILE') throw failure;
  return undefined;
}

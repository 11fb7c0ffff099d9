/**
 * The steps of a migration, written down before they are taken: one JSON line each, durable before `note` resolves. Who finds a journal knows how
 * far another has come, and whether to go on or to undo.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import PQueue from 'p-queue';
import { lockFile } from '../native/file-lock.ts';
import { NvmeofError } from '../util/error.ts';

/** Grows with every change that an older reader would misunderstand. */
const VERSION = 1;

/** A step is begun (what it does may have happened, or not), or known to be done. */
export interface JournalEntry {
  readonly step: string;
  readonly state: 'begun' | 'done' | 'undone';
  /** What is needed to take the step again, or back. */
  readonly detail?: unknown;
}

/** What the engine needs of a journal: a file, or a model of one that crashes. One engine at a time has it. */
export interface MoveJournal {
  /** In the order in which they were noted, those of earlier processes first. */
  readonly entries: readonly JournalEntry[];
  /** Durable when it resolves; when it fails, it may be, and who reads the journal later finds out. */
  note(entry: JournalEntry): Promise<void>;
}

interface Line extends JournalEntry {
  readonly version: number;
}

export class Journal implements MoveJournal {
  readonly path: string;
  readonly entries: JournalEntry[];
  #file: FileHandle | undefined;
  /** Of whole lines. */
  #bytes: number;
  /** The note before failed: part of its line may be behind the whole ones. */
  #isTorn = false;
  /** Both ends of a rollback note what they have done: one line after the other. */
  readonly #notes = new PQueue({ concurrency: 1 });

  private constructor(path: string, file: FileHandle, entries: JournalEntry[], bytes: number) {
    this.path = path;
    this.#file = file;
    this.entries = entries;
    this.#bytes = bytes;
  }

  /**
   * Opens a journal, or makes one, and keeps every other process from it until it is closed. A last line that is not whole was never durable:
   * nothing was done on its account, and it is cut off. What is there is durable when this returns.
   * @throws NvmeofError NVMEOF_ERR_JOURNAL
   */
  static async open(path: string): Promise<Journal> {
    let file: FileHandle;
    try {
      file = await open(path, 'a+', 0o600);
    } catch (error) {
      throw journalError(path, 'cannot be opened: choose a path that this user may write', error);
    }
    try {
      if ((await lockFile(file.fd, false)) === 'held') {
        throw journalError(path, 'is in use by another orchestrator: wait for its end, or stop it');
      }
      const text = await file.readFile('utf8');
      const whole = text.slice(0, text.lastIndexOf('\n') + 1);
      const entries = whole
        .split('\n')
        .slice(0, -1)
        .map((line, i) => parse(path, line, i + 1));
      const bytes = Buffer.byteLength(whole);
      if (whole.length < text.length) await file.truncate(bytes);
      await file.datasync();
      await syncDirectory(dirname(path));
      return new Journal(path, file, entries, bytes);
    } catch (error) {
      await file.close();
      throw error instanceof NvmeofError ? error : journalError(path, 'cannot be read', error);
    }
  }

  /** Durable when it resolves; when it fails, the entry may be there until the next one is noted. @throws NvmeofError NVMEOF_ERR_JOURNAL */
  note(entry: JournalEntry): Promise<void> {
    return this.#notes.add(() => this.#append(entry));
  }

  async #append(entry: JournalEntry): Promise<void> {
    if (this.#file === undefined) throw journalError(this.path, 'is closed');
    const line: Line = { version: VERSION, ...entry };
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    try {
      if (this.#isTorn) await this.#file.truncate(this.#bytes);
      this.#isTorn = true;
      await this.#file.appendFile(bytes);
      await this.#file.datasync();
      this.#isTorn = false;
      this.#bytes += bytes.length;
    } catch (error) {
      throw journalError(this.path, 'cannot be written: see that there is space', error);
    }
    this.entries.push(entry);
  }

  /** Forgets all entries, those of a move that is over. @throws NvmeofError NVMEOF_ERR_JOURNAL */
  async clear(): Promise<void> {
    if (this.#file === undefined) throw journalError(this.path, 'is closed');
    try {
      await this.#file.truncate(0);
      this.#bytes = 0;
      this.#isTorn = false;
      await this.#file.datasync();
    } catch (error) {
      throw journalError(this.path, 'cannot be written', error);
    }
    this.entries.length = 0;
  }

  /** The last entry of `step`. */
  last(step: string): JournalEntry | undefined {
    return this.entries.findLast((entry) => entry.step === step);
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await this.#notes.onIdle();
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }
}

function parse(path: string, text: string, number: number): JournalEntry {
  let line: Partial<Line>;
  try {
    line = JSON.parse(text) as Partial<Line>;
  } catch (error) {
    throw journalError(path, `has a line ${number} that is no JSON: it was changed by another program`, error);
  }
  if (line.version !== VERSION) {
    throw journalError(
      path,
      `has version ${line.version}, this program knows ${VERSION}: use the program that wrote it`,
    );
  }
  const { step, state, detail } = line;
  if (typeof step !== 'string' || (state !== 'begun' && state !== 'done' && state !== 'undone')) {
    throw journalError(path, `has a line ${number} without a step or its state: it was changed by another program`);
  }
  return detail === undefined ? { step, state } : { step, state, detail };
}

/** A new file's name is durable only then. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function journalError(path: string, what: string, cause?: unknown): NvmeofError {
  const reason = cause instanceof Error ? ` (${cause.message})` : '';
  return new NvmeofError('NVMEOF_ERR_JOURNAL', `Journal ${path} ${what}${reason}`, { cause });
}

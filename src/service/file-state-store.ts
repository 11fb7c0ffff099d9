/** A StateStore in a directory: one JSON file per name, replaced by rename, durable before `save` resolves. */
import { mkdirSync, readFileSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import PQueue from 'p-queue';
import type { StateStore } from '../target/state-store.ts';
import { NvmeofError } from '../util/error.ts';

/** @public */
export class FileStateStore implements StateStore {
  readonly #directory: string;
  /** One save after the other, so that the last one called is the one that stays. */
  readonly #saves = new PQueue({ concurrency: 1 });

  /** Makes the directory if need be. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  constructor(directory: string) {
    this.#directory = directory;
    try {
      mkdirSync(directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw storeError(directory, 'cannot be made: choose a directory that this user may write', error);
    }
  }

  load(name: string): unknown {
    const path = this.#path(name);
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw storeError(path, 'cannot be read', error);
    }
    try {
      return JSON.parse(text) as unknown;
    } catch (error) {
      throw storeError(path, 'is not JSON: restore it, or remove it to start without what it kept', error);
    }
  }

  async save(name: string, value: unknown): Promise<void> {
    // the value of now, whatever becomes of the object
    const text = value === undefined ? undefined : `${JSON.stringify(value)}\n`;
    await this.#saves.add(() => this.#replace(this.#path(name), text));
  }

  async #replace(path: string, text: string | undefined): Promise<void> {
    try {
      if (text === undefined) {
        await rm(path, { force: true });
      } else {
        await writeDurably(`${path}.new`, text);
        await rename(`${path}.new`, path);
      }
      await syncDirectory(this.#directory);
    } catch (error) {
      throw storeError(path, 'cannot be saved: see that there is space and that this user may write', error);
    }
  }

  #path(name: string): string {
    return join(this.#directory, `${encodeURIComponent(name)}.json`);
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  const file = await open(path, 'w', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The rename itself is durable only then. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

function storeError(path: string, what: string, cause: unknown): NvmeofError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new NvmeofError('NVMEOF_ERR_STATE_STORE', `State ${path} ${what} (${reason})`, { cause });
}

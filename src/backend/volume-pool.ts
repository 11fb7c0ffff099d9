/**
 * Where Namespace Management gets its blocks from: a pool makes, opens and destroys volumes. A memory pool forgets with the process; a file pool
 * keeps each volume as a file of its own in one directory.
 */
import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError } from '../util/error.ts';
import type { BlockBackend } from './block-backend.ts';
import { type OpenFileDeps, openFileBackend } from './file-open.ts';
import { MemoryBackend } from './memory.ts';

const BLOCK_SIZE_MIN = 512;

/** What a volume is made from, and what has to be remembered to open it again. */
export interface VolumeSpec {
  /** Of the namespace: 8-4-4-4-12 hex digits. It names the file. */
  readonly uuid: string;
  readonly blockSize: number;
  readonly sizeBytes: number;
}

/** @public */
export interface VolumePool {
  readonly kind: string;
  /** Bytes that the sizes of all its volumes may add up to. */
  readonly capacityBytes: number;
  /** Volumes outlive the process: whoever made them must remember their specs. */
  readonly persistent: boolean;
  /** @throws an error; nothing is left of the volume then */
  create(spec: VolumeSpec): Promise<BlockBackend>;
  /** @throws ConfigError with the remedy, if it is not there or not as it was */
  open(spec: VolumeSpec): Promise<BlockBackend>;
  /** Removes the volume, which may be open still. Idempotent. @throws an error if it stays */
  destroy(uuid: string): Promise<void>;
}

/** @public */
export class MemoryVolumePool implements VolumePool {
  readonly kind = 'memory';
  readonly capacityBytes: number;
  readonly persistent = false;

  constructor(options: { capacityBytes: number }) {
    this.capacityBytes = options.capacityBytes;
  }

  async create({ blockSize, sizeBytes }: VolumeSpec): Promise<BlockBackend> {
    return new MemoryBackend({ blockSize, blockCount: sizeBytes / blockSize });
  }

  open(spec: VolumeSpec): Promise<BlockBackend> {
    return this.create(spec);
  }

  async destroy(): Promise<void> {}
}

/** @public */
export class FileVolumePool implements VolumePool {
  readonly kind = 'file';
  readonly capacityBytes: number;
  readonly persistent = true;
  readonly #directory: string;
  readonly #deps: OpenFileDeps;

  /** @param options.directory must exist */
  constructor(options: { directory: string; capacityBytes: number }, deps: OpenFileDeps = {}) {
    this.#directory = options.directory;
    this.capacityBytes = options.capacityBytes;
    this.#deps = deps;
  }

  #path(uuid: string): string {
    return join(this.#directory, `${uuid}.volume`);
  }

  async create(spec: VolumeSpec): Promise<BlockBackend> {
    return this.#openFile(this.#path(spec.uuid), spec);
  }

  async open(spec: VolumeSpec): Promise<BlockBackend> {
    const path = this.#path(spec.uuid);
    const found = await stat(path).catch(() => undefined);
    if (found === undefined) {
      throw new ConfigError(
        `${path}: the file of a namespace that a host created is missing; restore it (is its file system mounted?), or remove the ` +
          `namespace from the state directory`,
      );
    }
    return this.#openFile(path, spec);
  }

  /** A Format may have left the file with a size that is no multiple of its block size. */
  async #openFile(path: string, { sizeBytes, blockSize }: VolumeSpec): Promise<BlockBackend> {
    const backend = await openFileBackend({ path, sizeBytes, blockSize: BLOCK_SIZE_MIN }, this.#deps);
    backend.setBlockSize!(blockSize);
    return backend;
  }

  async destroy(uuid: string): Promise<void> {
    await rm(this.#path(uuid), { force: true });
  }
}

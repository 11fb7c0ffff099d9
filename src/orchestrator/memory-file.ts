/**
 * A file that is a VM's memory: in tmpfs, a memfd, or in hugetlbfs. It is read and written by position, so a file that is cut short or a full file system is
 * an error and no signal, nothing of it stays in this process, and a hole that is read stays one. Only hugetlbfs takes no write(2): such a file is mapped
 * to be written, and what that needs of the pool of huge pages is set aside at once. This process touches no mapped byte itself: the kernel does, which says
 * of a page that is not there any more that the address is bad.
 */
import { closeSync, constants, fstatSync, readSync, type Stats, writeSync } from 'node:fs';
import { type FileHandle, open, statfs } from 'node:fs/promises';
import type { NativeBinding } from '../native/binding.ts';
import { requireNative } from '../native/load.ts';
import { createMemfd, MappedMemory } from '../native/mapped-memory.ts';
import { errnoName } from '../native/native-error.ts';
import { ConfigError, NvmeofError } from '../util/error.ts';
import type { MemoryRun } from './end.ts';

/** f_type of statfs(2). */
const HUGETLBFS_MAGIC = 0x958458f6;
/** Of one mapping; a multiple of every size of huge pages. */
const WINDOW_BYTES = 2 ** 30;
/** What is stored in a mapping goes through a file of that size. */
const RELAY_BYTES = 1 << 20;

interface Window {
  readonly offsetBytes: number;
  readonly memory: MappedMemory;
  readonly bytes: Uint8Array;
}

export class MemoryFile {
  readonly path: string;
  readonly #handle: FileHandle;
  readonly stats: Stats;
  /** Of hugetlbfs; undefined: any other file. */
  readonly #hugePageBytes: number | undefined;
  readonly #binding: NativeBinding;
  #windows: readonly Window[] = [];
  /** From where the kernel stores in the mappings. */
  #relay: number | undefined;

  private constructor(path: string, handle: FileHandle, stats: Stats, hugePageBytes: number | undefined) {
    this.path = path;
    this.#handle = handle;
    this.stats = stats;
    this.#hugePageBytes = hugePageBytes;
    this.#binding = requireNative('Memory of a VM');
  }

  /** @throws ConfigError, NativeError without the addon */
  static async open(path: string, use: 'read' | 'write'): Promise<MemoryFile> {
    requireNative('Memory of a VM');
    const flags = use === 'read' ? constants.O_RDONLY : constants.O_RDWR;
    // a pipe would be waited for
    const handle = await opened(path, flags | constants.O_NONBLOCK | constants.O_NOCTTY);
    try {
      const stats = await handle.stat();
      if (!stats.isFile())
        throw new ConfigError(`--memory: ${path} is no file; a VM's memory is one in /dev/shm or hugetlbfs`);
      const system = await statfs(`/proc/self/fd/${handle.fd}`);
      return new MemoryFile(path, handle, stats, system.type === HUGETLBFS_MAGIC ? system.bsize : undefined);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.stats.size;
  }

  isSame({ stats }: MemoryFile): boolean {
    return this.stats.dev === stats.dev && this.stats.ino === stats.ino;
  }

  /** Before the first `write` to that part. @throws ConfigError */
  prepare(offsetBytes: number, lengthBytes: number): void {
    const page = this.#hugePageBytes;
    if (page === undefined) return;
    this.#relay ??= createMemfd({ name: 'nvmeferry-relay', lengthBytes: RELAY_BYTES });
    const windows = [...this.#windows];
    this.#windows = windows;
    const end = offsetBytes + lengthBytes;
    for (let at = Math.floor(offsetBytes / page) * page; at < end; at += WINDOW_BYTES) {
      // to the end of a huge page: less is mapped as that all the same
      const length = Math.min(WINDOW_BYTES, Math.ceil(end / page) * page - at);
      const memory = this.#mapped(at, Math.min(length, this.sizeBytes - at), page);
      windows.push({ offsetBytes: at, memory, bytes: new Uint8Array(memory.buffer) });
    }
  }

  #mapped(offsetBytes: number, lengthBytes: number, page: number): MappedMemory {
    try {
      return MappedMemory.map({ fd: this.#handle.fd, offsetBytes, lengthBytes });
    } catch (cause) {
      const reason = (cause as { errno?: string }).errno ?? (cause as Error).message;
      const remedy =
        reason === 'ENOMEM'
          ? `it needs ${Math.ceil(lengthBytes / page)} free huge pages of ${page / 1024} KiB: raise vm.nr_hugepages there`
          : 'hugetlbfs takes no write(2), so it has to be';
      throw new ConfigError(`--memory: ${this.path} cannot be mapped (${reason}); ${remedy}`, { cause });
    }
  }

  /**
   * Whoever has it may cut it short, and what is behind its end would look as a hole does.
   * @throws NvmeofError NVMEOF_ERR_MEMORY
   */
  mustReach(endBytes: number): void {
    const { size } = fstatSync(this.#handle.fd);
    if (size >= endBytes) return;
    const remedy = 'nobody may cut it short while the VM moves';
    const message = `Memory of the VM, ${this.path}, has ${size} bytes now, ${endBytes} are needed: ${remedy}`;
    throw new NvmeofError('NVMEOF_ERR_MEMORY', message);
  }

  /** The first byte at or after `atBytes` that is no hole; Infinity: there is none. A file system that cannot tell has data everywhere. */
  dataFrom(atBytes: number): number {
    const found = this.#binding.seek(this.#handle.fd, atBytes, false);
    if (found >= 0) return found;
    return errnoName(found) === 'ENXIO' ? Number.POSITIVE_INFINITY : atBytes;
  }

  /** What is no hole between the two, in ascending order. It may take long: a page at a time is looked at. */
  *dataRuns(startBytes: number, endBytes: number): Generator<MemoryRun> {
    for (let at = startBytes; at < endBytes; ) {
      const address = this.dataFrom(at);
      if (address >= endBytes) return;
      const hole = this.#binding.seek(this.#handle.fd, address, true);
      at = hole > address ? Math.min(hole, endBytes) : endBytes;
      yield { address, lengthBytes: at - address };
    }
  }

  /** Fills `into`. @throws NvmeofError NVMEOF_ERR_MEMORY */
  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length; ) {
      let bytesRead: number;
      try {
        ({ bytesRead } = await this.#handle.read(into, done, into.length - done, offsetBytes + done));
      } catch (cause) {
        throw this.#failure('read', (cause as NodeJS.ErrnoException).code, cause);
      }
      if (bytesRead === 0) {
        this.mustReach(offsetBytes + into.length);
        throw this.#failure('read', `it ended at ${offsetBytes + done}`);
      }
      done += bytesRead;
    }
  }

  /** @throws NvmeofError NVMEOF_ERR_MEMORY */
  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    if (this.#hugePageBytes !== undefined) {
      this.#store(offsetBytes, from);
      return;
    }
    for (let done = 0; done < from.length; ) {
      try {
        const { bytesWritten } = await this.#handle.write(from, done, from.length - done, offsetBytes + done);
        done += bytesWritten;
      } catch (cause) {
        const code = (cause as NodeJS.ErrnoException).code;
        throw this.#failure('written', code === 'ENOSPC' ? `${code}, make room there` : code, cause);
      }
    }
  }

  /** By read(2) into the mapping: a store of our own to a page that was cut off would end this process (SIGBUS). */
  #store(offsetBytes: number, from: Uint8Array): void {
    for (let done = 0; done < from.length; ) {
      const at = offsetBytes + done;
      const window = this.#windows.find((each) => at >= each.offsetBytes && at < each.offsetBytes + each.bytes.length);
      if (window === undefined) throw this.#failure('written', `nothing is mapped at ${at}`);
      const start = at - window.offsetBytes;
      const length = Math.min(from.length - done, window.bytes.length - start, RELAY_BYTES);
      try {
        const relayed = writeSync(this.#relay!, from, done, length, 0);
        done += readSync(this.#relay!, window.bytes, start, relayed, 0);
      } catch (cause) {
        this.mustReach(at + length);
        throw this.#failure('written', (cause as NodeJS.ErrnoException).code, cause);
      }
    }
  }

  #failure(what: string, reason: string | undefined, cause?: unknown): NvmeofError {
    const message = `Memory of the VM, ${this.path}, cannot be ${what} (${reason ?? (cause as Error).message})`;
    return new NvmeofError('NVMEOF_ERR_MEMORY', message, { cause });
  }

  /** Idempotent. */
  async close(): Promise<void> {
    const windows = this.#windows;
    this.#windows = [];
    await Promise.all(windows.map(({ memory }) => memory.unmap()));
    const relay = this.#relay;
    this.#relay = undefined;
    if (relay !== undefined) closeSync(relay);
    if (this.#handle.fd >= 0) await this.#handle.close();
  }
}

async function opened(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code;
    const remedy = 'name the file that the hypervisor shares there, such as /dev/shm/vm0';
    throw new ConfigError(`--memory: ${path} cannot be opened (${reason}); ${remedy}`, { cause });
  }
}

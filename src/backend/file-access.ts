/** How an open file's bytes are reached: by the native I/O engine where there is one, else by node:fs; with or without the page cache. */
import fs from 'node:fs';
import type { IoEngine } from '../native/io-engine.ts';
import { nativeBinding, requireNative } from '../native/load.ts';
import { MappedMemory } from '../native/mapped-memory.ts';
import { errnoName } from '../native/native-error.ts';
import { leaseThreadEngine } from '../native/thread-engine.ts';
import { ConfigError } from '../util/error.ts';
import { DirectFileCalls, EngineFileCalls, SLAB_BYTES } from './engine-file-calls.ts';
import { deviceHolePunch, openFileHolePunch } from './engine-hole-punch.ts';
import type { FileBackendOptions, FileCalls } from './file.ts';
import type { OpenFileDeps } from './file-open.ts';
import { type HolePunch, openHolePunch } from './hole-punch.ts';
import { nextAllocatedOf } from './next-allocated.ts';

/** Calls in flight of a file past the page cache: one slab each. */
const DIRECT_IN_FLIGHT_MAX = 64;
/** File system type of a tmpfs, statfs(2). */
const TMPFS_MAGIC = 0x0102_1994;

export interface FileAccessOptions {
  readonly path: string;
  readonly blockSize: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly direct?: boolean | undefined;
  /** A block device. */
  readonly device: boolean;
}

/** What a FileBackend is made of; `release` gives it back. */
export type FileAccess = Pick<
  FileBackendOptions,
  'holePunch' | 'calls' | 'inFlightMax' | 'fixedBlockSize' | 'allocatedBytes' | 'nextAllocated' | 'deviceBytes'
> & { readonly release: () => Promise<void> };

/** @throws ConfigError, NativeError */
export async function openFileAccess(fd: number, options: FileAccessOptions, deps: OpenFileDeps): Promise<FileAccess> {
  const lease = deps.calls === undefined ? leaseThreadEngine(deps.engine) : undefined;
  if (lease === undefined && (options.direct === true || options.device)) {
    const what = options.device ? 'a block device' : 'direct I/O';
    requireNative(`${options.path}: ${what}`);
    throw new ConfigError(`${options.path}: ${what} needs an I/O engine; choose auto, io_uring or thread-pool`);
  }
  let memory: MappedMemory | undefined;
  let direct: DirectFileCalls | undefined;
  const release = async (): Promise<void> => {
    direct?.release();
    await memory?.unmap();
    lease?.engine.unregisterFile(fd);
    lease?.release();
  };
  try {
    let calls: FileCalls | undefined = deps.calls;
    if (lease !== undefined) {
      lease.engine.registerFile(fd);
      if (options.direct === true) {
        memory = MappedMemory.map({ lengthBytes: DIRECT_IN_FLIGHT_MAX * SLAB_BYTES });
        startDirect(fd, options, memory);
        direct = new DirectFileCalls(lease.engine, memory, options.blockSize);
      }
      if (inMemory(options)) lease.engine.performInline(fd);
      calls = direct ?? new EngineFileCalls(lease.engine);
    }
    const holePunch =
      options.readOnly || deps.holePunch === false ? undefined : await punchOf(lease?.engine, fd, options);
    return {
      calls,
      holePunch,
      inFlightMax: direct === undefined ? undefined : DIRECT_IN_FLIGHT_MAX,
      fixedBlockSize: direct !== undefined || options.device,
      ...whatIsThere(fd, options),
      release,
    };
  } catch (error) {
    await release();
    throw error;
  }
}

/** On a tmpfs. What was swapped out comes back while the event loop waits, as with backend `memory`. */
function inMemory({ path, device }: FileAccessOptions): boolean {
  return !device && fs.statfsSync(path).type === TMPFS_MAGIC;
}

function punchOf(
  engine: IoEngine | undefined,
  fd: number,
  options: FileAccessOptions,
): Promise<HolePunch | undefined> | HolePunch {
  if (engine === undefined) return openHolePunch(fd, options.sizeBytes);
  return options.device ? deviceHolePunch(engine, fd) : openFileHolePunch(engine, fd, options.sizeBytes);
}

function whatIsThere(
  fd: number,
  { device }: FileAccessOptions,
): Pick<FileAccess, 'allocatedBytes' | 'nextAllocated' | 'deviceBytes'> {
  const binding = nativeBinding();
  if (binding === undefined) return {};
  if (device) {
    return {
      allocatedBytes: () => undefined, // a device does not tell
      deviceBytes: () => {
        const found = binding.blockDevice(fd);
        return typeof found === 'number' ? 0 : found.sizeBytes;
      },
    };
  }
  // a file system without holes says that all is data, which is true
  return { nextAllocated: (unit, from, end) => nextAllocatedOf(binding, fd, unit, from, end) };
}

/** O_DIRECT is set, and one block is read to see whether offsets of the block size will do. */
function startDirect(fd: number, options: FileAccessOptions, memory: MappedMemory): void {
  const result = requireNative(options.path).setDirect(fd, true);
  if (result < 0)
    throw new ConfigError(
      `${options.path}: its file system has no direct I/O (${errnoName(result)}); serve it without`,
    );
  const last = options.sizeBytes - options.blockSize;
  try {
    fs.readSync(fd, new Uint8Array(memory.buffer, 0, options.blockSize), 0, options.blockSize, last);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EINVAL') throw cause;
    throw new ConfigError(
      `${options.path}: direct I/O needs larger blocks than ${options.blockSize} bytes there; use block size 4096, or serve it without`,
      { cause },
    );
  }
}

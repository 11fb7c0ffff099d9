/**
 * The memory of a VM that moves to another memory, as files that its hypervisors share (/dev/shm, hugetlbfs, memory-backend-file). What its CPUs write no
 * NVMe controller can tell: it is found by comparing both files, in each round and, with the CPUs stopped, at the end. So nothing is left out, whoever
 * wrote it. Holes stay holes at both ends.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { NativeBinding } from '../native/binding.ts';
import { requireNative } from '../native/load.ts';
import { MappedMemory } from '../native/mapped-memory.ts';
import { errnoName } from '../native/native-error.ts';
import { ConfigError } from '../util/error.ts';
import { isZero } from './block-copier.ts';
import type { GuestMemoryMover, MemoryRun } from './end.ts';

export const VM_PAGE_BYTES = 4096;
/** Between two of them others run. */
const PIECE_BYTES = 1 << 20;
/** Of one mapping; a multiple of every page size. */
const WINDOW_BYTES = 2 ** 30;

/** A part of the VM's memory: where it is in both files, and in the VM. All multiples of 4 KiB. @public */
export interface VmMemoryRegion {
  readonly source: string;
  readonly destination: string;
  /** Guest physical address of its first byte. Default 0. */
  readonly address?: number | undefined;
  /** In both files. Default 0. */
  readonly offsetBytes?: number | undefined;
  /** Default: to the end of the files. */
  readonly lengthBytes?: number | undefined;
}

interface Window {
  readonly address: number;
  readonly lengthBytes: number;
  /** In the files. */
  readonly offsetBytes: number;
  readonly source: FileHandle;
  readonly destination: FileHandle;
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

/** @public */
export class VmMemory implements GuestMemoryMover {
  readonly ranges: readonly MemoryRun[];
  readonly #windows: readonly Window[];
  readonly #maps: readonly MappedMemory[];
  readonly #files: readonly FileHandle[];
  readonly #binding: NativeBinding;
  #isFirst = true;

  private constructor(
    ranges: readonly MemoryRun[],
    windows: readonly Window[],
    maps: readonly MappedMemory[],
    files: readonly FileHandle[],
  ) {
    this.ranges = ranges;
    this.#windows = windows;
    this.#maps = maps;
    this.#files = files;
    this.#binding = requireNative('Memory of a VM');
  }

  /**
   * Maps the files, which must not be cut short while they are in use. The source's are only read.
   * @throws ConfigError, NativeError without the addon
   */
  static async open(regions: readonly VmMemoryRegion[]): Promise<VmMemory> {
    requireNative('Memory of a VM');
    const files: FileHandle[] = [];
    const maps: MappedMemory[] = [];
    const windows: Window[] = [];
    const ranges: MemoryRun[] = [];
    try {
      for (const region of regions) {
        const source = await opened(region.source, constants.O_RDONLY);
        files.push(source);
        const destination = await opened(region.destination, constants.O_RDWR);
        files.push(destination);
        const range = await checkedRange(region, source, destination);
        const { address, lengthBytes } = range;
        for (let done = 0; done < lengthBytes; done += WINDOW_BYTES) {
          const length = Math.min(WINDOW_BYTES, lengthBytes - done);
          const offsetBytes = (region.offsetBytes ?? 0) + done;
          const from = mapped(region.source, { fd: source.fd, offsetBytes, lengthBytes: length, readOnly: true });
          maps.push(from);
          const to = mapped(region.destination, { fd: destination.fd, offsetBytes, lengthBytes: length });
          maps.push(to);
          windows.push({
            ...{ address: address + done, lengthBytes: length, offsetBytes, source, destination },
            from: new Uint8Array(from.buffer),
            to: new Uint8Array(to.buffer),
          });
        }
        ranges.push(range);
      }
      checkOverlap(ranges);
      return new VmMemory(ranges, windows, maps, files);
    } catch (error) {
      await closeAll(maps, files);
      throw error;
    }
  }

  /** Of what the runs name, what is the VM's. @returns bytes copied */
  async copy(runs: readonly MemoryRun[]): Promise<number> {
    let bytes = 0;
    for (const run of runs) {
      for (const window of this.#windows) {
        const start = Math.max(run.address, window.address) - window.address;
        const end = Math.min(run.address + run.lengthBytes - window.address, window.lengthBytes);
        for (let at = start; at < end; at += PIECE_BYTES) {
          bytes += this.#copyPiece(window, at, Math.min(end, at + PIECE_BYTES));
          if (end - at > PIECE_BYTES) await nextTurn();
        }
      }
    }
    return bytes;
  }

  #copyPiece(window: Window, start: number, end: number): number {
    let bytes = 0;
    for (const { from, to, atSource, atDestination } of this.#segments(window, start, end)) {
      if (atSource) window.to.set(window.from.subarray(from, to), from);
      else if (atDestination) window.to.fill(0, from, to);
      else continue;
      bytes += to - from;
    }
    return bytes;
  }

  /** Pages that differ from their copy; all of the memory the first time. */
  async changes(): Promise<readonly MemoryRun[]> {
    if (this.#isFirst) {
      this.#isFirst = false;
      return this.ranges;
    }
    const runs: { address: number; lengthBytes: number }[] = [];
    for (const window of this.#windows) {
      for (let at = 0; at < window.lengthBytes; at += PIECE_BYTES) {
        this.#comparePiece(window, at, Math.min(window.lengthBytes, at + PIECE_BYTES), runs);
        await nextTurn();
      }
    }
    return runs;
  }

  #comparePiece(window: Window, start: number, end: number, runs: { address: number; lengthBytes: number }[]): void {
    for (const segment of this.#segments(window, start, end)) {
      if (!differs(window, segment, segment.from, segment.to)) continue;
      for (let at = segment.from; at < segment.to; at += VM_PAGE_BYTES) {
        if (!differs(window, segment, at, Math.min(segment.to, at + VM_PAGE_BYTES))) continue;
        const address = window.address + at;
        const last = runs.at(-1);
        if (last !== undefined && last.address + last.lengthBytes === address) last.lengthBytes += VM_PAGE_BYTES;
        else runs.push({ address, lengthBytes: VM_PAGE_BYTES });
      }
    }
  }

  /** Parts that are data, or a hole, throughout: to touch a hole would allocate it. */
  *#segments(window: Window, start: number, end: number): Generator<Segment> {
    for (let at = start; at < end; ) {
      const ours = this.#extent(window.source, window.offsetBytes + at);
      const theirs = this.#extent(window.destination, window.offsetBytes + at);
      const to = Math.min(end, ours.endBytes - window.offsetBytes, theirs.endBytes - window.offsetBytes);
      yield { from: at, to, atSource: ours.isData, atDestination: theirs.isData };
      at = to;
    }
  }

  #extent({ fd }: FileHandle, atBytes: number): { readonly isData: boolean; readonly endBytes: number } {
    const data = this.#binding.seek(fd, atBytes, false);
    if (data < 0) {
      // a file system that cannot tell has data everywhere
      return { isData: errnoName(data) !== 'ENXIO', endBytes: Number.POSITIVE_INFINITY };
    }
    if (data > atBytes) return { isData: false, endBytes: data };
    const hole = this.#binding.seek(fd, atBytes, true);
    return { isData: true, endBytes: hole < 0 ? Number.POSITIVE_INFINITY : wholePages(hole) };
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await closeAll(this.#maps, this.#files);
  }
}

interface Segment {
  readonly from: number;
  readonly to: number;
  readonly atSource: boolean;
  readonly atDestination: boolean;
}

function differs(window: Window, { atSource, atDestination }: Segment, from: number, to: number): boolean {
  if (atSource && atDestination)
    return Buffer.compare(window.from.subarray(from, to), window.to.subarray(from, to)) !== 0;
  if (atSource) return !isZero(window.from, from, to);
  return atDestination && !isZero(window.to, from, to);
}

const wholePages = (bytes: number): number => Math.ceil(bytes / VM_PAGE_BYTES) * VM_PAGE_BYTES;

async function opened(path: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, flags);
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code;
    const remedy = 'name the file that the hypervisor shares there, such as /dev/shm/vm0';
    throw new ConfigError(`--memory: ${path} cannot be opened (${reason}); ${remedy}`, { cause });
  }
}

function mapped(path: string, options: Parameters<typeof MappedMemory.map>[0]): MappedMemory {
  try {
    return MappedMemory.map(options);
  } catch (cause) {
    const reason = (cause as Error).message;
    throw new ConfigError(`--memory: ${path} cannot be mapped (${reason})`, { cause });
  }
}

async function checkedRange(region: VmMemoryRegion, source: FileHandle, destination: FileHandle): Promise<MemoryRun> {
  const { address = 0, offsetBytes = 0 } = region;
  const [ours, theirs] = await Promise.all([source.stat(), destination.stat()]);
  for (const [path, found] of [
    [region.source, ours],
    [region.destination, theirs],
  ] as const) {
    if (!found.isFile())
      throw new ConfigError(`--memory: ${path} is no file; a VM's memory is one in /dev/shm or hugetlbfs`);
  }
  if (ours.dev === theirs.dev && ours.ino === theirs.ino) {
    throw new ConfigError(
      `--memory: ${region.source} is the destination as well; a VM that stays on its memory needs none`,
    );
  }
  if (ours.size !== theirs.size) {
    const sizes = `${region.destination} has ${theirs.size} bytes, ${region.source} has ${ours.size}`;
    throw new ConfigError(`--memory: ${sizes}; start the VM at the destination with as much memory`);
  }
  const lengthBytes = region.lengthBytes ?? ours.size - offsetBytes;
  for (const [name, value] of [
    ['address', address],
    ['offset', offsetBytes],
    ['length', lengthBytes],
  ] as const) {
    if (value % VM_PAGE_BYTES !== 0)
      throw new ConfigError(
        `--memory: ${region.source} with ${name} ${value}; multiples of ${VM_PAGE_BYTES} are needed`,
      );
  }
  if (lengthBytes <= 0 || offsetBytes + lengthBytes > ours.size) {
    const found = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes} of ${ours.size}`;
    throw new ConfigError(`--memory: ${region.source} with ${found}; they have to be in it`);
  }
  return { address, lengthBytes };
}

function checkOverlap(ranges: readonly MemoryRun[]): void {
  const sorted = [...ranges].sort((a, b) => a.address - b.address);
  for (const [i, { address }] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before === undefined || before.address + before.lengthBytes <= address) continue;
    const [a, b] = [before.address, address].map((value) => `0x${value.toString(16)}`);
    throw new ConfigError(`--memory: the regions at ${a} and at ${b} overlap in the VM; give each its address=`);
  }
}

async function closeAll(maps: readonly MappedMemory[], files: readonly FileHandle[]): Promise<void> {
  await Promise.all(maps.map((map) => map.unmap()));
  await Promise.all(files.map((file) => file.close()));
}

/**
 * The memory of a VM that moves to another memory, as files that its hypervisors share (/dev/shm, hugetlbfs, memory-backend-file). What its CPUs write no
 * NVMe controller can tell: it is found by comparing both files, in each round and, with the CPUs stopped, at the end. So nothing is left out, whoever
 * wrote it. What is zero at both ends is not written: holes stay holes.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ConfigError } from '../util/error.ts';
import type { GuestMemoryMover, MemoryRun } from './end.ts';
import { MemoryFile } from './memory-file.ts';
import { RunList } from './run-list.ts';

export const VM_PAGE_BYTES = 4096;
/** Of one read of either file. */
const PIECE_BYTES = 1 << 20;
/** Between two turns of the event loop, where nothing is waited for. */
const LOOKS_MAX = 256;
const ZEROES = new Uint8Array(PIECE_BYTES);

/** A part of the VM's memory: where it is in both files, and in the VM. All multiples of 4 KiB. @public */
export interface VmMemoryRegion {
  readonly source: string;
  readonly destination: string;
  /** Guest physical address of its first byte. Default 0. */
  readonly address?: number | undefined;
  /** In both files. Default 0. */
  readonly offsetBytes?: number | undefined;
  /** Default: to the end of the files, which are of one size then. */
  readonly lengthBytes?: number | undefined;
}

interface Region extends MemoryRun {
  /** In both files. */
  readonly offsetBytes: number;
  readonly source: MemoryFile;
  readonly destination: MemoryFile;
}

/** Of both files, what is looked at. A hole is not read. */
interface Piece {
  readonly from: Uint8Array;
  readonly to: Uint8Array;
}

class PieceReader {
  readonly #from = new Uint8Array(PIECE_BYTES);
  readonly #to = new Uint8Array(PIECE_BYTES);

  /** Valid until the next one. */
  async read({ source, destination }: Region, atBytes: number, lengthBytes: number): Promise<Piece> {
    const end = atBytes + lengthBytes;
    const [from, to] = await Promise.all([
      source.dataFrom(atBytes) < end ? filled(source, atBytes, this.#from.subarray(0, lengthBytes)) : undefined,
      destination.dataFrom(atBytes) < end ? filled(destination, atBytes, this.#to.subarray(0, lengthBytes)) : undefined,
    ]);
    const zeroes = ZEROES.subarray(0, lengthBytes);
    return { from: from ?? zeroes, to: to ?? zeroes };
  }
}

async function filled(file: MemoryFile, atBytes: number, into: Uint8Array): Promise<Uint8Array> {
  await file.read(atBytes, into);
  return into;
}

/** @public */
export class VmMemory implements GuestMemoryMover {
  readonly ranges: readonly MemoryRun[];
  readonly #regions: readonly Region[];
  readonly #files: readonly MemoryFile[];
  readonly #copying = new PieceReader();
  readonly #comparing = new PieceReader();
  #isFirst = true;

  private constructor(regions: readonly Region[], files: readonly MemoryFile[]) {
    this.#regions = [...regions].sort((a, b) => a.address - b.address);
    this.ranges = this.#regions.map(({ address, lengthBytes }) => ({ address, lengthBytes }));
    this.#files = files;
  }

  /**
   * Opens the files. The source's are only read.
   * @throws ConfigError, NativeError without the addon
   */
  static async open(regions: readonly VmMemoryRegion[]): Promise<VmMemory> {
    const files: MemoryFile[] = [];
    const found: Region[] = [];
    try {
      for (const region of regions) {
        const source = await MemoryFile.open(region.source, 'read');
        files.push(source);
        const destination = await MemoryFile.open(region.destination, 'write');
        files.push(destination);
        found.push(checkedRegion(region, source, destination));
      }
      checkOverlap(found, ({ address }) => address, 'in the VM; give each its address=');
      for (const { destination: file } of found) {
        const same = found.filter(({ destination }) => destination.isSame(file));
        checkOverlap(same, ({ offsetBytes }) => offsetBytes, `in ${file.path}; give each its offset= and length=`);
      }
      for (const { source } of found) {
        if (!found.some(({ destination }) => destination.isSame(source))) continue;
        const remedy = 'a VM that stays on its memory needs none';
        throw new ConfigError(`--memory: ${source.path} is the destination as well; ${remedy}`);
      }
      for (const { destination, offsetBytes, lengthBytes } of found) destination.prepare(offsetBytes, lengthBytes);
      return new VmMemory(found, files);
    } catch (error) {
      await closeAll(files);
      throw error;
    }
  }

  /** What is no hole at either end: all else is zero at both. @throws NvmeofError NVMEOF_ERR_MEMORY, as all of them */
  async used(): Promise<readonly MemoryRun[]> {
    const list = new RunList(VM_PAGE_BYTES);
    let looks = 0;
    for (const { address, offsetBytes, lengthBytes, source, destination } of this.#regions) {
      const end = offsetBytes + lengthBytes;
      const both = [source.dataRuns(offsetBytes, end), destination.dataRuns(offsetBytes, end)];
      const next = both.map((runs) => runs.next());
      for (;;) {
        const starts = next.map(({ value, done }) => (done === true ? Number.POSITIVE_INFINITY : value.address));
        const first = starts[0]! <= starts[1]! ? 0 : 1;
        const run = next[first]!.value as MemoryRun | undefined;
        if (run === undefined) break;
        next[first] = both[first]!.next();
        const start = floorPage(run.address);
        list.add(address + start - offsetBytes, ceilPage(run.address + run.lengthBytes) - start);
        if (++looks % LOOKS_MAX === 0) await nextTurn();
      }
      mustReach(source, destination, end);
    }
    return list.runs;
  }

  /** Of what the runs name, what is the VM's, and differs. @returns bytes written */
  async copy(runs: readonly MemoryRun[]): Promise<number> {
    let bytes = 0;
    for (const run of runs) {
      for (const region of this.#regions) {
        const start = Math.max(run.address, region.address);
        const end = Math.min(run.address + run.lengthBytes, region.address + region.lengthBytes);
        if (start >= end) continue;
        bytes += await this.#each(region, this.#copying, start, end, (piece, at) => write(region, piece, at));
      }
    }
    return bytes;
  }

  /** Pages that differ from their copy; all of the memory the first time. */
  async changes(): Promise<readonly MemoryRun[]> {
    if (this.#isFirst) {
      this.#isFirst = false;
      return this.ranges;
    }
    const list = new RunList(VM_PAGE_BYTES);
    for (const region of this.#regions) {
      const end = region.address + region.lengthBytes;
      await this.#each(region, this.#comparing, region.address, end, (piece, at) => {
        for (const { from, to } of differing(piece))
          list.add(region.address + at - region.offsetBytes + from, to - from);
        return 0;
      });
    }
    return list.runs;
  }

  /**
   * Piece by piece, without what is a hole in both files.
   * @param start address in the VM, as `end`
   * @param act at an offset in the files
   * @returns the sum of what it returned
   */
  async #each(
    region: Region,
    reader: PieceReader,
    start: number,
    end: number,
    act: (piece: Piece, atBytes: number) => Promise<number> | number,
  ): Promise<number> {
    const { source, destination } = region;
    const toFile = region.offsetBytes - region.address;
    const endBytes = end + toFile;
    let sum = 0;
    for (let at = start + toFile; ; ) {
      at = Math.max(at, floorPage(Math.min(source.dataFrom(at), destination.dataFrom(at))));
      // after the look: what was cut off is no hole
      mustReach(source, destination, endBytes);
      if (at >= endBytes) return sum;
      const length = Math.min(PIECE_BYTES, endBytes - at);
      const piece = await reader.read(region, at, length);
      mustReach(source, destination, endBytes);
      sum += await act(piece, at);
      at += length;
    }
  }

  /** Idempotent. */
  async close(): Promise<void> {
    await closeAll(this.#files);
  }
}

function mustReach(source: MemoryFile, destination: MemoryFile, endBytes: number): void {
  source.mustReach(endBytes);
  destination.mustReach(endBytes);
}

async function write({ destination }: Region, piece: Piece, atBytes: number): Promise<number> {
  let bytes = 0;
  for (const { from, to } of differing(piece)) {
    await destination.write(atBytes + from, piece.from.subarray(from, to));
    bytes += to - from;
  }
  return bytes;
}

/** Runs of pages of which the second has something else than the first. */
function differing({ from, to }: Piece): { readonly from: number; to: number }[] {
  if (Buffer.compare(from, to) === 0) return [];
  const found: { readonly from: number; to: number }[] = [];
  for (let at = 0; at < from.length; at += VM_PAGE_BYTES) {
    const end = at + VM_PAGE_BYTES;
    if (Buffer.compare(from.subarray(at, end), to.subarray(at, end)) === 0) continue;
    const last = found.at(-1);
    if (last?.to === at) last.to = end;
    else found.push({ from: at, to: end });
  }
  return found;
}

const floorPage = (bytes: number): number => Math.floor(bytes / VM_PAGE_BYTES) * VM_PAGE_BYTES;
const ceilPage = (bytes: number): number => Math.ceil(bytes / VM_PAGE_BYTES) * VM_PAGE_BYTES;

function checkedRegion(region: VmMemoryRegion, source: MemoryFile, destination: MemoryFile): Region {
  const { address = 0, offsetBytes = 0 } = region;
  const lengthBytes = region.lengthBytes ?? source.sizeBytes - offsetBytes;
  if (region.lengthBytes === undefined && source.sizeBytes !== destination.sizeBytes) {
    const sizes = `${destination.path} has ${destination.sizeBytes} bytes, ${source.path} has ${source.sizeBytes}`;
    throw new ConfigError(`--memory: ${sizes}; start the VM at the destination with as much memory`);
  }
  for (const [name, value] of [
    ['address', address],
    ['offset', offsetBytes],
    ['length', lengthBytes],
  ] as const) {
    if (value % VM_PAGE_BYTES === 0) continue;
    const found = `${source.path} with ${name} ${value}`;
    throw new ConfigError(`--memory: ${found}; multiples of ${VM_PAGE_BYTES} are needed`);
  }
  for (const { path, sizeBytes } of [source, destination]) {
    if (lengthBytes > 0 && offsetBytes + lengthBytes <= sizeBytes) continue;
    const found = `bytes ${offsetBytes} to ${offsetBytes + lengthBytes} of ${sizeBytes}`;
    throw new ConfigError(`--memory: ${path} with ${found}; they have to be in it`);
  }
  if (!Number.isSafeInteger(address + lengthBytes)) {
    throw new ConfigError(`--memory: ${source.path} at address ${address}; a VM has none above 2^53`);
  }
  return { address, offsetBytes, lengthBytes, source, destination };
}

function checkOverlap(regions: readonly Region[], startOf: (region: Region) => number, where: string): void {
  const sorted = [...regions].sort((a, b) => startOf(a) - startOf(b));
  for (const [i, region] of sorted.entries()) {
    const before = sorted[i - 1];
    if (before === undefined || startOf(before) + before.lengthBytes <= startOf(region)) continue;
    const [a, b] = [before, region].map((each) => `0x${startOf(each).toString(16)}`);
    throw new ConfigError(`--memory: the regions at ${a} and at ${b} overlap ${where}`);
  }
}

async function closeAll(files: readonly MemoryFile[]): Promise<void> {
  await Promise.all(files.map((file) => file.close()));
}

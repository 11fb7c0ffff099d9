// @hot
/**
 * The guest memory that one function reaches: mapped regions, and the only way to read and write them. Every write goes through `#writable`, which
 * tells those who follow what is written; nothing outside of what is mapped now is touched.
 */
import { type DmaWriter, type GuestRegion, type PciDirtyRange, PciError } from './pci-function.ts';

/** Addresses beyond it are no memory of a guest's: numbers stay exact up to here. */
export const ADDRESS_MAX: number = 2 ** 53;
/** CC.MPS 0. */
export const PAGE_BYTES_MIN = 4096;

const EINVAL = 22;
const EEXIST = 17;
const ENOENT = 2;
/** Views of recently used pieces, per region: direct mapped by page. */
const VIEW_COUNT = 1024;
const PAGE_SHIFT = 12;
const EMPTY = new Uint8Array(0);

/** Who follows which memory is written. */
export interface WriteObserver {
  /** @param lengthBytes 1 and more */
  mark(address: number, lengthBytes: number): void;
}

class Region {
  readonly iova: number;
  readonly end: number;
  readonly writable: boolean;
  readonly writer: DmaWriter | undefined;
  /** Empty where the memory is not reachable. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** For stores that others must not see before what was stored earlier; absent if the memory is not aligned for them here. */
  readonly words: Int32Array | undefined;
  readonly isReachable: boolean;
  readonly #views: (Uint8Array | undefined)[];

  constructor(region: GuestRegion) {
    const { iova, lengthBytes, buffer, bufferOffset = 0 } = region;
    this.iova = iova;
    this.end = iova + lengthBytes;
    this.writable = region.writable !== false;
    this.writer = region.writer;
    this.isReachable = buffer !== undefined;
    this.bytes = buffer === undefined ? EMPTY : new Uint8Array(buffer, bufferOffset, lengthBytes);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.byteLength);
    this.words =
      buffer === undefined || ((bufferOffset | iova) & 3) !== 0
        ? undefined
        : new Int32Array(buffer, bufferOffset, Math.floor(lengthBytes / 4));
    this.#views = new Array<Uint8Array | undefined>(VIEW_COUNT).fill(undefined);
  }

  /** `length` bytes at `offset`; the same object for the same piece, as long as it is used often. */
  piece(offset: number, length: number): Uint8Array {
    const index = (offset >>> PAGE_SHIFT) & (VIEW_COUNT - 1);
    const known = this.#views[index];
    if (known !== undefined && known.length === length && known.byteOffset === this.bytes.byteOffset + offset)
      return known;
    const made = this.bytes.subarray(offset, offset + length);
    this.#views[index] = made;
    return made;
  }
}

export class GuestMemory {
  /** Ascending by address. */
  readonly #regions: Region[] = [];
  /** Bus Master Enable: without it, nothing can be reached. */
  #isMaster = false;
  /** The region found last: most accesses are near each other. */
  #recent: Region | undefined = undefined;
  /** Counts maps and unmaps: what was found valid before one may not be after. */
  generation = 0;
  /** Track Memory Changes of NVMe. */
  tracker: WriteObserver | undefined = undefined;
  /** The front end's own log. */
  dirtyLog: WriteObserver | undefined = undefined;
  /** Who wrote by message last: what tells the guest of that must wait for its fence. */
  writer: DmaWriter | undefined = undefined;

  // ---- regions --------------------------------------------------------------------------------------------------------------------

  map(region: GuestRegion): void {
    const { iova, lengthBytes, buffer, bufferOffset = 0 } = region;
    const end = iova + lengthBytes;
    if (!Number.isSafeInteger(iova) || !Number.isSafeInteger(end) || iova < 0 || lengthBytes < 1) {
      throw new PciError(EINVAL, `Memory at ${iova} of ${lengthBytes} bytes is no range below 2^53`);
    }
    if (buffer !== undefined && bufferOffset + lengthBytes > buffer.byteLength) {
      throw new PciError(EINVAL, `Memory at ${iova} is longer than the buffer behind it`);
    }
    const at = this.#indexOf(iova);
    const next = this.#regions[at];
    if (next !== undefined && next.iova < end) {
      throw new PciError(EEXIST, `Memory at ${iova} of ${lengthBytes} bytes overlaps that at ${next.iova}`);
    }
    this.#regions.splice(at, 0, new Region(region));
    this.#changed();
  }

  unmap(iova: number, lengthBytes: number): void {
    const at = this.#indexOf(iova);
    const region = this.#regions[at];
    if (region === undefined || region.iova !== iova || region.end !== iova + lengthBytes) {
      throw new PciError(ENOENT, `No memory at ${iova} of ${lengthBytes} bytes is mapped`);
    }
    this.#regions.splice(at, 1);
    this.#changed();
  }

  unmapAll(): void {
    this.#regions.length = 0;
    this.writer = undefined;
    this.#changed();
  }

  #changed(): void {
    this.generation++;
    this.#recent = undefined;
  }

  ranges(): PciDirtyRange[] {
    return this.#regions.map(({ iova, end }) => ({ iova, lengthBytes: end - iova }));
  }

  get regionCount(): number {
    return this.#regions.length;
  }

  /** Index of the first region that ends after `address`. */
  #indexOf(address: number): number {
    let low = 0;
    let high = this.#regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#regions[middle]!.end > address) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The region of that byte, if it can be reached. */
  #find(address: number): Region | undefined {
    const recent = this.#recent;
    if (recent !== undefined && address >= recent.iova && address < recent.end) return recent;
    if (!this.#isMaster) return undefined;
    const region = this.#regions[this.#indexOf(address)];
    // (also false where the address is no number)
    if (region === undefined || !(address >= region.iova) || !region.isReachable) return undefined;
    this.#recent = region;
    return region;
  }

  /** All of the range can be read, or written. Regions may lie next to each other. */
  covers(address: number, length: number, forWriting: boolean): boolean {
    let at = address;
    const end = address + length;
    while (at < end) {
      const region = this.#find(at);
      if (region === undefined || (forWriting && !region.writable)) return false;
      at = region.end;
    }
    return true;
  }

  /** Bus Master Enable was set or cleared. PCI Express Base 4.0 section 7.5.1.1.3. */
  set isMaster(isMaster: boolean) {
    if (isMaster === this.#isMaster) return;
    this.#isMaster = isMaster;
    this.#changed();
  }

  get isMaster(): boolean {
    return this.#isMaster;
  }

  // ---- reads ----------------------------------------------------------------------------------------------------------------------

  /** The memory itself, if the range is in one region: good until the caller returns. */
  piece(address: number, length: number): Uint8Array | undefined {
    const region = this.#find(address);
    if (region === undefined || address + length > region.end) return undefined;
    return region.piece(address - region.iova, length);
  }

  /** Copies memory into `target`. @returns false if it is not mapped; `target` may hold some of it then */
  read(address: number, length: number, target: Uint8Array, targetOffset: number): boolean {
    let at = address;
    let left = length;
    let offset = targetOffset;
    while (left > 0) {
      const region = this.#find(at);
      if (region === undefined) return false;
      const take = Math.min(left, region.end - at);
      target.set(region.piece(at - region.iova, take), offset);
      at += take;
      offset += take;
      left -= take;
    }
    return true;
  }

  /** Copies whole dwords. @param address a multiple of 4 */
  readDwords(address: number, dwords: number, target: DataView, targetOffset: number): boolean {
    const region = this.#find(address);
    if (region === undefined) return false;
    const length = dwords * 4;
    if (address + length > region.end) {
      const bytes = new Uint8Array(target.buffer, target.byteOffset + targetOffset, length);
      return this.read(address, length, bytes, 0);
    }
    const view = region.view;
    const from = address - region.iova;
    for (let i = 0; i < length; i += 4) target.setUint32(targetOffset + i, view.getUint32(from + i, true), true);
    return true;
  }

  /** One dword that the guest writes at any time, read after all before. @returns -1 if it is not mapped */
  loadDword(address: number): number {
    const region = this.#find(address);
    if (region === undefined || address + 4 > region.end) return -1;
    const offset = address - region.iova;
    if (region.words === undefined) return region.view.getUint32(offset, true);
    return Atomics.load(region.words, offset >>> 2) >>> 0;
  }

  // ---- writes ---------------------------------------------------------------------------------------------------------------------

  /** The only way to memory that may be written: whoever follows is told here. @param length all of it in the region */
  #writable(address: number, length: number): Region | undefined {
    const region = this.#find(address);
    if (region === undefined || !region.writable) return undefined;
    const inRegion = Math.min(length, region.end - address);
    if (this.tracker !== undefined) this.tracker.mark(address, inRegion);
    if (this.dirtyLog !== undefined) this.dirtyLog.mark(address, inRegion);
    return region;
  }

  /**
   * Copies `length` bytes of `source` from `sourceOffset` on.
   * @returns false, with nothing written, if part of the range cannot be written
   */
  write(address: number, source: Uint8Array, sourceOffset: number, length: number): boolean {
    if (!this.covers(address, length, true)) return false;
    let at = address;
    let from = sourceOffset;
    let left = length;
    while (left > 0) {
      const region = this.#writable(at, left)!;
      const take = Math.min(left, region.end - at);
      const piece = take === source.length ? source : source.subarray(from, from + take);
      if (region.writer === undefined) region.bytes.set(piece, at - region.iova);
      else this.#post(region.writer, at, piece);
      at += take;
      from += take;
      left -= take;
    }
    return true;
  }

  /**
   * Copies whole dwords, the last of them after all others, and after all that was written before: completion and data queue entries, whose phase
   * is in their last dword.
   * @param address a multiple of 4
   */
  writeDwords(address: number, source: DataView, sourceOffset: number, dwords: number): boolean {
    const length = dwords * 4;
    const target = this.#find(address);
    if (target === undefined || address + length > target.end || target.writer !== undefined) {
      return this.write(address, new Uint8Array(source.buffer, source.byteOffset + sourceOffset, length), 0, length);
    }
    const region = this.#writable(address, length);
    if (region === undefined) return false;
    const offset = address - region.iova;
    const last = length - 4;
    const { view } = region;
    for (let i = 0; i < last; i += 4) view.setUint32(offset + i, source.getUint32(sourceOffset + i, true), true);
    const value = source.getUint32(sourceOffset + last, true);
    if (region.words === undefined) view.setUint32(offset + last, value, true);
    else Atomics.store(region.words, (offset + last) >>> 2, value);
    return true;
  }

  #post(writer: DmaWriter, address: number, bytes: Uint8Array): void {
    writer.write(address, bytes);
    this.writer = writer;
  }
}

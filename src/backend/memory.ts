// @hot
/**
 * Memory backend: sparse. Memory comes in groups of 16 MiB, made at the first write into them; the system commits their pages as they are
 * touched, and takes those back that are deallocated. What was written is known per page of 4 KiB. Reads lend the memory by its place (no copy).
 */
import { HUGE_PAGE_BYTES, MemoryArena } from '../native/arena.ts';
import { Status } from '../spec/status.ts';
import type { BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

const PAGE_BYTES = 4096;
const PAGE_SHIFT = 12;
const GROUP_BYTES = 16 << 20;
const GROUP_PAGES = GROUP_BYTES / PAGE_BYTES;
const HUGE_PAGE_SHIFT = 31 - Math.clz32(HUGE_PAGE_BYTES / PAGE_BYTES);
const PAGES_PER_HUGE_PAGE = 1 << HUGE_PAGE_SHIFT;
/** Reported as the unit that is written as a whole. */
const ATOMIC_BYTES = 128 << 10;

/** What was never written reads from here. */
const ZEROES = new Uint8Array(new ArrayBuffer(128 << 10));
const ZERO_PAGE = ZEROES.subarray(0, PAGE_BYTES);

class Group {
  readonly arena: MemoryArena;
  /** 1 for each page that was written and not deallocated since. */
  readonly allocated: Uint8Array = new Uint8Array(GROUP_PAGES);
  /** Of those, the number in each huge page. */
  readonly counts: Int16Array = new Int16Array(GROUP_PAGES >>> HUGE_PAGE_SHIFT);
  pageCount = 0;

  constructor(lengthBytes: number) {
    this.arena = new MemoryArena(lengthBytes);
  }

  /** Itself if it is long enough, or another with the same content. */
  grown(lengthBytes: number): Group {
    if (this.arena.bytes.length >= lengthBytes) return this;
    const group = new Group(lengthBytes);
    group.arena.bytes.set(this.arena.bytes);
    group.allocated.set(this.allocated);
    group.counts.set(this.counts);
    group.pageCount = this.pageCount;
    return group;
  }
}

/** @public */
export class MemoryBackend implements BlockBackend {
  readonly kind = 'memory';
  blockSize: number;
  blockCount: number;
  #sizeBytes: number;
  readonly volatileWriteCache = false;
  readonly readsZeroAfterDeallocate = true;
  readonly readOnly = false;
  readonly lendsMemory = true;
  readonly immediate = true;
  readonly isVolatile = true;
  readonly atomicBytes: number = ATOMIC_BYTES;
  /** Allocation is known by page: of each block only if none shares its page. */
  isAllocated: ((offsetBytes: number, lengthBytes: number) => boolean) | undefined;
  readonly #groups: (Group | undefined)[];
  #allocatedPages = 0;

  constructor(options: { blockSize: number; blockCount: number }) {
    this.blockSize = options.blockSize;
    this.blockCount = options.blockCount;
    this.#sizeBytes = options.blockSize * options.blockCount;
    this.isAllocated = this.#allocationOf(options.blockSize);
    const groups = Math.ceil((options.blockSize * options.blockCount) / GROUP_BYTES);
    this.#groups = new Array<Group | undefined>(groups).fill(undefined);
  }

  async grow(blockCount: number): Promise<void> {
    const last = this.#groups.length - 1;
    const groups = Math.ceil((this.blockSize * blockCount) / GROUP_BYTES);
    while (this.#groups.length < groups) this.#groups.push(undefined);
    this.blockCount = blockCount;
    this.#sizeBytes = this.blockSize * blockCount;
    const group = this.#groups[last];
    if (group !== undefined) this.#groups[last] = group.grown(this.#groupBytes(last));
  }

  async shrink(blockCount: number): Promise<void> {
    const sizeBytes = this.blockSize * blockCount;
    this.#clear(sizeBytes, this.#sizeBytes - sizeBytes, true);
    this.#groups.length = Math.ceil(sizeBytes / GROUP_BYTES);
    this.blockCount = blockCount;
    this.#sizeBytes = sizeBytes;
  }

  setBlockSize(blockSize: number): void {
    this.blockSize = blockSize;
    this.isAllocated = this.#allocationOf(blockSize);
    this.blockCount = Math.floor(this.#sizeBytes / blockSize);
  }

  allocatedBytes(): number {
    return this.#allocatedPages * PAGE_BYTES;
  }

  /** Known by page: of each block only where blocks are pages. */
  #allocationOf(blockSize: number): ((offsetBytes: number, lengthBytes: number) => boolean) | undefined {
    return blockSize % PAGE_BYTES === 0 ? (offset, length) => this.#isAllocated(offset, length) : undefined;
  }

  #isAllocated(offsetBytes: number, lengthBytes: number): boolean {
    for (let offset = offsetBytes; offset < offsetBytes + lengthBytes; offset += PAGE_BYTES) {
      const at = Math.floor(offset / GROUP_BYTES);
      if (this.#groups[at]?.allocated[(offset - at * GROUP_BYTES) >>> PAGE_SHIFT] !== 1) return false;
    }
    return true;
  }

  get allocationUnitBytes(): number {
    return Math.max(this.blockSize, PAGE_BYTES);
  }

  nextAllocated(fromBytes: number, endBytes: number): ByteRun | undefined {
    const start = this.#seek(1, fromBytes, endBytes);
    if (start >= endBytes) return undefined;
    const unit = this.allocationUnitBytes;
    // a block of several pages is allocated if one of them is
    const startBytes = Math.max(fromBytes, Math.floor(start / unit) * unit);
    let end = start;
    do end = Math.ceil(this.#seek(0, end, endBytes) / unit) * unit;
    while (end < endBytes && this.#pageAt(end) === 1);
    return { startBytes, endBytes: Math.min(end, endBytes) };
  }

  #pageAt(offset: number): number {
    const at = Math.floor(offset / GROUP_BYTES);
    return this.#groups[at]?.allocated[(offset - at * GROUP_BYTES) >>> PAGE_SHIFT] ?? 0;
  }

  /** Where the first page at or after `from` is that is allocated (1) or not (0): not before `from`; `end` and more if none is. */
  #seek(wanted: 0 | 1, from: number, end: number): number {
    let offset = from;
    while (offset < end) {
      const at = Math.floor(offset / GROUP_BYTES);
      const group = this.#groups[at];
      if (group === undefined) {
        if (wanted === 0) return offset;
      } else {
        const first = (offset - at * GROUP_BYTES) >>> PAGE_SHIFT;
        const page = group.allocated.indexOf(wanted, first);
        if (page >= 0) return Math.max(offset, at * GROUP_BYTES + page * PAGE_BYTES);
      }
      offset = (at + 1) * GROUP_BYTES;
    }
    return end;
  }

  read(io: BlockIo): void {
    const at = Math.floor(io.offsetBytes / GROUP_BYTES);
    const inGroup = io.offsetBytes - at * GROUP_BYTES;
    const length = io.lengthBytes;
    const group = this.#groups[at];
    if (inGroup + length > GROUP_BYTES) this.#readAcross(io, at, inGroup);
    else if (group !== undefined) io.lendAt(group.arena, inGroup, length);
    else if (length === PAGE_BYTES) io.lend(ZERO_PAGE);
    else this.#readZeroes(io, length);
    io.complete(Status.Success);
  }

  #readAcross(io: BlockIo, firstGroup: number, inFirstGroup: number): void {
    let at = firstGroup;
    let inGroup = inFirstGroup;
    for (let left = io.lengthBytes; left > 0; ) {
      const piece = Math.min(left, GROUP_BYTES - inGroup);
      const group = this.#groups[at];
      if (group === undefined) this.#readZeroes(io, piece);
      else io.lendAt(group.arena, inGroup, piece);
      left -= piece;
      inGroup = 0;
      at++;
    }
  }

  #readZeroes(io: BlockIo, length: number): void {
    for (let left = length; left > 0; left -= ZEROES.length) {
      io.lend(left >= ZEROES.length ? ZEROES : ZEROES.subarray(0, left));
    }
  }

  write(io: BlockIo): void {
    let at = Math.floor(io.offsetBytes / GROUP_BYTES);
    let inGroup = io.offsetBytes - at * GROUP_BYTES;
    const segments = io.segments;
    const count = io.segmentCount;
    for (let s = 0; s < count; s++) {
      const segment = segments[s]!;
      for (let done = 0; done < segment.length; ) {
        const piece = Math.min(segment.length - done, GROUP_BYTES - inGroup);
        const group = this.#groups[at] ?? this.#makeGroup(at);
        group.arena.bytes.set(piece === segment.length ? segment : segment.subarray(done, done + piece), inGroup);
        this.#markAllocated(group, inGroup >>> PAGE_SHIFT, (inGroup + piece - 1) >>> PAGE_SHIFT);
        done += piece;
        inGroup += piece;
        if (inGroup === GROUP_BYTES) {
          inGroup = 0;
          at++;
        }
      }
    }
    io.complete(Status.Success);
  }

  #makeGroup(at: number): Group {
    const group = new Group(this.#groupBytes(at));
    this.#groups[at] = group;
    return group;
  }

  /** The last group of a namespace is as long as it has to be. */
  #groupBytes(at: number): number {
    const left = this.#sizeBytes - at * GROUP_BYTES;
    return left >= GROUP_BYTES ? GROUP_BYTES : Math.ceil(left / PAGE_BYTES) * PAGE_BYTES;
  }

  #markAllocated(group: Group, first: number, last: number): void {
    for (let page = first; page <= last; page++) {
      if (group.allocated[page] !== 0) continue;
      group.allocated[page] = 1;
      group.pageCount++;
      this.#allocatedPages++;
      const hugePage = page >>> HUGE_PAGE_SHIFT;
      if (++group.counts[hugePage]! === PAGES_PER_HUGE_PAGE) group.arena.collapse(hugePage * HUGE_PAGE_BYTES);
    }
  }

  #markDeallocated(group: Group, first: number, end: number): void {
    for (let page = first; page < end; page++) {
      if (group.allocated[page] === 0) continue;
      group.allocated[page] = 0;
      group.pageCount--;
      this.#allocatedPages--;
      group.counts[page >>> HUGE_PAGE_SHIFT]!--;
    }
  }

  flush(io: BlockIo): void {
    io.complete(Status.Success);
  }

  /** The blocks stay allocated unless they may go. */
  writeZeroes(io: BlockIo, mayDeallocate: boolean): void {
    this.#clear(io.offsetBytes, io.lengthBytes, mayDeallocate);
    io.complete(Status.Success);
  }

  deallocate(io: BlockIo): void {
    this.#clear(io.offsetBytes, io.lengthBytes, true);
    io.complete(Status.Success);
  }

  /** Zeroes the range; with `deallocate`, whole pages are given up, and whole slabs with them. */
  #clear(offsetBytes: number, lengthBytes: number, deallocate: boolean): void {
    let at = Math.floor(offsetBytes / GROUP_BYTES);
    let inGroup = offsetBytes - at * GROUP_BYTES;
    for (let left = lengthBytes; left > 0; ) {
      const group = this.#groups[at] ?? (deallocate ? undefined : this.#makeGroup(at));
      const piece = Math.min(left, GROUP_BYTES - inGroup);
      if (group !== undefined) this.#clearInGroup(at, group, inGroup, piece, deallocate);
      left -= piece;
      inGroup = 0;
      at++;
    }
  }

  #clearInGroup(at: number, group: Group, inGroup: number, length: number, deallocate: boolean): void {
    const { arena } = group;
    const end = inGroup + length;
    // pages that it covers in part stay what they are, but for their bytes
    const firstPage = (inGroup + PAGE_BYTES - 1) >>> PAGE_SHIFT;
    const endPage = end >>> PAGE_SHIFT;
    if (!deallocate) {
      arena.bytes.fill(0, inGroup, end);
      this.#markAllocated(group, inGroup >>> PAGE_SHIFT, (end - 1) >>> PAGE_SHIFT);
      return;
    }
    if (firstPage >= endPage) {
      arena.bytes.fill(0, inGroup, end);
      return;
    }
    arena.bytes.fill(0, inGroup, firstPage << PAGE_SHIFT);
    arena.bytes.fill(0, endPage << PAGE_SHIFT, end);
    this.#markDeallocated(group, firstPage, endPage);
    if (group.pageCount === 0) {
      this.#groups[at] = undefined;
      arena.abandoned = true;
    }
    // of memory that the system cannot take back piece by piece, nothing is gained; it reads zero at least
    arena.discard(firstPage << PAGE_SHIFT, (endPage - firstPage) << PAGE_SHIFT);
  }

  async close(): Promise<void> {
    for (const group of this.#groups) if (group !== undefined) group.arena.abandoned = true;
    this.#groups.fill(undefined);
    this.#allocatedPages = 0;
  }
}

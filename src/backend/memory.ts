// @hot
/**
 * Memory backend: sparse. Memory comes in slabs of 128 KiB, made at the first write into them (the system commits their pages as they are
 * touched); what was written is known per 4 KiB page. Reads lend the slab's own memory (no copy); what a slow socket still has to send is
 * pinned, and the next write then goes to a copy of the slab.
 */
import { Status } from '../spec/status.ts';
import { isPinned, pinnedCount } from '../util/pin.ts';
import type { BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

const PAGE_BYTES = 4096;
const PAGE_SHIFT = 12;
const SLAB_BYTES = 128 << 10;
const SLAB_PAGES = SLAB_BYTES / PAGE_BYTES;
const SLAB_PAGES_SHIFT = 5;
/** Bookkeeping comes in groups of 16 MiB, so that terabytes of address space cost nothing until used. */
const GROUP_BYTES = 16 << 20;
const GROUP_PAGES = GROUP_BYTES / PAGE_BYTES;
const GROUP_SLABS = GROUP_BYTES / SLAB_BYTES;

const ZEROES = new Uint8Array(new ArrayBuffer(SLAB_BYTES));
const ZERO_PAGE = ZEROES.subarray(0, PAGE_BYTES);

class Group {
  readonly slabs: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(GROUP_SLABS).fill(undefined);
  /** 1 for each page that was written and not deallocated since. */
  readonly allocated: Uint8Array = new Uint8Array(GROUP_PAGES);
  /** Views of pages that were read, one array for the group: a read by page costs one look-up. */
  readonly views: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(GROUP_PAGES).fill(undefined);
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
  /** A read lends slabs, and a write to a slab that is still being sent goes to a copy: within one slab, a read sees all of a write or nothing. */
  readonly atomicBytes: number = SLAB_BYTES;
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
    const groups = Math.ceil((this.blockSize * blockCount) / GROUP_BYTES);
    while (this.#groups.length < groups) this.#groups.push(undefined);
    this.blockCount = blockCount;
    this.#sizeBytes = this.blockSize * blockCount;
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
    const offset = io.offsetBytes;
    const length = io.lengthBytes;
    let at = Math.floor(offset / GROUP_BYTES);
    let inGroup = offset - at * GROUP_BYTES;
    if (length === PAGE_BYTES && (inGroup & (PAGE_BYTES - 1)) === 0) {
      const group = this.#groups[at];
      io.lend(
        group === undefined ? ZERO_PAGE : (group.views[inGroup >>> PAGE_SHIFT] ?? this.#pageView(group, inGroup)),
      );
      io.complete(Status.Success);
      return;
    }
    for (let left = length; left > 0; ) {
      const inSlab = inGroup & (SLAB_BYTES - 1);
      const piece = Math.min(left, SLAB_BYTES - inSlab);
      const slab = this.#groups[at]?.slabs[Math.floor(inGroup / SLAB_BYTES)] ?? ZEROES;
      io.lend(piece === SLAB_BYTES ? slab : slab.subarray(inSlab, inSlab + piece));
      left -= piece;
      inGroup += piece;
      if (inGroup === GROUP_BYTES) {
        inGroup = 0;
        at++;
      }
    }
    io.complete(Status.Success);
  }

  #pageView(group: Group, inGroup: number): Uint8Array {
    const slab = group.slabs[Math.floor(inGroup / SLAB_BYTES)];
    if (slab === undefined) return ZERO_PAGE;
    const inSlab = inGroup & (SLAB_BYTES - 1);
    const view = slab.subarray(inSlab, inSlab + PAGE_BYTES);
    group.views[inGroup >>> PAGE_SHIFT] = view;
    return view;
  }

  write(io: BlockIo): void {
    let at = Math.floor(io.offsetBytes / GROUP_BYTES);
    let inGroup = io.offsetBytes - at * GROUP_BYTES;
    const segments = io.segments;
    const count = io.segmentCount;
    for (let s = 0; s < count; s++) {
      const segment = segments[s]!;
      for (let done = 0; done < segment.length; ) {
        const inSlab = inGroup & (SLAB_BYTES - 1);
        const piece = Math.min(segment.length - done, SLAB_BYTES - inSlab);
        const group = this.#groups[at] ?? this.#makeGroup(at);
        const slab = this.#writable(group, Math.floor(inGroup / SLAB_BYTES));
        slab.set(piece === segment.length ? segment : segment.subarray(done, done + piece), inSlab);
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
    const group = new Group();
    this.#groups[at] = group;
    return group;
  }

  #markAllocated(group: Group, first: number, last: number): void {
    for (let page = first; page <= last; page++) {
      if (group.allocated[page] === 0) {
        group.allocated[page] = 1;
        this.#allocatedPages++;
      }
    }
  }

  /** The slab to write into: made if there is none, copied if its memory is still being sent. */
  #writable(group: Group, index: number): Uint8Array {
    const slab = group.slabs[index];
    if (slab !== undefined && (pinnedCount === 0 || !isPinned(slab.buffer))) return slab;
    const made = new Uint8Array(new ArrayBuffer(SLAB_BYTES));
    if (slab !== undefined) made.set(slab);
    this.#replace(group, index, made);
    return made;
  }

  #replace(group: Group, index: number, slab: Uint8Array | undefined): void {
    group.slabs[index] = slab;
    group.views.fill(undefined, index << SLAB_PAGES_SHIFT, (index + 1) << SLAB_PAGES_SHIFT);
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
      const inSlab = inGroup & (SLAB_BYTES - 1);
      // what was never written needs no visit
      const piece = Math.min(left, group === undefined ? GROUP_BYTES - inGroup : SLAB_BYTES - inSlab);
      if (group !== undefined) this.#clearInSlab(group, inGroup, piece, deallocate);
      left -= piece;
      inGroup += piece;
      if (inGroup === GROUP_BYTES) {
        inGroup = 0;
        at++;
      }
    }
  }

  #clearInSlab(group: Group, inGroup: number, length: number, deallocate: boolean): void {
    const index = Math.floor(inGroup / SLAB_BYTES);
    const inSlab = inGroup & (SLAB_BYTES - 1);
    if (!deallocate) {
      this.#writable(group, index).fill(0, inSlab, inSlab + length);
      this.#markAllocated(group, inGroup >>> PAGE_SHIFT, (inGroup + length - 1) >>> PAGE_SHIFT);
      return;
    }
    if (group.slabs[index] === undefined) return;
    const first = (inGroup + PAGE_BYTES - 1) >>> PAGE_SHIFT;
    const end = (inGroup + length) >>> PAGE_SHIFT;
    for (let page = first; page < end; page++) {
      if (group.allocated[page] === 1) {
        group.allocated[page] = 0;
        this.#allocatedPages--;
      }
    }
    const slabFirst = index << SLAB_PAGES_SHIFT;
    if (group.allocated.indexOf(1, slabFirst) >= slabFirst + SLAB_PAGES || group.allocated.indexOf(1, slabFirst) < 0) {
      this.#replace(group, index, undefined);
    } else {
      this.#writable(group, index).fill(0, inSlab, inSlab + length);
    }
  }

  async close(): Promise<void> {
    this.#groups.fill(undefined);
    this.#allocatedPages = 0;
  }
}

// @hot
/**
 * Memory backend: sparse, by slabs of 64 KiB made at the first write. Reads lend the slab's own memory (no copy); what a slow socket still
 * has to send is pinned, and the next write then goes to a copy of the slab.
 */
import { Status } from '../spec/status.ts';
import { isPinned } from '../util/pin.ts';
import type { BlockBackend, BlockIo } from './block-backend.ts';

const SLAB_SHIFT = 16;
const SLAB_BYTES = 1 << SLAB_SHIFT;
const PAGE_SHIFT = 12;
const PAGE_BYTES = 1 << PAGE_SHIFT;
const PAGES_PER_SLAB = SLAB_BYTES / PAGE_BYTES;
/** Slabs are kept in groups, so that terabytes of address space cost nothing until used. */
const GROUP_SHIFT = 12;
const GROUP_SLABS = 1 << GROUP_SHIFT;

/** A slab with the views that reads and writes use, made once each. */
class Slab {
  readonly all: Uint8Array;
  readonly #pages: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(PAGES_PER_SLAB).fill(undefined);

  constructor() {
    this.all = new Uint8Array(new ArrayBuffer(SLAB_BYTES));
  }

  page(index: number): Uint8Array {
    const known = this.#pages[index];
    if (known !== undefined) return known;
    const made = this.all.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
    this.#pages[index] = made;
    return made;
  }

  /** The cached view where one exists for this range (a page, the whole slab), else a fresh one. */
  view(offset: number, length: number): Uint8Array {
    if (length === PAGE_BYTES && (offset & (PAGE_BYTES - 1)) === 0) return this.page(offset >>> PAGE_SHIFT);
    if (length === SLAB_BYTES) return this.all;
    return this.all.subarray(offset, offset + length);
  }
}

const ZEROES = new Slab();

/** @public */
export class MemoryBackend implements BlockBackend {
  readonly kind = 'memory';
  readonly blockSize: number;
  readonly blockCount: number;
  readonly volatileWriteCache = false;
  readonly readsZeroAfterDeallocate = true;
  readonly readOnly = false;
  readonly lendsMemory = true;
  readonly #groups: ((Slab | undefined)[] | undefined)[];
  #slabCount = 0;

  constructor(options: { blockSize: number; blockCount: number }) {
    this.blockSize = options.blockSize;
    this.blockCount = options.blockCount;
    const groupBytes = SLAB_BYTES * GROUP_SLABS;
    const groups = Math.ceil((options.blockSize * options.blockCount) / groupBytes);
    this.#groups = new Array<(Slab | undefined)[] | undefined>(groups).fill(undefined);
  }

  allocatedBytes(): number {
    return this.#slabCount * SLAB_BYTES;
  }

  #slab(index: number): Slab | undefined {
    const group = this.#groups[Math.floor(index / GROUP_SLABS)];
    return group === undefined ? undefined : group[index % GROUP_SLABS];
  }

  #setSlab(index: number, slab: Slab | undefined): void {
    const at = Math.floor(index / GROUP_SLABS);
    let group = this.#groups[at];
    if (group === undefined) {
      group = new Array<Slab | undefined>(GROUP_SLABS).fill(undefined);
      this.#groups[at] = group;
    }
    group[index % GROUP_SLABS] = slab;
  }

  /** The slab to write into: made if there is none, copied if its memory is still being sent. */
  #writable(index: number): Slab {
    const slab = this.#slab(index);
    if (slab === undefined) {
      const made = new Slab();
      this.#slabCount++;
      this.#setSlab(index, made);
      return made;
    }
    if (!isPinned(slab.all.buffer)) return slab;
    const copy = new Slab();
    copy.all.set(slab.all);
    this.#setSlab(index, copy);
    return copy;
  }

  read(io: BlockIo): void {
    let index = Math.floor(io.offsetBytes / SLAB_BYTES);
    let offset = io.offsetBytes % SLAB_BYTES;
    let left = io.lengthBytes;
    while (left > 0) {
      const length = Math.min(left, SLAB_BYTES - offset);
      io.lend((this.#slab(index) ?? ZEROES).view(offset, length));
      left -= length;
      offset = 0;
      index++;
    }
    io.complete(Status.Success);
  }

  write(io: BlockIo): void {
    let index = Math.floor(io.offsetBytes / SLAB_BYTES);
    let offset = io.offsetBytes % SLAB_BYTES;
    for (let s = 0; s < io.segmentCount; s++) {
      const segment = io.segments[s]!;
      const total = segment.length;
      if (total <= SLAB_BYTES - offset) {
        const slab = this.#writable(index);
        slab.all.set(segment, offset);
        offset += total;
        if (offset === SLAB_BYTES) {
          offset = 0;
          index++;
        }
        continue;
      }
      for (let done = 0; done < total; ) {
        const length = Math.min(total - done, SLAB_BYTES - offset);
        this.#writable(index).all.set(segment.subarray(done, done + length), offset);
        done += length;
        offset += length;
        if (offset === SLAB_BYTES) {
          offset = 0;
          index++;
        }
      }
    }
    io.complete(Status.Success);
  }

  flush(io: BlockIo): void {
    io.complete(Status.Success);
  }

  writeZeroes(io: BlockIo, _mayDeallocate: boolean): void {
    this.#clear(io);
    io.complete(Status.Success);
  }

  deallocate(io: BlockIo): void {
    this.#clear(io);
    io.complete(Status.Success);
  }

  /** Whole slabs go; parts of slabs are zeroed. */
  #clear(io: BlockIo): void {
    let index = Math.floor(io.offsetBytes / SLAB_BYTES);
    let offset = io.offsetBytes % SLAB_BYTES;
    for (let left = io.lengthBytes; left > 0; ) {
      const length = Math.min(left, SLAB_BYTES - offset);
      if (this.#slab(index) !== undefined) {
        if (length === SLAB_BYTES) {
          this.#setSlab(index, undefined);
          this.#slabCount--;
        } else {
          this.#writable(index).all.fill(0, offset, offset + length);
        }
      }
      left -= length;
      offset = 0;
      index++;
    }
  }

  async close(): Promise<void> {
    this.#groups.fill(undefined);
    this.#slabCount = 0;
  }
}

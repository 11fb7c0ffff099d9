/**
 * Which blocks of a namespace were changed, and which of them only deallocated: two bits a granule, in pages that are made when something in them is
 * named. The newest word on a granule counts.
 */
import { assert } from '../util/assert.ts';
import type { ChangedRun } from './volume.ts';

/** Two bits each: at most 64 MiB, if all of them were changed. */
const GRANULES_MAX = 2 ** 28;
const PAGE_SHIFT = 15;
const PAGE_GRANULES = 1 << PAGE_SHIFT;
const PAGE_WORDS = PAGE_GRANULES >>> 5;
const ALL = 0xffff_ffff;

interface Page {
  readonly changed: Uint32Array;
  /** Of those that are changed. */
  readonly deallocated: Uint32Array;
}

export interface ChangedRuns {
  /** Ascending. */
  readonly runs: ChangedRun[];
  /** Where the next run begins; undefined: these are all. */
  readonly next: number | undefined;
}

export class ChangeSet {
  readonly blockCount: number;
  /** Blocks of a granule, a power of two. */
  readonly granuleBlocks: number;
  readonly #granuleCount: number;
  #pages = new Map<number, Page>();
  /** What has no page: nothing changed, or all of it deallocated. */
  #restIsDeallocated = false;

  constructor(blockCount: number, granulesMax: number = GRANULES_MAX) {
    this.blockCount = blockCount;
    let granuleBlocks = 1;
    while (blockCount / granuleBlocks > granulesMax) granuleBlocks *= 2;
    this.granuleBlocks = granuleBlocks;
    this.#granuleCount = Math.ceil(blockCount / granuleBlocks);
  }

  /** Bytes that it takes. */
  get byteLength(): number {
    return this.#pages.size * PAGE_WORDS * 8;
  }

  /** @param blockCount 1 and more, all within the namespace */
  written(slba: number, blockCount: number): void {
    assert(blockCount > 0 && slba + blockCount <= this.blockCount, 'Changes are within the namespace');
    const last = Math.floor((slba + blockCount - 1) / this.granuleBlocks);
    this.#set(Math.floor(slba / this.granuleBlocks), last, false);
  }

  /** They read zero. A granule that they are only a part of counts as written. */
  deallocated(slba: number, blockCount: number): void {
    assert(blockCount > 0 && slba + blockCount <= this.blockCount, 'Changes are within the namespace');
    const { granuleBlocks } = this;
    const end = slba + blockCount;
    const first = Math.ceil(slba / granuleBlocks);
    const last = (end === this.blockCount ? this.#granuleCount : Math.floor(end / granuleBlocks)) - 1;
    if (first > last) {
      this.written(slba, blockCount);
      return;
    }
    if (first * granuleBlocks > slba) this.#set(first - 1, first - 1, false);
    if ((last + 1) * granuleBlocks < end) this.#set(last + 1, last + 1, false);
    this.#set(first, last, true);
  }

  /** All of it was deallocated, whatever was said before. */
  allDeallocated(): void {
    this.#pages.clear();
    this.#restIsDeallocated = true;
  }

  #set(first: number, last: number, isDeallocated: boolean): void {
    for (let at = first; at <= last; ) {
      const page = at >>> PAGE_SHIFT;
      const end = Math.min(last + 1, (page + 1) * PAGE_GRANULES);
      const { changed, deallocated } = this.#page(page);
      const from = at - page * PAGE_GRANULES;
      const to = end - page * PAGE_GRANULES;
      setBits(changed, from, to, true);
      setBits(deallocated, from, to, isDeallocated);
      at = end;
    }
  }

  #page(index: number): Page {
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = { changed: new Uint32Array(PAGE_WORDS), deallocated: new Uint32Array(PAGE_WORDS) };
      if (this.#restIsDeallocated) {
        const granules = Math.min(PAGE_GRANULES, this.#granuleCount - index * PAGE_GRANULES);
        setBits(page.changed, 0, granules, true);
        setBits(page.deallocated, 0, granules, true);
      }
      this.#pages.set(index, page);
    }
    return page;
  }

  /** @param from a granule: 0, or `next` of the answer before @param runsMax of one answer */
  runs(from: number, runsMax: number): ChangedRuns {
    const found = new RunList(this, runsMax);
    for (let at = from; at < this.#granuleCount; ) {
      const index = at >>> PAGE_SHIFT;
      const start = index * PAGE_GRANULES;
      const end = Math.min(start + PAGE_GRANULES, this.#granuleCount);
      const page = this.#pages.get(index);
      if (page === undefined) found.add(at, end - at, this.#restIsDeallocated ? DEALLOCATED : SAME);
      else addPage(found, page, start, at, end);
      if (found.isFull) return { runs: found.runs, next: found.next };
      at = end;
    }
    found.close();
    return { runs: found.runs, next: undefined };
  }
}

const SAME = 0;
const WRITTEN = 1;
const DEALLOCATED = 2;

function addPage(found: RunList, { changed, deallocated }: Page, start: number, from: number, end: number): void {
  for (let at = from; at < end && !found.isFull; ) {
    const bit = at - start;
    const word = bit >>> 5;
    const isWhole = (bit & 31) === 0 && at + 32 <= end;
    const [c, d] = [changed[word]!, deallocated[word]!];
    if (isWhole && (c === 0 || (c === ALL && (d === 0 || d === ALL)))) {
      found.add(at, 32, c === 0 ? SAME : d === 0 ? WRITTEN : DEALLOCATED);
      at += 32;
    } else {
      const mask = 1 << (bit & 31);
      found.add(at, 1, (c & mask) === 0 ? SAME : (d & mask) === 0 ? WRITTEN : DEALLOCATED);
      at++;
    }
  }
}

/** Neighbours of one kind become one run. */
class RunList {
  readonly runs: ChangedRun[] = [];
  readonly #set: ChangeSet;
  readonly #runsMax: number;
  #kind = SAME;
  #first = 0;
  #count = 0;
  isFull = false;
  /** The first granule that has no place here. */
  next: number | undefined;

  constructor(set: ChangeSet, runsMax: number) {
    this.#set = set;
    this.#runsMax = runsMax;
  }

  add(first: number, count: number, kind: number): void {
    if (this.isFull) return;
    if (kind === this.#kind) {
      this.#count += count;
      return;
    }
    this.close();
    if (kind !== SAME && this.runs.length >= this.#runsMax) {
      this.isFull = true;
      this.next = first;
      return;
    }
    this.#kind = kind;
    this.#first = first;
    this.#count = count;
  }

  close(): void {
    if (this.#kind === SAME || this.#count === 0) return;
    const { granuleBlocks, blockCount } = this.#set;
    const slba = this.#first * granuleBlocks;
    const run = { slba, blockCount: Math.min(this.#count * granuleBlocks, blockCount - slba) };
    this.runs.push(this.#kind === DEALLOCATED ? { ...run, isDeallocated: true } : run);
    this.#kind = SAME;
    this.#count = 0;
  }
}

/** Bits `from` to `to - 1`. */
function setBits(words: Uint32Array, from: number, to: number, isSet: boolean): void {
  for (let at = from; at < to; ) {
    const word = at >>> 5;
    const end = Math.min(to, (word + 1) << 5);
    const count = end - at;
    const mask = count === 32 ? ALL : (((1 << count) - 1) << (at & 31)) >>> 0;
    words[word] = isSet ? words[word]! | mask : words[word]! & ~mask;
    at = end;
  }
}

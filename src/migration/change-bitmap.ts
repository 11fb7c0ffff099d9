// @hot
/**
 * Which granules of a namespace were changed: two generations of a bitmap in shared memory. Changes go into the active one; a reader takes it as a
 * snapshot, reads it as often as it likes, and acknowledges it; what it does not acknowledge is kept. Constant memory, never full: two bits a
 * granule, and two more per 32 granules to find the set ones.
 */
import { assert } from '../util/assert.ts';

const WORD_SHIFT = 5;
const BIT_MASK = 31;

/** Words of one generation and their summary: a bit for each word that is not zero. */
interface Generation {
  readonly words: Uint32Array;
  readonly summary: Uint32Array;
}

/** Granules that were changed, one after the other. */
export interface GranuleRun {
  readonly first: number;
  readonly count: number;
}

export class ChangeBitmap {
  /** Blocks of a granule. */
  readonly granuleBlocks: number;
  /** log2 of that; -1 if it is no power of two. */
  readonly #shift: number;
  #granuleCount: number;
  #active: Generation;
  #snapshot: Generation;
  /** The snapshot that awaits its acknowledgement; 0 if there is none. */
  #epoch = 0;
  #epochs = 0;

  /** @param granuleBlocks 1 and more @param blockCount of the namespace */
  constructor(granuleBlocks: number, blockCount: number) {
    assert(Number.isInteger(granuleBlocks) && granuleBlocks >= 1, 'A granule has one block or more');
    this.granuleBlocks = granuleBlocks;
    const shift = 31 - Math.clz32(granuleBlocks);
    this.#shift = 2 ** shift === granuleBlocks ? shift : -1;
    this.#granuleCount = Math.ceil(blockCount / granuleBlocks);
    this.#active = makeGeneration(this.#granuleCount);
    this.#snapshot = makeGeneration(this.#granuleCount);
  }

  get granuleCount(): number {
    return this.#granuleCount;
  }

  /** Bytes that it takes. */
  get byteLength(): number {
    return 2 * (this.#active.words.byteLength + this.#active.summary.byteLength);
  }

  /** The snapshot that awaits its acknowledgement; 0 if there is none. */
  get epoch(): number {
    return this.#epoch;
  }

  /** Blocks were changed. @param blockCount 1 and more, all within the namespace */
  mark(slba: number, blockCount: number): void {
    const end = slba + blockCount - 1;
    const { words, summary } = this.#active;
    let first: number;
    let last: number;
    if (end <= 0xffff_ffff && this.#shift >= 0) {
      // whole numbers of 32 bits take a third of the time
      first = slba >>> this.#shift;
      last = end >>> this.#shift;
      if (first === last) {
        const word = first >>> WORD_SHIFT;
        words[word] = words[word]! | (1 << (first & BIT_MASK));
        summary[word >>> WORD_SHIFT] = summary[word >>> WORD_SHIFT]! | (1 << (word & BIT_MASK));
        return;
      }
    } else {
      first = Math.floor(slba / this.granuleBlocks);
      last = Math.floor(end / this.granuleBlocks);
    }
    setRange(words, first, last);
    setRange(summary, first >>> WORD_SHIFT, last >>> WORD_SHIFT);
  }

  /** Everything counts as changed. */
  markAll(): void {
    if (this.#granuleCount > 0) this.mark(0, this.#granuleCount * this.granuleBlocks);
  }

  /**
   * The changes up to now become the snapshot; while one awaits its acknowledgement, it stays the same one.
   * @returns its epoch, 1 and more
   */
  takeSnapshot(): number {
    if (this.#epoch === 0) {
      const taken = this.#active;
      this.#active = this.#snapshot;
      this.#snapshot = taken;
      this.#epoch = ++this.#epochs;
    }
    return this.#epoch;
  }

  /** The reader has what the snapshot says. @returns false if that is not the snapshot's epoch: nothing is forgotten then */
  acknowledge(epoch: number): boolean {
    if (epoch === 0 || epoch !== this.#epoch) return false;
    clear(this.#snapshot);
    this.#epoch = 0;
    return true;
  }

  /** The reader is gone: what it did not acknowledge counts as changed again. */
  giveBack(): void {
    if (this.#epoch === 0) return;
    const { words, summary } = this.#snapshot;
    for (let s = 0; s < summary.length; s++) {
      if (summary[s] === 0) continue;
      this.#active.summary[s] = this.#active.summary[s]! | summary[s]!;
      const end = Math.min((s + 1) << WORD_SHIFT, words.length);
      for (let w = s << WORD_SHIFT; w < end; w++) this.#active.words[w] = this.#active.words[w]! | words[w]!;
    }
    clear(this.#snapshot);
    this.#epoch = 0;
  }

  /** The reader has the part of the snapshot before granule `first`; the rest counts as changed again. */
  keepFrom(first: number): void {
    const { words } = this.#snapshot;
    const word = first >>> WORD_SHIFT;
    words.fill(0, 0, word);
    if (word < words.length) words[word] = words[word]! & (-1 << (first & BIT_MASK));
    this.giveBack();
  }

  /** Forgets everything: tracking starts here. */
  reset(): void {
    clear(this.#active);
    clear(this.#snapshot);
    this.#epoch = 0;
  }

  /** The namespace has another size: what is new counts as changed, what is gone is forgotten. */
  resize(blockCount: number): void {
    const before = this.#granuleCount;
    const after = Math.ceil(blockCount / this.granuleBlocks);
    this.#granuleCount = after;
    this.#active = resized(this.#active, before, after);
    this.#snapshot = resized(this.#snapshot, before, after);
    if (after > before) this.mark(before * this.granuleBlocks, (after - before) * this.granuleBlocks);
  }

  /** The first run of changed granules of the snapshot at or after `from`, or undefined. */
  nextRun(from: number): GranuleRun | undefined {
    const { words, summary } = this.#snapshot;
    const first = nextSet(words, summary, from);
    if (first < 0) return undefined;
    const end = nextClear(words, first + 1, this.#granuleCount);
    return { first, count: end - first };
  }

  /** Granules of the snapshot, counted. */
  snapshotCount(): number {
    const { words, summary } = this.#snapshot;
    let count = 0;
    for (let s = 0; s < summary.length; s++) {
      if (summary[s] === 0) continue;
      const end = Math.min((s + 1) << WORD_SHIFT, words.length);
      for (let w = s << WORD_SHIFT; w < end; w++) count += bitCount(words[w]!);
    }
    return count;
  }
}

function makeGeneration(granules: number): Generation {
  const words = (granules + BIT_MASK) >>> WORD_SHIFT;
  const summaries = (words + BIT_MASK) >>> WORD_SHIFT;
  return {
    words: new Uint32Array(new SharedArrayBuffer(words * 4)),
    summary: new Uint32Array(new SharedArrayBuffer(summaries * 4)),
  };
}

function clear(generation: Generation): void {
  const { words, summary } = generation;
  for (let s = 0; s < summary.length; s++) {
    if (summary[s] === 0) continue;
    words.fill(0, s << WORD_SHIFT, (s + 1) << WORD_SHIFT);
    summary[s] = 0;
  }
}

function resized(generation: Generation, before: number, after: number): Generation {
  const made = makeGeneration(after);
  const kept = Math.min(before, after);
  const whole = kept >>> WORD_SHIFT;
  made.words.set(generation.words.subarray(0, whole));
  if ((kept & BIT_MASK) !== 0) made.words[whole] = generation.words[whole]! & ((1 << (kept & BIT_MASK)) - 1);
  for (let w = 0; w < made.words.length; w++) {
    if (made.words[w] !== 0) made.summary[w >>> WORD_SHIFT] = made.summary[w >>> WORD_SHIFT]! | (1 << (w & BIT_MASK));
  }
  return made;
}

/** Sets the bits `first` to `last`. */
function setRange(words: Uint32Array, first: number, last: number): void {
  const firstWord = first >>> WORD_SHIFT;
  const lastWord = last >>> WORD_SHIFT;
  const head = -1 << (first & BIT_MASK);
  const tail = -1 >>> (BIT_MASK - (last & BIT_MASK));
  if (firstWord === lastWord) {
    words[firstWord] = words[firstWord]! | (head & tail);
    return;
  }
  words[firstWord] = words[firstWord]! | head;
  words.fill(0xffff_ffff, firstWord + 1, lastWord);
  words[lastWord] = words[lastWord]! | tail;
}

/** The first set bit at or after `from`, or -1. */
function nextSet(words: Uint32Array, summary: Uint32Array, from: number): number {
  let word = from >>> WORD_SHIFT;
  if (word >= words.length) return -1;
  const here = words[word]! & (-1 << (from & BIT_MASK));
  if (here !== 0) return (word << WORD_SHIFT) + lowestBit(here);
  word++;
  let s = word >>> WORD_SHIFT;
  if (s >= summary.length) return -1;
  let bits = summary[s]! & (-1 << (word & BIT_MASK));
  for (;;) {
    while (bits === 0) {
      if (++s >= summary.length) return -1;
      bits = summary[s]!;
    }
    word = (s << WORD_SHIFT) + lowestBit(bits);
    if (words[word] !== 0) return (word << WORD_SHIFT) + lowestBit(words[word]!);
    bits &= bits - 1; // a word that was cleared while its summary was not
  }
}

/** The first clear bit at or after `from`, or `end`. */
function nextClear(words: Uint32Array, from: number, end: number): number {
  let at = from;
  while (at < end) {
    const inverted = ~words[at >>> WORD_SHIFT]! & (-1 << (at & BIT_MASK));
    if (inverted !== 0) return Math.min((at & ~BIT_MASK) + lowestBit(inverted), end);
    at = (at | BIT_MASK) + 1;
  }
  return end;
}

const lowestBit = (bits: number): number => 31 - Math.clz32(bits & -bits);

function bitCount(value: number): number {
  let bits = value - ((value >>> 1) & 0x5555_5555);
  bits = (bits & 0x3333_3333) + ((bits >>> 2) & 0x3333_3333);
  return (((bits + (bits >>> 4)) & 0x0f0f_0f0f) * 0x0101_0101) >>> 24;
}

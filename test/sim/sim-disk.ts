/** Blocks with a cache that a crash may lose, block by block. Each block holds one value, as a number in every word. */
import type { Random } from '../support/random.ts';
import { TORN } from './oracle.ts';

export const BLOCK_SIZE = 512;
const WORDS = BLOCK_SIZE / 4;

export class SimDisk {
  blockCount: number;
  #bytes: Uint8Array;
  #words: Uint32Array;
  #durable: Uint8Array;
  #allocated: Uint8Array;
  readonly #unflushed = new Set<number>();
  /** Commands with one of these blocks fail. */
  readonly bad: Set<number> = new Set();

  constructor(blockCount: number) {
    this.blockCount = blockCount;
    this.#bytes = new Uint8Array(blockCount * BLOCK_SIZE);
    this.#words = new Uint32Array(this.#bytes.buffer);
    this.#durable = new Uint8Array(blockCount * BLOCK_SIZE);
    this.#allocated = new Uint8Array(blockCount);
  }

  /** Blocks are added, which read as zeroes. */
  grow(blockCount: number): void {
    const grown = (bytes: Uint8Array, size: number): Uint8Array => {
      const more = new Uint8Array(size);
      more.set(bytes);
      return more;
    };
    this.blockCount = blockCount;
    this.#bytes = grown(this.#bytes, blockCount * BLOCK_SIZE);
    this.#words = new Uint32Array(this.#bytes.buffer);
    this.#durable = grown(this.#durable, blockCount * BLOCK_SIZE);
    this.#allocated = grown(this.#allocated, blockCount);
  }

  write(slba: number, data: Uint8Array): void {
    this.#bytes.set(data, slba * BLOCK_SIZE);
    const end = slba + data.length / BLOCK_SIZE;
    for (let i = slba; i < end; i++) {
      this.#allocated[i] = 1;
      this.#unflushed.add(i);
    }
  }

  fill(slba: number, blockCount: number, value: number): void {
    this.#words.fill(value, slba * WORDS, (slba + blockCount) * WORDS);
    for (let i = slba; i < slba + blockCount; i++) {
      this.#allocated[i] = value === 0 ? 0 : 1;
      this.#unflushed.add(i);
    }
  }

  read(slba: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(slba * BLOCK_SIZE, slba * BLOCK_SIZE + into.length));
  }

  values(slba = 0, blockCount: number = this.blockCount): number[] {
    return valuesIn(this.#bytes.subarray(slba * BLOCK_SIZE, (slba + blockCount) * BLOCK_SIZE));
  }

  isAllocated(block: number): boolean {
    return this.#allocated[block] === 1;
  }

  isBad(slba: number, blockCount: number): boolean {
    for (const block of this.bad) if (block >= slba && block < slba + blockCount) return true;
    return false;
  }

  flush(): void {
    for (const block of this.#unflushed) this.#copy(block, this.#bytes, this.#durable);
    this.#unflushed.clear();
  }

  writeThrough(slba: number, blockCount: number): void {
    for (let i = slba; i < slba + blockCount; i++) {
      this.#copy(i, this.#bytes, this.#durable);
      this.#unflushed.delete(i);
    }
  }

  /** Of what was not flushed, chance decides. */
  crash(random: Random): void {
    for (const block of this.#unflushed) {
      if (random.oneIn(2)) continue;
      this.#copy(block, this.#durable, this.#bytes);
      this.#allocated[block] = 1;
    }
    this.flush();
  }

  #copy(block: number, from: Uint8Array, to: Uint8Array): void {
    const at = block * BLOCK_SIZE;
    to.set(from.subarray(at, at + BLOCK_SIZE), at);
  }
}

/** Of whole blocks: one for each, or that it is torn. */
export function valuesIn(bytes: Uint8Array): number[] {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return Array.from({ length: bytes.length / BLOCK_SIZE }, (_, i) => {
    const at = i * WORDS;
    const value = words[at]!;
    for (let word = 1; word < WORDS; word++) if (words[at + word] !== value) return TORN;
    return value;
  });
}

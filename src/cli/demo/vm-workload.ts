/**
 * What the VM of the demo does all the time: mostly writes, each a record that says which block it is and how often that was written; reads compare
 * with what was acknowledged. It keeps book, for the proof at the end.
 */
import type { Guest } from '../../vm/guest.ts';
import type { GuestQueue } from '../../vm/guest-queue.ts';
import { NSID } from './dpu.ts';
import { must } from './say.ts';

export const BLOCK_BYTES = 4096;
const LANES = 8;
const HOT_BLOCKS = 64;
const READ_EVERY = 4;
/** Between two commands of a lane: the VM computes as well. */
const THINK_MS = 2;

/** The record of a block that was written `count` times: 0 never. */
export function recordOf(block: number, count: number): Uint8Array {
  const record = new Uint8Array(BLOCK_BYTES);
  if (count === 0) return record;
  const words = new Uint32Array(record.buffer);
  for (let i = 2; i < words.length; i++) words[i] = (Math.imul(block, 0x9e37_79b9) ^ Math.imul(count, i)) >>> 0;
  words[0] = block;
  words[1] = count;
  return record;
}

export function isRecord(found: Uint8Array, block: number, count: number): boolean {
  return Buffer.compare(found, recordOf(block, count)) === 0;
}

export class VmWorkload {
  readonly #guest: Guest;
  readonly #blocksOfLane: number;
  /** How often the write of a block was acknowledged. */
  readonly acknowledged: Uint32Array;
  writes = 0;
  reads = 0;
  /** The longest that nothing was completed, since it was last set to 0. */
  longestGapMs = 0;
  #lastMs = 0;
  #stopped = false;
  #running: Promise<unknown> | undefined;

  constructor(guest: Guest, blockCount: number) {
    this.#guest = guest;
    this.#blocksOfLane = Math.floor(blockCount / LANES);
    this.acknowledged = new Uint32Array(blockCount);
  }

  /** Writes every `step`-th block once: what is there before the move. */
  async fill(step: number): Promise<void> {
    const lane = async (from: number): Promise<void> => {
      for (let block = from * step; block < this.acknowledged.length; block += LANES * step) await this.#write(block);
    };
    await Promise.all(Array.from({ length: LANES }, (_, i) => lane(i)));
  }

  start(): void {
    this.#lastMs = performance.now();
    this.#running = Promise.all(Array.from({ length: LANES }, (_, i) => this.#lane(i)));
    this.#running.catch(() => {});
  }

  /** No lane begins another command; nobody waits for what is under way. */
  halt(): void {
    this.#stopped = true;
  }

  /** @throws what a lane has found wrong */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  /** @throws what a lane has found wrong meanwhile */
  async until(operations: number): Promise<void> {
    const enough = async (): Promise<void> => {
      while (!this.#stopped && this.writes + this.reads < operations)
        await new Promise((resolve) => setTimeout(resolve, 10));
    };
    await Promise.race([enough(), this.#running]);
  }

  get operations(): number {
    return this.writes + this.reads;
  }

  async #lane(lane: number): Promise<void> {
    const first = lane * this.#blocksOfLane;
    for (let i = 0; !this.#stopped; i++) {
      const isHot = Math.random() < 0.7;
      const block = first + Math.floor(Math.random() * (isHot ? HOT_BLOCKS : this.#blocksOfLane));
      if (i % READ_EVERY === 0) await this.#read(block);
      else await this.#write(block);
      await new Promise((resolve) => setTimeout(resolve, THINK_MS));
    }
  }

  #queue(block: number): GuestQueue {
    const queues = this.#guest.queues;
    return queues[1 + (block % (queues.length - 1))]!;
  }

  async #write(block: number): Promise<void> {
    const count = this.acknowledged[block]! + 1;
    this.writes++;
    await this.#guest.write(NSID, block, recordOf(block, count), 'prp', this.#queue(block));
    this.acknowledged[block] = count;
    this.#completed();
  }

  async #read(block: number): Promise<void> {
    const found = await this.#guest.read(NSID, block, 1, 'prp', this.#queue(block));
    this.reads++;
    this.#completed();
    const count = this.acknowledged[block]!;
    must(isRecord(found, block, count), `block ${block} is not what was written there last (${count})`);
  }

  #completed(): void {
    const nowMs = performance.now();
    this.longestGapMs = Math.max(this.longestGapMs, nowMs - this.#lastMs);
    this.#lastMs = nowMs;
  }
}

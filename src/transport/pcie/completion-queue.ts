// @hot
/**
 * One completion queue in guest memory: entries, phase, head and tail, and when its interrupt is due. A slot is reserved for every command before it
 * is fetched, so that a command that was fetched can always complete; only Async Event Requests, which outlive that, may have to wait for room.
 */
import type { Request } from '../../target/request.ts';
import { CQE_BYTES } from '../../wire/cqe.ts';
import type { GuestMemory } from './guest-memory.ts';

const CQE_DWORDS = CQE_BYTES / 4;
const entry = new DataView(new ArrayBuffer(CQE_BYTES));

export interface CompletionQueueOptions {
  readonly qid: number;
  /** Of slot 0. */
  readonly address: number;
  /** Slots, 2 and more. */
  readonly entries: number;
  readonly vector: number;
  /** IEN. */
  readonly hasInterrupt: boolean;
}

export class CompletionQueue {
  readonly qid: number;
  readonly address: number;
  readonly entries: number;
  readonly vector: number;
  readonly hasInterrupt: boolean;
  readonly #memory: GuestMemory;
  /** Next entry that the guest will consume, as its doorbell says. */
  head = 0;
  /** Next slot to post. */
  tail = 0;
  /** Phase tag of the entry at `tail`. */
  phase = 1;
  /** Slots promised to commands that were fetched. */
  reserved = 0;
  /** Submission queues that complete here. */
  submissionQueues = 0;
  /** Async Event Requests that have completed and wait for room. */
  readonly parked: Request[] = [];
  /** Entries posted since the last interrupt. */
  unsignalled = 0;
  /** Somebody wanted to fetch and found no room. */
  wasShort = false;

  constructor(memory: GuestMemory, options: CompletionQueueOptions) {
    this.#memory = memory;
    this.qid = options.qid;
    this.address = options.address;
    this.entries = options.entries;
    this.vector = options.vector;
    this.hasInterrupt = options.hasInterrupt;
  }

  /** Entries posted and not consumed. */
  get used(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail - this.head + this.entries;
  }

  /** One more command may be fetched: there will be a slot for its completion. */
  get hasRoom(): boolean {
    return this.entries - 1 - this.used > this.reserved;
  }

  /** @returns false if the slot cannot be written: its memory is gone */
  post(dw0: number, dw1: number, sqhd: number, sqid: number, cid: number, status: number): boolean {
    entry.setUint32(0, dw0, true);
    entry.setUint32(4, dw1, true);
    entry.setUint32(8, sqhd | (sqid << 16), true);
    entry.setUint32(12, cid | (this.phase << 16) | (status << 17), true);
    const address = this.address + this.tail * CQE_BYTES;
    if (++this.tail === this.entries) {
      this.tail = 0;
      this.phase ^= 1;
    }
    this.unsignalled++;
    return this.#memory.writeDwords(address, entry, 0, CQE_DWORDS);
  }

  /** The head doorbell. @returns false if that slot is not among the posted ones, or just behind them */
  consume(head: number): boolean {
    if (head >= this.entries) return false;
    const count = head >= this.head ? head - this.head : head - this.head + this.entries;
    if (count > this.used) return false;
    this.head = head;
    return true;
  }

  /** The phase tag that stands in slot 0. */
  get slot0Phase(): number {
    return this.tail > 0 ? this.phase : this.phase ^ 1;
  }

  /** @param slot0Phase as `slot0Phase` */
  restore(head: number, tail: number, slot0Phase: number): void {
    this.head = head;
    this.tail = tail;
    this.phase = tail > 0 ? slot0Phase : slot0Phase ^ 1;
  }
}

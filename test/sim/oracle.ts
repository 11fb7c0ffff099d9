/**
 * What a guest may see: for each block the values that it can hold now. A write that is under way may have happened or not; what is not flushed may
 * be lost with the process that held it; nothing else is allowed. Values, not bytes: a block holds one value throughout, 0 where it was never written.
 */
import { Violation } from './violation.ts';

/** A block that holds more than one value. */
export const TORN = -1;

/** In place of the time of an acknowledgement: the block holds this value, or that of another entry like it. */
const ONE_OF = -1;

interface Written {
  readonly value: number;
  readonly startedAt: number;
  ackedAt: number;
  /** Its process ended after it was executed, as far as is known: a completion that stands in the guest's memory already may be of before. */
  mayBeLost: boolean;
}

class Block {
  /** Values that a read may give now. */
  readonly possible: Set<number> = new Set([0]);
  /** Value of the write that is under way; the guest never has two of a block. */
  pending: Written | undefined;
  /** First what is durable, then what was written since. */
  history: Written[] = [{ value: 0, startedAt: 0, ackedAt: 0, mayBeLost: false }];
}

/** A read that is under way, and what it may still give. */
export interface ReadTicket {
  readonly slba: number;
  readonly allowed: Set<number>[];
  /** Blocks of which it shows what is there now: no write was under way when it began, and no process has ended since. */
  readonly shows: boolean[];
}

export class Oracle {
  readonly name: string;
  readonly #blocks: Block[];
  readonly #reads = new Set<ReadTicket>();
  #time = 0;

  constructor(name: string, blockCount: number) {
    this.name = name;
    this.#blocks = Array.from({ length: blockCount }, () => new Block());
  }

  get blockCount(): number {
    return this.#blocks.length;
  }

  isPending(slba: number, blockCount: number): boolean {
    for (let i = slba; i < slba + blockCount; i++) if (this.#blocks[i]!.pending !== undefined) return true;
    return false;
  }

  writeStarts(slba: number, blockCount: number, value: number): void {
    this.#time++;
    for (let i = slba; i < slba + blockCount; i++) {
      const block = this.#blocks[i]!;
      const written = { value, startedAt: this.#time, ackedAt: Number.POSITIVE_INFINITY, mayBeLost: false };
      block.pending = written;
      block.history.push(written);
      this.#allow(i, value);
    }
  }

  #allow(at: number, value: number): void {
    this.#blocks[at]!.possible.add(value);
    for (const { slba, allowed } of this.#reads) allowed[at - slba]?.add(value);
  }

  /** @param isDurable it was written through */
  writeEnds(slba: number, blockCount: number, isDurable: boolean): void {
    this.#time++;
    for (let i = slba; i < slba + blockCount; i++) {
      const block = this.#blocks[i]!;
      const written = block.pending!;
      written.ackedAt = this.#time;
      block.pending = undefined;
      if (written.mayBeLost && !isDurable) {
        written.ackedAt = ONE_OF;
        continue;
      }
      block.possible.clear();
      block.possible.add(written.value);
      if (isDurable) block.history = [written];
    }
  }

  /** The write that is under way there takes effect, perhaps once more. */
  executed(slba: number, blockCount: number): void {
    for (let i = slba; i < slba + blockCount; i++) {
      const { pending } = this.#blocks[i]!;
      if (pending !== undefined) pending.mayBeLost = false;
    }
  }

  readStarts(slba: number, blockCount: number): ReadTicket {
    const allowed = Array.from({ length: blockCount }, (_, i) => new Set(this.#blocks[slba + i]!.possible));
    const shows = allowed.map((_, i) => this.#blocks[slba + i]!.pending === undefined);
    const ticket = { slba, allowed, shows };
    this.#reads.add(ticket);
    return ticket;
  }

  /** @throws Violation */
  readEnds(ticket: ReadTicket, values: readonly number[]): void {
    this.#reads.delete(ticket);
    values.forEach((value, i) => {
      const at = ticket.slba + i;
      const allowed = ticket.allowed[i]!;
      if (!allowed.has(value)) {
        const found = value === TORN ? 'is torn' : `reads ${value}`;
        throw new Violation(`${this.name}: block ${at} ${found}, allowed: ${[...allowed].join(', ')}`);
      }
      if (ticket.shows[i] === true) this.#seen(this.#blocks[at]!, value);
    });
  }

  /** After a loss, what was seen once is what is there. */
  #seen(block: Block, value: number): void {
    if (block.pending !== undefined || block.possible.size === 1 || !block.possible.has(value)) return;
    block.possible.clear();
    block.possible.add(value);
    block.history = [{ value, startedAt: this.#time, ackedAt: this.#time, mayBeLost: false }];
  }

  flushStarts(): number {
    return ++this.#time;
  }

  /** @param startedAt what was acknowledged before is durable */
  flushEnds(startedAt: number): void {
    for (const block of this.#blocks) {
      let durable = -1;
      block.history.forEach(({ ackedAt }, i) => {
        if (ackedAt !== ONE_OF && ackedAt < startedAt) durable = i;
      });
      if (durable > 0) block.history.splice(0, durable);
    }
  }

  /** The process that served it is gone, with what it had not made durable. */
  crashed(): void {
    for (const { shows } of this.#reads) shows.fill(false);
    this.#blocks.forEach((block, i) => {
      if (block.pending !== undefined) block.pending.mayBeLost = true;
      for (const written of block.history) {
        this.#allow(i, written.value);
        // a flush that is under way, or comes, keeps what is left of them, whichever that is
        if (written !== block.pending) written.ackedAt = ONE_OF;
      }
    });
  }

  /** What was acknowledged is durable where it is now. */
  madeDurable(): void {
    for (const block of this.#blocks) {
      const values = new Set(block.possible);
      block.history = [...values].map((value) => ({ value, startedAt: this.#time, ackedAt: ONE_OF, mayBeLost: false }));
      if (block.pending === undefined) continue;
      block.history = block.history.filter(({ value }) => value !== block.pending!.value);
      block.history.push(block.pending);
    }
  }

  /** What is there at the end. @throws Violation */
  check(values: readonly number[]): void {
    this.readEnds(this.readStarts(0, values.length), values);
  }
}

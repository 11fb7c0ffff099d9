// @hot
/** The I/O loop of `bench`: fixed slots, one callback, nothing allocated per I/O. */
import type { CommandDone } from '../../initiator/queue-pair.ts';
import { LatencyHistogram } from './latency-histogram.ts';

export interface BenchPlan {
  readonly nsid: number;
  readonly blocksPerIo: number;
  readonly ioBytes: number;
  /** First block, and how many I/O-sized pieces follow it. */
  readonly firstBlock: number;
  readonly pieces: number;
  readonly random: boolean;
  /** 0 to 100. */
  readonly readPercent: number;
  readonly verify: boolean;
  readonly seed: number;
}

/** Where a piece was read that does not hold what was written. */
export interface Miscompare {
  readonly block: number;
  readonly byte: number;
}

/** Takes one I/O; false: the connection is lost. */
type Submit = (
  nsid: number,
  slba: number,
  blockCount: number,
  buffer: Uint8Array,
  onDone: CommandDone,
  context: unknown,
) => unknown;

/** Where I/O goes, and how many are kept in flight there. */
export interface BenchLane {
  readonly io: { submitRead: Submit; submitWrite: Submit };
  readonly depth: number;
}

interface Slot {
  readonly loop: BenchLoop;
  readonly io: BenchLane['io'];
  readonly buffer: Uint8Array;
  readonly words: Uint32Array;
  piece: number;
  isRead: boolean;
  startMs: number;
}

export class BenchLoop {
  readonly #plan: BenchPlan;
  readonly #slots: Slot[] = [];
  readonly #expected: Uint8Array;
  readonly #expectedWords: Uint32Array;
  /** One bit per piece: written by us, so that its content is known. */
  readonly #written: Uint8Array;
  readonly readLatency: LatencyHistogram = new LatencyHistogram();
  readonly writeLatency: LatencyHistogram = new LatencyHistogram();
  #active = 0;
  #stopping = false;
  #reading = false;
  #next = 0;
  #random: number;
  #drained: () => void = () => {};
  miscompare: Miscompare | undefined;
  failedStatus = 0;
  verifiedCount = 0;

  constructor(plan: BenchPlan, lanes: readonly BenchLane[]) {
    this.#plan = plan;
    this.#random = plan.seed | 1;
    this.#expected = new Uint8Array(new ArrayBuffer(plan.ioBytes));
    this.#expectedWords = new Uint32Array(this.#expected.buffer);
    this.#written = new Uint8Array(plan.verify ? Math.ceil(plan.pieces / 8) : 0);
    for (const { io, depth } of lanes) {
      for (let i = 0; i < depth; i++) {
        const buffer = new Uint8Array(new ArrayBuffer(plan.ioBytes));
        const words = new Uint32Array(buffer.buffer);
        this.#slots.push({ loop: this, io, buffer, words, piece: 0, isRead: true, startMs: 0 });
        fill(words, plan.seed, i);
      }
    }
  }

  /** I/Os kept in flight. */
  get depth(): number {
    return this.#slots.length;
  }

  get completedCount(): number {
    return this.readLatency.count + this.writeLatency.count;
  }

  /** Runs until `stop`, or the first failure. @returns when nothing is in flight any more */
  run(): Promise<void> {
    this.#stopping = false;
    return this.#start();
  }

  /** Reads back and compares every piece that was written, once. */
  verifyWritten(): Promise<void> {
    this.#stopping = this.miscompare !== undefined || this.failedStatus !== 0;
    this.#reading = true;
    this.#next = 0;
    return this.#start();
  }

  #start(): Promise<void> {
    const drained = new Promise<void>((resolve) => {
      this.#drained = resolve;
    });
    this.#active = this.#slots.length;
    for (const slot of this.#slots) this.#submit(slot);
    return drained;
  }

  stop(): void {
    this.#stopping = true;
  }

  /** A number below `limit`, by xorshift. */
  #randomBelow(limit: number): number {
    let x = this.#random;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#random = x;
    return Math.floor(((x >>> 0) / 0x1_0000_0000) * limit);
  }

  #isWritten(piece: number): boolean {
    return (this.#written[piece >>> 3]! & (1 << (piece & 7))) !== 0;
  }

  /** @returns the next piece to read back, or -1 */
  #nextWritten(): number {
    const { pieces } = this.#plan;
    while (this.#next < pieces) {
      const piece = this.#next++;
      if (this.#isWritten(piece)) return piece;
    }
    return -1;
  }

  #nextPiece(): number {
    if (this.#reading) return this.#nextWritten();
    const { pieces, random } = this.#plan;
    if (random) return this.#randomBelow(pieces);
    const piece = this.#next;
    this.#next = piece + 1 === pieces ? 0 : piece + 1;
    return piece;
  }

  #submit(slot: Slot): void {
    const plan = this.#plan;
    const piece = this.#stopping ? -1 : this.#nextPiece();
    if (piece < 0) {
      if (--this.#active === 0) this.#drained();
      return;
    }
    slot.piece = piece;
    slot.isRead =
      this.#reading ||
      plan.readPercent === 100 ||
      (plan.readPercent !== 0 && this.#randomBelow(100) < plan.readPercent);
    // in a mixed run only what was written can be compared
    if (plan.verify && slot.isRead && plan.readPercent !== 100 && !this.#isWritten(piece)) slot.isRead = false;
    const block = plan.firstBlock + piece * plan.blocksPerIo;
    slot.startMs = performance.now();
    let accepted: unknown;
    if (slot.isRead) {
      accepted = slot.io.submitRead(plan.nsid, block, plan.blocksPerIo, slot.buffer, onDone, slot);
    } else {
      if (plan.verify) fill(slot.words, plan.seed, piece);
      accepted = slot.io.submitWrite(plan.nsid, block, plan.blocksPerIo, slot.buffer, onDone, slot);
    }
    if (accepted !== false) return;
    this.#stopping = true; // the connection is lost
    if (--this.#active === 0) this.#drained();
  }

  completed(status: number, slot: Slot): void {
    if (status !== 0) {
      if (this.failedStatus === 0) this.failedStatus = status;
      this.#stopping = true;
    } else {
      const ns = (performance.now() - slot.startMs) * 1e6;
      if (!this.#reading) (slot.isRead ? this.readLatency : this.writeLatency).add(ns);
      if (this.#plan.verify) this.#check(slot);
    }
    this.#submit(slot);
  }

  #check(slot: Slot): void {
    if (!slot.isRead) {
      this.#written[slot.piece >>> 3]! |= 1 << (slot.piece & 7);
      return;
    }
    this.verifiedCount++;
    fill(this.#expectedWords, this.#plan.seed, slot.piece);
    if (Buffer.compare(slot.buffer, this.#expected) === 0) return;
    const block = this.#plan.firstBlock + slot.piece * this.#plan.blocksPerIo;
    this.miscompare ??= { block, byte: slot.buffer.findIndex((byte, i) => byte !== this.#expected[i]) };
    this.#stopping = true;
  }

  clearStatistics(): void {
    this.readLatency.clear();
    this.writeLatency.clear();
  }
}

const onDone: CommandDone = (status, _result, context) => {
  const slot = context as Slot;
  slot.loop.completed(status, slot);
};

/** Content that depends on the seed, the piece and the place in it. */
function fill(words: Uint32Array, seed: number, piece: number): void {
  let x = (Math.imul(piece + 1, 0x9e3779b1) ^ seed) | 1;
  for (let i = 0; i < words.length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    words[i] = x;
  }
}

// @hot
/**
 * The queues of one function: doorbells (registers, or shadow doorbells in guest memory), arbitration, room for completions, and when an interrupt is
 * due. NVMe PCIe Transport 1.1 section 3; Base 2.1 sections 3.4.4 (arbitration), 8.2.8 (interrupt coalescing), B.5 (shadow doorbells).
 */
import type { QueuePair, QueueTransport } from '../../target/queue-pair.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { CompletionQueue, type CompletionQueueOptions } from './completion-queue.ts';
import { DataPointer } from './data-pointer.ts';
import type { GuestMemory } from './guest-memory.ts';
import type { Interrupts } from './interrupts.ts';
import { type QueueOwner, SubmissionQueue, type SubmissionQueueOptions } from './submission-queue.ts';

/** AEI of error events. */
export const DoorbellError = { InvalidRegister: 0, InvalidValue: 1 } as const;
/** No queue keeps others waiting for longer than this many commands, whatever burst the guest asks for. */
const BURST_MAX = 32;
const ARBITRATION_UNLIMITED = 7;
const BUFFER_BYTES_MAX = 64 << 20;
/** Commands of queues that are gone, which a backend still has: beyond, the function waits for it. */
const LINGERING_MAX = 4096;
const COALESCING_UNIT_MS = 0.1;

/** What the function says of itself and hears from its queues. */
export interface QueueSetOwner {
  readonly fetches: boolean;
  /** The controller is suspended, or the function stopped: what is signalled is signalled now. */
  readonly quiesces: boolean;
  work(): void;
  released(): void;
  fatal(reason: string): void;
  /** @param error `DoorbellError` */
  doorbellError(error: number): void;
  /** CDW11 of feature 01h. */
  readonly arbitration: number;
  /** CDW11 of feature 08h. */
  readonly coalescing: number;
  /** Feature 09h: CD of that vector. */
  coalescingDisabled(vector: number): boolean;
}

export class QueueSet implements QueueOwner {
  readonly memory: GuestMemory;
  readonly pointer: DataPointer;
  readonly bufferBytesMax: number = BUFFER_BYTES_MAX;
  bufferBytes = 0;
  lingering = 0;
  readonly #owner: QueueSetOwner;
  readonly #interrupts: Interrupts;
  readonly #clock: Clock;
  /** Bytes between two doorbells. */
  readonly #strideBytes: number;
  readonly #submission: (SubmissionQueue | undefined)[] = [];
  readonly #completion: (CompletionQueue | undefined)[] = [];
  /** I/O submission queues in the order in which they are served, and who is next. */
  readonly #order: SubmissionQueue[] = [];
  #next = 0;
  #timer: Timer | undefined;
  /** Shadow doorbells are in use. */
  hasShadow = false;
  shadowAddress = 0;
  eventIndexAddress = 0;
  /** What stands in the event index of each doorbell, by its index; -1: not written yet. */
  readonly #eventIndexes: number[] = [];
  readonly #dword = new DataView(new ArrayBuffer(4));

  constructor(owner: QueueSetOwner, memory: GuestMemory, interrupts: Interrupts, clock: Clock, strideBytes: number) {
    this.#owner = owner;
    this.memory = memory;
    this.pointer = new DataPointer(memory);
    this.#interrupts = interrupts;
    this.#clock = clock;
    this.#strideBytes = strideBytes;
  }

  // ---- QueueOwner -----------------------------------------------------------------------------------------------------------------

  get fetches(): boolean {
    return this.#owner.fetches && this.lingering < LINGERING_MAX;
  }

  work(): void {
    this.#owner.work();
  }

  posted(queue: CompletionQueue): void {
    if (this.#owner.quiesces) this.#signal(queue);
  }

  released(): void {
    this.#owner.released();
  }

  fatal(reason: string): void {
    this.#owner.fatal(reason);
  }

  // ---- queues come and go ---------------------------------------------------------------------------------------------------------

  submissionQueue(qid: number): SubmissionQueue | undefined {
    return this.#submission[qid];
  }

  completionQueue(qid: number): CompletionQueue | undefined {
    return this.#completion[qid];
  }

  get submissionQueues(): SubmissionQueue[] {
    return this.#submission.filter((queue) => queue !== undefined);
  }

  get completionQueues(): CompletionQueue[] {
    return this.#completion.filter((queue) => queue !== undefined);
  }

  addCompletionQueue(options: CompletionQueueOptions): CompletionQueue {
    const queue = new CompletionQueue(this.memory, options);
    this.#completion[options.qid] = queue;
    this.#eventIndexes[options.qid * 2 + 1] = -1;
    return queue;
  }

  addSubmissionQueue(
    options: SubmissionQueueOptions,
    completionQueue: CompletionQueue,
    makePair: (transport: QueueTransport) => QueuePair,
  ): SubmissionQueue {
    const queue = new SubmissionQueue(this, completionQueue, options, makePair);
    this.#submission[options.qid] = queue;
    this.#eventIndexes[options.qid * 2] = -1;
    if (options.qid > 0) this.#order.push(queue);
    return queue;
  }

  deleteCompletionQueue(qid: number): boolean {
    const queue = this.#completion[qid];
    if (queue === undefined || queue.submissionQueues > 0) return false;
    this.#completion[qid] = undefined;
    return true;
  }

  deleteSubmissionQueue(qid: number, done: () => void): void {
    this.#submission[qid]!.drain(() => {
      this.#forget(qid);
      done();
    });
  }

  #forget(qid: number): void {
    const queue = this.#submission[qid];
    this.#submission[qid] = undefined;
    const at = queue === undefined ? -1 : this.#order.indexOf(queue);
    if (at < 0) return;
    this.#order.splice(at, 1);
    if (this.#next > at) this.#next--;
  }

  /** Every queue goes; those who own a queue pair have closed it, or it is closed now. */
  clear(): void {
    for (const queue of this.#submission) queue?.close('controller reset');
    this.#submission.length = 0;
    this.#completion.length = 0;
    this.#order.length = 0;
    this.#next = 0;
    this.#eventIndexes.length = 0;
    this.hasShadow = false;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.pointer.forget();
    this.#interrupts.setPin(false);
  }

  // ---- doorbells ------------------------------------------------------------------------------------------------------------------

  /** A doorbell register was written. @param index 2 x qid for a submission queue's tail, one more for a completion queue's head */
  doorbell(index: number, value: number): void {
    const qid = index >>> 1;
    const isKnown = (index & 1) === 0 ? this.#submission[qid] !== undefined : this.#completion[qid] !== undefined;
    if (!isKnown) {
      this.#owner.doorbellError(DoorbellError.InvalidRegister);
      return;
    }
    // what the guest says in memory counts
    if (!this.#isShadowed(index)) this.#ring(index, value & 0xffff);
    this.#owner.work();
  }

  #ring(index: number, value: number): void {
    const qid = index >>> 1;
    if ((index & 1) === 0) {
      const queue = this.#submission[qid]!;
      if (value !== queue.tail && !queue.submit(value)) this.#owner.doorbellError(DoorbellError.InvalidValue);
      return;
    }
    const queue = this.#completion[qid]!;
    if (value === queue.head) return;
    if (!queue.consume(value)) {
      this.#owner.doorbellError(DoorbellError.InvalidValue);
      return;
    }
    queue.wasShort = false;
    if (queue.parked.length > 0 && !this.#owner.quiesces) this.unpark();
    this.updatePin();
  }

  /** Async Event Requests that waited for room complete, as far as there is room. */
  unpark(): void {
    for (const queue of this.#completion) {
      while (queue !== undefined && queue.parked.length > 0 && queue.hasRoom) {
        const request = queue.parked.shift()!;
        (request.queuePair.transport as SubmissionQueue).unpark(request);
      }
    }
  }

  /** Admin queues have none, nor have queues whose doorbell would stand behind the page. */
  #isShadowed(index: number): boolean {
    return this.hasShadow && index >= 2 && (index + 1) * this.#strideBytes <= this.pointer.pageBytes;
  }

  setShadow(shadowAddress: number, eventIndexAddress: number): void {
    this.hasShadow = true;
    this.shadowAddress = shadowAddress;
    this.eventIndexAddress = eventIndexAddress;
    this.#eventIndexes.fill(-1);
  }

  /** Looks what stands in the shadow doorbells. @returns true if there was something new */
  readShadow(): boolean {
    if (!this.hasShadow) return false;
    let changed = false;
    for (let qid = 1; qid < this.#completion.length; qid++) {
      const queue = this.#completion[qid];
      if (queue === undefined || !this.#isShadowed(2 * qid + 1)) continue;
      const head = this.#loadShadow(2 * qid + 1);
      if (head >= 0 && head !== queue.head) {
        this.#ring(2 * qid + 1, head);
        changed ||= queue.head === head;
      }
    }
    for (const queue of this.#order) {
      if (!this.#isShadowed(2 * queue.qid)) continue;
      const tail = this.#loadShadow(2 * queue.qid);
      if (tail >= 0 && tail !== queue.tail) {
        this.#ring(2 * queue.qid, tail);
        changed ||= queue.tail === tail;
      }
    }
    return changed;
  }

  #loadShadow(index: number): number {
    const value = this.memory.loadDword(this.shadowAddress + index * this.#strideBytes);
    return value < 0 ? -1 : value & 0xffff;
  }

  /**
   * Nothing is left to do: from here on the guest rings the register for the next command, and for completions that it has consumed where
   * somebody waits for that. @returns true if it has rung in memory meanwhile
   */
  #arm(): boolean {
    for (const queue of this.#order) this.#setEventIndex(2 * queue.qid, queue.tail);
    const wantsAll = this.#interrupts.pinEnabled;
    for (let qid = 1; qid < this.#completion.length; qid++) {
      const queue = this.#completion[qid];
      if (queue === undefined) continue;
      if (wantsAll || queue.wasShort || queue.parked.length > 0) this.#setEventIndex(2 * qid + 1, queue.head);
    }
    return this.readShadow();
  }

  #setEventIndex(index: number, value: number): void {
    if (!this.#isShadowed(index) || this.#eventIndexes[index] === value) return;
    this.#eventIndexes[index] = value;
    this.#dword.setUint32(0, value, true);
    this.memory.writeDwords(this.eventIndexAddress + index * this.#strideBytes, this.#dword, 0, 1);
  }

  // ---- arbitration ----------------------------------------------------------------------------------------------------------------

  /** Serves the queues in turn, the admin queue before each round. @returns true if there is more to do than that */
  serve(commandsMax: number): boolean {
    let left = commandsMax;
    this.readShadow();
    const exponent = this.#owner.arbitration & 0x7;
    const burst = exponent === ARBITRATION_UNLIMITED ? BURST_MAX : Math.min(BURST_MAX, 1 << exponent);
    for (;;) {
      const before = left;
      left -= this.#submission[0]?.serve(Math.min(burst, left)) ?? 0;
      // a command may add or delete queues
      for (let i = 0; i < this.#order.length && left > 0; i++) {
        if (this.#next >= this.#order.length) this.#next = 0;
        left -= this.#order[this.#next++]!.serve(Math.min(burst, left));
      }
      if (left === 0) return true;
      if (left === before && !(this.hasShadow && this.#owner.fetches && this.#arm())) return false;
    }
  }

  // ---- interrupts -----------------------------------------------------------------------------------------------------------------

  /** Interrupts for what was posted since the last time, but for what is held back to come with more. */
  signal(): void {
    let held = false;
    const { coalescing } = this.#owner;
    const threshold = coalescing & 0xff;
    const timeUnits = (coalescing >>> 8) & 0xff;
    for (let qid = 0; qid < this.#completion.length; qid++) {
      const queue = this.#completion[qid];
      if (queue === undefined || queue.unsignalled === 0) continue;
      const coalesces =
        qid > 0 &&
        threshold > 0 &&
        timeUnits > 0 &&
        queue.unsignalled <= threshold &&
        !this.#owner.coalescingDisabled(queue.vector);
      if (coalesces && !this.#owner.quiesces) held = true;
      else this.#signal(queue);
    }
    if (held) this.#timer ??= this.#clock.setTimer(() => this.#timeIsUp(), timeUnits * COALESCING_UNIT_MS);
    this.updatePin();
  }

  #timeIsUp(): void {
    this.#timer = undefined;
    for (const queue of this.#completion) if (queue !== undefined) this.#signal(queue);
    this.updatePin();
  }

  #signal(queue: CompletionQueue): void {
    if (queue.unsignalled === 0) return;
    queue.unsignalled = 0;
    if (!queue.hasInterrupt) return;
    const { writer } = this.memory;
    if (writer === undefined) this.#interrupts.raise(queue.vector);
    else writer.fence(() => this.#interrupts.raise(queue.vector));
  }

  /** One interrupt for each queue with entries that the guest has not consumed: it may have missed the one that was raised. */
  signalAgain(): void {
    for (const queue of this.#completion) {
      if (queue === undefined || queue.used === 0) continue;
      queue.unsignalled = Math.max(queue.unsignalled, 1);
      this.#signal(queue);
    }
    this.updatePin();
  }

  /** The pin is asserted while a queue with interrupts has entries that were signalled, and INTMS does not mask its vector. */
  updatePin(): void {
    const asserted = this.#pinLevel();
    const { writer } = this.memory;
    if (!asserted || writer === undefined) this.#interrupts.setPin(asserted);
    else writer.fence(() => this.#interrupts.setPin(this.#pinLevel()));
  }

  #pinLevel(): boolean {
    if (!this.#interrupts.pinEnabled) return false;
    for (const queue of this.#completion) {
      if (queue === undefined || !queue.hasInterrupt || queue.used <= queue.unsignalled) continue;
      if (!this.#interrupts.isMaskedByRegister(queue.vector)) return true;
    }
    return false;
  }
}

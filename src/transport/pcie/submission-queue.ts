// @hot
/**
 * One submission queue in guest memory: fetches commands, moves their data, completes them. The guest's end of one QueuePair of the core. A command
 * is fetched only when it can be completed whatever happens: there is a slot for it here, one for its entry in the completion queue, and memory for
 * its data.
 */
import { DNR, MORE, Status } from '../../spec/status.ts';
import type { QueuePair, QueueTransport } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import { assert } from '../../util/assert.ts';
import { SQE_BYTES } from '../../wire/sqe.ts';
import type { CompletionQueue } from './completion-queue.ts';
import { type DataPointer, NOWHERE } from './data-pointer.ts';
import type { GuestMemory } from './guest-memory.ts';

const SQE_DWORDS = SQE_BYTES / 4;
/** Bits of `Request.transportState`: a slot of the completion queue is reserved for it. */
const RESERVED = 1;

/** The function, as its queues need it. */
export interface QueueOwner {
  readonly memory: GuestMemory;
  readonly pointer: DataPointer;
  /** Commands may be fetched: the controller is ready, the function is not stopped. */
  readonly fetches: boolean;
  /** Bytes of buffers that commands hold. */
  bufferBytes: number;
  readonly bufferBytesMax: number;
  /** Commands of queues that are gone, which a backend still has. */
  lingering: number;
  /** There may be something to do. */
  work(): void;
  /** An entry was posted there. */
  posted(queue: CompletionQueue): void;
  /** A command has come to its end. */
  released(): void;
  /** Nothing works any more until the controller is reset. */
  fatal(reason: string): void;
}

export interface SubmissionQueueOptions {
  readonly qid: number;
  readonly address: number;
  /** 2 and more. */
  readonly entries: number;
  /** QPRIO as it was given; all queues are served alike. */
  readonly priority: number;
}

export class SubmissionQueue implements QueueTransport {
  readonly peer = 'pcie';
  /** Answers are copied to the guest before `complete` returns. */
  readonly sendsByPlace = true;
  readonly qid: number;
  readonly address: number;
  readonly entries: number;
  readonly priority: number;
  readonly completionQueue: CompletionQueue;
  readonly #owner: QueueOwner;
  readonly #memory: GuestMemory;
  readonly #pair: QueuePair;
  /** Next command to fetch. */
  head = 0;
  /** As its doorbell says. */
  tail = 0;
  #closed = false;
  /** It is being deleted: nothing is fetched any more, and this is called when everything has completed. */
  #onEmpty: (() => void) | undefined;

  /** @param makePair the core's end of it */
  constructor(
    owner: QueueOwner,
    completionQueue: CompletionQueue,
    options: SubmissionQueueOptions,
    makePair: (transport: QueueTransport) => QueuePair,
  ) {
    this.#owner = owner;
    this.#memory = owner.memory;
    this.completionQueue = completionQueue;
    this.qid = options.qid;
    this.address = options.address;
    this.entries = options.entries;
    this.priority = options.priority;
    completionQueue.submissionQueues++;
    this.#pair = makePair(this);
  }

  get pair(): QueuePair {
    return this.#pair;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  connected(): void {}

  /** Commands in the queue that were not fetched. */
  get waiting(): number {
    return this.tail >= this.head ? this.tail - this.head : this.tail - this.head + this.entries;
  }

  /** The tail doorbell. @returns false if the value is no slot, or runs over commands that were not fetched */
  submit(tail: number): boolean {
    if (tail >= this.entries) return false;
    const added = tail >= this.tail ? tail - this.tail : tail - this.tail + this.entries;
    if (added + this.waiting >= this.entries) return false;
    this.tail = tail;
    return true;
  }

  // ---- fetch ----------------------------------------------------------------------------------------------------------------------

  /** Fetches and starts up to `commandsMax` commands. @returns how many */
  serve(commandsMax: number): number {
    let count = 0;
    while (count < commandsMax && this.#mayFetch() && this.#fetch()) count++;
    return count;
  }

  #mayFetch(): boolean {
    if (this.head === this.tail || this.#closed || this.#onEmpty !== undefined) return false;
    if (this.#pair.suspended || !this.#owner.fetches) return false;
    if (!this.completionQueue.hasRoom) {
      this.completionQueue.wasShort = true;
      return false;
    }
    // the second of a fused pair never waits for what its own first holds
    return this.#owner.bufferBytes < this.#owner.bufferBytesMax || this.#pair.expectsSecond;
  }

  #fetch(): boolean {
    const pair = this.#pair;
    const request = pair.acquire();
    if (request === undefined) return false;
    if (!this.#memory.readDwords(this.address + this.head * SQE_BYTES, SQE_DWORDS, request.sqe, request.sqeBase)) {
      pair.release(request);
      this.#owner.fatal(`Submission queue ${this.qid} is not in guest memory`);
      return false;
    }
    if (++this.head === this.entries) this.head = 0;
    this.completionQueue.reserved++;
    request.transportState = RESERVED;
    let status = pair.prepare(request);
    if (status === 0 && request.transferBytes > 0) {
      status = this.#owner.pointer.resolve(request);
      if (status === 0 && request.direction === 1) status = this.#gather(request);
    }
    if (status !== 0) {
      request.finish(status);
      return true;
    }
    if (request.bufferBytes > 0) this.#count(request, request.bufferBytes);
    pair.execute(request);
    if (request.inUse && request.transportState === RESERVED) this.#started(request);
    return true;
  }

  /** It is under way, and goes on after this call. */
  #started(request: Request): void {
    assert(!request.transient, 'A backend kept data of the guest without retain()');
    if (request.isAsyncEvent) {
      request.transportState = 0;
      this.completionQueue.reserved--;
    } else if (request.countedBytes === 0 && request.holdsBuffer) {
      this.#count(request, request.transferBytes);
    }
  }

  #count(request: Request, bytes: number): void {
    request.countedBytes += bytes;
    this.#owner.bufferBytes += bytes;
  }

  /** The data of a write: guest memory itself where the command only passes it on and it is in one piece, else a copy that nobody changes. */
  #gather(request: Request): number {
    const { pointer } = this.#owner;
    const { addresses, lengths, count } = pointer;
    if (count === 1 && request.passesDataOn) {
      const piece = this.#memory.piece(addresses[0]!, lengths[0]!);
      if (piece !== undefined) {
        request.segments[0] = piece;
        request.segmentCount = 1;
        request.transient = true;
        return 0;
      }
    }
    const bytes = request.transferBytes;
    const buffer = request.hold(bytes);
    this.#count(request, bytes);
    let offset = 0;
    for (let i = 0; i < count; i++) {
      if (!this.#memory.read(addresses[i]!, lengths[i]!, buffer, offset)) return Status.DataTransferError | DNR;
      offset += lengths[i]!;
    }
    return 0;
  }

  // ---- completion -----------------------------------------------------------------------------------------------------------------

  complete(request: Request): void {
    if (this.#closed) {
      this.#release(request);
      return;
    }
    const queue = this.completionQueue;
    if (request.transportState !== RESERVED && !queue.hasRoom) {
      queue.parked.push(request);
      return;
    }
    this.#post(request);
  }

  #post(request: Request): void {
    const queue = this.completionQueue;
    let status = request.status;
    if (status === 0 && request.direction === 2 && request.answerBytes > 0) status = this.#scatter(request);
    if (request.transportState === RESERVED) queue.reserved--;
    const posted = queue.post(request.result0, request.result1, this.head, this.qid, request.cid, status);
    this.#owner.posted(queue);
    this.#release(request);
    if (!posted) this.#owner.fatal(`Completion queue ${queue.qid} is not in guest memory`);
  }

  /** An Async Event Request that waited for room has it. */
  unpark(request: Request): void {
    this.#post(request);
  }

  /** The answer, into guest memory as it is mapped now. */
  #scatter(request: Request): number {
    const { pointer } = this.#owner;
    const status = pointer.resolveAgain(request);
    // it was judged, and logged or not, when it was fetched
    if (status !== 0) return status & ~MORE;
    const { addresses, lengths, count } = pointer;
    const { segments, placed } = request;
    let left = request.answerBytes;
    let segment = 0;
    let from = placed ? this.#startOf(request, 0) : 0;
    let end = placed ? this.#endOf(request, 0) : segments[0]!.length;
    for (let i = 0; i < count && left > 0; i++) {
      let address = addresses[i]!;
      let room = Math.min(lengths[i]!, left);
      left -= room;
      while (room > 0) {
        const source = segments[segment]!;
        const take = Math.min(room, end - from);
        if (address !== NOWHERE) {
          if (!this.#memory.write(address, source, from, take)) return Status.DataTransferError | DNR;
          address += take;
        }
        room -= take;
        from += take;
        if (from === end && ++segment < request.segmentCount) {
          from = placed ? this.#startOf(request, segment) : 0;
          end = placed ? this.#endOf(request, segment) : segments[segment]!.length;
        }
      }
    }
    return 0;
  }

  /** Where that segment of the answer begins in its memory. */
  #startOf(request: Request, segment: number): number {
    return request.arenas[segment] === undefined ? 0 : request.offsets[segment]!;
  }

  #endOf(request: Request, segment: number): number {
    if (request.arenas[segment] === undefined) return request.segments[segment]!.length;
    return request.offsets[segment]! + request.lengths[segment]!;
  }

  #release(request: Request): void {
    const owner = this.#owner;
    owner.bufferBytes -= request.countedBytes;
    if (this.#closed) owner.lingering--;
    owner.pointer.forget();
    this.#pair.release(request);
    owner.released();
    if (this.#onEmpty !== undefined) this.#checkEmpty();
  }

  // ---- life -----------------------------------------------------------------------------------------------------------------------

  /** Nothing of ours waits outside of the core. */
  abort(): boolean {
    return false;
  }

  /** The controller is suspended: the first of a fused pair whose second did not come counts as not fetched. */
  suspend(): void {
    const first = this.#pair.takeBackFirst();
    if (first === undefined) return;
    this.head = this.head === 0 ? this.entries - 1 : this.head - 1;
    this.completionQueue.reserved--;
    this.#release(first);
  }

  /** The controller fetches again. */
  resume(): void {
    this.#owner.work();
  }

  /** Fetches nothing any more; calls `done` when everything that was fetched has completed, at once if nothing was. */
  drain(done: () => void): void {
    this.#onEmpty = done;
    const first = this.#pair.takeBackFirst();
    if (first === undefined) this.#checkEmpty();
    else first.finish(Status.AbortedSqDeletion | DNR);
  }

  get isDraining(): boolean {
    return this.#onEmpty !== undefined;
  }

  #checkEmpty(): void {
    const done = this.#onEmpty;
    if (done === undefined || this.#pair.outstanding > 0) return;
    this.#onEmpty = undefined;
    this.close('deleted');
    done();
  }

  /** The queue is gone: commands that a backend has end without a trace. Idempotent. */
  close(reason: string): void {
    if (this.#closed) return;
    this.#onEmpty = undefined;
    const queue = this.completionQueue;
    queue.submissionQueues--;
    for (const request of this.#pair.requests) {
      if (request.inUse && request.transportState === RESERVED) queue.reserved--;
    }
    const first = this.#pair.takeBackFirst();
    if (first !== undefined) this.#release(first);
    for (let i = queue.parked.length - 1; i >= 0; i--) {
      const request = queue.parked[i]!;
      if (request.queuePair !== this.#pair) continue;
      queue.parked.splice(i, 1);
      this.#release(request);
    }
    this.#closed = true;
    this.#owner.lingering += this.#pair.outstanding;
    this.#pair.detached(reason);
  }
}

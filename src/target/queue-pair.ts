// @hot
/**
 * One SQ/CQ pair: its slots, SQHD, and the way of a command: acquire -> (transport copies the SQE) -> prepare -> (transport moves the data) ->
 * execute -> completed -> (transport sends the answer) -> release. Knows neither sockets nor guest memory.
 */
import { AdminOpcode, FABRICS_OPCODE } from '../spec/opcode.ts';
import { DNR, MORE, STATUS_CODE_MASK, Status } from '../spec/status.ts';
import { assert } from '../util/assert.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import { SQE_BYTES, sqeCid, sqeFlags, sqeOpcode } from '../wire/sqe.ts';
import type { CommandSet } from './commands/command-set.ts';
import type { Controller } from './controller.ts';
import { FusedPairs } from './fused-pairs.ts';
import type { Namespace } from './namespace.ts';
import { GateState } from './range-gate.ts';
import { NO_ERROR_LOCATION, Phase, Request } from './request.ts';
import type { Step } from './step.ts';

/** What the core needs from the transport of one queue pair. */
export interface QueueTransport {
  /** It sends memory of arenas by place (`Request.placed`), and copies what it cannot send at once. Without: what is lent is copied. */
  readonly sendsByPlace?: boolean;
  /** The request is complete: send status and, if it moves data to the host, `segments`; then call `QueuePair.release`. */
  complete(request: Request): void;
  /** Connect succeeded on this queue. */
  connected(): void;
  /** Takes back a request that has not reached the backend and completes it as aborted; false if it is too late. */
  abort(request: Request): boolean;
  /** Its controller is suspended: from now on nothing is fetched. */
  suspend?(): void;
  /** Its controller fetches again: executes what `QueuePair.holds` kept back, in order; or, with `drop`, releases it. */
  resume?(drop: boolean): void;
  /** Closes the connection (or deletes the queue); idempotent. `reason` is for the log. */
  close(reason: string): void;
  /** For logs and `list` views: the peer's address. */
  readonly peer: string;
  /** Our own address as this host reached it; absent where the transport has none. */
  readonly localAddress?: string | undefined;
}

export class QueuePair {
  readonly transport: QueueTransport;
  readonly #pool: BufferPool;
  /** Undefined until Connect succeeded. */
  controller: Controller | undefined = undefined;
  commandSet: CommandSet;
  qid = 0;
  /** Entries of the submission queue; as many commands may be outstanding. */
  depth = 0;
  sqhd = 0;
  /** DISSQFC was accepted: SQHD is not reported. */
  flowControl = true;
  /** Its commands come from a queue in host memory: their data may be named by PRPs, that of Admin commands only by PRPs. */
  inHostMemory = false;
  requests: Request[] = [];
  #free: Int32Array = new Int32Array(0);
  #freeCount = 0;
  /** CID of each slot, -1 if free. */
  #cids: Int32Array = new Int32Array(0);
  #sqes: DataView = new DataView(new ArrayBuffer(0));
  closed = false;
  /** Its controller is suspended. */
  suspended = false;
  readonly #fused = new FusedPairs();
  /** Of commands that change blocks by several operations, while they run; made by the first. */
  #steps: Set<Step> | undefined = undefined;

  /** @param commandSet what is served before Connect */
  constructor(transport: QueueTransport, commandSet: CommandSet, pool: BufferPool, depth: number) {
    this.transport = transport;
    this.commandSet = commandSet;
    this.#pool = pool;
    this.#allocate(depth);
  }

  #allocate(depth: number): void {
    const first = this.requests.length;
    if (depth > first) {
      this.#sqes = new DataView(new ArrayBuffer((depth - first) * SQE_BYTES));
      const cids = new Int32Array(depth).fill(-1);
      cids.set(this.#cids);
      this.#cids = cids;
      const free = new Int32Array(depth);
      free.set(this.#free.subarray(0, this.#freeCount));
      this.#free = free;
      for (let slot = depth - 1; slot >= first; slot--) this.#free[this.#freeCount++] = slot;
      for (let slot = first; slot < depth; slot++) {
        this.requests.push(new Request(this, slot, this.#sqes, (slot - first) * SQE_BYTES, this.#pool));
      }
    }
    this.depth = depth;
  }

  /** Connect succeeded: the pair now belongs to `controller`. */
  attach(controller: Controller, commandSet: CommandSet, qid: number, depth: number, flowControl: boolean): void {
    this.controller = controller;
    this.commandSet = commandSet;
    this.qid = qid;
    this.flowControl = flowControl;
    this.#allocate(depth);
    this.sqhd = 0;
  }

  get outstanding(): number {
    return this.requests.length - this.#freeCount;
  }

  /** A free slot, or undefined if the host has more commands outstanding than the queue holds (a fatal error). */
  acquire(): Request | undefined {
    if (this.#freeCount === 0) return undefined;
    const request = this.requests[this.#free[--this.#freeCount]!]!;
    request.inUse = true;
    return request;
  }

  /** The answer is on its way and nothing of the request is needed any more. */
  release(request: Request): void {
    assert(request.inUse, 'A request was released twice');
    this.#cids[request.slot] = -1;
    request.reset();
    this.#free[this.#freeCount++] = request.slot;
    if (this.closed) this.#settleLingering();
    if (this.suspended) this.controller!.drained();
  }

  /** A command that has just come waits until its controller is resumed. Fabrics commands and Keep Alive never do. */
  holds(request: Request): boolean {
    if (!this.suspended || request.opcode === FABRICS_OPCODE) return false;
    return this.qid !== 0 || request.opcode !== AdminOpcode.KeepAlive;
  }

  /** Nothing that was fetched is under way, but AERs and halves of pairs. */
  get isQuiet(): boolean {
    return this.requests.every(
      (request) => !request.inUse || request.unfetched || request.isAsyncEvent || this.#fused.isWaiting(request),
    );
  }

  /** A command of the namespace is under way, wherever it has come to. */
  isBusyWith(namespace: Namespace): boolean {
    return this.requests.some((request) => request.inUse && request.namespace === namespace);
  }

  /** A buffer of at least `length` bytes that belongs to the transport until `returnBuffer`. */
  takeBuffer(length: number): Uint8Array {
    return this.#pool.take(length);
  }

  /** Takes back what `Request.detachBuffer` or `takeBuffer` gave away. */
  returnBuffer(buffer: Uint8Array): void {
    this.#pool.give(buffer);
  }

  /**
   * Decodes and checks the command; sets `direction` and `transferBytes`.
   * @returns 0, or the status to finish with: the command must not be executed then
   */
  prepare(request: Request): number {
    const sqe = request.sqe;
    const base = request.sqeBase;
    const opcode = sqeOpcode(sqe, base);
    const cid = sqeCid(sqe, base);
    request.opcode = opcode;
    request.cid = cid;
    const flags = sqeFlags(sqe, base);
    if ((flags & 0x03) !== 0 || this.#fused.expecting) {
      const status = this.#fused.begin(request, flags & 0x03, this.commandSet);
      if (status !== 0) {
        this.#cids[request.slot] = cid;
        return status;
      }
    }
    const outstanding = this.requests.length - this.#freeCount;
    if (outstanding > 1 && this.#isOutstanding(cid)) return Status.CommandIdConflict | DNR;
    this.#cids[request.slot] = cid;
    const controller = this.controller;
    if (controller !== undefined) {
      controller.active = true;
      // one gate for every command; Fabrics commands pass whatever the controller's state
      if (!controller.ready && opcode !== FABRICS_OPCODE) return Status.CommandSequenceError | DNR;
    }
    // PSDT: 01b, or 10b; over fabrics 00b only where no data moves (checked with the direction)
    if ((flags & 0xc0) === 0xc0) return request.invalidField(1, 6);
    if (this.inHostMemory && this.qid === 0 && (flags & 0xc0) !== 0) return request.invalidField(1, 6);
    const prepare = this.commandSet.prepare[opcode];
    if (prepare === undefined) return request.fail(Status.InvalidOpcode, 0);
    // kept with the request: its data may come after a Connect has changed the set
    request.executeCommand = this.commandSet.execute[opcode]!;
    const status = prepare(request);
    if (status === 0 && request.direction !== 0 && (flags & 0xc0) === 0 && !this.inHostMemory) {
      return request.invalidField(1, 6);
    }
    return status === 0 && request.fuse !== 0 ? this.#fused.prepared(request) : status;
  }

  #isOutstanding(cid: number): boolean {
    const cids = this.#cids;
    for (let i = 0; i < cids.length; i++) if (cids[i] === cid) return true;
    return false;
  }

  /** The command whose data is complete. */
  execute(request: Request): void {
    if (request.abortion !== undefined) {
      request.finish(0); // with the status of the abort
      return;
    }
    if (request.fuse !== 0) {
      this.#fused.execute(request, this.commandSet);
      return;
    }
    request.phase = Phase.Executing;
    request.executeCommand(request);
  }

  /** The outstanding request with this CID, for Abort. */
  find(cid: number): Request | undefined {
    const slot = this.#cids.indexOf(cid);
    return slot < 0 ? undefined : this.requests[slot];
  }

  /** Takes back a command that waits in the core, not in a backend; for Abort. */
  cancel(request: Request): boolean {
    if (this.#fused.isWaiting(request)) {
      request.finish(Status.CommandAbortRequested | DNR);
      return true;
    }
    if (request.gateState === GateState.Limited) {
      request.namespace!.writeLimit!.takeBack(request);
      request.finish(Status.CommandAbortRequested | DNR);
      return true;
    }
    if (request.gateState !== GateState.Waiting || request.gateExclusive) return false;
    request.namespace!.unlock(request);
    request.finish(Status.CommandAbortRequested | DNR);
    return true;
  }

  /** The command before was the first of a fused pair. */
  get expectsSecond(): boolean {
    return this.#fused.expecting;
  }

  /** The first of a fused pair whose second has not come yet: it is as if it had not come either. */
  takeBackFirst(): Request | undefined {
    return this.#fused.takeBackFirst();
  }

  /** A command that was outstanding when the state of its controller was saved; undefined if there is no slot for it. */
  restore(opcode: number, cid: number): Request | undefined {
    const request = this.acquire();
    if (request === undefined) return undefined;
    request.opcode = opcode;
    request.cid = cid;
    request.phase = Phase.Executing;
    this.#cids[request.slot] = cid;
    return request;
  }

  /** For `Request.finish` only. */
  completed(request: Request): void {
    if (request.status !== 0) this.#failed(request);
    if (this.flowControl) this.sqhd = this.sqhd + 1 >= this.depth ? 0 : this.sqhd + 1;
    this.transport.complete(request);
  }

  #failed(request: Request): void {
    if (request.fuse !== 0) this.#fused.failed(request, this.commandSet);
    if (request.errorLocation === NO_ERROR_LOCATION || (request.status & MORE) === 0) return;
    // a Connect that fails makes no entry (Base 2.1, section 6.3): there is no controller then
    if (this.controller === undefined) request.status &= ~MORE;
    else this.controller.errorLog.add(request, request.status & (STATUS_CODE_MASK | DNR | MORE));
  }

  /** A command that changes blocks begins: one operation after the other is this one. */
  stepping(step: Step): void {
    this.#steps ??= new Set();
    this.#steps.add(step);
  }

  /** That command has nothing at a backend any more. */
  stepped(step: Step): void {
    this.#steps!.delete(step);
  }

  #settleLingering(): void {
    if (this.outstanding > 0) this.controller?.subsystem.lingers(this);
    else this.controller?.subsystem.lingersNoMore(this);
  }

  /** The connection is gone: every outstanding request is dropped once the backend gave it back. */
  detached(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    for (const request of this.requests) if (this.#fused.isWaiting(request)) this.release(request);
    for (const request of this.requests) {
      if (request.gateState === GateState.Limited) request.namespace!.writeLimit!.letThrough((io) => io === request);
    }
    for (const request of this.requests) if (request.inUse) request.namespace?.outlives(request);
    if (this.#steps !== undefined) for (const step of this.#steps) step.outliveQueue();
    this.#settleLingering();
    this.controller?.queueClosed(this, reason);
  }
}

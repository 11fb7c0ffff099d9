// @hot
/**
 * The unit of work: one command in flight. Allocated once per queue slot when the queue pair is made, reused for ever (DESIGN section 3).
 * A transport fills the SQE and moves the data; the core decides what the command means; `complete` brings it back to the transport.
 */
import type { DeviceCopy } from '../backend/block-backend.ts';
import type { UserDataLog } from '../migration/user-data-log.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { DNR, MORE, Status } from '../spec/status.ts';
import type { Arena } from '../util/arena.ts';
import { assert } from '../util/assert.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import type { WorkMemory } from '../util/work-memory.ts';
import type { Abortion } from './abortion.ts';
import type { Controller } from './controller.ts';
import type { Namespace, NamespaceIo } from './namespace.ts';
import type { QueuePair } from './queue-pair.ts';
import { type GateEntry, GateState } from './range-gate.ts';

const EMPTY = new Uint8Array(0);
/** Parameter Error Location "no specific field" (Base 2.1, Error Information log). */
export const NO_ERROR_LOCATION = 0xffff;

/** Where a command stands: decoded at most, running, or ended (its answer may still have to be sent). */
export const Phase = { Pending: 0, Executing: 1, Finished: 2 } as const;

/** Runs when a step of a command that takes several backend operations is done. */
export type Continuation = (request: Request, status: number) => void;

function neverPrepared(): void {
  assert(false, 'A command was executed that was never prepared');
}

export class Request implements NamespaceIo {
  readonly queuePair: QueuePair;
  /** Index within the queue pair; transports use it as TTAG. */
  readonly slot: number;
  /** The SQE: 64 bytes of `sqe` at `sqeBase`. */
  readonly sqe: DataView;
  readonly sqeBase: number;
  readonly #pool: BufferPool;

  opcode = 0;
  cid = 0;
  /** Between `acquire` and `release`. */
  inUse = false;
  /** One of `Phase`. */
  phase: number = Phase.Pending;
  /** Another host takes it back: how it ends, and who waits for that. */
  abortion: Abortion | undefined = undefined;
  /** Direction of the data (spec/opcode.ts Direction), and how many bytes the command moves; decided by `QueuePair.prepare`. */
  direction = 0;
  transferBytes = 0;
  namespace: Namespace | undefined = undefined;
  offsetBytes: number = Number.NaN;
  lengthBytes = 0;
  fua = false;
  readonly segments: Uint8Array[] = [EMPTY];
  segmentCount = 0;
  /** Some segment of the answer lies in an arena: those then have an entry in `arenas`, and are `lengths` bytes at `offsets` there. */
  placed = false;
  readonly arenas: (Arena | undefined)[] = [];
  readonly offsets: number[] = [];
  readonly lengths: number[] = [];
  /** Bytes of the answer in `segments`: known without a look at the views, which are seldom in the cache. */
  answerBytes = 0;
  /** Answer: 15-bit status, DW0, DW1. */
  status = 0;
  result0 = 0;
  result1 = 0;
  /** Byte of the SQE (bits 7:0) and bit (10:8) that was wrong. */
  errorLocation: number = NO_ERROR_LOCATION;
  /** What it does once its data is complete; decided by `QueuePair.prepare`. */
  executeCommand: (request: Request) => void = neverPrepared;
  /** Where a command that needs several backend operations goes on. */
  continuation: Continuation | undefined = undefined;
  /** That command's progress: an index into its ranges. */
  progress = 0;
  /** What SQHD says where flow control is disabled: FFFFh in the Connect response, else 0 (Base 2.1 section 6.3). */
  sqhdWithoutFlowControl = 0;
  /** Owned by the transport: its own state of this slot. */
  transportState = 0;
  /** Data bytes received so far (transport), or of the answer collected so far. */
  receivedBytes = 0;
  /** Bytes counted against the connection's buffers until release (transport). */
  countedBytes = 0;
  /** The one segment is the transport's receive buffer: gone after this turn unless retained. */
  transient = false;
  /** Its data goes on as it is: nobody looks at it, so that it may change meanwhile. Decided by `QueuePair.prepare`. */
  passesDataOn = false;
  /** Not fetched, as a suspension sees it: its capsule is not whole, or it came after the suspension began (transport). */
  unfetched = false;
  /** Buffer bytes that executing it takes (a read from a backend that lends none); decided by `QueuePair.prepare`. */
  bufferBytes = 0;
  /** What is done to its range, and where it is at the namespace's gate (target/namespace.ts, range-gate.ts). */
  operation = 0;
  gateState: number = GateState.Outside;
  gateExclusive = false;
  gateNext: GateEntry | undefined = undefined;
  gatePrevious: GateEntry | undefined = undefined;
  /** Half of a fused pair: owned by `FusedPairs`. */
  fuse = 0;
  fuseStatus = 0;
  partner: Request | undefined = undefined;
  /** A Copy that the device does. */
  deviceCopy: DeviceCopy | undefined = undefined;
  #pooled: Uint8Array | undefined = undefined;

  constructor(queuePair: QueuePair, slot: number, sqe: DataView, sqeBase: number, pool: BufferPool) {
    this.queuePair = queuePair;
    this.slot = slot;
    this.sqe = sqe;
    this.sqeBase = sqeBase;
    this.#pool = pool;
  }

  /** True if `segments` came from the pool. */
  get holdsBuffer(): boolean {
    return this.#pooled !== undefined;
  }

  /** Gives its pooled buffer to the transport, which sends it and then calls `QueuePair.returnBuffer`: the slot is free before that. */
  detachBuffer(): Uint8Array {
    const buffer = this.#pooled!;
    this.#pooled = undefined;
    return buffer;
  }

  lend(view: Uint8Array): void {
    if (this.#pooled !== undefined) this.#collect(view, 0, view.length);
    else this.segments[this.segmentCount++] = view;
  }

  lendAt(arena: Arena, offsetBytes: number, lengthBytes: number): void {
    if (this.#pooled !== undefined || arena.id === 0 || !this.queuePair.transport.sendsByPlace) {
      this.#collect(arena.bytes, offsetBytes, lengthBytes);
      return;
    }
    const at = this.segmentCount++;
    if (!this.placed) {
      this.placed = true;
      for (let i = 0; i < at; i++) this.arenas[i] = undefined;
    }
    this.arenas[at] = arena;
    this.offsets[at] = offsetBytes;
    this.lengths[at] = lengthBytes;
    this.segments[at] = arena.bytes; // not collected before it is sent
  }

  /** Appends a copy: the transport needs memory that does not change. */
  #collect(from: Uint8Array, offset: number, length: number): void {
    const target = this.#pooled === undefined ? this.#collectFirst() : this.segments[0]!;
    this.#append(target, from, offset, length);
  }

  #collectFirst(): Uint8Array {
    const lent = this.segments.slice(0, this.segmentCount);
    const { placed } = this;
    this.placed = false;
    const target = this.hold(this.lengthBytes);
    for (let i = 0; i < lent.length; i++) {
      const piece = lent[i]!;
      if (placed && this.arenas[i] !== undefined) this.#append(target, piece, this.offsets[i]!, this.lengths[i]!);
      else this.#append(target, piece, 0, piece.length);
    }
    return target;
  }

  #append(target: Uint8Array, from: Uint8Array, offset: number, length: number): void {
    target.set(
      offset === 0 && length === from.length ? from : from.subarray(offset, offset + length),
      this.receivedBytes,
    );
    this.receivedBytes += length;
  }

  provide(): Uint8Array {
    return this.hold(this.lengthBytes);
  }

  retain(): void {
    if (!this.transient) return;
    this.transient = false;
    const source = this.segments[0]!;
    this.hold(source.length).set(source);
  }

  /** An AER waits for an event, not for us. */
  get isAsyncEvent(): boolean {
    return this.queuePair.qid === 0 && this.opcode === AdminOpcode.AsyncEventRequest;
  }

  /** Takes one pooled buffer of `length` bytes as the only segment. */
  hold(length: number): Uint8Array {
    const buffer = this.#pool.take(length);
    this.#pooled = buffer;
    const view = buffer.length === length ? buffer : buffer.subarray(0, length);
    this.segments[0] = view;
    this.segmentCount = 1;
    return view;
  }

  /** Answers with `data` (control path). The command's own length limits it. */
  answer(data: Uint8Array): void {
    this.segments[0] = data.length > this.transferBytes ? data.subarray(0, this.transferBytes) : data;
    this.segmentCount = 1;
    this.answerBytes = this.segments[0].length;
  }

  /** The command's data as one piece (control path; the transport put it there). */
  data(): Uint8Array {
    if (this.segmentCount === 1) return this.segments[0]!;
    const whole = new Uint8Array(this.transferBytes);
    let offset = 0;
    for (let i = 0; i < this.segmentCount; i++) {
      whole.set(this.segments[i]!, offset);
      offset += this.segments[i]!.length;
    }
    return whole;
  }

  /** Invalid Field in Command, naming the SQE byte (and bit) at fault. */
  invalidField(byte: number, bit = 0): number {
    return this.fail(Status.InvalidField, byte, bit);
  }

  /** `status` with Do Not Retry, naming the SQE byte (and bit) at fault; it gets an Error Information entry. */
  fail(status: number, byte: number, bit = 0): number {
    this.errorLocation = byte | (bit << 8);
    return status | DNR | MORE;
  }

  get abandoned(): boolean {
    return this.queuePair.closed || this.abortion !== undefined;
  }

  get controller(): Controller {
    return this.queuePair.controller!;
  }

  get changeLog(): UserDataLog | undefined {
    return this.queuePair.controller!.changeLog;
  }

  get deallocatedIsError(): boolean {
    return this.queuePair.controller!.deallocatedErrorNsids.has(this.namespace!.nsid);
  }

  /** Data buffers that commands work with beside their own; shared by all. */
  get workMemory(): WorkMemory {
    return this.#pool.work;
  }

  gateOpened(): void {
    if (this.gateExclusive) this.#goOn(Status.Success);
    else this.namespace!.begin(this);
  }

  complete(status: number): void {
    if (this.gateState !== GateState.Outside && !this.namespace!.ended(this, status)) return;
    this.#goOn(status);
  }

  #goOn(status: number): void {
    const next = this.continuation;
    if (next !== undefined) {
      this.continuation = undefined;
      next(this, status);
      return;
    }
    this.finish(status);
  }

  /** Ends the command, whatever continuation it had. */
  finish(status: number): void {
    const abortion = this.abortion;
    this.abortion = undefined;
    this.phase = Phase.Finished;
    this.status = abortion === undefined ? status : abortion.status;
    this.transient = false; // the data is used; the answer may have to wait
    this.queuePair.completed(this);
    if (abortion !== undefined) abortion.ended();
  }

  /** For `QueuePair` only: back to the state of a free slot. */
  reset(): void {
    if (this.#pooled !== undefined) {
      this.#pool.give(this.#pooled);
      this.#pooled = undefined;
    }
    for (let i = 0; i < this.segmentCount; i++) this.segments[i] = EMPTY;
    if (this.placed) {
      this.placed = false;
      for (let i = 0; i < this.segmentCount; i++) this.arenas[i] = undefined;
    }
    this.segmentCount = 0;
    this.namespace = undefined;
    this.continuation = undefined;
    this.direction = 0;
    this.transferBytes = 0;
    this.answerBytes = 0;
    this.status = 0;
    this.result0 = 0;
    this.result1 = 0;
    this.errorLocation = NO_ERROR_LOCATION;
    this.progress = 0;
    this.sqhdWithoutFlowControl = 0;
    this.transportState = 0;
    this.receivedBytes = 0;
    this.countedBytes = 0;
    this.transient = false;
    this.passesDataOn = false;
    this.unfetched = false;
    this.bufferBytes = 0;
    this.fua = false;
    this.fuse = 0;
    this.fuseStatus = 0;
    this.partner = undefined;
    this.deviceCopy = undefined;
    this.phase = Phase.Pending;
    this.inUse = false;
    if (this.abortion !== undefined) {
      // dropped with its connection
      const abortion = this.abortion;
      this.abortion = undefined;
      abortion.ended();
    }
  }
}

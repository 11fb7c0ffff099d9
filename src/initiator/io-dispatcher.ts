/**
 * Spreads I/O commands over the queue pairs of the association of the moment, and keeps what cannot be sent now: because every slot is in use, or
 * because the controller is not connected. Its `submit*` calls are the data path of a controller: while a slot is free they go straight to it.
 */
import { Direction, IoOpcode } from '../spec/opcode.ts';
import { PathStatus } from '../spec/status.ts';
import { type CommandDone, type HostCommand, NO_DATA } from '../transport/tcp/host-command.ts';
import { type Clock, systemClock } from '../util/clock.ts';
import { SQE_BYTES, sqeOpcode } from '../wire/sqe.ts';
import { buildSqe } from './admin-queue.ts';
import { HeldCommands } from './held-commands.ts';
import { isHarmless, OUTCOME_UNKNOWN } from './multipath/outcome.ts';
import type { Cancellable, IoSubmitter } from './namespace-owner.ts';
import type { HostQueuePair } from './queue-pair.ts';

/** A command that waits for a slot or for the controller. */
interface WaitingIo {
  readonly sqe: DataView;
  readonly direction: number;
  readonly buffer: Uint8Array;
  readonly shortAllowed: boolean;
  readonly replayable: boolean;
  readonly onDone: CommandDone;
  readonly context: unknown;
  /** The second command of a fused pair: both go to the same queue pair, one behind the other. */
  readonly second?: WaitingIo;
}

/** One command of a fused pair. */
export interface FusedHalf {
  /** FUSE is set in it. */
  readonly sqe: DataView;
  /** For the controller. */
  readonly data: Uint8Array;
  readonly onDone: CommandDone;
}

/** Who waits for a slot of the dispatcher's queue pairs. */
export interface SlotWaiter {
  slotFree(): void;
}

const FUA = 0x4000_0000;
const DEAC = 0x0200_0000;

/** @public */
export class IoDispatcher implements IoSubmitter {
  #queuePairs: readonly HostQueuePair[] = [];
  #next = 0;
  #waiting: WaitingIo[] = [];
  /** Nothing waits for a connection: see `HostOptions.failFast`. */
  readonly #alwaysFailFast: boolean;
  #failFast: boolean;
  /** Someone who uses `pickFree` waits for a slot. */
  #slotWaiter: SlotWaiter | undefined;
  /** Commands that were sent again after a loss, for statistics. */
  replayedCount = 0;
  /** What changes blocks and was sent on an association that is lost. */
  readonly #held: HeldCommands<WaitingIo>;

  /** @param failFast I/O is not kept over a loss */
  constructor(failFast = false, clock: Clock = systemClock) {
    this.#alwaysFailFast = failFast;
    this.#failFast = failFast;
    this.#held = new HeldCommands(clock, (ios) => this.#release(ios));
  }

  /** Commands that wait for a slot, for the controller, or for the end of their first copy. */
  get waitingCount(): number {
    return this.#waiting.length + this.#held.count;
  }

  get connected(): boolean {
    return this.#queuePairs.length !== 0;
  }

  /** Data of whole blocks; `onDone` gets a 15-bit status, 0x370 if the controller could not be reached in time. */
  submitRead(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): void {
    const queuePair = this.#pick();
    if (queuePair?.submitRead(nsid, slba, blockCount, buffer, onDone, context)) return;
    this.#waitBlocks(IoOpcode.Read, Direction.ControllerToHost, nsid, slba, blockCount - 1, buffer, onDone, context);
  }

  submitWrite(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    fua: boolean = false,
  ): void {
    const queuePair = this.#pick();
    if (queuePair?.submitWrite(nsid, slba, blockCount, buffer, onDone, context, fua)) return;
    const cdw12 = (blockCount - 1) | (fua ? FUA : 0);
    this.#waitBlocks(IoOpcode.Write, Direction.HostToController, nsid, slba, cdw12, buffer, onDone, context);
  }

  submitWriteZeroes(
    nsid: number,
    slba: number,
    blockCount: number,
    deallocate: boolean,
    onDone: CommandDone,
    context: unknown,
  ): void {
    const queuePair = this.#pick();
    if (queuePair?.submitWriteZeroes(nsid, slba, blockCount, deallocate, onDone, context)) return;
    const cdw12 = (blockCount - 1) | (deallocate ? DEAC : 0);
    this.#waitBlocks(IoOpcode.WriteZeroes, Direction.None, nsid, slba, cdw12, NO_DATA, onDone, context);
  }

  submitFlush(nsid: number, onDone: CommandDone, context: unknown): void {
    const queuePair = this.#pick();
    if (queuePair?.submitFlush(nsid, onDone, context)) return;
    this.#waitBlocks(IoOpcode.Flush, Direction.None, nsid, 0, 0, NO_DATA, onDone, context);
  }

  /** Any I/O command. @param replayable it may be sent again if the connection is lost before it completes */
  submitRaw(
    sqe: DataView,
    direction: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    shortAllowed: boolean,
    replayable: boolean,
  ): void {
    const queuePair = this.#pick();
    if (queuePair?.submitRaw(sqe, 0, direction, buffer, onDone, context, shortAllowed, replayable) !== undefined)
      return;
    this.#wait({ sqe, direction, buffer, shortAllowed, replayable, onDone, context });
  }

  /** Two commands as neighbours on one queue; never sent again once they were sent. Each gets its own `onDone`. */
  submitFused(first: FusedHalf, second: FusedHalf, context: unknown): void {
    const io = (half: FusedHalf): WaitingIo => ({
      sqe: half.sqe,
      direction: Direction.HostToController,
      buffer: half.data,
      shortAllowed: false,
      replayable: false,
      onDone: half.onDone,
      context,
    });
    this.#wait({ ...io(first), second: io(second) });
    this.#send();
  }

  /** The next queue pair with a free slot, unless others wait already. */
  #pick(): HostQueuePair | undefined {
    if (this.#waiting.length !== 0) return undefined;
    return this.pickFree();
  }

  /** A queue pair with so many free slots, in turn. */
  pickFree(slots: number = 1): HostQueuePair | undefined {
    const pairs = this.#queuePairs;
    for (let tries = pairs.length; tries > 0; tries--) {
      this.#next = this.#next + 1 >= pairs.length ? 0 : this.#next + 1;
      const queuePair = pairs[this.#next]!;
      if (queuePair.freeCount >= slots) return queuePair;
    }
    return undefined;
  }

  #waitBlocks(
    opcode: number,
    direction: number,
    nsid: number,
    slba: number,
    cdw12: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): void {
    const sqe = buildSqe({ opcode, nsid, cdw10: slba >>> 0, cdw11: slba / 0x1_0000_0000, cdw12 });
    this.#wait({ sqe, direction, buffer, shortAllowed: false, replayable: true, onDone, context });
  }

  #wait(io: WaitingIo): void {
    if (this.#failFast) {
      queueMicrotask(() => giveUp(io, PathStatus.HostPathingError));
      return;
    }
    this.#waiting.push(io);
    for (const queuePair of this.#queuePairs) queuePair.ownerWaits = true;
  }

  /** The controller is connected: what waits goes first. */
  attach(queuePairs: readonly HostQueuePair[]): void {
    this.#queuePairs = queuePairs;
    this.#next = 0;
    this.#failFast = this.#alwaysFailFast;
    if (!this.takesFused) {
      const pairs = this.#waiting.filter(({ second }) => second !== undefined);
      this.#waiting = this.#waiting.filter(({ second }) => second === undefined);
      for (const io of pairs) giveUp(io, PathStatus.HostPathingError);
    }
    this.#send();
  }

  /** A queue pair has a free slot. */
  slotFree(): void {
    this.#send();
    this.#slotWaiter?.slotFree();
  }

  /** Tells, from now on, when a slot becomes free; undefined: no longer. */
  set slotWaiter(waiter: SlotWaiter | undefined) {
    if (this.#slotWaiter === waiter) return;
    this.#slotWaiter = waiter;
    this.#noteWaiting();
  }

  /** Commands in flight. */
  get activeCount(): number {
    let count = 0;
    const pairs = this.#queuePairs;
    for (let i = 0; i < pairs.length; i++) count += pairs[i]!.activeCount;
    return count;
  }

  #noteWaiting(): void {
    const waits = this.#waiting.length !== 0 || this.#slotWaiter !== undefined;
    for (const queuePair of this.#queuePairs) queuePair.ownerWaits = waits;
  }

  #send(): void {
    let sent = 0;
    for (const io of this.#waiting) {
      const queuePair = this.pickFree(io.second === undefined ? 1 : 2);
      if (queuePair === undefined) break;
      sent++;
      submit(queuePair, io);
      if (io.second !== undefined) submit(queuePair, io.second);
    }
    if (sent !== 0) this.#waiting.splice(0, sent);
    this.#noteWaiting();
  }

  /**
   * The connections are lost (and closed): what may be sent again waits, in front; what may not fails.
   * @param queuePairs of the lost association
   * @param quiesceMs from now to when the controller can no longer execute what was sent; what changes blocks is not sent again before
   */
  detach(queuePairs: readonly HostQueuePair[], quiesceMs = 0): void {
    this.#queuePairs = [];
    const again: WaitingIo[] = [];
    const held: WaitingIo[] = [];
    const unknown: WaitingIo[] = [];
    const keep = (command: HostCommand, queuePair: HostQueuePair): boolean => {
      if (this.#failFast) return false;
      const { sqes } = queuePair.connection;
      const sqe = new DataView(sqes.buffer.slice(command.sqeBase, command.sqeBase + SQE_BYTES));
      const { direction, buffer, shortAllowed, replayable, onDone, context } = command;
      const io = { sqe, direction, buffer, shortAllowed, replayable, onDone, context };
      const harmless = queuePair.endedUnsent || isHarmless(sqeOpcode(sqe, 0));
      if (harmless && (!replayable || isCancelled(io))) return false;
      (harmless || (replayable && quiesceMs === 0) ? again : replayable ? held : unknown).push(io);
      return true;
    };
    for (const queuePair of queuePairs) queuePair.endActive((command) => keep(command, queuePair));
    this.replayedCount += again.length;
    this.#waiting = again.concat(this.#waiting);
    this.#held.hold(held, quiesceMs);
    for (const io of unknown) giveUp(io, OUTCOME_UNKNOWN);
  }

  /** Their first copies can no longer be executed. */
  #release(ios: readonly WaitingIo[]): void {
    const wanted = ios.filter((io) => !isCancelled(io));
    this.replayedCount += wanted.length;
    this.#waiting = wanted.concat(this.#waiting);
    for (const io of ios) if (isCancelled(io)) giveUp(io, PathStatus.AbortedByHost);
    this.#send();
  }

  /** Fails what waits, and from now on what is submitted while not connected. */
  failWaiting(status: number = PathStatus.HostPathingError): void {
    this.#failFast = true;
    for (const io of this.#waiting.splice(0)) giveUp(io, status);
    for (const io of this.#held.take()) giveUp(io, OUTCOME_UNKNOWN);
  }

  /** Takes back what waits with this context. @returns commands that were taken back, without `onDone` */
  cancelWaiting(context: unknown): number {
    let count = 0;
    this.#waiting = this.#waiting.filter((io) => {
      if (io.context !== context) return true;
      count += io.second === undefined ? 1 : 2;
      return false;
    });
    return count;
  }

  /** Some queue holds two commands, as a fused pair takes; true while that is not known. */
  get takesFused(): boolean {
    return this.#queuePairs.length === 0 || this.#queuePairs.some(({ slotCount }) => slotCount >= 2);
  }
}

function submit(queuePair: HostQueuePair, io: WaitingIo): void {
  const { sqe, direction, buffer, onDone, context, shortAllowed, replayable } = io;
  queuePair.submitRaw(sqe, 0, direction, buffer, onDone, context, shortAllowed, replayable);
}

function isCancelled({ context }: WaitingIo): boolean {
  return (context as Partial<Cancellable> | undefined)?.cancelled === true;
}

function giveUp(io: WaitingIo, status: number): void {
  io.onDone(status, 0, io.context);
  io.second?.onDone(status, 0, io.second.context);
}

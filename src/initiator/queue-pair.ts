// @hot
/**
 * A queue pair of the host: command slots over one connection. The calls of this file are the data path: they allocate nothing, take a callback
 * that is fixed per caller and a context, and return false when every slot is in use.
 */
import { Direction, IoOpcode } from '../spec/opcode.ts';
import { SglId } from '../spec/pdu.ts';
import { PathStatus } from '../spec/status.ts';
import { type CommandDone, CommandState, type HostCommand, NO_DATA } from '../transport/tcp/host-command.ts';
import type { HostConnection, HostConnectionHandler } from '../transport/tcp/host-connection.ts';
import type { TransportError } from '../util/error.ts';
import { SQE_BYTES, SQE_FLAGS_SGL, writeSgl } from '../wire/sqe.ts';

export type { CommandDone } from '../transport/tcp/host-command.ts';

/** Who the queue pair belongs to. */
export interface QueuePairOwner {
  /** The connection is gone; the commands in flight are still in their slots until `takeActive` or `failActive`. */
  queuePairLost(queuePair: HostQueuePair, error: TransportError): void;
  /** A slot became free. Called after the command's own callback, while others wait (`ownerWaits`). */
  slotFree(queuePair: HostQueuePair): void;
  /** A command has been out for longer than its time. Called once per command. */
  commandTimedOut(queuePair: HostQueuePair, command: HostCommand): void;
}

const CID_BITS = 16;
const FUA = 0x4000_0000;
const DEAC = 0x0200_0000;

/** @public */
export class HostQueuePair implements HostConnectionHandler {
  readonly qid: number;
  readonly connection: HostConnection;
  /** In-capsule data this queue takes, in bytes. */
  readonly inCapsuleBytes: number;
  readonly #owner: QueuePairOwner;
  readonly #free: Int32Array;
  #freeCount: number;
  readonly #generationShift: number;
  readonly #generationCount: number;
  #lost = false;
  /** The owner has commands that wait for a slot. */
  ownerWaits = false;
  /** Coarse time that `scan` advances. */
  #tick = 0;
  /** Commands completed since the connection was made, for statistics and keep alive. */
  completedCount = 0;
  /** DW1 of the completion whose callback is running. */
  resultHigh = 0;
  /** Data bytes that moved, in the command whose callback is running. */
  transferred = 0;
  /** The command whose callback `endActive` is running never reached the socket: the controller cannot have seen it. */
  endedUnsent = false;

  constructor(qid: number, connection: HostConnection, inCapsuleBytes: number, owner: QueuePairOwner) {
    this.qid = qid;
    this.connection = connection;
    this.inCapsuleBytes = inCapsuleBytes;
    this.#owner = owner;
    const slots = connection.commands.length;
    this.#free = new Int32Array(slots);
    for (let i = 0; i < slots; i++) this.#free[i] = slots - 1 - i;
    this.#freeCount = slots;
    const slotBits = Math.log2(connection.slotMask + 1);
    this.#generationShift = slotBits;
    // one less than would fit, so that CID FFFFh never occurs
    this.#generationCount = Math.max(1, Math.min(16, 2 ** (CID_BITS - slotBits)) - 1);
    connection.attach(this);
  }

  /** Commands that may be submitted now. */
  get freeCount(): number {
    return this.#lost ? 0 : this.#freeCount;
  }

  /** Commands that may be in flight at most. */
  get slotCount(): number {
    return this.#free.length;
  }

  /** Commands in flight. */
  get activeCount(): number {
    return this.#free.length - this.#freeCount;
  }

  get live(): boolean {
    return !this.#lost;
  }

  /**
   * Reads whole blocks. `buffer` is the queue pair's until `onDone` was called.
   * @param slba first block, below 2^53
   * @param blockCount 1 to 65536; `buffer.length` is `blockCount` times the block size
   * @returns false if no slot is free or the connection is lost; `onDone` is not called then
   */
  submitRead(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): boolean {
    return this.#submitBlocks(
      IoOpcode.Read,
      Direction.ControllerToHost,
      nsid,
      slba,
      blockCount - 1,
      buffer,
      onDone,
      context,
    );
  }

  /** Writes whole blocks; as `submitRead`. @param fua the data must be on stable media before completion */
  submitWrite(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    fua: boolean = false,
  ): boolean {
    const cdw12 = fua ? (blockCount - 1) | FUA : blockCount - 1;
    return this.#submitBlocks(IoOpcode.Write, Direction.HostToController, nsid, slba, cdw12, buffer, onDone, context);
  }

  /** @param deallocate DEAC: the blocks may be deallocated */
  submitWriteZeroes(
    nsid: number,
    slba: number,
    blockCount: number,
    deallocate: boolean,
    onDone: CommandDone,
    context: unknown,
  ): boolean {
    const cdw12 = deallocate ? (blockCount - 1) | DEAC : blockCount - 1;
    return this.#submitBlocks(IoOpcode.WriteZeroes, Direction.None, nsid, slba, cdw12, NO_DATA, onDone, context);
  }

  submitFlush(nsid: number, onDone: CommandDone, context: unknown): boolean {
    return this.#submitBlocks(IoOpcode.Flush, Direction.None, nsid, 0, 0, NO_DATA, onDone, context);
  }

  #submitBlocks(
    opcode: number,
    direction: number,
    nsid: number,
    slba: number,
    cdw12: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): boolean {
    const command = this.#allocate();
    if (command === undefined) return false;
    const view = this.connection.sqes;
    const base = command.sqeBase;
    view.setUint32(base, opcode | (SQE_FLAGS_SGL << 8) | (command.cid << 16), true);
    view.setUint32(base + 4, nsid, true);
    for (let i = 8; i < 24; i += 4) view.setUint32(base + i, 0, true);
    view.setUint32(base + 40, slba >>> 0, true);
    view.setUint32(base + 44, slba / 0x1_0000_0000, true);
    view.setUint32(base + 48, cdw12, true);
    for (let i = 52; i < SQE_BYTES; i += 4) view.setUint32(base + i, 0, true);
    command.replayable = true;
    this.#start(command, direction, buffer, onDone, context);
    return true;
  }

  /**
   * Submits any command: `sqe` holds 64 bytes at `sqeOffset`, of which CID, PSDT and the data pointer are filled in here.
   * @param buffer all of it is the command's data
   * @param shortAllowed the controller may send less than `buffer.length` bytes (log pages); `transferred` tells
   */
  submitRaw(
    sqe: DataView,
    sqeOffset: number,
    direction: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    shortAllowed: boolean = false,
    replayable: boolean = false,
  ): HostCommand | undefined {
    const command = this.#allocate();
    if (command === undefined) return undefined;
    const view = this.connection.sqes;
    const base = command.sqeBase;
    for (let i = 0; i < SQE_BYTES; i += 4) view.setUint32(base + i, sqe.getUint32(sqeOffset + i, true), true);
    view.setUint8(base + 1, (view.getUint8(base + 1) & 0x3f) | SQE_FLAGS_SGL);
    view.setUint16(base + 2, command.cid, true);
    command.replayable = replayable;
    this.#start(command, direction, buffer, onDone, context);
    command.shortAllowed = shortAllowed;
    return command;
  }

  #allocate(): HostCommand | undefined {
    if (this.#freeCount === 0 || this.#lost) return undefined;
    const command = this.connection.commands[this.#free[--this.#freeCount]!]!;
    const generation = command.generation + 1 === this.#generationCount ? 0 : command.generation + 1;
    command.generation = generation;
    command.cid = (generation << this.#generationShift) | command.slot;
    return command;
  }

  #start(command: HostCommand, direction: number, buffer: Uint8Array, onDone: CommandDone, context: unknown): void {
    const length = buffer.length;
    const inCapsule = direction === Direction.HostToController && length <= this.inCapsuleBytes && length !== 0;
    writeSgl(
      this.connection.sqes,
      command.sqeBase,
      inCapsule ? SglId.DataBlockOffset : SglId.TransportDataBlock,
      length,
    );
    command.direction = length === 0 ? Direction.None : direction;
    command.buffer = buffer;
    command.inCapsule = inCapsule;
    command.shortAllowed = false;
    command.transferred = 0;
    command.lastSeen = false;
    command.digestFailed = false;
    command.r2tCount = 0;
    command.tick = this.#tick;
    command.timedOut = false;
    command.onDone = onDone;
    command.context = context;
    this.connection.submit(command);
  }

  commandDone(command: HostCommand): void {
    const { onDone, context, status, result } = command;
    this.resultHigh = command.resultHigh;
    this.transferred = command.transferred;
    this.completedCount++;
    command.release();
    this.#free[this.#freeCount++] = command.slot;
    onDone(status, result, context);
    if (this.ownerWaits) this.#owner.slotFree(this);
  }

  connectionLost(error: TransportError): void {
    this.#lost = true;
    this.#owner.queuePairLost(this, error);
  }

  /**
   * Advances the coarse time by one and reports commands that were submitted `ticksMax` or more of it ago.
   * @returns commands in flight
   */
  scan(ticksMax: number): number {
    const now = ++this.#tick;
    for (const command of this.connection.commands) {
      if (command.state === CommandState.Free || command.timedOut || now - command.tick < ticksMax) continue;
      command.timedOut = true;
      this.#owner.commandTimedOut(this, command);
    }
    return this.activeCount;
  }

  /** The commands in flight with this context. */
  findAll(context: unknown): HostCommand[] {
    return this.connection.commands.filter(
      (command) => command.state !== CommandState.Free && command.context === context,
    );
  }

  /**
   * Once the connection is lost: hands each command in flight to `take`, then forgets it. A command for which `take` returns false
   * completes with `status`.
   */
  endActive(take: (command: HostCommand) => boolean, status: number = PathStatus.HostPathingError): void {
    this.#lost = true;
    for (const command of this.connection.commands) {
      if (command.state === CommandState.Free) continue;
      const { onDone, context } = command;
      this.endedUnsent = command.state === CommandState.Queued;
      const taken = take(command);
      command.release();
      this.#free[this.#freeCount++] = command.slot;
      this.transferred = 0;
      if (!taken) onDone(status, 0, context);
    }
  }

  /** Closes the connection; commands in flight stay in their slots for `endActive`. */
  close(): Promise<void> {
    this.#lost = true;
    return this.connection.close();
  }
}

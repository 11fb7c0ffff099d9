// @hot
/**
 * One command slot of a host's connection: allocated when the connection is made, reused for ever. The queue pair owns the SQE and the
 * caller's callback; the connection owns what moving the data needs.
 */
import { Direction } from '../../spec/opcode.ts';

/** Where a slot is in its life. */
export const CommandState = {
  Free: 0,
  /** Submitted, its capsule is not yet handed to the socket. */
  Queued: 1,
  Sent: 2,
  /** Its completion has come, but the socket still refers to its buffer: see `HostPduWriter.drained`. */
  Held: 3,
} as const;

/** Called exactly once per command. @param status 15-bit NVMe status, 0 on success @param result DW0 of the completion */
export type CommandDone = (status: number, result: number, context: unknown) => void;

export const NO_DATA: Uint8Array = new Uint8Array(0);
const noCallback: CommandDone = () => {};

export class HostCommand {
  readonly slot: number;
  /** Offset of this slot's SQE in the connection's SQE slab. */
  readonly sqeBase: number;
  state: number = CommandState.Free;
  /** Slot number, with a generation above it so that an answer to an earlier use of the slot is told apart. */
  cid = 0;
  generation = 0;
  direction: number = Direction.None;
  /** All of it is the command's data, in either direction. */
  buffer: Uint8Array = NO_DATA;
  /** Data goes in the capsule; no R2T may ask for it. */
  inCapsule = false;
  /** A controller-to-host transfer may end early with success (log pages): `transferred` tells how much came. */
  shortAllowed = false;
  /** Controller to host: bytes received. Host to controller: bytes asked for by R2T so far. */
  transferred = 0;
  /** C2HData with LAST_PDU has come. */
  lastSeen = false;
  /** A C2HData's DDGST did not match: fails the command once it completes. */
  digestFailed = false;
  /** R2Ts whose data is not all handed to the socket. */
  r2tCount = 0;
  /** Number of the socket write that last referred to `buffer` itself; 0 if none. */
  lentWrite = 0;
  status = 0;
  /** DW0 and DW1 of the completion. */
  result = 0;
  resultHigh = 0;
  /** Coarse time of submission, in the owner's ticks. */
  tick = 0;
  /** The time-out was already acted upon. */
  timedOut = false;
  /** May be sent again on another connection if this one is lost before it completes. */
  replayable = false;
  onDone: CommandDone = noCallback;
  context: unknown = undefined;

  constructor(slot: number, sqeBase: number) {
    this.slot = slot;
    this.sqeBase = sqeBase;
  }

  /** Drops every reference to the caller's objects. */
  release(): void {
    this.state = CommandState.Free;
    this.buffer = NO_DATA;
    this.onDone = noCallback;
    this.context = undefined;
  }
}

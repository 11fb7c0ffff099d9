/** Commands as promises over a queue pair: the shell that the control path uses. */
import PQueue from 'p-queue';
import { AdminOpcode, Direction, FABRICS_OPCODE, Fctype } from '../spec/opcode.ts';
import { PathStatus, Status } from '../spec/status.ts';
import { NO_DATA } from '../transport/tcp/host-command.ts';
import { type NvmeofError, NvmeStatusError, TransportError } from '../util/error.ts';
import { SQE_BYTES } from '../wire/sqe.ts';
import type { HostQueuePair } from './queue-pair.ts';

/** Any command. Fields left out are zero. @public */
export interface PassthruCommand {
  readonly opcode: number;
  readonly nsid?: number;
  readonly cdw2?: number;
  readonly cdw3?: number;
  readonly cdw10?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
  readonly cdw13?: number;
  readonly cdw14?: number;
  readonly cdw15?: number;
  /** Data for the controller; it must not change until the command has completed. */
  readonly data?: Uint8Array;
  /** Bytes to receive. */
  readonly readBytes?: number;
  /** Where to receive them, at least `readBytes` long; the caller's again once the command is over. Default: memory of its own. */
  readonly readInto?: Uint8Array;
}

/** @public */
export interface PassthruResult {
  /** 15-bit status, 0 on success. */
  readonly status: number;
  /** DW0 and DW1 of the completion. */
  readonly result: number;
  readonly resultHigh: number;
  /** What was received; shorter than asked for if the controller sent less. */
  readonly data: Uint8Array;
}

function readBuffer({ readBytes = 0, readInto }: PassthruCommand): Uint8Array {
  return readInto === undefined ? new Uint8Array(readBytes) : readInto.subarray(0, readBytes);
}

/** The command's SQE; CID and data pointer are the queue pair's. */
export function buildSqe(command: PassthruCommand): DataView {
  const sqe = new DataView(new ArrayBuffer(SQE_BYTES));
  sqe.setUint8(0, command.opcode);
  sqe.setUint32(4, command.nsid ?? 0, true);
  sqe.setUint32(8, command.cdw2 ?? 0, true);
  sqe.setUint32(12, command.cdw3 ?? 0, true);
  sqe.setUint32(40, command.cdw10 ?? 0, true);
  sqe.setUint32(44, command.cdw11 ?? 0, true);
  sqe.setUint32(48, command.cdw12 ?? 0, true);
  sqe.setUint32(52, command.cdw13 ?? 0, true);
  sqe.setUint32(56, command.cdw14 ?? 0, true);
  sqe.setUint32(60, command.cdw15 ?? 0, true);
  return sqe;
}

/** The error a failed command becomes in the promise API, or undefined on success. */
export function commandError(
  what: string,
  kind: 'admin' | 'io' | 'fabrics',
  status: number,
  result: number,
  cause?: unknown,
): NvmeofError | undefined {
  if (status === Status.Success) return undefined;
  if (status === PathStatus.HostPathingError) {
    const why = cause instanceof Error ? `: ${cause.message}` : '';
    return new TransportError('NVMEOF_ERR_PATH', `${what} failed, the controller cannot be reached${why}`, { cause });
  }
  if (status === PathStatus.AbortedByHost) {
    return new TransportError('NVMEOF_ERR_CLOSED', `${what} was given up, the controller was disconnected`, { cause });
  }
  return new NvmeStatusError(what, status, kind, result);
}

/** One command waiting for its completion. */
class Pending {
  readonly queuePair: HostQueuePair;
  readonly data: Uint8Array;
  readonly resolve: (result: PassthruResult) => void;

  constructor(queuePair: HostQueuePair, data: Uint8Array, resolve: (result: PassthruResult) => void) {
    this.queuePair = queuePair;
    this.data = data;
    this.resolve = resolve;
  }

  static done(status: number, result: number, context: unknown): void {
    const { queuePair, data, resolve } = context as Pending;
    resolve({ status, result, resultHigh: queuePair.resultHigh, data: data.subarray(0, queuePair.transferred) });
  }
}

/**
 * Sends a prepared SQE.
 * @returns undefined if no slot is free
 */
export function sendSqe(
  queuePair: HostQueuePair,
  sqe: DataView,
  direction: number,
  buffer: Uint8Array,
): Promise<PassthruResult> | undefined {
  let resolve: (result: PassthruResult) => void = () => {};
  const promise = new Promise<PassthruResult>((done) => {
    resolve = done;
  });
  const received = direction === Direction.ControllerToHost ? buffer : NO_DATA;
  const pending = new Pending(queuePair, received, resolve);
  const command = queuePair.submitRaw(sqe, 0, direction, buffer, Pending.done, pending, true);
  return command === undefined ? undefined : promise;
}

/** Slots never given to ordinary commands: keep alive and Abort must always find one. */
const RESERVED_SLOTS = 2;

/** The admin queue. @public */
export class AdminQueue {
  readonly queuePair: HostQueuePair;
  readonly #queue: PQueue;
  /** Why the association ended. */
  lostError: Error | undefined;

  /** @param aerCount slots that outstanding AERs take */
  constructor(queuePair: HostQueuePair, aerCount: number) {
    this.queuePair = queuePair;
    this.#queue = new PQueue({ concurrency: Math.max(1, queuePair.freeCount - aerCount - RESERVED_SLOTS) });
  }

  /** Any Admin command, whatever its status. @throws TransportError if the connection is lost first */
  async passthru(command: PassthruCommand): Promise<PassthruResult> {
    return this.#queue.add(() => this.urgent(command));
  }

  /** As `passthru`, without waiting for a turn: for keep alive and Abort. */
  async urgent(command: PassthruCommand): Promise<PassthruResult> {
    const direction = command.opcode & 3;
    const buffer = direction === Direction.ControllerToHost ? readBuffer(command) : (command.data ?? NO_DATA);
    return this.#send(buildSqe(command), direction, buffer, `Admin command ${command.opcode.toString(16)}h`);
  }

  /** As `passthru`, throws on any status but success. @param what the command's name for the message */
  async execute(what: string, command: PassthruCommand): Promise<PassthruResult> {
    const result = await this.passthru(command);
    const error = commandError(what, 'admin', result.status, result.result, this.lostError);
    if (error !== undefined) throw error;
    return result;
  }

  /** A Fabrics command. @param fill writes bytes 40..63 of the SQE */
  async fabrics(
    what: string,
    fctype: number,
    fill: (sqe: DataView) => void,
    data: Uint8Array = NO_DATA,
  ): Promise<PassthruResult> {
    const sqe = new DataView(new ArrayBuffer(SQE_BYTES));
    sqe.setUint8(0, FABRICS_OPCODE);
    sqe.setUint8(4, fctype);
    fill(sqe);
    const result = await this.#send(sqe, fctype & 3, data, what);
    const error = commandError(what, 'fabrics', result.status, result.result, this.lostError);
    if (error !== undefined) throw error;
    return result;
  }

  /** @returns CAP as a bigint, others as a number */
  async propertyGet(name: string, offset: number): Promise<number> {
    const { result } = await this.#propertyGet(name, offset, 0);
    return result;
  }

  async propertyGet64(name: string, offset: number): Promise<bigint> {
    const { result, resultHigh } = await this.#propertyGet(name, offset, 1);
    return (BigInt(resultHigh) << 32n) | BigInt(result);
  }

  #propertyGet(name: string, offset: number, size: 0 | 1): Promise<PassthruResult> {
    return this.fabrics(`Property Get ${name}`, Fctype.PropertyGet, (sqe) => {
      sqe.setUint8(40, size);
      sqe.setUint32(44, offset, true);
    });
  }

  async propertySet(name: string, offset: number, value: number): Promise<void> {
    await this.fabrics(`Property Set ${name}`, Fctype.PropertySet, (sqe) => {
      sqe.setUint32(44, offset, true);
      sqe.setUint32(48, value, true);
    });
  }

  /** Asks the controller to abort a command. @returns true if it says it did */
  async abort(qid: number, cid: number): Promise<boolean> {
    const { status, result } = await this.urgent({ opcode: AdminOpcode.Abort, cdw10: qid | (cid << 16) });
    return status === Status.Success && (result & 1) === 0;
  }

  async #send(sqe: DataView, direction: number, buffer: Uint8Array, what: string): Promise<PassthruResult> {
    const sent = sendSqe(this.queuePair, sqe, direction, buffer);
    if (sent === undefined) {
      const why = this.lostError === undefined ? 'no admin queue slot is free' : this.lostError.message;
      throw new TransportError('NVMEOF_ERR_PATH', `${what} was not sent: ${why}`, { cause: this.lostError });
    }
    const result = await sent;
    if (this.lostError !== undefined && result.status === PathStatus.HostPathingError) {
      throw commandError(what, 'admin', result.status, 0, this.lostError);
    }
    return result;
  }
}

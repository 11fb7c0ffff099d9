/**
 * The controller's end of one NVMe/TCP connection: owner of the socket, its timers and its buffers. TCP Transport 1.0. One connection is one
 * queue pair; reader and writer do the work per PDU.
 */
import type { Socket } from 'node:net';
import { CH_SIZE, Dgst, Fes, IC_SIZE, PduType, TERM_REQ_DATA_MAX, TERM_REQ_HLEN } from '../../spec/pdu.ts';
import { DNR, Status } from '../../spec/status.ts';
import type { QueuePair, QueueTransport } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import type { BudgetWaiter, BufferBudget } from '../../util/buffer-budget.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { pduFlags, pduHlen, writeCommonHeader } from '../../wire/pdu.ts';
import { SocketSource, type SourceOwner } from './socket-source.ts';
import { LinkState, Slot, TargetLink, type TcpCounters, type TcpTargetOptions } from './target-link.ts';
import { TargetPduReader, type TargetPduReaderOwner } from './target-pdu-reader.ts';
import { TargetPduWriter, type TargetPduWriterOwner } from './target-pdu-writer.ts';

const TCP_KEEP_ALIVE_MS = 60_000;
/** A connection gives way to others after so many reads. */
const READS_PER_TURN = 4;
/** A read that brought less than two commands is not followed by another in the same turn: nothing is likely to be there. */
const READ_AGAIN_BYTES = 144;
/** Nor one that brought so much that its sender should hear of it first. */
const READ_ENOUGH_BYTES = 64 << 10;

export class TcpTargetConnection
  implements QueueTransport, TargetPduReaderOwner, TargetPduWriterOwner, BudgetWaiter, SourceOwner
{
  readonly peer: string;
  readonly localAddress: string | undefined;
  readonly #link: TargetLink;
  readonly #socket: Socket;
  readonly #source: SocketSource;
  readonly #reader: TargetPduReader;
  readonly #writer: TargetPduWriter;
  readonly #clock: Clock;
  readonly #queuePair: QueuePair;
  readonly #onClosed: (connection: TcpTargetConnection, reason: string) => void;
  #timer: Timer | undefined;
  #closeReason = 'the host closed the connection';
  /** What all connections hold. */
  readonly #budget: BufferBudget;
  /** Data buffers that commands hold now; counted in the budget as well, until everything is given back. */
  #bufferBytes = 0;
  #settled = false;
  /** Commands that wait for buffers, oldest first. */
  readonly #parked: Request[] = [];
  #unparking = false;
  /** Commands that came while the controller is suspended, oldest first: at most the queue's depth. */
  readonly #held: Request[] = [];

  /**
   * Takes over `accepted` (of a server with `pauseOnConnect`).
   * @param makeQueuePair the pair this connection is; unconnected until Connect
   * @param onClosed called once, when everything of the connection is released
   */
  constructor(
    accepted: Socket,
    options: TcpTargetOptions,
    clock: Clock,
    budget: BufferBudget,
    makeQueuePair: (transport: QueueTransport) => QueuePair,
    onClosed: (connection: TcpTargetConnection, reason: string) => void,
  ) {
    this.peer = `${accepted.remoteAddress ?? '?'}:${accepted.remotePort ?? 0}`;
    this.localAddress = accepted.localAddress;
    this.#link = new TargetLink(options);
    this.#clock = clock;
    this.#budget = budget;
    this.#onClosed = onClosed;
    this.#queuePair = makeQueuePair(this);
    this.#reader = new TargetPduReader(this, this.#link, this.#queuePair);
    this.#source = new SocketSource(accepted, this);
    const { socket } = this.#source;
    this.#socket = socket;
    this.#writer = new TargetPduWriter(this, this.#link, this.#queuePair, socket);
    socket.on('error', (error) => this.close(error.message));
    socket.on('end', () => this.close('the host closed the connection'));
    socket.on('close', () => this.#closed());
    socket.setNoDelay(true);
    // a host that vanished without keep alive is noticed by the kernel in the end
    socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS);
    this.#armTimer(options.setupTimeoutMs, 'no Connect within the set-up time');
    this.#source.start();
  }

  get counters(): TcpCounters {
    return this.#link.counters;
  }

  get sendsByPlace(): boolean {
    return this.#writer.sendsByPlace;
  }

  get queuePair(): QueuePair {
    return this.#queuePair;
  }

  #armTimer(delayMs: number, reason: string): void {
    this.#timer?.cancel();
    this.#timer = this.#clock.setTimer(() => this.close(reason), delayMs);
  }

  /** The queue is connected: the set-up time no longer runs. */
  connected(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  close(reason: string): void {
    if (this.#link.state === LinkState.Closed) return;
    this.#link.state = LinkState.Closed;
    this.#closeReason = reason;
    this.#source.stop();
    this.#socket.destroy();
  }

  #closed(): void {
    this.#link.state = LinkState.Closed;
    this.#source.stop();
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#writer.discard();
    // what waits for data or buffers never reaches the backend
    for (const request of this.#queuePair.requests) {
      if (request.inUse && (request.transportState & (Slot.AwaitingData | Slot.Parked | Slot.Held)) !== 0) {
        this.#queuePair.release(request);
      }
    }
    this.#parked.length = 0;
    this.#held.length = 0;
    this.#budget.forget(this);
    this.#settled = true;
    this.#budget.give(this.#bufferBytes);
    this.#queuePair.detached(this.#closeReason);
    this.#onClosed(this, this.#closeReason);
  }

  nextBuffer(): Uint8Array {
    return this.#reader.nextBuffer();
  }

  /**
   * Reads what is there: as often as a read brings much, so that what came meanwhile is answered with the rest. Where others wait as well, once:
   * what comes meanwhile is more by the time it is this connection's turn again.
   */
  readable(alone: boolean): void {
    const { counters } = this.#link;
    let received = 0;
    this.#writer.beginTurn();
    try {
      for (let reads = 0; reads < READS_PER_TURN; reads++) {
        received = this.#source.receive(this.#reader.plan());
        if (received <= 0) break;
        counters.bytesIn += received;
        if (this.#link.state < LinkState.Terminating) this.#reader.read(received);
        this.#writer.noteAnswers();
        if (received < READ_AGAIN_BYTES || received > READ_ENOUGH_BYTES || this.#writer.busy || !alone) break;
      }
      this.#writer.endTurn();
    } catch (error) {
      this.bug(error);
    }
    if (received < 0) this.close(this.#source.endError?.message ?? 'the host closed the connection');
    else if (this.#writer.busy) this.#source.pause();
  }

  onBytes(length: number): boolean {
    this.#link.counters.bytesIn += length;
    if (this.#link.state >= LinkState.Terminating) return true;
    this.#writer.beginTurn();
    try {
      this.#reader.read(length);
      this.#writer.noteAnswers();
      this.#writer.endTurn();
    } catch (error) {
      this.bug(error);
    }
    return !this.#writer.busy;
  }

  bug(error: unknown): void {
    const controller = this.#queuePair.controller;
    if (controller !== undefined) controller.fatal(error);
    this.close(error instanceof Error ? `internal error: ${error.message}` : 'internal error');
  }

  icReq(view: DataView, base: number): void {
    const pfv = view.getUint16(base + 8, true);
    const hpda = view.getUint8(base + 10);
    const dgst = view.getUint8(base + 11);
    // kickstart discovery is not served (bit 0 of FLAGS in later revisions)
    if ((pduFlags(view, base) & 0x01) !== 0) {
      this.fatal(Fes.UnsupportedParameter, 1, view, base, IC_SIZE);
      return;
    }
    if (pfv !== 0) {
      this.fatal(Fes.UnsupportedParameter, 8, view, base, IC_SIZE);
      return;
    }
    if (hpda > 31) {
      this.fatal(Fes.InvalidPduHeaderField, 10, view, base, IC_SIZE);
      return;
    }
    this.#link.headerDigest = this.#link.options.headerDigest && (dgst & Dgst.Header) !== 0;
    this.#link.dataDigest = this.#link.options.dataDigest && (dgst & Dgst.Data) !== 0;
    this.#link.hostAlignBytes = (hpda + 1) * 4;
    this.#link.state = LinkState.Live;
    this.#writer.icResp();
  }

  // ---- requests

  complete(request: Request): void {
    if (this.#link.state >= LinkState.Terminating) this.release(request);
    else this.#writer.send(request);
  }

  release(request: Request): void {
    const counted = request.countedBytes;
    this.#queuePair.release(request);
    if (counted > 0) this.buffersSent(counted);
  }

  buffersTaken(bytes: number): void {
    this.#bufferBytes += bytes;
    if (!this.#settled) this.#budget.take(bytes);
  }

  buffersSent(bytes: number): void {
    this.#bufferBytes -= bytes;
    if (!this.#settled) this.#budget.give(bytes);
    if (this.#parked.length > 0 && this.#link.state < LinkState.Terminating) this.#unpark();
  }

  /** Other connections gave buffers back. */
  roomAgain(): void {
    if (this.#link.state >= LinkState.Terminating) return;
    try {
      this.#unpark();
    } catch (error) {
      this.bug(error);
    }
  }

  drained(): void {
    this.#source.resume();
  }

  /** Executes now, or later if the command needs a buffer that the connection may not take yet. */
  execute(request: Request): void {
    if (request.bufferBytes > 0 && !this.#count(request, request.bufferBytes)) return;
    this.#queuePair.execute(request);
  }

  hold(request: Request): void {
    request.retain();
    request.unfetched = true;
    request.transportState = Slot.Held;
    this.#held.push(request);
  }

  resume(drop: boolean): void {
    for (const request of this.#held.splice(0)) {
      request.unfetched = false;
      request.transportState = 0;
      if (drop || this.#link.state >= LinkState.Terminating) this.release(request);
      else if (request.status !== 0) request.finish(request.status);
      else if (request.direction === 1 && request.transferBytes > 0 && request.segmentCount === 0)
        this.solicit(request);
      else this.execute(request);
    }
  }

  /** Counts `bytes` of buffer for the request; if there are too many already, parks it until others are released. */
  #count(request: Request, bytes: number): boolean {
    if (!this.#hasRoom(request, bytes)) {
      request.transportState |= Slot.Parked;
      this.#parked.push(request);
      return false;
    }
    this.#bufferBytes += bytes;
    this.#budget.take(bytes);
    request.countedBytes = bytes;
    return true;
  }

  /** One command always has room. The second of a fused pair never waits for what its own first holds. */
  #hasRoom(request: Request, bytes: number): boolean {
    if (this.#bufferBytes === 0) return true;
    if (request.partner !== undefined && request.partner.countedBytes > 0) return true;
    if (this.#bufferBytes + bytes > this.#link.options.bufferBytesMax) return false;
    if (this.#budget.hasRoom(bytes)) return true;
    this.#budget.await(this);
    return false;
  }

  /** Buffers were given back: parked commands go on, oldest first. */
  #unpark(): void {
    // a command that ends at once comes back here: the loop that runs goes on with the next, however many there are
    if (this.#unparking) return;
    this.#unparking = true;
    while (this.#parked.length > 0) {
      const request = this.#parked[0]!;
      const bytes = request.direction === 1 ? request.transferBytes : request.bufferBytes;
      if (!this.#hasRoom(request, bytes)) break;
      this.#parked.shift();
      request.transportState &= ~Slot.Parked;
      if (request.direction === 1) this.solicit(request);
      else this.execute(request);
    }
    this.#unparking = false;
  }

  /** R2T for the whole transfer. */
  solicit(request: Request): void {
    if (!this.#count(request, request.transferBytes)) return;
    request.hold(request.transferBytes);
    request.transportState = Slot.AwaitingData | Slot.R2tWaits;
    this.#writer.send(request);
  }

  /** Takes back a command that has not reached the backend; for Abort. Data that the host still owes is drained. */
  abort(request: Request): boolean {
    if ((request.transportState & Slot.Parked) !== 0) {
      this.#parked.splice(this.#parked.indexOf(request), 1);
      request.transportState = 0;
      request.finish(Status.CommandAbortRequested | DNR);
      return true;
    }
    if ((request.transportState & Slot.Held) !== 0) {
      this.#held.splice(this.#held.indexOf(request), 1);
      request.transportState = 0;
      request.finish(Status.CommandAbortRequested | DNR);
      return true;
    }
    return false;
  }

  /** Sends one C2HTermReq with the offending header, ignores what follows, and closes when the host does or the time is over. */
  fatal(fes: number, fei: number, view: DataView, base: number, available: number): false {
    const headerBytes = Math.min(Math.max(pduHlen(view, base), CH_SIZE), available, TERM_REQ_DATA_MAX);
    const header = new Uint8Array(view.buffer.slice(view.byteOffset + base, view.byteOffset + base + headerBytes));
    this.#writer.turn();
    this.#link.state = LinkState.Terminating;
    this.#closeReason = `sent C2HTermReq FES 0x${fes.toString(16)} FEI 0x${fei.toString(16)}`;
    const pdu = new Uint8Array(TERM_REQ_HLEN + headerBytes);
    const out = new DataView(pdu.buffer);
    writeCommonHeader(out, 0, PduType.C2HTermReq, 0, TERM_REQ_HLEN, 0, pdu.length);
    out.setUint16(8, fes, true);
    out.setUint32(10, fei, true);
    pdu.set(header, TERM_REQ_HLEN);
    this.#socket.end(pdu);
    this.#armTimer(this.#link.options.termTimeoutMs, this.#closeReason);
    return false;
  }
}

/**
 * The host's end of one NVMe/TCP connection: owner of the socket, the command slots and the set-up handshake. One connection is one queue pair.
 * Fatal errors follow section 3.5.2 of TCP 1.0: one H2CTermReq, nothing more is read, the peer gets 30 s to close.
 */
import { connect as connectSocket, type Socket, type TcpNetConnectOpts } from 'node:net';
import { Dgst, Fes, fesName, IC_SIZE, PduType } from '../../spec/pdu.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { TransportError } from '../../util/error.ts';
import { encodeIcReq, icRespCodec } from '../../wire/cold/ic.ts';
import { decodeTermReq, encodeTermReq } from '../../wire/cold/term-req.ts';
import { SQE_BYTES } from '../../wire/sqe.ts';
import { CommandState, HostCommand } from './host-command.ts';
import { connectError } from './host-connect-error.ts';
import { HostGatherWriter } from './host-gather-writer.ts';
import { HostPduReader, type ReaderOwner } from './host-pdu-reader.ts';
import { HostPduWriter } from './host-pdu-writer.ts';
import { receiveBytes, receiveView } from './receive-buffer.ts';
import { SocketSource, type SourceOwner } from './socket-source.ts';

/** What a connection is made with. */
export interface HostConnectionOptions {
  readonly address: string;
  readonly port: number;
  /** Commands outstanding at once, 1 to 32768. */
  readonly slotCount: number;
  readonly headerDigest?: boolean;
  readonly dataDigest?: boolean;
  /** Alignment of C2HData to ask for, 0 to 31 (0's based dwords). Linux targets take only 0. Default 0. */
  readonly hpda?: number;
  /** MAXR2T, 0's based; default 0: one R2T outstanding per command. */
  readonly maxR2t?: number;
  /** TCP connect. Default 10 s. */
  readonly connectTimeoutMs?: number;
  /** From ICReq to ICResp. Default 10 s. */
  readonly icTimeoutMs?: number;
  /** From our TermReq to closing the connection if the peer does not. Default 30 s. */
  readonly termTimeoutMs?: number;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /** How a socket is made; node:net by default. */
  readonly connectSocket?: (options: TcpNetConnectOpts) => Socket;
}

/** The queue pair above the connection. */
export interface HostConnectionHandler {
  /** The slot is free again; `status`, `result` and `resultHigh` are those of the completion. Hot. */
  commandDone(command: HostCommand): void;
  /** Once, unless `close` was called first. Commands still in flight get no `commandDone`. */
  connectionLost(error: TransportError): void;
}

const State = { Connecting: 0, WaitIcResp: 1, Live: 2, Terminating: 3, Closed: 4 } as const;
const MAXH2CDATA_MIN = 4096;
const ALIGN_MAX = 31;
/** A connection gives way to others after so many reads that were full. */
const READS_PER_TURN = 8;

export class HostConnection implements ReaderOwner, SourceOwner {
  readonly commands: readonly HostCommand[];
  readonly slotMask: number;
  readonly r2tMax: number;
  /** SQEs of the slots, `SQE_BYTES` each: written by the queue pair before `submit`. */
  readonly sqes: DataView;
  /** "address:port", for messages. */
  readonly peer: string;
  /** What the C2HTermReq that ended the connection said. */
  peerTerm: { readonly fes: number; readonly fei: number } | undefined;
  maxH2cData = 0;
  readonly #options: HostConnectionOptions;
  readonly #socket: Socket;
  /** Reads the socket once it is connected; undefined where node:net does. */
  #source: SocketSource | undefined;
  readonly #reader: HostPduReader;
  readonly #writer: HostPduWriter;
  readonly #gather: HostGatherWriter;
  #handler: HostConnectionHandler | undefined;
  #state: number = State.Connecting;
  #timer: Timer | undefined;
  #lost: TransportError | undefined;
  #established: { resolve: () => void; reject: (error: Error) => void } | undefined;
  #receiving = false;
  #flushScheduled = false;
  readonly #held: HostCommand[] = [];
  readonly #flush = (): void => {
    this.#flushScheduled = false;
    this.#writer.flush();
  };
  #closedResolve: () => void = () => {};
  /** Settles when the socket is gone. */
  readonly closed: Promise<void>;

  /**
   * Connects and exchanges ICReq and ICResp.
   * @throws TransportError, its message naming the address, what happened and what to look at
   */
  static async connect(options: HostConnectionOptions): Promise<HostConnection> {
    options.signal?.throwIfAborted();
    const connection = new HostConnection(options);
    const abort = (): void => connection.#fail(new TransportError('NVMEOF_ERR_ABORTED', 'Connect was aborted'));
    options.signal?.addEventListener('abort', abort, { once: true });
    try {
      await new Promise<void>((resolve, reject) => {
        connection.#established = { resolve, reject };
      });
    } finally {
      options.signal?.removeEventListener('abort', abort);
    }
    return connection;
  }

  private constructor(options: HostConnectionOptions) {
    this.#options = options;
    this.peer = options.address.includes(':')
      ? `[${options.address}]:${options.port}`
      : `${options.address}:${options.port}`;
    const slots = options.slotCount;
    this.slotMask = 2 ** Math.ceil(Math.log2(slots)) - 1;
    this.r2tMax = (options.maxR2t ?? 0) + 1;
    this.sqes = new DataView(new ArrayBuffer(slots * SQE_BYTES));
    this.commands = Array.from({ length: slots }, (_, slot) => new HostCommand(slot, slot * SQE_BYTES));
    this.closed = new Promise((resolve) => {
      this.#closedResolve = resolve;
    });
    this.#reader = new HostPduReader(this);
    const isPumped = options.connectSocket === undefined && SocketSource.pumps;
    const socket = (options.connectSocket ?? connectSocket)({
      host: options.address,
      port: options.port,
      noDelay: true,
      ...(isPumped ? {} : { onread: { buffer: () => this.nextBuffer(), callback: (length) => this.onBytes(length) } }),
    });
    // (until it is connected it has no descriptor)
    if (isPumped) socket.pause();
    this.#socket = socket;
    this.#gather = new HostGatherWriter(
      socket,
      () => this.#drained(),
      (error) => this.#fail(connectError(this.peer, error)),
    );
    this.#writer = new HostPduWriter(this.commands, this.slotMask, this.sqes, this.r2tMax, this.#gather);
    socket.on('connect', () => {
      if (isPumped && !this.#startPump()) return;
      this.#sendIcReq();
    });
    socket.on('error', (error) => this.#fail(connectError(this.peer, error)));
    socket.on('end', () => this.#fail(this.#peerClosed()));
    socket.on('close', () => this.#onSocketClosed());
    const timeoutMs = options.connectTimeoutMs ?? 10_000;
    this.#arm(timeoutMs, () =>
      this.#fail(
        new TransportError(
          'NVMEOF_ERR_TIMEOUT',
          `No TCP connection to ${this.peer} within ${timeoutMs} ms; check address, port and firewall`,
        ),
      ),
    );
  }

  /** From now on completions and the loss of the connection go to `handler`. */
  attach(handler: HostConnectionHandler): void {
    this.#handler = handler;
    if (this.#lost !== undefined) handler.connectionLost(this.#lost);
  }

  get live(): boolean {
    return this.#state === State.Live;
  }

  get reading(): boolean {
    return this.#state === State.Live || this.#state === State.WaitIcResp;
  }

  get headerDigest(): boolean {
    return this.#writer.headerDigest;
  }

  get dataDigest(): boolean {
    return this.#writer.dataDigest;
  }

  get receivedBytes(): number {
    return this.#reader.receivedBytes;
  }

  get sentBytes(): number {
    return this.#writer.sentBytes;
  }

  /** SQ head pointer that the controller reported last. */
  get sqhd(): number {
    return this.#reader.sqhd;
  }

  /** Sends a command whose slot and SQE are filled in, at the end of this turn with all others. */
  submit(command: HostCommand): void {
    command.state = CommandState.Queued;
    this.#writer.pushCapsule(command);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#receiving || this.#flushScheduled) return;
    this.#flushScheduled = true;
    setImmediate(this.#flush);
  }

  /** Closes at once and without a word; idempotent. Commands in flight get no `commandDone`. */
  close(): Promise<void> {
    this.#handler = undefined;
    this.#fail(new TransportError('NVMEOF_ERR_CLOSED', `Connection to ${this.peer} was closed`));
    return this.closed;
  }

  // --- receive side

  #startPump(): boolean {
    this.#source = new SocketSource(this.#socket, this);
    try {
      this.#source.start();
      return true;
    } catch (error) {
      this.#fail(connectError(this.peer, error as Error));
      return false;
    }
  }

  nextBuffer(): Uint8Array {
    return this.#reader.nextBuffer();
  }

  /** Reads what is there; on, while reads are full. */
  readable(): void {
    const source = this.#source!;
    for (let reads = 0; reads < READS_PER_TURN; reads++) {
      const plan = this.#reader.plan();
      const received = source.receive(plan);
      if (received < 0) {
        const { endError } = source;
        this.#fail(endError === undefined ? this.#peerClosed() : connectError(this.peer, endError));
        return;
      }
      if (received === 0) return;
      const isFull = received === plan.viewLength + plan.room;
      this.onBytes(received);
      if (!isFull) return;
    }
  }

  onBytes(length: number): true {
    this.#receiving = true;
    try {
      this.#reader.receive(length);
    } catch (error) {
      // A bug in here or in a completion callback: this connection's state is unknown, others go on.
      this.#fail(
        new TransportError('NVMEOF_ERR_INTERNAL', `Connection to ${this.peer} failed on a bug`, { cause: error }),
      );
      queueMicrotask(() => {
        throw error;
      });
    } finally {
      this.#receiving = false;
    }
    if (!this.#writer.idle) this.#writer.flush();
    return true;
  }

  completed(command: HostCommand): void {
    // A completion may overtake data that the socket still reads from the caller's buffer: an early error, or whatever a broken controller sends.
    if (command.lentWrite > this.#writer.drainedWrite) {
      command.state = CommandState.Held;
      this.#held.push(command);
      return;
    }
    this.#handler?.commandDone(command);
  }

  r2tReceived(command: HostCommand, ttag: number, offset: number, length: number): void {
    this.#writer.pushData(command, ttag, offset, length);
  }

  #drained(): void {
    this.#writer.drained();
    if (this.#held.length === 0) return;
    const held = this.#held.splice(0);
    for (const command of held) this.completed(command);
  }

  termReqReceived(base: number, length: number): void {
    if (length === 0) {
      this.#fail(new TransportError('NVMEOF_ERR_PROTOCOL', `${this.peer} sent a malformed C2HTermReq`));
      return;
    }
    const { fes, fei } = decodeTermReq(receiveBytes.subarray(base, base + length));
    this.peerTerm = { fes, fei };
    const what = `${this.peer} ended the connection: ${fesName(fes)} (FES ${fes}, FEI ${fei})`;
    this.#fail(new TransportError('NVMEOF_ERR_PEER_TERMINATED', what));
  }

  fatal(fes: number, fei: number, headerBase: number, headerLength: number): void {
    const what = `${this.peer} broke the protocol: ${fesName(fes)} (FES ${fes}, FEI ${fei}), PDU type ${receiveView.getUint8(headerBase)}`;
    this.#terminate(new TransportError('NVMEOF_ERR_PROTOCOL', what), fes, fei, headerBase, headerLength);
  }

  #terminate(error: TransportError, fes: number, fei: number, headerBase: number, headerLength: number): void {
    const canSend = !this.#gather.busy;
    this.#writer.close();
    if (!canSend) {
      // what is still queued must not reach the controller after its commands were given up
      this.#source?.stop();
      this.#socket.resetAndDestroy();
      this.#fail(error);
      return;
    }
    const header = receiveBytes.subarray(headerBase, headerBase + headerLength);
    const pdu = encodeTermReq({ type: PduType.H2CTermReq, fes, fei, header });
    this.#state = State.Terminating;
    this.#gather.write([pdu], 1);
    this.#arm(this.#options.termTimeoutMs ?? 30_000, () => this.#destroy());
    // during set-up nobody has this connection yet who would close it
    if (this.#established !== undefined) {
      this.#source?.stop();
      this.#socket.destroySoon();
    }
    this.#lose(error);
  }

  // --- set-up

  #sendIcReq(): void {
    const options = this.#options;
    const dgst = (options.headerDigest ? Dgst.Header : 0) | (options.dataDigest ? Dgst.Data : 0);
    const request = encodeIcReq({ hpda: options.hpda ?? 0, dgst, maxr2t: options.maxR2t ?? 0 });
    this.#state = State.WaitIcResp;
    this.#gather.write([request], 1);
    const timeoutMs = options.icTimeoutMs ?? 10_000;
    this.#arm(timeoutMs, () =>
      this.#fail(
        new TransportError(
          'NVMEOF_ERR_TIMEOUT',
          `${this.peer} did not answer ICReq within ${timeoutMs} ms; check that it speaks NVMe/TCP without TLS`,
        ),
      ),
    );
  }

  icRespReceived(base: number): void {
    const response = icRespCodec.decode(receiveBytes, base);
    const wanted = (this.#options.headerDigest ? Dgst.Header : 0) | (this.#options.dataDigest ? Dgst.Data : 0);
    const { maxh2cdata } = response;
    let fei = 0;
    let what = '';
    if (response.pfv !== 0) {
      fei = 8;
      what = `PFV ${response.pfv}, supported is 0`;
    } else if (response.cpda > ALIGN_MAX) {
      fei = 10;
      what = `CPDA ${response.cpda}, allowed are 0 to ${ALIGN_MAX}`;
    } else if ((response.dgst & ~wanted) !== 0) {
      fei = 11;
      what = 'a digest that was not requested';
    } else if (maxh2cdata < MAXH2CDATA_MIN || maxh2cdata % 4 !== 0) {
      fei = 12;
      what = `MAXH2CDATA ${maxh2cdata}, allowed are multiples of 4 from ${MAXH2CDATA_MIN}`;
    }
    if (fei !== 0) {
      const error = new TransportError('NVMEOF_ERR_PROTOCOL', `${this.peer} answered ICReq with ${what}`);
      this.#terminate(error, Fes.InvalidPduHeaderField, fei, base, IC_SIZE);
      return;
    }
    if (response.dgst !== wanted) {
      const declined = wanted & ~response.dgst & Dgst.Header ? 'header digest' : 'data digest';
      this.#fail(
        new TransportError('NVMEOF_ERR_DIGEST_DECLINED', `${this.peer} declined the ${declined}; connect without it`),
      );
      return;
    }
    this.#timer?.cancel();
    this.#state = State.Live;
    const reader = this.#reader;
    reader.established = true;
    reader.headerDigestBytes = wanted & Dgst.Header ? 4 : 0;
    reader.dataDigestBytes = wanted & Dgst.Data ? 4 : 0;
    reader.alignBytes = ((this.#options.hpda ?? 0) + 1) * 4;
    const writer = this.#writer;
    writer.headerDigest = (wanted & Dgst.Header) !== 0;
    writer.dataDigest = (wanted & Dgst.Data) !== 0;
    writer.alignBytes = (response.cpda + 1) * 4;
    writer.maxH2cData = maxh2cdata;
    this.maxH2cData = maxh2cdata;
    this.#established?.resolve();
    this.#established = undefined;
  }

  // --- the end

  #peerClosed(): TransportError {
    const when = this.#state === State.WaitIcResp ? ' before ICResp' : '';
    return new TransportError('NVMEOF_ERR_CONNECTION_LOST', `${this.peer} closed the connection${when}`);
  }

  #arm(delayMs: number, callback: () => void): void {
    this.#timer?.cancel();
    this.#timer = this.#options.clock.setTimer(callback, delayMs);
  }

  /** Ends the connection without a TermReq. */
  #fail(error: TransportError): void {
    if (this.#state === State.Closed) return;
    this.#destroy();
    this.#lose(error);
  }

  #destroy(): void {
    this.#state = State.Closed;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#writer.close();
    this.#source?.stop();
    this.#socket.destroy();
  }

  #lose(error: TransportError): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    this.#held.length = 0;
    this.#established?.reject(error);
    this.#established = undefined;
    this.#handler?.connectionLost(error);
  }

  #onSocketClosed(): void {
    this.#fail(this.#peerClosed());
    this.#closedResolve();
  }
}

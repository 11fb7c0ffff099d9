// @hot
/**
 * The controller's end of one NVMe/TCP connection: the socket's owner, PDU reader and PDU writer. TCP Transport 1.0; error answers follow
 * the specification's table of fatal errors. One connection is one queue pair.
 */
import type { Socket } from 'node:net';
import { FABRICS_OPCODE } from '../../spec/opcode.ts';
import {
  ADMIN_IN_CAPSULE_BYTES,
  CAPSULE_CMD_HLEN,
  CAPSULE_RESP_HLEN,
  CH_SIZE,
  DATA_HLEN,
  Dgst,
  DIGEST_SIZE,
  Fes,
  IC_SIZE,
  PduFlag,
  PduType,
  R2T_HLEN,
  SglId,
  TERM_REQ_DATA_MAX,
  TERM_REQ_HLEN,
} from '../../spec/pdu.ts';
import { DNR, Status } from '../../spec/status.ts';
import type { QueuePair, QueueTransport } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import { assert } from '../../util/assert.ts';
import type { Clock, Timer } from '../../util/clock.ts';
import { pin, unpin } from '../../util/pin.ts';
import { writeCqe } from '../../wire/cqe.ts';
import { crc32c, crc32cView } from '../../wire/crc32c.ts';
import {
  dataOffsetFor,
  pduCccid,
  pduDataLength,
  pduDataOffset,
  pduFlags,
  pduHlen,
  pduPdo,
  pduPlen,
  pduTtag,
  pduType,
  writeCommonHeader,
  writeDataHeader,
} from '../../wire/pdu.ts';
import { SQE_BYTES, sqeOpcode, sqeSglAddressHigh, sqeSglAddressLow, sqeSglId, sqeSglLength } from '../../wire/sqe.ts';
import { adoptSocket } from './adopt-socket.ts';
import { GatherWriter } from './gather-writer.ts';
import { type Batch, threadBuffers } from './thread-buffers.ts';

/** Limits of a port's connections; all in bytes unless named otherwise. */
export interface TcpTargetOptions {
  /** IOCCSZ * 16 - 64: in-capsule data that I/O queues take. Multiple of 16. */
  readonly inCapsuleBytes: number;
  /** MAXH2CDATA: at least 4096, multiple of 4. */
  readonly maxH2cDataBytes: number;
  /** CPDA, 0..31 (0's based dwords). Linux hosts connect only with 0. */
  readonly cpda: number;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
  /** Data buffers that one connection may hold for its commands before further ones wait. */
  readonly bufferBytesMax: number;
  /** From accept to ICReq, and from ICResp to a successful Connect. */
  readonly setupTimeoutMs: number;
  /** From a TermReq to closing the connection if the peer does not (TCP 1.0 section 3.5.2: 30 s). */
  readonly termTimeoutMs: number;
}

export const TCP_TARGET_DEFAULTS: TcpTargetOptions = {
  inCapsuleBytes: 8192,
  maxH2cDataBytes: 1 << 20,
  cpda: 0,
  headerDigest: true,
  dataDigest: true,
  bufferBytesMax: 8 << 20,
  setupTimeoutMs: 30_000,
  termTimeoutMs: 30_000,
};

/** Counters of one connection; plain numbers, read by metrics. */
export interface TcpCounters {
  commands: number;
  bytesIn: number;
  bytesOut: number;
  writes: number;
  blockedWrites: number;
}

const State = { WaitIcReq: 0, Live: 1, Terminating: 2, Closed: 3 } as const;
/** What the reader expects next. */
const Phase = { Header: 0, Data: 1 } as const;
/** `Request.transportState` bits. */
const Slot = { AwaitingData: 1, Drain: 2, DigestError: 4, Parked: 8 } as const;

/** The most header bytes one response takes: C2HData padded to 128, data digest, CapsuleResp with digest. */
const RESPONSE_HEADER_BYTES_MAX = 192;

export class TcpTargetConnection implements QueueTransport {
  readonly peer: string;
  readonly counters: TcpCounters = { commands: 0, bytesIn: 0, bytesOut: 0, writes: 0, blockedWrites: 0 };
  readonly #socket: Socket;
  readonly #writer: GatherWriter;
  readonly #options: TcpTargetOptions;
  readonly #clock: Clock;
  readonly #queuePair: QueuePair;
  readonly #onClosed: (connection: TcpTargetConnection, reason: string) => void;
  #state: number = State.WaitIcReq;
  #timer: Timer | undefined;
  #closeReason = 'the host closed the connection';

  // negotiated
  #headerDigest = false;
  #dataDigest = false;
  /** HPDA in bytes. */
  #hostAlignBytes = 4;
  #controllerAlignBytes: number;

  // reader
  #phase: number = Phase.Header;
  /** A header that came in pieces. */
  readonly #carry: Uint8Array = new Uint8Array(new ArrayBuffer(IC_SIZE + DIGEST_SIZE));
  readonly #carryView: DataView = new DataView(this.#carry.buffer);
  #carryLength = 0;
  /** HLEN plus HDGST of the PDU being read; 0 until its common header is checked. */
  #headerNeed = 0;
  #padLeft = 0;
  #dataLeft = 0;
  #dataDone = 0;
  #dataBase = 0;
  #dataDigestLeft = 0;
  #dataCrc = 0;
  #receivedDigest = 0;
  /** Whose data is being read; undefined while draining. */
  #current: Request | undefined;
  #currentIsCapsule = false;

  // writer
  /** What is formatted and not sent, or sent and still with the kernel. */
  #batch: Batch | undefined;
  /** Requests whose pooled data is in the batch. */
  readonly #holding: Request[] = [];
  /** Payload memory of a write that is still going on. */
  readonly #pinned: ArrayBufferLike[] = [];
  /** Requests whose response or R2T waits for the writer or the end of the turn. */
  #waiting: Request[] = [];
  #formatting = false;
  #turnScheduled = false;
  readonly #endTurn: () => void = () => this.#turn();

  // commands that wait for buffers
  #bufferBytes = 0;
  readonly #parked: Request[] = [];

  /**
   * Takes over `accepted` (of a server with `pauseOnConnect`).
   * @param makeQueuePair the pair this connection is; unconnected until Connect
   * @param onClosed called once, when everything of the connection is released
   */
  constructor(
    accepted: Socket,
    options: TcpTargetOptions,
    clock: Clock,
    makeQueuePair: (transport: QueueTransport) => QueuePair,
    onClosed: (connection: TcpTargetConnection, reason: string) => void,
  ) {
    this.peer = `${accepted.remoteAddress ?? '?'}:${accepted.remotePort ?? 0}`;
    this.#options = options;
    this.#clock = clock;
    this.#controllerAlignBytes = (options.cpda + 1) * 4;
    this.#onClosed = onClosed;
    this.#queuePair = makeQueuePair(this);
    const socket = adoptSocket(accepted, threadBuffers.receive, (length) => this.#onBytes(length));
    this.#socket = socket;
    this.#writer = new GatherWriter(
      socket,
      () => this.#drained(),
      (error) => this.close(error.message),
    );
    socket.on('error', (error) => this.close(error.message));
    socket.on('end', () => this.close('the host closed the connection'));
    socket.on('close', () => this.#closed());
    socket.setNoDelay(true);
    this.#armTimer(options.setupTimeoutMs, 'no Connect within the set-up time');
    socket.resume();
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
    if (this.#state === State.Closed) return;
    this.#state = State.Closed;
    this.#closeReason = reason;
    this.#socket.destroy();
  }

  #closed(): void {
    this.#state = State.Closed;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#releaseBatch();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const request of waiting) if (request.transportState === 0) this.#queuePair.release(request);
    // what waits for data or buffers never reaches the backend
    for (const request of this.#queuePair.requests) {
      if (request.inUse && (request.transportState & (Slot.AwaitingData | Slot.Parked)) !== 0) {
        this.#queuePair.release(request);
      }
    }
    this.#parked.length = 0;
    this.#current = undefined;
    this.#queuePair.detached(this.#closeReason);
    this.#onClosed(this, this.#closeReason);
  }

  // ---- reader --------------------------------------------------------------------------------------------------------------------

  #onBytes(length: number): boolean {
    this.counters.bytesIn += length;
    if (this.#state >= State.Terminating) return true;
    this.#formatting = true;
    try {
      this.#read(length);
      this.#turn();
    } catch (error) {
      this.#bug(error);
    }
    this.#formatting = false;
    return !this.#writer.busy;
  }

  #bug(error: unknown): void {
    const controller = this.#queuePair.controller;
    if (controller !== undefined) controller.fatal(error);
    this.close(error instanceof Error ? `internal error: ${error.message}` : 'internal error');
  }

  #read(end: number): void {
    const view = threadBuffers.receiveView;
    const bytes = threadBuffers.receive;
    let at = 0;
    while (at < end && this.#state < State.Terminating) {
      if (this.#phase === Phase.Data) {
        at = this.#readData(at, end);
        continue;
      }
      if (this.#carryLength === 0) {
        // the usual case: the whole header stands in what was received
        if (end - at >= CH_SIZE) {
          if (!this.#checkCommonHeader(view, at, end - at)) return;
          if (end - at >= this.#headerNeed) {
            const header = at;
            at += this.#headerNeed;
            this.#onHeader(view, header, at, end);
            if (this.#skip > 0) {
              at += this.#skip;
              this.#skip = 0;
            }
            continue;
          }
        }
        this.#carry.set(bytes.subarray(at, end));
        this.#carryLength = end - at;
        return;
      }
      const wanted = this.#carryLength < CH_SIZE ? CH_SIZE : this.#headerNeed;
      const take = Math.min(wanted - this.#carryLength, end - at);
      this.#carry.set(bytes.subarray(at, at + take), this.#carryLength);
      this.#carryLength += take;
      at += take;
      if (this.#carryLength < wanted) return;
      if (wanted === CH_SIZE && !this.#checkCommonHeader(this.#carryView, 0, CH_SIZE)) return;
      if (this.#carryLength < this.#headerNeed) continue;
      this.#carryLength = 0;
      this.#onHeader(this.#carryView, 0, at, end);
      if (this.#skip > 0) {
        at += this.#skip;
        this.#skip = 0;
      }
    }
  }

  /** Bytes after the header that `#onHeader` has already used. */
  #skip = 0;

  /** Type, HLEN and PLEN, before anything else is waited for. */
  #checkCommonHeader(view: DataView, base: number, available: number): boolean {
    const type = pduType(view, base);
    const hlen = pduHlen(view, base);
    const plen = pduPlen(view, base);
    const flags = pduFlags(view, base);
    let need = 0;
    switch (type) {
      case PduType.CapsuleCmd:
        if (this.#state === State.WaitIcReq) return this.#fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== CAPSULE_CMD_HLEN) return this.#fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        need = CAPSULE_CMD_HLEN;
        break;
      case PduType.H2CData:
        if (this.#state === State.WaitIcReq) return this.#fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== DATA_HLEN) return this.#fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        need = DATA_HLEN;
        break;
      case PduType.ICReq:
        if (this.#state !== State.WaitIcReq) return this.#fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== IC_SIZE) return this.#fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        if (plen !== IC_SIZE) return this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
        this.#headerNeed = IC_SIZE;
        return true;
      case PduType.H2CTermReq:
        // never answered by a TermReq: the host closes, or the limit of PLEN is broken and we close at once
        this.close(
          plen < TERM_REQ_HLEN || plen > TERM_REQ_HLEN + TERM_REQ_DATA_MAX
            ? 'the host sent a malformed H2CTermReq'
            : 'the host sent H2CTermReq',
        );
        return false;
      default:
        return this.#fatal(Fes.InvalidPduHeaderField, 0, view, base, available);
    }
    if (this.#headerDigest !== ((flags & PduFlag.Hdgst) !== 0)) {
      return this.#fatal(Fes.InvalidPduHeaderField, 1, view, base, available);
    }
    if (this.#headerDigest) need += DIGEST_SIZE;
    this.#headerNeed = need;
    if (plen < need) return this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
    if (plen > need) {
      const pdo = pduPdo(view, base);
      const hasDataDigest = (flags & PduFlag.Ddgst) !== 0;
      if (hasDataDigest !== this.#dataDigest) return this.#fatal(Fes.InvalidPduHeaderField, 1, view, base, available);
      if (pdo < need || pdo % this.#controllerAlignBytes !== 0 || pdo > plen) {
        return this.#fatal(Fes.InvalidPduHeaderField, 3, view, base, available);
      }
      const dataLength = plen - pdo - (hasDataDigest ? DIGEST_SIZE : 0);
      if (dataLength <= 0) return this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
      // a capsule over the limit is answered by a status and drained, unless it is beyond reason
      const limit =
        type === PduType.H2CData
          ? this.#options.maxH2cDataBytes
          : this.#capsuleDataMax() + this.#options.maxH2cDataBytes;
      if (dataLength > limit) {
        const fes = type === PduType.H2CData ? Fes.LimitExceeded : Fes.InvalidPduHeaderField;
        return this.#fatal(fes, type === PduType.H2CData ? 0 : 4, view, base, available);
      }
    }
    return true;
  }

  #capsuleDataMax(): number {
    return Math.max(ADMIN_IN_CAPSULE_BYTES, this.#options.inCapsuleBytes);
  }

  #onHeader(view: DataView, base: number, at: number, end: number): void {
    const type = pduType(view, base);
    if (this.#headerDigest && type !== PduType.ICReq) {
      const hlen = pduHlen(view, base);
      const received = view.getUint32(base + hlen, true);
      if (received !== crc32cView(view, base, hlen)) {
        this.#fatal(Fes.HeaderDigestError, received, view, base, hlen);
        return;
      }
    }
    if (type === PduType.CapsuleCmd) this.#onCapsule(view, base, at, end);
    else if (type === PduType.H2CData) this.#onH2cData(view, base);
    else this.#onIcReq(view, base);
  }

  #onIcReq(view: DataView, base: number): void {
    const pfv = view.getUint16(base + 8, true);
    const hpda = view.getUint8(base + 10);
    const dgst = view.getUint8(base + 11);
    // kickstart discovery is not served (bit 0 of FLAGS in later revisions)
    if ((pduFlags(view, base) & 0x01) !== 0) {
      this.#fatal(Fes.UnsupportedParameter, 1, view, base, IC_SIZE);
      return;
    }
    if (pfv !== 0) {
      this.#fatal(Fes.UnsupportedParameter, 8, view, base, IC_SIZE);
      return;
    }
    if (hpda > 31) {
      this.#fatal(Fes.InvalidPduHeaderField, 10, view, base, IC_SIZE);
      return;
    }
    const headerDigest = this.#options.headerDigest && (dgst & Dgst.Header) !== 0;
    const dataDigest = this.#options.dataDigest && (dgst & Dgst.Data) !== 0;
    this.#hostAlignBytes = (hpda + 1) * 4;
    const slab = this.#open();
    const out = slab.reserve(IC_SIZE);
    slab.bytes.fill(0, out, out + IC_SIZE);
    writeCommonHeader(slab.view, out, PduType.ICResp, 0, IC_SIZE, 0, IC_SIZE);
    slab.view.setUint8(out + 10, this.#options.cpda);
    slab.view.setUint8(out + 11, (headerDigest ? Dgst.Header : 0) | (dataDigest ? Dgst.Data : 0));
    slab.view.setUint32(out + 12, this.#options.maxH2cDataBytes, true);
    this.#headerDigest = headerDigest;
    this.#dataDigest = dataDigest;
    this.#state = State.Live;
  }

  #onCapsule(view: DataView, base: number, at: number, end: number): void {
    const queuePair = this.#queuePair;
    const request = queuePair.acquire();
    if (request === undefined) {
      queuePair.controller?.fatal(
        new Error(`more than ${queuePair.depth} commands outstanding on queue ${queuePair.qid}`),
      );
      this.close('more commands outstanding than the queue holds');
      return;
    }
    this.counters.commands++;
    const sqe = request.sqe;
    const sqeBase = request.sqeBase;
    for (let i = 0; i < SQE_BYTES; i += 4) sqe.setUint32(sqeBase + i, view.getUint32(base + CH_SIZE + i, true), true);

    const plen = pduPlen(view, base);
    const pdo = pduPdo(view, base);
    const digestBytes = plen > this.#headerNeed && this.#dataDigest ? DIGEST_SIZE : 0;
    const capsuleBytes = plen > this.#headerNeed ? plen - pdo - digestBytes : 0;
    const sglId = sqeSglId(sqe, sqeBase);
    const sglLength = sqeSglLength(sqe, sqeBase);

    let status = queuePair.prepare(request);
    if (sglId === SglId.DataBlockOffset) {
      const limit =
        queuePair.qid === 0 || sqeOpcode(sqe, sqeBase) === FABRICS_OPCODE
          ? this.#capsuleDataMax()
          : this.#options.inCapsuleBytes;
      if (sqeSglAddressLow(sqe, sqeBase) !== 0 || sqeSglAddressHigh(sqe, sqeBase) !== 0) {
        status = request.fail(Status.SglOffsetInvalid, 24);
      } else if (sglLength > limit) {
        status = request.fail(Status.DataSglLengthInvalid, 32);
      } else if (sglLength !== capsuleBytes) {
        queuePair.release(request);
        this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, CAPSULE_CMD_HLEN);
        return;
      }
      if (status === 0 && request.direction === 2 && request.transferBytes > 0)
        status = request.fail(Status.InvalidField, 39);
    } else if (capsuleBytes > 0) {
      queuePair.release(request);
      this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, CAPSULE_CMD_HLEN);
      return;
    } else if (sglId !== SglId.TransportDataBlock && !(sglId === SglId.Null && sglLength === 0)) {
      status = request.fail(Status.SglDescriptorTypeInvalid, 39);
    }
    if (status === 0 && sglLength < request.transferBytes) status = request.fail(Status.DataSglLengthInvalid, 32);
    request.status = status;

    if (capsuleBytes === 0) {
      if (status !== 0) {
        request.finish(status);
      } else if (request.direction === 1 && request.transferBytes > 0) {
        this.#solicit(request);
      } else {
        this.#execute(request);
      }
      return;
    }
    const pad = pdo - this.#headerNeed;
    if (end - at >= pad + capsuleBytes + digestBytes) {
      // all of it has arrived: the command runs on the received bytes themselves
      this.#skip = pad + capsuleBytes + digestBytes;
      const offset = at + pad;
      const data = threadBuffers.receiveViews.view(offset, capsuleBytes);
      if (
        status === 0 &&
        digestBytes > 0 &&
        crc32c(data) !== threadBuffers.receiveView.getUint32(offset + capsuleBytes, true)
      ) {
        status = Status.TransientTransportError;
      }
      if (status !== 0) {
        request.finish(status);
        return;
      }
      request.segments[0] = data.length > request.transferBytes ? data.subarray(0, request.transferBytes) : data;
      request.segmentCount = 1;
      request.transient = true;
      queuePair.execute(request);
      assert(!request.inUse || !request.transient, 'A backend kept in-capsule data without retain()');
      return;
    }
    this.#phase = Phase.Data;
    this.#padLeft = pad;
    this.#dataLeft = capsuleBytes;
    this.#dataDone = 0;
    this.#dataBase = 0;
    this.#dataDigestLeft = digestBytes;
    this.#dataCrc = 0;
    this.#current = request;
    this.#currentIsCapsule = true;
    request.transportState |= Slot.AwaitingData;
    if (status === 0) request.hold(capsuleBytes);
    else request.transportState |= Slot.Drain;
  }

  /** Executes now, or later if the command needs a buffer that the connection may not take yet. */
  #execute(request: Request): void {
    if (request.bufferBytes > 0 && !this.#count(request, request.bufferBytes)) return;
    this.#queuePair.execute(request);
  }

  /** Counts `bytes` of buffer for the request; if there are too many already, parks it until others are released. */
  #count(request: Request, bytes: number): boolean {
    if (this.#bufferBytes > 0 && this.#bufferBytes + bytes > this.#options.bufferBytesMax) {
      request.transportState |= Slot.Parked;
      this.#parked.push(request);
      return false;
    }
    this.#bufferBytes += bytes;
    request.countedBytes = bytes;
    return true;
  }

  /** Buffers were given back: parked commands go on, oldest first. */
  #unpark(): void {
    while (this.#parked.length > 0) {
      const request = this.#parked[0]!;
      const bytes = request.direction === 1 ? request.transferBytes : request.bufferBytes;
      if (this.#bufferBytes > 0 && this.#bufferBytes + bytes > this.#options.bufferBytesMax) return;
      this.#parked.shift();
      request.transportState &= ~Slot.Parked;
      if (request.direction === 1) this.#solicit(request);
      else this.#execute(request);
    }
  }

  /** R2T for the whole transfer. */
  #solicit(request: Request): void {
    if (!this.#count(request, request.transferBytes)) return;
    request.hold(request.transferBytes);
    request.transportState = Slot.AwaitingData;
    this.#send(request);
  }

  #formatR2t(request: Request): void {
    const hlen = R2T_HLEN + (this.#headerDigest ? DIGEST_SIZE : 0);
    const batch = this.#open();
    const out = batch.reserve(hlen);
    const view = batch.view;
    writeCommonHeader(view, out, PduType.R2T, this.#headerDigest ? PduFlag.Hdgst : 0, R2T_HLEN, 0, hlen);
    writeDataHeader(view, out, request.cid, request.slot, 0, request.transferBytes);
    if (this.#headerDigest) view.setUint32(out + R2T_HLEN, crc32cView(view, out, R2T_HLEN), true);
  }

  #onH2cData(view: DataView, base: number): void {
    const ttag = pduTtag(view, base);
    const request = ttag < this.#queuePair.requests.length ? this.#queuePair.requests[ttag]! : undefined;
    if (request === undefined || (request.transportState & Slot.AwaitingData) === 0) {
      // data for a command that has all of it is out of sequence; any other tag is unknown
      const known =
        request?.inUse === true && request.countedBytes > 0 && request.direction === 1 && request.transportState === 0;
      this.#fatal(known ? Fes.PduSequenceError : Fes.InvalidPduHeaderField, known ? 0 : 10, view, base, DATA_HLEN);
      return;
    }
    if (pduCccid(view, base) !== request.cid) {
      this.#fatal(Fes.InvalidPduHeaderField, 8, view, base, DATA_HLEN);
      return;
    }
    const offset = pduDataOffset(view, base);
    const length = pduDataLength(view, base);
    const plen = pduPlen(view, base);
    const pdo = pduPdo(view, base);
    const digestBytes = this.#dataDigest ? DIGEST_SIZE : 0;
    if ((offset & 3) !== 0) {
      this.#fatal(Fes.InvalidPduHeaderField, 12, view, base, DATA_HLEN);
      return;
    }
    if (length === 0 || (length & 3) !== 0) {
      this.#fatal(Fes.InvalidPduHeaderField, 16, view, base, DATA_HLEN);
      return;
    }
    if (length > this.#options.maxH2cDataBytes) {
      this.#fatal(Fes.LimitExceeded, 0, view, base, DATA_HLEN);
      return;
    }
    if (plen <= this.#headerNeed || length !== plen - pdo - digestBytes) {
      this.#fatal(Fes.InvalidPduHeaderField, 4, view, base, DATA_HLEN);
      return;
    }
    if (offset + length > request.transferBytes) {
      this.#fatal(Fes.DataTransferOutOfRange, 0, view, base, DATA_HLEN);
      return;
    }
    const isLast = (pduFlags(view, base) & PduFlag.LastPdu) !== 0;
    if (offset !== request.receivedBytes || (isLast && offset + length < request.transferBytes)) {
      this.#fatal(Fes.PduSequenceError, 0, view, base, DATA_HLEN);
      return;
    }
    this.#phase = Phase.Data;
    this.#padLeft = pdo - this.#headerNeed;
    this.#dataLeft = length;
    this.#dataDone = 0;
    this.#dataBase = offset;
    this.#dataDigestLeft = digestBytes;
    this.#dataCrc = 0;
    this.#current = request;
    this.#currentIsCapsule = false;
  }

  /** Padding, data and data digest of the PDU whose header is read. */
  #readData(from: number, end: number): number {
    let at = from;
    if (this.#padLeft > 0) {
      const take = Math.min(this.#padLeft, end - at);
      this.#padLeft -= take;
      at += take;
      if (this.#padLeft > 0) return at;
    }
    const request = this.#current!;
    if (this.#dataLeft > 0) {
      const take = Math.min(this.#dataLeft, end - at);
      if (take > 0) {
        if ((request.transportState & Slot.Drain) === 0) {
          const piece = threadBuffers.receiveViews.view(at, take);
          request.segments[0]!.set(piece, this.#dataBase + this.#dataDone);
          if (this.#dataDigest) this.#dataCrc = crc32c(piece, this.#dataCrc);
        }
        this.#dataLeft -= take;
        this.#dataDone += take;
        at += take;
      }
      if (this.#dataLeft > 0) return at;
    }
    while (this.#dataDigestLeft > 0) {
      if (at === end) return at;
      this.#receivedDigest = (this.#receivedDigest >>> 8) | (threadBuffers.receive[at]! << 24);
      this.#dataDigestLeft--;
      at++;
    }
    if (this.#dataDigest && this.#receivedDigest >>> 0 !== this.#dataCrc) request.transportState |= Slot.DigestError;
    this.#phase = Phase.Header;
    this.#current = undefined;
    request.receivedBytes += this.#dataDone;
    if (this.#currentIsCapsule || request.receivedBytes === request.transferBytes) this.#dataComplete(request);
    return at;
  }

  #dataComplete(request: Request): void {
    const transportState = request.transportState;
    request.transportState = 0;
    if ((transportState & Slot.Drain) !== 0) request.finish(request.status);
    else if ((transportState & Slot.DigestError) !== 0) request.finish(Status.TransientTransportError);
    else {
      if (request.segments[0]!.length > request.transferBytes) {
        request.segments[0] = request.segments[0]!.subarray(0, request.transferBytes);
      }
      this.#queuePair.execute(request);
    }
  }

  /** Takes back a command that has not reached the backend; for Abort. Data that the host still owes is drained. */
  abort(request: Request): boolean {
    if ((request.transportState & Slot.Parked) !== 0) {
      this.#parked.splice(this.#parked.indexOf(request), 1);
      request.transportState = 0;
      request.finish(Status.CommandAbortRequested | DNR);
      return true;
    }
    return false;
  }

  // ---- writer --------------------------------------------------------------------------------------------------------------------

  complete(request: Request): void {
    if (this.#state >= State.Terminating) {
      this.#release(request);
      return;
    }
    this.#send(request);
  }

  /** Formats the request's response or R2T: now within a read, else with everything else at the end of the turn. */
  #send(request: Request): void {
    if (this.#formatting && !this.#writer.busy && this.#waiting.length === 0) {
      this.#format(request);
      return;
    }
    this.#waiting.push(request);
    if (!this.#formatting && !this.#turnScheduled && !this.#writer.busy) {
      this.#turnScheduled = true;
      setImmediate(this.#endTurn);
    }
  }

  /** Formats what waits and sends the batch. */
  #turn(): void {
    this.#turnScheduled = false;
    if (this.#state >= State.Terminating) return;
    const outer = this.#formatting;
    this.#formatting = true;
    const waiting = this.#waiting;
    let i = 0;
    while (i < waiting.length && !this.#writer.busy) {
      if (!this.#format(waiting[i]!)) break;
      i++;
    }
    if (i === waiting.length) waiting.length = 0;
    else if (i > 0) waiting.splice(0, i);
    this.#flush();
    this.#formatting = outer;
  }

  #open(): Batch {
    let batch = this.#batch;
    if (batch === undefined) {
      batch = threadBuffers.takeBatch();
      this.#batch = batch;
    }
    return batch;
  }

  /** @returns false if the writer is busy: the request is then in `#waiting` */
  #format(request: Request): boolean {
    const open = this.#batch;
    if (open?.isFull(RESPONSE_HEADER_BYTES_MAX, request.segmentCount)) {
      this.#flush();
      if (this.#writer.busy) {
        if (this.#waiting[0] !== request) this.#waiting.push(request);
        return false;
      }
    }
    if ((request.transportState & Slot.AwaitingData) !== 0) this.#formatR2t(request);
    else this.#formatResponse(request);
    return true;
  }

  /** C2HData with the command's data, and CapsuleResp unless SUCCESS says it. */
  #formatResponse(request: Request): void {
    const queuePair = this.#queuePair;
    const headerDigest = this.#headerDigest;
    const flags = headerDigest ? PduFlag.Hdgst : 0;
    const digestBytes = headerDigest ? DIGEST_SIZE : 0;
    const segmentCount = request.segmentCount;
    const sendData = request.direction === 2 && request.status === 0 && segmentCount > 0;
    const batch = this.#open();
    const view = batch.view;
    let success = false;
    if (sendData) {
      let length = 0;
      for (let i = 0; i < segmentCount; i++) length += request.segments[i]!.length;
      success = !queuePair.flowControl && request.result0 === 0 && request.result1 === 0;
      const pdo =
        this.#hostAlignBytes === 4
          ? DATA_HLEN + digestBytes
          : dataOffsetFor(DATA_HLEN, headerDigest, this.#hostAlignBytes);
      const dataDigest = this.#dataDigest;
      const out = batch.reserve(pdo);
      writeCommonHeader(
        view,
        out,
        PduType.C2HData,
        flags | PduFlag.LastPdu | (dataDigest ? PduFlag.Ddgst : 0) | (success ? PduFlag.Success : 0),
        DATA_HLEN,
        pdo,
        pdo + length + (dataDigest ? DIGEST_SIZE : 0),
      );
      writeDataHeader(view, out, request.cid, 0, 0, length);
      if (headerDigest) view.setUint32(out + DATA_HLEN, crc32cView(view, out, DATA_HLEN), true);
      if (pdo > DATA_HLEN + digestBytes) batch.bytes.fill(0, out + DATA_HLEN + digestBytes, out + pdo);
      batch.endRun();
      for (let i = 0; i < segmentCount; i++) batch.add(request.segments[i]!);
      if (dataDigest) batch.addDigest(segmentCount);
    }
    if (!success) {
      const out = batch.reserve(CAPSULE_RESP_HLEN + digestBytes);
      writeCommonHeader(view, out, PduType.CapsuleResp, flags, CAPSULE_RESP_HLEN, 0, CAPSULE_RESP_HLEN + digestBytes);
      const sqhd = queuePair.flowControl ? queuePair.sqhd : request.sqhdWithoutFlowControl;
      writeCqe(view, out + CH_SIZE, request.result0, request.result1, sqhd, request.cid, request.status);
      if (headerDigest) view.setUint32(out + CAPSULE_RESP_HLEN, crc32cView(view, out, CAPSULE_RESP_HLEN), true);
    }
    if (sendData && request.holdsBuffer) this.#holding.push(request);
    else this.#release(request);
  }

  #release(request: Request): void {
    const counted = request.countedBytes;
    this.#queuePair.release(request);
    if (counted > 0) {
      this.#bufferBytes -= counted;
      if (this.#parked.length > 0 && this.#state < State.Terminating) this.#unpark();
    }
  }

  /** Sends the batch. Afterwards either the kernel has it all, or the writer is busy and nothing of it may change. */
  #flush(): void {
    const batch = this.#batch;
    if (batch === undefined || this.#writer.busy) return;
    batch.endRun();
    const count = batch.bufferCount;
    if (count > 0) {
      if (batch.digestCount > 0) batch.sealDigests(crc32c);
      this.counters.writes++;
      if (!this.#writer.write(batch.buffers, count)) {
        this.counters.blockedWrites++;
        const own = batch.bytes.buffer;
        for (let i = 0; i < count; i++) {
          const buffer = batch.buffers[i]!.buffer;
          if (buffer === own) continue;
          pin(buffer);
          this.#pinned.push(buffer);
        }
        return;
      }
    }
    this.#releaseBatch();
  }

  /** The kernel has the batch: its memory may change again. */
  #releaseBatch(): void {
    for (let i = 0; i < this.#pinned.length; i++) unpin(this.#pinned[i]!);
    this.#pinned.length = 0;
    const batch = this.#batch;
    if (batch === undefined) return;
    this.#batch = undefined;
    batch.clear();
    threadBuffers.giveBatch(batch);
    const holding = this.#holding;
    if (holding.length > 0) {
      const count = holding.length;
      for (let i = 0; i < count; i++) this.#release(holding[i]!);
      if (holding.length === count) holding.length = 0;
      else holding.splice(0, count);
    }
  }

  /** The kernel took the rest of a batch that it could not take at once. */
  #drained(): void {
    this.#releaseBatch();
    if (this.#state >= State.Terminating) return;
    this.#turn();
    if (!this.#writer.busy) this.#socket.resume();
  }

  /** Sends one C2HTermReq with the offending header, ignores what follows, and closes when the host does or the time is over. */
  #fatal(fes: number, fei: number, view: DataView, base: number, available: number): false {
    const headerBytes = Math.min(Math.max(pduHlen(view, base), CH_SIZE), available, TERM_REQ_DATA_MAX);
    const header = new Uint8Array(view.buffer.slice(view.byteOffset + base, view.byteOffset + base + headerBytes));
    this.#turn();
    this.#state = State.Terminating;
    this.#closeReason = `sent C2HTermReq FES 0x${fes.toString(16)} FEI 0x${fei.toString(16)}`;
    const pdu = new Uint8Array(TERM_REQ_HLEN + headerBytes);
    const out = new DataView(pdu.buffer);
    writeCommonHeader(out, 0, PduType.C2HTermReq, 0, TERM_REQ_HLEN, 0, pdu.length);
    out.setUint16(8, fes, true);
    out.setUint32(10, fei, true);
    pdu.set(header, TERM_REQ_HLEN);
    this.#socket.end(pdu);
    this.#armTimer(this.#options.termTimeoutMs, this.#closeReason);
    return false;
  }
}

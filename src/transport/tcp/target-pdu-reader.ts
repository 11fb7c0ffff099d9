// @hot
/**
 * Reads the PDUs of one host: an integer state machine over the thread's receive buffer. What is malformed is answered as the table of fatal
 * errors says (TCP 1.0 section 3.5.2; FES and FEI for each case); a common header is checked before anything else is waited for.
 */
import { FABRICS_OPCODE } from '../../spec/opcode.ts';
import {
  ADMIN_IN_CAPSULE_BYTES,
  CAPSULE_CMD_HLEN,
  CH_SIZE,
  DATA_HLEN,
  DIGEST_SIZE,
  Fes,
  IC_SIZE,
  PduFlag,
  PduType,
  SglId,
  TERM_REQ_DATA_MAX,
  TERM_REQ_HLEN,
} from '../../spec/pdu.ts';
import { Status } from '../../spec/status.ts';
import type { QueuePair } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import { assert } from '../../util/assert.ts';
import { crc32c, crc32cView } from '../../wire/crc32c.ts';
import {
  pduCccid,
  pduDataLength,
  pduDataOffset,
  pduFlags,
  pduHlen,
  pduPdo,
  pduPlen,
  pduTtag,
  pduType,
} from '../../wire/pdu.ts';
import { SQE_BYTES, sqeOpcode, sqeSglAddressHigh, sqeSglAddressLow, sqeSglId, sqeSglLength } from '../../wire/sqe.ts';
import {
  RECEIVE_HOME,
  receiveBytes,
  receivedSlice,
  receiveRoom,
  receiveStart,
  receiveTail,
  receiveView,
} from './receive-buffer.ts';
import { AHEAD_BYTES, DIRECT_BYTES_MIN, type ReceivePlan } from './socket-source.ts';
import { LinkState, Slot, type TargetLink } from './target-link.ts';

/** What the reader expects next. */
const Phase = { Header: 0, Data: 1 } as const;

/** The connection, as the reader needs it. */
export interface TargetPduReaderOwner {
  /** A valid ICReq header; its fields are the owner's to judge. */
  icReq(view: DataView, base: number): void;
  /** The host owes the command's data: ask for it. */
  solicit(request: Request): void;
  /** The command waits until its controller is resumed. */
  hold(request: Request): void;
  /** The command is complete with its data. */
  execute(request: Request): void;
  /** Ends the connection with a C2HTermReq; `available` bytes of the offending PDU stand at `base`. */
  fatal(fes: number, fei: number, view: DataView, base: number, available: number): false;
  close(reason: string): void;
}

export class TargetPduReader implements ReceivePlan {
  readonly #owner: TargetPduReaderOwner;
  readonly #link: TargetLink;
  readonly #queuePair: QueuePair;
  #phase: number = Phase.Header;
  /** A header that came in pieces. */
  readonly #carry: Uint8Array = new Uint8Array(new ArrayBuffer(IC_SIZE + DIGEST_SIZE));
  readonly #carryView: DataView = new DataView(this.#carry.buffer);
  #carryLength = 0;
  /** Where the current read goes: payload of the PDU in progress to its request, what follows into the receive buffer. */
  start: number = RECEIVE_HOME;
  view: Uint8Array | undefined;
  viewOffset = 0;
  viewLength = 0;
  room = 0;
  /** The host sends large payloads. */
  #expectsLarge = false;
  #wasLarge = false;
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
  /** Bytes after the header that `#onHeader` has already used. */
  #skip = 0;

  constructor(owner: TargetPduReaderOwner, link: TargetLink, queuePair: QueuePair) {
    this.#owner = owner;
    this.#link = link;
    this.#queuePair = queuePair;
  }

  /** The buffer for the next read: the PDU in progress is to end, or its header to begin, at RECEIVE_HOME. */
  nextBuffer(): Uint8Array {
    this.viewLength = 0;
    this.#planBuffer();
    return receiveTail(this.start);
  }

  /** As `nextBuffer`, for a reader that can fill two places. */
  plan(): this {
    this.viewLength = 0;
    if (this.#phase === Phase.Data && this.#padLeft === 0 && this.#dataLeft >= DIRECT_BYTES_MIN) {
      const request = this.#current!;
      if ((request.transportState & Slot.Drain) === 0) {
        this.view = request.segments[0]!;
        this.viewOffset = this.#dataBase + this.#dataDone;
        this.viewLength = this.#dataLeft;
        this.start = RECEIVE_HOME - this.#dataDigestLeft;
        this.room = this.#dataDigestLeft + AHEAD_BYTES;
        return this;
      }
    }
    this.#planBuffer();
    this.room = receiveRoom(this.start);
    if (this.#expectsLarge) {
      const ahead = AHEAD_BYTES + this.#bodyLeft();
      if (ahead < this.room) this.room = ahead;
      // a full read of other things than large payloads ends that, one large payload brings it back
      this.#expectsLarge = false;
      this.#wasLarge = true;
    } else {
      this.#wasLarge = false;
    }
    return this;
  }

  #bodyLeft(): number {
    return this.#phase === Phase.Data ? this.#padLeft + this.#dataLeft + this.#dataDigestLeft : 0;
  }

  #planBuffer(): void {
    this.start = this.#phase === Phase.Data ? receiveStart(this.#bodyLeft()) : RECEIVE_HOME + this.#carryLength;
  }

  /** Takes the `length` bytes that were read as planned. */
  read(length: number): void {
    if (this.viewLength === 0) {
      if (this.#wasLarge && length < this.room) this.#expectsLarge = true;
      this.#readBuffer(length);
      return;
    }
    const direct = Math.min(length, this.viewLength);
    if (this.#link.dataDigest) {
      const piece = this.view!.subarray(this.viewOffset, this.viewOffset + direct);
      this.#dataCrc = crc32c(piece, this.#dataCrc);
    }
    this.view = undefined;
    this.#dataLeft -= direct;
    this.#dataDone += direct;
    if (this.#dataLeft > 0) return;
    // without a digest the data is complete, whether or not something follows
    if (this.#dataDigestLeft === 0) this.#readData(this.start, this.start);
    this.#readBuffer(length - direct);
  }

  #readBuffer(length: number): void {
    const view = receiveView;
    const bytes = receiveBytes;
    let at = this.start;
    const end = at + length;
    while (at < end && this.#link.state < LinkState.Terminating) {
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

  /** Type, HLEN and PLEN, before anything else is waited for. */
  #checkCommonHeader(view: DataView, base: number, available: number): boolean {
    const type = pduType(view, base);
    const hlen = pduHlen(view, base);
    const plen = pduPlen(view, base);
    const flags = pduFlags(view, base);
    let need = 0;
    switch (type) {
      case PduType.CapsuleCmd:
        if (this.#link.state === LinkState.WaitIcReq)
          return this.#owner.fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== CAPSULE_CMD_HLEN) return this.#owner.fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        need = CAPSULE_CMD_HLEN;
        break;
      case PduType.H2CData:
        if (this.#link.state === LinkState.WaitIcReq)
          return this.#owner.fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== DATA_HLEN) return this.#owner.fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        need = DATA_HLEN;
        break;
      case PduType.ICReq:
        if (this.#link.state !== LinkState.WaitIcReq)
          return this.#owner.fatal(Fes.PduSequenceError, 0, view, base, available);
        if (hlen !== IC_SIZE) return this.#owner.fatal(Fes.InvalidPduHeaderField, 2, view, base, available);
        if (plen !== IC_SIZE) return this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
        this.#headerNeed = IC_SIZE;
        return true;
      case PduType.H2CTermReq:
        // never answered by a TermReq: the host closes, or the limit of PLEN is broken and we close at once
        this.#owner.close(
          plen < TERM_REQ_HLEN || plen > TERM_REQ_HLEN + TERM_REQ_DATA_MAX
            ? 'the host sent a malformed H2CTermReq'
            : 'the host sent H2CTermReq',
        );
        return false;
      default:
        return this.#owner.fatal(Fes.InvalidPduHeaderField, 0, view, base, available);
    }
    if (this.#link.headerDigest !== ((flags & PduFlag.Hdgst) !== 0)) {
      return this.#owner.fatal(Fes.InvalidPduHeaderField, 1, view, base, available);
    }
    if (this.#link.headerDigest) need += DIGEST_SIZE;
    this.#headerNeed = need;
    if (plen < need) return this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
    if (plen > need) {
      const pdo = pduPdo(view, base);
      const hasDataDigest = (flags & PduFlag.Ddgst) !== 0;
      if (hasDataDigest !== this.#link.dataDigest)
        return this.#owner.fatal(Fes.InvalidPduHeaderField, 1, view, base, available);
      if (pdo < need || pdo % this.#link.controllerAlignBytes !== 0 || pdo > plen) {
        return this.#owner.fatal(Fes.InvalidPduHeaderField, 3, view, base, available);
      }
      const dataLength = plen - pdo - (hasDataDigest ? DIGEST_SIZE : 0);
      if (dataLength <= 0) return this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, available);
      // a capsule over the limit is answered by a status and drained, unless it is beyond reason
      const limit =
        type === PduType.H2CData
          ? this.#link.options.maxH2cDataBytes
          : this.#capsuleDataMax() + this.#link.options.maxH2cDataBytes;
      if (dataLength > limit) {
        const fes = type === PduType.H2CData ? Fes.LimitExceeded : Fes.InvalidPduHeaderField;
        return this.#owner.fatal(fes, type === PduType.H2CData ? 0 : 4, view, base, available);
      }
    }
    return true;
  }

  #capsuleDataMax(): number {
    return Math.max(ADMIN_IN_CAPSULE_BYTES, this.#link.options.inCapsuleBytes);
  }

  #onHeader(view: DataView, base: number, at: number, end: number): void {
    const type = pduType(view, base);
    if (this.#link.headerDigest && type !== PduType.ICReq) {
      const hlen = pduHlen(view, base);
      const received = view.getUint32(base + hlen, true);
      if (received !== crc32cView(view, base, hlen)) {
        this.#owner.fatal(Fes.HeaderDigestError, received, view, base, hlen);
        return;
      }
    }
    if (type === PduType.CapsuleCmd) this.#onCapsule(view, base, at, end);
    else if (type === PduType.H2CData) this.#onH2cData(view, base);
    else this.#owner.icReq(view, base);
  }

  #onCapsule(view: DataView, base: number, at: number, end: number): void {
    const queuePair = this.#queuePair;
    const request = queuePair.acquire();
    if (request === undefined) {
      queuePair.controller?.fatal(
        new Error(`more than ${queuePair.depth} commands outstanding on queue ${queuePair.qid}`),
      );
      this.#owner.close('more commands outstanding than the queue holds');
      return;
    }
    this.#link.counters.commands++;
    const sqe = request.sqe;
    const sqeBase = request.sqeBase;
    for (let i = 0; i < SQE_BYTES; i += 4) sqe.setUint32(sqeBase + i, view.getUint32(base + CH_SIZE + i, true), true);

    const plen = pduPlen(view, base);
    const pdo = pduPdo(view, base);
    const digestBytes = plen > this.#headerNeed && this.#link.dataDigest ? DIGEST_SIZE : 0;
    const capsuleBytes = plen > this.#headerNeed ? plen - pdo - digestBytes : 0;
    const sglId = sqeSglId(sqe, sqeBase);
    const sglLength = sqeSglLength(sqe, sqeBase);

    let status = queuePair.prepare(request);
    if (sglId === SglId.DataBlockOffset) {
      const limit =
        queuePair.qid === 0 || sqeOpcode(sqe, sqeBase) === FABRICS_OPCODE
          ? this.#capsuleDataMax()
          : this.#link.options.inCapsuleBytes;
      if (sqeSglAddressLow(sqe, sqeBase) !== 0 || sqeSglAddressHigh(sqe, sqeBase) !== 0) {
        status = request.fail(Status.SglOffsetInvalid, 24);
      } else if (sglLength > limit) {
        status = request.fail(Status.DataSglLengthInvalid, 32);
      } else if (sglLength !== capsuleBytes) {
        queuePair.release(request);
        this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, CAPSULE_CMD_HLEN);
        return;
      }
      if (status === 0 && request.direction === 2 && request.transferBytes > 0)
        status = request.fail(Status.InvalidField, 39);
    } else if (sglId !== SglId.TransportDataBlock && !(sglId === SglId.Null && sglLength === 0)) {
      status = request.fail(Status.SglDescriptorTypeInvalid, 39); // its in-capsule data is drained
    } else if (capsuleBytes > 0) {
      queuePair.release(request);
      this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, CAPSULE_CMD_HLEN);
      return;
    }
    if (status === 0 && sglLength < request.transferBytes) status = request.fail(Status.DataSglLengthInvalid, 32);
    request.status = status;

    if (capsuleBytes === 0) {
      if (queuePair.holds(request)) {
        this.#owner.hold(request);
      } else if (status !== 0) {
        request.finish(status);
      } else if (request.direction === 1 && request.transferBytes > 0) {
        this.#owner.solicit(request);
      } else {
        this.#owner.execute(request);
      }
      return;
    }
    const pad = pdo - this.#headerNeed;
    if (end - at >= pad + capsuleBytes + digestBytes) {
      // all of it has arrived: the command runs on the received bytes themselves
      this.#skip = pad + capsuleBytes + digestBytes;
      const offset = at + pad;
      const data = receivedSlice(offset, capsuleBytes);
      if (status === 0 && digestBytes > 0 && crc32c(data) !== receiveView.getUint32(offset + capsuleBytes, true)) {
        status = Status.TransientTransportError;
      }
      const holds = queuePair.holds(request);
      if (status !== 0) {
        request.status = status;
        if (holds) this.#owner.hold(request);
        else request.finish(status);
        return;
      }
      request.segments[0] = data.length > request.transferBytes ? data.subarray(0, request.transferBytes) : data;
      request.segmentCount = 1;
      request.transient = true;
      if (holds) this.#owner.hold(request);
      else queuePair.execute(request);
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
    request.unfetched = true;
    request.transportState |= Slot.AwaitingData;
    if (status === 0) request.hold(capsuleBytes);
    else request.transportState |= Slot.Drain;
  }

  #onH2cData(view: DataView, base: number): void {
    const ttag = pduTtag(view, base);
    const request = ttag < this.#queuePair.requests.length ? this.#queuePair.requests[ttag]! : undefined;
    // (a host could guess the tag of an R2T that it was not sent yet)
    if (request === undefined || (request.transportState & (Slot.AwaitingData | Slot.R2tWaits)) !== Slot.AwaitingData) {
      // data for a command that has all of it is out of sequence; any other tag is unknown
      const known =
        request?.inUse === true && request.countedBytes > 0 && request.direction === 1 && request.transportState === 0;
      this.#owner.fatal(
        known ? Fes.PduSequenceError : Fes.InvalidPduHeaderField,
        known ? 0 : 10,
        view,
        base,
        DATA_HLEN,
      );
      return;
    }
    if (pduCccid(view, base) !== request.cid) {
      this.#owner.fatal(Fes.InvalidPduHeaderField, 8, view, base, DATA_HLEN);
      return;
    }
    const offset = pduDataOffset(view, base);
    const length = pduDataLength(view, base);
    const plen = pduPlen(view, base);
    const pdo = pduPdo(view, base);
    const digestBytes = this.#link.dataDigest ? DIGEST_SIZE : 0;
    if ((offset & 3) !== 0) {
      this.#owner.fatal(Fes.InvalidPduHeaderField, 12, view, base, DATA_HLEN);
      return;
    }
    if (length === 0 || (length & 3) !== 0) {
      this.#owner.fatal(Fes.InvalidPduHeaderField, 16, view, base, DATA_HLEN);
      return;
    }
    if (length > this.#link.options.maxH2cDataBytes) {
      this.#owner.fatal(Fes.LimitExceeded, 0, view, base, DATA_HLEN);
      return;
    }
    if (plen <= this.#headerNeed || length !== plen - pdo - digestBytes) {
      this.#owner.fatal(Fes.InvalidPduHeaderField, 4, view, base, DATA_HLEN);
      return;
    }
    if (offset + length > request.transferBytes) {
      this.#owner.fatal(Fes.DataTransferOutOfRange, 0, view, base, DATA_HLEN);
      return;
    }
    const isLast = (pduFlags(view, base) & PduFlag.LastPdu) !== 0;
    if (offset !== request.receivedBytes || (isLast && offset + length < request.transferBytes)) {
      this.#owner.fatal(Fes.PduSequenceError, 0, view, base, DATA_HLEN);
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
    if (length >= DIRECT_BYTES_MIN) this.#expectsLarge = true;
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
          // a whole rest ends where such rests end; a fragment may have any length, and would only displace the view of a whole one
          const piece = take === this.#dataLeft ? receivedSlice(at, take) : receiveBytes.subarray(at, at + take);
          request.segments[0]!.set(piece, this.#dataBase + this.#dataDone);
          if (this.#link.dataDigest) this.#dataCrc = crc32c(piece, this.#dataCrc);
        }
        this.#dataLeft -= take;
        this.#dataDone += take;
        at += take;
      }
      if (this.#dataLeft > 0) return at;
    }
    while (this.#dataDigestLeft > 0) {
      if (at === end) return at;
      this.#receivedDigest = (this.#receivedDigest >>> 8) | (receiveBytes[at]! << 24);
      this.#dataDigestLeft--;
      at++;
    }
    if (this.#link.dataDigest && this.#receivedDigest >>> 0 !== this.#dataCrc)
      request.transportState |= Slot.DigestError;
    this.#phase = Phase.Header;
    this.#current = undefined;
    request.receivedBytes += this.#dataDone;
    if (this.#currentIsCapsule || request.receivedBytes === request.transferBytes) this.#dataComplete(request);
    return at;
  }

  #dataComplete(request: Request): void {
    const transportState = request.transportState;
    request.transportState = 0;
    request.unfetched = false;
    if ((transportState & (Slot.Drain | Slot.DigestError)) === Slot.DigestError) {
      request.status = Status.TransientTransportError;
    }
    if (request.status === 0 && request.segments[0]!.length > request.transferBytes) {
      request.segments[0] = request.segments[0]!.subarray(0, request.transferBytes);
    }
    if (this.#currentIsCapsule && this.#queuePair.holds(request)) this.#owner.hold(request);
    else if (request.status !== 0) request.finish(request.status);
    else this.#queuePair.execute(request);
  }
}

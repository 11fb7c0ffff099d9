// @hot
/**
 * Receive side of a host's connection: an integer state machine over the shared receive buffer. Header bytes that a read cut off wait in a small
 * buffer of the connection and are put back in front of the next read; payload goes straight to the command's buffer.
 * TCP 1.0 sections 3.5, 3.6, 7.4.
 */

import { Direction } from '../../spec/opcode.ts';
import { CAPSULE_RESP_HLEN, CH_SIZE, DATA_HLEN, DIGEST_SIZE, Fes, IC_SIZE, PduFlag, PduType } from '../../spec/pdu.ts';
import { Status } from '../../spec/status.ts';
import { cqeCid, cqeDw0, cqeDw1, cqeSqhd, cqeStatus } from '../../wire/cqe.ts';
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
import { CommandState, type HostCommand } from './host-command.ts';
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

/** What the reader tells its connection. */
export interface ReaderOwner {
  readonly commands: readonly HostCommand[];
  /** `CID & slotMask` is the slot. */
  readonly slotMask: number;
  /** R2Ts that a command may have outstanding: MAXR2T + 1. */
  readonly r2tMax: number;
  /** False as soon as the connection is closing: what is left of a read is not looked at. */
  readonly reading: boolean;
  /** The peer broke a rule: `headerLength` bytes at `headerBase` of the receive buffer go into the TermReq. */
  fatal(fes: number, fei: number, headerBase: number, headerLength: number): void;
  /** All 128 bytes of an ICResp are at `base`. */
  icRespReceived(base: number): void;
  /** `length` is PLEN, 24 to 152, all there; 0 if the TermReq itself was malformed. */
  termReqReceived(base: number, length: number): void;
  /** Queue `length` bytes of the command's data from `offset` on as the answer to `ttag`. */
  r2tReceived(command: HostCommand, ttag: number, offset: number, length: number): void;
  /** `command.status`, `result` and `resultHigh` are set. */
  completed(command: HostCommand): void;
}

const READ_HEADER = 0;
const READ_PAD = 1;
const READ_DATA = 2;
const READ_DIGEST = 3;

const TERM_REQ_PLEN_MAX = 152;

export class HostPduReader implements ReceivePlan {
  readonly #owner: ReaderOwner;
  readonly #carry = new Uint8Array(TERM_REQ_PLEN_MAX);
  #carryLength = 0;
  /** Where the bytes of the next read land: payload of the PDU in progress in its command's buffer, what follows in the receive buffer. */
  start: number = RECEIVE_HOME;
  view: Uint8Array | undefined;
  viewOffset = 0;
  viewLength = 0;
  room = 0;
  /** The controller sends large payloads. */
  #expectsLarge = false;
  #wasLarge = false;
  #state = READ_HEADER;
  /** False until ICResp was taken: nothing else may come before it. */
  established = false;
  /** 4 if negotiated, else 0. */
  headerDigestBytes = 0;
  dataDigestBytes = 0;
  /** Alignment of DATA that our HPDA asked for. */
  alignBytes = 4;
  /** SQ head pointer of the last CapsuleResp. */
  sqhd = 0;
  /** Bytes received, for statistics. */
  receivedBytes = 0;

  // The C2HData in progress.
  #command: HostCommand | undefined;
  #flags = 0;
  #padLeft = 0;
  #dataLeft = 0;
  #digestLeft = 0;
  #digestValue = 0;
  #digestShift = 0;
  #crc = 0;

  constructor(owner: ReaderOwner) {
    this.#owner = owner;
  }

  /** The buffer for the next read: given to node:net as `onread.buffer`. */
  nextBuffer(): Uint8Array {
    this.viewLength = 0;
    return receiveTail(this.start);
  }

  /** As `nextBuffer`, for a reader that can fill two places. */
  plan(): this {
    this.viewLength = 0;
    if (this.#state === READ_DATA && this.#dataLeft >= DIRECT_BYTES_MIN && this.#owner.reading) {
      const command = this.#command!;
      this.view = command.buffer;
      this.viewOffset = command.transferred;
      this.viewLength = this.#dataLeft;
      this.start = RECEIVE_HOME - this.#digestLeft;
      this.room = this.#digestLeft + AHEAD_BYTES;
      return this;
    }
    this.room = receiveRoom(this.start);
    this.#wasLarge = this.#expectsLarge;
    if (this.#expectsLarge) {
      this.room = Math.min(this.room, AHEAD_BYTES + this.#bodyLeft);
      // a full read of other things than large payloads ends that, one large payload brings it back
      this.#expectsLarge = false;
    }
    return this;
  }

  get #bodyLeft(): number {
    return this.#state === READ_HEADER ? 0 : this.#padLeft + this.#dataLeft + this.#digestLeft;
  }

  /** Takes the `received` bytes that were read as planned. */
  receive(received: number): void {
    this.receivedBytes += received;
    if (this.viewLength === 0) {
      if (this.#wasLarge && received < this.room) this.#expectsLarge = true;
      this.#receive(received);
      return;
    }
    const direct = Math.min(received, this.viewLength);
    if (this.dataDigestBytes !== 0) {
      this.#crc = crc32c(this.view!.subarray(this.viewOffset, this.viewOffset + direct), this.#crc);
    }
    this.view = undefined;
    this.#command!.transferred += direct;
    this.#dataLeft -= direct;
    if (this.#dataLeft === 0) this.#receive(received - direct);
    else this.#planNextRead();
  }

  #receive(received: number): void {
    const owner = this.#owner;
    const end = this.start + received;
    let pos = this.start - this.#carryLength;
    if (this.#carryLength !== 0) this.#restoreCarry(pos);
    while (owner.reading) {
      if (this.#state === READ_HEADER) {
        const next = this.#readHeader(pos, end);
        if (next < 0) break; // more bytes needed, or fatal
        pos = next;
        continue;
      }
      if (pos === end && this.#padLeft + this.#dataLeft + this.#digestLeft !== 0) break;
      pos = this.#readBody(pos, end);
    }
    this.#planNextRead();
  }

  #restoreCarry(pos: number): void {
    const carry = this.#carry;
    for (let i = 0; i < this.#carryLength; i++) receiveBytes[pos + i] = carry[i]!;
    this.#carryLength = 0;
  }

  #keepCarry(pos: number, end: number): void {
    const carry = this.#carry;
    this.#carryLength = end - pos;
    for (let i = 0; i < this.#carryLength; i++) carry[i] = receiveBytes[pos + i]!;
  }

  /** The PDU in progress is to end, or its header to begin, at RECEIVE_HOME. */
  #planNextRead(): void {
    this.start = this.#state === READ_HEADER ? RECEIVE_HOME + this.#carryLength : receiveStart(this.#bodyLeft);
  }

  /** @returns the position behind the header, or -1 */
  #readHeader(pos: number, end: number): number {
    const view = receiveView;
    const available = end - pos;
    if (available < CH_SIZE) {
      this.#keepCarry(pos, end);
      return -1;
    }
    const type = pduType(view, pos);
    const need = this.#checkHeader(pos, type, available);
    if (need < 0) return -1;
    if (available < need) {
      this.#keepCarry(pos, end);
      return -1;
    }
    const owner = this.#owner;
    if (type === PduType.ICResp) {
      owner.icRespReceived(pos);
      return pos + need;
    }
    if (type === PduType.C2HTermReq) {
      owner.termReqReceived(pos, need);
      return -1;
    }
    if (this.headerDigestBytes !== 0) {
      const sent = view.getUint32(pos + DATA_HLEN, true);
      if (crc32cView(view, pos, DATA_HLEN) !== sent) {
        owner.fatal(Fes.HeaderDigestError, sent, pos, DATA_HLEN);
        return -1;
      }
    }
    if (type === PduType.C2HData) return this.#dataHeader(pos) ? pos + need : -1;
    if (type === PduType.CapsuleResp) return this.#capsuleResp(pos) ? pos + need : -1;
    return this.#r2t(pos) ? pos + need : -1;
  }

  /** Checks what the common header says, before more is waited for. @returns bytes that must be there to go on, or -1 after a fatal error */
  #checkHeader(pos: number, type: number, available: number): number {
    const view = receiveView;
    const plen = pduPlen(view, pos);
    if (type === PduType.C2HTermReq) {
      if (plen >= DATA_HLEN && plen <= TERM_REQ_PLEN_MAX && pduHlen(view, pos) === DATA_HLEN) return plen;
      this.#owner.termReqReceived(pos, 0);
      return -1;
    }
    if (!this.established) {
      if (type !== PduType.ICResp) return this.#fatal(Fes.PduSequenceError, 0, pos, available);
      if (pduHlen(view, pos) !== IC_SIZE) return this.#fatal(Fes.InvalidPduHeaderField, 2, pos, available);
      if (plen !== IC_SIZE) return this.#fatal(Fes.InvalidPduHeaderField, 4, pos, available);
      return IC_SIZE;
    }
    if (type !== PduType.C2HData && type !== PduType.CapsuleResp && type !== PduType.R2T) {
      if (type === PduType.ICResp) return this.#fatal(Fes.PduSequenceError, 0, pos, available);
      return this.#fatal(Fes.InvalidPduHeaderField, 0, pos, available);
    }
    const flags = pduFlags(view, pos);
    const headerDigestBytes = this.headerDigestBytes;
    if (((flags & PduFlag.Hdgst) !== 0) !== (headerDigestBytes !== 0)) {
      return this.#fatal(Fes.InvalidPduHeaderField, 1, pos, available);
    }
    const base = DATA_HLEN + headerDigestBytes;
    if (type === PduType.C2HData) {
      const dataDigest = (flags & PduFlag.Ddgst) !== 0;
      if (dataDigest !== (this.dataDigestBytes !== 0)) return this.#fatal(Fes.InvalidPduHeaderField, 1, pos, available);
      if ((flags & (PduFlag.Success | PduFlag.LastPdu)) === PduFlag.Success) {
        return this.#fatal(Fes.InvalidPduHeaderField, 1, pos, available);
      }
      if (pduHlen(view, pos) !== DATA_HLEN) return this.#fatal(Fes.InvalidPduHeaderField, 2, pos, available);
      const pdo = pduPdo(view, pos);
      if (pdo < base || pdo % this.alignBytes !== 0 || pdo > plen) {
        return this.#fatal(Fes.InvalidPduHeaderField, 3, pos, available);
      }
      return base;
    }
    if (pduHlen(view, pos) !== CAPSULE_RESP_HLEN) return this.#fatal(Fes.InvalidPduHeaderField, 2, pos, available);
    if (plen !== base) return this.#fatal(Fes.InvalidPduHeaderField, 4, pos, available);
    return base;
  }

  /** The offending header as far as it is there. */
  #fatal(fes: number, fei: number, pos: number, available: number): -1 {
    const hlen = pduHlen(receiveView, pos);
    this.#owner.fatal(fes, fei, pos, Math.min(Math.max(hlen, CH_SIZE), available));
    return -1;
  }

  /** The command that `cid` names, if it is one the controller has. */
  #commandOf(cid: number): HostCommand | undefined {
    const owner = this.#owner;
    const command = owner.commands[cid & owner.slotMask];
    return command !== undefined && command.cid === cid && command.state === CommandState.Sent ? command : undefined;
  }

  #dataHeader(pos: number): boolean {
    const view = receiveView;
    const owner = this.#owner;
    const command = this.#commandOf(pduCccid(view, pos));
    const pdo = pduPdo(view, pos);
    const length = pduDataLength(view, pos);
    const offset = pduDataOffset(view, pos);
    let fes = 0;
    let fei = 0;
    if (length !== pduPlen(view, pos) - pdo - (length === 0 ? 0 : this.dataDigestBytes)) {
      fes = Fes.InvalidPduHeaderField;
      fei = 4;
    } else if (command === undefined) {
      fes = Fes.InvalidPduHeaderField;
      fei = 8;
    } else if (command.direction !== Direction.ControllerToHost || command.lastSeen) {
      fes = Fes.PduSequenceError;
    } else if (offset + length > command.buffer.length) {
      fes = Fes.DataTransferOutOfRange;
    } else if (offset !== command.transferred) {
      fes = Fes.PduSequenceError;
    }
    if (fes !== 0) {
      owner.fatal(fes, fei, pos, DATA_HLEN);
      return false;
    }
    this.#command = command;
    this.#flags = pduFlags(view, pos);
    this.#padLeft = pdo - DATA_HLEN - this.headerDigestBytes;
    this.#dataLeft = length;
    if (length >= DIRECT_BYTES_MIN) this.#expectsLarge = true;
    this.#digestLeft = length === 0 ? 0 : this.dataDigestBytes;
    this.#digestValue = 0;
    this.#digestShift = 0;
    this.#crc = 0;
    this.#state = this.#padLeft !== 0 ? READ_PAD : READ_DATA;
    return true;
  }

  /** Takes pad, data and digest as far as they are there. @returns the new position */
  #readBody(start: number, end: number): number {
    let pos = start;
    if (this.#state === READ_PAD) {
      const skip = Math.min(this.#padLeft, end - pos);
      this.#padLeft -= skip;
      pos += skip;
      if (this.#padLeft !== 0) return pos;
      this.#state = READ_DATA;
    }
    if (this.#state === READ_DATA) {
      const here = end - pos;
      const left = this.#dataLeft;
      if (left !== 0) {
        if (here === 0) return pos;
        const command = this.#command!;
        const length = Math.min(here, left);
        // A whole rest ends where such rests end; a fragment may have any length, and would only displace the view of a whole one.
        const data = length === left ? receivedSlice(pos, length) : receiveBytes.subarray(pos, end);
        command.buffer.set(data, command.transferred);
        command.transferred += length;
        if (this.dataDigestBytes !== 0) this.#crc = crc32c(data, this.#crc);
        this.#dataLeft = left - length;
        pos += length;
        if (length !== left) return pos;
      }
      this.#state = READ_DIGEST;
    }
    while (this.#digestLeft !== 0 && pos !== end) {
      this.#digestValue |= receiveBytes[pos++]! << this.#digestShift;
      this.#digestShift += 8;
      this.#digestLeft--;
    }
    if (this.#digestLeft === 0) this.#dataEnd();
    return pos;
  }

  #dataEnd(): void {
    const command = this.#command!;
    this.#command = undefined;
    this.#state = READ_HEADER;
    if (this.#digestShift === 8 * DIGEST_SIZE && this.#digestValue >>> 0 !== this.#crc) command.digestFailed = true;
    if ((this.#flags & PduFlag.LastPdu) === 0) return;
    command.lastSeen = true;
    if ((this.#flags & PduFlag.Success) === 0) return;
    command.result = 0;
    command.resultHigh = 0;
    command.status = Status.Success;
    this.#finish(command);
  }

  #capsuleResp(pos: number): boolean {
    const view = receiveView;
    const cqe = pos + CH_SIZE;
    const command = this.#commandOf(cqeCid(view, cqe));
    if (command === undefined) {
      this.#owner.fatal(Fes.InvalidPduHeaderField, 20, pos, CAPSULE_RESP_HLEN);
      return false;
    }
    this.sqhd = cqeSqhd(view, cqe);
    command.result = cqeDw0(view, cqe);
    command.resultHigh = cqeDw1(view, cqe);
    command.status = cqeStatus(view, cqe);
    this.#finish(command);
    return true;
  }

  /** A success that did not move all data is none; what is missing must not look like data. */
  #finish(command: HostCommand): void {
    if (command.status === Status.Success && command.direction !== Direction.None && !command.inCapsule) {
      if (command.transferred !== command.buffer.length) this.#shortTransfer(command);
      if (command.digestFailed) command.status = Status.TransientTransportError;
    }
    this.#owner.completed(command);
  }

  #shortTransfer(command: HostCommand): void {
    if (command.direction === Direction.ControllerToHost) command.buffer.fill(0, command.transferred);
    if (!command.shortAllowed) command.status = Status.DataTransferError;
  }

  #r2t(pos: number): boolean {
    const view = receiveView;
    const owner = this.#owner;
    const command = this.#commandOf(pduCccid(view, pos));
    const offset = pduDataOffset(view, pos);
    const length = pduDataLength(view, pos);
    let fes = 0;
    let fei = 0;
    if (command === undefined) {
      fes = Fes.InvalidPduHeaderField;
      fei = 8;
    } else if (command.direction !== Direction.HostToController || command.inCapsule) {
      fes = Fes.PduSequenceError;
    } else if (length === 0) {
      fes = Fes.InvalidPduHeaderField;
      fei = 16;
    } else if (offset + length > command.buffer.length) {
      fes = Fes.DataTransferOutOfRange;
    } else if (offset !== command.transferred) {
      fes = Fes.PduSequenceError;
    } else if (command.r2tCount >= owner.r2tMax) {
      fes = Fes.LimitExceeded;
    }
    if (fes !== 0) {
      owner.fatal(fes, fei, pos, DATA_HLEN);
      return false;
    }
    command!.transferred += length;
    command!.r2tCount++;
    owner.r2tReceived(command!, pduTtag(view, pos), offset, length);
    return true;
  }
}

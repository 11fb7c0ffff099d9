// @hot
/**
 * Send side of a host's connection. What a turn submits (command capsules, answers to R2Ts) waits as small integers in a ring; a flush
 * formats all of it into one batch of headers, with the callers' buffers between them, and hands it to the socket in one write.
 * TCP 1.0 sections 3.5.1, 3.6.2.4, 3.6.2.6.
 */
import { Direction } from '../../spec/opcode.ts';
import { CAPSULE_CMD_HLEN, CH_SIZE, DATA_HLEN, DIGEST_SIZE, PduFlag, PduType } from '../../spec/pdu.ts';
import { crc32c, crc32cView } from '../../wire/crc32c.ts';
import { dataOffsetFor, writeCommonHeader, writeDataHeader } from '../../wire/pdu.ts';
import { SQE_BYTES } from '../../wire/sqe.ts';
import { CommandState, type HostCommand } from './host-command.ts';
import type { HostGatherWriter } from './host-gather-writer.ts';
import { type Batch, threadBuffers } from './thread-buffers.ts';

/** Ring entries: CID, kind, TTAG, DATAO, DATAL, and one unused, so that an entry is a shift away. */
const ENTRY_SHIFT = 3;
const KIND_CAPSULE = 0;
const KIND_DATA = 1;
/** Payload up to this size is copied beside its header: cheaper than two more buffers in the writev. */
const COPY_BYTES_MAX = 512;
/** A capsule header padded to the widest alignment, with both digests and a copied payload. */
const FORMAT_BYTES_MAX = 128 + 128 + DIGEST_SIZE + COPY_BYTES_MAX;

export class HostPduWriter {
  readonly #commands: readonly HostCommand[];
  readonly #slotMask: number;
  readonly #sqes: DataView;
  readonly #gather: HostGatherWriter;
  readonly #ring: Int32Array;
  readonly #ringMask: number;
  #head = 0;
  #tail = 0;
  #batch: Batch | undefined;
  #open = true;
  headerDigest = false;
  dataDigest = false;
  /** Alignment of DATA that CPDA asks for. */
  alignBytes = 4;
  maxH2cData = 4096;
  /** Writes issued and finished: a buffer lent to write n is free once `drainedWrite >= n`. */
  issuedWrite = 0;
  drainedWrite = 0;
  sentBytes = 0;

  /** @param r2tMax R2Ts outstanding per command: with the capsules they bound the ring */
  constructor(
    commands: readonly HostCommand[],
    slotMask: number,
    sqes: DataView,
    r2tMax: number,
    gather: HostGatherWriter,
  ) {
    this.#commands = commands;
    this.#slotMask = slotMask;
    this.#sqes = sqes;
    this.#gather = gather;
    // a command whose early end left entries behind may be followed by another in its slot: twice the room
    const entries = 2 ** Math.ceil(Math.log2(commands.length * (r2tMax + 1) * 2 + 2));
    this.#ringMask = entries - 1;
    this.#ring = new Int32Array(entries << ENTRY_SHIFT);
  }

  /** Nothing waits to be formatted. */
  get idle(): boolean {
    return this.#head === this.#tail;
  }

  pushCapsule(command: HostCommand): void {
    this.#push(command.cid, KIND_CAPSULE, 0, 0, 0);
  }

  pushData(command: HostCommand, ttag: number, offset: number, length: number): void {
    this.#push(command.cid, KIND_DATA, ttag, offset, length);
  }

  #push(cid: number, kind: number, ttag: number, offset: number, length: number): void {
    const at = (this.#tail & this.#ringMask) << ENTRY_SHIFT;
    const ring = this.#ring;
    ring[at] = cid;
    ring[at + 1] = kind;
    ring[at + 2] = ttag;
    ring[at + 3] = offset;
    ring[at + 4] = length;
    this.#tail = (this.#tail + 1) | 0;
  }

  /** Formats and sends what waits, as far as the socket takes it. */
  flush(): void {
    while (this.#head !== this.#tail && this.#open && !this.#gather.busy) {
      const batch = threadBuffers.takeBatch();
      this.#batch = batch;
      this.#format(batch);
      if (!this.#send(batch)) return;
    }
  }

  /** The socket has finished a write that it could not finish at once. */
  drained(): void {
    this.#finish();
    this.flush();
  }

  /** Nothing more is formatted. */
  close(): void {
    this.#open = false;
    this.#head = this.#tail;
  }

  #send(batch: Batch): boolean {
    batch.endRun();
    if (batch.bufferCount === 0) {
      this.#finish();
      return true;
    }
    batch.sealDigests();
    this.issuedWrite++;
    if (!this.#gather.writeBatch(batch)) return false;
    this.#finish();
    return true;
  }

  #finish(): void {
    this.drainedWrite = this.issuedWrite;
    const batch = this.#batch;
    if (batch === undefined) return;
    this.#batch = undefined;
    batch.clear();
    threadBuffers.giveBatch(batch);
  }

  #format(batch: Batch): void {
    const ring = this.#ring;
    while (this.#head !== this.#tail) {
      if (batch.isFull(FORMAT_BYTES_MAX, 1)) return;
      const at = (this.#head & this.#ringMask) << ENTRY_SHIFT;
      const cid = ring[at]!;
      const command = this.#commands[cid & this.#slotMask]!;
      if (ring[at + 1] === KIND_CAPSULE) {
        if (command.cid === cid && command.state === CommandState.Queued) this.#capsule(batch, command);
      } else if (command.cid === cid && command.state === CommandState.Sent) {
        if (!this.#data(batch, command, at)) continue; // more of this R2T to send
        command.r2tCount--;
      }
      this.#head = (this.#head + 1) | 0;
    }
  }

  #capsule(batch: Batch, command: HostCommand): void {
    const length = command.inCapsule && command.direction === Direction.HostToController ? command.buffer.length : 0;
    const hasData = length !== 0;
    const digest = hasData && this.dataDigest;
    const pdo = hasData ? dataOffsetFor(CAPSULE_CMD_HLEN, this.headerDigest, this.alignBytes) : 0;
    const head = hasData ? pdo : CAPSULE_CMD_HLEN + (this.headerDigest ? DIGEST_SIZE : 0);
    const flags = (this.headerDigest ? PduFlag.Hdgst : 0) | (digest ? PduFlag.Ddgst : 0);
    const base = batch.reserve(head);
    const view = batch.view;
    writeCommonHeader(
      view,
      base,
      PduType.CapsuleCmd,
      flags,
      CAPSULE_CMD_HLEN,
      pdo,
      head + length + (digest ? DIGEST_SIZE : 0),
    );
    const sqes = this.#sqes;
    const sqe = command.sqeBase;
    for (let i = 0; i < SQE_BYTES; i += 4) {
      view.setUint32(base + CH_SIZE + i, sqes.getUint32(sqe + i, true), true);
    }
    this.#headerEnd(view, base, CAPSULE_CMD_HLEN, head);
    command.state = CommandState.Sent;
    this.sentBytes += head + length;
    if (hasData) this.#payload(batch, command, command.buffer, digest);
  }

  /** One H2CData of the R2T at ring position `at`. @returns true if it was the last one */
  #data(batch: Batch, command: HostCommand, at: number): boolean {
    const ring = this.#ring;
    const offset = ring[at + 3]!;
    const left = ring[at + 4]!;
    const length = Math.min(left, this.maxH2cData);
    const last = length === left;
    const head = dataOffsetFor(DATA_HLEN, this.headerDigest, this.alignBytes);
    const flags =
      (this.headerDigest ? PduFlag.Hdgst : 0) | (this.dataDigest ? PduFlag.Ddgst : 0) | (last ? PduFlag.LastPdu : 0);
    const base = batch.reserve(head);
    const view = batch.view;
    const plen = head + length + (this.dataDigest ? DIGEST_SIZE : 0);
    writeCommonHeader(view, base, PduType.H2CData, flags, DATA_HLEN, head, plen);
    writeDataHeader(view, base, command.cid, ring[at + 2]!, offset, length);
    this.#headerEnd(view, base, DATA_HLEN, head);
    this.sentBytes += plen;
    const whole = length === command.buffer.length;
    this.#payload(
      batch,
      command,
      whole ? command.buffer : command.buffer.subarray(offset, offset + length),
      this.dataDigest,
    );
    ring[at + 3] = offset + length;
    ring[at + 4] = left - length;
    return last;
  }

  /** HDGST, then zeroes up to PDO. */
  #headerEnd(view: DataView, base: number, hlen: number, end: number): void {
    let at = base + hlen;
    if (this.headerDigest) {
      view.setUint32(at, crc32cView(view, base, hlen), true);
      at += DIGEST_SIZE;
    }
    for (; at < base + end; at += 4) view.setUint32(at, 0, true);
  }

  #payload(batch: Batch, command: HostCommand, data: Uint8Array, digest: boolean): void {
    if (data.length <= COPY_BYTES_MAX) {
      batch.bytes.set(data, batch.reserve(data.length));
      if (digest) {
        const at = batch.reserve(DIGEST_SIZE);
        const crc = crc32c(data);
        for (let i = 0; i < DIGEST_SIZE; i++) batch.bytes[at + i] = crc >>> (8 * i);
      }
      return;
    }
    batch.endRun();
    batch.add(data, data.length);
    command.lentWrite = this.issuedWrite + 1;
    if (digest) batch.addDigest(1);
  }
}

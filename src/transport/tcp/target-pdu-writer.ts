// @hot
/**
 * Formats what goes to one host and sends it: everything of a turn in one writev, headers from a shared slab, payloads from where they are. While
 * the kernel still has a batch nothing more is formatted; completed requests wait, and the connection stops reading.
 */
import type { Socket } from 'node:net';
import {
  CAPSULE_RESP_HLEN,
  CH_SIZE,
  DATA_HLEN,
  Dgst,
  DIGEST_SIZE,
  IC_SIZE,
  PduFlag,
  PduType,
  R2T_HLEN,
} from '../../spec/pdu.ts';
import type { QueuePair } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import { writeCqe } from '../../wire/cqe.ts';
import { crc32cView } from '../../wire/crc32c.ts';
import { dataOffsetFor, writeCommonHeader, writeDataHeader } from '../../wire/pdu.ts';
import { GatherWriter } from './gather-writer.ts';
import { LinkState, Slot, type TargetLink } from './target-link.ts';
import { type Batch, threadBuffers } from './thread-buffers.ts';

/** The most header bytes one response takes: C2HData padded to 128, data digest, CapsuleResp with digest. */
const RESPONSE_HEADER_BYTES_MAX = 192;

/** So many answers always go out together: a host that has few commands under way waits for all of them anyway. */
const BATCH_ANSWERS_MIN = 16;
/** Times after which it is forgotten how many answers there once were. */
const PEAK_TIMES = 4096;

/** The connection, as the writer needs it. */
export interface TargetPduWriterOwner {
  /** Nothing of the request is needed any more. */
  release(request: Request): void;
  /** A buffer of so many bytes counts against the connection's bound until it is sent. */
  buffersTaken(bytes: number): void;
  /** Buffers that were sent and counted `bytes` against the connection's bound are free. */
  buffersSent(bytes: number): void;
  /** The kernel took what it could not take at once: reading may go on. */
  drained(): void;
  /** Something threw outside of a read. */
  bug(error: unknown): void;
  close(reason: string): void;
}

export class TargetPduWriter {
  readonly #owner: TargetPduWriterOwner;
  readonly #link: TargetLink;
  readonly #queuePair: QueuePair;
  readonly #gather: GatherWriter;
  /** What is formatted and not sent, or sent and still with the kernel. */
  #batch: Batch | undefined;
  /** Pooled buffers whose bytes are in the batch. Their requests are released: the host may reuse CID and slot once it has the answer. */
  readonly #sending: Uint8Array[] = [];
  #sendingBytes = 0;
  /** Requests whose response or R2T waits for the writer or the end of the turn. */
  #waiting: Request[] = [];
  /** Answers in the batch, and since `noteAnswers`. */
  #batchAnswers = 0;
  #answers = 0;
  /**
   * The most answers at once of late: about what the host keeps under way. Batches of half of that keep both ends busy, where one batch of all would
   * leave the host idle while we work, and us while the host does.
   */
  #peakAnswers = 0;
  /** What goes out together: half of that. */
  #batchAnswersMax: number = BATCH_ANSWERS_MIN;
  #nextPeak = 0;
  #times = 0;
  #formatting = false;
  #turnScheduled = false;
  readonly #endTurn: () => void = () => this.#guardedTurn();

  constructor(owner: TargetPduWriterOwner, link: TargetLink, queuePair: QueuePair, socket: Socket) {
    this.#owner = owner;
    this.#link = link;
    this.#queuePair = queuePair;
    this.#gather = new GatherWriter(
      socket,
      () => this.#drained(),
      (error) => this.#owner.close(error.message),
      true,
      (bytes) => this.#takeSpare(bytes),
    );
  }

  /** For copies of what the kernel did not take: a buffer like those of commands, given back with the batch. */
  #takeSpare(bytes: number): Uint8Array {
    const buffer = this.#queuePair.takeBuffer(bytes);
    this.#sending.push(buffer);
    this.#sendingBytes += buffer.length;
    this.#owner.buffersTaken(buffer.length);
    return buffer;
  }

  /** See `QueueTransport`. */
  get sendsByPlace(): boolean {
    return this.#gather.sendsByPlace;
  }

  /** The kernel still has a batch: the connection must not read. */
  get busy(): boolean {
    return this.#gather.busy;
  }

  /** What is sent from here to `endTurn` goes out together. */
  beginTurn(): void {
    this.#formatting = true;
  }

  endTurn(): void {
    this.turn();
    this.#formatting = false;
  }

  /** ICResp with what was agreed; nothing else goes before it. */
  icResp(): void {
    const { options, headerDigest, dataDigest } = this.#link;
    const batch = this.#open();
    const out = batch.reserve(IC_SIZE);
    batch.bytes.fill(0, out, out + IC_SIZE);
    writeCommonHeader(batch.view, out, PduType.ICResp, 0, IC_SIZE, 0, IC_SIZE);
    batch.view.setUint8(out + 10, options.cpda);
    batch.view.setUint8(out + 11, (headerDigest ? Dgst.Header : 0) | (dataDigest ? Dgst.Data : 0));
    batch.view.setUint32(out + 12, options.maxH2cDataBytes, true);
  }

  /** Formats the request's response or R2T: now within a read, else with everything else at the end of the turn. */
  send(request: Request): void {
    if (this.#formatting && !this.#gather.busy && this.#waiting.length === 0 && this.#format(request)) return;
    this.#waiting.push(request);
    if (!this.#formatting && !this.#turnScheduled && !this.#gather.busy) {
      this.#turnScheduled = true;
      setImmediate(this.#endTurn);
    }
  }

  /** Formats what waits and sends the batch. */
  turn(): void {
    this.#turnScheduled = false;
    if (this.#link.state >= LinkState.Terminating) return;
    const outer = this.#formatting;
    this.#formatting = true;
    const waiting = this.#waiting;
    do {
      let i = 0;
      while (i < waiting.length && !this.#gather.busy) {
        if (!this.#format(waiting[i]!)) break;
        i++;
      }
      // (setting the length of an empty array, too, costs a call of the runtime)
      if (i === waiting.length) {
        if (i > 0) waiting.length = 0;
      } else if (i > 0) waiting.splice(0, i);
      this.#flush();
      // what the flush gave back may have let parked commands go on: they have formatted into a new batch
    } while (this.#batch !== undefined && !this.#gather.busy);
    this.#formatting = outer;
  }

  /** All commands of one read are taken, or all that were complete are answered: no more of them than the host has under way. */
  noteAnswers(): void {
    const answers = this.#answers;
    this.#answers = 0;
    if (answers > this.#nextPeak) this.#nextPeak = answers;
    if (++this.#times === PEAK_TIMES) {
      this.#times = 0;
      this.#setPeak(this.#nextPeak);
      this.#nextPeak = 0;
    } else if (answers > this.#peakAnswers) {
      this.#setPeak(answers);
    }
  }

  #setPeak(answers: number): void {
    this.#peakAnswers = answers;
    // in eights: hosts that read ahead by so many of their data find whole ones
    this.#batchAnswersMax = Math.max(BATCH_ANSWERS_MIN, ((answers >> 1) + 7) & ~7);
  }

  #guardedTurn(): void {
    try {
      this.turn();
      this.noteAnswers();
    } catch (error) {
      this.#owner.bug(error);
    }
  }

  #formatR2t(request: Request): void {
    request.transportState &= ~Slot.R2tWaits;
    const hlen = R2T_HLEN + (this.#link.headerDigest ? DIGEST_SIZE : 0);
    const batch = this.#open();
    const out = batch.reserve(hlen);
    const view = batch.view;
    writeCommonHeader(view, out, PduType.R2T, this.#link.headerDigest ? PduFlag.Hdgst : 0, R2T_HLEN, 0, hlen);
    writeDataHeader(view, out, request.cid, request.slot, 0, request.transferBytes);
    if (this.#link.headerDigest) view.setUint32(out + R2T_HLEN, crc32cView(view, out, R2T_HLEN), true);
  }

  #open(): Batch {
    let batch = this.#batch;
    if (batch === undefined) {
      batch = threadBuffers.takeBatch();
      this.#batch = batch;
    }
    return batch;
  }

  /** @returns false if the batch was full and the kernel did not take it: the request must wait */
  #format(request: Request): boolean {
    const open = this.#batch;
    if (
      open !== undefined &&
      ((this.#batchAnswers >= this.#batchAnswersMax && open.payloadBytes > 0) ||
        open.isFull(RESPONSE_HEADER_BYTES_MAX, request.segmentCount))
    ) {
      this.#flush();
      if (this.#gather.busy) return false;
    }
    this.#batchAnswers++;
    this.#answers++;
    if ((request.transportState & Slot.AwaitingData) !== 0) this.#formatR2t(request);
    else this.#formatResponse(request);
    return true;
  }

  /**
   * C2HData with the command's data, and CapsuleResp unless SUCCESS says it. The CapsuleResps of a batch go behind its data: hosts take PDUs with data
   * best one after the other (some read ahead by a multiple of their size), and whole batches of completions.
   */
  #formatResponse(request: Request): void {
    const queuePair = this.#queuePair;
    const headerDigest = this.#link.headerDigest;
    const flags = headerDigest ? PduFlag.Hdgst : 0;
    const digestBytes = headerDigest ? DIGEST_SIZE : 0;
    const segmentCount = request.segmentCount;
    const sendData = request.direction === 2 && request.status === 0 && segmentCount > 0;
    const batch = this.#open();
    const view = batch.view;
    let success = false;
    if (sendData) {
      const length = request.answerBytes;
      success = !queuePair.flowControl && request.result0 === 0 && request.result1 === 0;
      const pdo =
        this.#link.hostAlignBytes === 4
          ? DATA_HLEN + digestBytes
          : dataOffsetFor(DATA_HLEN, headerDigest, this.#link.hostAlignBytes);
      const dataDigest = this.#link.dataDigest;
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
      if (request.placed) this.#addPlaces(batch, request);
      else batch.addPieces(request.segments, segmentCount, length);
      if (dataDigest) batch.addDigest(segmentCount);
    }
    if (!success) {
      const out = batch.reserveLast(CAPSULE_RESP_HLEN + digestBytes);
      writeCommonHeader(view, out, PduType.CapsuleResp, flags, CAPSULE_RESP_HLEN, 0, CAPSULE_RESP_HLEN + digestBytes);
      const sqhd = queuePair.flowControl ? queuePair.sqhd : request.sqhdWithoutFlowControl;
      writeCqe(view, out + CH_SIZE, request.result0, request.result1, sqhd, request.cid, request.status);
      if (headerDigest) view.setUint32(out + CAPSULE_RESP_HLEN, crc32cView(view, out, CAPSULE_RESP_HLEN), true);
    }
    if (sendData && request.holdsBuffer) {
      this.#sending.push(request.detachBuffer());
      this.#sendingBytes += request.countedBytes;
      request.countedBytes = 0;
    }
    this.#owner.release(request);
  }

  #addPlaces(batch: Batch, request: Request): void {
    for (let i = 0; i < request.segmentCount; i++) {
      const arena = request.arenas[i];
      const segment = request.segments[i]!;
      if (arena === undefined) batch.add(segment, segment.length);
      else batch.addPlace(arena, request.offsets[i]!, request.lengths[i]!);
    }
  }

  /** Sends the batch. Afterwards either the kernel has it all, or the writer is busy and nothing of it may change. */
  #flush(): void {
    const batch = this.#batch;
    if (batch === undefined || this.#gather.busy) return;
    batch.end();
    if (batch.bufferCount > 0) {
      batch.sealDigests();
      this.#link.counters.writes++;
      if (!this.#gather.writeBatch(batch)) {
        this.#link.counters.blockedWrites++;
        return;
      }
    }
    this.#releaseBatch();
  }

  /** The kernel has the batch: its memory may change again. */
  #releaseBatch(): void {
    const batch = this.#batch;
    if (batch === undefined) return;
    this.#batch = undefined;
    this.#batchAnswers = 0;
    batch.clear();
    threadBuffers.giveBatch(batch);
    const sending = this.#sending;
    if (sending.length > 0) {
      for (let i = 0; i < sending.length; i++) this.#queuePair.returnBuffer(sending[i]!);
      sending.length = 0;
      const bytes = this.#sendingBytes;
      this.#sendingBytes = 0;
      this.#owner.buffersSent(bytes);
    }
  }

  /** The kernel took the rest of a batch that it could not take at once. */
  #drained(): void {
    this.#releaseBatch();
    this.#guardedTurn();
    if (!this.#gather.busy) this.#owner.drained();
  }

  /** The connection is gone: gives back everything that waits for it. */
  discard(): void {
    this.#releaseBatch();
    const waiting = this.#waiting;
    this.#waiting = [];
    // what awaits data is the connection's to release
    for (const request of waiting) if (request.transportState === 0) this.#owner.release(request);
  }
}

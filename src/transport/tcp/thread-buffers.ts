// @hot
/**
 * Batches that all TCP connections of one thread share: what is formatted is handed to the kernel in the same turn, so a few serve every socket
 * and an idle connection holds none.
 */
import { ViewCache } from '../../util/view-cache.ts';
import { GATHER_MAX } from './gather-writer.ts';

const SLAB_BYTES = 64 << 10;
/** A batch is sent when it holds this much payload, so that the peer starts while we go on. */
const BATCH_PAYLOAD_BYTES = 256 << 10;

/** What goes out in one writev: PDU headers and digests in its own slab, payloads where they are. */
export class Batch {
  readonly bytes: Uint8Array = new Uint8Array(new ArrayBuffer(SLAB_BYTES));
  readonly view: DataView = new DataView(this.bytes.buffer);
  readonly #views: ViewCache = new ViewCache(this.bytes);
  readonly buffers: Uint8Array[] = [];
  bufferCount = 0;
  /** Per payload with a data digest: index of its first buffer, number of buffers, where in the slab the digest goes. */
  readonly #digests: Int32Array = new Int32Array(GATHER_MAX * 3);
  digestCount = 0;
  #slabEnd = 0;
  #runStart = 0;
  payloadBytes = 0;

  /** True if a PDU of `headerBytes` with `payloadCount` buffers must go into another batch. */
  isFull(headerBytes: number, payloadCount: number): boolean {
    return (
      this.#slabEnd + headerBytes > SLAB_BYTES ||
      this.bufferCount + payloadCount + 2 > GATHER_MAX ||
      this.payloadBytes >= BATCH_PAYLOAD_BYTES
    );
  }

  /** Room for `length` header bytes, which follow whatever was added before. @returns their offset in `bytes` */
  reserve(length: number): number {
    const at = this.#slabEnd;
    this.#slabEnd = at + length;
    return at;
  }

  /** Header bytes so far become a buffer of the batch. */
  endRun(): void {
    if (this.#slabEnd === this.#runStart) return;
    this.buffers[this.bufferCount++] = this.#views.view(this.#runStart, this.#slabEnd - this.#runStart);
    this.#runStart = this.#slabEnd;
  }

  /** A payload of one piece. @param bytes its length, which the caller knows without a look at the view: those are seldom in the cache */
  add(payload: Uint8Array, bytes: number): void {
    this.buffers[this.bufferCount++] = payload;
    this.payloadBytes += bytes;
  }

  /** A payload in pieces. @param bytes of all of them */
  addPieces(pieces: readonly Uint8Array[], count: number, bytes: number): void {
    for (let i = 0; i < count; i++) this.buffers[this.bufferCount++] = pieces[i]!;
    this.payloadBytes += bytes;
  }

  /** The last `count` buffers are one payload: room for its digest, computed by `sealDigests`. */
  addDigest(count: number): void {
    const at = this.digestCount * 3;
    this.#digests[at] = this.bufferCount - count;
    this.#digests[at + 1] = count;
    this.#digests[at + 2] = this.reserve(4);
    this.digestCount++;
  }

  /** Data digests are computed when the bytes leave, so that they match what is sent. */
  sealDigests(crc32c: (data: Uint8Array, crc: number) => number): void {
    for (let d = 0; d < this.digestCount; d++) {
      const first = this.#digests[d * 3]!;
      const end = first + this.#digests[d * 3 + 1]!;
      let crc = 0;
      for (let i = first; i < end; i++) crc = crc32c(this.buffers[i]!, crc);
      this.view.setUint32(this.#digests[d * 3 + 2]!, crc, true);
    }
    this.digestCount = 0;
  }

  clear(): void {
    this.bufferCount = 0;
    this.digestCount = 0;
    this.#slabEnd = 0;
    this.#runStart = 0;
    this.payloadBytes = 0;
  }
}

export class ThreadBuffers {
  readonly #batches: Batch[] = [];

  takeBatch(): Batch {
    return this.#batches.pop() ?? new Batch();
  }

  /** Takes back an empty batch. */
  giveBatch(batch: Batch): void {
    if (this.#batches.length < 8) this.#batches.push(batch);
  }
}

/** Of this thread. */
export const threadBuffers: ThreadBuffers = new ThreadBuffers();

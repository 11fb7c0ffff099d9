// @hot
/**
 * Batches that all TCP connections of one thread share: what is formatted is handed to the kernel in the same turn, so a few serve every socket
 * and an idle connection holds none.
 */
import { MemoryArena } from '../../native/arena.ts';
import { nativeBinding } from '../../native/load.ts';
import type { Arena } from '../../util/arena.ts';
import { assert } from '../../util/assert.ts';
import { ViewCache } from '../../util/view-cache.ts';
import { crc32c, crc32cAt } from '../../wire/crc32c.ts';

/** Pieces of one write; the kernel takes 1,024. */
export const GATHER_MAX = 1000;

const NOTHING = new Uint8Array(0);
const sealByAddon = nativeBinding()?.sealDigests;
const SLAB_BYTES = 64 << 10;
/** The end of the slab is for what goes behind all payloads. */
const LAST_START = 48 << 10;
/** A batch is sent when it holds this much payload, so that the peer starts while we go on. */
const BATCH_PAYLOAD_BYTES = 256 << 10;

/**
 * What goes out in one write: PDU headers and digests in its own slab, payloads where they are. A piece is a view, or a place in an arena, which
 * the addon finds by its number; without the addon all are views.
 */
export class Batch {
  readonly #slab: Arena;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Views of the slab, where pieces are no places. */
  readonly #views: ViewCache | undefined;
  /** Views of the slab for what a socket did not take at once. */
  #restViews: ViewCache | undefined;
  /** Per piece: arena, offset, length; arena 0 is the whole view of `buffers`. */
  readonly table: Uint32Array = new Uint32Array(GATHER_MAX * 3);
  /** Per piece its view, or what keeps its arena in memory. */
  readonly buffers: Uint8Array[] = [];
  bufferCount = 0;
  /** Of all pieces. */
  totalBytes = 0;
  /** Per payload with a data digest: index of its first buffer, number of buffers, where in the slab the digest goes. */
  readonly #digests: Int32Array = new Int32Array(GATHER_MAX * 3);
  digestCount = 0;
  #slabEnd = 0;
  #runStart = 0;
  #lastEnd = LAST_START;
  payloadBytes = 0;

  constructor(slab: Arena = new MemoryArena(SLAB_BYTES)) {
    this.#slab = slab;
    this.bytes = slab.bytes;
    this.view = new DataView(slab.bytes.buffer);
    this.#views = slab.id === 0 ? new ViewCache(slab.bytes) : undefined;
  }

  /** It has no places: the addon is not there. */
  get allViews(): boolean {
    return this.#views !== undefined;
  }

  /** True if a PDU of `headerBytes` with `payloadCount` buffers must go into another batch. */
  isFull(headerBytes: number, payloadCount: number): boolean {
    return (
      this.#slabEnd + headerBytes > LAST_START ||
      this.#lastEnd + headerBytes > SLAB_BYTES ||
      this.bufferCount + payloadCount + 3 > GATHER_MAX ||
      this.payloadBytes >= BATCH_PAYLOAD_BYTES
    );
  }

  /** Room for `length` header bytes, which follow whatever was added before. @returns their offset in `bytes` */
  reserve(length: number): number {
    const at = this.#slabEnd;
    this.#slabEnd = at + length;
    return at;
  }

  /** Room for `length` bytes behind everything else, in the order of the calls: a host that receives many payloads finds one after the other. */
  reserveLast(length: number): number {
    const at = this.#lastEnd;
    this.#lastEnd = at + length;
    return at;
  }

  /** Nothing more is added: `endRun`, then what goes behind. */
  end(): void {
    this.endRun();
    const length = this.#lastEnd - LAST_START;
    if (length === 0) return;
    this.#lastEnd = LAST_START;
    if (this.#views === undefined) this.#place(this.#slab, LAST_START, length);
    else this.#whole(this.#views.view(LAST_START, length));
    this.totalBytes += length;
  }

  /** Header bytes so far become a piece of the batch. */
  endRun(): void {
    const start = this.#runStart;
    const length = this.#slabEnd - start;
    if (length === 0) return;
    this.#runStart = this.#slabEnd;
    if (this.#views === undefined) this.#place(this.#slab, start, length);
    else this.#whole(this.#views.view(start, length));
    this.totalBytes += length;
  }

  #place(arena: Arena, offset: number, length: number): void {
    const at = this.bufferCount * 3;
    this.table[at] = arena.id;
    this.table[at + 1] = offset;
    this.table[at + 2] = length;
    this.buffers[this.bufferCount++] = arena.bytes;
  }

  #whole(view: Uint8Array): void {
    this.table[this.bufferCount * 3] = 0;
    this.buffers[this.bufferCount++] = view;
  }

  /** A payload of one piece. @param bytes its length, which the caller knows without a look at the view: those are seldom in the cache */
  add(payload: Uint8Array, bytes: number): void {
    this.#whole(payload);
    this.payloadBytes += bytes;
    this.totalBytes += bytes;
  }

  /** A payload in pieces. @param bytes of all of them */
  addPieces(pieces: readonly Uint8Array[], count: number, bytes: number): void {
    for (let i = 0; i < count; i++) this.#whole(pieces[i]!);
    this.payloadBytes += bytes;
    this.totalBytes += bytes;
  }

  /** The next piece of a payload, by its place; only for an arena that the addon knows. */
  addPlace(arena: Arena, offset: number, length: number): void {
    this.#place(arena, offset, length);
    this.payloadBytes += length;
    this.totalBytes += length;
  }

  /** The last `count` pieces are one payload: room for its digest, computed by `sealDigests`. */
  addDigest(count: number): void {
    const at = this.digestCount * 3;
    this.#digests[at] = this.bufferCount - count;
    this.#digests[at + 1] = count;
    this.#digests[at + 2] = this.reserve(4);
    this.digestCount++;
  }

  /** Data digests are computed when the bytes leave, so that they match what is sent. */
  sealDigests(): void {
    const seal = this.#slab.id === 0 ? undefined : sealByAddon;
    if (seal !== undefined && this.digestCount > 0) {
      const sealed = seal(this.table, this.buffers, this.#digests, this.digestCount, this.#slab.id);
      assert(sealed === 0, 'A piece of a batch is nowhere');
      this.digestCount = 0;
      return;
    }
    for (let d = 0; d < this.digestCount; d++) {
      const first = this.#digests[d * 3]!;
      const end = first + this.#digests[d * 3 + 1]!;
      let crc = 0;
      for (let i = first; i < end; i++) crc = this.#continueDigest(crc, i);
      this.view.setUint32(this.#digests[d * 3 + 2]!, crc, true);
    }
    this.digestCount = 0;
  }

  #continueDigest(crc: number, piece: number): number {
    const { table } = this;
    const bytes = this.buffers[piece]!;
    const arena = table[piece * 3]!;
    return arena === 0 ? crc32c(bytes, crc) : crc32cAt(arena, bytes, table[piece * 3 + 1]!, table[piece * 3 + 2]!, crc);
  }

  /** Bytes of arenas among what is left once `sentBytes` are gone: `takeRest` copies so much. */
  restBytes(sentBytes: number): number {
    let start = 0;
    let bytes = 0;
    for (let i = 0; i < this.bufferCount; i++) {
      const arena = this.table[i * 3]!;
      const length = arena === 0 ? this.buffers[i]!.length : this.table[i * 3 + 2]!;
      const end = start + length;
      if (arena !== 0 && arena !== this.#slab.id && end > sentBytes) bytes += Math.min(length, end - sentBytes);
      start = end;
    }
    return bytes;
  }

  /**
   * What is left of the pieces once `sentBytes` of them are gone. The slab and whole views stay as they are until they are sent; arenas may change
   * at any time, so those are copied.
   * @param rest emptied and filled
   * @param copies at least `restBytes(sentBytes)` long; in use until `rest` is sent
   */
  takeRest(sentBytes: number, rest: Uint8Array[], copies: Uint8Array): void {
    rest.length = 0;
    let skip = sentBytes;
    let copied = 0;
    for (let i = 0; i < this.bufferCount; i++) {
      const arena = this.table[i * 3]!;
      const start = arena === 0 ? 0 : this.table[i * 3 + 1]!;
      const length = arena === 0 ? this.buffers[i]!.length : this.table[i * 3 + 2]!;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const bytes = this.buffers[i]!;
      if (arena === 0) {
        rest.push(skip === 0 ? bytes : bytes.subarray(skip));
      } else if (arena === this.#slab.id) {
        // nothing is made for the slab, once it has its views
        this.#restViews ??= this.#views ?? new ViewCache(this.bytes);
        rest.push(this.#restViews.view(start + skip, length - skip));
      } else {
        const copy = copies.subarray(copied, copied + length - skip);
        copied += length - skip;
        copy.set(bytes.subarray(start + skip, start + length));
        rest.push(copy);
      }
      skip = 0;
    }
  }

  /**
   * For batches of parts of the slab and whole views: the first `sentBytes` are gone, and so is what is returned: the rest of the piece in which they end, or
   * the one that begins there. The batch goes on behind it.
   */
  takeFirst(sentBytes: number): Uint8Array {
    const { table, buffers } = this;
    let piece = 0;
    let skip = sentBytes;
    let length = this.#pieceBytes(0);
    while (skip >= length) {
      skip -= length;
      length = this.#pieceBytes(++piece);
    }
    let first = buffers[piece]!;
    if (table[piece * 3] !== 0) {
      assert(table[piece * 3] === this.#slab.id, 'A piece of an arena cannot wait');
      this.#restViews ??= new ViewCache(this.bytes);
      first = this.#restViews.view(table[piece * 3 + 1]! + skip, length - skip);
    } else if (skip !== 0) first = first.subarray(skip);
    this.totalBytes -= sentBytes + first.length;
    const gone = piece + 1;
    const count = this.bufferCount - gone;
    table.copyWithin(0, gone * 3, this.bufferCount * 3);
    for (let i = 0; i < count; i++) buffers[i] = buffers[i + gone]!;
    for (let i = count; i < this.bufferCount; i++) buffers[i] = NOTHING;
    this.bufferCount = count;
    return first;
  }

  #pieceBytes(piece: number): number {
    return this.table[piece * 3] === 0 ? this.buffers[piece]!.length : this.table[piece * 3 + 2]!;
  }

  clear(): void {
    for (let i = 0; i < this.bufferCount; i++) this.buffers[i] = NOTHING;
    this.bufferCount = 0;
    this.totalBytes = 0;
    this.digestCount = 0;
    this.#slabEnd = 0;
    this.#runStart = 0;
    this.#lastEnd = LAST_START;
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

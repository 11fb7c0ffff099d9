// @hot
/**
 * A local SSD's namespace as a backend: each operation becomes NVMe commands on the device node, by io_uring or, where the kernel does not take
 * them that way, by ioctl. A longer transfer than the device takes is split; the pieces run together.
 */
import type { IoEngine } from '../native/io-engine.ts';
import { NvmeCall } from '../native/io-engine.ts';
import { IoOpcode } from '../spec/opcode.ts';
import { Status } from '../spec/status.ts';
import { assert } from '../util/assert.ts';
import { BufferPool } from '../util/buffer-pool.ts';
import { NvmeofError } from '../util/error.ts';
import type { BackendHealth, BlockBackend, BlockIo, CopyLimits, DeviceCopy } from './block-backend.ts';
import type { DevicePassthrough } from './device-passthrough.ts';
import { statusOfDevice, statusOfErrno } from './nvme-device.ts';
import { Metadata, type NvmeGeometry } from './nvme-geometry.ts';
import type { NvmeHealth } from './nvme-health.ts';

export interface NvmeBackendOptions {
  readonly engine: IoEngine;
  /** Open for the namespace; this backend closes it by `release`. */
  readonly fd: number;
  readonly path: string;
  readonly nsid: number;
  readonly geometry: NvmeGeometry;
  readonly readOnly: boolean;
  /** Commands go by ioctl on threads. */
  readonly ioctl: boolean;
  /** Told once, when the device turns out to be gone. */
  readonly onGone?: (() => void) | undefined;
  /** Asks the device for its size. */
  readonly identify: () => Promise<NvmeGeometry>;
  readonly health?: Pick<NvmeHealth, 'last' | 'watch'> | undefined;
  readonly passthrough?: DevicePassthrough | undefined;
  /** Asks the device which blocks are allocated. */
  readonly allocated?: BlockBackend['readAllocated'];
  /** Closes everything, after the last command. */
  readonly release: () => Promise<void>;
}

const CDW12_FUA = 0x4000_0000;
const CDW12_PRACT = 0x2000_0000;
/** PRCHK of a read: guard, and reference tag for types 1 and 2. */
const CDW12_CHECK_GUARD = 0x1000_0000;
const CDW12_CHECK_REFERENCE = 0x0400_0000;
const CDW12_DEAC = 0x0200_0000;
const DSM_DEALLOCATE = 4;
const DSM_RANGE_BYTES = 16;
/** A source of Copy, descriptor format 0. NVM Command Set 1.2 section 3.3.2. */
const COPY_SOURCE_BYTES = 32;
const HIGH = 0x1_0000_0000;
/** Pieces of one operation that run at once. */
const PIECES_MAX = 8;
const KEPT_MAX = 2048;
/** More segments than these are copied into one buffer: a command takes a bounded number of separate memory ranges. */
const VECTOR_MAX = 8;
const ZERO_BYTES = 256 << 10;
const ZEROES = new Uint8Array(new ArrayBuffer(ZERO_BYTES));
/** Status code type 3: the path, not the device. The kernel answers so when it takes a device away. */
const SCT_PATH = 3;

const Kind = { Read: 0, Write: 1, Flush: 2, Zero: 3, Deallocate: 4, Verify: 5, Compare: 6, Copy: 7 } as const;

/** Opcode of kinds that move data. */
const TRANSFERS: Readonly<Record<number, number>> = {
  [Kind.Read]: IoOpcode.Read,
  [Kind.Write]: IoOpcode.Write,
  [Kind.Compare]: IoOpcode.Compare,
};

/** One operation: a BlockIo and what is left of it. */
class NvmeOp {
  io: BlockIo | undefined = undefined;
  kind: number = Kind.Read;
  flags = 0;
  /** What no piece has taken yet. */
  position = 0;
  left = 0;
  /** Byte of the data where the next piece begins. */
  dataOffset = 0;
  data: Uint8Array | undefined = undefined;
  /** `data` is ours: it goes back to the pool. */
  pooled: Uint8Array | undefined = undefined;
  status = 0;
  running = 0;
  copy: DeviceCopy | undefined = undefined;
}

/** One command to the device. */
class Piece {
  readonly call = new NvmeCall();
  readonly done: (error: NodeJS.ErrnoException | null, result: number, result0: number) => void;
  op: NvmeOp | undefined = undefined;
  metadata: Uint8Array | undefined = undefined;
  /** Range of Dataset Management. */
  readonly range: Uint8Array = new Uint8Array(new ArrayBuffer(DSM_RANGE_BYTES));
  readonly rangeView: DataView = new DataView(this.range.buffer);

  constructor(done: (piece: Piece, error: NodeJS.ErrnoException | null, result: number, result0: number) => void) {
    this.done = (error, result, result0) => done(this, error, result, result0);
  }
}

/** @public */
export class NvmeBackend implements BlockBackend {
  readonly kind = 'nvme';
  readonly path: string;
  readonly geometry: NvmeGeometry;
  readonly blockSize: number;
  blockCount: number;
  readonly volatileWriteCache: boolean;
  readonly readsZeroAfterDeallocate: boolean;
  readonly readOnly: boolean;
  readonly atomicBytes?: number;
  readonly allocationUnitBytes: number;
  /** By the device's own Get LBA Status, if it tells what is allocated. */
  readonly readAllocated?: BlockBackend['readAllocated'];
  /** By the device's own Compare, if it has one that fits. */
  readonly compare?: (io: BlockIo) => void;
  /** By the device's own Copy, if it has one that fits. */
  readonly copy?: (io: BlockIo, copy: DeviceCopy) => void;
  readonly copyLimits?: CopyLimits | undefined;
  /** By the device's own Verify, if it has one. */
  readonly verify?: (io: BlockIo) => void;
  readonly #options: NvmeBackendOptions;
  readonly #engine: IoEngine;
  readonly #fd: number;
  readonly #nsid: number;
  readonly #pool = new BufferPool(16 << 20);
  readonly #freeOps: NvmeOp[] = [];
  readonly #freePieces: Piece[] = [];
  #opCount = 0;
  #gone = false;
  #closing: Promise<void> | undefined = undefined;
  #onIdle: (() => void) | undefined = undefined;
  readonly #pieceDone: (piece: Piece, error: NodeJS.ErrnoException | null, result: number, result0: number) => void;

  constructor(options: NvmeBackendOptions) {
    const { geometry } = options;
    this.#options = options;
    this.#engine = options.engine;
    this.#fd = options.fd;
    this.#nsid = options.nsid;
    this.path = options.path;
    this.geometry = geometry;
    this.blockSize = geometry.blockSize;
    this.blockCount = geometry.blockCount;
    this.volatileWriteCache = geometry.volatileWriteCache;
    this.readsZeroAfterDeallocate = geometry.readsZeroAfterDeallocate;
    this.readOnly = options.readOnly || geometry.writeProtected;
    if (geometry.atomicBytes !== undefined) this.atomicBytes = geometry.atomicBytes;
    if (geometry.compares) this.compare = (io) => this.#compare(io);
    if (geometry.copy !== undefined) {
      this.copyLimits = geometry.copy;
      this.copy = (io, copy) => this.#copy(io, copy);
    }
    this.allocationUnitBytes = geometry.allocationBlocks * geometry.blockSize;
    const { allocated } = options;
    if (geometry.allocationBlocks > 0 && allocated !== undefined) this.readAllocated = allocated;
    if (geometry.verifies) this.verify = (io) => this.#verify(io);
    this.#pieceDone = (piece, error, result, result0) => this.#completed(piece, error, result, result0);
  }

  /** The device was taken away: nothing works any more. */
  get isGone(): boolean {
    return this.#gone;
  }

  allocatedBytes(): number | undefined {
    return undefined;
  }

  health(): BackendHealth | undefined {
    return this.#options.health?.last;
  }

  watchHealth(listener: () => void): void {
    this.#options.health?.watch(listener);
  }

  get passthrough(): DevicePassthrough | undefined {
    return this.#options.passthrough;
  }

  read(io: BlockIo): void {
    const op = this.#take(io, Kind.Read);
    if (op === undefined) return;
    op.data = io.provide();
    op.flags = (io.fua ? CDW12_FUA : 0) | this.#protectionFlags(true);
    this.#start(op);
  }

  #verify(io: BlockIo): void {
    const op = this.#take(io, Kind.Verify);
    if (op === undefined) return;
    // PRACT is not for Verify
    op.flags = this.#protectionFlags(true) & ~CDW12_PRACT;
    this.#start(op);
  }

  #compare(io: BlockIo): void {
    const op = this.#take(io, Kind.Compare);
    if (op === undefined) return;
    io.retain();
    if (io.segmentCount === 1) op.data = io.segments[0]!;
    else this.#gather(op);
    this.#start(op);
  }

  #copy(io: BlockIo, copy: DeviceCopy): void {
    const op = this.#takeChange(io, Kind.Copy);
    if (op === undefined) return;
    const { sources } = copy;
    const bytes = sources.length * COPY_SOURCE_BYTES;
    const list = this.#pool.take(bytes);
    list.fill(0, 0, bytes);
    const view = new DataView(list.buffer, list.byteOffset, bytes);
    sources.forEach(({ offsetBytes, lengthBytes }, i) => {
      const first = offsetBytes / this.blockSize;
      view.setUint32(i * COPY_SOURCE_BYTES + 8, first % HIGH, true);
      view.setUint32(i * COPY_SOURCE_BYTES + 12, Math.floor(first / HIGH), true);
      view.setUint16(i * COPY_SOURCE_BYTES + 16, lengthBytes / this.blockSize - 1, true);
    });
    op.pooled = list;
    op.data = list.subarray(0, bytes);
    op.flags = io.fua ? CDW12_FUA : 0;
    op.copy = copy;
    this.#start(op);
  }

  write(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Write);
    if (op === undefined) return;
    io.retain();
    op.flags = (io.fua ? CDW12_FUA : 0) | this.#protectionFlags(false);
    if (io.segmentCount === 1) op.data = io.segments[0]!;
    else if (io.segmentCount > VECTOR_MAX || io.lengthBytes > this.geometry.transferBytesMax) this.#gather(op);
    this.#start(op);
  }

  flush(io: BlockIo): void {
    const op = this.#take(io, Kind.Flush);
    if (op === undefined) return;
    // a flush has no range: what its BlockIo says of one is an earlier command's
    op.left = 0;
    this.#start(op);
  }

  writeZeroes(io: BlockIo, mayDeallocate: boolean): void {
    const op = this.#takeChange(io, Kind.Zero);
    if (op === undefined) return;
    op.flags = (io.fua ? CDW12_FUA : 0) | this.#protectionFlags(false);
    if (this.geometry.writeZeroes && mayDeallocate && this.geometry.deacSupported) op.flags |= CDW12_DEAC;
    this.#start(op);
  }

  deallocate(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Deallocate);
    if (op === undefined) return;
    // advisory: a device that cannot, keeps the blocks as they are
    if (!this.geometry.deallocates) op.left = 0;
    this.#start(op);
  }

  // ---- operations ----------------------------------------------------------------------------------------------------------------------

  #take(io: BlockIo, kind: number): NvmeOp | undefined {
    if (this.#closing !== undefined || this.#gone) {
      io.complete(Status.NamespaceNotReady);
      return undefined;
    }
    this.#opCount++;
    const op = this.#freeOps.pop() ?? new NvmeOp();
    op.io = io;
    op.kind = kind;
    op.flags = 0;
    op.position = io.offsetBytes;
    op.left = io.lengthBytes;
    op.dataOffset = 0;
    op.data = undefined;
    op.status = 0;
    return op;
  }

  #takeChange(io: BlockIo, kind: number): NvmeOp | undefined {
    if (this.readOnly) {
      io.complete(Status.NamespaceWriteProtected);
      return undefined;
    }
    return this.#take(io, kind);
  }

  #protectionFlags(reads: boolean): number {
    const { metadata, referenceTag } = this.geometry;
    if (metadata !== Metadata.Protection) return 0;
    const checks = CDW12_CHECK_GUARD | (referenceTag ? CDW12_CHECK_REFERENCE : 0);
    return reads ? CDW12_PRACT | checks : CDW12_PRACT;
  }

  #gather(op: NvmeOp): void {
    const { segments, segmentCount, lengthBytes } = op.io!;
    const buffer = this.#pool.take(lengthBytes);
    for (let i = 0, at = 0; i < segmentCount; i++) {
      buffer.set(segments[i]!, at);
      at += segments[i]!.length;
    }
    op.pooled = buffer;
    op.data = buffer;
  }

  #start(op: NvmeOp): void {
    if (op.kind === Kind.Flush) {
      const piece = this.#piece(op, IoOpcode.Flush, 0, 0, 0);
      this.#send(piece, undefined, 0, 0);
      return;
    }
    while (op.left > 0 && op.running < PIECES_MAX) this.#next(op);
    if (op.running === 0) this.#finish(op);
  }

  /** Sends the next piece. */
  #next(op: NvmeOp): void {
    const { geometry } = this;
    switch (op.kind) {
      case Kind.Deallocate: {
        const blocks = Math.min(op.left / geometry.blockSize, geometry.deallocateBlocksMax);
        const piece = this.#piece(op, IoOpcode.DatasetManagement, 0, DSM_DEALLOCATE, 0);
        const first = op.position / geometry.blockSize;
        piece.rangeView.setUint32(4, blocks, true);
        piece.rangeView.setUint32(8, first % HIGH, true);
        piece.rangeView.setUint32(12, Math.floor(first / HIGH), true);
        this.#advance(op, blocks * geometry.blockSize);
        this.#send(piece, piece.range, 1, DSM_RANGE_BYTES);
        return;
      }
      case Kind.Zero: {
        if (!geometry.writeZeroes) {
          this.#transfer(op, IoOpcode.Write, Math.min(op.left, ZERO_BYTES, geometry.transferBytesMax));
          return;
        }
        const blocks = Math.min(op.left / geometry.blockSize, geometry.writeZeroesBlocksMax);
        const piece = this.#blocks(op, IoOpcode.WriteZeroes, blocks);
        this.#advance(op, blocks * geometry.blockSize);
        this.#send(piece, undefined, 0, 0);
        return;
      }
      case Kind.Copy: {
        // all of it is one command: what does not fit was refused
        const first = op.position / geometry.blockSize;
        const flags = op.flags | (op.copy!.sources.length - 1);
        const piece = this.#piece(op, IoOpcode.Copy, first % HIGH, Math.floor(first / HIGH), flags);
        this.#advance(op, op.left);
        this.#send(piece, op.data, 1, op.data!.length);
        return;
      }
      case Kind.Verify: {
        const blocks = Math.min(op.left / geometry.blockSize, geometry.verifyBlocksMax);
        const piece = this.#blocks(op, IoOpcode.Verify, blocks);
        this.#advance(op, blocks * geometry.blockSize);
        this.#send(piece, undefined, 0, 0);
        return;
      }
      default: {
        let bytes = Math.min(op.left, geometry.transferBytesMax);
        if (geometry.boundaryBytes > 0)
          bytes = Math.min(bytes, geometry.boundaryBytes - (op.position % geometry.boundaryBytes));
        this.#transfer(op, TRANSFERS[op.kind]!, bytes);
      }
    }
  }

  #transfer(op: NvmeOp, opcode: number, bytes: number): void {
    const piece = this.#blocks(op, opcode, bytes / this.blockSize);
    const io = op.io!;
    if (this.geometry.metadata === Metadata.Scratch) {
      const metadataBytes = (bytes / this.blockSize) * this.geometry.metadataBytes;
      piece.metadata = this.#pool.take(metadataBytes);
      if (opcode === IoOpcode.Write) piece.metadata.fill(0);
      piece.call.metadata = piece.metadata.subarray(0, metadataBytes);
    }
    const offset = op.dataOffset;
    this.#advance(op, bytes);
    if (op.kind === Kind.Zero) {
      this.#send(piece, bytes === ZERO_BYTES ? ZEROES : ZEROES.subarray(0, bytes), 1, bytes);
    } else if (op.data === undefined) {
      // few segments that are one command together
      this.#send(piece, io.segments, io.segmentCount, bytes);
    } else {
      const { data } = op;
      this.#send(piece, bytes === data.length ? data : data.subarray(offset, offset + bytes), 1, bytes);
    }
  }

  #advance(op: NvmeOp, bytes: number): void {
    op.position += bytes;
    op.left -= bytes;
    op.dataOffset += bytes;
  }

  #blocks(op: NvmeOp, opcode: number, blocks: number): Piece {
    const first = op.position / this.blockSize;
    const piece = this.#piece(op, opcode, first % HIGH, Math.floor(first / HIGH), op.flags | (blocks - 1));
    // ILBRT and EILBRT, where the format has them
    piece.call.cdw10To15[4] = this.geometry.referenceTag ? (first % HIGH) | 0 : 0;
    return piece;
  }

  #piece(op: NvmeOp, opcode: number, cdw10: number, cdw11: number, cdw12: number): Piece {
    const piece = this.#freePieces.pop() ?? new Piece(this.#pieceDone);
    piece.op = op;
    const { call } = piece;
    call.opcode = opcode;
    call.nsid = this.#nsid;
    call.metadata = undefined;
    const words = call.cdw10To15;
    words[0] = cdw10;
    words[1] = cdw11;
    words[2] = cdw12;
    words[3] = 0;
    words[4] = 0;
    words[5] = 0;
    op.running++;
    return piece;
  }

  #send(piece: Piece, data: Uint8Array | readonly Uint8Array[] | undefined, count: number, bytes: number): void {
    this.#engine.nvme(this.#fd, false, piece.call, data, count, bytes, this.#options.ioctl, piece.done);
  }

  #completed(piece: Piece, error: NodeJS.ErrnoException | null, result: number, result0: number): void {
    const op = piece.op!;
    piece.op = undefined;
    piece.call.metadata = undefined;
    if (piece.metadata !== undefined) {
      this.#pool.give(piece.metadata);
      piece.metadata = undefined;
    }
    if (this.#freePieces.length < KEPT_MAX) this.#freePieces.push(piece);
    op.running--;
    const status = error === null ? this.#statusOf(result) : this.#statusOfError(error);
    if (status !== 0) {
      // DW0: the first source that was not copied as a whole
      if (op.copy !== undefined && error === null) op.copy.completeCount = result0;
      if (op.status === 0) op.status = status;
      op.left = 0;
    }
    if (op.left > 0) this.#next(op);
    else if (op.running === 0) this.#finish(op);
  }

  #finish(op: NvmeOp): void {
    const io = op.io!;
    const { status } = op;
    op.io = undefined;
    op.data = undefined;
    op.copy = undefined;
    if (op.pooled !== undefined) {
      this.#pool.give(op.pooled);
      op.pooled = undefined;
    }
    if (this.#freeOps.length < KEPT_MAX) this.#freeOps.push(op);
    this.#opCount--;
    io.complete(status);
    if (this.#opCount === 0) this.#onIdle?.();
  }

  // ---- the device's answer -------------------------------------------------------------------------------------------------------------

  #statusOf(result: number): number {
    if (result === 0) return 0;
    const status = statusOfDevice(result);
    if (((status >> 8) & 7) !== SCT_PATH) return status;
    this.#lost();
    return Status.NamespaceNotReady;
  }

  #statusOfError(error: NodeJS.ErrnoException): number {
    const status = statusOfErrno(error.code);
    if (status === Status.NamespaceNotReady) this.#lost();
    return status;
  }

  /** The kernel cancelled the command: the device is being reset, or it is gone. Who watches it says which. */
  #lost(): void {
    this.#options.onGone?.();
  }

  /** For who watches the device: fail everything from now on. */
  markGone(): void {
    this.#gone = true;
  }

  /** @throws NvmeofError NVMEOF_ERR_BACKEND if the device is not that large */
  async grow(blockCount: number): Promise<void> {
    assert(blockCount >= this.blockCount, `Device ${this.path} cannot shrink`);
    const found = await this.#options.identify();
    if (found.blockCount < blockCount) {
      throw new NvmeofError(
        'NVMEOF_ERR_BACKEND',
        `Device ${this.path} has ${found.blockCount} blocks, and cannot grow by itself`,
      );
    }
    this.blockCount = blockCount;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    if (this.#opCount > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    if (!this.readOnly && !this.#gone && this.volatileWriteCache) await this.#lastFlush();
    await this.#options.release();
    this.#pool.trim();
  }

  async #lastFlush(): Promise<void> {
    const call = new NvmeCall();
    call.opcode = IoOpcode.Flush;
    call.nsid = this.#nsid;
    const { ioctl } = this.#options;
    const failed = await new Promise<string | undefined>((resolve) =>
      this.#engine.nvme(this.#fd, false, call, undefined, 0, 0, ioctl, (error, result) =>
        resolve(error?.message ?? (result === 0 ? undefined : `status ${result.toString(16)}`)),
      ),
    );
    if (failed === undefined || this.#gone) return;
    await this.#options.release();
    throw new NvmeofError(
      'NVMEOF_ERR_BACKEND',
      `Device ${this.path} was closed, but its last writes may be lost: ${failed}`,
    );
  }
}

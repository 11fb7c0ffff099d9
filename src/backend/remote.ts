// @hot
/**
 * A namespace of another NVMe target as a backend, through the initiator that it is handed. Paths that are lost and come back are the initiator's
 * matter; what arrives here is the far side's own status. A longer transfer than the far controller takes is split; the pieces run together.
 */
import { Direction, IoOpcode } from '../spec/opcode.ts';
import { DNR, PathStatus, STATUS_CODE_MASK, Status } from '../spec/status.ts';
import { BufferPool } from '../util/buffer-pool.ts';
import type { Clock, Timer } from '../util/clock.ts';
import { NvmeofError } from '../util/error.ts';
import { SQE_BYTES } from '../wire/sqe.ts';
import type { AllocatedRuns, BlockBackend, BlockIo, ByteRun } from './block-backend.ts';

/** @param status 15-bit NVMe status, or one of the host's own above that */
export type RemoteDone = (status: number, result: number, context: unknown) => void;

/** The initiator's data path, as far as a backend uses it: `onDone` comes exactly once per command, in the same turn or later. */
export interface RemoteIo {
  submitRead(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: RemoteDone,
    context: unknown,
  ): void;
  submitWrite(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: RemoteDone,
    context: unknown,
    fua?: boolean,
  ): void;
  submitFlush(nsid: number, onDone: RemoteDone, context: unknown): void;
  /** Any other command. The SQE and the buffer stay as they are until `onDone`. */
  submitRaw(
    sqe: DataView,
    direction: number,
    buffer: Uint8Array,
    onDone: RemoteDone,
    context: unknown,
    shortAllowed: boolean,
    replayable: boolean,
  ): void;
}

/** What the far side says of the namespace. */
export interface RemoteGeometry {
  readonly blockSize: number;
  readonly blockCount: number;
  /** Most blocks of one command that moves data. */
  readonly transferBlocksMax: number;
  readonly volatileWriteCache: boolean;
  readonly readsZeroAfterDeallocate: boolean;
  /** Write protected there. */
  readonly readOnly: boolean;
  readonly atomicBytes?: number | undefined;
  /** Most blocks of one Write Zeroes; 0: the command is not supported. */
  readonly writeZeroesBlocksMax: number;
  /** Write Zeroes may deallocate. */
  readonly deacSupported: boolean;
  /** Most blocks of one range of Dataset Management; 0: the command is not supported. */
  readonly deallocateBlocksMax: number;
  /** Blocks by which the far side knows what is allocated; 0 if it does not tell. */
  readonly allocationBlocks: number;
}

export interface RemoteBackendOptions {
  readonly io: RemoteIo;
  /** At the far side. */
  readonly nsid: number;
  readonly geometry: RemoteGeometry;
  readonly readOnly?: boolean | undefined;
  /** Which blocks from `slba` up to `endLba` are allocated: the first runs of them, and where the far side's answer ends. */
  readonly allocation?: ((slba: number, endLba: number) => Promise<RemoteAllocation>) | undefined;
  /** Asks the far side for its size in blocks. */
  readonly currentBlockCount: () => Promise<number>;
  /** Ends the connections; commands that are still under way fail then. */
  readonly release: () => Promise<void>;
  readonly clock: Clock;
  /** How long `close` waits for commands under way: no path may ever come back. Default 10 s. */
  readonly closeTimeoutMs?: number | undefined;
}

/** Part of the answer to a question about allocation. */
export interface RemoteAllocation {
  readonly runs: readonly { readonly slba: number; readonly blockCount: number }[];
  /** Nothing more is allocated behind the last run. */
  readonly complete: boolean;
}

const CDW12_FUA = 0x4000_0000;
const CDW12_DEAC = 0x0200_0000;
const DSM_DEALLOCATE = 4;
const DSM_RANGE_BYTES = 16;
const HIGH = 0x1_0000_0000;
/** Pieces of one operation that run at once. */
const PIECES_MAX = 8;
const KEPT_MAX = 2048;
const CLOSE_TIMEOUT_MS = 10_000;
const ZERO_BYTES = 128 << 10;
const ZEROES = new Uint8Array(new ArrayBuffer(ZERO_BYTES));
const NO_DATA = new Uint8Array(0);
/** Status code type 3: how the namespace is reached, not the namespace. */
const SCT_PATH = 3;

const Kind = { Read: 0, Write: 1, Flush: 2, Zero: 3, Deallocate: 4 } as const;

/** One operation: a BlockIo and what is left of it. */
class RemoteOp {
  io: BlockIo | undefined = undefined;
  kind: number = Kind.Read;
  /** Bits of CDW12. */
  flags = 0;
  /** What no piece has taken yet, in blocks. */
  lba = 0;
  left = 0;
  /** Byte of the data where the next piece begins. */
  dataOffset = 0;
  data: Uint8Array = NO_DATA;
  /** `data` is ours: it goes back to the pool. */
  pooled: Uint8Array | undefined = undefined;
  status = 0;
  running = 0;
  /** Pieces are being submitted: what completes meanwhile is looked at afterwards. */
  submitting = false;
}

/** One command to the far side that the initiator does not build itself. */
class Piece {
  op: RemoteOp | undefined = undefined;
  readonly sqe: DataView = new DataView(new ArrayBuffer(SQE_BYTES));
  /** Range of Dataset Management. */
  readonly range: Uint8Array = new Uint8Array(new ArrayBuffer(DSM_RANGE_BYTES));
  readonly rangeView: DataView = new DataView(this.range.buffer);
}

/** @public */
export class RemoteBackend implements BlockBackend {
  readonly kind = 'remote';
  readonly blockSize: number;
  blockCount: number;
  readonly volatileWriteCache: boolean;
  readonly readsZeroAfterDeallocate: boolean;
  readonly readOnly: boolean;
  readonly atomicBytes?: number;
  readonly allocationUnitBytes: number;
  readonly readAllocated?: BlockBackend['readAllocated'];
  readonly #options: RemoteBackendOptions;
  readonly #io: RemoteIo;
  readonly #nsid: number;
  readonly #geometry: RemoteGeometry;
  readonly #pool = new BufferPool(16 << 20);
  readonly #freeOps: RemoteOp[] = [];
  readonly #freePieces: Piece[] = [];
  readonly #opDone: RemoteDone;
  readonly #pieceDone: RemoteDone;
  #opCount = 0;
  #closing: Promise<void> | undefined = undefined;
  #onIdle: (() => void) | undefined = undefined;

  constructor(options: RemoteBackendOptions) {
    const { geometry } = options;
    this.#options = options;
    this.#io = options.io;
    this.#nsid = options.nsid;
    this.#geometry = geometry;
    this.blockSize = geometry.blockSize;
    this.blockCount = geometry.blockCount;
    this.volatileWriteCache = geometry.volatileWriteCache;
    this.readsZeroAfterDeallocate = geometry.readsZeroAfterDeallocate;
    this.readOnly = options.readOnly === true || geometry.readOnly;
    this.allocationUnitBytes = geometry.allocationBlocks * geometry.blockSize;
    if (geometry.atomicBytes !== undefined) this.atomicBytes = geometry.atomicBytes;
    const { allocation } = options;
    if (allocation !== undefined && geometry.allocationBlocks > 0)
      this.readAllocated = (from, end, runsMax) => this.#allocated(allocation, from, end, runsMax);
    this.#opDone = (status, _result, context) => this.#completed(context as RemoteOp, status);
    this.#pieceDone = (status, _result, context) => {
      const piece = context as Piece;
      const op = piece.op!;
      piece.op = undefined;
      if (this.#freePieces.length < KEPT_MAX) this.#freePieces.push(piece);
      this.#completed(op, status);
    };
  }

  read(io: BlockIo): void {
    const op = this.#take(io, Kind.Read);
    if (op === undefined) return;
    if (io.fua) op.flags = CDW12_FUA;
    op.data = io.provide();
    this.#start(op);
  }

  write(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Write);
    if (op === undefined) return;
    if (io.fua) op.flags = CDW12_FUA;
    if (io.segmentCount === 1) {
      io.retain();
      op.data = io.segments[0]!;
    } else {
      this.#gather(op);
    }
    this.#start(op);
  }

  flush(io: BlockIo): void {
    const op = this.#take(io, Kind.Flush);
    if (op === undefined) return;
    op.left = 0;
    op.running = 1;
    this.#io.submitFlush(this.#nsid, this.#opDone, op);
  }

  writeZeroes(io: BlockIo, mayDeallocate: boolean): void {
    const op = this.#takeChange(io, Kind.Zero);
    if (op === undefined) return;
    op.flags = (io.fua ? CDW12_FUA : 0) | (mayDeallocate && this.#geometry.deacSupported ? CDW12_DEAC : 0);
    this.#start(op);
  }

  deallocate(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Deallocate);
    if (op === undefined) return;
    // advisory: a far side that cannot, keeps the blocks as they are
    if (this.#geometry.deallocateBlocksMax === 0) op.left = 0;
    this.#start(op);
  }

  // ---- operations ----------------------------------------------------------------------------------------------------------------------

  #take(io: BlockIo, kind: number): RemoteOp | undefined {
    if (this.#closing !== undefined) {
      io.complete(Status.NamespaceNotReady);
      return undefined;
    }
    this.#opCount++;
    const op = this.#freeOps.pop() ?? new RemoteOp();
    op.io = io;
    op.kind = kind;
    op.flags = 0;
    op.lba = io.offsetBytes / this.blockSize;
    op.left = io.lengthBytes / this.blockSize;
    op.dataOffset = 0;
    op.status = 0;
    op.running = 0;
    return op;
  }

  #takeChange(io: BlockIo, kind: number): RemoteOp | undefined {
    if (this.readOnly) {
      io.complete(Status.NamespaceWriteProtected);
      return undefined;
    }
    return this.#take(io, kind);
  }

  /** One command carries one piece of memory. */
  #gather(op: RemoteOp): void {
    const { segments, segmentCount, lengthBytes } = op.io!;
    const buffer = this.#pool.take(lengthBytes);
    for (let i = 0, at = 0; i < segmentCount; i++) {
      buffer.set(segments[i]!, at);
      at += segments[i]!.length;
    }
    op.pooled = buffer;
    op.data = buffer.length === lengthBytes ? buffer : buffer.subarray(0, lengthBytes);
  }

  /** Sends as many pieces as may run at once; ends the operation if none is left. */
  #start(op: RemoteOp): void {
    op.submitting = true;
    while (op.left > 0 && op.running < PIECES_MAX) this.#next(op);
    op.submitting = false;
    if (op.running === 0) this.#finish(op);
  }

  #next(op: RemoteOp): void {
    const geometry = this.#geometry;
    const { lba } = op;
    op.running++;
    switch (op.kind) {
      case Kind.Deallocate: {
        const blocks = Math.min(op.left, geometry.deallocateBlocksMax);
        const piece = this.#piece(op, IoOpcode.DatasetManagement, 0, DSM_DEALLOCATE, 0);
        piece.rangeView.setUint32(4, blocks, true);
        piece.rangeView.setUint32(8, lba % HIGH, true);
        piece.rangeView.setUint32(12, Math.floor(lba / HIGH), true);
        this.#advance(op, blocks);
        this.#send(piece, Direction.HostToController, piece.range);
        return;
      }
      case Kind.Zero: {
        if (geometry.writeZeroesBlocksMax > 0) {
          const blocks = Math.min(op.left, geometry.writeZeroesBlocksMax);
          const piece = this.#blocks(op, IoOpcode.WriteZeroes, blocks);
          this.#advance(op, blocks);
          this.#send(piece, Direction.None, NO_DATA);
          return;
        }
        const blocks = Math.min(op.left, geometry.transferBlocksMax, Math.max(1, ZERO_BYTES / this.blockSize));
        const zeroes = ZEROES.subarray(0, blocks * this.blockSize);
        this.#advance(op, blocks);
        this.#io.submitWrite(this.#nsid, lba, blocks, zeroes, this.#opDone, op, (op.flags & CDW12_FUA) !== 0);
        return;
      }
      default:
        this.#transfer(op, Math.min(op.left, geometry.transferBlocksMax));
    }
  }

  #transfer(op: RemoteOp, blocks: number): void {
    const { lba, dataOffset } = op;
    const bytes = blocks * this.blockSize;
    const data = bytes === op.data.length ? op.data : op.data.subarray(dataOffset, dataOffset + bytes);
    const fua = (op.flags & CDW12_FUA) !== 0;
    if (op.kind === Kind.Write) {
      this.#advance(op, blocks);
      this.#io.submitWrite(this.#nsid, lba, blocks, data, this.#opDone, op, fua);
    } else if (fua) {
      const piece = this.#blocks(op, IoOpcode.Read, blocks);
      this.#advance(op, blocks);
      this.#send(piece, Direction.ControllerToHost, data);
    } else {
      this.#advance(op, blocks);
      this.#io.submitRead(this.#nsid, lba, blocks, data, this.#opDone, op);
    }
  }

  #advance(op: RemoteOp, blocks: number): void {
    op.lba += blocks;
    op.left -= blocks;
    op.dataOffset += blocks * this.blockSize;
  }

  #blocks(op: RemoteOp, opcode: number, blocks: number): Piece {
    return this.#piece(op, opcode, op.lba % HIGH, Math.floor(op.lba / HIGH), op.flags | (blocks - 1));
  }

  #piece(op: RemoteOp, opcode: number, cdw10: number, cdw11: number, cdw12: number): Piece {
    const piece = this.#freePieces.pop() ?? new Piece();
    piece.op = op;
    const { sqe } = piece;
    sqe.setUint32(0, opcode, true);
    sqe.setUint32(4, this.#nsid, true);
    sqe.setUint32(40, cdw10, true);
    sqe.setUint32(44, cdw11, true);
    sqe.setUint32(48, cdw12, true);
    return piece;
  }

  #send(piece: Piece, direction: number, data: Uint8Array): void {
    this.#io.submitRaw(piece.sqe, direction, data, this.#pieceDone, piece, false, true);
  }

  #completed(op: RemoteOp, status: number): void {
    op.running--;
    if (status !== 0) {
      if (op.status === 0) op.status = statusHere(status);
      op.left = 0;
    }
    if (op.submitting) return;
    if (op.left > 0) this.#start(op);
    else if (op.running === 0) this.#finish(op);
  }

  #finish(op: RemoteOp): void {
    const io = op.io!;
    const { status } = op;
    op.io = undefined;
    op.data = NO_DATA;
    if (op.pooled !== undefined) {
      this.#pool.give(op.pooled);
      op.pooled = undefined;
    }
    if (this.#freeOps.length < KEPT_MAX) this.#freeOps.push(op);
    this.#opCount--;
    io.complete(status);
    if (this.#opCount === 0) this.#onIdle?.();
  }

  // ---- what is allocated: the far side is asked ----------------------------------------------------------------------------------------

  async #allocated(
    ask: NonNullable<RemoteBackendOptions['allocation']>,
    fromBytes: number,
    endBytes: number,
    runsMax: number,
  ): Promise<AllocatedRuns> {
    const { blockSize } = this;
    const endLba = endBytes / blockSize;
    const runs: ByteRun[] = [];
    for (let slba = fromBytes / blockSize; slba < endLba; ) {
      const answer = await ask(slba, endLba);
      for (const run of answer.runs) {
        const start = Math.max(run.slba, slba);
        const end = Math.min(run.slba + run.blockCount, endLba);
        if (start >= end) continue;
        if (runs.length === runsMax) return { runs, complete: false };
        runs.push({ startBytes: start * blockSize, endBytes: end * blockSize });
        slba = end;
      }
      if (answer.complete) break;
      // it says that there is more, and not where
      if (answer.runs.length === 0) {
        runs.push({ startBytes: slba * blockSize, endBytes });
        break;
      }
    }
    return { runs, complete: true };
  }

  allocatedBytes(): number | undefined {
    return undefined;
  }

  /** The far side has another size. */
  resized(blockCount: number): void {
    this.blockCount = blockCount;
  }

  /** @throws NvmeofError NVMEOF_ERR_BACKEND if the far namespace is not that large */
  async grow(blockCount: number): Promise<void> {
    const found = await this.#options.currentBlockCount();
    if (found < blockCount) {
      throw new NvmeofError(
        'NVMEOF_ERR_BACKEND',
        `Remote namespace ${this.#nsid} has ${found} blocks, and grows only at its own target`,
      );
    }
    this.blockCount = blockCount;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { clock, closeTimeoutMs = CLOSE_TIMEOUT_MS } = this.#options;
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
      if (this.#opCount === 0) resolve();
    });
    let timer: Timer | undefined;
    const late = new Promise<void>((resolve) => {
      timer = clock.setTimer(resolve, closeTimeoutMs);
    });
    await Promise.race([idle, late]);
    timer?.cancel();
    await this.#options.release();
    await idle;
    this.#pool.trim();
  }
}

/**
 * What the host here gets for a status from there: the same, but for those that say how *our* initiator reached the far side. More, the retry
 * delay and ANA states refer to logs and settings of the far controller.
 */
function statusHere(status: number): number {
  const code = status & STATUS_CODE_MASK;
  if (status > 0x7fff || code >> 8 === SCT_PATH) return PathStatus.ControllerPathingError;
  return (status & DNR) | code;
}

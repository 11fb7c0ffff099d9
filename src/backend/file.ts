// @hot
/**
 * File backend: blocks in a sparse regular file or on a block device, through the native I/O engine or node:fs. One FileOp per operation in
 * flight, reused, with its callback bound once; what garbage remains is node:fs's own. A write is complete when the page cache has it, durable after flush or FUA (fdatasync).
 */
import fs from 'node:fs';
import { promisify } from 'node:util';
import { DNR, MediaStatus, Status } from '../spec/status.ts';
import { assert } from '../util/assert.ts';
import { NvmeofError } from '../util/error.ts';
import type { BackendHealth, BlockBackend, BlockIo, ByteRun } from './block-backend.ts';
import { FileHealth } from './file-health.ts';
import type { HolePunch } from './hole-punch.ts';

export type Done = (error: NodeJS.ErrnoException | null, bytes: number) => void;

/** The system calls of the data path, passed in so that tests can fail, shorten and delay them. node:fs fits. */
export interface FileCalls {
  read(fd: number, buffer: Uint8Array, offset: number, length: number, position: number, done: Done): void;
  /** @param durable on the disk when done; only where `durableWrites` */
  write(
    fd: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    done: Done,
    durable?: boolean,
  ): void;
  writev(fd: number, buffers: readonly Uint8Array[], position: number, done: Done, durable?: boolean): void;
  fdatasync(fd: number, done: (error: NodeJS.ErrnoException | null) => void): void;
  /** A single write can be durable without a sync of the whole file (RWF_DSYNC). */
  readonly durableWrites?: boolean;
  /** Segments that one `writev` takes; default 256. */
  readonly segmentsMax?: number;
}

export interface FileBackendOptions {
  /** Open for reading and, unless `readOnly`, writing; this backend closes it. */
  readonly fd: number;
  readonly path: string;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly readOnly: boolean;
  /** Absent: deallocate keeps the data, and zeroes are written. */
  readonly holePunch?: HolePunch | undefined;
  /** System calls at once (the others wait in order); the thread pool behind them is shared. */
  readonly inFlightMax?: number | undefined;
  readonly calls?: FileCalls | undefined;
  /** Default: what the file has on the disk. */
  readonly allocatedBytes?: (() => number | undefined) | undefined;
  /** Where data are, in whole units of that many bytes. Absent: nobody knows. */
  readonly nextAllocated?:
    | ((unitBytes: number, fromBytes: number, endBytes: number) => ByteRun | undefined)
    | undefined;
  /** Its sectors, or direct I/O, allow no other block size than this. */
  readonly fixedBlockSize?: boolean | undefined;
  /** A block device's bytes now; absent: a file, which grows when told. */
  readonly deviceBytes?: (() => number) | undefined;
  /** Runs before the descriptor is closed. */
  readonly release?: (() => Promise<void>) | undefined;
  /** Told once, when data that was complete may be lost: the first failed sync. */
  readonly onFault?: ((error: Error) => void) | undefined;
}

const IN_FLIGHT_MAX = 64;
/** File systems tell holes by this or less. */
const PAGE_BYTES = 4096;
/** Segments of one writev. */
const IOV_MAX = 256;
/** Zeroes are written in pieces of this size, so that one command does not hold a thread for long. */
const ZERO_BYTES = 1 << 20;
const OPS_KEPT_MAX = 1024;

const ZEROES = new Uint8Array(new ArrayBuffer(ZERO_BYTES));

const Kind = { Read: 0, Write: 1, Zero: 2, Punch: 3, Flush: 4 } as const;

class FileOp {
  io: BlockIo | undefined = undefined;
  kind: number = Kind.Read;
  /** What remains to be moved. */
  position = 0;
  left = 0;
  /** Read: the buffer; its part already filled is `segmentOffset`. */
  buffer: Uint8Array | undefined = undefined;
  segment = 0;
  segmentOffset = 0;
  next: FileOp | undefined = undefined;
  readonly iov: Uint8Array[] = [];
  readonly onMoved: Done;
  readonly onPunched: (ok: boolean) => void;

  constructor(
    moved: (op: FileOp, error: Error | null, bytes: number) => void,
    punched: (op: FileOp, ok: boolean) => void,
  ) {
    this.onMoved = (error, bytes) => moved(this, error, bytes);
    this.onPunched = (ok) => punched(this, ok);
  }
}

/** @public */
export class FileBackend implements BlockBackend {
  readonly kind = 'file';
  readonly path: string;
  blockSize: number;
  blockCount: number;
  #sizeBytes: number;
  readonly volatileWriteCache = true;
  readonly readsZeroAfterDeallocate: boolean;
  readonly readOnly: boolean;
  readonly #fd: number;
  readonly #calls: FileCalls;
  readonly #holePunch: HolePunch | undefined;
  readonly #inFlightMax: number;
  readonly #onFault: ((error: Error) => void) | undefined;
  readonly #durableWrites: boolean;
  readonly #allocatedBytes: (() => number | undefined) | undefined;
  readonly #deviceBytes: (() => number) | undefined;
  readonly #release: (() => Promise<void>) | undefined;
  readonly nextAllocated?: NonNullable<BlockBackend['nextAllocated']>;
  readonly setBlockSize: BlockBackend['setBlockSize'];
  readonly #health = new FileHealth();
  readonly #free: FileOp[] = [];
  /** Operations taken and not finished, in whatever state. */
  #opCount = 0;
  /** System calls running now; operations beyond the bound wait in a list. */
  #inFlight = 0;
  #firstWaiting: FileOp | undefined = undefined;
  #lastWaiting: FileOp | undefined = undefined;
  /**
   * Changes completed, and how many of them are known durable. They start unequal: a target that was killed may have left completed writes
   * in the page cache, and the host's next flush covers those.
   */
  #changes = 1;
  #durableChanges = 0;
  /** The sync that runs serves `#syncing`. Whoever comes later needs the next one if anything changed since this one began. */
  #syncRunning = false;
  #syncing: FileOp[] = [];
  #syncWaiting: FileOp[] = [];
  #syncChanges = 0;
  #syncError: Error | undefined = undefined;
  #closing: Promise<void> | undefined = undefined;
  #onIdle: (() => void) | undefined = undefined;
  readonly #onSynced: (error: Error | null) => void;
  readonly #moved: (op: FileOp, error: Error | null, bytes: number) => void;
  readonly #punched: (op: FileOp, ok: boolean) => void;

  constructor(options: FileBackendOptions) {
    this.path = options.path;
    this.blockSize = options.blockSize;
    this.blockCount = options.blockCount;
    this.#sizeBytes = options.blockSize * options.blockCount;
    this.readOnly = options.readOnly;
    this.#fd = options.fd;
    this.#calls = options.calls ?? fs;
    this.#holePunch = options.holePunch;
    this.readsZeroAfterDeallocate = options.holePunch?.readsZero === true;
    this.#durableWrites = this.#calls.durableWrites === true;
    this.#allocatedBytes = options.allocatedBytes;
    const { nextAllocated } = options;
    if (nextAllocated !== undefined) {
      this.nextAllocated = (from, end) => nextAllocated(this.allocationUnitBytes, from, end);
    }
    if (options.fixedBlockSize !== true) {
      this.setBlockSize = (blockSize) => {
        this.blockSize = blockSize;
        this.blockCount = Math.floor(this.#sizeBytes / blockSize);
      };
    }
    this.#deviceBytes = options.deviceBytes;
    this.#release = options.release;
    this.#inFlightMax = options.inFlightMax ?? IN_FLIGHT_MAX;
    this.#onFault = options.onFault;
    this.#onSynced = (error) => this.#synced(error);
    this.#moved = (op, error, bytes) => this.#transferred(op, error, bytes);
    this.#punched = (op, ok) => this.#holeMade(op, ok);
  }

  get allocationUnitBytes(): number {
    return this.nextAllocated === undefined ? 0 : Math.max(this.blockSize, PAGE_BYTES);
  }

  /** What the file takes on the disk. */
  allocatedBytes(): number | undefined {
    if (this.#allocatedBytes !== undefined) return this.#allocatedBytes();
    return this.#closing === undefined ? fs.fstatSync(this.#fd).blocks * 512 : 0;
  }

  health(): BackendHealth {
    return this.#health.now;
  }

  watchHealth(listener: () => void): void {
    this.#health.watch(listener);
  }

  read(io: BlockIo): void {
    const op = this.#take(io, Kind.Read);
    if (op === undefined) return;
    if (io.fua) this.#sync(op);
    else this.#enqueue(op);
  }

  write(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Write);
    if (op === undefined) return;
    io.retain();
    this.#enqueue(op);
  }

  flush(io: BlockIo): void {
    const op = this.#take(io, Kind.Flush);
    if (op !== undefined) this.#sync(op);
  }

  writeZeroes(io: BlockIo, mayDeallocate: boolean): void {
    const op = this.#takeChange(io, Kind.Zero);
    if (op === undefined) return;
    const punch = this.#holePunch;
    if (punch === undefined) this.#enqueue(op);
    else if (mayDeallocate && punch.readsZero && io.lengthBytes >= punch.bytesMin)
      punch.punch(io.offsetBytes, io.lengthBytes, op.onPunched);
    else if (punch.zero !== undefined) punch.zero(io.offsetBytes, io.lengthBytes, op.onPunched);
    else this.#enqueue(op);
  }

  deallocate(io: BlockIo): void {
    const op = this.#takeChange(io, Kind.Punch);
    if (op === undefined) return;
    // advisory: without holes, the blocks keep their content
    if (this.#holePunch === undefined) this.#finish(op, Status.Success);
    else this.#holePunch.punch(io.offsetBytes, io.lengthBytes, op.onPunched);
  }

  // ---- operations ----------------------------------------------------------------------------------------------------------------

  #take(io: BlockIo, kind: number): FileOp | undefined {
    if (this.#closing !== undefined) {
      io.complete(Status.NamespaceNotReady);
      return undefined;
    }
    this.#opCount++;
    const op = this.#free.pop() ?? new FileOp(this.#moved, this.#punched);
    op.io = io;
    op.kind = kind;
    op.position = io.offsetBytes;
    op.left = io.lengthBytes;
    op.segment = 0;
    op.segmentOffset = 0;
    return op;
  }

  #takeChange(io: BlockIo, kind: number): FileOp | undefined {
    if (this.readOnly) {
      io.complete(Status.NamespaceWriteProtected);
      return undefined;
    }
    return this.#take(io, kind);
  }

  #finish(op: FileOp, status: number): void {
    const io = op.io!;
    op.io = undefined;
    op.buffer = undefined;
    if (op.iov.length > 0) op.iov.length = 0; // even to set what it is takes a while
    if (this.#free.length < OPS_KEPT_MAX) this.#free.push(op);
    this.#opCount--;
    if (status !== 0) this.#health.failed(status);
    io.complete(status);
    if (this.#opCount === 0) this.#onIdle?.();
  }

  #enqueue(op: FileOp): void {
    if (this.#inFlight < this.#inFlightMax) {
      this.#start(op);
      return;
    }
    if (this.#lastWaiting === undefined) this.#firstWaiting = op;
    else this.#lastWaiting.next = op;
    this.#lastWaiting = op;
  }

  #start(op: FileOp): void {
    this.#inFlight++;
    if (op.kind === Kind.Read) op.buffer = op.io!.provide();
    this.#transfer(op);
  }

  /** The operation needs no more system calls of the bounded kind. */
  #stop(): void {
    this.#inFlight--;
    const op = this.#firstWaiting;
    if (op === undefined) return;
    this.#firstWaiting = op.next;
    if (op.next === undefined) this.#lastWaiting = undefined;
    op.next = undefined;
    this.#start(op);
  }

  #transfer(op: FileOp): void {
    if (op.kind === Kind.Read) {
      this.#calls.read(this.#fd, op.buffer!, op.segmentOffset, op.left, op.position, op.onMoved);
    } else if (op.kind === Kind.Zero) {
      this.#calls.write(this.#fd, ZEROES, 0, Math.min(op.left, ZERO_BYTES), op.position, op.onMoved, this.#durable(op));
    } else {
      this.#writeSegments(op);
    }
  }

  #writeSegments(op: FileOp): void {
    const { segments, segmentCount } = op.io!;
    const first = segments[op.segment]!;
    if (op.segment + 1 === segmentCount) {
      this.#calls.write(this.#fd, first, op.segmentOffset, op.left, op.position, op.onMoved, this.#durable(op));
      return;
    }
    const count = Math.min(segmentCount - op.segment, this.#calls.segmentsMax ?? IOV_MAX);
    op.iov.length = count;
    op.iov[0] = op.segmentOffset === 0 ? first : first.subarray(op.segmentOffset);
    for (let i = 1; i < count; i++) op.iov[i] = segments[op.segment + i]!;
    this.#calls.writev(this.#fd, op.iov, op.position, op.onMoved, this.#durable(op));
  }

  #durable(op: FileOp): boolean {
    return this.#durableWrites && op.io!.fua;
  }

  #transferred(op: FileOp, error: NodeJS.ErrnoException | null, bytes: number): void {
    // no progress: the file was cut short under us (read), or a call that never ends (write)
    if (error !== null || bytes <= 0) {
      // what arrived before the error is a change, too
      if (op.kind !== Kind.Read) this.#changes++;
      this.#stop();
      this.#finish(op, statusOf(error, op.kind));
      return;
    }
    op.left -= bytes;
    op.position += bytes;
    if (op.left > 0) {
      this.#advance(op, bytes);
      this.#transfer(op);
      return;
    }
    if (op.kind !== Kind.Read) this.#changes++;
    this.#stop();
    if (op.kind !== Kind.Read && op.io!.fua && !this.#durableWrites) this.#sync(op);
    else if (this.#syncError !== undefined && op.kind !== Kind.Read && op.io!.fua)
      this.#finish(op, statusOf(this.#syncError, op.kind));
    else this.#finish(op, Status.Success);
  }

  #advance(op: FileOp, bytes: number): void {
    op.segmentOffset += bytes;
    if (op.kind !== Kind.Write) return;
    const { segments } = op.io!;
    while (op.segmentOffset >= segments[op.segment]!.length) {
      op.segmentOffset -= segments[op.segment]!.length;
      op.segment++;
    }
  }

  #holeMade(op: FileOp, ok: boolean): void {
    this.#changes++;
    if (ok && op.io!.fua) this.#sync(op);
    else if (ok || op.kind === Kind.Punch) this.#finish(op, Status.Success);
    else this.#enqueue(op);
  }

  // ---- durability ----------------------------------------------------------------------------------------------------------------

  /** Goes on with `op` when every change completed until now is durable. */
  #sync(op: FileOp): void {
    if (this.#syncError !== undefined) {
      this.#finish(op, statusOf(this.#syncError, op.kind));
    } else if (this.#durableChanges === this.#changes) {
      this.#afterSync(op);
    } else {
      this.#syncWaiting.push(op);
      if (!this.#syncRunning) this.#startSync();
    }
  }

  #startSync(): void {
    this.#syncing = this.#syncWaiting;
    this.#syncWaiting = [];
    this.#syncRunning = true;
    this.#syncChanges = this.#changes;
    this.#calls.fdatasync(this.#fd, this.#onSynced);
  }

  #synced(error: Error | null): void {
    this.#syncRunning = false;
    let served = this.#syncing;
    this.#syncing = [];
    if (error !== null) {
      // The kernel reports a failed write-back once and may have dropped the data: no later sync can make it durable, so none succeeds.
      this.#syncError = error;
      this.#onFault?.(error);
      served = served.concat(this.#syncWaiting);
      this.#syncWaiting = [];
      for (const op of served) this.#finish(op, statusOf(error, op.kind));
      return;
    }
    this.#durableChanges = this.#syncChanges;
    if (this.#durableChanges === this.#changes) {
      served = served.concat(this.#syncWaiting);
      this.#syncWaiting = [];
    } else if (this.#syncWaiting.length > 0) {
      this.#startSync();
    }
    for (const op of served) this.#afterSync(op);
  }

  #afterSync(op: FileOp): void {
    if (op.kind === Kind.Read) this.#enqueue(op);
    else this.#finish(op, Status.Success);
  }

  /** @throws NvmeofError NVMEOF_ERR_BACKEND if the file system has no room for it; the old size stands then */
  async grow(blockCount: number): Promise<void> {
    assert(blockCount >= this.blockCount, `File ${this.path} cannot shrink by growing`);
    await this.#resize(blockCount, 'grow');
  }

  /** @throws NvmeofError NVMEOF_ERR_BACKEND; the old size stands then */
  async shrink(blockCount: number): Promise<void> {
    assert(blockCount > 0 && blockCount <= this.blockCount, `File ${this.path} cannot grow by shrinking`);
    await this.#resize(blockCount, 'shrink');
  }

  async #resize(blockCount: number, what: string): Promise<void> {
    const there = this.#deviceBytes?.();
    if (there !== undefined) {
      if (there < blockCount * this.blockSize) {
        throw new NvmeofError(
          'NVMEOF_ERR_BACKEND',
          `Device ${this.path} has ${there} bytes, and cannot grow by itself`,
        );
      }
      this.blockCount = blockCount;
      this.#sizeBytes = blockCount * this.blockSize;
      return;
    }
    try {
      await promisify(fs.ftruncate)(this.#fd, blockCount * this.blockSize);
      await promisify(fs.fsync)(this.#fd);
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new NvmeofError('NVMEOF_ERR_BACKEND', `File ${this.path} cannot ${what}: ${reason}`, { cause });
    }
    this.blockCount = blockCount;
    this.#sizeBytes = blockCount * this.blockSize;
  }

  // ---- end -----------------------------------------------------------------------------------------------------------------------

  /** @throws NvmeofError NVMEOF_ERR_BACKEND if the last sync or the close failed; the file is closed then, too */
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
    await this.#holePunch?.close();
    let error: Error | null = this.#syncError ?? null;
    if (!this.readOnly && error === null) {
      error = await new Promise<Error | null>((resolve) => this.#calls.fdatasync(this.#fd, resolve));
    }
    await this.#release?.();
    const closeError = await new Promise<Error | null>((resolve) => fs.close(this.#fd, (e) => resolve(e ?? null)));
    const cause = error ?? closeError;
    if (cause !== null) {
      throw new NvmeofError(
        'NVMEOF_ERR_BACKEND',
        `File ${this.path} was closed, but its last writes may be lost: ${cause.message}`,
        {
          cause,
        },
      );
    }
  }
}

function statusOf(error: NodeJS.ErrnoException | null, kind: number): number {
  switch (error?.code) {
    case 'ENODEV':
    case 'ENXIO':
    case 'ENOMEDIUM':
      return Status.NamespaceNotReady; // the device was taken away
    case 'ENOMEM':
    case 'EAGAIN':
      return Status.InternalError; // this machine is short of something: the host may try again
  }
  if (kind === Kind.Read) return MediaStatus.UnrecoveredReadError;
  switch (error?.code) {
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return Status.CapacityExceeded | DNR;
    case 'EROFS':
      return Status.NamespaceWriteProtected;
    default:
      return MediaStatus.WriteFault;
  }
}

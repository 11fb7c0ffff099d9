// @hot
/**
 * A namespace: identity, geometry, and the one way to its blocks. Every change of user data, by whatever command, passes `#change`, after the
 * access gate and before the backend is told; every read of a command passes `#read`.
 */
import type { BlockBackend, BlockIo, DeviceCopy } from '../backend/block-backend.ts';
import type { UserDataLog } from '../migration/user-data-log.ts';
import { MediaStatus, Status } from '../spec/status.ts';
import type { Clock } from '../util/clock.ts';
import { Access, conflictOf } from './access.ts';
import { ANA_GROUP_DEFAULT, checkAnagrpid } from './ana-group.ts';
import { Attachments } from './attachments.ts';
import type { Controller } from './controller.ts';
import { Fence, isManager } from './fence.ts';
import { ChangedBlocks } from './migration/changed-blocks.ts';
import { type GateEntry, GateState, RangeGate } from './range-gate.ts';
import type { Request } from './request.ts';
import type { Reservations } from './reservations.ts';
import { UncorrectableBlocks, type UncorrectableKeeper } from './uncorrectable.ts';
import { WriteLimit } from './write-limit.ts';

/** @public */
export interface NamespaceOptions {
  /** 1 to 1024 unless the subsystem says more. */
  readonly nsid: number;
  readonly backend: BlockBackend;
  /** 8-4-4-4-12 hex digits; made from subsystem and NSID if absent. */
  readonly uuid?: string | undefined;
  /** 32 hex digits. */
  readonly nguid?: string | undefined;
  /** 16 hex digits. */
  readonly eui64?: string | undefined;
  readonly readOnly?: boolean | undefined;
  /** ANA group, 1 to 128. Default 1. */
  readonly anagrpid?: number | undefined;
  /** NQNs of the hosts that see it; default: every host that the subsystem admits. */
  readonly hosts?: readonly string[] | undefined;
  /** Attached to hosts that have not said otherwise by Namespace Attachment. Default true. */
  readonly attachedByDefault?: boolean | undefined;
  /** NMIC: more than one controller may have it at a time. Default true. */
  readonly shared?: boolean | undefined;
  /** A host created it, and hosts may delete it. Default false. */
  readonly isVolume?: boolean | undefined;
  /**
   * Block sizes that Format NVM may give it, its own among them. Default: 512, 4096 and its own, if the backend can change them and keeps nothing
   * past the process; else its own.
   */
  readonly formatBlockSizes?: readonly number[] | undefined;
  /** Only managers of live migration may use it until one opens it, unless the state store knows better. Default false. */
  readonly closed?: boolean | undefined;
}

/** What is done to a range of blocks. */
export const Operation = {
  Read: 0,
  Write: 1,
  WriteZeroes: 2,
  /** Write Zeroes that may deallocate. */
  ZeroAndDeallocate: 3,
  Deallocate: 4,
  WriteUncorrectable: 5,
  /** Reads, but only whether that can be done. */
  Verify: 6,
  Compare: 7,
  Copy: 8,
} as const;

/** One operation on the namespace: a Request, or a step of a command that takes several. */
export interface NamespaceIo extends BlockIo, GateEntry {
  /** `Operation`; set by the namespace. */
  operation: number;
  /** DULBE: reading a deallocated block is an error. */
  readonly deallocatedIsError: boolean;
  /** Its connection is gone: what has not begun must not begin any more. */
  readonly abandoned: boolean;
  /** Of a Copy that the device does. */
  readonly deviceCopy?: DeviceCopy | undefined;
  /** Where its controller's changes are logged. */
  readonly changeLog: UserDataLog | undefined;
  readonly controller: Controller;
}

/** Why operations do not go straight to the backend: bits of `Namespace.#guards`. */
const Guard = {
  /** The backend goes on after the call returns, so operations that overlap are in flight together. */
  InFlight: 1,
  /** Some operation has a range for itself. */
  Exclusive: 2,
  /** Some blocks are uncorrectable. */
  Uncorrectable: 4,
  /** Some controller wants an error for deallocated blocks. */
  Deallocated: 8,
  /** Somebody follows what is changed. */
  Tracked: 16,
  /** Hosts may write so many bytes a second. */
  Limited: 32,
} as const;
/** Block sizes of LBA formats 0 and 1. */
export const LBA_FORMAT_SIZES: readonly number[] = [512, 4096];

export class Namespace {
  readonly nsid: number;
  readonly backend: BlockBackend;
  /** Format NVM changes it, while nothing is in flight. */
  blockSize: number;
  /** log2 of the block size (LBADS). */
  blockShift: number;
  /** Exact, as the size of a block is a power of two. */
  #blocksPerByte: number;
  blockCount: number;
  readonly readOnly: boolean;
  /** Feature 84h: 0 none, 1 write protect, 2 until power cycle, 3 permanent. */
  writeProtection = 0;
  readonly uuid: Uint8Array;
  readonly nguid: Uint8Array | undefined;
  readonly eui64: Uint8Array | undefined;
  /** Changes through `Subsystem.setAnaGroup`. */
  anagrpid: number;
  readonly reservations: Reservations;
  /** Who may use it at all. */
  fence: Fence = new Fence();
  readonly attachments: Attachments;
  readonly shared: boolean;
  readonly isVolume: boolean;
  /** Block size by index of the LBA format; one if it cannot be changed. */
  readonly formatBlockSizes: readonly number[];
  /** Format NVM is at work. */
  formatting = false;
  /** Reads by this backend need a buffer each. */
  readonly readNeedsBuffer: boolean;
  readonly uncorrectable: UncorrectableBlocks;
  /** Changes by any controller, while a migration follows them. */
  changes: ChangedBlocks | undefined = undefined;
  #writeLimit: WriteLimit<NamespaceIo> | undefined = undefined;
  readonly #gate = new RangeGate();
  /** 0: operations go straight to the backend. */
  #guards: number;
  #exclusiveCount = 0;
  /** Of whatever controllers. */
  #logs: readonly UserDataLog[] = [];
  // for SMART: blocks and commands since start
  readBytes = 0;
  writtenBytes = 0;
  readCommands = 0;
  writeCommands = 0;

  /** @param keeper keeps the uncorrectable blocks over a restart */
  constructor(options: NamespaceOptions, uuid: Uint8Array, reservations: Reservations, keeper?: UncorrectableKeeper) {
    this.nsid = options.nsid;
    this.backend = options.backend;
    this.blockSize = options.backend.blockSize;
    this.blockShift = 31 - Math.clz32(options.backend.blockSize);
    this.#blocksPerByte = 1 / this.blockSize;
    this.blockCount = options.backend.blockCount;
    this.readOnly = options.readOnly === true || options.backend.readOnly;
    this.uuid = uuid;
    this.reservations = reservations;
    this.nguid =
      options.nguid === undefined ? undefined : Uint8Array.from(Buffer.from(options.nguid.replaceAll('-', ''), 'hex'));
    this.eui64 =
      options.eui64 === undefined ? undefined : Uint8Array.from(Buffer.from(options.eui64.replaceAll('-', ''), 'hex'));
    this.anagrpid = checkAnagrpid(options.anagrpid ?? ANA_GROUP_DEFAULT);
    this.attachments = new Attachments({ hosts: options.hosts, byDefault: options.attachedByDefault });
    this.shared = options.shared ?? true;
    this.isVolume = options.isVolume ?? false;
    this.formatBlockSizes = options.formatBlockSizes ?? formatSizes(options.backend);
    this.readNeedsBuffer = options.backend.lendsMemory !== true;
    this.#guards = options.backend.immediate === true ? 0 : Guard.InFlight;
    this.uncorrectable = new UncorrectableBlocks(this.blockSize, keeper);
    this.#uncorrectableChanged();
  }

  /** Its blocks are there for the hosts of that controller. */
  isAttachedTo(controller: Controller): boolean {
    return this.attachments.has(controller);
  }

  /** The index of its LBA format. */
  get formatIndex(): number {
    return this.formatBlockSizes.indexOf(this.blockSize);
  }

  /** Nothing is in flight; its content is to be erased next. */
  setBlockSize(blockSize: number): void {
    if (blockSize === this.blockSize) return;
    this.backend.setBlockSize!(blockSize);
    this.blockSize = blockSize;
    this.blockShift = 31 - Math.clz32(blockSize);
    this.#blocksPerByte = 1 / blockSize;
    this.blockCount = this.backend.blockCount;
    if (!this.knowsAllocation) this.setDeallocatedGuard(false);
    if (this.changes !== undefined) this.changes = new ChangedBlocks(this.changes.manager, this);
  }

  /** Feature 84h, the configuration, or the backend keep it from changing. */
  get isWriteProtected(): boolean {
    return this.readOnly || this.writeProtection !== 0;
  }

  // ---- commands ------------------------------------------------------------------------------------------------------------------

  read(request: Request): void {
    this.countRead(request.lengthBytes);
    request.answerBytes = request.lengthBytes;
    this.#read(request);
  }

  write(request: Request): void {
    this.countWrite(request.lengthBytes);
    this.#change(request, Operation.Write);
  }

  writeZeroes(io: NamespaceIo, mayDeallocate: boolean): void {
    this.#change(io, mayDeallocate ? Operation.ZeroAndDeallocate : Operation.WriteZeroes);
  }

  deallocate(io: NamespaceIo): void {
    this.#change(io, Operation.Deallocate);
  }

  /** By the backend's own means; only where it has `verify`. */
  verify(io: NamespaceIo): void {
    if (this.#guards === 0) this.backend.verify!(io);
    else this.#enter(io, Operation.Verify);
  }

  /** By the backend's own means; only where it has `compare`. */
  compare(io: NamespaceIo): void {
    if (this.#guards === 0) this.backend.compare!(io);
    else this.#enter(io, Operation.Compare);
  }

  /** A Copy within the namespace can be the device's: it has one, and nothing is known of the blocks that the device does not know. */
  get copiesItself(): boolean {
    return this.backend.copy !== undefined && (this.#guards & ~(Guard.InFlight | Guard.Tracked)) === 0;
  }

  /** By the backend's own means; only where `copiesItself`. `io.deviceCopy` says from where. */
  copy(io: NamespaceIo): void {
    for (const { lengthBytes } of io.deviceCopy!.sources) this.countRead(lengthBytes);
    this.countWrite(io.lengthBytes);
    this.#change(io, Operation.Copy);
  }

  writeUncorrectable(io: NamespaceIo): void {
    this.#change(io, Operation.WriteUncorrectable);
  }

  flush(io: BlockIo): void {
    this.backend.flush(io);
  }

  countRead(bytes: number): void {
    this.readBytes += bytes;
    this.readCommands++;
  }

  countWrite(bytes: number): void {
    this.writtenBytes += bytes;
    this.writeCommands++;
  }

  // ---- Format and Sanitize: past the gate, while nothing is in flight -------------------------------------------------------------

  /** A write that no host asked for. */
  overwrite(io: BlockIo): void {
    this.backend.write(io);
  }

  /** Zeroes that no host asked for. */
  erase(io: BlockIo, mayDeallocate: boolean): void {
    this.backend.writeZeroes(io, mayDeallocate);
  }

  flushErased(io: BlockIo): void {
    this.backend.flush(io);
  }

  // ---- steps of commands that take several ---------------------------------------------------------------------------------------

  readStep(io: NamespaceIo): void {
    this.#read(io);
  }

  writeStep(io: NamespaceIo): void {
    this.#change(io, Operation.Write);
  }

  /**
   * Waits until nothing that overlaps `request` is in flight, and keeps everything that overlaps it waiting until it completes, or `unlock`.
   * Then calls its continuation.
   */
  lock(request: Request): void {
    this.#exclusiveCount++;
    this.#guards |= Guard.Exclusive;
    if (this.#gate.enter(request, true)) request.gateOpened();
  }

  unlock(request: Request): void {
    this.#leave(request);
  }

  /** A read by the operation that has the range locked. */
  readLocked(io: NamespaceIo): void {
    io.operation = Operation.Read;
    this.begin(io);
  }

  /** The write of the operation that has the range locked, which ends the lock. */
  writeLocked(request: Request): void {
    this.countWrite(request.lengthBytes);
    request.operation = Operation.Write;
    this.begin(request);
  }

  // ---- the way to the backend ----------------------------------------------------------------------------------------------------

  #read(io: NamespaceIo): void {
    if ((this.#guards & ~Guard.Tracked) === 0) this.backend.read(io);
    else this.#enter(io, Operation.Read);
  }

  /** Every change of user data comes through here. */
  #change(io: NamespaceIo, operation: number): void {
    if (this.#guards === 0) this.#toBackend(io, operation);
    else if (this.#guards === Guard.Tracked && operation === Operation.Write) this.#pass(io);
    else this.#enter(io, operation);
  }

  /**
   * A write that is done when the backend's call returns. Nobody can look at it in between, whoever sees its entry meanwhile has to ask this thread:
   * it is tracked first, which saves it the way through `ended`.
   */
  #pass(io: NamespaceIo): void {
    this.#changed(io, false);
    this.backend.write(io);
  }

  #toBackend(io: NamespaceIo, operation: number): void {
    switch (operation) {
      case Operation.Write:
        this.backend.write(io);
        return;
      case Operation.Read:
        this.backend.read(io);
        return;
      case Operation.Verify:
        this.backend.verify!(io);
        return;
      case Operation.Compare:
        this.backend.compare!(io);
        return;
      case Operation.Deallocate:
        this.backend.deallocate(io);
        return;
      case Operation.Copy:
        this.backend.copy!(io, io.deviceCopy!);
        return;
      case Operation.WriteUncorrectable:
        this.#markUncorrectable(io);
        return;
      default:
        this.backend.writeZeroes(io, operation === Operation.ZeroAndDeallocate);
    }
  }

  #enter(io: NamespaceIo, operation: number): void {
    io.operation = operation;
    if ((this.#guards & Guard.Limited) !== 0 && operation === Operation.Write && !this.#isWithinLimit(io)) return;
    this.#enterGate(io, operation);
  }

  #enterGate(io: NamespaceIo, operation: number): void {
    if (this.#gate.enter(io, false)) this.begin(io);
    else if (operation === Operation.Write) io.retain();
  }

  /** For operations that are inside the gate: goes on to the backend. */
  begin(io: NamespaceIo): void {
    if (io.abandoned) {
      io.complete(Status.AbortedSqDeletion);
      return;
    }
    if (!isChange(io.operation)) {
      const fault = this.readFault(io.offsetBytes, io.lengthBytes, io.deallocatedIsError);
      if (fault !== 0) {
        io.complete(fault);
        return;
      }
    }
    this.#toBackend(io, io.operation);
  }

  /** Why the range cannot be read, whatever the backend says: a status, or 0. */
  readFault(offsetBytes: number, lengthBytes: number, deallocatedIsError: boolean): number {
    if ((this.#guards & Guard.Uncorrectable) !== 0) {
      const fault = this.uncorrectable.readFault(offsetBytes, lengthBytes);
      if (fault !== 0) return fault;
    }
    return deallocatedIsError && this.backend.isAllocated?.(offsetBytes, lengthBytes) === false
      ? MediaStatus.DeallocatedBlock
      : 0;
  }

  /**
   * For `complete` of an operation that is inside the gate, before it says so to anybody.
   * @returns false if that must wait: `complete` is called again then
   */
  ended(io: NamespaceIo, status: number): boolean {
    if (status === 0 && (this.#guards & Guard.Uncorrectable) !== 0 && this.#rewrites(io.operation)) {
      if (!this.uncorrectable.clear(io)) return false;
      this.#uncorrectableChanged();
    }
    if ((this.#guards & Guard.Tracked) !== 0 && isChange(io.operation)) this.#track(io, status);
    this.#leave(io);
    return true;
  }

  /** Its effect is in place, as far as it has any, and nobody was told yet. */
  #track(io: NamespaceIo, status: number): void {
    this.#changed(io, status === 0 && this.#isDeallocated(io));
  }

  #changed(io: NamespaceIo, deallocated: boolean): void {
    const slba = io.offsetBytes * this.#blocksPerByte;
    const blocks = io.lengthBytes * this.#blocksPerByte;
    this.changes?.bitmap.mark(slba, blocks);
    io.changeLog?.changed(this.nsid, slba, blocks, deallocated);
  }

  /** The operation was to deallocate its blocks, and the backend has. */
  #isDeallocated({ operation, offsetBytes, lengthBytes }: NamespaceIo): boolean {
    if (operation !== Operation.Deallocate && operation !== Operation.ZeroAndDeallocate) return false;
    if (this.backend.nextAllocated === undefined) return false;
    return this.backend.nextAllocated(offsetBytes, offsetBytes + lengthBytes) === undefined;
  }

  /** What is followed has changed: `changes`, or the logs that are on. */
  setTracked(logs: readonly UserDataLog[]): void {
    this.#logs = logs;
    if (logs.length > 0 || this.changes !== undefined) this.#guards |= Guard.Tracked;
    else this.#guards &= ~Guard.Tracked;
  }

  /**
   * Its connection or queue is gone, and the backend may still change its blocks. What its host sends next, after a reset or over another connection,
   * must not be overtaken by that: it waits, where it overlaps.
   */
  outlives(io: NamespaceIo): void {
    if (io.gateState !== GateState.Inside || io.gateExclusive || !isChange(io.operation)) return;
    this.#exclusiveCount++;
    this.#guards |= Guard.Exclusive;
    this.#gate.claim(io);
  }

  // ---- the write limit -------------------------------------------------------------------------------------------------------------

  get writeLimit(): WriteLimit<NamespaceIo> | undefined {
    return this.#writeLimit;
  }

  /** Bytes a second that hosts may write; undefined: as many as they like. */
  limitWrites(bytesPerSecond: number | undefined, clock: Clock): void {
    const before = this.#writeLimit;
    if (bytesPerSecond !== undefined && before !== undefined) {
      before.setRate(bytesPerSecond);
      return;
    }
    this.#writeLimit =
      bytesPerSecond === undefined ? undefined : new WriteLimit(bytesPerSecond, clock, (io) => this.#hasWaited(io));
    if (bytesPerSecond === undefined) this.#guards &= ~Guard.Limited;
    else this.#guards |= Guard.Limited;
    before?.close();
  }

  #isWithinLimit(io: NamespaceIo): boolean {
    return isManager(io.controller) || this.#writeLimit!.admit(io);
  }

  /** Much may have changed since the access gate let it in. */
  #hasWaited(io: NamespaceIo): void {
    if (!io.abandoned && (io.controller.access[this.nsid]! & Access.Write) === 0) {
      io.complete(conflictOf(io.controller, this, Access.Write) ?? Status.InvalidField);
      return;
    }
    this.#enterGate(io, io.operation);
  }

  // ---- who follows changes -----------------------------------------------------------------------------------------------------------

  /** Every block may have another content (Format NVM, Sanitize): no matter by which controller. */
  allChanged(): void {
    this.changes?.bitmap.markAll();
    for (const log of this.#logs) log.changed(this.nsid, 0, this.blockCount, false);
  }

  #leave(io: NamespaceIo): void {
    if (io.gateExclusive && --this.#exclusiveCount === 0) this.#guards &= ~Guard.Exclusive;
    this.#gate.leave(io);
  }

  /** The operation gives its blocks a content again. */
  #rewrites(operation: number): boolean {
    if (operation === Operation.Deallocate) return this.backend.readsZeroAfterDeallocate;
    return isChange(operation) && operation !== Operation.WriteUncorrectable;
  }

  // ---- blocks that cannot be read ------------------------------------------------------------------------------------------------

  #markUncorrectable(io: NamespaceIo): void {
    this.uncorrectable.mark(io);
    this.#uncorrectableChanged();
  }

  #uncorrectableChanged(): void {
    if (this.uncorrectable.isEmpty) this.#guards &= ~Guard.Uncorrectable;
    else this.#guards |= Guard.Uncorrectable;
  }

  /** The content of all blocks is new (Format, Sanitize): none is uncorrectable any more. */
  async forgetUncorrectable(): Promise<void> {
    await this.uncorrectable.forget();
    this.#uncorrectableChanged();
  }

  /** The namespace has become smaller: blocks that come back there one day are new. */
  async truncateUncorrectable(): Promise<void> {
    await this.uncorrectable.truncate(this.blockCount);
    this.#uncorrectableChanged();
  }

  /** DULBE can be served: the backend knows of each block whether it is allocated. */
  get knowsAllocation(): boolean {
    return this.backend.isAllocated !== undefined;
  }

  /** @param wanted some controller has DULBE set for this namespace */
  setDeallocatedGuard(wanted: boolean): void {
    if (wanted) this.#guards |= Guard.Deallocated;
    else this.#guards &= ~Guard.Deallocated;
  }

  /** For tests: operations that wait at the gate. */
  get waitingCount(): number {
    return this.#gate.waitingCount;
  }
}

const isChange = (operation: number): boolean =>
  operation !== Operation.Read && operation !== Operation.Verify && operation !== Operation.Compare;

function formatSizes(backend: BlockBackend): readonly number[] {
  if (backend.setBlockSize === undefined || backend.isVolatile !== true) return [backend.blockSize];
  return formatsWith(backend.blockSize);
}

/** The LBA formats of a namespace that can have them all. */
export function formatsWith(blockSize: number): readonly number[] {
  return LBA_FORMAT_SIZES.includes(blockSize) ? LBA_FORMAT_SIZES : [...LBA_FORMAT_SIZES, blockSize];
}

/**
 * An NVMe controller as a PCI function: registers, admin queue, and what the core of a controller asks of a transport whose queues stand in host
 * memory. NVMe Base 2.1 section 3.1.4, PCIe Transport 1.1.
 */
import { LogPage } from '../../spec/log-page.ts';
import { Cc, Csts } from '../../spec/property.ts';
import { DNR, Status } from '../../spec/status.ts';
import type { Controller } from '../../target/controller.ts';
import type { QueuePair, QueueTransport } from '../../target/queue-pair.ts';
import type { Request } from '../../target/request.ts';
import type { Clock } from '../../util/clock.ts';
import type { NvmeControllerState } from '../../wire/cold/controller-state.ts';
import { CONFIG_BYTES, ConfigSpace } from './config-space.ts';
import { DirtyLog } from './dirty-log.ts';
import { type BarOwner, barLayout, FunctionBar } from './function-bar.ts';
import { checkAdminQueue, decodeFunctionState, encodeFunctionState, type FunctionState } from './function-state.ts';
import { ADDRESS_MAX, GuestMemory, PAGE_BYTES_MIN } from './guest-memory.ts';
import { Interrupts, MSIX_ENTRY_BYTES } from './interrupts.ts';
import type {
  CompletionQueueRequest,
  MemoryTransport,
  PointedCommand,
  SubmissionQueueRequest,
} from './memory-transport.ts';
import {
  type GuestRegion,
  type InterruptSink,
  type PciBar,
  type PciDirtyRange,
  PciError,
  type PciFunction,
} from './pci-function.ts';
import { QueueSet, type QueueSetOwner } from './queue-set.ts';
import { checkQueues, loadQueues, saveQueues } from './queue-state.ts';

/** MPSMAX: pages up to 64 KiB. */
const PAGE_EXPONENT_MAX = 4;
const MSI_SHIFT = 5;
/** Commands of one `run`. */
const RUN_COMMANDS = 256;
const ERROR_EVENT = 0;
const ENTRY_BYTES = { sq: 64, cq: 16 } as const;
/** Everything of a function that is gone reads as ones. */
const GONE = 0xff;

/** The core, as the function needs it. */
export interface FunctionCore {
  readonly controller: Controller;
  /** Makes the core's end of a submission queue, and attaches it to the controller. */
  makePair(transport: QueueTransport, qid: number): QueuePair;
  /** NVM Subsystem Reset. */
  resetSubsystem(): void;
  saveState(): Uint8Array;
  loadState(bytes: Uint8Array): void;
  /** The function is taken out. */
  close(): void;
}

export interface NvmeFunctionOptions {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly hasPin: boolean;
  readonly vectorCount: number;
  readonly ioQueuesMax: number;
  readonly doorbellStride: number;
  readonly allowSubsystemReset: boolean;
}

export class NvmeFunction implements PciFunction, MemoryTransport, QueueSetOwner, BarOwner {
  readonly configBytes: number = CONFIG_BYTES;
  readonly bars: readonly PciBar[];
  readonly vectorCount: number;
  readonly msiCount: number = 1 << MSI_SHIFT;
  readonly memory: GuestMemory = new GuestMemory();
  readonly capabilities: bigint;
  readonly vendorId: number;
  #onWork: () => void = () => {};
  readonly #options: NvmeFunctionOptions;
  readonly #config: ConfigSpace;
  readonly #interrupts: Interrupts;
  readonly #bar: FunctionBar;
  readonly #queues: QueueSet;
  #core: FunctionCore | undefined;
  #running = false;
  #workWanted = false;
  #stopped = false;
  #onQuiet: (() => void) | undefined;
  #gone = false;

  constructor(options: NvmeFunctionOptions, clock: Clock) {
    this.#options = options;
    this.vendorId = options.vendorId;
    this.vectorCount = options.vectorCount;
    const layout = barLayout(options.vectorCount, options.ioQueuesMax, options.doorbellStride);
    this.bars = [layout.bar];
    this.#config = new ConfigSpace({
      vendorId: options.vendorId,
      deviceId: options.deviceId,
      interruptPin: options.hasPin ? 1 : 0,
      vectorCount: options.vectorCount,
      msiShift: MSI_SHIFT,
      bar: layout.bar,
      msixTableOffset: layout.tableOffset,
      msixPendingOffset: layout.pendingOffset,
    });
    this.#interrupts = new Interrupts(this.#config, options.vectorCount);
    this.#bar = new FunctionBar(layout, this, this.#interrupts);
    this.#queues = new QueueSet(this, this.memory, this.#interrupts, clock, layout.strideBytes);
    this.capabilities =
      (BigInt(options.doorbellStride) << 32n) |
      (options.allowSubsystemReset ? 1n << 36n : 0n) |
      (BigInt(PAGE_EXPONENT_MAX) << 52n);
  }

  /** Right after construction. */
  attach(core: FunctionCore): void {
    this.#core = core;
  }

  get controller(): Controller {
    return this.#core!.controller;
  }

  // ---- config space ---------------------------------------------------------------------------------------------------------------

  readConfig(offset: number, into: Uint8Array): void {
    if (this.#gone) into.fill(GONE);
    else this.#config.read(offset, into);
  }

  writeConfig(offset: number, bytes: Uint8Array): void {
    if (this.#gone) return;
    const modeBefore = this.#interrupts.mode;
    if (this.#config.write(offset, bytes)) {
      this.reset();
      return;
    }
    const isMaster = this.#config.isBusMaster;
    const mayReach = isMaster && !this.memory.isMaster;
    this.memory.isMaster = isMaster;
    if (mayReach) this.work();
    if (mayReach || this.#interrupts.mode !== modeBefore) this.#queues.signalAgain();
    this.#interrupts.deliverPending();
    this.#queues.updatePin();
  }

  // ---- BAR 0 ----------------------------------------------------------------------------------------------------------------------

  readBar(index: number, offset: number, into: Uint8Array): void {
    into.fill(this.#gone ? GONE : 0);
    if (index === 0 && !this.#gone) this.#bar.read(offset, into);
  }

  writeBar(index: number, offset: number, bytes: Uint8Array): void {
    if (index === 0 && !this.#gone) this.#bar.write(offset, bytes);
  }

  doorbell(index: number, value: number): void {
    this.#queues.doorbell(index, value);
  }

  configured(): void {
    this.work();
  }

  maskChanged(unmasked: boolean): void {
    if (unmasked) this.#queues.signalAgain();
    else this.#queues.updatePin();
  }

  resetRequested(): void {
    if (this.#options.allowSubsystemReset) this.#core!.resetSubsystem();
  }

  // ---- interrupts -----------------------------------------------------------------------------------------------------------------

  get interruptMode(): number {
    return this.#interrupts.mode;
  }

  setInterruptSink(sink: InterruptSink | undefined, ownsMsixTable = false): void {
    this.#interrupts.sink = sink;
    this.#interrupts.sinkOwnsTable = ownsMsixTable;
    if (sink === undefined) return;
    if (this.#interrupts.pinAsserted) sink.pin(true);
    this.#queues.signalAgain();
  }

  get pinAsserted(): boolean {
    return this.#interrupts.pinAsserted;
  }

  // ---- guest memory ---------------------------------------------------------------------------------------------------------------

  map(region: GuestRegion): void {
    this.memory.map(region);
    const log = this.memory.dirtyLog;
    if (log instanceof DirtyLog && log.followsAll) log.add(region);
  }

  unmap(iova: number, lengthBytes: number): void {
    this.memory.unmap(iova, lengthBytes);
  }

  unmapAll(): void {
    this.memory.unmapAll();
  }

  startDirtyLog(pageBytes: number, ranges: readonly PciDirtyRange[]): void {
    const followsAll = ranges.length === 0;
    this.memory.dirtyLog = new DirtyLog(pageBytes, followsAll ? this.memory.ranges() : ranges, followsAll);
  }

  stopDirtyLog(): void {
    this.memory.dirtyLog = undefined;
  }

  reportDirty(iova: number, lengthBytes: number, pageBytes: number): Uint8Array {
    const log = this.memory.dirtyLog;
    if (!(log instanceof DirtyLog) || log.pageBytes !== pageBytes) {
      throw new PciError(22, `There is no log of pages of ${pageBytes} bytes`);
    }
    return log.report(iova, lengthBytes);
  }

  // ---- work -----------------------------------------------------------------------------------------------------------------------

  get onWork(): () => void {
    return this.#onWork;
  }

  /** What is wanted already is told to the new one. */
  set onWork(onWork: () => void) {
    this.#onWork = onWork;
    if (this.#workWanted && !this.#running) onWork();
  }

  work(): void {
    if (this.#workWanted) return;
    this.#workWanted = true;
    if (!this.#running) this.#onWork();
  }

  run(): boolean {
    if (this.#running || this.#gone) return false;
    this.#workWanted = false;
    this.#running = true;
    let more = false;
    try {
      more = this.#queues.serve(RUN_COMMANDS);
    } catch (error) {
      this.controller.fatal(error);
    } finally {
      this.#running = false;
    }
    this.#queues.signal();
    return more || this.#workWanted;
  }

  // ---- QueueSetOwner --------------------------------------------------------------------------------------------------------------

  get fetches(): boolean {
    return !this.#stopped && this.controller.ready && this.memory.isMaster;
  }

  get quiesces(): boolean {
    return this.#stopped || this.controller.isSuspended;
  }

  released(): void {
    if (this.#onQuiet !== undefined) this.#checkQuiet();
    // entries that were posted outside of `run` are signalled by the next
    if (!this.#running) this.work();
  }

  fatal(reason: string): void {
    this.controller.fatal(new Error(reason));
  }

  doorbellError(error: number): void {
    const { controller } = this;
    if (!controller.ready) return;
    controller.errorLog.addControllerError(Status.InvalidField | DNR);
    controller.asyncEvents.report(ERROR_EVENT, error, LogPage.ErrorInformation);
  }

  get arbitration(): number {
    return this.controller.features.get(0x01) ?? 0x07;
  }

  get coalescing(): number {
    return this.controller.features.get(0x08) ?? 0;
  }

  coalescingDisabled(vector: number): boolean {
    return this.controller.features.has(0x09_0000 | vector);
  }

  // ---- MemoryTransport: the controller's life -------------------------------------------------------------------------------------

  get pageBytes(): number {
    return this.#queues.pointer.pageBytes;
  }

  enable(cc: number): boolean {
    const pageBytes = PAGE_BYTES_MIN << ((cc >>> Cc.mpsShift) & Cc.mpsMask);
    const sqEntries = (this.#bar.aqa & 0xfff) + 1;
    const cqEntries = ((this.#bar.aqa >>> 16) & 0xfff) + 1;
    const sq = Number(this.#bar.asq);
    const cq = Number(this.#bar.acq);
    if (sqEntries < 2 || cqEntries < 2 || sq % pageBytes !== 0 || cq % pageBytes !== 0) return false;
    if (sq + sqEntries * ENTRY_BYTES.sq > ADDRESS_MAX || cq + cqEntries * ENTRY_BYTES.cq > ADDRESS_MAX) return false;
    this.#queues.pointer.pageBytes = pageBytes;
    const queue = this.#queues.addCompletionQueue({
      qid: 0,
      address: cq,
      entries: cqEntries,
      vector: 0,
      hasInterrupt: true,
    });
    this.#queues.addSubmissionQueue({ qid: 0, address: sq, entries: sqEntries, priority: 0 }, queue, (transport) =>
      this.#core!.makePair(transport, 0),
    );
    return true;
  }

  disabled(): void {
    this.#queues.clear();
    this.#interrupts.mask = 0;
    this.#interrupts.pending.fill(0);
    this.#onQuiet = undefined;
  }

  closed(): void {
    this.#queues.clear();
    this.#gone = true;
    this.memory.unmapAll();
    this.memory.tracker = undefined;
    this.memory.dirtyLog = undefined;
  }

  /** NVM Subsystem Reset reached it. */
  subsystemReset(): void {
    this.reset();
    this.#bar.nssro = true;
  }

  // ---- MemoryTransport: queues ----------------------------------------------------------------------------------------------------

  hasCompletionQueue(qid: number): boolean {
    return this.#queues.completionQueue(qid) !== undefined;
  }

  hasSubmissionQueue(qid: number): boolean {
    const queue = this.#queues.submissionQueue(qid);
    return queue !== undefined && !queue.isDraining;
  }

  get vectorsUsable(): number {
    return this.#interrupts.vectorsUsable;
  }

  createCompletionQueue(request: CompletionQueueRequest): void {
    this.#queues.addCompletionQueue(request);
  }

  createSubmissionQueue(request: SubmissionQueueRequest): void {
    this.#queues.addSubmissionQueue(request, this.#queues.completionQueue(request.cqid)!, (transport) =>
      this.#core!.makePair(transport, request.qid),
    );
  }

  deleteCompletionQueue(qid: number): boolean {
    return this.#queues.deleteCompletionQueue(qid);
  }

  deleteSubmissionQueue(qid: number, done: () => void): void {
    this.#queues.deleteSubmissionQueue(qid, done);
  }

  setDoorbellBuffers(shadowAddress: number, eventIndexAddress: number): boolean {
    const { pageBytes } = this;
    if (!this.memory.covers(shadowAddress, pageBytes, false)) return false;
    if (!this.memory.covers(eventIndexAddress, pageBytes, true)) return false;
    this.#queues.setShadow(shadowAddress, eventIndexAddress);
    return true;
  }

  peek({ sqe, sqeBase }: PointedCommand, length: number): Uint8Array | undefined {
    const bytes = new Uint8Array(length);
    const command = { sqe, sqeBase, transferBytes: length, direction: 1, fail: (status: number) => status };
    const { pointer } = this.#queues;
    if (pointer.resolve(command) !== 0) return undefined;
    let offset = 0;
    for (let i = 0; i < pointer.count; i++) {
      if (!this.memory.read(pointer.addresses[i]!, pointer.lengths[i]!, bytes, offset)) return undefined;
      offset += pointer.lengths[i]!;
    }
    return bytes;
  }

  // ---- MemoryTransport: live migration --------------------------------------------------------------------------------------------

  saveQueues(): NvmeControllerState {
    return saveQueues(this.#queues);
  }

  checkQueues(
    state: NvmeControllerState,
    ioQueuesMax: number,
    queueEntriesMax: number,
    pageBytes: number,
  ): string | undefined {
    return checkQueues(state, { ioQueuesMax, queueEntriesMax, pageBytes, vectorCount: this.vectorCount });
  }

  loadQueues(state: NvmeControllerState): void {
    loadQueues(this.#queues, state, (request) => this.createSubmissionQueue(request));
  }

  get parkedEvents(): readonly Request[] {
    return this.#queues.completionQueue(0)?.parked ?? [];
  }

  parkEvent(request: Request): void {
    this.#queues.completionQueue(0)!.parked.push(request);
  }

  saveFunction(): Uint8Array {
    const { controller } = this;
    const sq = this.#queues.submissionQueue(0);
    const cq = this.#queues.completionQueue(0);
    return encodeFunctionState({
      cc: controller.cc,
      csts: controller.csts,
      aqa: this.#bar.aqa,
      intms: this.#interrupts.mask,
      asq: this.#bar.asq,
      acq: this.#bar.acq,
      adminSqHead: sq?.head ?? 0,
      adminSqTail: sq?.tail ?? 0,
      adminCqHead: cq?.head ?? 0,
      adminCqTail: cq?.tail ?? 0,
      adminCqPhase: cq?.slot0Phase ?? 0,
      ioQueuesMax: controller.ioQueuesMax,
      hasShadow: this.#queues.hasShadow,
      shadowAddress: this.#queues.shadowAddress,
      eventIndexAddress: this.#queues.eventIndexAddress,
      config: this.#config.save(),
      table: this.#interrupts.tableBytes,
      pending: this.#interrupts.pending,
    });
  }

  loadFunction(bytes: Uint8Array): string | (() => void) {
    const state = decodeFunctionState(bytes);
    if (typeof state === 'string') return state;
    const wrong = this.#checkFunction(state);
    return wrong ?? ((): void => this.#applyFunction(state));
  }

  #checkFunction(state: FunctionState): string | undefined {
    if (state.table.length !== this.#interrupts.tableBytes.length) {
      return `has ${state.table.length / MSIX_ENTRY_BYTES} MSI-X vectors, this function has ${this.vectorCount}`;
    }
    if ((this.controller.cc & Cc.EN) !== 0) return 'is for a controller that is not enabled: reset it first';
    if (state.pending.length !== this.#interrupts.pending.length) return 'has other pending bits than vectors';
    try {
      this.#config.check(state.config);
    } catch (error) {
      if (error instanceof PciError) return error.message;
      throw error;
    }
    if (state.ioQueuesMax < 1 || state.ioQueuesMax > this.#options.ioQueuesMax) {
      return `grants ${state.ioQueuesMax} I/O queues, this function has ${this.#options.ioQueuesMax}`;
    }
    return checkAdminQueue(state, PAGE_BYTES_MIN << PAGE_EXPONENT_MAX);
  }

  #applyFunction(state: FunctionState): void {
    const { controller } = this;
    this.#config.restore(state.config);
    this.memory.isMaster = this.#config.isBusMaster;
    this.#interrupts.tableBytes.set(state.table);
    this.#interrupts.pending.set(state.pending);
    this.#interrupts.mask = state.intms;
    this.#bar.aqa = state.aqa;
    this.#bar.asq = state.asq;
    this.#bar.acq = state.acq;
    controller.restoreRegisters(state.cc, state.csts, state.ioQueuesMax);
    if ((state.cc & Cc.EN) === 0 || (state.csts & Csts.RDY) === 0) return;
    this.enable(state.cc);
    const sq = this.#queues.submissionQueue(0)!;
    sq.head = state.adminSqHead;
    sq.tail = state.adminSqTail;
    this.#queues.completionQueue(0)!.restore(state.adminCqHead, state.adminCqTail, state.adminCqPhase);
    if (state.hasShadow) this.#queues.setShadow(state.shadowAddress, state.eventIndexAddress);
  }

  // ---- stop and go ----------------------------------------------------------------------------------------------------------------

  reset(): void {
    if (this.#gone) return;
    this.#config.reset();
    this.memory.isMaster = false;
    this.#stopped = false;
    this.#onQuiet = undefined;
    this.controller.levelReset();
    // a stop ends with the reset, and with it that events wait
    this.controller.asyncEvents.setFrozen(this.controller.isSuspended);
    this.#interrupts.reset();
    this.#bar.reset();
  }

  get isStopped(): boolean {
    return this.#stopped;
  }

  stop(onQuiet: () => void): void {
    this.#stopped = true;
    this.#onQuiet = onQuiet;
    this.controller.asyncEvents.setFrozen(true);
    for (const queue of this.#queues.submissionQueues) queue.suspend();
    this.#checkQuiet();
  }

  #checkQuiet(): void {
    const told = this.#onQuiet;
    if (told === undefined) return;
    for (const { pair } of this.#queues.submissionQueues) if (!pair.isQuiet) return;
    this.#onQuiet = undefined;
    this.#queues.signal();
    told();
  }

  resume(): void {
    if (!this.#stopped) return;
    this.#stopped = false;
    this.#onQuiet = undefined;
    if (!this.controller.isSuspended) this.controller.asyncEvents.setFrozen(false);
    this.resumed();
  }

  /** Not while the other of the two that stop it still does: a suspended controller posts nothing, and one without a front end reaches no memory. */
  resumed(): void {
    if (this.#stopped || this.controller.isSuspended) return;
    this.#queues.unpark();
    this.#queues.signalAgain();
    this.work();
  }

  saveState(): Uint8Array {
    return this.#core!.saveState();
  }

  loadState(state: Uint8Array): void {
    this.#core!.loadState(state);
  }

  close(): void {
    this.#core?.close();
  }
}

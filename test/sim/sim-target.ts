/**
 * A target as its managers and hosts know it: namespaces with fence, changes and reservations, and controllers of guests, by the rules of
 * docs/live-migration-over-tcp.md. What is durable outlives a crash; sessions, tracking and controllers do not.
 */
import { LifecycleState } from '../../src/migration/lifecycle.ts';
import { DNR, Status } from '../../src/spec/status.ts';
import { NvmeStatusError } from '../../src/util/error.ts';
import type { Random } from '../support/random.ts';
import type { SimClock } from './sim-clock.ts';
import { SimController } from './sim-controller.ts';
import { BLOCK_SIZE, type SimDisk } from './sim-disk.ts';
import { type HostAnswer, type HostCommand, INACCESSIBLE } from './sim-host-io.ts';

/** A manager's association. */
export class Session {
  readonly target: SimTarget;
  isOver = false;
  constructor(target: SimTarget) {
    this.target = target;
  }
}

interface Tracking {
  readonly owner: Session;
  active: Set<number>;
  snapshot: Set<number> | undefined;
  epoch: number;
}

export interface StoredFence {
  readonly isOpen: boolean;
  readonly epoch: bigint;
}

export const sequenceError = (what: string): NvmeStatusError =>
  new NvmeStatusError(what, Status.CommandSequenceError | DNR, 'admin');

/** Blocks that a change is followed by. */
const GRANULE = 2;
const SAVE_MS = 0.3;

export class SimNamespace {
  readonly nsid: number;
  readonly disk: SimDisk;
  readonly #target: SimTarget;
  fence: StoredFence;
  /** What the target has on its own disk. */
  storedFence: StoredFence;
  reservations: Uint8Array | undefined;
  tracking: Tracking | undefined;
  limit: { readonly owner: Session; readonly bytesPerSecond: number } | undefined;
  #inFlight = 0;
  readonly #quiet: (() => void)[] = [];
  #limitFreeAtMs = 0;

  constructor(target: SimTarget, nsid: number, disk: SimDisk, isOpen: boolean) {
    this.#target = target;
    this.nsid = nsid;
    this.disk = disk;
    this.fence = { isOpen, epoch: 0n };
    this.storedFence = this.fence;
  }

  /** The process is gone. */
  crashed(): void {
    this.fence = this.storedFence;
    this.tracking = undefined;
    this.limit = undefined;
    this.#inFlight = 0;
    this.#quiet.length = 0;
    this.#settled = Promise.resolve();
    this.#limitFreeAtMs = 0;
  }

  /** One change after the other; what a close waits for is not in turn. */
  async setFence(isOpen: boolean, epoch: bigint, manager: Session): Promise<void> {
    const applied = this.#settled.then(() => this.#change({ isOpen, epoch }, manager));
    this.#settled = applied.catch(() => {});
    await applied;
    if (isOpen) return;
    while (this.#inFlight > 0) await new Promise<void>((resolve) => this.#quiet.push(resolve));
    if (this.fence.isOpen) throw sequenceError('Set Features CAh');
  }

  #settled: Promise<void> = Promise.resolve();

  async #change(fence: StoredFence, manager: Session): Promise<void> {
    if (fence.epoch < this.fence.epoch) throw sequenceError('Set Features CAh');
    const { life } = this.#target;
    if (!fence.isOpen) {
      this.fence = fence;
      this.#target.accessChanged();
    }
    await this.#target.save(() => this.#keep(fence));
    if (this.#target.life !== life) return;
    const wasOpen = this.fence.isOpen;
    this.fence = fence;
    if (!fence.isOpen || wasOpen) return;
    this.#target.accessChanged();
    this.#target.opened(manager);
  }

  #keep(fence: StoredFence): void {
    if (fence.epoch >= this.storedFence.epoch) this.storedFence = fence;
  }

  async setReservations(bytes: Uint8Array | undefined, epoch: bigint): Promise<void> {
    if (epoch < this.fence.epoch || this.fence.isOpen) throw sequenceError('Set Features CBh');
    await this.#target.save(() => {
      this.reservations = bytes?.slice();
    });
  }

  mark(slba: number, blockCount: number): void {
    if (this.tracking === undefined) return;
    for (let i = slba; i < slba + blockCount; i++) this.tracking.active.add(Math.floor(i / GRANULE));
  }

  /** Changed blocks of a set of granules, as runs. */
  runsOf(granules: Set<number>): { slba: number; blockCount: number }[] {
    const runs: { slba: number; blockCount: number }[] = [];
    for (const granule of [...granules].sort((a, b) => a - b)) {
      const slba = granule * GRANULE;
      const blockCount = Math.min(GRANULE, this.disk.blockCount - slba);
      const last = runs.at(-1);
      if (last !== undefined && last.slba + last.blockCount === slba) last.blockCount += blockCount;
      else runs.push({ slba, blockCount });
    }
    return runs;
  }

  get blockCount(): number {
    return this.disk.blockCount;
  }

  /** A command of a host or a guest. Undefined: the process ended meanwhile. */
  async execute(command: HostCommand, controller?: SimController): Promise<HostAnswer | undefined> {
    const target = this.#target;
    const { life } = target;
    if (!this.fence.isOpen) return { status: INACCESSIBLE, values: [] };
    this.#inFlight++;
    const writes = command.opcode === 'write' || command.opcode === 'deallocate';
    if (writes) {
      await this.#throttled(command.blockCount);
      if (target.life !== life) return undefined;
    }
    await target.latency();
    if (target.life !== life) return undefined;
    target.observer.executes(target, command);
    const values = this.#act(command);
    // not before: a snapshot in between would be copied without it, and forgotten
    if (writes) {
      this.mark(command.slba, command.blockCount);
      controller?.queue?.log.changed(this.nsid, command.slba, command.blockCount, command.opcode === 'deallocate');
    }
    await target.latency();
    if (target.life !== life) return undefined;
    this.#inFlight--;
    if (this.#inFlight === 0) for (const resolve of this.#quiet.splice(0)) resolve();
    return { status: 0, values };
  }

  #act({ opcode, slba, blockCount, value, fua }: HostCommand): number[] {
    const { disk } = this;
    if (opcode === 'read') return disk.values(slba, blockCount);
    if (opcode === 'flush') disk.flush();
    else disk.fill(slba, blockCount, opcode === 'write' ? value : 0);
    if (fua) disk.writeThrough(slba, blockCount);
    return [];
  }

  async #throttled(blockCount: number): Promise<void> {
    if (this.limit === undefined) return;
    const nowMs = this.#target.clock.nowMs();
    const startMs = Math.max(nowMs, this.#limitFreeAtMs);
    this.#limitFreeAtMs = startMs + (blockCount * BLOCK_SIZE * 1000) / this.limit.bytesPerSecond;
    // a limit that is taken off lets all of them go
    while (this.limit !== undefined && this.#target.clock.nowMs() < startMs) await this.#target.clock.delay(1);
  }
}

export interface TargetObserver {
  /** A host's command takes effect. */
  executes(target: SimTarget, command: HostCommand): void;
  /** A rule was broken. */
  failed(error: unknown): void;
}

export class SimTarget {
  readonly name: 'source' | 'destination';
  readonly clock: SimClock;
  readonly random: Random;
  readonly observer: TargetObserver;
  readonly namespaces = new Map<number, SimNamespace>();
  readonly controllers = new Map<number, SimController>();
  readonly sessions = new Set<Session>();
  /** Discovery names them beside itself. */
  readonly peers = new Set<string>();
  /** Hosts are told. */
  readonly listeners = new Set<() => void>();
  /** Of the process: counts its starts. */
  life = 1;
  isUp = true;
  /** Disks that others serve lose nothing with this process. */
  readonly #ownDisks = new Set<SimDisk>();
  readonly #onEnd = new Set<() => void>();
  readonly #onStart = new Set<() => void>();

  constructor(name: 'source' | 'destination', clock: SimClock, random: Random, observer: TargetObserver) {
    this.name = name;
    this.clock = clock;
    this.random = random;
    this.observer = observer;
  }

  addNamespace(nsid: number, disk: SimDisk, isOpen: boolean, isOwn: boolean): SimNamespace {
    const namespace = new SimNamespace(this, nsid, disk, isOpen);
    this.namespaces.set(nsid, namespace);
    if (isOwn) this.#ownDisks.add(disk);
    return namespace;
  }

  addController(cntlid: number): SimController {
    const controller = new SimController(this, cntlid);
    this.controllers.set(cntlid, controller);
    return controller;
  }

  latency(): Promise<void> {
    return this.clock.delay(0.05 + this.random.below(100) / 250);
  }

  /** Makes something durable; it is lost if the process ends first. */
  async save(act: () => void): Promise<void> {
    const { life } = this;
    await this.clock.delay(SAVE_MS);
    if (this.life === life) act();
  }

  accessChanged(): void {
    for (const listener of [...this.listeners]) this.clock.setTimer(listener, 0.2 + this.random.below(20) / 10);
  }

  // ---- sessions -------------------------------------------------------------------------------------------------------------------

  connect(): Session {
    const session = new Session(this);
    this.sessions.add(session);
    return session;
  }

  /** The target has noticed that a manager is gone: what it caused ends with it. */
  end(session: Session): void {
    if (session.isOver) return;
    session.isOver = true;
    this.sessions.delete(session);
    for (const namespace of this.namespaces.values()) {
      if (namespace.tracking?.owner === session) namespace.tracking = undefined;
      if (namespace.limit?.owner === session) namespace.limit = undefined;
    }
    for (const controller of this.controllers.values()) controller.managerLeft(session);
  }

  /** What was held because of a fence, and has no manager any more, is in the hands of the one that opened it. */
  opened(manager: Session): void {
    for (const controller of this.controllers.values()) {
      if (controller.state !== LifecycleState.Running) controller.suspender ??= manager;
    }
  }

  /** Something of it is closed to guests. */
  get hasClosed(): boolean {
    for (const { fence } of this.namespaces.values()) if (!fence.isOpen) return true;
    return false;
  }

  // ---- the process ----------------------------------------------------------------------------------------------------------------

  /** Called when the process ends; the returned function takes it back. */
  onEnd(callback: () => void): () => void {
    this.#onEnd.add(callback);
    return () => void this.#onEnd.delete(callback);
  }

  onStart(callback: () => void): void {
    this.#onStart.add(callback);
  }

  /** @returns whether a disk may have lost something */
  crash(): void {
    if (!this.isUp) return;
    this.isUp = false;
    this.life++;
    for (const session of this.sessions) session.isOver = true;
    this.sessions.clear();
    for (const disk of this.#ownDisks) disk.crash(this.random);
    for (const namespace of this.namespaces.values()) namespace.crashed();
    for (const [cntlid] of this.controllers) this.controllers.set(cntlid, new SimController(this, cntlid));
    for (const callback of [...this.#onEnd]) callback();
  }

  start(): void {
    if (this.isUp) return;
    this.isUp = true;
    for (const callback of [...this.#onStart]) callback();
    this.accessChanged();
  }
}

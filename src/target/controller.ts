/**
 * One controller: an association of a host with a subsystem. Properties and the enable / shutdown / reset state machine (Base 2.1 sections
 * 3.1.4, 3.5, 3.6), keep alive, features, asynchronous events, and its queue pairs.
 */

import type { UserDataLog } from '../migration/user-data-log.ts';
import { Feature } from '../spec/feature.ts';
import { ControllerType } from '../spec/identify.ts';
import { AsyncEventBit, AsyncNotice, LogPage } from '../spec/log-page.ts';
import { Cc, Csts, NVME_VERSION_2_1, Property } from '../spec/property.ts';
import { DNR, Status } from '../spec/status.ts';
import type { MemoryTransport } from '../transport/pcie/memory-transport.ts';
import type { Clock, Timer } from '../util/clock.ts';
import { accessOf } from './access.ts';
import { AnaChangeCounts } from './ana-group.ts';
import { AsyncEvents } from './async-events.ts';
import { reportWarnings } from './device-health.ts';
import { ErrorLog } from './error-log.ts';
import { HOST_BEHAVIOR_DEFAULT, type HostBehaviorSettings } from './host-behavior.ts';
import type { Namespace } from './namespace.ts';
import { PacedNotice } from './paced-notice.ts';
import type { QueuePair } from './queue-pair.ts';
import { ReservationNotices } from './reservation-notices.ts';
import type { HostKey } from './reservation-state.ts';
import type { Subsystem } from './subsystem.ts';
import { Timestamp } from './timestamp.ts';

/** KAS: granularity of the keep alive timer, 100 ms units. */
export const KEEP_ALIVE_GRANULARITY_100MS = 1;
/** The longest keep alive timeout accepted: a day. */
export const KATO_MS_MAX: number = 24 * 3600 * 1000;
/** A discovery controller without keep alive is dropped when idle this long (Base 2.1 section 3.1.3.3). */
const DISCOVERY_IDLE_MS = 120_000;
/** After admin Connect, or after a reset, the host has this long to enable (Base 2.1 section 3.3.2.3). */
const ENABLE_TIMEOUT_MS = 120_000;
/** CAP.TO and CRTO: ready within 7.5 s (500 ms units). */
const READY_TIMEOUT_500MS = 15;
/** Feature 15h counts in these. */
const LSIRI_UNIT_MS = 100;
/** `Controller.host` of a host that gave no identifier. */
export const NO_HOST: HostKey = '0'.repeat(32);

export interface ControllerOptions {
  readonly cntlid: number;
  readonly hostnqn: string;
  /** 16 bytes. */
  readonly hostid: Uint8Array;
  readonly katoMs: number;
  /** CAP.MQES + 1. */
  readonly queueEntriesMax: number;
  /** In-capsule data that its I/O queues take (IOCCSZ). */
  readonly inCapsuleBytes: number;
  readonly portId: number;
  /** Our address as the host reached it. */
  readonly localAddress?: string | undefined;
  /** Its queues stand in host memory; the controller is there as long as its function. */
  readonly memory?: MemoryTransport | undefined;
  /** I/O queue pairs that its transport has. Default: as many as the subsystem says. */
  readonly ioQueuesMax?: number | undefined;
}

export class Controller {
  readonly subsystem: Subsystem;
  readonly cntlid: number;
  readonly hostnqn: string;
  hostid: Uint8Array;
  /** `hostid` as reservations know the host, whichever of its controllers acts. */
  host: HostKey;
  readonly portId: number;
  readonly localAddress: string | undefined;
  readonly kind: number;
  readonly queueEntriesMax: number;
  readonly inCapsuleBytes: number;
  /** Undefined: a controller of a fabric, whose queues are connections. */
  readonly memory: MemoryTransport | undefined;
  /** I/O queue pairs it can have, whatever its host asked for. */
  readonly ioQueuesLimit: number;
  readonly errorLog: ErrorLog = new ErrorLog();
  readonly asyncEvents: AsyncEvents = new AsyncEvents();
  readonly #clock: Clock;

  /** The gate: Admin and I/O commands run only when true. */
  ready = false;
  /** Set by every command; the keep alive timer clears it. */
  active = false;
  cc = 0;
  csts = 0;
  katoMs: number;
  /** Feature 07h: I/O queues that may be connected. */
  ioQueuesMax: number;
  /** Values of simple features (dword), by FID. */
  readonly features: Map<number, number> = new Map<number, number>();
  /** Feature 0Eh. */
  readonly timestamp: Timestamp;
  readonly #changedNamespaces = new Set<number>();
  readonly anaCounts: AnaChangeCounts = new AnaChangeCounts();
  /** Log page 80h and feature 82h. */
  readonly reservationNotices: ReservationNotices = new ReservationNotices();
  readonly #changedAllocated = new Set<number>();
  /** What its commands may do: `Access` bits by NSID (target/access.ts). */
  readonly access: Uint8Array;
  /** Feature 16h. */
  hostBehavior: HostBehaviorSettings = HOST_BEHAVIOR_DEFAULT;
  readonly #lbaStatusNotice: PacedNotice;
  /** Critical warnings that the host was told of. */
  #warningsTold = 0;
  /** Log page 0Eh while it stands still. */
  lbaStatusLog: Uint8Array | undefined = undefined;
  /** Feature 05h, DULBE: namespaces of which reading a deallocated block is an error. */
  readonly deallocatedErrorNsids: Set<number> = new Set<number>();

  /** Where its changes of user data are logged. */
  changeLog: UserDataLog | undefined = undefined;
  /** Executes nothing but Fabrics commands and Keep Alive. */
  #suspended = false;
  /** Told when everything that came before the suspension is complete. */
  #onQuiet: (() => void) | undefined;

  #admin: QueuePair | undefined;
  readonly #ioQueues = new Map<number, QueuePair>();
  #keepAlive: Timer | undefined;
  #enableTimer: Timer | undefined;
  #closed = false;

  constructor(subsystem: Subsystem, options: ControllerOptions, clock: Clock) {
    this.subsystem = subsystem;
    this.kind = subsystem.isDiscovery ? ControllerType.Discovery : ControllerType.Io;
    this.cntlid = options.cntlid;
    this.hostnqn = options.hostnqn;
    this.hostid = options.hostid;
    this.host = Buffer.from(options.hostid).toString('hex');
    this.katoMs = options.katoMs;
    this.portId = options.portId;
    this.localAddress = options.localAddress;
    this.queueEntriesMax = options.queueEntriesMax;
    this.inCapsuleBytes = options.inCapsuleBytes;
    this.memory = options.memory;
    this.ioQueuesLimit = Math.min(subsystem.ioQueuesMax, options.ioQueuesMax ?? subsystem.ioQueuesMax);
    this.ioQueuesMax = this.ioQueuesLimit;
    this.#clock = clock;
    this.#lbaStatusNotice = new PacedNotice(clock, () =>
      this.asyncEvents.notice(AsyncNotice.LbaStatusInformation, LogPage.LbaStatus, AsyncEventBit.LbaStatusInformation),
    );
    this.timestamp = new Timestamp(clock);
    this.access = new Uint8Array(subsystem.nsidMax + 1);
    this.accessChanged();
    this.#armEnable();
    this.#enableDefaultEvents();
  }

  /** An explicit persistent connection to a discovery controller gets change events by itself (Base 2.1 section 3.1.3.3). */
  #enableDefaultEvents(): void {
    if (this.subsystem.isDiscovery && this.katoMs > 0) this.asyncEvents.configuration = AsyncEventBit.DiscoveryChange;
  }

  // ---- properties ----------------------------------------------------------------------------------------------------------------

  /** CAP: MQES, CQR, TO, NVM command set, CRWMS. */
  get cap(): bigint {
    return (
      BigInt(this.queueEntriesMax - 1) |
      (1n << 16n) |
      (BigInt(READY_TIMEOUT_500MS) << 24n) |
      (1n << 37n) |
      (1n << 59n) |
      (this.memory?.capabilities ?? 0n)
    );
  }

  /** @returns the property's value, or undefined if it does not exist with that width */
  getProperty(offset: number, bytes: 4 | 8): bigint | undefined {
    if (bytes === 8) return offset === Property.CAP ? this.cap : undefined;
    switch (offset) {
      case Property.VS:
        return BigInt(NVME_VERSION_2_1);
      case Property.CC:
        return BigInt(this.cc >>> 0);
      case Property.CSTS:
        return BigInt(this.csts >>> 0);
      case Property.CRTO:
        return BigInt(READY_TIMEOUT_500MS);
      default:
        return undefined;
    }
  }

  /** CC was written. */
  setConfiguration(value: number): void {
    const wasEnabled = (this.cc & Cc.EN) !== 0;
    const enable = (value & Cc.EN) !== 0;
    const shutdown = (value >>> Cc.shnShift) & Cc.shnMask;
    const shutdownBefore = (this.cc >>> Cc.shnShift) & Cc.shnMask;
    this.cc = value >>> 0;
    if (wasEnabled && !enable) {
      this.#reset();
      return;
    }
    if (!wasEnabled && enable) {
      this.csts &= ~(Csts.shstMask | Csts.RDY);
      if (this.#configurationIsValid(value) && this.memory?.enable(value) !== false) {
        this.csts |= Csts.RDY;
        this.#enableTimer?.cancel();
        this.#enableTimer = undefined;
      } else {
        this.csts |= Csts.CFS;
      }
    }
    if (shutdown !== 0 && shutdownBefore !== shutdown) {
      // every command that was completed stays completed; nothing of ours is lost by power, so the shutdown is done at once
      this.csts = (this.csts & ~Csts.shstMask) | Csts.shstComplete;
      this.#armLeave('shut down two minutes ago');
    }
    this.ready = (this.csts & (Csts.RDY | Csts.CFS | Csts.shstMask)) === Csts.RDY;
    this.#armKeepAlive();
  }

  #configurationIsValid(value: number): boolean {
    const css = (value >>> Cc.cssShift) & Cc.cssMask;
    const mpsMax = Number((this.cap >> 52n) & 0xfn);
    if (((value >>> Cc.mpsShift) & Cc.mpsMask) > mpsMax || ((value >>> Cc.amsShift) & Cc.amsMask) !== 0) return false;
    if (css !== 0 && css !== 0b111) return false;
    if (this.kind !== ControllerType.Io) return true;
    return ((value >>> Cc.iosqesShift) & Cc.iosqesMask) === 6 && ((value >>> Cc.iocqesShift) & Cc.iocqesMask) === 4;
  }

  /** Controller Level Reset: I/O queues go, AERs vanish, features fall back; the admin connection stays. */
  #reset(): void {
    this.ready = false;
    if (this.#suspended) this.#endSuspension(true);
    this.subsystem.migration?.controllerReset(this);
    this.csts = 0;
    this.cc = 0;
    this.#keepAlive?.cancel();
    this.#keepAlive = undefined;
    this.#dropAsyncEvents();
    this.#enableDefaultEvents();
    this.features.clear();
    this.#warningsTold = 0;
    this.#lbaStatusNotice.reset();
    this.#resetIoFeatures();
    this.ioQueuesMax = this.ioQueuesLimit;
    this.#changedNamespaces.clear();
    this.anaCounts.reset();
    this.reservationNotices.reset();
    this.#changedAllocated.clear();
    for (const pair of [...this.#ioQueues.values()]) {
      this.#ioQueues.delete(pair.qid);
      this.subsystem.lingers(pair);
      pair.transport.close('controller reset');
    }
    this.#resetMemory();
    this.#armEnable();
  }

  /** The admin queue is in host memory as well, and goes; a function is there for whoever comes next. */
  #resetMemory(): void {
    if (this.memory === undefined) return;
    const admin = this.#admin;
    this.#admin = undefined;
    admin?.transport.close('controller reset');
    this.memory.disabled();
    this.setHostid(new Uint8Array(16));
  }

  /** A reset that comes another way than by CC.EN. */
  levelReset(): void {
    if (!this.#closed) this.#reset();
  }

  /** For a state that is loaded: registers of another function, whose queues are added next. */
  restoreRegisters(cc: number, csts: number, ioQueuesMax: number): void {
    this.cc = cc;
    this.csts = csts;
    this.ioQueuesMax = ioQueuesMax;
    this.ready = (csts & (Csts.RDY | Csts.CFS | Csts.shstMask)) === Csts.RDY;
  }

  /** Feature 81h, where no Connect has said who the host is. @param hostid 16 bytes */
  setHostid(hostid: Uint8Array): void {
    this.hostid = hostid;
    this.host = Buffer.from(hostid).toString('hex');
    this.subsystem.accessChanged();
  }

  #resetIoFeatures(): void {
    this.hostBehavior = HOST_BEHAVIOR_DEFAULT;
    this.lbaStatusLog = undefined;
    if (this.deallocatedErrorNsids.size === 0) return;
    this.deallocatedErrorNsids.clear();
    this.subsystem.deallocatedErrorsChanged();
  }

  #dropAsyncEvents(): void {
    for (const request of this.asyncEvents.reset()) request.queuePair.release(request);
  }

  #armEnable(): void {
    this.#armLeave('not enabled within two minutes');
  }

  /** A controller that is not ready is kept for its host for a while (Base 2.1 sections 3.3.2.3, 3.6.1): no keep alive would end it. */
  #armLeave(reason: string): void {
    this.#enableTimer?.cancel();
    this.#enableTimer = undefined;
    if (this.#suspended || this.memory !== undefined) return;
    this.#enableTimer = this.#clock.setTimer(() => this.close(reason), ENABLE_TIMEOUT_MS);
  }

  /** Controller Fatal Status: nothing works any more; the host must reset or reconnect. */
  fatal(error: unknown): void {
    this.csts |= Csts.CFS;
    this.ready = false;
    this.errorLog.addControllerError(Status.InternalError | DNR);
    this.subsystem.events.fatal(this, error);
    this.#giveUp('controller fatal status');
  }

  /** An association ends; a function waits for its host to reset it. */
  #giveUp(reason: string): void {
    if (this.memory === undefined) this.close(reason);
  }

  // ---- keep alive ----------------------------------------------------------------------------------------------------------------

  /** @param katoMs 0 disables */
  setKeepAlive(katoMs: number): void {
    this.katoMs = katoMs;
    this.#armKeepAlive();
  }

  /** Traffic based: one timer; a command since it was armed is enough to arm it again. Base 2.1 section 3.9. */
  #armKeepAlive(): void {
    this.#keepAlive?.cancel();
    this.#keepAlive = undefined;
    const intervalMs = this.katoMs > 0 ? this.katoMs : this.subsystem.isDiscovery ? DISCOVERY_IDLE_MS : 0;
    if (intervalMs === 0 || !this.ready || this.#closed || this.#suspended) return;
    this.active = false;
    this.#keepAlive = this.#clock.setTimer(() => {
      if (this.active) {
        this.#armKeepAlive();
        return;
      }
      this.csts |= Csts.CFS;
      this.ready = false;
      this.errorLog.addControllerError(Status.KeepAliveTimerExpired | DNR);
      this.#giveUp('keep alive timer expired');
    }, intervalMs);
  }

  // ---- queue pairs ---------------------------------------------------------------------------------------------------------------

  /**
   * Nothing that comes from now on is executed, but Fabrics commands and Keep Alive; time stands still for keep alive.
   * @param onQuiet called, in this turn or later, when everything that came before is complete
   */
  suspend(onQuiet: () => void): void {
    this.#suspended = true;
    this.#onQuiet = onQuiet;
    this.#keepAlive?.cancel();
    this.#keepAlive = undefined;
    this.#enableTimer?.cancel();
    this.#enableTimer = undefined;
    this.asyncEvents.setFrozen(true);
    this.timestamp.setFrozen(true);
    for (const pair of this.#pairs()) pair.suspended = true;
    for (const pair of this.#pairs()) pair.transport.suspend?.();
    // what was fetched comes to its end, whatever limit it waits for
    for (const { writeLimit } of this.activeNamespaces()) writeLimit?.letThrough((io) => io.controller === this);
    this.drained();
  }

  /** For `QueuePair.release`: a command has come to its end. */
  drained(): void {
    if (this.#onQuiet === undefined) return;
    for (const pair of this.#pairs()) if (!pair.isQuiet) return;
    const told = this.#onQuiet;
    this.#onQuiet = undefined;
    told();
  }

  get isSuspended(): boolean {
    return this.#suspended;
  }

  /** Goes on with what came meanwhile. */
  resume(): void {
    if (this.#closed) return;
    this.#endSuspension(false);
    if (this.ready) this.#armKeepAlive();
    else this.#armEnable();
  }

  #endSuspension(drop: boolean): void {
    this.#suspended = false;
    this.#onQuiet = undefined;
    this.asyncEvents.setFrozen(false);
    this.timestamp.setFrozen(false);
    const pairs = this.#pairs();
    for (const pair of pairs) pair.suspended = false;
    for (const pair of pairs) pair.transport.resume?.(drop);
    if (!drop) this.memory?.resumed();
  }

  #pairs(): QueuePair[] {
    return [...(this.#admin === undefined ? [] : [this.#admin]), ...this.#ioQueues.values()];
  }

  attachAdmin(pair: QueuePair): void {
    this.#admin = pair;
    pair.suspended = this.#suspended;
  }

  /** @returns false if the id is taken */
  attachIo(pair: QueuePair, qid: number): boolean {
    if (this.#ioQueues.has(qid)) return false;
    this.#ioQueues.set(qid, pair);
    pair.suspended = this.#suspended;
    return true;
  }

  hasQueue(qid: number): boolean {
    return qid === 0 ? this.#admin !== undefined : this.#ioQueues.has(qid);
  }

  queue(qid: number): QueuePair | undefined {
    return qid === 0 ? this.#admin : this.#ioQueues.get(qid);
  }

  get ioQueueCount(): number {
    return this.#ioQueues.size;
  }

  get ioQueuePairs(): IterableIterator<QueuePair> {
    return this.#ioQueues.values();
  }

  /** Addresses of the connections, admin first. */
  peers(): string[] {
    return [this.#admin, ...this.#ioQueues.values()]
      .filter((pair) => pair !== undefined)
      .map((pair) => pair.transport.peer);
  }

  /**
   * A queue's connection is gone: without the admin queue the association ends. An I/O queue alone does not end it, although Base 2.1 section
   * 3.3.2.4 would have it so: Linux hosts close their I/O queues first and then reset or shut down over the admin queue.
   */
  queueClosed(pair: QueuePair, reason: string): void {
    if (pair.qid > 0) {
      // after a reset the id may belong to a new pair already
      if (this.#ioQueues.get(pair.qid) === pair) this.#ioQueues.delete(pair.qid);
    } else if (this.#admin === pair) {
      this.#admin = undefined;
      this.#giveUp(reason);
    }
  }

  /** Ends the association: every connection closes, the controller is free. Idempotent. */
  close(reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.ready = false;
    this.#onQuiet = undefined;
    this.#keepAlive?.cancel();
    this.#enableTimer?.cancel();
    this.#lbaStatusNotice.reset();
    this.#dropAsyncEvents();
    const pairs = [this.#admin, ...this.#ioQueues.values()];
    this.#admin = undefined;
    this.#ioQueues.clear();
    for (const pair of pairs) {
      if (pair !== undefined) this.subsystem.lingers(pair);
      pair?.transport.close(reason);
    }
    this.#resetIoFeatures();
    this.memory?.closed();
    this.subsystem.controllerClosed(this, reason);
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  // ---- namespaces and events -----------------------------------------------------------------------------------------------------

  /** The namespace if it is attached to this controller (active). */
  namespace(nsid: number): Namespace | undefined {
    const namespace = this.subsystem.namespaces[nsid];
    return namespace?.isAttachedTo(this) === true ? namespace : undefined;
  }

  /** Namespaces attached to this controller, by NSID. */
  activeNamespaces(): Namespace[] {
    return this.subsystem.allocatedNamespaces().filter((namespace) => namespace.isAttachedTo(this));
  }

  /** Something that decides what its commands may do has changed. @param nsid of one namespace; default all */
  accessChanged(nsid?: number): void {
    const { namespaces } = this.subsystem;
    const last = nsid ?? this.access.length - 1;
    for (let id = nsid ?? 0; id <= last; id++) this.access[id] = accessOf(this, namespaces[id]);
  }

  /** A namespace came, went or changed: the host is told through log page 04h. */
  namespaceChanged(nsid: number): void {
    this.#changedNamespaces.add(nsid);
    this.asyncEvents.notice(
      AsyncNotice.NamespaceAttribute,
      LogPage.ChangedNamespaces,
      AsyncEventBit.NamespaceAttribute,
    );
  }

  /** @param type `ReservationNotification` */
  reservationNotice(namespace: Namespace, type: number): void {
    if (this.reservationNotices.add(namespace, type)) this.asyncEvents.reservation();
  }

  /** A namespace was created, deleted or changed, attached or not: log page 1Ch. */
  allocatedNamespaceChanged(nsid: number): void {
    this.#changedAllocated.add(nsid);
    this.asyncEvents.notice(
      AsyncNotice.AllocatedNamespaceAttribute,
      LogPage.ChangedAllocatedNamespaces,
      AsyncEventBit.AllocatedNamespaceAttribute,
    );
  }

  /** NSIDs of log page 1Ch, as `changedNamespaces`. */
  changedAllocatedNamespaces(): number[] {
    return [...this.#changedAllocated].sort((a, b) => a - b);
  }

  clearChangedAllocatedNamespaces(): void {
    this.#changedAllocated.clear();
  }

  /** Replaces what log page 04h has, without an event; for a controller that was moved here. */
  setChangedNamespaces(nsids: readonly number[]): void {
    this.#changedNamespaces.clear();
    for (const nsid of nsids) this.#changedNamespaces.add(nsid);
  }

  /** As `setChangedNamespaces`, of log page 1Ch. */
  setChangedAllocatedNamespaces(nsids: readonly number[]): void {
    this.#changedAllocated.clear();
    for (const nsid of nsids) this.#changedAllocated.add(nsid);
  }

  /** NSIDs of log page 04h, ascending. */
  changedNamespaces(): number[] {
    return [...this.#changedNamespaces].sort((a, b) => a - b);
  }

  clearChangedNamespaces(): void {
    this.#changedNamespaces.clear();
  }

  /** The ANA state of some of its namespaces is another: the host is told through log page 0Ch. */
  anaChanged(): void {
    this.asyncEvents.notice(AsyncNotice.AnaChange, LogPage.Ana, AsyncEventBit.AnaChange);
  }

  /** Blocks of one of its namespaces became unreadable: the host is told through log page 0Eh, as often as feature 15h allows. */
  lbaStatusChanged(): void {
    if ((this.asyncEvents.configuration & AsyncEventBit.LbaStatusInformation) === 0) return;
    const lsiri = this.features.get(Feature.LbaStatusInformationInterval) ?? 0;
    this.#lbaStatusNotice.due(lsiri * LSIRI_UNIT_MS);
  }

  /** What is below tells something else of its health, or the host has other thresholds, or wants other events. */
  healthChanged(): void {
    if (this.kind === ControllerType.Io) this.#warningsTold = reportWarnings(this, this.#warningsTold);
  }

  discoveryChanged(): void {
    this.asyncEvents.notice(AsyncNotice.DiscoveryChange, LogPage.Discovery, AsyncEventBit.DiscoveryChange);
  }
}

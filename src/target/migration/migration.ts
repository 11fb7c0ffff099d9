/**
 * Host Managed Live Migration in one subsystem: which controllers manage, and for each other one its life (suspended, loaded, ...), the queue that
 * logs its changes, and the state that is being received for it. Base 2.1 section 8.1.12; choices in docs/live-migration.md.
 */

import { randomBytes } from 'node:crypto';
import type { CdqRing } from '../../migration/cdq-ring.ts';
import { LifecycleInput, LifecycleState, lifecycle } from '../../migration/lifecycle.ts';
import { LogState, type UserDataLog } from '../../migration/user-data-log.ts';
import { ControllerType } from '../../spec/identify.ts';
import { CdqEvent } from '../../spec/migration.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { assert } from '../../util/assert.ts';
import type { Controller } from '../controller.ts';
import { isClosedTo } from '../fence.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import type { Subsystem } from '../subsystem.ts';
import { ChangedBlocks } from './changed-blocks.ts';
import { MemoryTracks } from './memory-tracks.ts';
import type { ResidentQueue } from './resident-queue.ts';
import type { StateStaging } from './state-staging.ts';

/** Which controllers manage: those of a listed host, or at a listed port. @public */
export interface MigrationOptions {
  readonly managers: {
    readonly hosts?: readonly string[] | undefined;
    readonly ports?: readonly number[] | undefined;
  };
  /** A number that was not given before, for each controller-resident queue. Default: random. */
  readonly nonce?: (() => bigint) | undefined;
}

/** MCUDMQ and MNSUDMQ. */
export const QUEUES_OF_CONTROLLER_MAX = 16;
export const QUEUES_OF_SUBSYSTEM_MAX = 32;

type Input = (typeof LifecycleInput)[keyof typeof LifecycleInput];

/** A Migratable Controller, as long as it is connected. */
export interface Ward {
  readonly controller: Controller;
  /** `LifecycleState`. */
  state: number;
  /** Who suspended it; undefined if that one is gone, and it is suspended all the same. */
  suspender: Controller | undefined;
  /** It is to be suspended, and not quiet yet. */
  isSettling: boolean;
  /** Suspend commands that wait until it is quiet. */
  waiting: Request[];
  deletesQueue: boolean;
  staging: StateStaging | undefined;
  /** A state was verified, and parts of it are being made durable. */
  committing: boolean;
}

/** A User Data Migration Queue, wherever its entries stand. */
export interface DataQueue {
  readonly cdqid: number;
  /** Whose queue it is. */
  readonly manager: Controller;
  /** Whose changes it logs; it may be gone. */
  readonly target: Controller;
  readonly ring: CdqRing;
  readonly log: UserDataLog;
}

const randomNonce = (): bigint => randomBytes(8).readBigUInt64LE();

export class Migration {
  /** Memory that managers follow. */
  readonly memory: MemoryTracks = new MemoryTracks();
  readonly #subsystem: Subsystem;
  readonly #hosts: ReadonlySet<string>;
  readonly #ports: ReadonlySet<number>;
  readonly #wards = new Map<Controller, Ward>();
  readonly #queues = new Set<DataQueue>();
  /** Who limits the writes of which namespace. */
  readonly #limits = new Map<Namespace, Controller>();

  /** For a controller-resident queue. */
  readonly nonce: () => bigint;

  constructor(subsystem: Subsystem, { managers, nonce = randomNonce }: MigrationOptions) {
    this.#subsystem = subsystem;
    this.nonce = nonce;
    this.#hosts = new Set(managers.hosts);
    this.#ports = new Set(managers.ports);
  }

  /** It is a Migration Management Controller (HMLMS). */
  manages({ hostnqn, portId }: Controller): boolean {
    return this.#hosts.has(hostnqn) || this.#ports.has(portId);
  }

  /** The Migratable Controller of that id, or undefined: unknown, or one that manages. */
  ward(cntlid: number): Ward | undefined {
    const controller = this.#subsystem.controller(cntlid);
    if (controller === undefined || controller.kind !== ControllerType.Io || this.manages(controller)) return undefined;
    let ward = this.#wards.get(controller);
    if (ward === undefined) {
      ward = {
        controller,
        state: LifecycleState.Running,
        suspender: undefined,
        isSettling: false,
        waiting: [],
        deletesQueue: false,
        staging: undefined,
        committing: false,
      };
      this.#wards.set(controller, ward);
    }
    return ward;
  }

  /** It is still the one that is known by its id. */
  isCurrent(ward: Ward): boolean {
    return this.#wards.get(ward.controller) === ward;
  }

  /** It is suspended, and quiet (CSUP). */
  isSuspended(ward: Ward): boolean {
    return ward.state !== LifecycleState.Running && !ward.isSettling;
  }

  /** Sanitize is refused in all of the subsystem meanwhile. */
  get hasSuspended(): boolean {
    return [...this.#wards.values()].some((ward) => ward.state !== LifecycleState.Running);
  }

  /** @returns the status of the command that is `input` */
  step(ward: Ward, input: Input): number {
    const transition = lifecycle(ward.state, input);
    assert(transition !== undefined, `No life has input ${input} in state ${ward.state}`);
    ward.state = transition.next;
    return transition.status === 0 ? 0 : transition.status | DNR;
  }

  // ---- suspend and resume --------------------------------------------------------------------------------------------------------

  /** `request` is finished once the controller is quiet. @param deletesQueue DUDMQ */
  suspend(request: Request, ward: Ward, deletesQueue: boolean): void {
    const wasRunning = ward.state === LifecycleState.Running;
    this.step(ward, LifecycleInput.Suspend);
    ward.deletesQueue ||= deletesQueue;
    ward.suspender = request.queuePair.controller!;
    if (wasRunning || ward.isSettling) {
      ward.waiting.push(request);
      if (!wasRunning) return;
      ward.isSettling = true;
      ward.controller.suspend(() => this.#suspended(ward));
      return;
    }
    if (deletesQueue) this.#deleteQueueOf(ward);
    request.finish(Status.Success);
  }

  #suspended(ward: Ward): void {
    ward.isSettling = false;
    this.#queueOf(ward)?.log.suspend();
    if (ward.deletesQueue) this.#deleteQueueOf(ward);
    for (const request of ward.waiting.splice(0)) request.finish(Status.Success);
  }

  /** A notification, which hints at a suspension to come; DUDMQ counts even here. */
  notify(ward: Ward, deletesQueue: boolean): number {
    if (deletesQueue) this.#deleteQueueOf(ward);
    return this.step(ward, LifecycleInput.Notify);
  }

  resume(ward: Ward): number {
    if (ward.committing) return Status.CommandSequenceError | DNR;
    const isHeld = this.#isHeld(ward);
    const status = this.step(ward, isHeld ? LifecycleInput.ResumeHeld : LifecycleInput.Resume);
    if (status === 0) this.#run(ward, false);
    return status;
  }

  /**
   * It must not run: its guest would find a namespace inaccessible, and a guest has no other path. Hosts of a fabric do, and see to it themselves.
   */
  #isHeld({ controller }: Ward): boolean {
    return controller.memory !== undefined && controller.activeNamespaces().some((one) => isClosedTo(controller, one));
  }

  /** A namespace is open again. What was held because of it, and has no manager any more, is in the hands of the one that opened it. */
  opened(manager: Controller): void {
    for (const ward of this.#wards.values()) {
      if (ward.state !== LifecycleState.Running && ward.controller.memory !== undefined) ward.suspender ??= manager;
    }
  }

  /** Controller Level Reset as a manager's act. @returns a status */
  reset(ward: Ward): number {
    if (ward.committing) return Status.CommandSequenceError | DNR;
    if (!this.isSuspended(ward)) return SpecificStatus.ControllerNotSuspended | DNR;
    ward.controller.levelReset();
    return Status.Success;
  }

  /** It runs again. @param wasReset by a reset of its own: it has ended its suspension itself */
  #run(ward: Ward, wasReset: boolean): void {
    ward.staging = undefined;
    ward.suspender = undefined;
    ward.deletesQueue = false;
    ward.isSettling = false;
    for (const request of ward.waiting.splice(0)) request.finish(Status.CommandAbortRequested | DNR);
    this.#queueOf(ward)?.log.resume();
    if (!wasReset) ward.controller.resume();
  }

  // ---- queues --------------------------------------------------------------------------------------------------------------------

  /** @param make makes it, by its id @returns the queue, or a status */
  createQueue(manager: Controller, ward: Ward, make: (cdqid: number) => DataQueue): DataQueue | number {
    if (this.#queueOf(ward) !== undefined) return Status.InvalidField;
    const own = [...this.#queues].filter((queue) => queue.manager === manager);
    if (own.length >= QUEUES_OF_CONTROLLER_MAX || this.#queues.size >= QUEUES_OF_SUBSYSTEM_MAX) {
      return SpecificStatus.NotEnoughResources;
    }
    let cdqid = 0;
    while (own.some((queue) => queue.cdqid === cdqid)) cdqid++;
    const queue = make(cdqid);
    this.#queues.add(queue);
    ward.controller.changeLog = queue.log;
    return queue;
  }

  queue(manager: Controller, cdqid: number): DataQueue | undefined {
    for (const queue of this.#queues) if (queue.manager === manager && queue.cdqid === cdqid) return queue;
    return undefined;
  }

  deleteQueue(queue: DataQueue): void {
    this.#queues.delete(queue);
    queue.log.end();
    if (queue.target.changeLog === queue.log) queue.target.changeLog = undefined;
    queue.manager.asyncEvents.dropOneShot(CdqEvent.TailPointer, queue.cdqid);
    queue.manager.asyncEvents.dropOneShot(CdqEvent.Full, queue.cdqid);
    this.#trackingChanged();
  }

  #queueOf(ward: Ward): DataQueue | undefined {
    for (const queue of this.#queues) if (queue.target === ward.controller) return queue;
    return undefined;
  }

  #deleteQueueOf(ward: Ward): void {
    const queue = this.#queueOf(ward);
    if (queue !== undefined) this.deleteQueue(queue);
  }

  /** Track Send, Log User Data Changes. */
  logUserData(queue: DataQueue, start: boolean): number {
    const ward = this.#wards.get(queue.target);
    if (ward === undefined) return SpecificStatus.InvalidControllerIdentifier | DNR;
    const status = this.step(ward, LifecycleInput.TrackSend);
    if (status !== 0) return status;
    if (start) {
      if (queue.log.logging) return SpecificStatus.InvalidControllerDataQueue | DNR;
      if (!queue.log.start()) return SpecificStatus.ControllerDataQueueFull | DNR;
    } else {
      queue.log.stop();
    }
    queue.manager.asyncEvents.dropOneShot(CdqEvent.Full, queue.cdqid);
    this.#trackingChanged();
    return Status.Success;
  }

  /** Lends a part of log page C8h of a queue. @returns false if the page ends before `offset` */
  lendQueue(queue: ResidentQueue, to: Request, offset: number, bytes: number): boolean {
    const ward = this.#wards.get(queue.target);
    return queue.lend(to, ward !== undefined && this.isSuspended(ward), offset, bytes);
  }

  // ---- changed blocks ------------------------------------------------------------------------------------------------------------

  /** From here on its changes are followed, and nothing has changed yet. @returns a status */
  startChanges(manager: Controller, namespace: Namespace): number {
    if (namespace.changes !== undefined && namespace.changes.manager !== manager)
      return Status.CommandSequenceError | DNR;
    namespace.changes = new ChangedBlocks(manager, namespace);
    this.#trackingChanged();
    return Status.Success;
  }

  stopChanges(namespace: Namespace): void {
    namespace.changes = undefined;
    this.#trackingChanged();
  }

  // ---- write limit ---------------------------------------------------------------------------------------------------------------

  /** @param bytesPerSecond that hosts may write; undefined: no limit @returns a status */
  limitWrites(manager: Controller, namespace: Namespace, bytesPerSecond: number | undefined): number {
    const whose = this.#limits.get(namespace);
    if (whose !== undefined && whose !== manager) return Status.CommandSequenceError | DNR;
    if (bytesPerSecond === undefined) this.#limits.delete(namespace);
    else this.#limits.set(namespace, manager);
    namespace.limitWrites(bytesPerSecond, this.#subsystem.clock);
    return Status.Success;
  }

  /** What is followed has changed, or there is another namespace. */
  #trackingChanged(): void {
    const logs = [...this.#queues].filter(
      ({ log }) => log.state === LogState.Logging || log.state === LogState.Suspended,
    );
    for (const namespace of this.#subsystem.allocatedNamespaces()) namespace.setTracked(logs.map(({ log }) => log));
  }

  namespaceAdded(): void {
    this.#trackingChanged();
  }

  // ---- controllers come to an end ------------------------------------------------------------------------------------------------

  /** Controller Level Reset. */
  controllerReset(controller: Controller): void {
    const ward = this.#wards.get(controller);
    if (ward !== undefined && ward.state !== LifecycleState.Running) {
      this.step(ward, LifecycleInput.Reset);
      this.#run(ward, true);
    }
    this.#managerLeft(controller);
  }

  /** The association is over. */
  controllerClosed(controller: Controller): void {
    const ward = this.#wards.get(controller);
    this.#wards.delete(controller);
    this.memory.stop(controller);
    for (const request of ward?.waiting.splice(0) ?? []) {
      request.finish(SpecificStatus.InvalidControllerIdentifier | DNR);
    }
    this.#managerLeft(controller);
  }

  /** What a manager caused ends with it: suspensions, queues, tracking. */
  #managerLeft(manager: Controller): void {
    if (!this.manages(manager)) return;
    for (const ward of this.#wards.values()) {
      if (ward.suspender !== manager) continue;
      const isHeld = this.#isHeld(ward);
      this.step(ward, isHeld ? LifecycleInput.ManagerResetHeld : LifecycleInput.ManagerReset);
      ward.staging = undefined;
      if (ward.state === LifecycleState.Running) this.#run(ward, false);
      else this.#leave(ward);
    }
    for (const queue of [...this.#queues]) if (queue.manager === manager) this.deleteQueue(queue);
    this.memory.managerLeft(manager);
    for (const [namespace, whose] of this.#limits) {
      if (whose === manager) this.limitWrites(manager, namespace, undefined);
    }
    for (const namespace of this.#subsystem.allocatedNamespaces()) {
      if (namespace.changes?.manager === manager) namespace.changes = undefined;
    }
    this.#trackingChanged();
  }

  /** It stays quiet, for whatever manager comes next. */
  #leave(ward: Ward): void {
    ward.suspender = undefined;
    for (const request of ward.waiting.splice(0)) request.finish(Status.CommandAbortRequested | DNR);
  }
}

/** Commands of a Migration Management Controller. Base 2.1 sections 5.1.4, 5.1.16, 5.1.17, 5.1.26; choices in docs/live-migration.md. */
import { LifecycleInput, LifecycleState } from '../../migration/lifecycle.ts';
import { MigrationError } from '../../migration/migration-error.ts';
import { STATE_SECTION_UUID } from '../../migration/state-section.ts';
import {
  CdqSelect,
  CdqType,
  MigrationReceiveSelect,
  MigrationSendSelect,
  SequenceIndicator,
  SuspendType,
  TrackSendSelect,
} from '../../spec/migration.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import {
  decodeControllerState,
  encodeControllerState,
  encodeControllerStateFormats,
} from '../../wire/cold/controller-state.ts';
import { WireError } from '../../wire/cold/wire-error.ts';
import { sqeCdw10, sqeCdw11, sqeCdw12, sqeCdw13, sqeCdw15 } from '../../wire/sqe.ts';
import { UDMQ_ENTRY_DWORDS } from '../../wire/udmq-entry.ts';
import type { Controller } from '../controller.ts';
import { isManager } from '../fence.ts';
import type { Loaded } from '../migration/block-type.ts';
import { saveController } from '../migration/controller-blocks.ts';
import { MEMORY_QUEUE_SLOTS_MAX, MemoryQueue } from '../migration/memory-queue.ts';
import type { DataQueue, Migration, Ward } from '../migration/migration.ts';
import { RESIDENT_QUEUE_SLOTS_MAX, ResidentQueue } from '../migration/resident-queue.ts';
import { StateStaging } from '../migration/state-staging.ts';
import { loadState } from '../migration/whole-state.ts';
import type { Request } from '../request.ts';
import type { CommandHandler } from './command-set.ts';
import { placeOf } from './data-queue-memory.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';
import { prepareTrackMemory, trackMemory } from './memory-tracking.ts';

/** Index 1 of each list of Identify CNS 20h: version 0, our vendor format. */
const VERSIONS: readonly number[] = [0];
const FORMATS: readonly Uint8Array[] = [STATE_SECTION_UUID];
/** Over fabrics queues are connections, which are no state. */
const NO_QUEUES = { submissionQueues: [], completionQueues: [] };
const QUEUE_SLOTS_MIN = 2;
const DELETE_QUEUE = 0x8000_0000;

/** Of a request that only a manager's controller gets. */
export const migrationOf = (request: Request): Migration => request.queuePair.controller!.subsystem.migration!;

export const stateFormats = (): Uint8Array => encodeControllerStateFormats({ versions: VERSIONS, uuids: FORMATS });

const cdw10 = (request: Request): number => sqeCdw10(request.sqe, request.sqeBase);
const cdw11 = (request: Request): number => sqeCdw11(request.sqe, request.sqeBase);

const unknownController = (request: Request): number => request.fail(SpecificStatus.InvalidControllerIdentifier, 44);

/** A command that is judged as it runs. @param run returns its status, or undefined: it is finished later */
const judged =
  (run: (request: Request) => number | undefined) =>
  (request: Request): void => {
    const status = run(request);
    if (status !== undefined) request.finish(status);
  };

// ---- Controller Data Queue -----------------------------------------------------------------------------------------------------------

function createQueue(request: Request): number | undefined {
  const type = (cdw10(request) >>> 16) & 0xff;
  const controller = request.queuePair.controller!;
  // the queue of the specification stands in host memory, which no controller reaches over NVMe/TCP
  const inMemory = type === CdqType.UserDataMigration && controller.memory !== undefined;
  if (!inMemory && type !== CdqType.ResidentUserDataMigration) return request.invalidField(42);
  const ward = migrationOf(request).ward(cdw11(request) >>> 16);
  if (ward === undefined) return unknownController(request);
  const dwords = sqeCdw12(request.sqe, request.sqeBase);
  if (dwords % UDMQ_ENTRY_DWORDS !== 0 || dwords < QUEUE_SLOTS_MIN * UDMQ_ENTRY_DWORDS) {
    return request.invalidField(48);
  }
  const slots = dwords / UDMQ_ENTRY_DWORDS;
  if (slots > (inMemory ? MEMORY_QUEUE_SLOTS_MAX : RESIDENT_QUEUE_SLOTS_MAX)) {
    return request.fail(SpecificStatus.NotEnoughResources, 48);
  }
  const { nonce } = migrationOf(request);
  let make = (cdqid: number): DataQueue => new ResidentQueue(cdqid, controller, ward.controller, slots, nonce());
  if (inMemory) {
    const place = placeOf(request, controller.memory!, dwords * 4);
    if (typeof place === 'number') return place;
    make = (cdqid): DataQueue =>
      new MemoryQueue(cdqid, controller, ward.controller, slots, place.pages, place.pageBytes);
  }
  const queue = migrationOf(request).createQueue(controller, ward, make);
  if (typeof queue === 'number') return request.fail(queue, queue === Status.InvalidField ? 46 : 48);
  request.result0 = queue.cdqid;
  return Status.Success;
}

function deleteQueue(request: Request): number | undefined {
  const migration = migrationOf(request);
  const queue = migration.queue(request.queuePair.controller!, cdw11(request) & 0xffff);
  if (queue === undefined) return request.fail(SpecificStatus.InvalidControllerDataQueue, 44);
  migration.deleteQueue(queue);
  return Status.Success;
}

export const controllerDataQueue: CommandHandler = {
  isOffered: isManager,
  prepare: () => 0,
  execute: judged((request) => {
    const select = cdw10(request) & 0xff;
    if (select === CdqSelect.Create) return createQueue(request);
    return select === CdqSelect.Delete ? deleteQueue(request) : request.invalidField(40);
  }),
};

// ---- Track Send ----------------------------------------------------------------------------------------------------------------------

const selectsMemory = (request: Request): boolean => (cdw10(request) & 0xff) === TrackSendSelect.TrackMemory;

export const trackSend: CommandHandler = {
  isOffered: isManager,
  prepare: (request) => (selectsMemory(request) ? prepareTrackMemory(request) : 0),
  execute: judged((request) => {
    if (selectsMemory(request)) return trackMemory(request);
    if ((cdw10(request) & 0xff) !== TrackSendSelect.LogUserData) return request.invalidField(40);
    const action = (cdw10(request) >>> 16) & 0xf;
    if (action > 1) return request.invalidField(42);
    const migration = migrationOf(request);
    const queue = migration.queue(request.queuePair.controller!, cdw11(request) & 0xffff);
    if (queue === undefined) return request.fail(SpecificStatus.InvalidControllerDataQueue, 44);
    return migration.logUserData(queue, action === 1);
  }),
};

// ---- Migration Send ------------------------------------------------------------------------------------------------------------------

function suspend(request: Request): number | undefined {
  const type = (cdw11(request) >>> 16) & 0xff;
  if (type > SuspendType.Suspend) return request.invalidField(46);
  const ward = migrationOf(request).ward(cdw11(request) & 0xffff);
  if (ward === undefined) return unknownController(request);
  const deletesQueue = (cdw11(request) & DELETE_QUEUE) !== 0;
  if (type === SuspendType.Notification) return migrationOf(request).notify(ward, deletesQueue);
  migrationOf(request).suspend(request, ward, deletesQueue);
  return undefined;
}

function resume(request: Request): number | undefined {
  const ward = migrationOf(request).ward(cdw11(request) & 0xffff);
  return ward === undefined ? unknownController(request) : migrationOf(request).resume(ward);
}

const offsetOf = (request: Request): number =>
  sqeCdw12(request.sqe, request.sqeBase) + sqeCdw13(request.sqe, request.sqeBase) * 2 ** 32;

function setState(request: Request): number | undefined {
  const ward = migrationOf(request).ward(cdw11(request) & 0xffff);
  if (ward === undefined) return unknownController(request);
  const migration = migrationOf(request);
  const csvi = (cdw11(request) >>> 16) & 0xff;
  const csuuidi = cdw11(request) >>> 24;
  const sequence = (cdw10(request) >>> 16) & 3;
  const offset = offsetOf(request);
  if (csvi > VERSIONS.length || (csvi === 0 && csuuidi === 0)) return request.invalidField(46);
  if (csuuidi > FORMATS.length) return request.invalidField(47);
  if (offset % 4 !== 0) return request.invalidField(48);
  if (ward.state !== LifecycleState.Running && !migration.isSuspended(ward)) {
    return request.fail(SpecificStatus.InvalidControllerIdentifier, 44);
  }
  const starts = sequence === SequenceIndicator.First || sequence === SequenceIndicator.Only;
  if (ward.committing) return request.fail(Status.CommandSequenceError, 44);
  const status = migration.step(ward, starts ? LifecycleInput.SetFirst : LifecycleInput.SetNext);
  if (status !== 0) return request.fail(status, 44);
  if (starts) ward.staging = new StateStaging(csvi, csuuidi);
  const { staging } = ward;
  // a state that was found wrong has to be sent again from its beginning
  if (staging === undefined) return request.fail(Status.CommandSequenceError, 42);
  if (csvi !== staging.csvi || csuuidi !== staging.csuuidi) return request.invalidField(46);
  if (!staging.put(offset, request.transferBytes === 0 ? new Uint8Array(0) : request.data())) {
    return request.invalidField(48);
  }
  const isLast = sequence === SequenceIndicator.Last || sequence === SequenceIndicator.Only;
  return isLast ? commit(request, ward, staging) : Status.Success;
}

/** Everything is verified, then everything is applied; or nothing. */
function commit(request: Request, ward: Ward, staging: StateStaging): number | undefined {
  const migration = migrationOf(request);
  ward.staging = undefined;
  let state: Loaded;
  try {
    state = verified(ward.controller, staging);
  } catch (error) {
    if (!(error instanceof WireError) && !(error instanceof MigrationError)) throw error;
    return request.fail(migration.step(ward, LifecycleInput.Reject), 24);
  }
  if (state.durable === undefined) {
    state.apply?.();
    return migration.step(ward, LifecycleInput.Commit);
  }
  ward.committing = true;
  request.retain(); // this turn's receive buffer is gone when it ends
  void commitDurably(request, ward, state);
  return undefined;
}

/** What has to be durable comes first: if that fails, it is undone, and nothing was applied. */
async function commitDurably(request: Request, ward: Ward, { durable, apply }: Loaded): Promise<void> {
  const migration = migrationOf(request);
  const { subsystem } = ward.controller;
  try {
    const undo = await durable!();
    if (ward.state === LifecycleState.Loading && migration.isCurrent(ward)) {
      apply?.();
      request.finish(migration.step(ward, LifecycleInput.Commit));
      return;
    }
    // it was reset, or left, meanwhile
    await undo();
    request.finish(Status.CommandAbortRequested | DNR);
  } catch (error) {
    subsystem.events.warning?.(
      subsystem,
      `The state of controller ${ward.controller.cntlid} was not taken over`,
      error,
    );
    if (ward.state === LifecycleState.Loading) migration.step(ward, LifecycleInput.Reject);
    request.finish(error instanceof MigrationError ? Status.InvalidField | DNR : Status.InternalError);
  } finally {
    ward.committing = false;
  }
}

function verified(controller: Controller, { bytes, csvi, csuuidi }: StateStaging): Loaded {
  const wrong = (what: string): MigrationError =>
    new MigrationError('NVMEOF_ERR_STATE_FORMAT', `Controller state ${what}`);
  const state = decodeControllerState(bytes);
  if (state.nvme !== undefined && csvi === 0) throw wrong('has an NVMe part that its command does not name');
  if (state.vendor !== undefined && csuuidi === 0) {
    throw wrong('has a vendor specific part that its command does not name');
  }
  return loadState(controller, state);
}

export const migrationSend: CommandHandler = {
  isOffered: isManager,
  prepare(request): number {
    if ((cdw10(request) & 0xff) !== MigrationSendSelect.SetControllerState) return 0;
    const dwords = sqeCdw15(request.sqe, request.sqeBase);
    const isLast = ((cdw10(request) >>> 16) & 3) === SequenceIndicator.Last;
    if ((dwords === 0 && !isLast) || dwords * 4 > TRANSFER_BYTES_MAX) return request.invalidField(60);
    request.direction = Direction.HostToController;
    request.transferBytes = dwords * 4;
    return 0;
  },
  execute: judged((request) => {
    const select = cdw10(request) & 0xff;
    if (select === MigrationSendSelect.Suspend) return suspend(request);
    if (select === MigrationSendSelect.Resume) return resume(request);
    return select === MigrationSendSelect.SetControllerState ? setState(request) : request.invalidField(40);
  }),
};

// ---- Migration Receive ---------------------------------------------------------------------------------------------------------------

function getState(request: Request): number | undefined {
  const csvi = (cdw10(request) >>> 16) & 0xff;
  const csuuidi = (cdw11(request) >>> 16) & 0xff;
  if (csvi > VERSIONS.length) return request.invalidField(42);
  if (csuuidi > FORMATS.length) return request.invalidField(46);
  const ward = migrationOf(request).ward(cdw11(request) & 0xffff);
  if (ward === undefined) return unknownController(request);
  const migration = migrationOf(request);
  migration.step(ward, LifecycleInput.GetState);
  const suspended = migration.isSuspended(ward);
  const state = encodeControllerState({
    suspended,
    nvme: csvi === 0 ? undefined : (ward.controller.memory?.saveQueues() ?? NO_QUEUES),
    vendor: csuuidi === 0 ? undefined : saveController(ward.controller),
  });
  const offset = offsetOf(request);
  if (offset % 4 !== 0 || offset > state.length) return request.invalidField(48);
  const answer = new Uint8Array(request.transferBytes);
  answer.set(state.subarray(offset, offset + answer.length));
  request.answer(answer);
  request.result0 = suspended ? 1 : 0;
  return Status.Success;
}

export const migrationReceive: CommandHandler = {
  isOffered: isManager,
  prepare(request): number {
    if ((cdw10(request) & 0xff) !== MigrationReceiveSelect.GetControllerState) return request.invalidField(40);
    const bytes = (sqeCdw15(request.sqe, request.sqeBase) + 1) * 4;
    if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(60);
    request.direction = Direction.ControllerToHost;
    request.transferBytes = bytes;
    return 0;
  },
  execute: judged(getState),
};

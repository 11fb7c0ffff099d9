/** Features and log pages of a Migration Management Controller: 21h, and the vendor specific C8h and C9h. docs/live-migration-over-tcp.md */
import { Feature } from '../../spec/feature.ts';
import {
  CDQ_FEATURE_DATA_BYTES,
  CdqEvent,
  CHANGED_BLOCKS_FEATURE,
  ChangedBlocksAction,
  MIGRATION_EXTENSION_UUID,
} from '../../spec/migration.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { cdqFeatureCodec } from '../../wire/cold/log-migration.ts';
import { sqeCdw11, sqeCdw12, sqeCdw13, sqeCdw14, sqeNsid } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import { isManager } from '../fence.ts';
import { untrackedPage } from '../migration/changed-blocks.ts';
import type { DataQueue } from '../migration/migration.ts';
import { ResidentQueue } from '../migration/resident-queue.ts';
import type { Request } from '../request.ts';
import type { FeatureEntry } from './feature.ts';
import { migrationOf } from './migration.ts';

/** Where our UUID stands in the list of Identify CNS 17h. */
const EXTENSION_INDEX = 1;
const UUID_ENTRY_BYTES = 32;
const TRIGGER_ENABLED = 0x8000_0000;

/** Identify CNS 17h. */
export function uuidList(): Uint8Array {
  const page = new Uint8Array(4096);
  page.set(MIGRATION_EXTENSION_UUID, EXTENSION_INDEX * UUID_ENTRY_BYTES + 16);
  return page;
}

/** What is vendor specific is ours only with our UUID's index. @returns 0 or a status */
export const checkExtension = (request: Request): number =>
  (sqeCdw14(request.sqe, request.sqeBase) & 0x7f) === EXTENSION_INDEX ? 0 : request.invalidField(56);

const queueOf = (request: Request, cdqid: number): DataQueue | undefined =>
  migrationOf(request).queue(request.queuePair.controller!, cdqid);

const queueFeature: FeatureEntry = {
  fid: Feature.ControllerDataQueue,
  onDiscovery: false,
  dataBytes: CDQ_FEATURE_DATA_BYTES,
  onlyGetHasData: true,
  // nvme-cli asks for HP and TPT alone
  shortestBytes: 8,
  initial: 0,
  isServed: isManager,
  check(request): number {
    const queue = queueOf(request, sqeCdw11(request.sqe, request.sqeBase) & 0xffff);
    return queue === undefined ? request.fail(SpecificStatus.InvalidControllerDataQueue, 44) : 0;
  },
  get(_controller, request): Uint8Array {
    const { ring, cdqid } = queueOf(request, sqeCdw11(request.sqe, request.sqeBase) & 0xffff)!;
    request.result0 = (cdqid | (ring.triggerEnabled ? TRIGGER_ENABLED : 0)) >>> 0;
    return cdqFeatureCodec.encode({ hp: ring.head, tpt: ring.triggerSlot });
  },
  set(controller, request): number {
    const { sqe, sqeBase } = request;
    const value = sqeCdw11(sqe, sqeBase);
    const { ring, log, cdqid } = queueOf(request, value & 0xffff)!;
    const armed = (value & TRIGGER_ENABLED) !== 0;
    if (armed && sqeCdw13(sqe, sqeBase) >= ring.slots) return request.invalidField(52);
    if (!log.consume(sqeCdw12(sqe, sqeBase))) return request.invalidField(48);
    ring.arm(armed, sqeCdw13(sqe, sqeBase));
    controller.asyncEvents.dropOneShot(CdqEvent.TailPointer, cdqid);
    return 0;
  },
};

const changedBlocksFeature: FeatureEntry = {
  fid: CHANGED_BLOCKS_FEATURE,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  scope: 'namespace',
  isServed: isManager,
  check: checkExtension,
  get: (controller, request) => (controller.namespace(sqeNsid(request.sqe, request.sqeBase))!.changes ? 1 : 0),
  set(controller, request): number {
    const { sqe, sqeBase } = request;
    const migration = migrationOf(request);
    const namespace = controller.namespace(sqeNsid(sqe, sqeBase))!;
    const action = sqeCdw11(sqe, sqeBase);
    if (action === ChangedBlocksAction.Start) return migration.startChanges(controller, namespace);
    const { changes } = namespace;
    if (changes !== undefined && changes.manager !== controller) return Status.CommandSequenceError | DNR;
    if (action === ChangedBlocksAction.Stop) {
      migration.stopChanges(namespace);
      return 0;
    }
    if (action !== ChangedBlocksAction.Acknowledge && action !== ChangedBlocksAction.GiveBack) {
      return request.invalidField(44);
    }
    if (changes === undefined) return Status.CommandSequenceError | DNR;
    if (action === ChangedBlocksAction.GiveBack) changes.giveBack();
    else if (!changes.acknowledge(sqeCdw12(sqe, sqeBase) + sqeCdw13(sqe, sqeBase) * 2 ** 32)) {
      return request.invalidField(48);
    }
    return 0;
  },
};

export const MIGRATION_FEATURES: readonly FeatureEntry[] = [queueFeature, changedBlocksFeature];

/** Log page C8h, of which the request gets the part that it asks for. @returns a status */
export function residentQueueLog(request: Request): number {
  const status = checkExtension(request);
  if (status !== 0) return status;
  const { sqe, sqeBase } = request;
  const queue = queueOf(request, sqeCdw11(sqe, sqeBase) >>> 16);
  // one in host memory is read there
  if (!(queue instanceof ResidentQueue)) return request.fail(SpecificStatus.InvalidControllerDataQueue, 46);
  const offset = sqeCdw12(sqe, sqeBase) + sqeCdw13(sqe, sqeBase) * 2 ** 32;
  request.lengthBytes = request.transferBytes;
  request.answerBytes = request.transferBytes;
  const isThere = migrationOf(request).lendQueue(queue, request, offset, request.transferBytes);
  return isThere ? 0 : request.invalidField(48);
}

/** Log page C9h. */
export function changedBlocksLog(request: Request, controller: Controller): Uint8Array | number {
  const status = checkExtension(request);
  if (status !== 0) return status;
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  const namespace = controller.namespace(nsid);
  if (namespace === undefined) return request.invalidField(4);
  const { changes } = namespace;
  if (changes === undefined) return untrackedPage(nsid);
  return changes.manager === controller ? changes.page() : Status.CommandSequenceError | DNR;
}

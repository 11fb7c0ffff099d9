/** Track Send SEL 1h (Track Memory Changes) and Track Receive (Tracked Memory Changes). Base 2.1 sections 5.1.26.2, 5.1.27. */
import { LifecycleInput } from '../../migration/lifecycle.ts';
import { MEMORY_UNIT_BYTES } from '../../spec/migration.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import {
  decodeTrackMemory,
  encodeMemoryReport,
  MEMORY_REPORT_HEADER_BYTES,
  MEMORY_REPORT_RANGE_BYTES,
  TRACK_MEMORY_HEADER_BYTES,
  TRACK_MEMORY_RANGE_BYTES,
  type TrackMemoryChanges,
  trackMemoryBytes,
} from '../../wire/cold/track-memory.ts';
import { WireError } from '../../wire/cold/wire-error.ts';
import { sqeCdw10, sqeCdw11, sqeCdw12, sqeSglLength } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import { RANGES_OF_MANAGER_MAX } from '../migration/memory-tracks.ts';
import type { Migration } from '../migration/migration.ts';
import type { Request } from '../request.ts';
import type { CommandHandler } from './command-set.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';

const START = 0x1_0000;
const REPORTED_TRACKED = 0;
const DATA_BYTES_MAX = TRACK_MEMORY_HEADER_BYTES + RANGES_OF_MANAGER_MAX * TRACK_MEMORY_RANGE_BYTES;

const cdw10 = (request: Request): number => sqeCdw10(request.sqe, request.sqeBase);
const cntlidOf = (request: Request): number => sqeCdw11(request.sqe, request.sqeBase) & 0xffff;
const migrationOf = (request: Request): Migration => request.queuePair.controller!.subsystem.migration!;
const unknownController = (request: Request): number => request.fail(SpecificStatus.InvalidControllerIdentifier, 44);

/** Host memory is tracked where some controller of the subsystem reaches any. */
export const tracksMemory = ({ subsystem }: Controller): boolean => subsystem.hasMemoryControllers;

/** The command has no length: its data's own count says it. @returns 0 or a status */
export function prepareTrackMemory(request: Request): number {
  const controller = request.queuePair.controller!;
  if (!tracksMemory(controller)) return request.invalidField(40);
  // a stop has no data, whatever it points to
  if ((cdw10(request) & START) === 0) return 0;
  let bytes = 0;
  if (controller.memory === undefined) {
    bytes = sqeSglLength(request.sqe, request.sqeBase);
    if (bytes < TRACK_MEMORY_HEADER_BYTES) return request.fail(Status.DataSglLengthInvalid, 32);
  } else {
    const head = controller.memory.peek(request, TRACK_MEMORY_HEADER_BYTES);
    if (head === undefined) return Status.DataTransferError | DNR;
    bytes = trackMemoryBytes(head);
  }
  if (bytes > DATA_BYTES_MAX) return request.invalidField(24);
  request.direction = Direction.HostToController;
  request.transferBytes = bytes;
  return 0;
}

/** @returns its status */
export function trackMemory(request: Request): number {
  const migration = migrationOf(request);
  const manager = request.queuePair.controller!;
  const ward = migration.ward(cntlidOf(request));
  if (ward === undefined) return unknownController(request);
  const status = migration.step(ward, LifecycleInput.TrackSend);
  if (status !== 0) return request.fail(status, 44);
  const { memory } = migration;
  if ((cdw10(request) & START) === 0) {
    if (!memory.mayStop(manager, ward.controller)) return unknownController(request);
    memory.stop(ward.controller);
    return Status.Success;
  }
  let asked: TrackMemoryChanges;
  try {
    asked = decodeTrackMemory(request.data());
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return request.invalidField(24);
  }
  const refusal = memory.start(manager, ward.controller, asked);
  if (refusal === undefined) return Status.Success;
  request.result0 = refusal.granularity ?? 0;
  request.result1 = refusal.ranges ?? 0;
  return request.fail(refusal.status, refusal.status === SpecificStatus.InvalidControllerIdentifier ? 44 : 24);
}

export const trackReceive: CommandHandler = {
  isOffered: (controller) => controller.subsystem.migration?.manages(controller) === true && tracksMemory(controller),
  prepare(request): number {
    if ((cdw10(request) & 0xff) !== REPORTED_TRACKED) return request.invalidField(40);
    const bytes = (sqeCdw12(request.sqe, request.sqeBase) + 1) * 4;
    // less than one change would be a report that takes nothing and gives nothing
    if (bytes > TRANSFER_BYTES_MAX || bytes < MEMORY_REPORT_HEADER_BYTES + MEMORY_REPORT_RANGE_BYTES) {
      return request.invalidField(48);
    }
    request.direction = Direction.ControllerToHost;
    request.transferBytes = bytes;
    return 0;
  },
  execute(request): void {
    const migration = migrationOf(request);
    const ward = migration.ward(cntlidOf(request));
    const tracker =
      ward === undefined ? undefined : migration.memory.trackerOf(request.queuePair.controller!, ward.controller);
    if (ward === undefined || tracker === undefined) {
      request.finish(unknownController(request));
      return;
    }
    const room = Math.floor((request.transferBytes - MEMORY_REPORT_HEADER_BYTES) / MEMORY_REPORT_RANGE_BYTES);
    const { changes, more } = tracker.report(room);
    const unit = MEMORY_UNIT_BYTES * 2 ** tracker.granularityExponent;
    request.answer(
      encodeMemoryReport({
        more,
        suspended: migration.isSuspended(ward),
        cntlid: ward.controller.cntlid,
        rpmpg: tracker.granularityExponent,
        changes: changes.map(({ address, lengthBytes }) => ({ saddr: BigInt(address), len: lengthBytes / unit })),
      }),
    );
    request.finish(0);
  },
};

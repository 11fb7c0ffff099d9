/** Features of a Migration Management Controller that a move across fabrics needs, vendor specific. docs/live-migration-over-tcp.md */
import { FENCE_DATA_BYTES, FenceAction, MoveFeature, PeerAction } from '../../spec/migration.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { NvmeofError } from '../../util/error.ts';
import {
  DISCOVERY_ENTRY_BYTES,
  type DiscoveryLogEntry,
  discoveryLogEntryCodec,
} from '../../wire/cold/discovery-log.ts';
import { FenceFlag, fenceCodec } from '../../wire/cold/fence.ts';
import { decodeReservationStatus } from '../../wire/cold/reservation.ts';
import { WireError } from '../../wire/cold/wire-error.ts';
import { sqeCdw11, sqeCdw12, sqeCdw13, sqeNsid } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import { peerFault } from '../discovery-peers.ts';
import { isManager } from '../fence.ts';
import { setFence } from '../fence-change.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { imageOfStatus, type ReservationImage } from '../reservation-image.ts';
import type { Subsystem } from '../subsystem.ts';
import type { FeatureEntry } from './feature.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';
import { migrationOf } from './migration.ts';
import { checkExtension } from './migration-features.ts';
import { settle } from './settle.ts';

const cdw11 = ({ sqe, sqeBase }: Request): number => sqeCdw11(sqe, sqeBase);

/** CDW12 and CDW13. */
const epochOf = ({ sqe, sqeBase }: Request): bigint =>
  BigInt(sqeCdw12(sqe, sqeBase)) | (BigInt(sqeCdw13(sqe, sqeBase)) << 32n);

const namespaceOf = (controller: Controller, { sqe, sqeBase }: Request): Namespace =>
  controller.namespace(sqeNsid(sqe, sqeBase))!;

const VENDOR = { onDiscovery: false, dataBytes: 0, initial: 0, isServed: isManager, check: checkExtension };

const fenceFeature: FeatureEntry = {
  ...VENDOR,
  fid: MoveFeature.Fence,
  dataBytes: FENCE_DATA_BYTES,
  onlyGetHasData: true,
  scope: 'namespace',
  get(controller, request): Uint8Array {
    const { fence } = namespaceOf(controller, request);
    const flags =
      (fence.isClosed ? FenceFlag.Closed : 0) | (controller.subsystem.state === undefined ? 0 : FenceFlag.Durable);
    return fenceCodec.encode({ flags, epoch: fence.epoch });
  },
  set(controller, request): number | undefined {
    const action = cdw11(request);
    if (action > FenceAction.Close) return request.invalidField(44);
    const isOpen = action === FenceAction.Open;
    const change = { isOpen, epoch: epochOf(request), manager: controller };
    settle(request, setFence(controller.subsystem, namespaceOf(controller, request), change));
    return undefined;
  },
};

const reservationsFeature: FeatureEntry = {
  ...VENDOR,
  fid: MoveFeature.Reservations,
  onlySet: true,
  scope: 'namespace',
  check(request): number {
    const status = checkExtension(request);
    if (status !== 0) return status;
    const bytes = cdw11(request);
    return bytes > TRANSFER_BYTES_MAX || bytes % 4 !== 0 ? request.invalidField(44) : 0;
  },
  setBytes: cdw11,
  get: () => 0,
  set(controller, request): number | undefined {
    const { fence, reservations } = namespaceOf(controller, request);
    if (!fence.isClosed || fence.isStale(epochOf(request))) return Status.CommandSequenceError | DNR;
    const data = request.transferBytes === 0 ? undefined : request.data();
    let image: ReservationImage;
    try {
      image = imageOfStatus(data === undefined ? undefined : decodeReservationStatus(data, true));
    } catch (error) {
      if (!(error instanceof WireError || error instanceof NvmeofError)) throw error;
      return request.invalidField(24);
    }
    if (image.persistThroughPowerLoss && !reservations.canPersist) return request.invalidField(24);
    settle(request, replaced(request, reservations.import(image)));
    return undefined;
  },
};

async function replaced(request: Request, done: Promise<void>): Promise<number> {
  try {
    await done;
    return Status.Success;
  } catch (error) {
    if (!(error instanceof NvmeofError)) throw error;
    const { subsystem } = request.queuePair.controller!;
    subsystem.events.warning?.(subsystem, 'Reservations were not taken over', error);
    return error.code === 'NVMEOF_ERR_RESERVATION_IMAGE' ? request.invalidField(24) : Status.InternalError;
  }
}

const peerFeature: FeatureEntry = {
  ...VENDOR,
  fid: MoveFeature.Peer,
  onlySet: true,
  dataBytes: DISCOVERY_ENTRY_BYTES,
  get: () => 0,
  set({ subsystem }, request): number | undefined {
    const action = cdw11(request);
    if (action > PeerAction.Add) return request.invalidField(44);
    const entry = discoveryLogEntryCodec.decode(request.data());
    if (peerFault(entry, subsystem.nqn) !== undefined) return request.invalidField(24);
    settle(request, announced(subsystem, entry, action === PeerAction.Add));
    return undefined;
  },
};

async function announced(subsystem: Subsystem, entry: DiscoveryLogEntry, isThere: boolean): Promise<number> {
  const before = subsystem.peers.all;
  try {
    if (!(await subsystem.peers.change(entry, isThere))) return SpecificStatus.NotEnoughResources | DNR;
  } catch (error) {
    subsystem.events.stateNotSaved(subsystem, error);
    return Status.InternalError;
  }
  if (subsystem.peers.all !== before) subsystem.events.peersChanged?.();
  return Status.Success;
}

const KIB = 1024;

const writeLimitFeature: FeatureEntry = {
  ...VENDOR,
  fid: MoveFeature.WriteLimit,
  scope: 'namespace',
  get: (controller, request) => (namespaceOf(controller, request).writeLimit?.bytesPerSecond ?? 0) / KIB,
  set(controller, request): number {
    const kib = cdw11(request);
    const bytesPerSecond = kib === 0 ? undefined : kib * KIB;
    return migrationOf(request).limitWrites(controller, namespaceOf(controller, request), bytesPerSecond);
  },
};

const resetFeature: FeatureEntry = {
  ...VENDOR,
  fid: MoveFeature.Reset,
  onlySet: true,
  get: () => 0,
  set(_controller, request): number {
    const migration = migrationOf(request);
    const ward = cdw11(request) > 0xffff ? undefined : migration.ward(cdw11(request));
    if (ward === undefined) return request.fail(SpecificStatus.InvalidControllerIdentifier, 44);
    return migration.reset(ward);
  },
};

export const MOVE_FEATURES: readonly FeatureEntry[] = [
  fenceFeature,
  reservationsFeature,
  peerFeature,
  writeLimitFeature,
  resetFeature,
];

/** Namespace Management (0Dh) and Namespace Attachment (15h): served where the subsystem has a pool of volumes. Base 2.1 sections 5.1.20, 5.1.21. */
import { IDENTIFY_BYTES, NSID_ALL } from '../../spec/identify.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { decodeControllerList } from '../../wire/cold/lists.ts';
import { namespaceCreateCodec } from '../../wire/cold/namespace-management.ts';
import { WireError } from '../../wire/cold/wire-error.ts';
import { sqeCdw10, sqeCdw11, sqeNsid } from '../../wire/sqe.ts';
import { Access, conflictOf } from '../access.ts';
import type { Controller } from '../controller.ts';
import { LBA_FORMAT_SIZES, type Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import type { CommandHandler } from './command-set.ts';
import { settle } from './settle.ts';

const Select = { Create: 0, Delete: 1 } as const;
const AttachSelect = { Attach: 0, Detach: 1 } as const;
const NMIC_SHARED = 0x01;
const select = (request: Request): number => sqeCdw10(request.sqe, request.sqeBase) & 0xf;
const isOffered = ({ subsystem }: Controller): boolean =>
  !subsystem.isDiscovery && subsystem.manager.pool !== undefined;

/** The namespace that the command names, if it may change it; or why not. */
function changeable(request: Request): Namespace | number {
  const controller = request.queuePair.controller!;
  const { subsystem } = controller;
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  if (nsid === 0 || (nsid > subsystem.nsidMax && nsid !== NSID_ALL)) {
    return request.fail(Status.InvalidNamespaceOrFormat, 4);
  }
  const namespace = subsystem.allocated(nsid, controller.hostnqn);
  if (namespace === undefined) return request.invalidField(4);
  return conflictOf(controller, namespace, Access.Write) ?? namespace;
}

export const namespaceManagement: CommandHandler = {
  isOffered,
  prepare(request): number {
    const { refusal } = request.queuePair.controller!.subsystem.sanitizer;
    if (refusal !== undefined) return refusal;
    switch (select(request)) {
      case Select.Create:
        if (sqeCdw11(request.sqe, request.sqeBase) >>> 24 !== 0) {
          return request.fail(SpecificStatus.IoCommandSetNotSupported, 47);
        }
        request.direction = Direction.HostToController;
        request.transferBytes = IDENTIFY_BYTES;
        return 0;
      case Select.Delete:
        return 0;
      default:
        return request.invalidField(40);
    }
  },
  execute(request): void {
    settle(request, select(request) === Select.Create ? create(request) : remove(request));
  },
};

async function create(request: Request): Promise<number> {
  const { nsze, ncap, flbas, dps, nmic, lbstm } = namespaceCreateCodec.decode(request.data());
  const { manager } = request.queuePair.controller!.subsystem;
  const blockSize = LBA_FORMAT_SIZES[(flbas & 0xf) | ((flbas >> 1) & 0x30)];
  if (blockSize === undefined || dps !== 0) return SpecificStatus.InvalidFormat | DNR;
  if (lbstm !== 0n || nsze === 0n || ncap > nsze) return Status.InvalidField | DNR;
  if (ncap < nsze) return SpecificStatus.ThinProvisioningNotSupported | DNR;
  const bytes = nsze * BigInt(blockSize);
  if (bytes > BigInt(Number.MAX_SAFE_INTEGER)) return SpecificStatus.NamespaceInsufficientCapacity | DNR;
  const made = await manager.create({ sizeBytes: Number(bytes), blockSize, shared: (nmic & NMIC_SHARED) !== 0 });
  if (typeof made === 'number') return made;
  request.result0 = made.nsid;
  return 0;
}

async function remove(request: Request): Promise<number> {
  const controller = request.queuePair.controller!;
  const { subsystem } = controller;
  if (sqeNsid(request.sqe, request.sqeBase) !== NSID_ALL) {
    const namespace = changeable(request);
    return typeof namespace === 'number' ? namespace : subsystem.manager.delete(namespace.nsid, controller);
  }
  // all of them, or none: configured ones are the operator's
  const all = subsystem.allocatedNamespaces();
  for (const namespace of all) {
    if (!namespace.isVolume) return Status.OperationDenied | DNR;
    const conflict = conflictOf(controller, namespace, Access.Write);
    if (conflict !== undefined) return conflict;
  }
  for (const { nsid } of all) {
    const status = await subsystem.manager.delete(nsid, controller);
    if (status !== 0) return status;
  }
  return 0;
}

export const namespaceAttachment: CommandHandler = {
  isOffered,
  prepare(request): number {
    const { refusal } = request.queuePair.controller!.subsystem.sanitizer;
    if (refusal !== undefined) return refusal;
    if (select(request) > AttachSelect.Detach) return request.invalidField(40);
    request.direction = Direction.HostToController;
    request.transferBytes = IDENTIFY_BYTES;
    return 0;
  },
  execute(request): void {
    settle(request, attach(request));
  },
};

async function attach(request: Request): Promise<number> {
  const { subsystem } = request.queuePair.controller!;
  const namespace = changeable(request);
  if (typeof namespace === 'number') return namespace;
  const controllers = listedControllers(request);
  if (controllers === undefined) return SpecificStatus.ControllerListInvalid | DNR;
  return select(request) === AttachSelect.Attach
    ? subsystem.manager.attach(namespace, controllers)
    : subsystem.manager.detach(namespace, controllers);
}

/** Undefined: the list is empty or malformed, or names a controller that does not exist. */
function listedControllers(request: Request): Controller[] | undefined {
  const { subsystem } = request.queuePair.controller!;
  let cntlids: number[];
  try {
    cntlids = decodeControllerList(request.data());
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
  const controllers = cntlids.map((cntlid) => subsystem.controller(cntlid)).filter((one) => one !== undefined);
  return controllers.length === cntlids.length && cntlids.length > 0 ? controllers : undefined;
}

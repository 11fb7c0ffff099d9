/** Identify. Base 2.1 section 5.1.13, NVM Command Set 1.2 section 4.1.5. */

import { Cns, IDENTIFY_BYTES, NSID_ALL } from '../../spec/identify.ts';
import { AsyncEventBit, IO_EVENT_BITS } from '../../spec/log-page.ts';
import { TrackingAttribute } from '../../spec/migration.ts';
import { Direction } from '../../spec/opcode.ts';
import { NVME_VERSION_2_1 } from '../../spec/property.ts';
import { SanitizeCapability } from '../../spec/sanitize.ts';
import { DNR, Status } from '../../spec/status.ts';
import type { MemoryTransport } from '../../transport/pcie/memory-transport.ts';
import { type IdentifyController, identifyControllerCodec } from '../../wire/cold/identify-controller.ts';
import { independentNamespaceCodec } from '../../wire/cold/identify-independent.ts';
import { identifyNamespaceCodec } from '../../wire/cold/identify-namespace.ts';
import { nvmControllerCodec, nvmNamespaceCodec } from '../../wire/cold/identify-nvm.ts';
import {
  CONTROLLER_LIST_MAX,
  encodeControllerList,
  encodeNamespaceDescriptors,
  encodeNsidList,
} from '../../wire/cold/lists.ts';
import { sqeCdw10, sqeNsid } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import { anaGroupOf, hidesCapacity } from '../ana-access.ts';
import { ANA_GROUP_CLOSED, ANACAP } from '../ana-group.ts';
import { AER_LIMIT } from '../async-events.ts';
import { type Controller, KEEP_ALIVE_GRANULARITY_100MS } from '../controller.ts';
import { OVER_TEMPERATURE_KELVIN } from '../device-health.ts';
import { ERROR_LOG_ENTRIES } from '../error-log.ts';
import { isManager } from '../fence.ts';
import {
  GRANULARITY_MAX,
  GRANULARITY_MIN,
  RANGES_OF_MANAGER_MAX,
  RANGES_OF_SUBSYSTEM_MAX,
} from '../migration/memory-tracks.ts';
import { QUEUES_OF_CONTROLLER_MAX, QUEUES_OF_SUBSYSTEM_MAX } from '../migration/migration.ts';
import { LBA_FORMAT_SIZES, type Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { passthroughOacs } from './admin-passthrough.ts';
import type { CommandHandler } from './command-set.ts';
import { COPY_FORMATS, copyLimits } from './copy.ts';
import { canFormat } from './format.ts';
import { allocationGranule } from './lba-status.ts';
import { ABORT_LIMIT, FIRMWARE_REVISION, MDTS, TRANSFER_BYTES_MAX } from './limits.ts';
import { tracksMemory } from './memory-tracking.ts';
import { stateFormats } from './migration.ts';
import { uuidList } from './migration-features.ts';

const CSI_NVM = 0;
const NVM_COMMAND_SET_VERSION_1_2 = 0x0001_0200;
const NSID_LIST_MAX = 1024;

const CTRATT_HOST_ID_128 = 0x01;
const CTRATT_TRAFFIC_BASED_KEEP_ALIVE = 0x40;
/** RHII: reservation commands need a host identifier. */
const CTRATT_RESERVATIONS_NEED_HOST_ID = 0x0004_0000;
const CTRATT_UUID_LIST = 0x200;
const CMIC_MULTI_PORT = 0x01;
const CMIC_MULTI_CONTROLLER = 0x02;
const CMIC_ANA = 0x08;
const LPA_EFFECTS = 0x02;
const LPA_EXTENDED = 0x04;
const LPA_SUPPORTED_PAGES = 0x20;
/** HMLMS. */
const OACS_LIVE_MIGRATION = 0x800;
const OACS_GET_LBA_STATUS = 0x200;
const OACS_DOORBELL_BUFFERS = 0x100;
const ONCS_COMPARE = 0x01;
const ONCS_WRITE_UNCORRECTABLE = 0x02;
const ONCS_DSM = 0x04;
const ONCS_WRITE_ZEROES = 0x08;
const ONCS_RESERVATIONS = 0x20;
const ONCS_TIMESTAMP = 0x40;
const ONCS_VERIFY = 0x80;
const ONCS_COPY = 0x100;
/** All that one Copy writes counts as one write. */
const ONCS_COPY_ATOMIC = 0x200;
/** NSZ in Write Zeroes. */
const ONCS_NAMESPACE_ZEROES = 0x1000;
/** RALBAS: Get LBA Status tells of allocated blocks. */
const AOCS_ALLOCATED_BLOCKS = 0x01;
const FUSES_COMPARE_AND_WRITE = 0x01;
const VWC_PRESENT = 0x01;
/** Flush with NSID FFFFFFFFh is supported. */
const VWC_FLUSH_ALL = 0x06;
const SGLS_BYTE_ALIGNED = 0x01;
/** SGLs longer than the data are accepted. */
const SGLS_LONGER = 0x0004_0000;
const SGLS_BIT_BUCKET = 0x0001_0000;
const SGLS_OFFSET = 0x0010_0000;
const SGLS_TRANSPORT = 0x0020_0000;
const FCATT_STATIC = 0x01;
const DCTYPE_DDC = 1;
const ENTRY_SIZES_64 = 0x66;
const ENTRY_SIZES_16 = 0x44;
const OACS_FORMAT = 0x02;
const OACS_NAMESPACE_MANAGEMENT = 0x08;
/** Format NVM does not take NSID FFFFFFFFh. */
const FNA_NO_BROADCAST = 0x08;
const SANICAP =
  SanitizeCapability.BlockErase |
  SanitizeCapability.Overwrite |
  SanitizeCapability.NoDeallocateInhibited |
  SanitizeCapability.NotModifiedAfterwards;
const NMIC_SHARED = 0x01;
const NSFEAT_ATOMICS = 0x02;
const NSFEAT_DEALLOCATED_ERROR = 0x04;
const NSFEAT_IDS_NEVER_REUSED = 0x08;
const NSFEAT_OPTPERF = 0x10;
const DLFEAT_READS_ZERO = 0x01;
const DLFEAT_WRITE_ZEROES_DEAC = 0x08;
const NSATTR_WRITE_PROTECTED = 0x01;
const NSTAT_READY = 0x01;
/** Critical composite temperature, K: 80 degrees Celsius. */
const CCTEMP_KELVIN = 353;

/** Of one with siblings whose queues stand in host memory. */
const MEMORY_FIELDS = {
  trattr: TrackingAttribute.UserData | TrackingAttribute.HostMemory,
  cmmrtd: RANGES_OF_MANAGER_MAX,
  nmmrtd: RANGES_OF_SUBSYSTEM_MAX,
  minmrtg: GRANULARITY_MIN,
  maxmrtg: GRANULARITY_MAX,
};

/** Of a Migration Management Controller. */
const MANAGER_FIELDS = {
  trattr: TrackingAttribute.UserData,
  mcudmq: QUEUES_OF_CONTROLLER_MAX,
  mnsudmq: QUEUES_OF_SUBSYSTEM_MAX,
};

type Build = (request: Request, controller: Controller) => Uint8Array | number;

function nsidOf(request: Request): number {
  return sqeNsid(request.sqe, request.sqeBase);
}

/** The namespace, or null if the NSID is valid and nothing is there, or the status for an NSID that cannot be. */
function lookUp(request: Request, controller: Controller): Namespace | null | number {
  const nsid = nsidOf(request);
  if (nsid === 0 || nsid > controller.subsystem.nsidMax) return request.fail(Status.InvalidNamespaceOrFormat, 4);
  return controller.namespace(nsid) ?? null;
}

const EMPTY_PAGE = new Uint8Array(IDENTIFY_BYTES);

/** A structure of one namespace: zeroes where the NSID is not active. */
function ofNamespace(build: (namespace: Namespace, controller: Controller) => Uint8Array): Build {
  return (request, controller) => {
    const found = lookUp(request, controller);
    if (typeof found === 'number') return found;
    return found === null ? EMPTY_PAGE : build(found, controller);
  };
}

const fabricFields = ({ inCapsuleBytes }: Controller): Partial<IdentifyController> => ({
  sgls: SGLS_BYTE_ALIGNED | SGLS_LONGER | SGLS_OFFSET | SGLS_TRANSPORT,
  ioccsz: (64 + inCapsuleBytes) / 16,
  iorcsz: 1,
  msdbd: 1,
});

const pcieFields = ({ vendorId }: MemoryTransport): Partial<IdentifyController> => ({
  vid: vendorId,
  ssvid: vendorId,
  sgls: SGLS_BYTE_ALIGNED | SGLS_LONGER | SGLS_BIT_BUCKET,
});

function identifyController(_request: Request, controller: Controller): Uint8Array {
  const { subsystem } = controller;
  const common = {
    sn: subsystem.serial,
    mn: subsystem.model,
    fr: FIRMWARE_REVISION,
    mdts: MDTS,
    cntlid: controller.cntlid,
    ver: NVME_VERSION_2_1,
    cntrltype: controller.kind,
    aerl: AER_LIMIT - 1,
    elpe: ERROR_LOG_ENTRIES - 1,
    kas: KEEP_ALIVE_GRANULARITY_100MS,
    lpa: LPA_EFFECTS | LPA_EXTENDED | LPA_SUPPORTED_PAGES,
    maxcmd: controller.queueEntriesMax,
    subnqn: subsystem.nqn,
    acl: ABORT_LIMIT,
    ...(controller.memory === undefined ? fabricFields(controller) : pcieFields(controller.memory)),
    ctratt: CTRATT_HOST_ID_128 | CTRATT_TRAFFIC_BASED_KEEP_ALIVE,
  };
  if (subsystem.isDiscovery) {
    return identifyControllerCodec.encode({
      ...common,
      oaes: AsyncEventBit.DiscoveryChange,
      ioccsz: 4,
      dctype: DCTYPE_DDC,
    });
  }
  let capacity = 0n;
  for (const namespace of subsystem.allocatedNamespaces())
    capacity += BigInt(namespace.blockCount) * BigInt(namespace.blockSize);
  const { manager, sanitizer } = subsystem;
  capacity += BigInt(manager.unallocatedBytes);
  const canManage = manager.pool !== undefined;
  const manages = isManager(controller);
  return identifyControllerCodec.encode({
    ...common,
    cmic: CMIC_MULTI_PORT | CMIC_MULTI_CONTROLLER | CMIC_ANA,
    oaes: IO_EVENT_BITS,
    anatt: subsystem.ana.transitionSeconds,
    anacap: ANACAP,
    anagrpmax: ANA_GROUP_CLOSED,
    nanagrpid: ANA_GROUP_CLOSED,
    ctratt: common.ctratt | CTRATT_RESERVATIONS_NEED_HOST_ID | (manages ? CTRATT_UUID_LIST : 0),
    ...(manages ? MANAGER_FIELDS : {}),
    ...(manages && tracksMemory(controller) ? MEMORY_FIELDS : {}),
    oacs:
      OACS_GET_LBA_STATUS |
      passthroughOacs(controller) |
      (controller.memory === undefined ? 0 : OACS_DOORBELL_BUFFERS) |
      (manages ? OACS_LIVE_MIGRATION : 0) |
      (canFormat(controller) ? OACS_FORMAT : 0) |
      (canManage ? OACS_NAMESPACE_MANAGEMENT : 0),
    fna: FNA_NO_BROADCAST,
    sanicap: sanitizer.isOffered ? SANICAP : 0,
    unvmcap: BigInt(manager.unallocatedBytes),
    frmw: 0x03, // one slot, read only
    wctemp: OVER_TEMPERATURE_KELVIN,
    cctemp: CCTEMP_KELVIN,
    tnvmcap: capacity,
    sqes: ENTRY_SIZES_64,
    cqes: ENTRY_SIZES_16,
    nn: subsystem.nsidMax,
    mnan: subsystem.nsidMax,
    // no size limits (CNS 06h): each bit is set
    oncs:
      ONCS_COMPARE |
      ONCS_WRITE_UNCORRECTABLE |
      ONCS_DSM |
      ONCS_WRITE_ZEROES |
      ONCS_RESERVATIONS |
      ONCS_TIMESTAMP |
      ONCS_VERIFY |
      ONCS_COPY |
      ONCS_COPY_ATOMIC |
      ONCS_NAMESPACE_ZEROES,
    fuses: FUSES_COMPARE_AND_WRITE,
    ocfs: COPY_FORMATS,
    // one bit per state beyond "none and protected", which come together
    nwpc: subsystem.protectionsServed >>> 1,
    // AWUN, AWUPF, ACWU: one block, whatever the backend; what a namespace adds is in its own structure
    vwc: (subsystem.hasVolatileWriteCache ? VWC_PRESENT : 0) | VWC_FLUSH_ALL,
    fcatt: subsystem.controllerModel === 'static' ? FCATT_STATIC : 0,
  });
}

/**
 * 0's based blocks, 0: as the controller says (one block). A backend's atomic unit holds for writes inside one unit, so it is the boundary, too.
 * Compare and Write has its range for itself, up to the largest transfer; where reads lend memory, it is whole only within the unit.
 */
function atomicUnits(namespace: Namespace): { nawun: number; nabsn: number; nacwu: number } {
  const blocks = (bytes: number): number => Math.max(1, bytes / namespace.blockSize) - 1;
  const unit = blocks(namespace.backend.atomicBytes ?? 0);
  return { nawun: unit, nabsn: unit, nacwu: namespace.readNeedsBuffer ? blocks(TRANSFER_BYTES_MAX) : unit };
}

function identifyNamespace(namespace: Namespace, controller: Controller): Uint8Array {
  const size = BigInt(namespace.blockCount);
  const hidden = hidesCapacity(controller, namespace);
  const { backend } = namespace;
  const allocated = backend.allocatedBytes?.();
  const readsZero = backend.readsZeroAfterDeallocate;
  // preferred granularity: one 4 KiB page
  const page = Math.max(1, 4096 / namespace.blockSize) - 1;
  return identifyNamespaceCodec.encode({
    nsze: size,
    ncap: size,
    nuse: hidden
      ? 0n
      : allocated === undefined
        ? size
        : BigInt(Math.min(Math.ceil(allocated / namespace.blockSize), namespace.blockCount)),
    nsfeat:
      NSFEAT_ATOMICS |
      (namespace.knowsAllocation ? NSFEAT_DEALLOCATED_ERROR : 0) |
      NSFEAT_IDS_NEVER_REUSED |
      NSFEAT_OPTPERF,
    nlbaf: namespace.formatBlockSizes.length - 1,
    flbas: namespace.formatIndex,
    nmic: namespace.shared ? NMIC_SHARED : 0,
    rescap: namespace.reservations.capabilities,
    dlfeat: readsZero ? DLFEAT_READS_ZERO | DLFEAT_WRITE_ZEROES_DEAC : 0,
    ...atomicUnits(namespace),
    ...copyLimits(namespace),
    nvmcap: hidden ? 0n : size * BigInt(namespace.blockSize),
    npwg: page,
    npwa: page,
    npdg: page,
    npda: page,
    anagrpid: anaGroupOf(controller, namespace),
    nsattr: namespace.isWriteProtected ? NSATTR_WRITE_PROTECTED : 0,
    nguid: namespace.nguid,
    eui64: namespace.eui64,
    lbaf: lbaFormats(namespace.formatBlockSizes),
  });
}

function lbaFormats(blockSizes: readonly number[]): { ms: number; lbads: number; rp: number }[] {
  return blockSizes.map((blockSize) => ({ ms: 0, lbads: 31 - Math.clz32(blockSize), rp: 0 }));
}

/** What all namespaces that hosts create have in common (NSID FFFFFFFFh). */
function commonCapabilities(): Uint8Array {
  return identifyNamespaceCodec.encode({
    nsfeat: NSFEAT_IDS_NEVER_REUSED,
    nlbaf: LBA_FORMAT_SIZES.length - 1,
    lbaf: lbaFormats(LBA_FORMAT_SIZES),
  });
}

function independentNamespace(namespace: Namespace, controller: Controller): Uint8Array {
  return independentNamespaceCodec.encode({
    nsfeat: NSFEAT_IDS_NEVER_REUSED | (namespace.backend.volatileWriteCache ? 0 : 0x20),
    nmic: namespace.shared ? NMIC_SHARED : 0,
    anagrpid: anaGroupOf(controller, namespace),
    nsattr: namespace.isWriteProtected ? NSATTR_WRITE_PROTECTED : 0,
    rescap: namespace.reservations.capabilities,
    nstat: NSTAT_READY,
  });
}

// ---- namespace management: allocated namespaces, attached or not

/** CNS 11h, 1Bh, 1Fh: zeroes where nothing is allocated for the host. */
function ofAllocated(build: (namespace: Namespace, controller: Controller) => Uint8Array): Build {
  return (request, controller) => {
    const nsid = nsidOf(request);
    if (nsid === 0 || nsid > controller.subsystem.nsidMax) return request.fail(Status.InvalidNamespaceOrFormat, 4);
    const namespace = controller.subsystem.allocated(nsid, controller.hostnqn);
    return namespace === undefined ? EMPTY_PAGE : build(namespace, controller);
  };
}

function allocatedList(request: Request, controller: Controller): Uint8Array | number {
  const start = nsidOf(request);
  if (start >= NSID_ALL - 1) return request.fail(Status.InvalidNamespaceOrFormat, 4);
  const nsids = controller.subsystem
    .allocatedNamespaces()
    .filter(({ nsid, attachments }) => nsid > start && attachments.permits(controller.hostnqn))
    .map(({ nsid }) => nsid);
  return encodeNsidList(nsids.slice(0, NSID_LIST_MAX));
}

/** CNTIDs from CDW10 bits 31:16 on. */
function controllersFrom(request: Request, controllers: Iterable<Controller>): Uint8Array {
  const start = sqeCdw10(request.sqe, request.sqeBase) >>> 16;
  const cntlids = [...controllers].map(({ cntlid }) => cntlid).filter((cntlid) => cntlid >= start);
  return encodeControllerList(cntlids.sort((a, b) => a - b).slice(0, CONTROLLER_LIST_MAX));
}

function attachedControllers(request: Request, controller: Controller): Uint8Array | number {
  const nsid = nsidOf(request);
  if (nsid === NSID_ALL) return request.invalidField(4);
  if (nsid === 0 || nsid > controller.subsystem.nsidMax) return request.fail(Status.InvalidNamespaceOrFormat, 4);
  const namespace = controller.subsystem.allocated(nsid, controller.hostnqn);
  const all = [...controller.subsystem.controllers];
  return controllersFrom(request, namespace === undefined ? [] : all.filter((one) => namespace.isAttachedTo(one)));
}

const BUILDERS: Readonly<Record<number, Build>> = {
  [Cns.Namespace]: (request, controller) => {
    if (nsidOf(request) === NSID_ALL && controller.subsystem.manager.pool !== undefined) return commonCapabilities();
    return ofNamespace(identifyNamespace)(request, controller);
  },
  [Cns.Controller]: identifyController,
  [Cns.ActiveNamespaceList]: activeList,
  [Cns.NamespaceDescriptors]: (request, controller) => {
    const found = lookUp(request, controller);
    if (typeof found === 'number') return found;
    if (found === null) return request.invalidField(4);
    return encodeNamespaceDescriptors({
      ...(found.eui64 === undefined ? {} : { eui64: found.eui64 }),
      ...(found.nguid === undefined ? {} : { nguid: found.nguid }),
      uuid: found.uuid,
      csi: CSI_NVM,
    });
  },
  [Cns.CommandSetNamespace]: (request, controller) =>
    csiOf(request) === CSI_NVM
      ? ofNamespace((namespace) => nvmNamespaceCodec.encode({ tlbaag: allocationGranule(namespace) }))(
          request,
          controller,
        )
      : request.invalidField(47),
  [Cns.CommandSetController]: (request) =>
    csiOf(request) === CSI_NVM
      ? nvmControllerCodec.encode({ ver: NVM_COMMAND_SET_VERSION_1_2, aocs: AOCS_ALLOCATED_BLOCKS })
      : request.invalidField(47),
  [Cns.CommandSetActiveNamespaceList]: (request, controller) =>
    csiOf(request) === CSI_NVM ? activeList(request, controller) : request.invalidField(47),
  [Cns.IndependentNamespace]: ofNamespace(independentNamespace),
  [Cns.ControllerList]: (request, controller) => controllersFrom(request, controller.subsystem.controllers),
};

/** Only with namespace management. */
const MANAGEMENT_BUILDERS: Readonly<Record<number, Build>> = {
  [Cns.AllocatedNamespaceList]: allocatedList,
  [Cns.AllocatedNamespace]: ofAllocated(identifyNamespace),
  [Cns.NamespaceControllerList]: attachedControllers,
  [Cns.CommandSetAllocatedNamespaceList]: (request, controller) =>
    csiOf(request) === CSI_NVM ? allocatedList(request, controller) : request.invalidField(47),
  [Cns.CommandSetAllocatedNamespace]: (request, controller) =>
    csiOf(request) === CSI_NVM
      ? ofAllocated((namespace) => nvmNamespaceCodec.encode({ tlbaag: allocationGranule(namespace) }))(
          request,
          controller,
        )
      : request.invalidField(47),
  [Cns.IndependentAllocatedNamespace]: ofAllocated(independentNamespace),
};

const MIGRATION_BUILDERS: Readonly<Record<number, Build>> = {
  [Cns.UuidList]: uuidList,
  [Cns.ControllerStateFormats]: stateFormats,
};

/** On a discovery controller only the controller itself can be identified. */
const DISCOVERY_BUILDERS: Readonly<Record<number, Build>> = { [Cns.Controller]: identifyController };

const csiOf = (request: Request): number => request.sqe.getUint8(request.sqeBase + 47);

function activeList(request: Request, controller: Controller): Uint8Array | number {
  const start = nsidOf(request);
  if (start >= NSID_ALL - 1) return request.fail(Status.InvalidNamespaceOrFormat, 4);
  const nsids: number[] = [];
  const { access } = controller;
  for (let nsid = start + 1; nsid < access.length && nsids.length < NSID_LIST_MAX; nsid++) {
    if ((access[nsid]! & Access.Attached) !== 0) nsids.push(nsid);
  }
  return encodeNsidList(nsids);
}

function builderOf(request: Request): Build | undefined {
  const cns = sqeCdw10(request.sqe, request.sqeBase) & 0xff;
  const controller = request.queuePair.controller!;
  const { subsystem } = controller;
  if (subsystem.isDiscovery) return DISCOVERY_BUILDERS[cns];
  if (MIGRATION_BUILDERS[cns] !== undefined) return isManager(controller) ? MIGRATION_BUILDERS[cns] : undefined;
  return BUILDERS[cns] ?? (subsystem.manager.pool === undefined ? undefined : MANAGEMENT_BUILDERS[cns]);
}

export const identify: CommandHandler = {
  prepare(request): number {
    if (builderOf(request) === undefined) return request.invalidField(40);
    request.direction = Direction.ControllerToHost;
    request.transferBytes = IDENTIFY_BYTES;
    return 0;
  },
  execute(request): void {
    const page = builderOf(request)!(request, request.queuePair.controller!);
    if (typeof page === 'number') {
      request.finish(page | DNR);
      return;
    }
    request.answer(page);
    request.finish(0);
  },
};

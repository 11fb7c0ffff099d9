/** Set Features and Get Features, as one table of what is served. Base 2.1 sections 5.1.11, 5.1.25; sheet: fabrics I/O and discovery controllers. */

import { Feature, FeatureSelect } from '../../spec/feature.ts';
import { NSID_ALL } from '../../spec/identify.ts';
import { AsyncEventBit, IO_EVENT_BITS } from '../../spec/log-page.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { SQE_FLAGS_SGL, sqeCdw10, sqeCdw11, sqeFlags, sqeNsid, sqeSglLength } from '../../wire/sqe.ts';
import { type Controller, KATO_MS_MAX, KEEP_ALIVE_GRANULARITY_100MS } from '../controller.ts';
import { OVER_TEMPERATURE_KELVIN, UNDER_TEMPERATURE_KEY } from '../device-health.ts';
import type { Request } from '../request.ts';
import { getFeaturesAna, setFeaturesAna } from './ana-feature.ts';
import type { CommandHandler } from './command-set.ts';
import { IO_FEATURES } from './io-features.ts';
import { MIGRATION_FEATURES } from './migration-features.ts';
import { MOVE_FEATURES } from './move-features.ts';
import { PCIE_FEATURES } from './pcie-features.ts';
import { reservationFeatures } from './reservation-features.ts';

/** One feature: absent `set` means not changeable. */
export interface FeatureEntry {
  readonly fid: number;
  /** Served by discovery controllers as well. */
  readonly onDiscovery: boolean;
  /** Bytes of its data; 0 if the value is a dword. */
  readonly dataBytes: number;
  /** The current value (DW0), and its data if it has any. */
  get(controller: Controller, request: Request): number | Uint8Array;
  /** The value without any Set Features. */
  readonly initial: number;
  /** Its data without any Set Features, if it has any and that is not its current data. */
  readonly initialData?: () => Uint8Array;
  /** Absent: always. */
  readonly isServed?: (controller: Controller) => boolean;
  /** Bytes of data that Set Features takes, if that is not `dataBytes`. */
  readonly setBytes?: (request: Request) => number;
  /** Get Features has nothing to give. */
  readonly onlySet?: boolean;
  /** Set Features takes no data although Get Features gives some. */
  readonly onlyGetHasData?: boolean;
  /** Get Features gives fewer bytes, but not fewer than these, to a host whose SGL asks for fewer. */
  readonly shortestBytes?: number;
  /** Of the fields of either command. @returns 0 or a status */
  readonly check?: (request: Request) => number;
  /**
   * Default: of the controller. 'namespace': of one that is attached; 'namespace-or-all': of one, or all by FFFFFFFFh or 0; 'namespace-set-all': of
   * one, and FFFFFFFFh sets all.
   */
  readonly scope?: 'namespace' | 'namespace-or-all' | 'namespace-set-all';
  /** @returns a status; or undefined: it finishes the request itself */
  readonly set?: (controller: Controller, request: Request) => number | undefined;
}

const KATO_GRANULARITY_MS = KEEP_ALIVE_GRANULARITY_100MS * 100;
const HOST_ID_BYTES = 16;
const TIMESTAMP_BYTES = 8;
const IO_ASYNC_EVENTS = 0xff | IO_EVENT_BITS;

/** A feature that is just a dword which the controller keeps. `mask`: bits that may be set. */
function kept(fid: number, initial: number, mask: number): FeatureEntry {
  return {
    fid,
    onDiscovery: false,
    dataBytes: 0,
    initial,
    get: (controller) => controller.features.get(fid) ?? initial,
    set(controller, request): number {
      const value = sqeCdw11(request.sqe, request.sqeBase);
      if ((value & ~mask) !== 0) return request.invalidField(44);
      controller.features.set(fid, value);
      return 0;
    },
  };
}

/** One value per threshold: TMPSEL (composite only; Fh in a Set means all) and THSEL (0 over, 1 under). */
const temperatureThreshold: FeatureEntry = {
  fid: Feature.TemperatureThreshold,
  onDiscovery: false,
  dataBytes: 0,
  initial: OVER_TEMPERATURE_KELVIN,
  get(controller, request): number {
    if (thresholdSelect(request) === 1) return controller.features.get(UNDER_TEMPERATURE_KEY) ?? 0;
    return controller.features.get(Feature.TemperatureThreshold) ?? OVER_TEMPERATURE_KELVIN;
  },
  set(controller, request): number {
    const sensor = (sqeCdw11(request.sqe, request.sqeBase) >>> 16) & 0xf;
    const select = thresholdSelect(request);
    if ((sensor !== 0 && sensor !== 0xf) || select > 1) return request.invalidField(46);
    const kelvin = sqeCdw11(request.sqe, request.sqeBase) & 0xffff;
    controller.features.set(select === 1 ? UNDER_TEMPERATURE_KEY : Feature.TemperatureThreshold, kelvin);
    controller.healthChanged();
    return 0;
  },
};
const thresholdSelect = (request: Request): number => (sqeCdw11(request.sqe, request.sqeBase) >>> 20) & 0x3;

const numberOfQueues: FeatureEntry = {
  fid: Feature.NumberOfQueues,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  get: (controller) => queuesValue(controller.ioQueuesMax),
  set(controller, request): number {
    const value = sqeCdw11(request.sqe, request.sqeBase);
    const submission = value & 0xffff;
    const completion = value >>> 16;
    if (submission === 0xffff || completion === 0xffff) return request.invalidField(submission === 0xffff ? 44 : 46);
    if (controller.ioQueueCount > 0) return Status.CommandSequenceError | DNR;
    controller.ioQueuesMax = Math.min(Math.max(submission, completion) + 1, controller.ioQueuesLimit);
    request.result0 = queuesValue(controller.ioQueuesMax);
    return 0;
  },
};
const queuesValue = (count: number): number => (count - 1) | ((count - 1) << 16);

const keepAliveTimer: FeatureEntry = {
  fid: Feature.KeepAliveTimer,
  onDiscovery: true,
  dataBytes: 0,
  initial: 0,
  get: (controller) => controller.katoMs,
  set(controller, request): number {
    const katoMs = sqeCdw11(request.sqe, request.sqeBase);
    if (katoMs > KATO_MS_MAX) return Status.KeepAliveTimeoutInvalid | DNR;
    controller.setKeepAlive(Math.ceil(katoMs / KATO_GRANULARITY_MS) * KATO_GRANULARITY_MS);
    return 0;
  },
};

const asyncEventConfiguration: FeatureEntry = {
  fid: Feature.AsyncEventConfiguration,
  onDiscovery: true,
  dataBytes: 0,
  initial: 0,
  get: (controller) => controller.asyncEvents.configuration >>> 0,
  set(controller, request): number {
    const value = sqeCdw11(request.sqe, request.sqeBase);
    const allowed = controller.subsystem.isDiscovery ? AsyncEventBit.DiscoveryChange : IO_ASYNC_EVENTS;
    if ((value & ~allowed) !== 0) return request.invalidField(44);
    controller.asyncEvents.configuration = value;
    controller.healthChanged();
    return 0;
  },
};

const timestamp: FeatureEntry = {
  fid: Feature.Timestamp,
  onDiscovery: false,
  dataBytes: TIMESTAMP_BYTES,
  initial: 0,
  get(controller): Uint8Array {
    const data = new Uint8Array(TIMESTAMP_BYTES);
    const { timestamp } = controller;
    const ms = timestamp.nowMs();
    const view = new DataView(data.buffer);
    view.setUint32(0, ms >>> 0, true);
    view.setUint16(4, Math.floor(ms / 2 ** 32), true);
    // origin: set by Set Features, or since reset; SYNCH
    data[6] = (timestamp.wasSet ? 0x02 : 0x00) | (timestamp.stopped ? 0x01 : 0x00);
    return data;
  },
  set(controller, request): number {
    const data = request.data();
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    controller.timestamp.set(view.getUint32(0, true) + view.getUint16(4, true) * 2 ** 32);
    return 0;
  },
};

const hostIdentifier: FeatureEntry = {
  fid: Feature.HostIdentifier,
  onDiscovery: false,
  dataBytes: HOST_ID_BYTES,
  initial: 0,
  // fabrics host identifiers have 128 bits: EXHID must be set, and the value is the one of Connect
  get: (controller, request) => controller.hostid.subarray(0, hostIdBytes(request)),
  set(controller, request): number {
    if (controller.memory === undefined) {
      if ((sqeCdw11(request.sqe, request.sqeBase) & 1) === 0) return request.invalidField(44);
      return Status.CommandSequenceError | DNR;
    }
    const hostid = new Uint8Array(HOST_ID_BYTES);
    hostid.set(request.data());
    if (Buffer.compare(hostid, controller.hostid) === 0) return 0;
    // whoever it is has said so already
    if (controller.hostid.some((byte) => byte !== 0)) return Status.CommandSequenceError | DNR;
    controller.setHostid(hostid);
    return 0;
  },
};

/** EXHID; behind PCIe an identifier may also have 64 bits. */
const hostIdBytes = (request: Request): number =>
  (sqeCdw11(request.sqe, request.sqeBase) & 1) === 0 && isPcie(request) ? HOST_ID_BYTES / 2 : HOST_ID_BYTES;
const isPcie = (request: Request): boolean => request.queuePair.controller!.memory !== undefined;

const volatileWriteCache: FeatureEntry = {
  fid: Feature.VolatileWriteCache,
  onDiscovery: false,
  dataBytes: 0,
  initial: 1,
  get: () => 1,
  isServed: (controller) => controller.subsystem.hasVolatileWriteCache,
};

const ENTRIES: readonly FeatureEntry[] = [
  kept(Feature.Arbitration, 0x07, 0xffff_ff07),
  kept(Feature.PowerManagement, 0, 0xe0),
  temperatureThreshold,
  volatileWriteCache,
  numberOfQueues,
  kept(Feature.WriteAtomicityNormal, 0, 1),
  asyncEventConfiguration,
  timestamp,
  keepAliveTimer,
  hostIdentifier,
  ...IO_FEATURES,
  ...PCIE_FEATURES,
  ...MIGRATION_FEATURES,
  ...MOVE_FEATURES,
  ...reservationFeatures,
];

const isServed = (entry: FeatureEntry, controller: Controller): boolean =>
  (!controller.subsystem.isDiscovery || entry.onDiscovery) && entry.isServed?.(controller) !== false;

/** What the controller serves, by FID. */
export function featuresOf(controller: Controller): FeatureEntry[] {
  return ENTRIES.filter((entry) => isServed(entry, controller));
}

function find(request: Request): FeatureEntry | undefined {
  const fid = sqeCdw10(request.sqe, request.sqeBase) & 0xff;
  const entry = ENTRIES[INDEX[fid]!];
  return entry !== undefined && isServed(entry, request.queuePair.controller!) ? entry : undefined;
}
const INDEX: readonly number[] = Array.from({ length: 256 }, (_, fid) =>
  ENTRIES.findIndex((entry) => entry.fid === fid),
);

const CDW10_SAVE = 0x8000_0000;

/** NSID against what the feature belongs to. @returns 0 or a status */
function checkScope(entry: FeatureEntry, request: Request, sets: boolean): number {
  const nsid = sqeNsid(request.sqe, request.sqeBase);
  const isAll = nsid === 0 || nsid === NSID_ALL;
  if (entry.scope === undefined) return isAll ? 0 : request.fail(SpecificStatus.FeatureNotNamespaceSpecific, 4);
  if (isAll) {
    if (entry.scope === 'namespace-or-all') return 0;
    if (entry.scope === 'namespace-set-all' && sets && nsid === NSID_ALL) return 0;
    return nsid === 0 ? request.fail(Status.InvalidNamespaceOrFormat, 4) : request.invalidField(4);
  }
  const controller = request.queuePair.controller!;
  if (nsid > controller.subsystem.nsidMax) return request.fail(Status.InvalidNamespaceOrFormat, 4);
  return controller.namespace(nsid) === undefined ? request.invalidField(4) : 0;
}

export const setFeatures: CommandHandler = {
  prepare(request): number {
    const entry = find(request);
    if (entry === undefined) return request.invalidField(40);
    if ((sqeCdw10(request.sqe, request.sqeBase) & CDW10_SAVE) !== 0) {
      return request.fail(SpecificStatus.FeatureNotSaveable, 43, 7);
    }
    const ana = setFeaturesAna(request, entry.fid);
    if (ana !== 0) return ana;
    if (entry.set === undefined) return request.fail(SpecificStatus.FeatureNotChangeable, 40);
    const status = checkScope(entry, request, true);
    if (status !== 0) return status;
    const refused = entry.check?.(request) ?? 0;
    if (refused !== 0) return refused;
    if (entry.setBytes !== undefined) {
      request.transferBytes = entry.setBytes(request);
      if (request.transferBytes > 0) request.direction = Direction.HostToController;
      return 0;
    }
    if (entry.dataBytes > 0 && (entry !== hostIdentifier || isPcie(request)) && entry.onlyGetHasData !== true) {
      request.direction = Direction.HostToController;
      request.transferBytes = entry === hostIdentifier ? hostIdBytes(request) : entry.dataBytes;
    }
    return 0;
  },
  execute(request): void {
    const status = find(request)!.set!(request.queuePair.controller!, request);
    if (status !== undefined) request.finish(status);
  },
};

const CAPABILITY_NAMESPACE = 0x2;
const CAPABILITY_CHANGEABLE = 0x4;

function dataBytesOf({ dataBytes, shortestBytes }: FeatureEntry, { sqe, sqeBase }: Request): number {
  if (shortestBytes === undefined || (sqeFlags(sqe, sqeBase) & SQE_FLAGS_SGL) === 0) return dataBytes;
  const asked = sqeSglLength(sqe, sqeBase) & ~3;
  return asked < shortestBytes ? dataBytes : Math.min(asked, dataBytes);
}

export const getFeatures: CommandHandler = {
  prepare(request): number {
    const entry = find(request);
    if (entry === undefined) return request.invalidField(40);
    const select = (sqeCdw10(request.sqe, request.sqeBase) >>> 8) & 0x7;
    if (select > FeatureSelect.Capabilities) return request.invalidField(41);
    if (entry.onlySet === true && select !== FeatureSelect.Capabilities) return request.invalidField(40);
    const ana = getFeaturesAna(request, entry.fid);
    if (ana !== 0) return ana;
    if (entry.scope !== undefined && select !== FeatureSelect.Capabilities) {
      const status = checkScope(entry, request, false);
      if (status !== 0) return status;
    }
    if (select !== FeatureSelect.Capabilities) {
      const refused = entry.check?.(request) ?? 0;
      if (refused !== 0) return refused;
    }
    const hasData = select !== FeatureSelect.Capabilities && entry.dataBytes > 0;
    if (entry === hostIdentifier && hasData && !isPcie(request) && (sqeCdw11(request.sqe, request.sqeBase) & 1) === 0)
      return request.invalidField(44);
    if (hasData) {
      request.direction = Direction.ControllerToHost;
      request.transferBytes = entry === hostIdentifier ? hostIdBytes(request) : dataBytesOf(entry, request);
    }
    return 0;
  },
  execute(request): void {
    const controller = request.queuePair.controller!;
    const entry = find(request)!;
    const select = (sqeCdw10(request.sqe, request.sqeBase) >>> 8) & 0x7;
    if (select === FeatureSelect.Capabilities) {
      request.result0 =
        (entry.set === undefined || (entry === hostIdentifier && !isPcie(request)) ? 0 : CAPABILITY_CHANGEABLE) |
        (entry.scope === undefined ? 0 : CAPABILITY_NAMESPACE);
    } else if (entry.dataBytes > 0) {
      const initial = select === FeatureSelect.Current ? undefined : entry.initialData;
      request.answer(initial?.() ?? (entry.get(controller, request) as Uint8Array));
    } else {
      request.result0 = select === FeatureSelect.Current ? (entry.get(controller, request) as number) : entry.initial;
    }
    request.finish(0);
  },
};

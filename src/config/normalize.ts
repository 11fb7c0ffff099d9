/** From what was written (and fits the schema) to a complete configuration, checking what one place means for another. */
import { resolve } from 'node:path';
import type { BackendConfig } from '../backend/open.ts';
import { PASSTHROUGH_LOG_PAGES, PASSTHROUGH_OPCODES } from '../spec/passthrough.ts';
import { BOUNDS, DEFAULTS } from './defaults.ts';
import { ConfigIssue, type Path, show, wrong } from './issue.ts';
import type {
  AdminPassthroughConfig,
  AdminPassthroughInput,
  AdvertiseConfig,
  AdvertiseInput,
  AnaGroupConfig,
  AnaGroupInput,
  BackendInput,
  DiscoveryConfig,
  FunctionConfig,
  FunctionInput,
  LimitsConfig,
  NamespaceConfig,
  NamespaceInput,
  PortConfig,
  PortInput,
  ReferralConfig,
  ReferralInput,
  SubsystemConfig,
  SubsystemInput,
  TargetConfig,
  TargetConfigInput,
  VolumesConfig,
  VolumesInput,
} from './types.ts';
import {
  checkAddress,
  checkAscii,
  checkNqn,
  checkSubsystemNqn,
  parseBlockedSize,
  parseEndpoint,
  parseIdentifier,
  parseService,
  parseSize,
  parseUuid,
} from './values.ts';

export interface NormalizeOptions {
  /** What relative file paths are relative to. */
  readonly baseDirectory: string;
  /** False: subsystem and host names need not be proper NQNs. */
  readonly strictNqn?: boolean;
}

/** @throws ConfigIssue the first thing that cannot be */
export function normalize(input: TargetConfigInput, options: NormalizeOptions): TargetConfig {
  const strict = options.strictNqn ?? true;
  const subsystems = input.subsystems.map((subsystem, i) =>
    normalizeSubsystem(subsystem, ['subsystems', i], options.baseDirectory, strict, input.stateDirectory !== undefined),
  );
  unique(
    subsystems,
    (subsystem) => subsystem.nqn,
    (i) => ['subsystems', i, 'nqn'],
  );
  checkFilesApart(subsystems);

  const functions = (input.functions ?? []).map((item, i) =>
    normalizeFunction(item, ['functions', i], subsystems, options.baseDirectory),
  );
  unique(
    functions,
    (item) => item.vfioUser,
    (i) => ['functions', i, 'vfioUser'],
  );
  // who serves a VM is not on the network by default
  const ports = normalizePorts(input.ports ?? (functions.length > 0 ? [] : [{}]));
  checkPortSubsystems(ports, subsystems);
  checkSubsystemPorts(subsystems, ports);
  checkAnaPorts(subsystems, ports);
  const discovery = normalizeDiscovery(input.discovery ?? (ports.length > 0 ? undefined : 'off'), ports, strict);
  if (discovery !== 'off' && subsystems.some(({ nqn }) => nqn === discovery.nqn)) {
    wrong(['discovery', 'nqn'], discovery.nqn, 'an NQN of its own, no subsystem has it');
  }
  return {
    subsystems,
    ports,
    ...(functions.length === 0 ? {} : { functions }),
    discovery,
    referrals: (input.referrals ?? []).map((referral, i) => normalizeReferral(referral, ['referrals', i])),
    limits: normalizeLimits(input.limits ?? {}),
    ...(input.stateDirectory === undefined
      ? {}
      : { stateDirectory: resolve(options.baseDirectory, input.stateDirectory) }),
    ...(input.ioEngine === undefined ? {} : { ioEngine: input.ioEngine }),
    ...(input.metrics === undefined ? {} : { metrics: normalizeMetrics(input.metrics) }),
    log: { level: input.log?.level ?? DEFAULTS.log.level },
  };
}

/** @throws ConfigIssue at the second of two equal keys. `undefined` equals nothing. */
function unique<T>(
  items: readonly T[],
  keyOf: (item: T) => string | number | undefined,
  pathOf: (index: number) => Path,
): void {
  const seen = new Map<string | number, number>();
  items.forEach((item, i) => {
    const key = keyOf(item);
    if (key === undefined) return;
    const first = seen.get(key);
    if (first !== undefined) throw new ConfigIssue(pathOf(i), `${show(key)} is used already`, pathOf(first));
    seen.set(key, i);
  });
}

/** What the items say, and for those that say nothing the lowest numbers that are free. */
function numbered<T>(items: readonly T[], given: (item: T) => number | undefined): number[] {
  const taken = new Set(items.map(given));
  let next = 1;
  return items.map((item) => {
    const number = given(item);
    if (number !== undefined) return number;
    while (taken.has(next)) next++;
    return next++;
  });
}

// ---- subsystems ------------------------------------------------------------------------------------------------------------------

function normalizeSubsystem(
  input: SubsystemInput,
  path: Path,
  baseDirectory: string,
  strict: boolean,
  hasState: boolean,
): SubsystemConfig {
  const defaults = DEFAULTS.subsystem;
  const hosts = (input.hosts ?? []).map((nqn, i) => checkNqn(nqn, [...path, 'hosts', i], strict));
  if (input.allowAnyHost === true && hosts.length > 0) {
    wrong([...path, 'allowAnyHost'], true, 'false beside a list of hosts, or no such list');
  }
  const cntlidMin = input.cntlidMin ?? defaults.cntlidMin;
  const cntlidMax = input.cntlidMax ?? defaults.cntlidMax;
  if (cntlidMin > cntlidMax) {
    wrong(
      [...path, input.cntlidMin === undefined ? 'cntlidMax' : 'cntlidMin'],
      input.cntlidMin ?? cntlidMax,
      `cntlidMin at most cntlidMax (${cntlidMin} to ${cntlidMax} is empty)`,
    );
  }
  const given = input.namespaces ?? [];
  const nsids = numbered(given, (namespace) => namespace.nsid);
  const namespaces = given.map((namespace, i) =>
    normalizeNamespace(namespace, nsids[i]!, [...path, 'namespaces', i], baseDirectory, strict),
  );
  if (hosts.length > 0) checkMaskHosts(namespaces, hosts, path);
  for (const key of ['nsid', 'uuid', 'nguid', 'eui64'] as const) {
    unique(
      namespaces,
      (namespace) => namespace[key],
      (i) => [...path, 'namespaces', i, key],
    );
  }
  const managers = input.migration?.managers;
  const migration =
    managers === undefined ? undefined : { managers: { hosts: managers.hosts ?? [], ports: managers.ports ?? [] } };
  checkClosed(namespaces, migration, path);
  const anaGroups = (input.anaGroups ?? []).map((group, i) => normalizeAnaGroup(group, [...path, 'anaGroups', i]));
  unique(
    anaGroups,
    (group) => group.anagrpid,
    (i) => [...path, 'anaGroups', i, 'anagrpid'],
  );
  return {
    nqn: checkSubsystemNqn(input.nqn, [...path, 'nqn'], strict),
    serial:
      input.serial === undefined ? undefined : checkAscii(input.serial, BOUNDS.serialCharsMax, [...path, 'serial']),
    model: input.model === undefined ? undefined : checkAscii(input.model, BOUNDS.modelCharsMax, [...path, 'model']),
    allowAnyHost: input.allowAnyHost ?? hosts.length === 0,
    hosts,
    maxQueues: input.maxQueues ?? defaults.maxQueues,
    maxControllers: input.maxControllers ?? defaults.maxControllers,
    cntlidMin,
    cntlidMax,
    controllerModel: input.controllerModel ?? defaults.controllerModel,
    ...(input.ports === undefined ? {} : { ports: input.ports }),
    anaTransitionSeconds: input.anaTransitionSeconds,
    anaGroups,
    ...(migration === undefined ? {} : { migration }),
    ...(input.volumes === undefined
      ? {}
      : { volumes: normalizeVolumes(input.volumes, [...path, 'volumes'], baseDirectory, hasState) }),
    ...(input.allowSanitize === undefined ? {} : { allowSanitize: input.allowSanitize }),
    ...(input.adminPassthrough === undefined
      ? {}
      : { adminPassthrough: normalizePassthrough(input.adminPassthrough, [...path, 'adminPassthrough']) }),
    ...(input.duplicateHosts === undefined ? {} : { duplicateHosts: input.duplicateHosts }),
    namespaces,
  };
}

/** Nobody could ever open it. */
function checkClosed(
  namespaces: readonly NamespaceConfig[],
  migration: SubsystemConfig['migration'],
  path: Path,
): void {
  const { hosts = [], ports = [] } = migration?.managers ?? {};
  if (hosts.length + ports.length > 0) return;
  const i = namespaces.findIndex(({ closed }) => closed === true);
  if (i < 0) return;
  throw new ConfigIssue(
    [...path, 'namespaces', i, 'closed'],
    'only managers of live migration can use and open it: name them by migration.managers',
  );
}

/** A namespace for a host that cannot connect is a mistake, most likely of spelling. */
function checkMaskHosts(namespaces: readonly NamespaceConfig[], hosts: readonly string[], path: Path): void {
  namespaces.forEach((namespace, n) => {
    namespace.hosts?.forEach((nqn, h) => {
      if (hosts.includes(nqn)) return;
      throw new ConfigIssue(
        [...path, 'namespaces', n, 'hosts', h],
        `${show(nqn)} is not among the hosts of the subsystem, so it cannot connect`,
        [...path, 'hosts'],
      );
    });
  });
}

function normalizeVolumes(input: VolumesInput, path: Path, baseDirectory: string, hasState: boolean): VolumesConfig {
  const capacityBytes = parseSize(input.capacity, [...path, 'capacity']);
  if (input.type === 'memory') {
    if (capacityBytes > BOUNDS.memoryBytesMax) wrong([...path, 'capacity'], input.capacity, 'at most 64TiB of memory');
    return { type: 'memory', capacityBytes };
  }
  if (!hasState) {
    throw new ConfigIssue(path, 'what hosts create here has to be remembered: set stateDirectory, too');
  }
  return { type: 'file', directory: resolve(baseDirectory, input.directory), capacityBytes };
}

function normalizeNamespace(
  input: NamespaceInput,
  nsid: number,
  path: Path,
  baseDirectory: string,
  strict: boolean,
): NamespaceConfig {
  const readOnly = input.readOnly ?? false;
  return {
    nsid,
    backend: normalizeBackend(input.backend, readOnly, [...path, 'backend'], baseDirectory),
    uuid: input.uuid === undefined ? undefined : parseUuid(input.uuid, [...path, 'uuid']),
    nguid: input.nguid === undefined ? undefined : parseIdentifier(input.nguid, 16, [...path, 'nguid']),
    eui64: input.eui64 === undefined ? undefined : parseIdentifier(input.eui64, 8, [...path, 'eui64']),
    readOnly,
    anagrpid: input.anagrpid ?? DEFAULTS.anagrpid,
    ...(input.hosts === undefined
      ? {}
      : { hosts: input.hosts.map((nqn, i) => checkNqn(nqn, [...path, 'hosts', i], strict)) }),
    ...(input.allowShrink === undefined ? {} : { allowShrink: input.allowShrink }),
    ...(input.closed === undefined ? {} : { closed: input.closed }),
  };
}

const hexByte = (value: number): string => value.toString(16).toUpperCase().padStart(2, '0');

function normalizePassthrough(input: AdminPassthroughInput, path: Path): AdminPassthroughConfig {
  const { opcodes = [], logPages = [] } = input;
  const check = (key: string, values: readonly number[], allowed: readonly number[], what: string): void =>
    values.forEach((value, i) => {
      if (!allowed.includes(value)) wrong([...path, key, i], `${value} (${hexByte(value)}h)`, what);
    });
  check('opcodes', opcodes, PASSTHROUGH_OPCODES, '0x14, 0x81, 0x82, or a vendor specific one (0xC0 to 0xFF)');
  check('logPages', logPages, PASSTHROUGH_LOG_PAGES, '0x06, or a vendor specific one (0xC0 to 0xFF)');
  return { opcodes, logPages };
}

function normalizeAnaGroup(input: AnaGroupInput, path: Path): AnaGroupConfig {
  const states = Object.entries(input.states).map(([key, state]) => {
    const portId = /^\d{1,5}$/.test(key) ? Number(key) : 0;
    if (portId < 1 || portId > BOUNDS.portIdMax) wrong([...path, 'states'], key, 'the id of a port: 1 to 65535');
    return { portId, state };
  });
  return { anagrpid: input.anagrpid, states };
}

/** A state for a port that is not there is a typing error. */
function checkAnaPorts(subsystems: readonly SubsystemConfig[], ports: readonly PortConfig[]): void {
  const known = ports.map((port) => port.portId);
  subsystems.forEach(({ anaGroups }, s) => {
    anaGroups.forEach(({ states }, g) => {
      for (const { portId } of states) {
        if (known.includes(portId)) continue;
        wrong(
          ['subsystems', s, 'anaGroups', g, 'states'],
          portId,
          `the id of a port of this configuration: ${known.join(', ')}`,
        );
      }
    });
  });
}

function normalizeBackend(input: BackendInput, readOnly: boolean, path: Path, baseDirectory: string): BackendConfig {
  if (input.type === 'nvme') {
    const { force, ioctl } = input;
    return {
      type: 'nvme',
      path: resolve(baseDirectory, input.path),
      readOnly,
      ...(force === true ? { force } : {}),
      ...(ioctl === true ? { ioctl } : {}),
    };
  }
  if (input.type === 'remote') {
    const { uri, paths } = input;
    if (!/^nvme\+tcp:\/\//i.test(uri)) wrong([...path, 'uri'], uri, 'nvme+tcp://host:port/subnqn?nsid=1');
    return { type: 'remote', uri, readOnly, ...(paths === undefined ? {} : { paths }) };
  }
  const blockSize = input.blockSize ?? DEFAULTS.blockSize;
  const sizeBytes = input.size === undefined ? undefined : parseBlockedSize(input.size, blockSize, [...path, 'size']);
  if (input.type === 'file') {
    const { direct, force } = input;
    return {
      type: 'file',
      path: resolve(baseDirectory, input.path),
      blockSize,
      sizeBytes,
      readOnly,
      ...(direct === true ? { direct } : {}),
      ...(force === true ? { force } : {}),
    };
  }
  if (sizeBytes === undefined) throw new ConfigIssue(path, 'the key "size" is missing');
  if (input.type === 'memory' && sizeBytes > BOUNDS.memoryBytesMax)
    wrong([...path, 'size'], input.size, 'at most 64TiB of memory');
  return { type: input.type, blockSize, sizeBytes };
}

/** One file behind two namespaces is lost data, unless both only read it. */
function checkFilesApart(subsystems: readonly SubsystemConfig[]): void {
  const seen = new Map<string, { path: Path; readOnly: boolean }>();
  subsystems.forEach((subsystem, s) => {
    subsystem.namespaces.forEach((namespace, n) => {
      if (namespace.backend.type !== 'file' && namespace.backend.type !== 'nvme') return;
      const path: Path = ['subsystems', s, 'namespaces', n, 'backend', 'path'];
      const first = seen.get(namespace.backend.path);
      if (first !== undefined && !(first.readOnly && namespace.readOnly)) {
        throw new ConfigIssue(
          path,
          `${namespace.backend.path} is used already, and only read-only namespaces share a file`,
          first.path,
        );
      }
      seen.set(namespace.backend.path, { path, readOnly: namespace.readOnly });
    });
  });
}

// ---- PCI functions ----------------------------------------------------------------------------------------------------------------

/** What the address of a Unix socket holds. */
const SOCKET_PATH_BYTES_MAX = 107;

function normalizeFunction(
  input: FunctionInput,
  path: Path,
  subsystems: readonly SubsystemConfig[],
  baseDirectory: string,
): FunctionConfig {
  const { hostnqn, cntlid, vectors, queues, queueSize, dmaByMessage } = input;
  const known = subsystems.map(({ nqn }) => nqn);
  const subsystem = input.subsystem ?? (known.length === 1 ? known[0]! : undefined);
  if (subsystem === undefined) throw new ConfigIssue(path, 'the key "subsystem" is missing: there are several');
  if (!known.includes(subsystem))
    wrong([...path, 'subsystem'], subsystem, `the NQN of a subsystem of this configuration: ${known.join(', ')}`);
  const vfioUser = resolve(baseDirectory, input.vfioUser);
  if (Buffer.byteLength(vfioUser) > SOCKET_PATH_BYTES_MAX)
    wrong([...path, 'vfioUser'], vfioUser, `a path of at most ${SOCKET_PATH_BYTES_MAX} bytes`);
  return {
    vfioUser,
    subsystem,
    ...(hostnqn === undefined ? {} : { hostnqn: checkNqn(hostnqn, [...path, 'hostnqn']) }),
    ...(cntlid === undefined ? {} : { cntlid }),
    ...(vectors === undefined ? {} : { vectors }),
    ...(queues === undefined ? {} : { queues }),
    ...(queueSize === undefined ? {} : { queueSize }),
    ...(dmaByMessage === true ? { dmaByMessage } : {}),
  };
}

// ---- ports -----------------------------------------------------------------------------------------------------------------------

function normalizePorts(inputs: readonly PortInput[]): PortConfig[] {
  const ids = numbered(inputs, (port) => port.portId);
  const ports = inputs.map((input, i) => normalizePort(input, ids[i]!, ['ports', i]));
  unique(
    ports,
    (port) => port.portId,
    (i) => ['ports', i, 'portId'],
  );
  unique(
    ports,
    (port) => (port.service === 0 ? undefined : endpoint(port)),
    (i) => ['ports', i, 'service'],
  );
  return ports;
}

function endpoint(port: { address: string; service: number }): string {
  return port.address.includes(':') ? `[${port.address}]:${port.service}` : `${port.address}:${port.service}`;
}

function normalizePort(input: PortInput, portId: number, path: Path): PortConfig {
  const defaults = DEFAULTS.port;
  return {
    portId,
    address: checkAddress(input.address ?? defaults.address, [...path, 'address']),
    service: parseService(input.service ?? defaults.service, [...path, 'service']),
    subsystems: input.subsystems ?? ['*'],
    ...normalizeAdvertise(input.advertise, [...path, 'advertise']),
    inCapsuleDataSize: ranged(input.inCapsuleDataSize ?? defaults.inCapsuleDataSize, 0, BOUNDS.inCapsuleMax, 16, [
      ...path,
      'inCapsuleDataSize',
    ]),
    maxH2cData: ranged(input.maxH2cData ?? defaults.maxH2cData, BOUNDS.h2cMin, BOUNDS.h2cMax, 4, [
      ...path,
      'maxH2cData',
    ]),
    maxQueueSize: input.maxQueueSize ?? defaults.maxQueueSize,
    headerDigest: input.headerDigest === undefined ? defaults.headerDigest : input.headerDigest === 'allow',
    dataDigest: input.dataDigest === undefined ? defaults.dataDigest : input.dataDigest === 'allow',
  };
}

/** `{}` if nothing is said, so that the key stays absent. */
function normalizeAdvertise(input: AdvertiseInput | undefined, path: Path): { advertise?: AdvertiseConfig } {
  if (input === undefined) return {};
  if (input === false || input === 'off') return { advertise: 'off' };
  const { address, service } = parseEndpoint(input, path, { address: ANY_ADDRESS, service: 0 });
  const named = { ...(address === ANY_ADDRESS ? {} : { address }), ...(service === 0 ? {} : { service }) };
  if (Object.keys(named).length === 0 || named.address === '::') {
    wrong(path, input, 'the address that hosts use, such as 203.0.113.5 or 203.0.113.5:4420, or false');
  }
  return { advertise: named };
}
const ANY_ADDRESS = '0.0.0.0';

function checkSubsystemPorts(subsystems: readonly SubsystemConfig[], ports: readonly PortConfig[]): void {
  subsystems.forEach((subsystem, s) => {
    subsystem.ports?.forEach((portId, i) => {
      if (!ports.some((port) => port.portId === portId)) {
        const known = ports.map((port) => port.portId).join(', ');
        wrong(['subsystems', s, 'ports', i], portId, `the id of a port in this configuration: ${known}`);
      }
    });
  });
}

function ranged(value: number | string, min: number, max: number, step: number, path: Path): number {
  const bytes = parseSize(value, path);
  if (bytes < min || bytes > max || bytes % step !== 0)
    wrong(path, value, `a multiple of ${step} from ${min} to ${max} bytes`);
  return bytes;
}

function checkPortSubsystems(ports: readonly PortConfig[], subsystems: readonly SubsystemConfig[]): void {
  const known = new Set(['*', ...subsystems.map((subsystem) => subsystem.nqn)]);
  ports.forEach((port, p) => {
    port.subsystems.forEach((nqn, i) => {
      if (!known.has(nqn))
        wrong(['ports', p, 'subsystems', i], nqn, `'*', or the NQN of a subsystem in this configuration`);
    });
  });
}

function normalizeDiscovery(
  input: TargetConfigInput['discovery'],
  ports: readonly PortConfig[],
  strict: boolean,
): DiscoveryConfig | 'off' {
  if (input === 'off' || input === false) return 'off';
  const discovery: DiscoveryConfig = {
    portId: input?.portId ?? DEFAULTS.discovery.portId,
    address: checkAddress(input?.address ?? ports[0]?.address ?? DEFAULTS.port.address, ['discovery', 'address']),
    service: parseService(input?.service ?? DEFAULTS.discovery.service, ['discovery', 'service']),
    ...(input?.nqn === undefined ? {} : { nqn: checkSubsystemNqn(input.nqn, ['discovery', 'nqn'], strict) }),
    ...normalizeAdvertise(input?.advertise, ['discovery', 'advertise']),
    ...(input?.mdns === true ? { mdns: true } : {}),
    ...(input?.allSubsystemsFor === undefined
      ? {}
      : {
          allSubsystemsFor: input.allSubsystemsFor.map((nqn, i) =>
            checkNqn(nqn, ['discovery', 'allSubsystemsFor', i], strict),
          ),
        }),
  };
  ports.forEach((port, i) => {
    if (port.portId === discovery.portId) {
      throw new ConfigIssue(
        ['ports', i, 'portId'],
        `${port.portId} is the id of the discovery port; use another one, or set discovery.portId`,
      );
    }
    if (port.service !== 0 && endpoint(port) === endpoint(discovery)) {
      throw new ConfigIssue(
        ['ports', i, 'service'],
        `${endpoint(port)} is the discovery service; use another port, or set discovery`,
      );
    }
  });
  return discovery;
}

function normalizeReferral(input: ReferralInput, path: Path): ReferralConfig {
  return {
    portId: input.portId,
    address: checkAddress(input.address, [...path, 'address']),
    service: parseService(input.service, [...path, 'service'], 1),
    nqn: input.nqn === undefined ? undefined : checkNqn(input.nqn, [...path, 'nqn']),
  };
}

function normalizeMetrics(input: NonNullable<TargetConfigInput['metrics']>): NonNullable<TargetConfig['metrics']> {
  const defaults = DEFAULTS.metrics;
  return {
    address: checkAddress(input.address ?? defaults.address, ['metrics', 'address']),
    service: parseService(input.service ?? defaults.service, ['metrics', 'service']),
  };
}

function normalizeLimits(input: NonNullable<TargetConfigInput['limits']>): LimitsConfig {
  const defaults = DEFAULTS.limits;
  const buffers = (name: 'connectionBuffers' | 'totalBuffers'): number => {
    const path = ['limits', name];
    const bytes = parseSize(input[name] ?? defaults[name], path);
    if (bytes < BOUNDS.h2cMin) wrong(path, input[name], `at least ${BOUNDS.h2cMin} bytes`);
    return bytes;
  };
  return {
    connectionBuffers: buffers('connectionBuffers'),
    totalBuffers: buffers('totalBuffers'),
    setupTimeoutMs: input.setupTimeoutMs ?? defaults.setupTimeoutMs,
    drainTimeoutMs: input.drainTimeoutMs ?? defaults.drainTimeoutMs,
  };
}

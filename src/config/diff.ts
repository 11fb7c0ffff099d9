/**
 * What a running target has to do to get from one configuration to another without disturbing hosts that the change does not concern.
 * Apply in this order: remove ports, change and remove subsystems, add subsystems, add and change ports, then discovery and the rest.
 */
import { isDeepStrictEqual } from 'node:util';
import { ConfigError } from '../util/error.ts';
import type { AnaStateName } from '../wire/cold/log-ana.ts';
import type {
  AdminPassthroughConfig,
  AdvertiseConfig,
  DiscoveryConfig,
  LogLevel,
  NamespaceConfig,
  PortConfig,
  ReferralConfig,
  SubsystemConfig,
  TargetConfig,
} from './types.ts';

/** @public */
export interface AnaStateChange {
  readonly anagrpid: number;
  readonly portId: number;
  readonly state: AnaStateName;
}

/** @public */
export interface SubsystemChange {
  readonly nqn: string;
  /** Set if the allow-list changed. */
  readonly hosts?: { readonly allowAnyHost: boolean; readonly hosts: readonly string[] };
  /** Set if the ports that it keeps to changed; 'all' for any. */
  readonly ports?: readonly number[] | 'all';
  /** Set if what is passed to local SSDs changed; 'nothing' for none. */
  readonly passthrough?: AdminPassthroughConfig | 'nothing';
  /** Before those are added: a namespace that is replaced stands in both. */
  readonly removeNamespaces: readonly number[];
  readonly addNamespaces: readonly NamespaceConfig[];
  /** The same namespace with more blocks. */
  readonly growNamespaces: readonly { readonly nsid: number; readonly sizeBytes: number }[];
  /** The same namespace with fewer blocks: the data past its new end is given up. */
  readonly shrinkNamespaces: readonly { readonly nsid: number; readonly sizeBytes: number }[];
  /** Who sees a namespace; undefined: every host. */
  readonly maskNamespaces: readonly { readonly nsid: number; readonly hosts: readonly string[] | undefined }[];
  /** The same namespace in another ANA group. */
  readonly moveNamespaces: readonly { readonly nsid: number; readonly anagrpid: number }[];
  /** Before namespaces are added or moved. */
  readonly anaStates: readonly AnaStateChange[];
}

/** @public */
export interface PortChange {
  readonly portId: number;
  readonly subsystems: readonly string[];
  readonly advertise?: AdvertiseConfig | undefined;
}

/** @public */
export interface ConfigDiff {
  readonly removeSubsystems: readonly string[];
  readonly addSubsystems: readonly SubsystemConfig[];
  readonly changeSubsystems: readonly SubsystemChange[];
  /** A port whose address changed stands in both. */
  readonly removePorts: readonly number[];
  readonly addPorts: readonly PortConfig[];
  /** Which subsystems a port shows, and how it is advertised. */
  readonly changePorts: readonly PortChange[];
  /** Set if it changed. */
  readonly discovery?: DiscoveryConfig | 'off';
  readonly referrals?: readonly ReferralConfig[];
  readonly logLevel?: LogLevel;
  /** Changes that cannot be made under connected hosts, one line each: they wait for a restart. */
  readonly restart: readonly string[];
  /** True if there is nothing to do, not even at a restart. */
  readonly isEmpty: boolean;
}

/** @throws ConfigError for a change that would take data away without the configuration saying so @public */
export function diffConfig(before: TargetConfig, after: TargetConfig): ConfigDiff {
  const restart: string[] = [];
  const subsystems = pairs(before.subsystems, after.subsystems, (subsystem) => subsystem.nqn);
  const changeSubsystems = subsystems.kept
    .map(([old, next]) => changeOf(old, next, restart))
    .filter((change) => change !== undefined);
  const ports = pairs(before.ports, after.ports, (port) => port.portId);
  const moved = ports.kept.filter(([old, next]) => old.address !== next.address || old.service !== next.service);
  const stayed = ports.kept.filter((pair) => !moved.includes(pair));
  for (const [old, next] of stayed) restartKeys(`port ${old.portId}`, old, next, ['subsystems', 'advertise'], restart);
  if (before.discovery !== 'off' && after.discovery !== 'off') {
    const live = ['portId', 'address', 'service', 'advertise', 'mdns', 'allSubsystemsFor'] as const;
    restartKeys('discovery', before.discovery, after.discovery, [...live], restart);
  }
  if (!isDeepStrictEqual(before.functions, after.functions)) restart.push('functions: others, or otherwise');
  restartKeys('limits', before.limits, after.limits, [], restart);
  if (before.ioEngine !== after.ioEngine) {
    restart.push(`ioEngine ${before.ioEngine ?? 'auto'} -> ${after.ioEngine ?? 'auto'}`);
  }
  if (before.stateDirectory !== after.stateDirectory) {
    restart.push(`stateDirectory ${before.stateDirectory ?? 'none'} -> ${after.stateDirectory ?? 'none'}`);
  }
  if (!isDeepStrictEqual(before.metrics, after.metrics)) {
    const place = ({ metrics }: TargetConfig): string =>
      metrics === undefined ? 'none' : `${metrics.address}:${metrics.service}`;
    restart.push(`metrics ${place(before)} -> ${place(after)}`);
  }
  const same = isDeepStrictEqual;
  const diff = {
    removeSubsystems: subsystems.removed.map((subsystem) => subsystem.nqn),
    addSubsystems: subsystems.added,
    changeSubsystems,
    removePorts: [...ports.removed, ...moved.map(([old]) => old)].map((port) => port.portId),
    addPorts: [...ports.added, ...moved.map(([, next]) => next)],
    changePorts: stayed
      .filter(([old, next]) => !same(old.subsystems, next.subsystems) || !same(old.advertise, next.advertise))
      .map(([, { portId, subsystems: shown, advertise }]) => ({
        portId,
        subsystems: shown,
        ...(advertise === undefined ? {} : { advertise }),
      })),
    ...(same(withoutNqn(before.discovery), withoutNqn(after.discovery)) ? {} : { discovery: after.discovery }),
    ...(same(before.referrals, after.referrals) ? {} : { referrals: after.referrals }),
    ...(before.log.level === after.log.level ? {} : { logLevel: after.log.level }),
    restart,
  };
  const isEmpty = Object.values(diff).every((value) => Array.isArray(value) && value.length === 0);
  // an empty list of referrals is a change, too
  return { ...diff, isEmpty: isEmpty && diff.referrals === undefined };
}

/** Its NQN stays until a restart. */
function withoutNqn(discovery: DiscoveryConfig | 'off'): object | 'off' {
  return discovery === 'off' ? 'off' : { ...discovery, nqn: undefined };
}

function changeOf(old: SubsystemConfig, next: SubsystemConfig, restart: string[]): SubsystemChange | undefined {
  const live = ['namespaces', 'hosts', 'allowAnyHost', 'ports', 'anaGroups', 'adminPassthrough'] as const;
  restartKeys(`subsystem ${old.nqn}`, old, next, live, restart);
  const namespaces = pairs(old.namespaces, next.namespaces, (namespace) => namespace.nsid);
  const removeNamespaces = namespaces.removed.map((namespace) => namespace.nsid);
  const addNamespaces = [...namespaces.added];
  const growNamespaces: { nsid: number; sizeBytes: number }[] = [];
  const moveNamespaces: { nsid: number; anagrpid: number }[] = [];
  const anaStates = anaStatesOf(old, next, restart);
  const shrinkNamespaces: { nsid: number; sizeBytes: number }[] = [];
  const maskNamespaces: { nsid: number; hosts: readonly string[] | undefined }[] = [];
  for (const [from, to] of namespaces.kept) {
    const { nsid, hosts } = to;
    const same = withAccess(from, to);
    const sizeBytes = resized(same, to);
    if (sizeBytes === undefined && !isDeepStrictEqual(same, to)) {
      removeNamespaces.push(nsid);
      addNamespaces.push(to);
      continue;
    }
    if (from.anagrpid !== to.anagrpid) moveNamespaces.push({ nsid, anagrpid: to.anagrpid });
    if (!isDeepStrictEqual(from.hosts, hosts)) maskNamespaces.push({ nsid, hosts });
    const before = sizeOf(from.backend);
    if (sizeBytes === undefined || before === undefined) continue;
    if (sizeBytes > before) {
      growNamespaces.push({ nsid, sizeBytes });
      continue;
    }
    if (to.allowShrink !== true) {
      throw new ConfigError(
        `namespace ${nsid} of ${next.nqn}: size ${before} -> ${sizeBytes} takes the data at its end away; set ` +
          `allowShrink: true on it, or keep the size`,
      );
    }
    shrinkNamespaces.push({ nsid, sizeBytes });
  }
  const sameHosts =
    old.allowAnyHost === next.allowAnyHost && isDeepStrictEqual(new Set(old.hosts), new Set(next.hosts));
  const samePorts = isDeepStrictEqual(old.ports, next.ports);
  const changes = [
    removeNamespaces,
    addNamespaces,
    growNamespaces,
    shrinkNamespaces,
    maskNamespaces,
    moveNamespaces,
    anaStates,
  ];
  const samePassthrough = isDeepStrictEqual(old.adminPassthrough, next.adminPassthrough);
  if (sameHosts && samePorts && samePassthrough && changes.every((list) => list.length === 0)) return undefined;
  return {
    nqn: next.nqn,
    ...(sameHosts ? {} : { hosts: { allowAnyHost: next.allowAnyHost, hosts: next.hosts } }),
    ...(samePorts ? {} : { ports: next.ports ?? ('all' as const) }),
    ...(samePassthrough ? {} : { passthrough: next.adminPassthrough ?? ('nothing' as const) }),
    removeNamespaces,
    addNamespaces,
    growNamespaces,
    shrinkNamespaces,
    maskNamespaces,
    moveNamespaces,
    anaStates,
  };
}

/** Groups and ports whose state is another; what is not written is optimized. */
function anaStatesOf(old: SubsystemConfig, next: SubsystemConfig, restart: string[]): AnaStateChange[] {
  const stateIn = ({ anaGroups }: SubsystemConfig, anagrpid: number, portId: number): AnaStateName =>
    anaGroups.find((group) => group.anagrpid === anagrpid)?.states.find((other) => other.portId === portId)?.state ??
    'optimized';
  const places = new Map<string, { anagrpid: number; portId: number }>();
  for (const { anagrpid, states } of [...old.anaGroups, ...next.anaGroups]) {
    for (const { portId } of states) places.set(`${anagrpid}/${portId}`, { anagrpid, portId });
  }
  return [...places.values()].flatMap(({ anagrpid, portId }) => {
    const before = stateIn(old, anagrpid, portId);
    const state = stateIn(next, anagrpid, portId);
    if (before === state) return [];
    if (before === 'persistent-loss') {
      restart.push(`subsystem ${old.nqn}: ANA group ${anagrpid} on port ${portId} persistent-loss (final) -> ${state}`);
      return [];
    }
    return [{ anagrpid, portId, state }];
  });
}

/** `from` with what changes under connected hosts whatever else does. */
function withAccess(from: NamespaceConfig, to: NamespaceConfig): NamespaceConfig {
  const { hosts: _hosts, allowShrink: _allowShrink, closed: _closed, ...others } = from;
  return {
    ...others,
    anagrpid: to.anagrpid,
    ...(to.hosts === undefined ? {} : { hosts: to.hosts }),
    ...(to.allowShrink === undefined ? {} : { allowShrink: to.allowShrink }),
    // how it begins, not how it is
    ...(to.closed === undefined ? {} : { closed: to.closed }),
  };
}

/** What the configuration says; devices and namespaces of other targets have their own size. */
function sizeOf(backend: NamespaceConfig['backend']): number | undefined {
  return backend.type === 'nvme' || backend.type === 'remote' ? undefined : backend.sizeBytes;
}

/** The new size if that is all that changed. */
function resized(from: NamespaceConfig, to: NamespaceConfig): number | undefined {
  const before = sizeOf(from.backend);
  const after = sizeOf(to.backend);
  if (before === undefined || after === undefined || after === before) return undefined;
  const other = { ...from, backend: { ...from.backend, sizeBytes: after } };
  return isDeepStrictEqual(other, to) ? after : undefined;
}

function restartKeys<T extends object>(
  what: string,
  old: T,
  next: T,
  live: readonly (keyof T)[],
  restart: string[],
): void {
  for (const key of Object.keys({ ...old, ...next }) as (keyof T)[]) {
    if (live.includes(key) || isDeepStrictEqual(old[key], next[key])) continue;
    restart.push(`${what}: ${String(key)} ${text(old[key])} -> ${text(next[key])}`);
  }
}

function text(value: unknown): string {
  if (value === undefined) return 'default';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function pairs<T>(
  before: readonly T[],
  after: readonly T[],
  keyOf: (item: T) => string | number,
): { removed: T[]; added: T[]; kept: [T, T][] } {
  const old = new Map(before.map((item) => [keyOf(item), item]));
  const next = new Map(after.map((item) => [keyOf(item), item]));
  return {
    removed: before.filter((item) => !next.has(keyOf(item))),
    added: after.filter((item) => !old.has(keyOf(item))),
    kept: before.flatMap((item): [T, T][] => {
      const other = next.get(keyOf(item));
      return other === undefined ? [] : [[item, other]];
    }),
  };
}

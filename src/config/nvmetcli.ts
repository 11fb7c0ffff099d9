/**
 * What `nvmetcli save` writes, the JSON form of the kernel target's configfs: hosts, ports, subsystems, each with the attributes as text.
 * Everything in it is served as the kernel would, or refused by name; nothing is left out silently but what has no meaning here.
 */

import { ANA_STATE_NAMES, type AnaStateName } from '../wire/cold/log-ana.ts';
import { BOUNDS } from './defaults.ts';
import { ConfigIssue, formatPath, type Path, wrong } from './issue.ts';
import type {
  AnaGroupInput,
  NamespaceInput,
  PortInput,
  ReferralInput,
  SubsystemInput,
  TargetConfigInput,
} from './types.ts';
import { isZeroes } from './values.ts';

type Dict = Record<string, unknown>;

/** True if the value has that form and not ours: only there do ports have `addr`, subsystems `attr` or `allowed_hosts`, and the root `hosts`. */
export function isNvmetcli(value: unknown): boolean {
  if (!isDict(value)) return false;
  const has = (list: unknown, keys: string[]): boolean =>
    Array.isArray(list) && list.some((item) => isDict(item) && keys.some((key) => key in item));
  return (
    Array.isArray(value.hosts) ||
    has(value.ports, ['addr', 'portid']) ||
    has(value.subsystems, ['attr', 'allowed_hosts'])
  );
}

export interface Imported {
  readonly input: TargetConfigInput;
  /** From a place in `input` to the one in the file. */
  translate(path: Path): Path;
}

/** @throws ConfigIssue what cannot be served, at its place in the file */
export function fromNvmetcli(value: unknown): Imported {
  const root = dict(value, []);
  checkHosts(root);
  const origins = new Map<string, Path>();
  const subsystems = items(root, 'subsystems', []).map(([item, path]) => subsystemOf(item, path, origins));
  const ports: PortInput[] = [];
  const referrals: ReferralInput[] = [];
  for (const [item, path] of items(root, 'ports', [])) {
    const port = portOf(item, path);
    ports.push(port);
    addAnaGroups(item, path, port, subsystems);
    for (const [referral, at] of items(item, 'referrals', path)) {
      if (text(referral, 'enable', at) === '0') continue;
      origins.set(formatPath(['referrals', referrals.length]), at);
      referrals.push(referralOf(referral, at));
    }
  }
  return { input: { subsystems, ports, referrals }, translate: (path) => translatePath(path, origins) };
}

const PATHS: Record<string, string[]> = {
  portId: ['portid'],
  address: ['addr', 'traddr'],
  service: ['addr', 'trsvcid'],
  inCapsuleDataSize: ['param', 'inline_data_size'],
  maxQueueSize: ['param', 'max_queue_size'],
  hosts: ['allowed_hosts'],
  allowAnyHost: ['attr', 'allow_any_host'],
  serial: ['attr', 'serial'],
  model: ['attr', 'model'],
  cntlidMin: ['attr', 'cntlid_min'],
  cntlidMax: ['attr', 'cntlid_max'],
  maxQueues: ['attr', 'qid_max'],
  backend: ['device'],
  anagrpid: ['ana_grpid'],
  uuid: ['device', 'uuid'],
  nguid: ['device', 'nguid'],
};

/** Lists keep their order; those that lost entries have the origin of each entry in `origins`. */
function translatePath(path: Path, origins: ReadonlyMap<string, Path>): Path {
  let known: Path = [];
  let rest: Path = path;
  for (let depth = path.length; depth > 0; depth--) {
    const origin = origins.get(formatPath(path.slice(0, depth)));
    if (origin === undefined) continue;
    known = origin;
    rest = path.slice(depth);
    break;
  }
  const mapped: (string | number)[] = [...known];
  for (const step of rest) {
    if (typeof step === 'string') mapped.push(...(PATHS[step] ?? [step]));
    else mapped.push(step);
  }
  return mapped;
}

// ---- parts -----------------------------------------------------------------------------------------------------------------------

function checkHosts(root: Dict): void {
  for (const [host, path] of items(root, 'hosts', [])) {
    for (const [key, value] of Object.entries(host)) {
      const keys = isDict(value) ? Object.values(value) : [value];
      // of the kernel's hosts, only the name is served yet
      if (/dhchap/.test(key) && keys.some((item) => item !== '' && item !== null)) {
        throw new ConfigIssue(
          [...path, key],
          'authentication (DH-HMAC-CHAP) is not supported yet; remove the keys, or use another target',
        );
      }
    }
  }
}

function subsystemOf(item: Dict, path: Path, origins: Map<string, Path>): SubsystemInput {
  const attr = group(item, 'attr', path);
  const at: Path = [...path, 'attr'];
  if (text(attr, 'pi_enable', at) === '1')
    wrong([...at, 'pi_enable'], '1', '0 (protection information is not supported)');
  for (const [passthru, where] of items(item, 'passthru', path)) {
    if (text(passthru, 'enable', where) === '1') {
      throw new ConfigIssue(where, 'passthrough to an NVMe controller is not supported yet; remove it, or disable it');
    }
  }
  const input: SubsystemInput = {
    nqn: required(item, 'nqn', path),
    allowAnyHost: text(attr, 'allow_any_host', at) === '1',
  };
  const namespaces: NamespaceInput[] = [];
  input.namespaces = namespaces;
  const hosts = strings(item, 'allowed_hosts', path);
  // the kernel lets nobody be listed while everybody is allowed
  if (input.allowAnyHost !== true) input.hosts = hosts;
  const serial = text(attr, 'serial', at);
  if (serial !== undefined && serial.trim() !== '') input.serial = serial.trim();
  const model = text(attr, 'model', at);
  if (model !== undefined && model.trim() !== '') input.model = model.trim();
  assign(input, 'cntlidMin', integer(attr, 'cntlid_min', at, 1, BOUNDS.cntlidMax));
  assign(input, 'cntlidMax', integer(attr, 'cntlid_max', at, 1, BOUNDS.cntlidMax));
  assign(input, 'maxQueues', integer(attr, 'qid_max', at, 1, BOUNDS.queuesMax));
  for (const [namespace, where] of items(item, 'namespaces', path)) {
    if (text(namespace, 'enable', where) === '0') continue;
    origins.set(formatPath([...path, 'namespaces', namespaces.length]), where);
    namespaces.push(namespaceOf(namespace, where));
  }
  return input;
}

function namespaceOf(item: Dict, path: Path): NamespaceInput {
  const nsid = integer(item, 'nsid', path, 1, BOUNDS.nsidMax);
  if (nsid === undefined) throw new ConfigIssue(path, 'the key "nsid" is missing');
  const device = group(item, 'device', path);
  const at: Path = [...path, 'device'];
  const file = required(device, 'path', at);
  if (text(group(item, 'resv', path), 'enable', [...path, 'resv']) === '1') {
    wrong([...path, 'resv', 'enable'], '1', '0 (reservations are not supported yet)');
  }
  const input: NamespaceInput = { nsid, backend: backendOf(file) };
  const anagrpid = integer(item, 'ana_grpid', path, 1, BOUNDS.anaGroupsMax);
  if (anagrpid !== undefined) input.anagrpid = anagrpid;
  const uuid = text(device, 'uuid', at);
  if (uuid !== undefined && !isZeroes(uuid)) input.uuid = uuid;
  const nguid = text(device, 'nguid', at);
  if (nguid !== undefined && !isZeroes(nguid)) input.nguid = nguid;
  return input;
}

/** The kernel target takes files and block devices alike, and shows hosts the sectors that a device has. */
function backendOf(path: string): NamespaceInput['backend'] {
  if (/^\/dev\/nvme\d+n\d+$/.test(path)) return { type: 'nvme', path };
  if (path.startsWith('/dev/') && !path.startsWith('/dev/shm/')) return { type: 'file', path, blockSize: 512 };
  return { type: 'file', path };
}

function portOf(item: Dict, path: Path): PortInput {
  const portId = integer(item, 'portid', path, 1, BOUNDS.portIdMax);
  if (portId === undefined) throw new ConfigIssue(path, 'the key "portid" is missing');
  const { address, service } = transportOf(item, path);
  const param = group(item, 'param', path);
  const at: Path = [...path, 'param'];
  if (text(param, 'pi_enable', at) === '1')
    wrong([...at, 'pi_enable'], '1', '0 (protection information is not supported)');
  const input: PortInput = { portId, address, service, subsystems: strings(item, 'subsystems', path) };
  const inline = integer(param, 'inline_data_size', at, -1, BOUNDS.inCapsuleMax);
  // -1: the transport decides
  if (inline !== undefined && inline >= 0) input.inCapsuleDataSize = inline;
  const queueSize = integer(param, 'max_queue_size', at, -1, BOUNDS.queueSizeMax);
  if (queueSize !== undefined && queueSize >= BOUNDS.queueSizeMin) input.maxQueueSize = queueSize;
  return input;
}

/** The kernel has one state for each group of a port, whatever the subsystem; here each subsystem that the port shows has it. */
function addAnaGroups(item: Dict, path: Path, port: PortInput, subsystems: readonly SubsystemInput[]): void {
  for (const [anaGroup, where] of items(item, 'ana_groups', path)) {
    const anagrpid = integer(anaGroup, 'grpid', where, 1, BOUNDS.anaGroupsMax);
    if (anagrpid === undefined) throw new ConfigIssue(where, 'the key "grpid" is missing');
    const state = text(group(anaGroup, 'ana', where), 'state', [...where, 'ana']) ?? 'optimized';
    if (!isAnaState(state)) wrong([...where, 'ana', 'state'], state, Object.keys(ANA_STATE_NAMES).join(', '));
    if (state === 'optimized') continue;
    for (const subsystem of subsystems.filter(({ nqn }) => port.subsystems?.includes(nqn))) {
      subsystem.anaGroups ??= [];
      let known: AnaGroupInput | undefined = subsystem.anaGroups.find((other) => other.anagrpid === anagrpid);
      if (known === undefined) {
        known = { anagrpid, states: {} };
        subsystem.anaGroups.push(known);
      }
      known.states[String(port.portId)] = state;
    }
  }
}

function isAnaState(state: string): state is AnaStateName {
  return Object.hasOwn(ANA_STATE_NAMES, state);
}

function referralOf(item: Dict, path: Path): ReferralInput {
  const { address, service } = transportOf(item, path);
  const portId = integer(group(item, 'addr', path), 'portid', [...path, 'addr'], 0, BOUNDS.portIdMax);
  return { portId: portId ?? 0, address, service };
}

/** The `addr` group of a port or referral. @throws ConfigIssue for anything but TCP without TLS */
function transportOf(item: Dict, path: Path): { address: string; service: string } {
  const addr = group(item, 'addr', path);
  const at: Path = [...path, 'addr'];
  const trtype = required(addr, 'trtype', at);
  if (trtype !== 'tcp') wrong([...at, 'trtype'], trtype, 'tcp; remove this port to serve the others');
  const treq = text(addr, 'treq', at);
  if (treq === 'required') wrong([...at, 'treq'], treq, 'not specified, not required (TLS is not supported yet)');
  const tsas = text(addr, 'tsas', at);
  if (tsas !== undefined && !['', 'none'].includes(tsas))
    wrong([...at, 'tsas'], tsas, 'none (TLS is not supported yet)');
  return { address: required(addr, 'traddr', at), service: required(addr, 'trsvcid', at) };
}

// ---- values ----------------------------------------------------------------------------------------------------------------------

function isDict(value: unknown): value is Dict {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function dict(value: unknown, path: Path): Dict {
  return isDict(value) ? value : wrong(path, value, 'a mapping of keys');
}

function group(item: Dict, key: string, path: Path): Dict {
  return item[key] === undefined ? {} : dict(item[key], [...path, key]);
}

function items(item: Dict, key: string, path: Path): [Dict, Path][] {
  const value = item[key] ?? [];
  if (!Array.isArray(value)) return wrong([...path, key], value, 'a list');
  return value.map((entry, i) => [dict(entry, [...path, key, i]), [...path, key, i]]);
}

/** configfs values are text; tools also write numbers. */
function text(item: Dict, key: string, path: Path): string | undefined {
  const value = item[key];
  if (value === undefined) return undefined;
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' ? value : wrong([...path, key], value, 'text');
}

function required(item: Dict, key: string, path: Path): string {
  const value = text(item, key, path);
  if (value === undefined || value === '') throw new ConfigIssue(path, `the key "${key}" is missing`);
  return value;
}

function integer(item: Dict, key: string, path: Path, min: number, max: number): number | undefined {
  const value = text(item, key, path);
  if (value === undefined || value === '') return undefined;
  const number = Number(value);
  if (!Number.isInteger(number) || number < min || number > max) wrong([...path, key], value, `${min} to ${max}`);
  return number;
}

function strings(item: Dict, key: string, path: Path): string[] {
  const value = item[key] ?? [];
  if (!Array.isArray(value) || !value.every((entry) => typeof entry === 'string'))
    return wrong([...path, key], value, 'a list of names');
  return value;
}

function assign<K extends 'cntlidMin' | 'cntlidMax' | 'maxQueues'>(
  input: SubsystemInput,
  key: K,
  value: number | undefined,
): void {
  if (value !== undefined) input[key] = value;
}

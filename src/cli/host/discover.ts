/** discover, list, list-subsys: what is out there. */
import type { Command } from 'commander';
import type { HostController } from '../../initiator/controller.ts';
import { discover, discoverReferrals, entryAddress } from '../../initiator/discovery.ts';
import { defaultHostIdentity } from '../../initiator/identity.ts';
import type { HostOptions } from '../../initiator/options.ts';
import { formatNvmeUri } from '../../initiator/uri.ts';
import { DISCOVERY_NQN } from '../../spec/nqn.ts';
import {
  type DiscoveryLog,
  type DiscoveryLogEntry,
  SubsystemType,
  TransportType,
  Treq,
} from '../../wire/cold/discovery-log.ts';
import { type AddressFlags, addAddress, isDiscovery, resolveAddress } from './address.ts';
import { anaOfPath } from './ana.ts';
import { decimalSize, printJson, printLine, printTable } from './print.ts';
import { progress, runVerb, withController } from './run.ts';

const TRTYPES: Readonly<Record<number, string>> = { 1: 'rdma', 2: 'fc', 3: 'tcp', 254: 'loop' };
const ADRFAMS: Readonly<Record<number, string>> = {
  1: 'ipv4',
  2: 'ipv6',
  3: 'infiniband',
  4: 'fibre-channel',
  254: 'loop',
};
const SUBTYPES: Readonly<Record<number, string>> = {
  1: 'discovery subsystem referral',
  2: 'nvme subsystem',
  3: 'current discovery subsystem',
};
const SECTYPES: Readonly<Record<number, string>> = { 0: 'none', 1: 'tls', 2: 'tls13' };
const SECURE_CHANNEL = ['not specified', 'required', 'not required', 'reserved'];

function treqText(treq: number): string {
  const parts = [SECURE_CHANNEL[treq & Treq.secureChannelMask]!];
  if ((treq & Treq.DisableSqFlowControl) !== 0) parts.push('sq flow control disable supported');
  return parts.join(', ');
}

function eflagsText(eflags: number): string {
  const names = ['duplicate discovery information', 'explicit discovery connections', 'no cdc connectivity'];
  const set = names.filter((_, bit) => (eflags & (1 << bit)) !== 0);
  return set.length === 0 ? 'none' : set.join(', ');
}

function record(entry: DiscoveryLogEntry): Record<string, string | number> {
  return {
    trtype: TRTYPES[entry.trtype] ?? 'unrecognized',
    adrfam: ADRFAMS[entry.adrfam] ?? 'unrecognized',
    subtype: SUBTYPES[entry.subtype] ?? 'unrecognized',
    treq: treqText(entry.treq),
    portid: entry.portid,
    trsvcid: entry.trsvcid,
    subnqn: entry.subnqn,
    traddr: entry.traddr,
    eflags: eflagsText(entry.eflags),
    ...(entry.trtype === TransportType.Tcp ? { sectype: SECTYPES[entry.sectype] ?? 'unrecognized' } : {}),
  };
}

function printLog(log: DiscoveryLog): void {
  printLine();
  printLine(`Discovery Log Number of Records ${log.numrec}, Generation counter ${log.genctr}`);
  for (const [i, entry] of log.entries.entries()) {
    printLine(`=====Discovery Log Entry ${i}======`);
    for (const [name, value] of Object.entries(record(entry))) printLine(`${`${name}:`.padEnd(9)}${value}`);
  }
}

const jsonLog = (log: DiscoveryLog): object => ({ genctr: log.genctr, records: log.entries.map(record) });

export function registerDiscover(program: Command): void {
  addAddress(program.command('discover').description('read the log of a Discovery controller'))
    .option('--follow', 'follow referrals to other Discovery controllers')
    .action((uri: string | undefined, flags: AddressFlags & { follow?: boolean }) =>
      runVerb(async (signal) => {
        const { options } = resolveAddress('discover', uri, flags, DISCOVERY_NQN);
        if (flags.follow) {
          await follow({ ...options, signal }, flags.output);
          return;
        }
        const log = await progress(`reading the discovery log of ${options.address}`, discover({ ...options, signal }));
        if (flags.output === 'json') printJson(jsonLog(log));
        else printLog(log);
      }),
    );
}

async function follow(options: HostOptions, output: string): Promise<void> {
  const visits: object[] = [];
  for await (const { address, port, log, error } of discoverReferrals(options)) {
    visits.push({
      traddr: address,
      trsvcid: String(port),
      ...(log === undefined ? { error: error?.message } : jsonLog(log)),
    });
    if (output === 'json') continue;
    printLine(`Discovery controller ${address}:${port}`);
    if (log === undefined) printLine(error?.message);
    else printLog(log);
  }
  if (output === 'json') printJson(visits);
}

/** The NVM subsystems that a Discovery controller names, on TCP. */
async function discovered(options: HostOptions, signal: AbortSignal): Promise<HostOptions[]> {
  const log = await discover({ ...options, signal });
  return log.entries.flatMap((entry) => {
    const at = entryAddress(entry);
    if (entry.subtype !== SubsystemType.Nvm || entry.trtype !== TransportType.Tcp || at === undefined) return [];
    // a target that listens on every address may name one that we cannot reach: where we asked is as good
    return [{ ...options, port: at.port, subnqn: entry.subnqn, katoMs: undefined, address: at.address }];
  });
}

interface Device {
  NameSpace: number;
  DevicePath: string;
  Firmware: string;
  ModelNumber: string;
  SerialNumber: string;
  UsedBytes: number;
  MaximumLBA: number;
  PhysicalSize: number;
  SectorSize: number;
}

async function devices(controller: HostController): Promise<Device[]> {
  const { address, port, subnqn } = controller.options;
  const { fr, mn, sn } = controller.identify;
  return (await controller.namespaces()).map((namespace) => ({
    NameSpace: namespace.nsid,
    DevicePath: formatNvmeUri({ address, port, subnqn, nsid: namespace.nsid }),
    Firmware: fr,
    ModelNumber: mn,
    SerialNumber: sn,
    UsedBytes: Number(namespace.identify.nuse) * namespace.blockSize,
    MaximumLBA: namespace.blockCount,
    PhysicalSize: namespace.sizeBytes,
    SectorSize: namespace.blockSize,
  }));
}

export function registerList(program: Command): void {
  addAddress(
    program
      .command('list')
      .description('list the namespaces of a controller, or of all that a Discovery controller names'),
  ).action((uri: string | undefined, flags: AddressFlags) =>
    runVerb(async (signal) => {
      const { options } = resolveAddress('list', uri, flags, DISCOVERY_NQN);
      const targets = isDiscovery(options) ? await discovered(options, signal) : [options];
      const found: Device[] = [];
      for (const target of targets) {
        found.push(...(await withController({ ...target, ioQueues: 0 }, signal, devices)));
      }
      if (flags.output === 'json') printJson({ Devices: found });
      else printDevices(found);
    }),
  );
}

function printDevices(found: readonly Device[]): void {
  printTable(
    ['Node', 'SN', 'Model', 'Namespace', 'Usage', 'Format', 'FW Rev'],
    found.map((device) => [
      device.DevicePath,
      device.SerialNumber,
      device.ModelNumber,
      `0x${device.NameSpace.toString(16)}`,
      `${decimalSize(device.UsedBytes)} / ${decimalSize(device.PhysicalSize)}`,
      `${device.SectorSize % 1024 === 0 ? `${device.SectorSize / 1024} KiB` : `${device.SectorSize}   B`} +  0 B`,
      device.Firmware,
    ]),
  );
}

export function registerListSubsys(program: Command): void {
  addAddress(
    program
      .command('list-subsys')
      .description('list subsystems and the paths to them, as a Discovery controller names them'),
  ).action((uri: string | undefined, flags: AddressFlags) =>
    runVerb(async (signal) => {
      const { options, nsid } = resolveAddress('list-subsys', uri, flags, DISCOVERY_NQN);
      const targets = isDiscovery(options) ? await discovered(options, signal) : [options];
      const subsystems = new Map<string, object[]>();
      for (const target of targets) {
        const paths = subsystems.get(target.subnqn) ?? [];
        subsystems.set(target.subnqn, paths);
        paths.push(await pathOf(target, paths.length, nsid, signal));
      }
      printSubsystems(options, subsystems, flags.output);
    }),
  );
}

async function pathOf(
  options: HostOptions,
  index: number,
  nsid: number | undefined,
  signal: AbortSignal,
): Promise<object> {
  const path = {
    Name: `nvme${index}`,
    Transport: 'tcp',
    Address: `traddr=${options.address},trsvcid=${options.port ?? 4420}`,
  };
  try {
    return await withController({ ...options, ioQueues: 0 }, signal, async (controller) => ({
      ...path,
      State: controller.state,
      ...(await anaOfPath(controller, nsid)),
    }));
  } catch (error) {
    signal.throwIfAborted();
    return { ...path, State: 'connecting', Error: error instanceof Error ? error.message : String(error) };
  }
}

interface ListedPath {
  readonly Name: string;
  readonly Address: string;
  readonly State: string;
  readonly Error?: string;
  /** Of the namespace that was named, or of all if they agree. */
  readonly ANAState?: string;
  readonly ANAGroups?: readonly { readonly grpid: number; readonly state: string }[];
}

function printSubsystems(options: HostOptions, subsystems: ReadonlyMap<string, object[]>, output: string): void {
  const identity = defaultHostIdentity(options.hostnqn);
  const list = [...subsystems].map(([NQN, Paths], i) => ({ Name: `nvme-subsys${i}`, NQN, Paths }));
  if (output === 'json') {
    printJson([{ HostNQN: identity.hostnqn, HostID: options.hostid, Subsystems: list }]);
    return;
  }
  for (const { Name, NQN, Paths } of list) {
    printLine(`${Name} - NQN=${NQN}`);
    printLine(`${' '.repeat(Name.length)}   hostnqn=${identity.hostnqn}`);
    printLine('\\');
    for (const path of Paths as ListedPath[]) {
      const ana = path.ANAState ?? path.ANAGroups?.map(({ grpid, state }) => `${grpid}:${state}`).join(',') ?? '';
      const more = path.Error === undefined ? ana : `(${path.Error})`;
      printLine(` +- ${path.Name} tcp ${path.Address} ${path.State} ${more}`.trimEnd());
    }
  }
}

/** discover, list, list-subsys: what is out there. */
import type { Command } from 'commander';
import type { HostController } from '../../initiator/controller.ts';
import { discover, entryAddress } from '../../initiator/discovery.ts';
import { defaultHostIdentity } from '../../initiator/identity.ts';
import { browseDiscovery } from '../../initiator/mdns-browser.ts';
import type { HostOptions } from '../../initiator/options.ts';
import { formatNvmeUri } from '../../initiator/uri.ts';
import { DISCOVERY_NQN } from '../../spec/nqn.ts';
import { ConfigError } from '../../util/error.ts';
import { type DiscoveryLog, SubsystemType, TransportType } from '../../wire/cold/discovery-log.ts';
import { type AddressFlags, addAddress, isDiscovery, parseInteger, resolveAddress } from './address.ts';
import { anaOfPath } from './ana.ts';
import { connectDiscovered } from './discover-connect.ts';
import { addFilter, type EntryFilter, FILTER_KEYS, matcher } from './discover-filter.ts';
import { jsonLog, printLog } from './discover-text.ts';
import { watchDiscovery } from './discover-watch.ts';
import { type DiscoverWork, visitAll } from './discover-work.ts';
import { decimalSize, printJson, printLine, printTable } from './print.ts';
import { progress, runVerb, withController } from './run.ts';

interface DiscoverFlags extends AddressFlags {
  follow?: boolean;
  persistent?: boolean;
  connect?: boolean;
  mdns?: boolean;
  mdnsTime?: number;
  portLocal?: boolean;
  allSubsystems?: boolean;
  extended?: boolean;
  filter: EntryFilter[];
}

export function registerDiscover(program: Command): void {
  const command = program.command('discover').description('read the log of a Discovery controller');
  addAddress(command, '', true)
    .option('--follow', 'follow referrals to other Discovery controllers')
    .option('-p, --persistent', 'stay connected and print each change as a JSON line, until interrupted')
    .option('--connect', 'connect to each NVM subsystem that is named and list its namespaces; with -p stay connected')
    .option('--mdns', 'find the Discovery controllers by multicast DNS')
    .option('--mdns-time <seconds>', 'how long to listen for answers (default 2)', parseInteger)
    .option(
      '--filter <key=pattern>',
      `entries to take, * for anything; keys: ${FILTER_KEYS.join(', ')}; repeatable`,
      addFilter,
      [],
    )
    .option('--port-local', 'ask for what is reached through that port only (PLEO)')
    .option('--all-subsystems', 'ask for subsystems that are closed to this host, too (ALLSUBE)')
    .option('--extended', 'ask for extended entries (EXTDLPE)')
    .action((uri: string | undefined, flags: DiscoverFlags) => runVerb((signal) => run(uri, flags, signal)));
}

async function run(uri: string | undefined, flags: DiscoverFlags, signal: AbortSignal): Promise<void> {
  const starts = flags.mdns
    ? await browse(uri, flags, signal)
    : [resolveAddress('discover', uri, flags, DISCOVERY_NQN).options];
  const ask = { portLocal: flags.portLocal, allSubsystems: flags.allSubsystems, extended: flags.extended };
  const work: DiscoverWork = {
    starts: starts.map((options) => ({ ...options, ...ask })),
    follow: flags.follow ?? false,
    connect: flags.connect ?? false,
    filters: flags.filter,
    output: flags.output,
  };
  if (flags.persistent) await watchDiscovery(work, signal);
  else if (flags.connect) await connectDiscovered(work, signal);
  else await show(work, flags.mdns ?? false, signal);
}

/** The Discovery controllers that answer, as addresses to ask. */
async function browse(uri: string | undefined, flags: DiscoverFlags, signal: AbortSignal): Promise<HostOptions[]> {
  if (uri !== undefined || flags.traddr !== undefined) {
    throw new ConfigError('--mdns: found together with an address; give one of them');
  }
  const { mdnsTime } = flags;
  const timeoutMs = mdnsTime === undefined ? undefined : mdnsTime * 1000;
  const services = await progress('listening for Discovery controllers', browseDiscovery({ signal, timeoutMs }));
  signal.throwIfAborted();
  return services.map(({ addresses, port, nqn }) => {
    const at = { traddr: addresses[0]!, trsvcid: port, nqn: flags.nqn ?? nqn ?? DISCOVERY_NQN };
    return resolveAddress('discover', undefined, { ...flags, ...at }).options;
  });
}

/** Prints the logs: one as nvme-cli does, several with the controller that each comes from. */
async function show(
  { starts, follow, filters, output }: DiscoverWork,
  several: boolean,
  signal: AbortSignal,
): Promise<void> {
  const take = (log: DiscoveryLog): DiscoveryLog => {
    const entries = log.entries.filter(matcher(filters));
    return { ...log, numrec: BigInt(entries.length), entries };
  };
  if (!several && !follow) {
    const [options] = starts;
    const log = take(
      await progress(`reading the discovery log of ${options!.address}`, discover({ ...options!, signal })),
    );
    if (output === 'json') printJson(jsonLog(log));
    else printLog(log);
    return;
  }
  const visits: object[] = [];
  for await (const { address, port, log, error } of visitAll(starts, follow, several, signal)) {
    visits.push({
      traddr: address,
      trsvcid: String(port),
      ...(log === undefined ? { error: error?.message } : jsonLog(take(log))),
    });
    if (output === 'json') continue;
    printLine(`Discovery controller ${address}:${port}`);
    if (log === undefined) printLine(error?.message);
    else printLog(take(log));
  }
  if (output === 'json') printJson(visits);
  else if (starts.length === 0) printLine('No Discovery controller answered');
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

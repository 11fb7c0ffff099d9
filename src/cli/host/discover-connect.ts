/** `discover --connect`: connects to every NVM subsystem that is named, lists what is there, and disconnects. */
import type { HostController } from '../../initiator/controller.ts';
import { type SubsystemPlace, subsystemPlace } from '../../initiator/discovered-controllers.ts';
import type { HostOptions } from '../../initiator/options.ts';
import { formatNvmeUri } from '../../initiator/uri.ts';
import { matcher } from './discover-filter.ts';
import { type DiscoverWork, visitAll } from './discover-work.ts';
import { decimalSize, printJson, printLine } from './print.ts';
import { withController } from './run.ts';

/** A namespace, as a program wants it. */
export interface FoundNamespace {
  readonly nsid: number;
  /** To hand to the other verbs. */
  readonly uri: string;
  readonly blockCount: number;
  readonly blockSize: number;
}

export async function namespacesOf(controller: HostController): Promise<FoundNamespace[]> {
  const { address, port, subnqn } = controller.options;
  return (await controller.namespaces()).map(({ nsid, blockCount, blockSize }) => ({
    nsid,
    uri: formatNvmeUri({ address, port, subnqn, nsid }),
    blockCount,
    blockSize,
  }));
}

/** As the log names it. */
export const placeFields = ({ subnqn, address, port }: SubsystemPlace): object => ({
  subnqn,
  traddr: address,
  trsvcid: String(port),
});

/** What of the options for Discovery controllers holds for the subsystems that they name. */
export function subsystemOptions(work: DiscoverWork): Omit<HostOptions, 'address' | 'port' | 'subnqn'> {
  const {
    address: _a,
    port: _p,
    subnqn: _s,
    portLocal: _l,
    allSubsystems: _n,
    extended: _e,
    katoMs: _k,
    ...rest
  } = work.starts[0] ?? { address: '' };
  return rest;
}

/** @throws the first error, when everything was tried and printed */
export async function connectDiscovered(work: DiscoverWork, signal: AbortSignal): Promise<void> {
  const places = new Map<string, SubsystemPlace>();
  const matches = matcher(work.filters);
  let firstError: unknown;
  for await (const visit of visitAll(work.starts, work.follow, true, signal)) {
    if (visit.error !== undefined) {
      process.stderr.write(`nvmeferry: discover: ${visit.error.message}\n`);
      firstError ??= visit.error;
    }
    for (const entry of visit.log?.entries ?? []) {
      const place = subsystemPlace(entry);
      if (place !== undefined && matches(entry)) places.set(JSON.stringify(place), place);
    }
  }
  const options = subsystemOptions(work);
  const found: object[] = [];
  for (const place of places.values()) {
    try {
      // the admin queue tells all that is listed; I/O queues are for those who want I/O
      const host = { ...options, ...place, ioQueues: options.ioQueues ?? 0 };
      const { cntlid, namespaces } = await withController(host, signal, async (controller) => ({
        cntlid: controller.cntlid,
        namespaces: await namespacesOf(controller),
      }));
      found.push({ ...placeFields(place), cntlid, namespaces });
      if (work.output === 'text') printConnected(place, cntlid, namespaces);
    } catch (error) {
      signal.throwIfAborted();
      firstError ??= error;
      const message = error instanceof Error ? error.message : String(error);
      found.push({ ...placeFields(place), error: message });
      if (work.output === 'text') printLine(`${heading(place)}: ${message}`);
    }
  }
  if (work.output === 'json') printJson(found);
  if (firstError !== undefined) throw firstError;
}

const heading = ({ subnqn, address, port }: SubsystemPlace): string => `${subnqn} at ${address}:${port}`;

function printConnected(place: SubsystemPlace, cntlid: number, namespaces: readonly FoundNamespace[]): void {
  printLine(`${heading(place)}: controller ${cntlid}`);
  for (const { nsid, uri, blockCount, blockSize } of namespaces) {
    const size = decimalSize(blockCount * blockSize).trim();
    printLine(`  namespace ${nsid}: ${size}, ${blockCount} blocks of ${blockSize}, ${uri}`);
  }
}

/** `discover --persistent`: follows Discovery controllers, and with `--connect` the subsystems that they name, and prints JSON lines. */
import { once } from 'node:events';
import { DiscoveredControllers, subsystemPlace } from '../../initiator/discovered-controllers.ts';
import { type DiscoverySource, DiscoveryWatch } from '../../initiator/discovery-watch.ts';
import { NvmeofError } from '../../util/error.ts';
import type { DiscoveryLogEntry } from '../../wire/cold/discovery-log.ts';
import { namespacesOf, placeFields, subsystemOptions } from './discover-connect.ts';
import { matcher } from './discover-filter.ts';
import { record } from './discover-text.ts';
import type { DiscoverWork } from './discover-work.ts';
import { printLine } from './print.ts';
import { progress } from './run.ts';

const KATO_MS = 30_000;

const sourceFields = ({ address, port }: DiscoverySource): object => ({ traddr: address, trsvcid: String(port) });

const plain = (_key: string, value: unknown): unknown => (typeof value === 'bigint' ? Number(value) : value);

function say(event: string, fields: object): void {
  printLine(JSON.stringify({ event, ...fields }, plain));
}

export async function watchDiscovery(work: DiscoverWork, signal: AbortSignal): Promise<void> {
  const matches = matcher(work.filters);
  const watch = new DiscoveryWatch({ followReferrals: work.follow });
  const controllers = work.connect ? connections(work) : undefined;
  const apply = (entries: readonly DiscoveryLogEntry[], to: 'add' | 'remove'): void => {
    for (const entry of entries) {
      const place = subsystemPlace(entry);
      if (place !== undefined) controllers?.[to](place);
    }
  };
  let lastError: Error | undefined;
  watch.on('log', (source, log, allAdded, allRemoved) => {
    const added = allAdded.filter(matches);
    const removed = allRemoved.filter(matches);
    const fields = { genctr: log.genctr, added: added.map(record), removed: removed.map(record) };
    say('log', { ...sourceFields(source), ...fields });
    apply(removed, 'remove');
    apply(added, 'add');
  });
  watch.on('failed', (source, error) => say('failed', { ...sourceFields(source), message: error.message }));
  watch.on('lost', (source, error) => {
    lastError = error;
    say('lost', { ...sourceFields(source), message: error.message });
  });
  watch.on('restored', (source) => say('restored', sourceFields(source)));
  watch.on('ended', (source) => say('ended', sourceFields(source)));
  try {
    for (const options of work.starts) {
      const katoMs = options.katoMs ?? KATO_MS;
      await progress(`connecting to ${options.address}`, watch.add({ ...options, katoMs, signal }));
    }
    await ended(watch, signal);
  } finally {
    await controllers?.close();
    await watch.close();
  }
  if (!signal.aborted && lastError !== undefined) throw lastError;
}

function connections(work: DiscoverWork): DiscoveredControllers {
  const controllers = new DiscoveredControllers(subsystemOptions(work));
  controllers.on('connected', async (place, controller) => {
    try {
      const namespaces = await namespacesOf(controller);
      say('connected', { ...placeFields(place), cntlid: controller.cntlid, namespaces });
    } catch (error) {
      // lost again at once: the controller's own events tell
      if (!(error instanceof NvmeofError)) throw error;
    }
  });
  controllers.on('failed', (place, error) => say('connect-failed', { ...placeFields(place), message: error.message }));
  controllers.on('disconnected', (place) => say('disconnected', placeFields(place)));
  return controllers;
}

/** Until interrupted, or nothing is watched any more. */
async function ended(watch: DiscoveryWatch, signal: AbortSignal): Promise<void> {
  try {
    while (watch.sources.length > 0 && !signal.aborted) await once(watch, 'ended', { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

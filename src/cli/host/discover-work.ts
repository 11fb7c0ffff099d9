/** What `discover` was asked to do, and the walk over the Discovery controllers that its one-shot forms share. */
import { type DiscoveryOptions, type DiscoveryVisit, discoverReferrals } from '../../initiator/discovery.ts';
import { DISCOVERY_PORT } from '../../spec/nqn.ts';
import type { OutputFormat } from './address.ts';
import type { EntryFilter } from './discover-filter.ts';

export interface DiscoverWork {
  /** The Discovery controllers to begin with. */
  readonly starts: readonly DiscoveryOptions[];
  readonly follow: boolean;
  readonly connect: boolean;
  readonly filters: readonly EntryFilter[];
  readonly output: OutputFormat;
}

/**
 * Each Discovery controller once.
 * @param tolerant a first one that fails is yielded with its error (they were found, not asked for); otherwise it throws
 */
export async function* visitAll(
  starts: readonly DiscoveryOptions[],
  follow: boolean,
  tolerant: boolean,
  signal: AbortSignal,
): AsyncGenerator<DiscoveryVisit, void, undefined> {
  const seen = new Set<string>();
  for (const options of starts) {
    try {
      for await (const visit of discoverReferrals({ ...options, signal })) {
        const key = `${visit.address} ${visit.port}`;
        if (!seen.has(key)) yield visit;
        seen.add(key);
        if (!follow) break;
      }
    } catch (error) {
      if (!tolerant || signal.aborted || !(error instanceof Error)) throw error;
      yield { address: options.address, port: options.port ?? DISCOVERY_PORT, depth: 0, error };
    }
  }
}

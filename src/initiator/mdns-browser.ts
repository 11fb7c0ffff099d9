/** Finds discovery services by multicast DNS. TP8009; RFC 6762 section 5.2, RFC 6763 section 4. */
import { allInterfaceAddresses } from '../fabrics/mdns-interfaces.ts';
import { type MdnsLink, mdnsOn, type OpenMdnsLink } from '../fabrics/mdns-link.ts';
import { CDC_SUBTYPE, DISCOVERY_SERVICE_TYPE, DnsCache, type FoundService } from '../fabrics/mdns-records.ts';
import { type Clock, systemClock, type Timer } from '../util/clock.ts';
import { TransportError } from '../util/error.ts';

/** @public */
export interface BrowseOptions {
  /** How long to listen; default 2000. Services answer within a fraction of a second, but a packet may be lost. */
  readonly timeoutMs?: number | undefined;
  /** IPv4 addresses of the interfaces to look on; default all. */
  readonly interfaces?: readonly string[] | undefined;
  /** Ends early, with what was found. */
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock | undefined;
  /** How packets are sent and received. @internal */
  readonly open?: OpenMdnsLink | undefined;
}

const TIMEOUT_MS_DEFAULT = 2000;
const ASK_AGAIN_MS = 1000;

/**
 * The discovery services on TCP that answer.
 * @throws TransportError NVMEOF_ERR_MDNS if no interface can send
 * @public
 */
export async function browseDiscovery(options: BrowseOptions = {}): Promise<FoundService[]> {
  const { timeoutMs = TIMEOUT_MS_DEFAULT, clock = systemClock, open = mdnsOn(), signal } = options;
  const interfaces = options.interfaces ?? allInterfaceAddresses();
  const cache = new DnsCache();
  const problems = new Map<string, Error>();
  const asked = new Set<string>();
  const links: MdnsLink[] = interfaces.map((address) => {
    const link = open(address, {
      response: (packet, from) => {
        for (const record of [...packet.answers, ...packet.additionals]) cache.add(record, from.address);
        // each once on each link, or two browsers would keep each other busy
        const missing = cache.missing().filter(({ name, type }) => !asked.has(`${address} ${type} ${name}`));
        for (const { name, type } of missing) asked.add(`${address} ${type} ${name}`);
        if (missing.length > 0) link.query(missing);
      },
      problem: (error) => problems.set(address, error),
    });
    return link;
  });
  const ask = (): void => {
    for (const link of links) {
      link.query([
        { name: DISCOVERY_SERVICE_TYPE, type: 'PTR' },
        { name: CDC_SUBTYPE, type: 'PTR' },
      ]);
    }
  };
  const timers: Timer[] = [];
  try {
    ask();
    await new Promise<void>((resolve) => {
      timers.push(clock.setTimer(resolve, timeoutMs));
      if (timeoutMs > ASK_AGAIN_MS) timers.push(clock.setTimer(ask, ASK_AGAIN_MS));
      signal?.addEventListener('abort', () => resolve(), { once: true });
      if (signal?.aborted) resolve();
    });
  } finally {
    for (const timer of timers) timer.cancel();
    await Promise.all(links.map((link) => link.close()));
  }
  const found = cache.services();
  if (found.length === 0 && problems.size === interfaces.length) throw cannotBrowse(interfaces, problems);
  return found;
}

function cannotBrowse(interfaces: readonly string[], problems: ReadonlyMap<string, Error>): TransportError {
  const [first] = problems.values();
  const why = interfaces.length === 0 ? 'no interface has an IPv4 address' : `${first?.message ?? 'no answer'}`;
  return new TransportError('NVMEOF_ERR_MDNS', `Cannot browse by multicast DNS: ${why}`, { cause: first });
}

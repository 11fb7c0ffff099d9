/** DNS service discovery of NVMe discovery services: the records of one, and how they are read. TP8009; RFC 6763. */
import { isIPv6 } from 'node:net';
import type { DnsQuestion, DnsRecord } from './mdns-link.ts';

export const DISCOVERY_SERVICE_TYPE = '_nvme-disc._tcp.local';
/** Central discovery controllers name themselves under this as well. */
export const CDC_SUBTYPE: string = `_cdc._sub.${DISCOVERY_SERVICE_TYPE}`;
const SERVICE_TYPES = '_services._dns-sd._udp.local';

const HOST_TTL_S = 120;
const OTHER_TTL_S = 4500;

/** A discovery service to publish. */
export interface PublishedService {
  /** One DNS label: names the service, and the host whose addresses these are. */
  readonly label: string;
  readonly nqn: string;
  readonly port: number;
}

/** All records of a service at `addresses`. */
export function serviceRecords({ label, nqn, port }: PublishedService, addresses: readonly string[]): DnsRecord[] {
  const instance = `${label}.${DISCOVERY_SERVICE_TYPE}`;
  const target = `${label}.local`;
  return [
    { name: DISCOVERY_SERVICE_TYPE, type: 'PTR', ttl: OTHER_TTL_S, data: instance },
    { name: SERVICE_TYPES, type: 'PTR', ttl: OTHER_TTL_S, data: DISCOVERY_SERVICE_TYPE },
    { name: instance, type: 'SRV', ttl: HOST_TTL_S, flush: true, data: { port, target } },
    { name: instance, type: 'TXT', ttl: OTHER_TTL_S, flush: true, data: ['p=tcp', `nqn=${nqn}`] },
    // not `flush`: on another interface the same name has other addresses
    ...addresses.map((data) => ({ name: target, type: isIPv6(data) ? 'AAAA' : 'A', ttl: HOST_TTL_S, data })),
  ];
}

const sameName = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase();
const matches = (record: DnsRecord, { name, type }: DnsQuestion): boolean =>
  sameName(record.name, name) && (type === 'ANY' || type === record.type);

/**
 * What of `records` answers a query, and what the asker will want to know next.
 * @param known answers that the asker has already (known-answer suppression, RFC 6762 section 7.1)
 */
export function answersTo(
  records: readonly DnsRecord[],
  questions: readonly DnsQuestion[],
  known: readonly DnsRecord[],
): { answers: DnsRecord[]; additionals: DnsRecord[] } {
  const isKnown = (record: DnsRecord): boolean =>
    known.some(
      (other) =>
        other.type === record.type &&
        sameName(other.name, record.name) &&
        other.ttl * 2 >= record.ttl &&
        typeof record.data === 'string' &&
        typeof other.data === 'string' &&
        sameName(other.data, record.data),
    );
  const answers = records.filter((record) => questions.some((one) => matches(record, one)) && !isKnown(record));
  const follows = answers.some(({ type }) => type === 'PTR' || type === 'SRV');
  return {
    answers,
    additionals: follows ? records.filter((record) => !answers.includes(record) && record.type !== 'PTR') : [],
  };
}

/** A discovery service that was found. @public */
export interface FoundService {
  /** Its instance name. */
  readonly name: string;
  /** IPv4 first; without link-local IPv6 addresses, which mean nothing without their interface. */
  readonly addresses: readonly string[];
  readonly port: number;
  /** Absent: it answers to the well-known NQN only, or does not say. */
  readonly nqn?: string | undefined;
  /** A central discovery controller. */
  readonly isCdc: boolean;
}

const TYPES: readonly string[] = ['A', 'AAAA', 'PTR', 'SRV', 'TXT'];
/** More than any network has discovery services; whoever floods us gets no further. */
const RECORDS_MAX = 4096;

/** The records heard so far, by what they say. */
export class DnsCache {
  readonly #records = new Map<string, DnsRecord & { readonly from: string }>();

  /** @param from address of the sender: where a service is, if it names no address */
  add(record: DnsRecord, from: string): void {
    if (!TYPES.includes(record.type)) return;
    const key = JSON.stringify([record.name.toLowerCase(), record.type, record.data]);
    if (record.ttl === 0) {
      this.#records.delete(key);
      return;
    }
    if (record.flush) {
      for (const [other, old] of this.#records) {
        if (old.type === record.type && sameName(old.name, record.name)) this.#records.delete(other);
      }
    }
    if (this.#records.size < RECORDS_MAX) this.#records.set(key, { ...record, from });
  }

  #find(name: string, type: string): (DnsRecord & { readonly from: string })[] {
    return [...this.#records.values()].filter((record) => record.type === type && sameName(record.name, name));
  }

  #instances(): Map<string, { isCdc: boolean; from: string }> {
    const found = new Map<string, { isCdc: boolean; from: string }>();
    for (const [type, isCdc] of [
      [DISCOVERY_SERVICE_TYPE, false],
      [CDC_SUBTYPE, true],
    ] as const) {
      for (const { data, from } of this.#find(type, 'PTR'))
        if (typeof data === 'string') found.set(data, { isCdc, from });
    }
    return found;
  }

  /** What has to be asked before every instance is known in full. */
  missing(): DnsQuestion[] {
    const questions: DnsQuestion[] = [];
    for (const name of this.#instances().keys()) {
      const [srv] = this.#find(name, 'SRV');
      if (srv === undefined) questions.push({ name, type: 'SRV' });
      if (this.#find(name, 'TXT').length === 0) questions.push({ name, type: 'TXT' });
      const target = srvData(srv)?.target;
      if (target === undefined || this.#addresses(target).length > 0) continue;
      questions.push({ name: target, type: 'A' }, { name: target, type: 'AAAA' });
    }
    return questions;
  }

  #addresses(target: string): string[] {
    return [...this.#find(target, 'A'), ...this.#find(target, 'AAAA')]
      .map(({ data }) => String(data))
      .filter((address) => !/^fe80:/i.test(address));
  }

  /** The services on TCP that are known well enough to connect to, in order of their names. */
  services(): FoundService[] {
    const services: FoundService[] = [];
    for (const [instance, { isCdc, from }] of this.#instances()) {
      const srv = srvData(this.#find(instance, 'SRV')[0]);
      const txt = txtData(this.#find(instance, 'TXT')[0]);
      if (srv === undefined || txt === undefined || txt.get('p')?.toLowerCase() !== 'tcp') continue;
      const addresses = this.#addresses(srv.target);
      const nqn = txt.get('nqn');
      services.push({
        name: instance.slice(0, -1 - DISCOVERY_SERVICE_TYPE.length),
        addresses: addresses.length > 0 ? addresses : [from],
        port: srv.port,
        ...(nqn === undefined || nqn === '' ? {} : { nqn }),
        isCdc,
      });
    }
    return services.sort((a, b) => (a.name < b.name ? -1 : 1));
  }
}

function srvData(record: DnsRecord | undefined): { port: number; target: string } | undefined {
  const data = record?.data as { port?: unknown; target?: unknown } | undefined;
  if (typeof data?.port !== 'number' || typeof data.target !== 'string' || data.port === 0) return undefined;
  return { port: data.port, target: data.target };
}

/** `key=value` strings; of a key that is there twice the first counts (RFC 6763 section 6.4). */
function txtData(record: DnsRecord | undefined): Map<string, string> | undefined {
  if (record === undefined || !Array.isArray(record.data)) return undefined;
  const values = new Map<string, string>();
  for (const item of record.data) {
    const [, key, value = ''] = /^([^=]+)(?:=(.*))?$/s.exec(String(item)) ?? [];
    if (key !== undefined && !values.has(key.toLowerCase())) values.set(key.toLowerCase(), value);
  }
  return values;
}

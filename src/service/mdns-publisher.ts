/** Publishes a discovery service by multicast DNS: announces it, answers those who ask, says goodbye. TP8009; RFC 6762 sections 6, 8.3, 10.1. */
import { createHash } from 'node:crypto';
import type { MdnsPlace } from '../fabrics/mdns-interfaces.ts';
import {
  type DnsPacket,
  type DnsPeer,
  type DnsRecord,
  MDNS_PORT,
  type MdnsLink,
  type OpenMdnsLink,
} from '../fabrics/mdns-link.ts';
import { answersTo, serviceRecords } from '../fabrics/mdns-records.ts';
import type { Clock, Timer } from '../util/clock.ts';

const SECOND_ANNOUNCEMENT_MS = 1000;

export interface MdnsPublisherOptions {
  readonly nqn: string;
  /** TCP port of the discovery service. */
  readonly port: number;
  readonly places: readonly MdnsPlace[];
  readonly clock: Clock;
  readonly open: OpenMdnsLink;
  /** The service cannot be published on that interface, or not now. */
  onProblem(interfaceAddress: string, error: Error): void;
}

/** Owns a link per interface, until `close`. */
export class MdnsPublisher {
  readonly #links: { readonly link: MdnsLink; readonly records: readonly DnsRecord[] }[] = [];
  #timer: Timer | undefined;
  #closing: Promise<void> | undefined;

  constructor({ nqn, port, places, clock, open, onProblem }: MdnsPublisherOptions) {
    // made from the NQN, so that nobody else has it: there is no conflict to probe for
    const label = `nvmeferry-${createHash('sha256').update(nqn).digest('hex').slice(0, 12)}`;
    for (const { interfaceAddress, addresses } of places) {
      const records = serviceRecords({ label, nqn, port }, addresses);
      const link = open(interfaceAddress, {
        query: (packet, from) => this.#answer(link, records, packet, from),
        problem: (error) => onProblem(interfaceAddress, error),
      });
      this.#links.push({ link, records });
    }
    this.#announce();
    this.#timer = clock.setTimer(() => this.#announce(), SECOND_ANNOUNCEMENT_MS);
  }

  #announce(): void {
    for (const { link, records } of this.#links) void link.respond({ answers: records });
  }

  #answer(link: MdnsLink, records: readonly DnsRecord[], packet: DnsPacket, from: DnsPeer): void {
    if (this.#closing !== undefined) return;
    const { answers, additionals } = answersTo(records, packet.questions, packet.answers);
    if (answers.length === 0) return;
    // who asks from another port is a plain resolver: it gets its answer alone, with its question (RFC 6762 section 6.7)
    if (from.port === MDNS_PORT) void link.respond({ answers, additionals });
    else void link.respond({ id: packet.id, questions: packet.questions, answers, additionals }, from);
  }

  /** Says goodbye and closes every socket. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#timer?.cancel();
    await Promise.all(
      this.#links.map(async ({ link, records }) => {
        await link.respond({ answers: records.map((record) => ({ ...record, ttl: 0 })) });
        await link.close();
      }),
    );
  }
}

/** A network for multicast DNS in memory: every packet reaches every link at once, its own sender included, as multicast loops back. */
import type {
  DnsPacket,
  DnsPeer,
  DnsQuestion,
  MdnsLink,
  MdnsLinkEvents,
  OpenMdnsLink,
} from '../../src/fabrics/mdns-link.ts';

export interface SentPacket {
  readonly kind: 'query' | 'response';
  readonly from: string;
  readonly to: DnsPeer | undefined;
  readonly packet: DnsPacket;
}

export class FakeMdnsNetwork {
  readonly #links = new Map<MdnsLink, { address: string; events: MdnsLinkEvents }>();
  readonly sent: SentPacket[] = [];
  /** Interfaces that cannot send. */
  readonly broken = new Set<string>();

  get linkCount(): number {
    return this.#links.size;
  }

  readonly open: OpenMdnsLink = (address, events) => {
    const link: MdnsLink = {
      query: (questions) => this.send('query', address, { questions }),
      respond: async (packet, to) => this.send('response', address, packet, to),
      close: async () => {
        this.#links.delete(link);
      },
    };
    this.#links.set(link, { address, events });
    return link;
  };

  /** As if a peer at `from` had sent it; from port 5353, as mDNS does, or another one. */
  send(kind: 'query' | 'response', from: string, packet: Partial<DnsPacket>, to?: DnsPeer, port = 5353): void {
    const full = { questions: [] as DnsQuestion[], answers: [], additionals: [], ...packet };
    // TXT strings come in as bytes
    const bytes = (data: unknown): unknown =>
      Array.isArray(data) ? data.map((text) => Buffer.from(String(text))) : data;
    const received = {
      ...full,
      answers: full.answers.map((record) => ({ ...record, data: bytes(record.data) })),
      additionals: full.additionals.map((record) => ({ ...record, data: bytes(record.data) })),
    };
    this.sent.push({ kind, from, to, packet: full });
    if (this.broken.has(from)) {
      for (const { address, events } of this.#links.values()) {
        if (address === from) events.problem(new Error('send ENETUNREACH'));
      }
      return;
    }
    if (to !== undefined) return;
    for (const { events } of [...this.#links.values()]) events[kind]?.(received, { address: from, port });
  }

  responses(): SentPacket[] {
    return this.sent.filter(({ kind }) => kind === 'response');
  }
}

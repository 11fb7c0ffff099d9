/**
 * Multicast DNS (RFC 6762) on one interface: packets out, packets in. multicast-dns has the wire format and the socket; this owns both. What is
 * asked and answered is the business of the publisher and the browser.
 */
import makeMdns from 'multicast-dns';

export const MDNS_PORT = 5353;

/** The record types of DNS service discovery. */
export type DnsType = 'A' | 'AAAA' | 'PTR' | 'SRV' | 'TXT' | 'ANY';

export interface DnsQuestion {
  readonly name: string;
  readonly type: DnsType;
}

export interface DnsRecord {
  readonly name: string;
  readonly type: string;
  /** Seconds; 0 says goodbye. */
  readonly ttl: number;
  /** The record replaces others of its name and type. */
  readonly flush?: boolean | undefined;
  /** Text for A, AAAA and PTR; target and port for SRV; texts for TXT, which come in as bytes. */
  readonly data: unknown;
}

export interface DnsPacket {
  readonly id?: number | undefined;
  readonly questions: readonly DnsQuestion[];
  readonly answers: readonly DnsRecord[];
  readonly additionals: readonly DnsRecord[];
}

export interface DnsPeer {
  readonly address: string;
  readonly port: number;
}

export interface MdnsLinkEvents {
  query?(packet: DnsPacket, from: DnsPeer): void;
  response?(packet: DnsPacket, from: DnsPeer): void;
  /** It cannot receive or send for now, or at all: no multicast on this interface, or the port is taken. */
  problem(error: Error): void;
}

export interface MdnsLink {
  query(questions: readonly DnsQuestion[]): void;
  /** Settles when the packet is out, or could not be sent. @param to one peer instead of the group */
  respond(packet: Partial<DnsPacket>, to?: DnsPeer): Promise<void>;
  /** Idempotent. */
  close(): Promise<void>;
}

/** @param interfaceAddress IPv4 address of the interface */
export type OpenMdnsLink = (interfaceAddress: string, events: MdnsLinkEvents) => MdnsLink;

/** Links on UDP port `port`; another than 5353 keeps tests among themselves. */
export function mdnsOn(port: number = MDNS_PORT): OpenMdnsLink {
  return (interfaceAddress, events) => {
    // a socket bound to the interface's own address would receive no multicast
    const mdns = makeMdns({ port, interface: interfaceAddress, bind: '0.0.0.0' });
    let closing: Promise<void> | undefined;
    const sent = (error: Error | null): void => {
      if (error !== null && error !== undefined && closing === undefined) events.problem(error);
    };
    mdns.on('query', (packet, from) => events.query?.(packet as unknown as DnsPacket, from));
    mdns.on('response', (packet, from) => events.response?.(packet as unknown as DnsPacket, from));
    mdns.on('error', (error) => events.problem(error));
    // a packet that cannot be decoded is somebody else's: not a problem of the link
    mdns.on('warning', (error: NodeJS.ErrnoException) => {
      if (error.syscall !== undefined) events.problem(error);
    });
    return {
      query: (questions) => mdns.query({ questions: [...questions] } as never, sent as never),
      respond: (packet, to) =>
        new Promise((resolve) => {
          const done = (error: Error | null): void => {
            sent(error);
            resolve();
          };
          mdns.respond({ answers: [], ...packet } as never, to as never, done as never);
        }),
      close: () => {
        closing ??= new Promise((resolve) => mdns.destroy(() => resolve()));
        return closing;
      },
    };
  };
}

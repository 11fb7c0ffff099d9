/**
 * A port: where hosts connect, and which subsystems they find there. Owns its listener and its connections.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { DISCOVERY_NQN } from '../spec/nqn.ts';
import { TcpTargetConnection } from '../transport/tcp/target-connection.ts';
import type { TcpTargetOptions } from '../transport/tcp/target-link.ts';
import type { BufferPool } from '../util/buffer-pool.ts';
import type { Clock } from '../util/clock.ts';
import { NvmeofError } from '../util/error.ts';
import { type ConnectScope, connectCommandSet } from './commands/connect.ts';
import { QueuePair } from './queue-pair.ts';
import type { Subsystem } from './subsystem.ts';

/** @public */
export interface PortOptions {
  /** 1 to 65535; PORTID of discovery log entries. */
  readonly portId: number;
  /** IPv4 or IPv6 address to listen on. */
  readonly address: string;
  /** TCP port; 0 lets the system choose. */
  readonly service: number;
  /** NQNs of the subsystems seen here; '*' for all. Empty: discovery only. */
  readonly subsystems: readonly string[];
  /** What the discovery log says of this port, where that is not where it listens. */
  readonly advertise?: PortAdvertisement | undefined;
  /** Entries of an I/O queue, 2 to 4096. Default 1024. */
  readonly queueEntriesMax?: number | undefined;
  readonly tcp?: Partial<TcpTargetOptions> | undefined;
}

/**
 * How a port stands in the discovery log: behind another address or TCP port (NAT), or not at all ('off'; hosts that know it still connect). A
 * port on a wildcard address is advertised by the address that the asking host used, unless this names one.
 * @public
 */
export type PortAdvertisement =
  | { readonly address?: string | undefined; readonly service?: number | undefined }
  | 'off';

export interface PortOwner {
  readonly clock: Clock;
  readonly pool: BufferPool;
  readonly discovery: Subsystem;
  subsystem(nqn: string): Subsystem | undefined;
  connectionClosed(port: Port, peer: string, reason: string): void;
}

/** Commands before Connect: one, and one pipelined behind it. */
const UNCONNECTED_DEPTH = 2;

export class Port implements ConnectScope {
  readonly options: PortOptions;
  readonly portId: number;
  readonly queueEntriesMax: number;
  readonly tcp: TcpTargetOptions;
  readonly inCapsuleBytes: number;
  subsystems: readonly string[];
  advertise: PortAdvertisement;
  readonly #owner: PortOwner;
  readonly #server: Server;
  readonly #connections = new Set<TcpTargetConnection>();

  /** @param tcp the port's limits, complete */
  constructor(options: PortOptions, tcp: TcpTargetOptions, owner: PortOwner) {
    this.options = options;
    this.portId = options.portId;
    this.queueEntriesMax = options.queueEntriesMax ?? 1024;
    this.tcp = tcp;
    this.inCapsuleBytes = tcp.inCapsuleBytes;
    this.subsystems = options.subsystems;
    this.advertise = options.advertise ?? {};
    this.#owner = owner;
    this.#server = createServer({ pauseOnConnect: true, noDelay: true }, (socket) => {
      this.accept(socket);
    });
  }

  subsystem(nqn: string): Subsystem | undefined {
    if (nqn === DISCOVERY_NQN || nqn === this.#owner.discovery.nqn) return this.#owner.discovery;
    return this.exposes(nqn) ? this.#owner.subsystem(nqn) : undefined;
  }

  /** Whether hosts reach that subsystem here: the port says so, and the subsystem does not keep to other ports. */
  exposes(nqn: string): boolean {
    if (!this.subsystems.includes('*') && !this.subsystems.includes(nqn)) return false;
    return this.#owner.subsystem(nqn)?.ports?.includes(this.portId) ?? true;
  }

  /** Starts to listen. @throws NvmeofError with the remedy, if the address cannot be used */
  async listen(): Promise<void> {
    const { address, service } = this.options;
    await new Promise<void>((resolve, reject) => {
      const failed = (error: NodeJS.ErrnoException): void => reject(listenError(error, address, service));
      this.#server.once('error', failed);
      this.#server.listen({ host: address, port: service, backlog: 511 }, () => {
        this.#server.off('error', failed);
        // accept errors (no more descriptors) must not end the process; the kernel keeps the connection waiting
        this.#server.on('error', () => {});
        resolve();
      });
    });
  }

  /** The TCP port in use (of interest when 0 was asked for). */
  get service(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address !== null ? address.port : this.options.service;
  }

  get connections(): ReadonlySet<TcpTargetConnection> {
    return this.#connections;
  }

  /** Takes over a connection that was made, paused. */
  accept(socket: Socket): TcpTargetConnection {
    const connection = new TcpTargetConnection(
      socket,
      this.tcp,
      this.#owner.clock,
      this.#owner.pool.transfers,
      (transport) => new QueuePair(transport, connectCommandSet(this), this.#owner.pool, UNCONNECTED_DEPTH),
      (closed, reason) => {
        this.#connections.delete(closed);
        this.#owner.connectionClosed(this, closed.peer, reason);
      },
    );
    this.#connections.add(connection);
    return connection;
  }

  /** No new connections; those there are stay. */
  stopListening(): void {
    if (this.#server.listening) this.#server.close();
  }

  /** Stops listening and closes every connection. Idempotent. */
  async close(): Promise<void> {
    this.stopListening();
    for (const connection of [...this.#connections]) connection.close('the port is closed');
  }
}

function listenError(error: NodeJS.ErrnoException, address: string, service: number): NvmeofError {
  const remedies: Record<string, string> = {
    EADDRINUSE: 'another program listens there: stop it or choose another port',
    EACCES: 'not permitted: ports below 1024 need root or CAP_NET_BIND_SERVICE',
    EADDRNOTAVAIL: 'this machine has no such address: see `ip address`',
    ENOTFOUND: 'the name does not resolve: give an IP address',
  };
  const remedy = remedies[error.code ?? ''] ?? error.message;
  return new NvmeofError('NVMEOF_ERR_LISTEN', `Cannot listen on ${address}:${service}: ${remedy}`, { cause: error });
}

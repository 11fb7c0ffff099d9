/**
 * The target: subsystems, ports and the discovery service of one process. Changes at run time disturb no host but those they concern.
 */
import { hostname } from 'node:os';
import { defaultDiscoveryNqn } from '../fabrics/discovery-nqn.ts';
import { DISCOVERY_NQN } from '../spec/nqn.ts';
import { DNR, Status } from '../spec/status.ts';
import type { PciFunctionOptions } from '../transport/pcie/pci-function.ts';
import { TCP_TARGET_DEFAULTS, type TcpTargetOptions } from '../transport/tcp/target-link.ts';
import { BufferPool } from '../util/buffer-pool.ts';
import { type Clock, systemClock } from '../util/clock.ts';
import { ConfigError } from '../util/error.ts';
import type { Controller } from './controller.ts';
import { DiscoveryLog, type Referral } from './discovery.ts';
import type { NamespaceOptions } from './namespace.ts';
import { makePciFunction, type PciController } from './pci.ts';
import { Port, type PortAdvertisement, type PortOptions } from './port.ts';
import { becomeQuiet } from './quiet.ts';
import type { StateStore } from './state-store.ts';
import { Subsystem, type SubsystemOptions } from './subsystem.ts';

/** What happens in a target, for logs and tests. @public */
export interface TargetEvents {
  connected?(controller: Controller): void;
  closed?(controller: Controller, reason: string): void;
  connectionClosed?(port: Port, peer: string, reason: string): void;
  fatal?(controller: Controller, error: unknown): void;
  /** The state store failed; the command that needed it was refused. */
  stateNotSaved?(subsystem: Subsystem, error: unknown): void;
  /** Something an operator should see to. */
  warning?(subsystem: Subsystem, message: string, error?: unknown): void;
}

/** @public */
export interface TargetOptions {
  readonly clock?: Clock | undefined;
  readonly events?: TargetEvents | undefined;
  /**
   * The discovery subsystem's own NQN; it answers to the well-known one as well. Default: one made from this machine's identity, the same for
   * every target on it.
   */
  readonly discoveryNqn?: string | undefined;
  /** First controller id of the discovery subsystem, 1 to 65519; one that differs between runs keeps hosts from mixing up old and new ones. */
  readonly discoveryCntlidFirst?: number | undefined;
  /** Limits for every port that does not say otherwise. */
  readonly tcp?: Partial<TcpTargetOptions> | undefined;
  /**
   * Bytes of data buffers that all connections may hold together; beyond, each has one command with data at a time. Default 1 GiB; what each
   * may hold is `tcp.bufferBytesMax`.
   */
  readonly transferBytesMax?: number | undefined;
  /** Where subsystems keep what outlives the process; default: nowhere. */
  readonly state?: StateStore | undefined;
}

const DRAIN_POLL_MS = 20;

/** @public */
export class Target {
  readonly clock: Clock;
  readonly pool: BufferPool;
  readonly discovery: Subsystem;
  readonly #subsystems = new Map<string, Subsystem>();
  readonly #ports = new Map<number, Port>();
  readonly #log: DiscoveryLog;
  readonly #events: TargetEvents;
  readonly #tcp: TcpTargetOptions;
  readonly #state: StateStore | undefined;
  #closed = false;

  constructor(options: TargetOptions = {}) {
    this.clock = options.clock ?? systemClock;
    this.pool = new BufferPool(undefined, options.transferBytesMax);
    this.#events = options.events ?? {};
    this.#state = options.state;
    this.#tcp = { ...TCP_TARGET_DEFAULTS, ...options.tcp };
    this.#log = new DiscoveryLog(
      () => this.#ports.values(),
      () => this.#subsystems.values(),
    );
    this.discovery = this.#makeSubsystem(
      {
        nqn: options.discoveryNqn ?? defaultDiscoveryNqn(''),
        allowAnyHost: true,
        serial: hostname().slice(0, 20),
        cntlidFirst: options.discoveryCntlidFirst,
      },
      true,
    );
  }

  #makeSubsystem(options: SubsystemOptions, isDiscovery: boolean): Subsystem {
    return new Subsystem(
      options,
      isDiscovery,
      {
        connected: (controller) => this.#events.connected?.(controller),
        closed: (controller, reason) => this.#events.closed?.(controller, reason),
        fatal: (controller, error) => this.#events.fatal?.(controller, error),
        stateNotSaved: (subsystem, error) => this.#events.stateNotSaved?.(subsystem, error),
        warning: (subsystem, message, error) => this.#events.warning?.(subsystem, message, error),
        peersChanged: () => this.#discoveryChanged(),
        discoveryPage: (controller, asked) => this.#log.page(this.discovery, controller, asked),
        discoveryOptions: (controller) => this.#log.options(controller),
      },
      this.clock,
      isDiscovery ? undefined : this.#state,
    );
  }

  get subsystems(): IterableIterator<Subsystem> {
    return this.#subsystems.values();
  }

  get ports(): IterableIterator<Port> {
    return this.#ports.values();
  }

  subsystem(nqn: string): Subsystem | undefined {
    return this.#subsystems.get(nqn);
  }

  port(portId: number): Port | undefined {
    return this.#ports.get(portId);
  }

  /** @throws ConfigError if the NQN exists */
  addSubsystem(options: SubsystemOptions): Subsystem {
    if (this.#subsystems.has(options.nqn) || options.nqn === DISCOVERY_NQN || options.nqn === this.discovery.nqn) {
      throw new ConfigError(`Subsystem ${options.nqn} exists already`);
    }
    const subsystem = this.#makeSubsystem(options, false);
    this.#subsystems.set(options.nqn, subsystem);
    this.#discoveryChanged();
    return subsystem;
  }

  /** Disconnects its hosts, takes it out, and closes its backends. */
  async removeSubsystem(nqn: string): Promise<void> {
    const subsystem = this.#subsystems.get(nqn);
    if (subsystem === undefined) return;
    this.#subsystems.delete(nqn);
    this.#discoveryChanged();
    for (const controller of [...subsystem.controllers]) controller.close('the subsystem is removed');
    subsystem.ana.close();
    await subsystem.close();
    for (const namespace of subsystem.allocatedNamespaces()) await this.removeNamespace(subsystem, namespace.nsid);
  }

  addNamespace(subsystem: Subsystem, options: NamespaceOptions): void {
    const namespace = subsystem.addNamespace(options);
    subsystem.manager.added(namespace);
  }

  /**
   * Adds a controller of the subsystem behind PCIe. Its function is driven by a bus front end, and is there until the function or the subsystem is
   * closed. @throws ConfigError
   */
  addFunction(subsystem: Subsystem, options: PciFunctionOptions = {}): PciController {
    return makePciFunction(subsystem, options, this.pool);
  }

  /** Takes the namespace out, with its reservations, then closes its backend. */
  async removeNamespace(subsystem: Subsystem, nsid: number): Promise<void> {
    const reservations = subsystem.namespaces[nsid]?.reservations;
    const backend = subsystem.removeNamespace(nsid);
    try {
      // at the end of the process they stay, for the next one
      if (!this.#closed) await reservations?.forget();
    } finally {
      await backend?.close();
    }
  }

  /** Who sees a namespace; hosts that no longer do, or now do, are told. @param hosts undefined: every host of the subsystem */
  setNamespaceHosts(subsystem: Subsystem, nsid: number, hosts: readonly string[] | undefined): void {
    const namespace = subsystem.namespaces[nsid];
    if (namespace === undefined) return;
    subsystem.changeAttachment(namespace, () => namespace.attachments.setHosts(hosts));
  }

  /**
   * Gives a namespace another size under connected hosts, who are told. A smaller one takes the blocks at the end with their data, after
   * everything that reached them has ended.
   * @throws ConfigError if its backend cannot; NvmeofError if it fails: the old size stands then
   */
  async resizeNamespace(subsystem: Subsystem, nsid: number, sizeBytes: number): Promise<void> {
    const namespace = subsystem.namespaces[nsid];
    if (namespace === undefined) return;
    const { backend } = namespace;
    const blockCount = Math.floor(sizeBytes / namespace.blockSize);
    if (blockCount >= namespace.blockCount) {
      if (backend.grow === undefined) throw cannotResize(subsystem, nsid, backend.kind);
      await backend.grow(blockCount);
      subsystem.namespaceResized(nsid);
      return;
    }
    if (backend.shrink === undefined || blockCount === 0) throw cannotResize(subsystem, nsid, backend.kind);
    // no new command reaches them from here on
    namespace.blockCount = blockCount;
    try {
      await becomeQuiet(subsystem, namespace, Status.LbaOutOfRange | DNR, this.clock);
      await backend.shrink(blockCount);
      await namespace.truncateUncorrectable();
    } finally {
      subsystem.namespaceResized(nsid);
    }
  }

  /** Allow-list of a subsystem; the discovery log changes with it. */
  setHosts(subsystem: Subsystem, allowAnyHost: boolean, hosts: readonly string[]): void {
    subsystem.setHosts(allowAnyHost, hosts);
    this.#discoveryChanged();
  }

  /** Listens. @throws ConfigError if the id exists, NvmeofError if the address cannot be used */
  async addPort(options: PortOptions): Promise<Port> {
    if (this.#ports.has(options.portId)) throw new ConfigError(`Port ${options.portId} exists already`);
    const port = new Port(options, { ...this.#tcp, ...options.tcp }, this.#portOwner());
    await port.listen();
    this.#ports.set(options.portId, port);
    this.#discoveryChanged();
    return port;
  }

  #portOwner(): ConstructorParameters<typeof Port>[2] {
    return {
      clock: this.clock,
      pool: this.pool,
      discovery: this.discovery,
      subsystem: (nqn) => this.#subsystems.get(nqn),
      connectionClosed: (port, peer, reason) => this.#events.connectionClosed?.(port, peer, reason),
    };
  }

  /** What a port exposes; hosts that are connected stay. */
  setPortSubsystems(port: Port, subsystems: readonly string[]): void {
    port.subsystems = subsystems;
    this.#discoveryChanged();
  }

  /** How a port stands in the discovery log; nothing else changes. */
  setPortAdvertisement(port: Port, advertise: PortAdvertisement): void {
    port.advertise = advertise;
    this.#discoveryChanged();
  }

  /** The ports that a subsystem keeps to, by id; undefined: all that expose it. Hosts that are connected stay. */
  setSubsystemPorts(subsystem: Subsystem, ports: readonly number[] | undefined): void {
    subsystem.ports = ports;
    this.#discoveryChanged();
  }

  /** Hosts (central discovery controllers) that may read the entries of subsystems which are closed to them. */
  setDiscoveryAllSubsystemsFor(hostnqns: readonly string[]): void {
    this.#log.allSubsystemsFor = hostnqns;
    this.#discoveryChanged();
  }

  async removePort(portId: number): Promise<void> {
    const port = this.#ports.get(portId);
    if (port === undefined) return;
    this.#ports.delete(portId);
    this.#discoveryChanged();
    await port.close();
  }

  setReferrals(referrals: readonly Referral[]): void {
    this.#log.referrals = referrals;
    this.#discoveryChanged();
  }

  get discoveryGeneration(): number {
    return this.#log.generation;
  }

  #discoveryChanged(): void {
    if (this.#closed) return;
    this.#log.changed();
    for (const controller of this.discovery.controllers) controller.discoveryChanged();
  }

  /** Commands that have not been answered, over all connections (AERs not counted). */
  outstanding(): number {
    let count = 0;
    for (const port of this.#ports.values()) {
      for (const { queuePair } of port.connections) {
        for (const request of queuePair.requests) if (request.inUse && !request.isAsyncEvent) count++;
      }
    }
    return count;
  }

  /**
   * Stops listening, lets what runs finish for at most `drainMs`, then closes connections and backends. Idempotent.
   * @returns the number of commands that were cut off
   */
  async close(drainMs = 0): Promise<number> {
    if (this.#closed) return 0;
    this.#closed = true;
    for (const port of this.#ports.values()) port.stopListening();
    const until = this.clock.nowMs() + drainMs;
    let left = this.outstanding();
    while (left > 0 && this.clock.nowMs() < until) {
      await new Promise<void>((resolve) => this.clock.setTimer(resolve, DRAIN_POLL_MS));
      left = this.outstanding();
    }
    for (const port of this.#ports.values()) await port.close();
    for (const subsystem of [...this.#subsystems.values()]) await this.removeSubsystem(subsystem.nqn);
    this.#ports.clear();
    this.pool.trim();
    return left;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close().then(() => {});
  }
}

function cannotResize(subsystem: Subsystem, nsid: number, kind: string): ConfigError {
  return new ConfigError(
    `Namespace ${nsid} of ${subsystem.nqn}: a ${kind} backend cannot have that size; remove the namespace and add it anew`,
  );
}

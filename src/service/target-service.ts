/**
 * A configuration, running: opens the backends, builds the target, and carries later configurations into it without disturbing hosts that the
 * change does not concern. What `nvmeferry target` is, as a library.
 */
import { randomInt, randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import PQueue from 'p-queue';
import type { BlockBackend } from '../backend/block-backend.ts';
import { openBackend, type RemoteBackendConfig } from '../backend/open.ts';
import { FileVolumePool, MemoryVolumePool, type VolumePool } from '../backend/volume-pool.ts';
import { diffConfig } from '../config/diff.ts';
import type { DiscoveryConfig, NamespaceConfig, PortConfig, SubsystemConfig, TargetConfig } from '../config/types.ts';
import { defaultDiscoveryNqn } from '../fabrics/discovery-nqn.ts';
import { mdnsPlaces } from '../fabrics/mdns-interfaces.ts';
import { mdnsOn, type OpenMdnsLink } from '../fabrics/mdns-link.ts';
import type { Logger } from '../log/logger.ts';
import { type RateLimitedWarn, rateLimitedWarn } from '../log/rate-limited.ts';
import { nativeMissingReason } from '../native/load.ts';
import { threadEngines } from '../native/thread-engine.ts';
import { formatsWith } from '../target/namespace.ts';
import { Passthrough } from '../target/passthrough-list.ts';
import type { Port } from '../target/port.ts';
import { CNTLID_MAX, type Subsystem } from '../target/subsystem.ts';
import { Target } from '../target/target.ts';
import { type Clock, systemClock } from '../util/clock.ts';
import { ConfigError } from '../util/error.ts';
import { ANA_STATE_NAMES } from '../wire/cold/log-ana.ts';
import { FileStateStore } from './file-state-store.ts';
import { MdnsPublisher } from './mdns-publisher.ts';
import { MetricsServer } from './metrics-server.ts';
import { openRemoteNamespace } from './remote-namespace.ts';
import type { TargetTotals } from './target-metrics.ts';
import { VfioUserFunctions } from './vfio-user-functions.ts';

/** @public */
export interface TargetServiceOptions {
  readonly config: TargetConfig;
  readonly log: Logger;
  readonly clock?: Clock | undefined;
  /** How multicast DNS is sent and received. @internal */
  readonly openMdns?: OpenMdnsLink | undefined;
}

/** What a reload did. @public */
export interface ReloadReport {
  readonly changed: boolean;
  /** Changes that wait for a restart, one line each. */
  readonly restart: readonly string[];
}

const PEER_WARNINGS_PER_MINUTE = 20;
const MINUTE_MS = 60_000;
/** Backends opened at once at start. */
const OPEN_CONCURRENCY = 8;
const NORMAL_CLOSE = /^(the host closed|controller reset|the port is closed|the subsystem is removed)/;

const samePlace = (a: DiscoveryConfig, b: DiscoveryConfig): boolean =>
  a.portId === b.portId && a.address === b.address && a.service === b.service;

/** The configured one, or one that tells this target from others on the machine by where its discovery service is. */
function discoveryNqnOf({ discovery, ports }: TargetConfig): string {
  if (discovery !== 'off' && discovery.nqn !== undefined) return discovery.nqn;
  const place = discovery === 'off' ? ports[0] : discovery;
  return defaultDiscoveryNqn(place === undefined ? '' : `${place.address} ${place.service}`);
}

/** @public */
export class TargetService {
  readonly target: Target;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #openMdns: OpenMdnsLink;
  readonly #warn: RateLimitedWarn;
  #mdns: MdnsPublisher | undefined;
  #metrics: MetricsServer | undefined;
  readonly #totals: TargetTotals = {
    controllersConnected: 0,
    controllersClosed: 0,
    controllersFatal: 0,
    connectionsClosed: 0,
  };
  #config: TargetConfig;
  readonly #functions: VfioUserFunctions;
  readonly #engines = new Set<object>();
  #saidNode = false;
  /** Reloads and the end, one after the other. */
  readonly #changes = new PQueue({ concurrency: 1 });

  private constructor(options: TargetServiceOptions) {
    const clock = options.clock ?? systemClock;
    this.#config = options.config;
    this.#log = options.log;
    this.#clock = clock;
    this.#openMdns = options.openMdns ?? mdnsOn();
    const warn = rateLimitedWarn(options.log, { clock, burst: PEER_WARNINGS_PER_MINUTE, intervalMs: MINUTE_MS });
    this.#warn = warn;
    this.#functions = new VfioUserFunctions(clock, options.log);
    const { limits, stateDirectory } = options.config;
    this.target = new Target({
      clock,
      state: stateDirectory === undefined ? undefined : new FileStateStore(stateDirectory),
      discoveryNqn: discoveryNqnOf(options.config),
      discoveryCntlidFirst: randomInt(1, CNTLID_MAX),
      transferBytesMax: limits.totalBuffers,
      tcp: { bufferBytesMax: limits.connectionBuffers, setupTimeoutMs: limits.setupTimeoutMs },
      events: {
        connected: ({ cntlid, hostnqn, subsystem, katoMs }) => {
          this.#totals.controllersConnected++;
          this.#log.info({ cntlid, hostnqn, subnqn: subsystem.nqn, katoMs }, 'Controller connected');
        },
        closed: ({ cntlid, hostnqn, subsystem }, reason) => {
          this.#totals.controllersClosed++;
          this.#log.info({ cntlid, hostnqn, subnqn: subsystem.nqn, reason }, 'Controller closed');
        },
        connectionClosed: (port, peer, reason) => {
          this.#totals.connectionsClosed++;
          if (!NORMAL_CLOSE.test(reason))
            warn('connection', { portId: port.portId, peer, reason }, 'Connection closed');
        },
        stateNotSaved: ({ nqn: subnqn }, err) => this.#log.error({ subnqn, err }, 'State not saved, command refused'),
        fatal: ({ cntlid, subsystem }, err) => {
          this.#totals.controllersFatal++;
          this.#log.error({ cntlid, subnqn: subsystem.nqn, err }, 'Controller fatal status');
        },
        warning: ({ nqn }, message, err) => this.#log.warn({ subnqn: nqn, err }, message),
      },
    });
  }

  /**
   * Opens everything and listens.
   * @throws ConfigError, NvmeofError: one line with the remedy; nothing is left open then
   */
  static async start(options: TargetServiceOptions): Promise<TargetService> {
    const service = new TargetService(options);
    try {
      const { config } = options;
      for (const subsystem of config.subsystems) await service.#addSubsystem(subsystem);
      for (const port of config.ports) await service.#addPort(port);
      await service.#setDiscovery(undefined, config.discovery);
      service.target.setReferrals(config.referrals);
      await service.#listenForMetrics(config);
      for (const item of config.functions ?? []) service.#functions.add(service.target, item);
      return service;
    } catch (error) {
      await service.#functions.close();
      await service.#metrics?.close();
      await service.#mdns?.close();
      await service.target.close();
      throw error;
    }
  }

  /** Where its counters are read; undefined if nowhere. */
  get metrics(): { readonly address: string; readonly service: number } | undefined {
    return this.#metrics && { address: this.#metrics.address, service: this.#metrics.service };
  }

  get config(): TargetConfig {
    return this.#config;
  }

  /** Carries the difference to `next` into the running target; in order with other reloads. */
  reload(next: TargetConfig): Promise<ReloadReport> {
    return this.#changes.add(() => this.#apply(next)) as Promise<ReloadReport>;
  }

  async #apply(next: TargetConfig): Promise<ReloadReport> {
    const diff = diffConfig(this.#config, next);
    const { target } = this;
    for (const portId of diff.removePorts) await target.removePort(portId);
    for (const change of diff.changeSubsystems) {
      const subsystem = target.subsystem(change.nqn)!;
      if (change.hosts !== undefined) target.setHosts(subsystem, change.hosts.allowAnyHost, change.hosts.hosts);
      if (change.ports !== undefined)
        target.setSubsystemPorts(subsystem, change.ports === 'all' ? undefined : change.ports);
      if (change.passthrough !== undefined) {
        subsystem.passthrough = new Passthrough(change.passthrough === 'nothing' ? undefined : change.passthrough);
      }
      for (const { anagrpid, portId, state } of change.anaStates) {
        subsystem.ana.setState(anagrpid, portId, ANA_STATE_NAMES[state]);
      }
      for (const nsid of change.removeNamespaces) {
        await target.removeNamespace(subsystem, nsid);
        await subsystem.manager.forget(nsid);
      }
      for (const namespace of change.addNamespaces) await this.#addNamespace(subsystem, namespace);
      for (const { nsid, hosts } of change.maskNamespaces) target.setNamespaceHosts(subsystem, nsid, hosts);
      for (const { nsid, sizeBytes } of [...change.growNamespaces, ...change.shrinkNamespaces]) {
        await target.resizeNamespace(subsystem, nsid, sizeBytes);
      }
      for (const { nsid, anagrpid } of change.moveNamespaces) subsystem.setAnaGroup(nsid, anagrpid);
    }
    for (const nqn of diff.removeSubsystems) await target.removeSubsystem(nqn);
    for (const subsystem of diff.addSubsystems) await this.#addSubsystem(subsystem);
    for (const port of diff.addPorts) await this.#addPort(port);
    for (const { portId, subsystems, advertise } of diff.changePorts) {
      const port = target.port(portId);
      if (port === undefined) continue;
      target.setPortSubsystems(port, subsystems);
      target.setPortAdvertisement(port, advertise ?? {});
    }
    if (diff.discovery !== undefined) await this.#setDiscovery(this.#config.discovery, diff.discovery);
    if (diff.referrals !== undefined) target.setReferrals(diff.referrals);
    if (diff.logLevel !== undefined) this.#log.level = diff.logLevel;
    this.#config = next;
    return { changed: !diff.isEmpty, restart: diff.restart };
  }

  async #addSubsystem(config: SubsystemConfig): Promise<void> {
    const subsystem = this.target.addSubsystem({
      nqn: config.nqn,
      serial: config.serial,
      model: config.model,
      allowAnyHost: config.allowAnyHost,
      hosts: config.hosts,
      ioQueuesMax: config.maxQueues,
      controllersMax: config.maxControllers,
      cntlidMin: config.cntlidMin,
      cntlidMax: config.cntlidMax,
      controllerModel: config.controllerModel,
      ports: config.ports,
      anaTransitionSeconds: config.anaTransitionSeconds,
      migration: config.migration,
      anaGroups: config.anaGroups.map(({ anagrpid, states }) => ({
        anagrpid,
        states: states.map(({ portId, state }) => ({ portId, state: ANA_STATE_NAMES[state] })),
      })),
      allowSanitize: config.allowSanitize,
      passthrough: config.adminPassthrough,
      duplicateHosts: config.duplicateHosts,
      volumes: this.#volumePool(config),
    });
    const opening = new PQueue({ concurrency: OPEN_CONCURRENCY });
    await opening.addAll(config.namespaces.map((namespace) => () => this.#addNamespace(subsystem, namespace)));
    await subsystem.manager.restore();
    subsystem.sanitizer.resume();
  }

  #volumePool({ nqn, volumes }: SubsystemConfig): VolumePool | undefined {
    if (volumes === undefined) return undefined;
    if (volumes.type === 'memory') return new MemoryVolumePool(volumes);
    try {
      mkdirSync(volumes.directory, { recursive: true, mode: 0o700 });
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new ConfigError(`${volumes.directory}: cannot hold the volumes of ${nqn}: ${reason}`, { cause });
    }
    return new FileVolumePool(volumes, {
      onWarning: (message, err) => this.#log.warn({ subnqn: nqn, err }, message),
    });
  }

  async #addNamespace(subsystem: Subsystem, config: NamespaceConfig): Promise<void> {
    const backend = await openBackend(
      config.readOnly && 'readOnly' in config.backend ? { ...config.backend, readOnly: true } : config.backend,
      {
        engine: this.#config.ioEngine,
        onWarning: (message, err) => this.#log.warn({ subnqn: subsystem.nqn, nsid: config.nsid, err }, message),
        onGone: (path) => this.#deviceGone(subsystem, config.nsid, path),
        openRemote: (remote) => this.#openRemote(subsystem, config.nsid, remote),
      },
    );
    const formatBlockSizes = formatsOf(subsystem, backend);
    // a host may have changed it by Format NVM
    const blockSize = subsystem.manager.blockSizeOf(config.nsid, backend.blockSize);
    if (formatBlockSizes.includes(blockSize) && blockSize !== backend.blockSize) backend.setBlockSize?.(blockSize);
    this.#sayEngines(config.backend.type);
    // memory comes back empty after a restart: with another identity, so that no host takes it for the disk it knew
    const uuid = config.uuid ?? (config.backend.type === 'memory' ? randomUUID() : undefined);
    try {
      this.target.addNamespace(subsystem, { ...config, uuid, backend, formatBlockSizes });
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  #openRemote(subsystem: Subsystem, nsid: number, config: RemoteBackendConfig): Promise<BlockBackend> {
    return openRemoteNamespace(config, {
      clock: this.#clock,
      onWarning: (message, err) => this.#warn(`remote ${nsid}`, { subnqn: subsystem.nqn, nsid, err }, message),
      onResized: () => subsystem.namespaceResized(nsid),
    });
  }

  /** The device was pulled: commands fail already; hosts are told that the namespace is gone. */
  #deviceGone(subsystem: Subsystem, nsid: number, path: string): void {
    this.#log.error({ subnqn: subsystem.nqn, nsid, path }, 'Device is gone, its namespace is removed');
    void this.#changes
      .add(() => this.target.removeNamespace(subsystem, nsid))
      .catch((err: unknown) => {
        this.#log.error({ subnqn: subsystem.nqn, nsid, err }, 'Namespace of a lost device was not removed cleanly');
      });
  }

  async #listenForMetrics({ metrics }: TargetConfig): Promise<void> {
    if (metrics === undefined) return;
    // loaded where it is wanted only
    const { targetMetrics } = await import('./target-metrics.ts');
    const page = targetMetrics({
      target: this.target,
      totals: this.#totals,
      engines: threadEngines,
      usesNodeFs: () => this.#saidNode,
    });
    this.#metrics = await MetricsServer.listen(metrics.address, metrics.service, page);
  }

  /** Once for each engine, and if files go without one. */
  #sayEngines(type: string): void {
    for (const engine of threadEngines()) {
      if (this.#engines.has(engine)) continue;
      this.#engines.add(engine);
      const { mode, refusal, depth } = engine;
      if (refusal === undefined) this.#log.info({ engine: mode, depth }, 'I/O engine');
      else this.#log.warn({ engine: mode, depth, refusal }, 'I/O engine without io_uring: threads do the I/O');
    }
    if (type !== 'file' || this.#engines.size > 0 || this.#saidNode) return;
    this.#saidNode = true;
    const reason = nativeMissingReason();
    if (reason !== '')
      this.#log.warn({ engine: 'node', reason }, 'I/O engine without the native addon: node:fs does the I/O');
    else this.#log.info({ engine: 'node' }, 'I/O engine');
  }

  #addPort(config: PortConfig): Promise<Port> {
    return this.target.addPort({
      portId: config.portId,
      address: config.address,
      service: config.service,
      subsystems: config.subsystems,
      advertise: config.advertise,
      queueEntriesMax: config.maxQueueSize,
      tcp: {
        inCapsuleBytes: config.inCapsuleDataSize,
        maxH2cDataBytes: config.maxH2cData,
        headerDigest: config.headerDigest,
        dataDigest: config.dataDigest,
      },
    });
  }

  /** The discovery port shows no subsystem of its own: hosts find there what the other ports show. */
  async #setDiscovery(before: DiscoveryConfig | 'off' | undefined, next: DiscoveryConfig | 'off'): Promise<void> {
    const old = before === undefined || before === 'off' ? undefined : before;
    const stays = old !== undefined && next !== 'off' && samePlace(old, next);
    if (old !== undefined && !stays) await this.target.removePort(old.portId);
    this.target.setDiscoveryAllSubsystemsFor(next === 'off' ? [] : (next.allSubsystemsFor ?? []));
    if (next !== 'off') {
      const { portId, address, service, advertise } = next;
      if (stays) this.target.setPortAdvertisement(this.target.port(portId)!, advertise ?? {});
      else await this.target.addPort({ portId, address, service, advertise, subsystems: [] });
    }
    await this.#publish(next);
  }

  /** Discovery on multicast DNS, as configured; what was published before says goodbye. */
  async #publish(discovery: DiscoveryConfig | 'off'): Promise<void> {
    await this.#mdns?.close();
    this.#mdns = undefined;
    if (discovery === 'off' || discovery.mdns !== true) return;
    const { address, portId, advertise = {} } = discovery;
    const named = advertise === 'off' ? {} : advertise;
    const places = mdnsPlaces(address, named.address);
    if (places.length === 0) this.#log.warn({ address }, 'No interface with an IPv4 address to publish discovery on');
    this.#mdns = new MdnsPublisher({
      nqn: this.target.discovery.nqn,
      port: named.service ?? this.target.port(portId)!.service,
      places,
      clock: this.#clock,
      open: this.#openMdns,
      onProblem: (interfaceAddress, err) => this.#warn('mdns', { interfaceAddress, err }, 'Multicast DNS problem'),
    });
  }

  /**
   * Ends: what runs may finish within the configured time. Idempotent.
   * @returns the number of commands that were cut off
   */
  async close(): Promise<number> {
    await this.#changes.add(async () => this.#mdns?.close());
    await this.#metrics?.close();
    await this.#changes.add(async () => this.#functions.close());
    return (await this.#changes.add(() => this.target.close(this.#config.limits.drainTimeoutMs))) ?? 0;
  }
}

/** A block size that a host chooses must outlive the process where the blocks do. */
function formatsOf(subsystem: Subsystem, backend: BlockBackend): readonly number[] {
  const canChange = backend.setBlockSize !== undefined && !backend.readOnly;
  const isKept = backend.isVolatile === true || subsystem.manager.keepsFormats;
  return canChange && isKept ? formatsWith(backend.blockSize) : [backend.blockSize];
}

/** An NVM subsystem (or the discovery subsystem): namespaces, allowed hosts, controllers. */
import { createHash } from 'node:crypto';
import type { BlockBackend } from '../backend/block-backend.ts';
import type { VolumePool } from '../backend/volume-pool.ts';
import type { Clock } from '../util/clock.ts';
import { ConfigError } from '../util/error.ts';
import { AnaState } from '../wire/cold/log-ana.ts';
import { anaGroupOf, anaStatusOf } from './ana-access.ts';
import {
  ANA_GROUP_CLOSED,
  ANA_TRANSITION_SECONDS_DEFAULT,
  type AnaGroupOptions,
  AnaGroups,
  checkAnagrpid,
} from './ana-group.ts';
import { Controller, type ControllerOptions } from './controller.ts';
import { DiscoveryPeers } from './discovery-peers.ts';
import { type DuplicateHostPolicy, duplicatesOf } from './duplicate-hosts.ts';
import { type Fence, isClosedTo, isManager, savedFence } from './fence.ts';
import { Migration, type MigrationOptions } from './migration/migration.ts';
import { Namespace, type NamespaceOptions } from './namespace.ts';
import { NamespaceManager } from './namespace-manager.ts';
import { reservationsOf } from './namespace-reservations.ts';
import { Passthrough, type PassthroughList } from './passthrough-list.ts';
import type { QueuePair } from './queue-pair.ts';
import { fenceWaiting } from './quiet.ts';
import { Sanitizer } from './sanitizer.ts';
import type { StateStore } from './state-store.ts';
import type { UncorrectableKeeper } from './uncorrectable.ts';
import { savedProtection } from './write-protection.ts';

/** @public */
export interface SubsystemOptions {
  readonly nqn: string;
  /** Up to 20 ASCII characters; made from the NQN if absent, so that it survives restarts. */
  readonly serial?: string | undefined;
  /** Up to 40 ASCII characters. */
  readonly model?: string | undefined;
  readonly allowAnyHost?: boolean | undefined;
  /** NQNs of the hosts that may connect when `allowAnyHost` is false. */
  readonly hosts?: readonly string[] | undefined;
  /** I/O queue pairs of one controller, 1 to 65534. Default 128. */
  readonly ioQueuesMax?: number | undefined;
  /** Controllers at once. Default 1024. */
  readonly controllersMax?: number | undefined;
  /** Range of controller ids. Default 1 to 0xFFEF. */
  readonly cntlidMin?: number | undefined;
  readonly cntlidMax?: number | undefined;
  /** 'static': a host may ask for one of `cntlidMin`..`cntlidMax` by id (or FFFEh for any). Default 'dynamic'. */
  readonly controllerModel?: 'dynamic' | 'static' | undefined;
  /** Largest NSID (NN). Default 1024. */
  readonly nsidMax?: number | undefined;
  /** Where the first controller id is taken from the range; default its beginning. */
  readonly cntlidFirst?: number | undefined;
  /** Ids of the ports that may show it; default all. A port must expose it as well. */
  readonly ports?: readonly number[] | undefined;
  /** ANA groups that are not optimized on every port. */
  readonly anaGroups?: readonly AnaGroupOptions[] | undefined;
  /** ANATT: the longest that a group is in the change state, 1 to 255 s. Default 10. */
  readonly anaTransitionSeconds?: number | undefined;
  /** Host Managed Live Migration: who manages it. Default: nobody, nothing of it is served. */
  readonly migration?: MigrationOptions | undefined;
  /** Where hosts create and delete namespaces; default: they cannot. */
  readonly volumes?: VolumePool | undefined;
  /** Hosts may sanitize the subsystem, which takes the data of every namespace. Default false. */
  readonly allowSanitize?: boolean | undefined;
  /** Admin commands and log pages that go to the local SSDs below as they came. Default: none. */
  readonly passthrough?: PassthroughList | undefined;
  /** What a host gets that connects while its NQN is connected already. Default: both 'allow'. */
  readonly duplicateHosts?: DuplicateHostPolicy | undefined;
}

/** What the owner of subsystems wants to hear. */
export interface SubsystemEvents {
  connected(controller: Controller): void;
  closed(controller: Controller, reason: string): void;
  fatal(controller: Controller, error: unknown): void;
  /** A command that had to be durable failed: what it would have changed is as before. */
  stateNotSaved(subsystem: Subsystem, error: unknown): void;
  /** Log page 70h as the host behind `controller` sees it. @param options `DiscoveryLogOption` bits that it asked for */
  discoveryPage(controller: Controller, options: number): Uint8Array;
  /** The `DiscoveryLogOption` bits that this host may ask for. */
  discoveryOptions(controller: Controller): number;
  /** The peers of some subsystem are others. */
  peersChanged?(): void;
  /** Something an operator should see to. */
  warning?(subsystem: Subsystem, message: string, error?: unknown): void;
}

export type Admission = { readonly controller: Controller } | { readonly refused: 'busy' | 'cntlid' | 'duplicate' };

export const CNTLID_DYNAMIC = 0xffff;
export const CNTLID_ANY_STATIC = 0xfffe;
export const CNTLID_MAX = 0xffef;

const PROTECTIONS_ALL = 0xf;

export class Subsystem {
  readonly nqn: string;
  readonly isDiscovery: boolean;
  readonly serial: string;
  readonly model: string;
  readonly ioQueuesMax: number;
  readonly controllerModel: 'dynamic' | 'static';
  readonly nsidMax: number;
  readonly events: SubsystemEvents;
  allowAnyHost: boolean;
  hosts: ReadonlySet<string>;
  /** Ids of the ports that may show it; undefined: all. */
  ports: readonly number[] | undefined;
  /** By NSID; holes where there is none. */
  readonly namespaces: (Namespace | undefined)[] = [];
  /** States of its ANA groups; `ana.setState` changes them at run time. */
  readonly ana: AnaGroups;
  readonly #controllers = new Map<number, Controller>();
  readonly #controllersMax: number;
  readonly #cntlidMin: number;
  readonly #cntlidMax: number;
  #nextCntlid: number;
  readonly #clock: Clock;
  /** What outlives the process (reservations with PTPL, created namespaces); undefined: nothing does. */
  readonly state: StateStore | undefined;
  readonly allowSanitize: boolean;
  /** What may be passed to the devices below; another list may take its place at any time. */
  passthrough: Passthrough;
  readonly #duplicateHosts: DuplicateHostPolicy;
  /** Creates, deletes, attaches and remembers namespaces. */
  readonly manager: NamespaceManager;
  readonly sanitizer: Sanitizer;
  /** Where else it is reached. */
  readonly peers: DiscoveryPeers;
  /** Undefined: no controller manages live migration, none can be migrated. */
  readonly migration: Migration | undefined;
  /** Power-on hours count from here. */
  readonly startedMs: number;

  constructor(
    options: SubsystemOptions,
    isDiscovery: boolean,
    events: SubsystemEvents,
    clock: Clock,
    state?: StateStore,
  ) {
    this.nqn = options.nqn;
    this.isDiscovery = isDiscovery;
    this.serial = options.serial ?? createHash('sha256').update(options.nqn).digest('hex').slice(0, 20);
    this.model = options.model ?? 'nvmeferry';
    this.allowAnyHost = options.allowAnyHost ?? false;
    this.hosts = new Set(options.hosts ?? []);
    this.ports = options.ports;
    this.ioQueuesMax = isDiscovery ? 0 : (options.ioQueuesMax ?? 128);
    this.#controllersMax = options.controllersMax ?? 1024;
    this.#cntlidMin = options.cntlidMin ?? 1;
    this.#cntlidMax = options.cntlidMax ?? CNTLID_MAX;
    this.#nextCntlid = options.cntlidFirst ?? this.#cntlidMin;
    this.controllerModel = options.controllerModel ?? 'dynamic';
    this.nsidMax = options.nsidMax ?? 1024;
    this.events = events;
    this.#clock = clock;
    this.state = state;
    this.startedMs = clock.nowMs();
    this.ana = new AnaGroups(
      options.anaTransitionSeconds ?? ANA_TRANSITION_SECONDS_DEFAULT,
      clock,
      (anagrpid, portId, state) => this.#anaStateChanged(anagrpid, portId, state),
    );
    for (const { anagrpid, states } of options.anaGroups ?? []) {
      for (const { portId, state } of states) this.ana.setState(anagrpid, portId, state);
    }
    this.allowSanitize = options.allowSanitize ?? false;
    this.passthrough = new Passthrough(options.passthrough);
    this.#duplicateHosts = options.duplicateHosts ?? {};
    this.manager = new NamespaceManager(this, options.volumes);
    this.sanitizer = new Sanitizer(this);
    this.peers = new DiscoveryPeers(state, options.nqn);
    this.migration = options.migration === undefined ? undefined : new Migration(this, options.migration);
  }

  get clock(): Clock {
    return this.#clock;
  }

  /** Ends what runs in the background. Idempotent. */
  async close(): Promise<void> {
    await this.sanitizer.close();
  }

  // ---- hosts and controllers -----------------------------------------------------------------------------------------------------

  allows(hostnqn: string): boolean {
    return this.allowAnyHost || this.hosts.has(hostnqn);
  }

  /** Changes the allow-list; hosts that are connected and no longer allowed are disconnected. */
  setHosts(allowAnyHost: boolean, hosts: readonly string[]): void {
    this.allowAnyHost = allowAnyHost;
    this.hosts = new Set(hosts);
    for (const controller of [...this.#controllers.values()]) {
      if (controller.memory === undefined && !this.allows(controller.hostnqn))
        controller.close('the host is no longer allowed');
    }
  }

  get controllers(): IterableIterator<Controller> {
    return this.#controllers.values();
  }

  controller(cntlid: number): Controller | undefined {
    return this.#controllers.get(cntlid);
  }

  /**
   * A host's admin Connect.
   * @param cntlid FFFFh, FFFEh or an id, as the host asked
   */
  admit(cntlid: number, options: Omit<ControllerOptions, 'cntlid'>): Admission {
    const duplicates = duplicatesOf(this.#duplicateHosts, this.#controllers.values(), options);
    if (duplicates === 'refuse') return { refused: 'duplicate' };
    let id: number | undefined;
    if (this.controllerModel === 'dynamic' || this.isDiscovery) {
      if (cntlid !== CNTLID_DYNAMIC) return { refused: 'cntlid' };
      id = this.#freeCntlid();
    } else if (cntlid === CNTLID_ANY_STATIC) {
      id = this.#freeCntlid();
    } else {
      if (cntlid < this.#cntlidMin || cntlid > this.#cntlidMax) return { refused: 'cntlid' };
      id = this.#controllers.has(cntlid) ? undefined : cntlid;
    }
    if (id === undefined || this.#controllers.size >= this.#controllersMax) return { refused: 'busy' };
    for (const duplicate of duplicates) duplicate.close('the host connected again');
    const controller = new Controller(this, { ...options, cntlid: id }, this.#clock);
    this.#controllers.set(id, controller);
    return { controller };
  }

  /** A controller whose queues stand in host memory. @throws ConfigError if the id is taken, or none is free */
  addMemoryController(options: Omit<ControllerOptions, 'cntlid'>, cntlid?: number): Controller {
    const id = cntlid ?? this.#freeCntlid();
    if (id === undefined || this.#controllers.size >= this.#controllersMax) {
      throw new ConfigError(`Subsystem ${this.nqn} has no controller id left: close one, or raise controllersMax`);
    }
    if (!Number.isInteger(id) || id < this.#cntlidMin || id > this.#cntlidMax || this.#controllers.has(id)) {
      throw new ConfigError(
        `Controller id ${id} of ${this.nqn} cannot be used: choose a free one of ${this.#cntlidMin} to ${this.#cntlidMax}`,
      );
    }
    const controller = new Controller(this, { ...options, cntlid: id }, this.#clock);
    this.#controllers.set(id, controller);
    return controller;
  }

  /** Some controller has its queues in host memory, and so writes there. */
  get hasMemoryControllers(): boolean {
    for (const controller of this.#controllers.values()) if (controller.memory !== undefined) return true;
    return false;
  }

  /** NVM Subsystem Reset: every controller, of whatever host. */
  reset(): void {
    for (const controller of [...this.#controllers.values()]) {
      if (controller.memory !== undefined) controller.memory.subsystemReset();
      else controller.close('NVM subsystem reset');
    }
  }

  /** The next id in turn, so that an id is not reused while its old association may still live at the host. */
  #freeCntlid(): number | undefined {
    const span = this.#cntlidMax - this.#cntlidMin + 1;
    for (let i = 0; i < span; i++) {
      const id = this.#nextCntlid;
      this.#nextCntlid = id >= this.#cntlidMax ? this.#cntlidMin : id + 1;
      if (!this.#controllers.has(id)) return id;
    }
    return undefined;
  }

  controllerClosed(controller: Controller, reason: string): void {
    if (this.#controllers.get(controller.cntlid) !== controller) return;
    this.#controllers.delete(controller.cntlid);
    this.migration?.controllerClosed(controller);
    this.events.closed(controller, reason);
  }

  /** Queue pairs without connection whose commands a backend may still have. */
  readonly #lingering = new Set<QueuePair>();

  lingers(pair: QueuePair): void {
    this.#lingering.add(pair);
  }

  lingersNoMore(pair: QueuePair): void {
    this.#lingering.delete(pair);
  }

  lingering(): Iterable<QueuePair> {
    return this.#lingering;
  }

  // ---- namespaces ----------------------------------------------------------------------------------------------------------------

  addNamespace(options: NamespaceOptions): Namespace {
    const { nsid } = options;
    if (!Number.isInteger(nsid) || nsid < 1 || nsid > this.nsidMax) {
      throw new ConfigError(`Namespace ${nsid} of ${this.nqn}: NSID must be 1 to ${this.nsidMax}`);
    }
    if (this.namespaces[nsid] !== undefined) throw new ConfigError(`Namespace ${nsid} of ${this.nqn} exists already`);
    if (options.closed === true && this.migration === undefined) {
      throw new ConfigError(
        `Namespace ${nsid} of ${this.nqn} is closed, and nobody manages migration: name who may open it`,
      );
    }
    const uuid = options.uuid === undefined ? this.#makeUuid(nsid) : uuidBytes(options.uuid);
    const reservations = reservationsOf(this, nsid, uuid, this.#clock);
    const namespace = new Namespace(options, uuid, reservations, this.#uncorrectableKeeper(options.backend, uuid));
    namespace.writeProtection = savedProtection(this.state, namespace);
    namespace.fence = this.#fenceOf(uuid, options.closed === true);
    this.namespaces[nsid] = namespace;
    options.backend.watchHealth?.(() => this.#healthChanged());
    namespace.uncorrectable.onMarked = () => this.#blocksUnreadable(namespace);
    this.migration?.namespaceAdded();
    this.#changed(namespace);
    this.#anaListChanged(namespace.anagrpid);
    return namespace;
  }

  /** Of configured namespaces that were taken out, by UUID: one that comes back is as closed as it was. */
  readonly #fences = new Map<string, Fence>();

  #fenceOf(uuid: Uint8Array, closed: boolean): Fence {
    return this.#fences.get(Buffer.from(uuid).toString('hex')) ?? savedFence(this.state, this.nqn, uuid, closed);
  }

  #blocksUnreadable(namespace: Namespace): void {
    for (const controller of this.#controllers.values()) {
      if (namespace.isAttachedTo(controller)) controller.lbaStatusChanged();
    }
  }

  #healthChanged(): void {
    for (const controller of this.#controllers.values()) controller.healthChanged();
  }

  /** Takes the namespace out; commands that it has already run to their end. @param issuer does so by its own command: it needs no event @returns its backend, for the caller to close */
  removeNamespace(nsid: number, issuer?: Controller): BlockBackend | undefined {
    const namespace = this.namespaces[nsid];
    if (namespace === undefined) return undefined;
    this.namespaces[nsid] = undefined;
    namespace.limitWrites(undefined, this.#clock);
    if (!namespace.isVolume) this.#fences.set(Buffer.from(namespace.uuid).toString('hex'), namespace.fence);
    this.#changed(namespace, issuer);
    this.#anaListChanged(namespace.anagrpid);
    return namespace.backend;
  }

  /** The backend has more (or fewer) blocks than before: hosts are told. */
  namespaceResized(nsid: number): void {
    const namespace = this.namespaces[nsid];
    if (namespace === undefined) return;
    namespace.blockCount = namespace.backend.blockCount;
    namespace.changes?.resized(namespace.blockCount);
    this.namespaceChanged(nsid);
  }

  /** Moves a namespace to another ANA group; hosts get the ANA notice, not that of changed namespaces. @throws ConfigError */
  setAnaGroup(nsid: number, anagrpid: number): void {
    checkAnagrpid(anagrpid);
    const namespace = this.namespaces[nsid];
    if (namespace === undefined || namespace.anagrpid === anagrpid) return;
    const before = namespace.anagrpid;
    namespace.anagrpid = anagrpid;
    this.#anaListChanged(before);
    this.#anaListChanged(anagrpid);
    for (const controller of this.#controllers.values()) {
      this.#anaFence(controller, namespace);
      // one that is closed to its host stays in the group of those
      if (namespace.isAttachedTo(controller) && !isClosedTo(controller, namespace)) controller.anaChanged();
    }
  }

  /**
   * What the new ANA state forbids must not begin any more, not even what was let in before and waits for its data: whoever takes the namespace
   * over elsewhere may rely on it. What the backend has runs to its end.
   */
  #anaFence(controller: Controller, namespace: Namespace): void {
    controller.accessChanged(namespace.nsid);
    const status = anaStatusOf(controller, namespace);
    if (status === 0) return;
    fenceWaiting(controller.ioQueuePairs, namespace, status);
    namespace.writeLimit?.letThrough((io) => io.controller === controller);
  }

  /** The namespace was opened or closed: hosts see it in another ANA group, and are told as by `setAnaGroup`. */
  fenceChanged(namespace: Namespace): void {
    for (const controller of this.#controllers.values()) {
      this.#anaFence(controller, namespace);
      if (isManager(controller)) continue;
      controller.anaCounts.changed(namespace.anagrpid);
      controller.anaCounts.changed(ANA_GROUP_CLOSED);
      if (namespace.isAttachedTo(controller)) controller.anaChanged();
    }
  }

  /** The namespaces of a group are others now: its descriptor counts it, nobody is told. */
  #anaListChanged(anagrpid: number): void {
    for (const controller of this.#controllers.values()) controller.anaCounts.changed(anagrpid);
  }

  /** Base 2.1 section 8.1.1.8: the notice tells of every state but change, and only hosts whose namespaces it concerns. */
  #anaStateChanged(anagrpid: number, portId: number, state: number): void {
    for (const controller of this.#controllers.values()) {
      if (controller.portId !== portId) continue;
      const members = controller
        .activeNamespaces()
        .filter((namespace) => anaGroupOf(controller, namespace) === anagrpid);
      if (members.length === 0) continue;
      for (const namespace of members) this.#anaFence(controller, namespace);
      controller.anaCounts.changed(anagrpid);
      if (state !== AnaState.Change) controller.anaChanged();
    }
  }

  /** What Identify says of a namespace has changed: the hosts that have it are told. */
  namespaceChanged(nsid: number): void {
    const namespace = this.namespaces[nsid];
    if (namespace !== undefined) this.#changed(namespace);
  }

  /** Runs `change`, which attaches, detaches, masks or unmasks a namespace; tells the controllers that it concerns. */
  changeAttachment(namespace: Namespace, change: () => void): void {
    const had = new Set([...this.#controllers.values()].filter((controller) => namespace.isAttachedTo(controller)));
    change();
    this.accessChanged(namespace.nsid);
    this.#anaListChanged(namespace.anagrpid);
    for (const controller of this.#controllers.values()) {
      if (had.has(controller) !== namespace.isAttachedTo(controller)) controller.namespaceChanged(namespace.nsid);
    }
  }

  /** Tells the controllers that have the namespace (or had it, if it is gone), and those of hosts for which it exists. */
  #changed(namespace: Namespace, issuer?: Controller): void {
    const { nsid } = namespace;
    this.accessChanged(nsid);
    for (const controller of this.#controllers.values()) {
      if (controller === issuer) continue;
      if (namespace.isAttachedTo(controller)) controller.namespaceChanged(nsid);
      if (namespace.attachments.permits(controller.hostnqn)) controller.allocatedNamespaceChanged(nsid);
    }
  }

  /** Something that a rule of target/access.ts reads has changed. @param nsid of one namespace; default all */
  accessChanged(nsid?: number): void {
    for (const controller of this.#controllers.values()) controller.accessChanged(nsid);
  }

  /** Some controller's DULBE has changed, or the controller is gone. */
  deallocatedErrorsChanged(): void {
    for (const namespace of this.allocatedNamespaces()) {
      let wanted = false;
      for (const controller of this.#controllers.values()) {
        wanted ||= controller.deallocatedErrorNsids.has(namespace.nsid);
      }
      namespace.setDeallocatedGuard(wanted);
    }
  }

  /** What feature 84h may be set to: a bit per state (target/write-protection.ts). Protection must last as long as the blocks do. */
  get protectionsServed(): number {
    const lasts = this.state !== undefined || this.allocatedNamespaces().every(({ backend }) => backend.isVolatile);
    return lasts ? PROTECTIONS_ALL : 0;
  }

  /** Feature 84h of a namespace has changed. */
  protectionChanged(nsid: number): void {
    this.namespaceChanged(nsid);
  }

  /** Keeps what Write Uncorrectable did where the blocks outlive the process and there is a store; else it lasts as long as the process. */
  #uncorrectableKeeper(backend: BlockBackend, uuid: Uint8Array): UncorrectableKeeper | undefined {
    const { state } = this;
    if (state === undefined || backend.isVolatile === true) return undefined;
    const name = `uncorrectable-${Buffer.from(uuid).toString('hex')}`;
    return {
      load: () => (state.load(name) as [number, number][] | undefined) ?? [],
      save: (ranges) => state.save(name, ranges.length === 0 ? undefined : ranges),
    };
  }

  /** VWC: a completed write of some namespace may need a Flush to last. */
  get hasVolatileWriteCache(): boolean {
    return this.namespaces.some((namespace) => namespace?.backend.volatileWriteCache === true);
  }

  /** Every namespace there is, attached or not, by NSID. */
  allocatedNamespaces(): Namespace[] {
    return this.namespaces.filter((namespace) => namespace !== undefined);
  }

  /** The namespace if it exists for that host, attached or not. */
  allocated(nsid: number, hostnqn: string): Namespace | undefined {
    const namespace = this.namespaces[nsid];
    return namespace?.attachments.permits(hostnqn) === true ? namespace : undefined;
  }

  /** The same for the same NQN and NSID, through every restart (version 8 of RFC 9562). */
  #makeUuid(nsid: number): Uint8Array {
    const bytes = Uint8Array.from(createHash('sha256').update(`${this.nqn}\0${nsid}`).digest().subarray(0, 16));
    bytes[6] = (bytes[6]! & 0x0f) | 0x80;
    bytes[8] = (bytes[8]! & 0x3f) | 0x80;
    return bytes;
  }
}

function uuidBytes(uuid: string): Uint8Array {
  return Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'));
}

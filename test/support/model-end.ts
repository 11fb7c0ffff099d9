/**
 * Ends of a move in memory: a target each that can be killed, that may forget what is not durable, and whose calls may fail before or after they
 * have had their effect.
 */
import type {
  ControllerFigures,
  DeviceFront,
  End,
  EndController,
  EndNamespace,
  EndNamespaceIdentity,
  FenceState,
  GuestMemoryMover,
  MemoryRun,
  NamespaceFigures,
} from '../../src/orchestrator/end.ts';
import type { JournalEntry, MoveJournal } from '../../src/orchestrator/journal.ts';
import type { BlockRun, ChangeSnapshot, DestinationVolume, SourceVolume } from '../../src/orchestrator/volume.ts';
import type { Clock, Timer } from '../../src/util/clock.ts';
import { NvmeStatusError, TransportError } from '../../src/util/error.ts';

export const MODEL_BLOCK = 512;
const COMMAND_SEQUENCE_ERROR = 0x400c;
const INVALID_FIELD = 0x4002;

/** Of all ends of a test: what is called, and what goes wrong. */
export class ModelWorld {
  /** Each call: the end, the call, `before` or `after` its effect. Throw to make it fail. */
  onCall: ((call: string, when: 'before' | 'after') => void) | undefined;
  readonly calls: string[] = [];
  /** Called with every block that is copied: hosts write meanwhile. */
  onTurn: (() => void) | undefined;
  /** What must never be, as it was found. */
  readonly violations: string[] = [];
  readonly targets: ModelTarget[] = [];

  async call<T>(name: string, act: () => T): Promise<T> {
    await nextTurn();
    this.calls.push(name);
    this.onCall?.(name, 'before');
    const result = act();
    this.#check(name);
    this.onCall?.(name, 'after');
    await nextTurn();
    return result;
  }

  /** One writer at most. */
  #check(name: string): void {
    for (const nsid of new Set(this.targets.flatMap(({ namespaces }) => [...namespaces.keys()]))) {
      const open = this.targets.filter((target) => target.namespaces.get(nsid)?.isOpen === true);
      if (open.length > 1) this.violations.push(`${name}: namespace ${nsid} is open at ${open.map((t) => t.name)}`);
    }
    const running = this.targets.flatMap((target) => [...target.controllers.values()].filter((c) => c.runs));
    if (running.length > 1) this.violations.push(`${name}: ${running.length} controllers run`);
  }
}

/** Others get their turn; no time goes by. */
async function nextTurn(): Promise<void> {
  await undefined;
  await undefined;
}

export class ModelStorage {
  readonly blocks: number;
  readonly bytes: Uint8Array;
  readonly allocated = new Set<number>();

  constructor(blocks: number) {
    this.blocks = blocks;
    this.bytes = new Uint8Array(blocks * MODEL_BLOCK);
  }

  write(slba: number, data: Uint8Array): void {
    this.bytes.set(data, slba * MODEL_BLOCK);
    for (let i = 0; i < data.length / MODEL_BLOCK; i++) this.allocated.add(slba + i);
  }

  clear(slba: number, count: number): void {
    this.bytes.fill(0, slba * MODEL_BLOCK, (slba + count) * MODEL_BLOCK);
    for (let i = 0; i < count; i++) this.allocated.delete(slba + i);
  }

  lose(): void {
    this.clear(0, this.blocks);
  }
}

/** What a target has of a namespace. */
export class ModelNamespace {
  readonly nsid: number;
  readonly storage: ModelStorage;
  isOpen: boolean;
  epoch = 0n;
  reservations: Uint8Array | undefined;
  writeLimit: number | undefined;
  figures: NamespaceFigures | undefined;
  tracked: Set<number> | undefined;
  snapshot: Set<number> | undefined;

  constructor(nsid: number, storage: ModelStorage, isOpen: boolean) {
    this.nsid = nsid;
    this.storage = storage;
    this.isOpen = isOpen;
  }

  change(slba: number, count: number): void {
    for (let i = 0; i < count; i++) this.tracked?.add(slba + i);
  }

  /** A host's. @returns false if it may not */
  hostWrite(slba: number, data: Uint8Array): boolean {
    if (!this.isOpen) return false;
    this.storage.write(slba, data);
    this.change(slba, data.length / MODEL_BLOCK);
    return true;
  }
}

export class ModelControllerState {
  isSuspended = false;
  /** Undefined: nothing runs in it. */
  state: string | undefined;
  memory: Map<number, number> | undefined;

  get runs(): boolean {
    return this.state !== undefined && !this.isSuspended;
  }
}

export class ModelTarget {
  readonly world: ModelWorld;
  readonly name: string;
  readonly namespaces = new Map<number, ModelNamespace>();
  readonly controllers = new Map<number, ModelControllerState>();
  readonly peers = new Set<string>();
  isDurable = true;
  figures: ControllerFigures | undefined;
  isUp = true;
  /** Nothing comes back, as behind a link that is cut. */
  isSilent = false;
  /** Grows with every restart: what belonged to a connection is gone. */
  generation = 0;
  subnqn = 'nqn.2024-01.org.example:moved';

  constructor(world: ModelWorld, name: string) {
    this.world = world;
    this.name = name;
    world.targets.push(this);
  }

  add(nsid: number, storage: ModelStorage, isOpen: boolean): ModelNamespace {
    const namespace = new ModelNamespace(nsid, storage, isOpen);
    this.namespaces.set(nsid, namespace);
    return namespace;
  }

  /** Connections end, and with them tracking and limits; processes that are killed lose their controllers. */
  restart(options: { readonly losesData?: boolean } = {}): void {
    this.generation++;
    for (const namespace of this.namespaces.values()) {
      namespace.tracked = undefined;
      namespace.snapshot = undefined;
      namespace.writeLimit = undefined;
      if (options.losesData === true) namespace.storage.lose();
    }
    for (const controller of this.controllers.values()) {
      controller.state = undefined;
      controller.isSuspended = false;
    }
  }
}

const UNANSWERED_MS = 15_000;

export class ModelEnd implements End {
  readonly target: ModelTarget;
  readonly #clock: Clock | undefined;
  readonly #unanswered = new Set<() => void>();
  #isLate = false;
  #lateTimer: Timer | undefined;

  /** @param clock needed where targets become silent */
  constructor(target: ModelTarget, clock?: Clock) {
    this.target = target;
    this.#clock = clock;
  }

  waitUntil(atMs: number | undefined): void {
    this.#lateTimer?.cancel();
    this.#isLate = false;
    if (atMs === undefined || this.#clock === undefined) return;
    const late = (): void => {
      this.#isLate = true;
      for (const giveUp of this.#unanswered) giveUp();
    };
    this.#lateTimer = this.#clock.setTimer(late, atMs - this.#clock.nowMs());
  }

  #notAnswered(): Promise<never> {
    return new Promise((_, reject) => {
      const giveUp = (): void => {
        timer.cancel();
        this.#unanswered.delete(giveUp);
        reject(new TransportError('NVMEOF_ERR_TIMEOUT', `${this.target.name} does not answer`));
      };
      const timer = this.#clock!.setTimer(giveUp, UNANSWERED_MS);
      this.#unanswered.add(giveUp);
      if (this.#isLate) giveUp();
    });
  }

  get name(): string {
    return this.target.name;
  }
  get subnqn(): string {
    return this.target.subnqn;
  }

  call<T>(name: string, act: () => T): Promise<T> {
    const { world } = this.target;
    if (this.target.isSilent) return this.#notAnswered();
    return world.call(`${this.target.name} ${name}`, () => {
      if (!this.target.isUp) throw new TransportError('ECONNREFUSED', `${this.target.name} is not there`);
      return act();
    });
  }

  async figures(): Promise<ControllerFigures | undefined> {
    return this.target.figures;
  }

  async namespaces(): Promise<readonly EndNamespace[]> {
    return this.call('namespaces', () =>
      [...this.target.namespaces.values()].map((namespace) => new ModelEndNamespace(this, namespace)),
    );
  }

  async migratable(): Promise<readonly number[]> {
    return this.call('migratable', () => [...this.target.controllers.keys()]);
  }

  controller(cntlid: number): EndController {
    return new ModelController(this, cntlid);
  }

  async announce(peer: { readonly address: string; readonly service: number }, isThere: boolean): Promise<void> {
    await this.call('announce', () => {
      const name = `${peer.address}:${peer.service}`;
      if (isThere) this.target.peers.add(name);
      else this.target.peers.delete(name);
    });
  }

  async close(): Promise<void> {}
}

class ModelEndNamespace implements EndNamespace {
  readonly #end: ModelEnd;
  readonly #namespace: ModelNamespace;
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;

  constructor(end: ModelEnd, namespace: ModelNamespace) {
    this.#end = end;
    this.#namespace = namespace;
    this.source = new ModelReader(end, namespace);
    this.destination = new ModelWriter(end, namespace);
  }

  get identity(): EndNamespaceIdentity {
    const { nsid, storage } = this.#namespace;
    const nguid = `${nsid}`.padStart(32, '0');
    return { nsid, blockSize: MODEL_BLOCK, blockCount: storage.blocks, uuid: undefined, nguid, eui64: undefined };
  }

  get figures(): NamespaceFigures | undefined {
    return this.#namespace.figures;
  }

  async fence(): Promise<FenceState> {
    const { isOpen, epoch } = this.#namespace;
    return this.#end.call('fence', () => ({ isOpen, epoch, isDurable: this.#end.target.isDurable }));
  }

  async setFence(isOpen: boolean, epoch: bigint): Promise<void> {
    await this.#end.call(isOpen ? 'open' : 'close', () => {
      if (epoch < this.#namespace.epoch) throw new NvmeStatusError('Set Features CAh', COMMAND_SEQUENCE_ERROR, 'admin');
      this.#namespace.epoch = epoch;
      this.#namespace.isOpen = isOpen;
    });
  }

  async reservations(): Promise<Uint8Array | undefined> {
    return this.#end.call('reservations', () => this.#namespace.reservations);
  }

  async setReservations(status: Uint8Array | undefined, epoch: bigint): Promise<void> {
    await this.#end.call('setReservations', () => {
      if (epoch < this.#namespace.epoch) throw new NvmeStatusError('Set Features CBh', COMMAND_SEQUENCE_ERROR, 'admin');
      if (this.#namespace.isOpen) throw new NvmeStatusError('Set Features CBh', INVALID_FIELD, 'admin');
      this.#namespace.reservations = status;
    });
  }

  async limitWrites(bytesPerSecond: number | undefined): Promise<void> {
    await this.#end.call('limitWrites', () => {
      this.#namespace.writeLimit = bytesPerSecond;
    });
  }
}

/** Of one connection. */
class ModelVolume {
  readonly end: ModelEnd;
  readonly namespace: ModelNamespace;
  readonly #generation: number;

  constructor(end: ModelEnd, namespace: ModelNamespace) {
    this.end = end;
    this.namespace = namespace;
    this.#generation = end.target.generation;
  }

  get blockSize(): number {
    return MODEL_BLOCK;
  }
  get blockCount(): number {
    return this.namespace.storage.blocks;
  }

  call<T>(name: string, act: () => T): Promise<T> {
    return this.end.call(name, () => {
      if (this.#generation !== this.end.target.generation) throw new TransportError('ECONNRESET', 'The end was lost');
      return act();
    });
  }
}

class ModelReader extends ModelVolume implements SourceVolume {
  startTracking(): Promise<void> {
    return this.call('startTracking', () => {
      this.namespace.tracked = new Set();
      this.namespace.snapshot = undefined;
    });
  }

  stopTracking(): Promise<void> {
    return this.call('stopTracking', () => {
      this.namespace.tracked = undefined;
      this.namespace.snapshot = undefined;
    });
  }

  async *allocated(): AsyncGenerator<BlockRun> {
    yield* await this.call('allocated', () => runsOf(this.namespace.storage.allocated));
  }

  changes(): Promise<ChangeSnapshot> {
    return this.call('changes', () => {
      const { namespace } = this;
      if (namespace.tracked === undefined) throw new NvmeStatusError('Get Log Page C9h', INVALID_FIELD, 'admin');
      if (namespace.snapshot === undefined) {
        namespace.snapshot = namespace.tracked;
        namespace.tracked = new Set();
      }
      const acknowledge = (): Promise<void> =>
        this.call('acknowledge', () => {
          namespace.snapshot = undefined;
        });
      return { runs: runsOf(namespace.snapshot), complete: true, acknowledge };
    });
  }

  readInto(slba: number, buffer: Uint8Array): Promise<void> {
    return this.call('read', () => {
      const at = slba * MODEL_BLOCK;
      buffer.set(this.namespace.storage.bytes.subarray(at, at + buffer.length));
      this.end.target.world.onTurn?.();
    });
  }
}

class ModelWriter extends ModelVolume implements DestinationVolume {
  write(slba: number, data: Uint8Array): Promise<void> {
    return this.call('write', () => {
      if (this.namespace.isOpen) this.end.target.world.violations.push('written by a manager while hosts may use it');
      this.namespace.storage.write(slba, data);
    });
  }
  clear(slba: number, blockCount: number): Promise<void> {
    return this.call('clear', () => this.namespace.storage.clear(slba, blockCount));
  }
  flush(): Promise<void> {
    return this.call('flush', () => undefined);
  }
}

function runsOf(blocks: Iterable<number>): BlockRun[] {
  const runs: { slba: number; blockCount: number }[] = [];
  for (const block of [...blocks].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && last.slba + last.blockCount === block) last.blockCount++;
    else runs.push({ slba: block, blockCount: 1 });
  }
  return runs;
}

class ModelController implements EndController {
  readonly cntlid: number;
  readonly #end: ModelEnd;

  constructor(end: ModelEnd, cntlid: number) {
    this.#end = end;
    this.cntlid = cntlid;
  }

  get #controller(): ModelControllerState {
    const controller = this.#end.target.controllers.get(this.cntlid);
    if (controller === undefined) throw new NvmeStatusError('Migration Send', INVALID_FIELD, 'admin');
    return controller;
  }

  suspend(): Promise<void> {
    return this.#end.call('suspend', () => {
      this.#controller.isSuspended = true;
    });
  }

  resume(): Promise<void> {
    return this.#end.call('resume', () => {
      if ([...this.#end.target.namespaces.values()].some(({ isOpen }) => !isOpen)) {
        throw new NvmeStatusError('Migration Send Resume', COMMAND_SEQUENCE_ERROR, 'admin');
      }
      this.#controller.isSuspended = false;
    });
  }

  isSuspended(): Promise<boolean> {
    return this.#end.call('isSuspended', () => this.#controller.isSuspended);
  }

  getState(): Promise<Uint8Array> {
    return this.#end.call('getState', () => {
      if (!this.#controller.isSuspended) this.#end.target.world.violations.push('state of a controller that runs');
      return new TextEncoder().encode(this.#controller.state ?? '');
    });
  }

  setState(state: Uint8Array): Promise<void> {
    return this.#end.call('setState', () => {
      if (!this.#controller.isSuspended) throw new NvmeStatusError('Migration Send', INVALID_FIELD, 'admin');
      this.#controller.state = new TextDecoder().decode(state);
    });
  }

  reset(): Promise<void> {
    return this.#end.call('reset', () => {
      this.#controller.isSuspended = false;
      this.#controller.state = undefined;
    });
  }

  trackMemory(): Promise<void> {
    return this.#end.call('trackMemory', () => {
      this.#controller.memory = new Map();
    });
  }

  memoryChanges(): Promise<{ runs: MemoryRun[]; isFinal: boolean }> {
    return this.#end.call('memoryChanges', () => {
      const { memory, isSuspended } = this.#controller;
      const all = [...(memory ?? [])].map(([address, lengthBytes]) => ({ address, lengthBytes }));
      // one answer has room for two runs
      const runs = all.slice(0, 2);
      for (const { address } of runs) memory?.delete(address);
      return { runs, isFinal: isSuspended && all.length <= 2 };
    });
  }

  stopTrackingMemory(): Promise<void> {
    return this.#end.call('stopTrackingMemory', () => {
      this.#controller.memory = undefined;
    });
  }
}

/** Where the device is, and whether the guest's accesses go on. */
export class ModelFront implements DeviceFront {
  readonly #world: ModelWorld;
  isPaused = false;
  at: 'source' | 'destination' = 'source';

  constructor(world: ModelWorld) {
    this.#world = world;
  }
  pause(): Promise<void> {
    return this.#world.call('front pause', () => {
      this.isPaused = true;
    });
  }
  attach(end: 'source' | 'destination'): Promise<void> {
    return this.#world.call('front attach', () => {
      if (!this.isPaused) this.#world.violations.push('attached while the guest goes on');
      this.at = end;
    });
  }
  resume(): Promise<void> {
    return this.#world.call('front resume', () => {
      this.isPaused = false;
    });
  }
  async close(): Promise<void> {}
}

/** Memory in pages of 4 KiB; who writes marks. */
export class ModelMemory implements GuestMemoryMover {
  readonly ranges: readonly MemoryRun[] = [{ address: 0, lengthBytes: 64 << 12 }];
  readonly from: Uint8Array = new Uint8Array(64);
  readonly to: Uint8Array = new Uint8Array(64);
  #dirty = new Set<number>();

  write(page: number, value: number): void {
    this.from[page] = value;
    this.#dirty.add(page);
  }

  async copy(runs: readonly MemoryRun[]): Promise<number> {
    await nextTurn();
    let bytes = 0;
    for (const { address, lengthBytes } of runs) {
      for (let page = address >> 12; page < (address + lengthBytes) >> 12; page++) this.to[page] = this.from[page]!;
      bytes += lengthBytes;
    }
    return bytes;
  }

  async changes(): Promise<readonly MemoryRun[]> {
    await nextTurn();
    const pages = [...this.#dirty];
    this.#dirty = new Set();
    return pages.map((page) => ({ address: page << 12, lengthBytes: 1 << 12 }));
  }
}

/** Never resolves a note from the one that kills its process on; the entry may be durable or not. */
export class ModelJournal implements MoveJournal {
  readonly entries: JournalEntry[] = [];
  /** Number of the entry that the process does not survive. */
  killAt: number = Number.POSITIVE_INFINITY;
  isKept = false;
  failure: 'dies' | 'fails' = 'dies';
  onKilled: (() => void) | undefined;

  async note(entry: JournalEntry): Promise<void> {
    await nextTurn();
    const at = this.entries.length;
    if (at >= this.killAt) {
      if (at === this.killAt && this.isKept) this.entries.push(entry);
      this.onKilled?.();
      if (this.failure === 'fails') throw new TransportError('ENOSPC', 'The journal is full');
      await new Promise(() => {}); // as a process that is no more
    }
    // what another process reads is text
    this.entries.push(JSON.parse(JSON.stringify(entry)) as JournalEntry);
  }
}

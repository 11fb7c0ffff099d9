/** `End` of the engine over a link: every call is a command of a manager's association, by the target's rules. */
import type {
  End,
  EndController,
  EndNamespace,
  EndNamespaceIdentity,
  FenceState,
  GuestMemoryMover,
  MemoryRun,
} from '../../src/orchestrator/end.ts';
import type { BlockRun, ChangeSnapshot, DestinationVolume, SourceVolume } from '../../src/orchestrator/volume.ts';
import { DNR, SpecificStatus, Status } from '../../src/spec/status.ts';
import { NvmeofError, NvmeStatusError } from '../../src/util/error.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import { BLOCK_SIZE } from './sim-disk.ts';
import type { SimFront } from './sim-front.ts';
import type { SimLink } from './sim-link.ts';
import { SimChangeQueue } from './sim-queue.ts';
import { PAGE_BYTES, PAGES } from './sim-ram.ts';
import { type Session, type SimNamespace, type SimTarget, sequenceError } from './sim-target.ts';

const WRITE_FAULT = 0x280;

const trackingLost = (nsid: number): NvmeofError =>
  new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `Changes of namespace ${nsid} are not followed any more`);

/** Of the connection that was there when it was made. */
class SimVolume implements SourceVolume, DestinationVolume {
  readonly blockSize: number = BLOCK_SIZE;
  readonly #link: SimLink;
  readonly #namespace: SimNamespace;
  readonly #generation: number;

  constructor(link: SimLink, namespace: SimNamespace) {
    this.#link = link;
    this.#namespace = namespace;
    this.#generation = link.generation;
  }

  #command<T>(what: string, act: (session: Session) => T | Promise<T>): Promise<T> {
    return this.#link.command(`${what} ${this.#namespace.nsid}`, act, this.#generation);
  }

  #copying<T>(what: string, act: (session: Session) => T | Promise<T>): Promise<T> {
    return this.#link.bound(this.#generation, what, act);
  }

  get blockCount(): number {
    return this.#namespace.disk.blockCount;
  }

  get #target(): SimTarget {
    return this.#link.target;
  }

  startTracking(): Promise<void> {
    return this.#command('start tracking', (owner) => {
      this.#mustOwn(owner);
      this.#namespace.tracking = { owner, active: new Set(), snapshot: undefined, epoch: 0 };
    });
  }

  stopTracking(): Promise<void> {
    return this.#command('stop tracking', (owner) => {
      this.#mustOwn(owner);
      this.#namespace.tracking = undefined;
    });
  }

  #mustOwn(session: Session): void {
    const { tracking } = this.#namespace;
    if (tracking !== undefined && tracking.owner !== session) throw sequenceError('Set Features C9h');
  }

  async *allocated(signal: AbortSignal | undefined): AsyncGenerator<BlockRun> {
    const { disk } = this.#namespace;
    for (let slba = 0; slba < disk.blockCount; ) {
      signal?.throwIfAborted();
      const from = slba;
      const run = await this.#copying('Get LBA Status', () => this.#nextAllocated(from));
      if (run === undefined) return;
      yield run;
      slba = run.slba + run.blockCount;
    }
  }

  #nextAllocated(from: number): BlockRun | undefined {
    const { disk } = this.#namespace;
    let slba = from;
    while (slba < disk.blockCount && !disk.isAllocated(slba)) slba++;
    let end = slba;
    while (end < disk.blockCount && disk.isAllocated(end)) end++;
    return slba === end ? undefined : { slba, blockCount: end - slba };
  }

  async changes(): Promise<ChangeSnapshot> {
    const namespace = this.#namespace;
    const { runs, epoch } = await this.#command('changes', (owner) => {
      this.#mustOwn(owner);
      const { tracking } = namespace;
      if (tracking === undefined) throw trackingLost(namespace.nsid);
      if (tracking.snapshot === undefined) {
        tracking.snapshot = tracking.active;
        tracking.active = new Set();
        tracking.epoch++;
      }
      return { runs: namespace.runsOf(tracking.snapshot), epoch: tracking.epoch };
    });
    return { runs, complete: true, acknowledge: () => this.#acknowledge(epoch) };
  }

  #acknowledge(epoch: number): Promise<void> {
    return this.#command('acknowledge', (owner) => {
      this.#mustOwn(owner);
      const { tracking } = this.#namespace;
      if (tracking === undefined) throw sequenceError('Set Features C9h');
      if (tracking.snapshot === undefined || tracking.epoch !== epoch) {
        throw new NvmeStatusError('Set Features C9h', Status.InvalidField | DNR, 'admin');
      }
      tracking.snapshot = undefined;
    });
  }

  /** The first half is read before the second. */
  readInto(slba: number, buffer: Uint8Array): Promise<void> {
    const half = (buffer.length / BLOCK_SIZE) >> 1;
    return this.#copying('Read', async () => {
      const { disk } = this.#namespace;
      const found = new Uint8Array(buffer.length);
      disk.read(slba, found.subarray(0, half * BLOCK_SIZE));
      await this.#target.latency();
      disk.read(slba + half, found.subarray(half * BLOCK_SIZE));
      buffer.set(found);
    });
  }

  write(slba: number, data: Uint8Array): Promise<void> {
    const copy = data.slice();
    return this.#change('Write', slba, data.length / BLOCK_SIZE, (disk) => disk.write(slba, copy));
  }

  clear(slba: number, blockCount: number): Promise<void> {
    return this.#change('Write Zeroes', slba, blockCount, (disk) => disk.fill(slba, blockCount, 0));
  }

  #change(what: string, slba: number, blockCount: number, act: (disk: SimNamespace['disk']) => void): Promise<void> {
    const { disk } = this.#namespace;
    return this.#copying(what, async () => {
      const { life } = this.#target;
      await this.#target.latency();
      if (this.#target.life !== life) return new Promise<void>(() => {});
      if (disk.isBad(slba, blockCount)) throw new NvmeStatusError(what, WRITE_FAULT | DNR, 'io');
      this.#namespace.mark(slba, blockCount);
      act(disk);
      return undefined;
    });
  }

  flush(): Promise<void> {
    return this.#copying('Flush', () => this.#namespace.disk.flush());
  }
}

class SimEndNamespace implements EndNamespace {
  readonly identity: EndNamespaceIdentity;
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  readonly #link: SimLink;
  readonly #namespace: SimNamespace;

  constructor(link: SimLink, namespace: SimNamespace) {
    const { nsid, disk } = namespace;
    this.#link = link;
    this.#namespace = namespace;
    const uuid = nsid.toString(16).padStart(32, 'a');
    this.identity = {
      nsid,
      blockSize: BLOCK_SIZE,
      blockCount: disk.blockCount,
      uuid,
      nguid: undefined,
      eui64: undefined,
    };
    const volume = new SimVolume(link, namespace);
    this.source = volume;
    this.destination = volume;
  }

  fence(): Promise<FenceState> {
    return this.#link.command('fence', () => ({ ...this.#namespace.fence, isDurable: true }));
  }

  setFence(isOpen: boolean, epoch: bigint): Promise<void> {
    const what = `${isOpen ? 'open' : 'close'} ${this.#namespace.nsid} at ${epoch}`;
    return this.#link.command(what, (manager) => this.#namespace.setFence(isOpen, epoch, manager));
  }

  reservations(): Promise<Uint8Array | undefined> {
    return this.#link.command('reservations', () => this.#namespace.reservations?.slice());
  }

  setReservations(status: Uint8Array | undefined, epoch: bigint): Promise<void> {
    return this.#link.command('set reservations', () => this.#namespace.setReservations(status, epoch));
  }

  size(): Promise<{ readonly blockSize: number; readonly blockCount: number }> {
    return this.#link.command('size', () => ({ blockSize: BLOCK_SIZE, blockCount: this.#namespace.blockCount }));
  }

  limitWrites(bytesPerSecond: number | undefined): Promise<void> {
    return this.#link.command('limit writes', (owner) => {
      this.#namespace.limit = bytesPerSecond === undefined ? undefined : { owner, bytesPerSecond };
    });
  }
}

class SimEndController implements EndController {
  readonly cntlid: number;
  readonly changes: SimChangeQueue;
  readonly #link: SimLink;

  constructor(link: SimLink, cntlid: number) {
    this.#link = link;
    this.cntlid = cntlid;
    this.changes = new SimChangeQueue(link, cntlid, link.process.clock);
  }

  /** Looked up at each command: a process that was started again has another one. */
  #command<T>(
    what: string,
    act: (controller: NonNullable<ReturnType<SimTarget['controllers']['get']>>, session: Session) => T | Promise<T>,
  ): Promise<T> {
    return this.#link.command(what, (session) => {
      const controller = this.#link.target.controllers.get(this.cntlid);
      if (controller === undefined) {
        throw new NvmeStatusError(what, SpecificStatus.InvalidControllerIdentifier | DNR, 'admin');
      }
      return act(controller, session);
    });
  }

  suspend(): Promise<void> {
    return this.#command('suspend', (controller, session) => controller.suspend(session));
  }

  async resume(): Promise<void> {
    try {
      await this.#command('resume', (controller) => controller.resume());
    } catch (error) {
      const runs = error instanceof NvmeStatusError && (error.status & 0x7ff) === SpecificStatus.ControllerNotSuspended;
      if (!runs) throw error;
    }
  }

  isSuspended(): Promise<boolean> {
    return this.#command('is suspended', (controller) => controller.isSuspended);
  }

  getState(): Promise<Uint8Array> {
    return this.#command('get state', (controller) => {
      if (!controller.isSuspended) throw new NvmeofError('NVMEOF_ERR_NOT_SUSPENDED', 'The controller runs');
      return controller.getState();
    });
  }

  setState(state: Uint8Array): Promise<void> {
    return this.#command('set state', (controller) => controller.setState(state));
  }

  /** A controller that runs is suspended for it: only then its manager may. */
  reset(): Promise<void> {
    return this.#command('reset', async (controller, session) => {
      await controller.suspend(session);
      controller.reset();
    });
  }

  trackMemory(): Promise<void> {
    return this.#command('track memory', (controller, owner) => {
      if (controller.tracked !== undefined) {
        throw new NvmeStatusError('Track Send', SpecificStatus.InvalidControllerIdentifier | DNR, 'admin');
      }
      controller.tracked = { owner, pages: new Set() };
    });
  }

  memoryChanges(): Promise<{ readonly runs: readonly MemoryRun[]; readonly isFinal: boolean }> {
    return this.#command('memory changes', (controller, owner) => {
      const { tracked } = controller;
      if (tracked?.owner !== owner) {
        throw new NvmeStatusError('Track Receive', SpecificStatus.InvalidControllerIdentifier | DNR, 'admin');
      }
      const runs = [...tracked.pages].map((page) => ({ address: page * PAGE_BYTES, lengthBytes: PAGE_BYTES }));
      tracked.pages = new Set();
      return { runs, isFinal: controller.isSuspended };
    });
  }

  stopTrackingMemory(): Promise<void> {
    return this.#command('stop tracking memory', (controller, owner) => {
      if (controller.tracked?.owner === owner) controller.tracked = undefined;
    });
  }
}

const peerName = ({ address, service }: { address: string; service: number }): string => `${address}:${service}`;

export class SimEnd implements End {
  readonly name: string;
  readonly subnqn = 'nqn.2026-01.io.nvmeferry:sim';
  readonly #link: SimLink;

  constructor(link: SimLink) {
    this.#link = link;
    this.name = link.target.name;
  }

  namespaces(): Promise<readonly EndNamespace[]> {
    return this.#link.command('namespaces', () =>
      [...this.#link.target.namespaces.values()].map((namespace) => new SimEndNamespace(this.#link, namespace)),
    );
  }

  migratable(): Promise<readonly number[]> {
    return this.#link.command('migratable', () => [...this.#link.target.controllers.keys()]);
  }

  controller(cntlid: number): EndController {
    return new SimEndController(this.#link, cntlid);
  }

  announce(peer: { readonly address: string; readonly service: number }, isThere: boolean): Promise<void> {
    return this.#link.command(isThere ? 'announce' : 'announce no more', async () => {
      const { target } = this.#link;
      await target.save(() => {
        if (isThere) target.peers.add(peerName(peer));
        else target.peers.delete(peerName(peer));
      });
      target.accessChanged();
    });
  }

  async close(): Promise<void> {
    this.#link.close();
  }
}

export class SimMover implements GuestMemoryMover {
  readonly ranges: readonly MemoryRun[] = [{ address: 0, lengthBytes: PAGES * PAGE_BYTES }];
  readonly #process: Orchestrator;
  readonly #front: SimFront;
  #isFirst = true;

  constructor(process: Orchestrator, front: SimFront) {
    this.#process = process;
    this.#front = front;
  }

  copy(runs: readonly MemoryRun[]): Promise<number> {
    return this.#process.step('mover: copy', async () => {
      let bytes = 0;
      for (const { address, lengthBytes } of runs) {
        for (let at = address; at < address + lengthBytes; at += PAGE_BYTES) {
          await this.#front.clock.delay(0.02);
          if (this.#process.isDead) return bytes;
          this.#page(at / PAGE_BYTES);
          bytes += PAGE_BYTES;
        }
      }
      return bytes;
    });
  }

  #page(page: number): void {
    const { source, destination } = this.#front.rams;
    destination.copyPage(source, page);
  }

  changes(): Promise<readonly MemoryRun[]> {
    return this.#process.step('mover: changes', async () => {
      const pages = this.#front.takeCpuPages();
      if (!this.#isFirst) return pages.map((page) => ({ address: page * PAGE_BYTES, lengthBytes: PAGE_BYTES }));
      this.#isFirst = false;
      return this.ranges;
    });
  }
}

/** The stage on which targets, hosts and guests are models of what the product's are. */
import type { Random } from '../support/random.ts';
import { FrontLink } from './front-link.ts';
import { Network } from './network.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party, Peer, Scenario } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';
import { SimDisk } from './sim-disk.ts';
import { SimEnd, SimMover } from './sim-end.ts';
import { SimFront } from './sim-front.ts';
import { SimGuest } from './sim-guest.ts';
import { SimHost } from './sim-host.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { lost, SimLink } from './sim-link.ts';
import { SimTarget } from './sim-target.ts';
import type { Ends, Must, Stage, StageEvents } from './stage.ts';
import type { MakeStage } from './world.ts';

/** Blocks. */
const GROWTH = 16;

export const CNTLIDS: Readonly<Record<Party, number>> = { source: 3, destination: 5 };

export class ModelStage implements Stage {
  readonly limitMs = 20_000;
  readonly settleMs = 200;
  readonly digest = 0;
  readonly #scenario: Scenario;
  readonly #clock: SimClock;
  readonly #network: Network;
  readonly #source: SimTarget;
  readonly #destination: SimTarget;
  readonly #front: SimFront | undefined;
  readonly #frontLink: FrontLink | undefined;
  readonly #guest: SimGuest | undefined;
  readonly #host: SimHost | undefined;
  readonly #reservations: Uint8Array | undefined;
  #links: readonly SimLink[] = [];

  constructor(scenario: Scenario, clock: SimClock, random: Random, events: StageEvents) {
    this.#scenario = scenario;
    this.#clock = clock;
    this.#network = new Network(() => clock.nowMs());
    const observer = {
      executes: (target: SimTarget, { opcode, slba, id }: HostCommand): void =>
        events.executes(target.name, `the guest's ${opcode} of block ${slba} (command ${id})`, id),
      failed: (error: unknown): void => events.failed(error),
    };
    this.#source = new SimTarget('source', clock, random, observer);
    this.#destination = new SimTarget('destination', clock, random, observer);
    this.#reservations = scenario.hasReservations ? random.bytes(64) : undefined;
    for (const [i, mode] of scenario.modes.entries()) this.#addNamespace(i + 1, mode);
    if (scenario.kind === 'controller') {
      this.#source.addController(CNTLIDS.source);
      this.#destination.addController(CNTLIDS.destination);
      const targets = { source: this.#source, destination: this.#destination };
      this.#front = new SimFront(clock, targets, CNTLIDS, scenario.movesMemory);
      this.#frontLink = new FrontLink(this.#network, this.#front);
      this.#guest = new SimGuest(this.#front);
      this.#guest.onViolation = (violation) => events.failed(violation);
      this.#guest.onReset = () => events.resets();
    } else {
      const knowsAll = scenario.hostsKnowDestination;
      this.#host = new SimHost(clock, this.#network, [this.#source, this.#destination], knowsAll);
    }
  }

  #addNamespace(nsid: number, mode: 'copied' | 'shared'): void {
    const { blockCount, destinationWasOpen } = this.#scenario;
    const disk = new SimDisk(blockCount);
    const isShared = mode === 'shared';
    this.#source.addNamespace(nsid, disk, true, !isShared).reservations = this.#reservations;
    const other = isShared ? disk : new SimDisk(blockCount);
    // what it held before must not be seen
    if (!isShared && destinationWasOpen) other.fill(0, blockCount, 0xdead);
    other.flush();
    this.#destination.addNamespace(nsid, other, destinationWasOpen, !isShared);
  }

  async start(): Promise<void> {
    await this.#guest?.start();
  }

  submit(command: HostCommand): Promise<HostAnswer> {
    return this.#guest?.submit(command) ?? this.#host!.submit(command);
  }

  connect(process: Orchestrator): Ends {
    const links = {
      source: new SimLink(process, this.#network, this.#source),
      destination: new SimLink(process, this.#network, this.#destination),
    };
    this.#links = Object.values(links);
    const front = this.#front;
    return {
      source: new SimEnd(links.source),
      destination: new SimEnd(links.destination),
      front: this.#frontLink?.of(process),
      memory: front === undefined || !this.#scenario.movesMemory ? undefined : new SimMover(process, front),
    };
  }

  answers(step: string): () => void {
    const generation = this.#linkOf(step)?.generation;
    return () => {
      const link = this.#linkOf(step);
      if (link !== undefined && generation !== link.generation) throw lost(step, link.target);
    };
  }

  #linkOf(step: string): SimLink | undefined {
    const party = step.split(':')[0];
    return this.#links.find(({ target }) => target.name === party);
  }

  cut(party: Peer, ms: number, isSoon: boolean): boolean {
    if (party === 'front') {
      this.#frontLink?.cut(ms);
      return this.#frontLink !== undefined;
    }
    this.#network.cut(party, ms);
    const link = this.#linkOf(party);
    if (isSoon) this.#clock.setTimer(() => link?.breakNow(), 0.1);
    else link?.breakNow();
    return true;
  }

  cutHosts(party: Party, ms: number): boolean {
    if (this.#host === undefined) return false;
    this.#network.cut(`${party} hosts`, ms);
    this.#host.cut(party);
    return true;
  }

  stall(party: Party, ms: number): void {
    this.#network.stall(party, ms);
  }

  badBlock(block: number, ms: number): void {
    for (const { disk } of this.#destination.namespaces.values()) {
      disk.bad.add(block);
      this.#clock.setTimer(() => disk.bad.delete(block), ms);
    }
  }

  #target(party: Party): SimTarget {
    return party === 'source' ? this.#source : this.#destination;
  }

  crash(party: Party, downMs: number): boolean {
    const target = this.#target(party);
    if (!target.isUp) return false;
    target.crash();
    this.#clock.setTimer(() => target.start(), downMs);
    return true;
  }

  crashFront(): boolean {
    if (this.#front === undefined || this.#front.isGone) return false;
    this.#front.crash();
    return true;
  }

  restartFront(isMoved: boolean): void {
    if (this.#front?.isGone === true) this.#front.restart(isMoved ? 'destination' : 'source');
  }

  resize(party: Party): boolean {
    const nsid = this.#scenario.modes.indexOf('copied') + 1;
    const target = this.#target(party);
    if (nsid === 0 || !target.isUp) return false;
    const { disk } = target.namespaces.get(nsid)!;
    disk.grow(disk.blockCount + GROWTH);
    return true;
  }

  get sizesDiffer(): boolean {
    return [...this.#source.namespaces].some(
      ([nsid, { disk }]) => disk.blockCount !== this.#destination.namespaces.get(nsid)!.disk.blockCount,
    );
  }

  heal(): void {
    this.#network.heal();
  }

  values(nsid: number, isMoved: boolean): readonly number[] {
    return this.#target(isMoved ? 'destination' : 'source')
      .namespaces.get(nsid)!
      .disk.values();
  }

  async check(isMoved: boolean, must: Must): Promise<void> {
    const serving = isMoved ? this.#destination : this.#source;
    for (const [nsid, namespace] of serving.namespaces) {
      const other = (isMoved ? this.#source : this.#destination).namespaces.get(nsid)!;
      must(namespace.fence.isOpen, `namespace ${nsid} is closed at the ${serving.name}`);
      must(namespace.storedFence.isOpen, `namespace ${nsid} will be closed after a restart of the ${serving.name}`);
      if (isMoved)
        must(!other.fence.isOpen && !other.storedFence.isOpen, `namespace ${nsid} is open at the source as well`);
      else if (!this.#scenario.destinationWasOpen)
        must(!other.fence.isOpen, `namespace ${nsid} is open at the destination`);
      for (const one of [namespace, other]) {
        must(one.tracking === undefined, `changes of namespace ${nsid} are followed`);
        must(one.limit === undefined, `writes of namespace ${nsid} are limited`);
      }
      const here = namespace.reservations;
      must(
        String(here) === String(this.#reservations),
        `namespace ${nsid} has other reservations at the ${serving.name}`,
      );
    }
    if (!isMoved) {
      for (const [nsid, { reservations }] of this.#destination.namespaces) {
        must(reservations === undefined, `namespace ${nsid} has reservations at the destination`);
      }
    }
    must(this.#source.peers.size === 0 || isMoved, 'discovery of the source names the destination');
    this.#checkDevice(must, isMoved ? 'destination' : 'source');
  }

  #checkDevice(must: Must, party: Party): void {
    const front = this.#front;
    if (front === undefined) return;
    must(!front.isPaused, 'the device is paused');
    must(front.attachedTo === party, `the device is attached to the ${front.attachedTo}`);
    const controller = front.controllerAt(party);
    must(controller.enabled && !controller.isSuspended, `the controller of the ${party} does not run`);
    const other = front.controllerAt(party === 'source' ? 'destination' : 'source');
    must(other.attachment === undefined, 'both controllers have the memory of the guest');
    for (const { tracked } of [controller, other]) must(tracked === undefined, 'memory changes are followed');
  }
}

export const modelStage: MakeStage = (...options) => new ModelStage(...options);

/** The stage on which the targets are the real core, managers and hosts the real initiator, and only disks, time and wires are models. */
import type { BlockIo } from '../../src/backend/block-backend.ts';
import { FabricEnd } from '../../src/orchestrator/fabric-end.ts';
import type { Random } from '../support/random.ts';
import { CoreFront, CoreMover } from './core-front.ts';
import { CoreGuest } from './core-guest.ts';
import { CoreHost, RESERVED } from './core-host.ts';
import { ADDRESSES, CoreTarget, isOfManager, MANAGER_NQN, SUBNQN } from './core-target.ts';
import { FrontLink } from './front-link.ts';
import { CNTLIDS } from './model-stage.ts';
import { Network } from './network.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Party, Peer, Scenario } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';
import { BLOCK_SIZE, SimDisk } from './sim-disk.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { SimNet } from './sim-net.ts';
import type { Ends, Must, Stage, StageEvents } from './stage.ts';
import { steppedEnd } from './stepped-end.ts';
import type { MakeStage } from './world.ts';

const MANAGER_ID = 'a5a5a5a5-a5a5-4a5a-8a5a-a5a5a5a5a5a5';
const KATO_MS = 400;
const COMMAND_TIMEOUT_MS = 3000;
/** A cut that comes soon finds the request, the command or its answer on the way. */
const SOON_MS = 1.5;

const PARTIES: readonly Party[] = ['source', 'destination'];
const OTHER: Readonly<Record<Party, Party>> = { source: 'destination', destination: 'source' };

export class CoreStage implements Stage {
  readonly limitMs = 120_000;
  readonly settleMs = 1500;
  readonly #scenario: Scenario;
  readonly #clock: SimClock;
  readonly #random: Random;
  readonly #network: Network;
  readonly #net: SimNet;
  readonly #events: StageEvents;
  readonly #targets: Readonly<Record<Party, CoreTarget>>;
  readonly #host: CoreHost | undefined;
  readonly #guest: CoreGuest | undefined;
  readonly #front: CoreFront | undefined;
  readonly #frontLink: FrontLink | undefined;

  constructor(scenario: Scenario, clock: SimClock, random: Random, events: StageEvents) {
    this.#scenario = scenario;
    this.#clock = clock;
    this.#random = random;
    this.#events = events;
    this.#network = new Network(() => clock.nowMs());
    this.#net = new SimNet(clock, random, this.#network);
    const target = (party: Party): CoreTarget =>
      new CoreTarget(party, this.#net, {
        effect: (at, io, opcode, nsid) => this.#effect(at, io, opcode, nsid),
        failed: (error) => events.failed(error),
      });
    this.#targets = { source: target('source'), destination: target('destination') };
    for (const [i, mode] of scenario.modes.entries()) this.#addNamespace(i + 1, mode);
    if (scenario.kind === 'controller') {
      for (const party of PARTIES) this.#targets[party].cntlid = CNTLIDS[party];
      this.#guest = new CoreGuest();
      this.#guest.onReset = () => events.resets();
      this.#guest.onViolation = (violation) => events.failed(violation);
      this.#front = new CoreFront(clock, this.#guest.machine, this.#targets, scenario.movesMemory);
      this.#frontLink = new FrontLink(this.#network, this.#front);
    } else {
      this.#host = new CoreHost(this.#net, this.#targets.source, scenario.hostsKnowDestination);
    }
    for (const one of Object.values(this.#targets)) one.start();
  }

  #addNamespace(nsid: number, mode: 'copied' | 'shared'): void {
    const { blockCount, destinationWasOpen } = this.#scenario;
    const isOwn = mode === 'copied';
    const disk = new SimDisk(blockCount);
    const other = isOwn ? new SimDisk(blockCount) : disk;
    // what it held before must not be seen
    if (isOwn && destinationWasOpen) other.fill(0, blockCount, 0xdead);
    other.flush();
    this.#targets.source.volumes.set(nsid, { disk, isOpen: true, isOwn });
    this.#targets.destination.volumes.set(nsid, { disk: other, isOpen: destinationWasOpen, isOwn });
  }

  get digest(): number {
    return this.#net.digest;
  }

  #effect(party: Party, io: BlockIo, opcode: 'read' | 'write' | 'deallocate', nsid: number): void {
    if (isOfManager(io)) return;
    const what = `the guest's ${opcode} of block ${io.offsetBytes / BLOCK_SIZE} of namespace ${nsid}`;
    // the value that it writes is that of no other
    const data = io.segments[0];
    const id = opcode === 'write' && data !== undefined ? data[0]! | (data[1]! << 8) | (data[2]! << 16) : undefined;
    this.#events.executes(party, what, id);
  }

  async start(): Promise<void> {
    const nsids = this.#scenario.modes.map((_, i) => i + 1);
    await this.#guest?.start(this.#front!);
    await this.#host?.start(nsids, this.#scenario.hasReservations);
  }

  submit(command: HostCommand): Promise<HostAnswer> {
    return this.#guest?.submit(command) ?? this.#host!.submit(command);
  }

  connect(process: Orchestrator): Ends {
    const end = (party: Party): FabricEnd =>
      new FabricEnd({
        address: ADDRESSES[party],
        subnqn: SUBNQN,
        hostnqn: MANAGER_NQN,
        hostid: MANAGER_ID,
        ioQueues: 2,
        queueSize: 12,
        katoMs: KATO_MS,
        adminTimeoutMs: COMMAND_TIMEOUT_MS,
        ioTimeoutMs: COMMAND_TIMEOUT_MS,
        clock: process.clock,
        connectSocket: this.#net.connector(process.life, (to) => to),
      });
    const front = this.#front;
    const guest = this.#guest;
    return {
      source: steppedEnd(process, 'source', end('source')),
      destination: steppedEnd(process, 'destination', end('destination')),
      front: this.#frontLink?.of(process),
      memory:
        front === undefined || guest === undefined || !this.#scenario.movesMemory
          ? undefined
          : new CoreMover(process, front, guest.machine.ram.base, (page) => guest.isOfCpu(page)),
    };
  }

  answers(): () => void {
    return () => {};
  }

  cut(party: Peer, ms: number, isSoon: boolean): boolean {
    if (party === 'front') {
      this.#frontLink?.cut(ms);
      return this.#frontLink !== undefined;
    }
    this.#network.cut(party, ms);
    if (isSoon) this.#clock.setTimer(() => this.#net.breakAll(party), this.#random.below(SOON_MS * 100) / 100);
    else this.#net.breakAll(party);
    return true;
  }

  cutHosts(party: Party, ms: number): boolean {
    if (this.#host === undefined) return false;
    this.#network.cut(`${party} hosts`, ms);
    this.#net.breakAll(`${party} hosts`);
    return true;
  }

  stall(party: Party, ms: number): void {
    this.#network.stall(party, ms);
  }

  badBlock(block: number, ms: number): void {
    for (const { disk } of this.#targets.destination.volumes.values()) {
      disk.bad.add(block);
      this.#clock.setTimer(() => disk.bad.delete(block), ms);
    }
  }

  crash(party: Party, downMs: number): boolean {
    const target = this.#targets[party];
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
    const target = this.#targets[party];
    if (nsid === 0 || !target.isUp) return false;
    target.grow(nsid).catch((error) => this.#events.failed(error));
    return true;
  }

  get sizesDiffer(): boolean {
    const { source, destination } = this.#targets;
    return [...source.volumes].some(
      ([nsid, { disk }]) => disk.blockCount !== destination.volumes.get(nsid)!.disk.blockCount,
    );
  }

  heal(): void {
    this.#network.heal();
  }

  values(nsid: number, isMoved: boolean): readonly number[] {
    return this.#targets[isMoved ? 'destination' : 'source'].volumes.get(nsid)!.disk.values();
  }

  async check(isMoved: boolean, must: Must): Promise<void> {
    const party = isMoved ? 'destination' : 'source';
    const serving = this.#targets[party];
    const other = this.#targets[OTHER[party]];
    while (!serving.isUp || !other.isUp) await this.#clock.delay(5);
    for (const nsid of serving.volumes.keys()) {
      const namespace = serving.namespace(nsid);
      must(!namespace.fence.isClosed, `namespace ${nsid} is closed at the ${party}`);
      must(!serving.willBeClosed(nsid), `namespace ${nsid} will be closed after a restart of the ${party}`);
      const away = other.namespace(nsid);
      if (isMoved) {
        must(away.fence.isClosed && other.willBeClosed(nsid), `namespace ${nsid} is open at the source as well`);
      } else if (!this.#scenario.destinationWasOpen) {
        must(away.fence.isClosed, `namespace ${nsid} is open at the destination`);
      }
      if (!isMoved && !this.#scenario.destinationWasOpen) {
        const { registrants } = away.reservations.state;
        must(registrants.size === 0, `namespace ${nsid} has reservations at the destination`);
      }
      const { host, mine } = await this.#reservations(nsid);
      must(host === mine, `namespace ${nsid} has other reservations at the ${party}: ${host}, not ${mine}`);
      for (const one of [namespace, away]) {
        must(one.changes === undefined, `changes of namespace ${nsid} are followed`);
        must(one.writeLimit === undefined, `writes of namespace ${nsid} are limited`);
      }
    }
    const peers = this.#targets.source.process.subsystem.peers.all;
    must(peers.length === 0 || isMoved, 'discovery of the source names the destination');
    this.#checkDevice(party, must);
  }

  /** As its host sees them, and as it made them. */
  async #reservations(nsid: number): Promise<{ host: string; mine: string }> {
    if (this.#host === undefined) return { host: '', mine: '' };
    return { host: await this.#host.reservation(nsid), mine: this.#scenario.hasReservations ? RESERVED : '' };
  }

  #checkDevice(party: Party, must: Must): void {
    const front = this.#front;
    if (front === undefined) return;
    must(!front.isPaused, 'the device is paused');
    must(front.attachedTo === party, `the device is attached to the ${front.attachedTo}`);
    must(this.#guest!.isEnabled, `the controller of the ${party} is not enabled`);
    must(this.#guest!.strays === 0, 'the guest got completions for no command of its own');
    const { subsystem } = this.#targets[party].process;
    must(subsystem.controller(CNTLIDS[party])?.isSuspended === false, `the controller of the ${party} does not run`);
  }
}

export const coreStage: MakeStage = (...options) => new CoreStage(...options);

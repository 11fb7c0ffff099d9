/** All parties of one run, what goes wrong with them, and what must hold all the time and at the end. */
import type { DeviceFront, End, GuestMemoryMover } from '../../src/orchestrator/end.ts';
import type { JournalEntry, MoveJournal } from '../../src/orchestrator/journal.ts';
import type { Clock } from '../../src/util/clock.ts';
import { NvmeofError } from '../../src/util/error.ts';
import type { Random } from '../support/random.ts';
import { Network } from './network.ts';
import { Oracle } from './oracle.ts';
import { Orchestrator } from './orchestrator-process.ts';
import { type Fault, type Party, randomOf, type Scenario } from './scenario.ts';
import { SimClock } from './sim-clock.ts';
import { SimDisk } from './sim-disk.ts';
import { SimEnd, SimFrontEnd, SimMover } from './sim-end.ts';
import { SimFront } from './sim-front.ts';
import { SimGuest } from './sim-guest.ts';
import { SimHost } from './sim-host.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import { SimJournal } from './sim-journal.ts';
import { lost, SimLink } from './sim-link.ts';
import { SimTarget, type TargetObserver } from './sim-target.ts';
import { Violation } from './violation.ts';
import { Workload } from './workload.ts';

/** What an orchestrator has in its hands. */
export interface Tools {
  readonly source: End;
  readonly destination: End;
  readonly front: DeviceFront | undefined;
  readonly memory: GuestMemoryMover | undefined;
  readonly journal: MoveJournal;
  readonly clock: Clock;
  readonly scenario: Scenario;
}

export type Result = 'moved' | 'as-before';
/** Runs the engine. Rejects with an NvmeofError where it leaves work behind. */
export type Drive = (how: 'start' | 'resume' | 'abort', tools: Tools) => Promise<Result>;

export const PEER = { address: '192.0.2.2', service: 4420 } as const;
export const CNTLIDS: Readonly<Record<Party, number>> = { source: 3, destination: 5 };

const WARM_UP_MS = 8;
const ATTEMPTS_MAX = 12;
/** From then on nothing goes wrong any more. */
const ATTEMPTS_UNTIL_HEALED = 5;
const BETWEEN_ATTEMPTS_MS = 30;
const LIMIT_MS = 20_000;
const OPERATIONS_AFTERWARDS = 25;

export interface RunResult {
  readonly violation: Violation | undefined;
  readonly result: Result | undefined;
  /** Steps of all orchestrators. */
  readonly steps: number;
  readonly attempts: number;
  readonly events: number;
  readonly trace: readonly string[];
}

export class World implements TargetObserver {
  readonly scenario: Scenario;
  readonly clock = new SimClock();
  readonly random: Random;
  readonly network: Network;
  readonly source: SimTarget;
  readonly destination: SimTarget;
  readonly front: SimFront | undefined;
  readonly #guest: SimGuest | undefined;
  readonly #host: SimHost | undefined;
  readonly #workload: Workload;
  readonly #oracles: readonly Oracle[];
  readonly #journal: string[] = [];
  readonly #drive: Drive;
  readonly #reservations: Uint8Array | undefined;
  #process: Orchestrator | undefined;
  #onKill: (() => void) | undefined;
  #steps = 0;
  #attempts = 0;
  #journalFault: Extract<Fault, { kind: 'journal' }> | undefined;
  #isCommitted = false;
  #faultsAreOver = false;
  /** A process has ended, or a host has lost a path: commands may be repeated. */
  #mayRepeat = false;
  readonly #executed = new Map<number, number>();
  #violation: Violation | undefined;
  #result: Result | undefined;
  readonly trace: string[] = [];

  constructor(scenario: Scenario, drive: Drive) {
    this.scenario = scenario;
    this.#drive = drive;
    this.random = randomOf(scenario.seed ^ 0x5eed);
    this.network = new Network(() => this.clock.nowMs());
    this.source = new SimTarget('source', this.clock, this.random, this);
    this.destination = new SimTarget('destination', this.clock, this.random, this);
    this.#reservations = scenario.hasReservations ? this.random.bytes(64) : undefined;
    this.#oracles = scenario.modes.map((mode, i) => this.#namespace(i + 1, mode));
    if (scenario.kind === 'controller') {
      this.source.addController(CNTLIDS.source);
      this.destination.addController(CNTLIDS.destination);
      const targets = { source: this.source, destination: this.destination };
      this.front = new SimFront(this.clock, targets, CNTLIDS, scenario.movesMemory);
      this.#guest = new SimGuest(this.front);
      this.#guest.onViolation = (violation) => this.failed(violation);
      this.#guest.onReset = () => this.#guestResets();
    } else {
      const knowsAll = scenario.hostsKnowDestination;
      this.#host = new SimHost(this.clock, this.network, [this.source, this.destination], knowsAll);
    }
    this.#workload = new Workload({
      clock: this.clock,
      random: this.random,
      oracles: this.#oracles,
      depth: scenario.depth,
      thinkMs: scenario.thinkMs,
      submit: (command) => this.#submit(command),
      failed: (error) => this.failed(error),
    });
  }

  #namespace(nsid: number, mode: 'copied' | 'shared'): Oracle {
    const { blockCount, destinationWasOpen } = this.scenario;
    const disk = new SimDisk(blockCount);
    const isShared = mode === 'shared';
    this.source.addNamespace(nsid, disk, true, !isShared).reservations = this.#reservations;
    const other = isShared ? disk : new SimDisk(blockCount);
    // what it held before must not be seen
    if (!isShared && destinationWasOpen) other.fill(0, blockCount, 0xdead);
    other.flush();
    this.destination.addNamespace(nsid, other, destinationWasOpen, !isShared);
    return new Oracle(`namespace ${nsid}`, blockCount);
  }

  note(text: string): void {
    this.trace.push(`${this.clock.nowMs().toFixed(2)} ${text}`);
  }

  failed(error: unknown): void {
    if (this.#violation !== undefined) return;
    this.#violation =
      error instanceof Violation ? error : new Violation(`Not an answer: ${String(error)}`, { cause: error });
    this.note(`VIOLATION ${this.#violation.message}`);
  }

  #submit(command: HostCommand): Promise<HostAnswer> {
    return this.#guest?.submit(command) ?? this.#host!.submit(command);
  }

  // ---- what must hold all the time ------------------------------------------------------------------------------------------------

  executes(target: SimTarget, command: HostCommand): void {
    const times = (this.#executed.get(command.id) ?? 0) + 1;
    this.#executed.set(command.id, times);
    const what = `the guest's ${command.opcode} of block ${command.slba} (command ${command.id})`;
    if (times > 1 && !this.#mayRepeat) this.failed(new Violation(`Executed twice: ${what}`));
    if (this.#isCommitted && target === this.source) {
      this.failed(new Violation(`Executed at the source after the commit: ${what}`));
    } else if (!this.#isCommitted && target === this.destination) {
      this.failed(new Violation(`Executed at the destination before the commit: ${what}`));
    }
  }

  #guestResets(): void {
    this.note('the guest resets its controller');
    if (!this.#mayRepeat) this.failed(new Violation('The guest finds its controller without state'));
  }

  #noted(entry: JournalEntry): void {
    this.note(`durable: ${entry.step} ${entry.state}`);
    if (entry.step !== 'commit' || entry.state === 'undone' || this.#isCommitted) return;
    this.#isCommitted = true;
    for (const oracle of this.#oracles) oracle.madeDurable();
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------------------

  #stepFaults(phase: 'before' | 'after'): void {
    if (this.#faultsAreOver) return;
    for (const fault of this.scenario.faults) {
      if ('step' in fault.when && fault.when.step === this.#steps && fault.when.phase === phase) this.#happen(fault);
    }
  }

  #before(name: string): void {
    this.#steps++;
    this.note(`step ${this.#steps}: ${name}`);
    this.#stepFaults('before');
    if (name.startsWith('journal') && this.#journalFault?.isDurable === false) this.#failJournal();
  }

  #after(name: string): void {
    const { generation } = this.#linkOf(name) ?? {};
    this.#stepFaults('after');
    if (name.startsWith('journal') && this.#journalFault?.isDurable === true) this.#failJournal();
    const link = this.#linkOf(name);
    if (link !== undefined && generation !== link.generation) throw lost(name, link.target);
  }

  #failJournal(): never {
    this.#journalFault = undefined;
    throw new NvmeofError('NVMEOF_ERR_JOURNAL', 'The journal cannot be written');
  }

  #linkOf(name: string): SimLink | undefined {
    const party = name.split(':')[0];
    for (const link of this.#process?.links ?? []) if (link.target.name === party) return link;
    return undefined;
  }

  #target(party: Party): SimTarget {
    return party === 'source' ? this.source : this.destination;
  }

  #happen(fault: Fault): void {
    if (this.#faultsAreOver) return;
    this.note(`FAULT ${JSON.stringify(fault)}`);
    switch (fault.kind) {
      case 'crash':
        if (fault.who === 'orchestrator') this.#kill();
        else this.#crash(fault.who, fault.downMs);
        return;
      case 'cut': {
        this.network.cut(fault.who, fault.ms);
        // before a step: its request is on the way by then
        const link = this.#linkOf(fault.who);
        const isBefore = 'step' in fault.when && fault.when.phase === 'before';
        if (isBefore) this.clock.setTimer(() => link?.breakNow(), 0.1);
        else link?.breakNow();
        return;
      }
      case 'cut-hosts':
        if (this.#host === undefined) return;
        this.#mayRepeat = true;
        this.network.cut(`${fault.who} hosts`, fault.ms);
        this.#host.cut(fault.who);
        return;
      case 'stall':
        this.network.stall(fault.who, fault.ms);
        return;
      case 'bad-block':
        for (const { disk } of this.destination.namespaces.values()) {
          disk.bad.add(fault.block);
          this.clock.setTimer(() => disk.bad.delete(fault.block), fault.ms);
        }
        return;
      case 'journal':
        this.#journalFault = fault;
    }
  }

  #kill(): void {
    this.#process?.kill();
    this.#onKill?.();
  }

  #crash(party: Party, downMs: number): void {
    const target = this.#target(party);
    if (!target.isUp) return;
    this.#mayRepeat = true;
    target.crash();
    const serves = (party === 'destination') === this.#isCommitted;
    this.scenario.modes.forEach((mode, i) => {
      if (serves && mode === 'copied') this.#oracles[i]!.crashed();
    });
    this.clock.setTimer(() => target.start(), downMs);
  }

  // ---- the run --------------------------------------------------------------------------------------------------------------------

  async run(): Promise<RunResult> {
    const whole = this.#whole().catch((error) => this.failed(error));
    let isOver = false;
    void whole.then(() => {
      isOver = true;
    });
    const ended = await this.clock.run(() => isOver || this.#violation !== undefined, LIMIT_MS);
    if (!ended) this.failed(new Violation(`It does not come to an end: ${this.#stage}`));
    this.#process?.kill();
    return {
      violation: this.#violation,
      result: this.#result,
      steps: this.#steps,
      attempts: this.#attempts,
      events: this.clock.eventCount,
      trace: this.trace,
    };
  }

  #stage = 'the guest starts';

  async #whole(): Promise<void> {
    await this.#guest?.start();
    this.#workload.start();
    await this.clock.delay(WARM_UP_MS);
    for (const fault of this.scenario.faults) {
      if ('ms' in fault.when) this.clock.setTimer(() => this.#happen(fault), fault.when.ms);
    }
    this.#stage = 'the move';
    this.#result = await this.#move();
    this.note(`result: ${this.#result}`);
    this.#faultsAreOver = true;
    this.network.heal();
    this.#stage = 'the guest goes on';
    await this.#goOn();
    this.#stage = 'the checks';
    // what ends with connections has ended
    await this.clock.delay(200);
    this.#checkEnd(this.#result);
  }

  async #move(): Promise<Result> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      this.#attempts++;
      if (attempt >= ATTEMPTS_UNTIL_HEALED) {
        this.#faultsAreOver = true;
        this.network.heal();
      }
      const how = attempt === 0 ? 'start' : (this.scenario.operator[attempt - 1] ?? 'resume');
      // nothing was begun
      if (attempt > 0 && this.#journal.length === 0) return 'as-before';
      const result = await this.#attempt(how);
      if (result !== undefined) return result;
      await this.clock.delay(BETWEEN_ATTEMPTS_MS);
    }
    throw new Violation(`Neither moved nor as before after ${ATTEMPTS_MAX} attempts`);
  }

  async #attempt(how: 'start' | 'resume' | 'abort'): Promise<Result | undefined> {
    this.note(`orchestrator: ${how}`);
    const process = new Orchestrator(this.clock, this.network, {
      before: (name) => this.#before(name),
      after: (name) => this.#after(name),
    });
    this.#process = process;
    const { front } = this;
    const tools: Tools = {
      source: new SimEnd(new SimLink(process, this.source)),
      destination: new SimEnd(new SimLink(process, this.destination)),
      front: front === undefined ? undefined : new SimFrontEnd(process, front),
      memory: front === undefined || !this.scenario.movesMemory ? undefined : new SimMover(process, front),
      journal: new SimJournal(process, this.clock, this.#journal, (entry) => this.#noted(entry)),
      clock: process.clock,
      scenario: this.scenario,
    };
    const killed = new Promise<undefined>((resolve) => {
      this.#onKill = () => resolve(undefined);
    });
    try {
      const result = await Promise.race([this.#drive(how, tools), killed]);
      if (result !== undefined) this.note(`orchestrator: ${result}`);
      else this.note('orchestrator: killed');
      return result;
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error;
      this.note(`orchestrator: ${error.code} ${error.message}`);
      return undefined;
    } finally {
      process.kill();
    }
  }

  async #goOn(): Promise<void> {
    const enough = this.#workload.completed + OPERATIONS_AFTERWARDS;
    while (this.#workload.completed < enough) await this.clock.delay(1);
    this.#workload.stop();
    while (this.#workload.running > 0) await this.clock.delay(1);
  }

  // ---- what must hold at the end --------------------------------------------------------------------------------------------------

  #checkEnd(result: Result): void {
    const must = (holds: boolean, what: string): void => {
      if (!holds) throw new Violation(`After the end (${result}): ${what}`);
    };
    const isMoved = result === 'moved';
    must(isMoved === this.#isCommitted, `the journal ${this.#isCommitted ? 'has' : 'has not'} committed`);
    const serving = isMoved ? this.destination : this.source;
    for (const [nsid, namespace] of serving.namespaces) {
      const other = (isMoved ? this.source : this.destination).namespaces.get(nsid)!;
      must(namespace.fence.isOpen, `namespace ${nsid} is closed at the ${serving.name}`);
      must(namespace.storedFence.isOpen, `namespace ${nsid} will be closed after a restart of the ${serving.name}`);
      if (isMoved)
        must(!other.fence.isOpen && !other.storedFence.isOpen, `namespace ${nsid} is open at the source as well`);
      else if (!this.scenario.destinationWasOpen)
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
      this.#oracles[nsid - 1]!.check(namespace.disk.values());
    }
    must(this.source.peers.size === 0 || isMoved, 'discovery of the source names the destination');
    this.#checkDevice(must, isMoved ? 'destination' : 'source');
  }

  #checkDevice(must: (holds: boolean, what: string) => void, party: Party): void {
    const { front } = this;
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

/** All parties of one run, what goes wrong with them, and what must hold all the time and at the end. */
import type { JournalEntry, MoveJournal } from '../../src/orchestrator/journal.ts';
import type { Clock } from '../../src/util/clock.ts';
import { NvmeofError } from '../../src/util/error.ts';
import type { Random } from '../support/random.ts';
import type { Coverage } from './coverage.ts';
import { Oracle } from './oracle.ts';
import { Orchestrator } from './orchestrator-process.ts';
import { type Fault, type Party, type Phase, randomOf, type Scenario } from './scenario.ts';
import { type Ended, SimClock } from './sim-clock.ts';
import { SimJournal } from './sim-journal.ts';
import type { Ends, Stage, StageEvents } from './stage.ts';
import { Violation } from './violation.ts';
import { watched } from './watchdog.ts';
import { Workload } from './workload.ts';

/** What an orchestrator has in its hands. */
export interface Tools extends Ends {
  readonly journal: MoveJournal;
  readonly clock: Clock;
  readonly scenario: Scenario;
}

export type Result = 'moved' | 'as-before';
/** Runs the engine. Rejects with an NvmeofError where it leaves work behind. */
export type Drive = (how: 'start' | 'resume' | 'abort', tools: Tools) => Promise<Result>;

/** Sets a stage. */
export type MakeStage = (scenario: Scenario, clock: SimClock, random: Random, events: StageEvents) => Stage;

export const PEER = { address: '192.0.2.2', service: 4420 } as const;

const JOURNAL = 'journal: ';
const WHY: Readonly<Record<Ended, string>> = {
  done: 'it has',
  late: 'its time is over',
  idle: 'nothing will happen any more',
  restless: 'events without end',
};
const list = (things: readonly string[]): string => (things.length === 0 ? 'nothing' : things.join(', '));

/** What is sent has left by then, and no answer has come. */
const UNDER_WAY_MS = 0.02;
const WARM_UP_MS = 8;
const ATTEMPTS_MAX = 12;
/** From then on nothing goes wrong any more. */
const ATTEMPTS_UNTIL_HEALED = 5;
const BETWEEN_ATTEMPTS_MS = 30;
const OPERATIONS_AFTERWARDS = 25;

export interface RunResult {
  readonly violation: Violation | undefined;
  readonly result: Result | undefined;
  /** Steps of all orchestrators. */
  readonly steps: number;
  readonly attempts: number;
  readonly events: number;
  readonly trace: readonly string[];
  readonly digest: number;
}

export class World implements StageEvents {
  readonly scenario: Scenario;
  readonly clock = new SimClock();
  readonly random: Random;
  readonly #stage: Stage;
  readonly #workload: Workload;
  readonly #oracles: readonly Oracle[];
  readonly #journal: string[] = [];
  readonly #drive: Drive;
  #process: Orchestrator | undefined;
  #onKill: (() => void) | undefined;
  #steps = 0;
  #attempts = 0;
  /** The entry of the journal that was begun last ("suspend begun"), and steps since. */
  #entry = '';
  #sinceEntry = 0;
  readonly #happened = new Set<Fault>();
  readonly #coverage: Coverage | undefined;
  #journalFault: Extract<Fault, { kind: 'journal' }> | undefined;
  #isCommitted = false;
  /** Sizes, before the last copy: whoever changes them later may not be noticed. */
  #differed = false;
  #faultsAreOver = false;
  /** A process has ended, or a host has lost a path: commands may be repeated. */
  #mayRepeat = false;
  readonly #executed = new Map<number, number>();
  #violation: Violation | undefined;
  #result: Result | undefined;
  readonly trace: string[] = [];

  /** @param coverage is told of what happens when */
  constructor(scenario: Scenario, drive: Drive, makeStage: MakeStage, coverage?: Coverage) {
    this.scenario = scenario;
    this.#drive = drive;
    this.#coverage = coverage;
    this.random = randomOf(scenario.seed ^ 0x5eed);
    this.#oracles = scenario.modes.map((_, i) => new Oracle(`namespace ${i + 1}`, scenario.blockCount));
    this.#stage = makeStage(scenario, this.clock, this.random, this);
    this.#workload = new Workload({
      clock: this.clock,
      random: this.random,
      oracles: this.#oracles,
      depth: scenario.depth,
      thinkMs: scenario.thinkMs,
      submit: (command) => this.#stage.submit(command),
      failed: (error) => this.failed(error),
    });
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

  // ---- what must hold all the time ------------------------------------------------------------------------------------------------

  executes(party: Party, what: string, id: number | undefined): void {
    if (id !== undefined) {
      this.#workload.executed(id);
      const times = (this.#executed.get(id) ?? 0) + 1;
      this.#executed.set(id, times);
      if (times > 1 && !this.#mayRepeat) this.failed(new Violation(`Executed twice: ${what}`));
    }
    if (this.#isCommitted && party === 'source') {
      this.failed(new Violation(`Executed at the source after the commit: ${what}`));
    } else if (!this.#isCommitted && party === 'destination') {
      this.failed(new Violation(`Executed at the destination before the commit: ${what}`));
    }
  }

  resets(): void {
    this.note('the guest resets its controller');
    if (!this.#mayRepeat) this.failed(new Violation('The guest finds its controller without state'));
  }

  #noted(entry: JournalEntry): void {
    this.note(`durable: ${entry.step} ${entry.state}`);
    if (entry.step === 'last-copy' && entry.state === 'begun') this.#differed = this.#stage.sizesDiffer;
    if (entry.step !== 'commit' || entry.state === 'undone' || this.#isCommitted) return;
    if (this.#differed)
      this.failed(new Violation('Committed, although a namespace has another size at the destination'));
    this.#isCommitted = true;
    for (const oracle of this.#oracles) oracle.madeDurable();
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------------------

  #stepFaults(phase: Phase, step: number): void {
    const entry = this.#entries.get(step)!;
    for (const fault of this.scenario.faults) {
      const { when } = fault;
      if (!('phase' in when) || when.phase !== phase) continue;
      const isNow = 'step' in when ? when.step === step : when.entry === entry.name && when.plus === entry.since;
      if (isNow) this.#happen(fault, entry.name);
    }
  }

  /** Of steps under way: the entry that each belongs to. */
  readonly #entries = new Map<number, { readonly name: string; readonly since: number }>();

  #before(name: string): number {
    const step = ++this.#steps;
    if (name.startsWith(JOURNAL)) {
      this.#entry = name.slice(JOURNAL.length);
      this.#sinceEntry = 0;
    } else {
      this.#sinceEntry++;
    }
    this.#entries.set(step, { name: this.#entry, since: this.#sinceEntry });
    this.note(`step ${step}: ${name}`);
    this.#stepFaults('before', step);
    if (name.startsWith(JOURNAL) && this.#journalFault?.isDurable === false) this.#failJournal();
    return step;
  }

  #after(name: string, step: number): void {
    const answer = this.#stage.answers(name);
    this.#stepFaults('after', step);
    this.#entries.delete(step);
    if (name.startsWith(JOURNAL) && this.#journalFault?.isDurable === true) this.#failJournal();
    answer();
  }

  #failJournal(): never {
    this.#journalFault = undefined;
    throw new NvmeofError('NVMEOF_ERR_JOURNAL', 'The journal cannot be written');
  }

  /** Each once. What depends on it comes later. @param entry of the step that it meets: several may be under way */
  #happen(fault: Fault, entry = this.#entry): void {
    if (this.#faultsAreOver || this.#happened.has(fault)) return;
    this.#happened.add(fault);
    this.note(`FAULT ${JSON.stringify(fault)}`);
    const next = this.scenario.faults[this.scenario.faults.indexOf(fault) + 1];
    if (next !== undefined && 'laterMs' in next.when) {
      this.clock.setTimer(() => this.#happen(next), next.when.laterMs);
    }
    if (this.#cause(fault)) this.#coverage?.add(this.scenario, entry, fault);
  }

  /** @returns false: there is nothing to which it could happen */
  #cause(fault: Fault): boolean {
    switch (fault.kind) {
      case 'crash':
        return fault.who === 'orchestrator' ? this.#kill() : this.#crash(fault.who, fault.downMs);
      case 'crash-front':
        if (!this.#stage.crashFront()) return false;
        this.#mayRepeat = true;
        return true;
      case 'cut':
        // before a step: its request is on the way by then
        return this.#stage.cut(fault.who, fault.ms, 'phase' in fault.when && fault.when.phase === 'before');
      case 'cut-hosts':
        if (!this.#stage.cutHosts(fault.who, fault.ms)) return false;
        this.#mayRepeat = true;
        return true;
      case 'stall':
        this.#stage.stall(fault.who, fault.ms);
        return true;
      case 'late':
        this.#stage.stall(fault.who, fault.ms);
        this.clock.setTimer(() => this.#kill(), UNDER_WAY_MS);
        return true;
      case 'bad-block':
        this.#stage.badBlock(fault.block, fault.ms);
        return true;
      case 'resize':
        return this.#stage.resize(fault.who);
      case 'journal':
        this.#journalFault = fault;
        return true;
    }
  }

  #kill(): boolean {
    if (this.#process === undefined || this.#process.isDead) return false;
    this.#process.kill();
    this.#onKill?.();
    return true;
  }

  #crash(party: Party, downMs: number): boolean {
    this.#mayRepeat = true;
    if (!this.#stage.crash(party, downMs)) return false;
    const serves = (party === 'destination') === this.#isCommitted;
    this.scenario.modes.forEach((mode, i) => {
      if (serves && mode === 'copied') this.#oracles[i]!.crashed();
    });
    return true;
  }

  // ---- the run --------------------------------------------------------------------------------------------------------------------

  async run(): Promise<RunResult> {
    const whole = this.#whole().catch((error) => this.failed(error));
    let isOver = false;
    void whole.then(() => {
      isOver = true;
    });
    const isDone = (): boolean => isOver || this.#violation !== undefined;
    const ended = await watched(() => this.clock.run(isDone, this.#stage.limitMs));
    if (ended !== 'done') this.failed(new Violation(`It does not come to an end: ${this.#waiting(ended)}`));
    this.#process?.kill();
    return {
      violation: this.#violation,
      result: this.#result,
      steps: this.#steps,
      attempts: this.#attempts,
      events: this.clock.eventCount,
      trace: this.trace,
      digest: this.#stage.digest,
    };
  }

  #scene = 'the guest starts';

  /** What waits for what, where nothing comes any more. */
  #waiting(ended: Ended): string {
    const steps = [...(this.#process?.waiting.values() ?? [])];
    return [
      `${this.#scene} (${WHY[ended]}, after ${this.clock.eventCount} events, at ${this.clock.nowMs().toFixed(2)} ms)`,
      `the orchestrator${this.#process?.isDead === true ? ' is dead; it had' : ' has'} under way: ${list(steps)}`,
      `hosts wait for: ${list(this.#workload.waiting)}`,
      `timers: ${this.clock.picture}`,
    ].join('\n');
  }

  async #whole(): Promise<void> {
    await this.#stage.start();
    this.#workload.start();
    await this.clock.delay(WARM_UP_MS);
    for (const fault of this.scenario.faults) {
      if ('ms' in fault.when) this.clock.setTimer(() => this.#happen(fault), fault.when.ms);
    }
    this.#scene = 'the move';
    this.#result = await this.#move();
    this.note(`result: ${this.#result}`);
    this.#faultsAreOver = true;
    this.#stage.heal();
    this.#stage.restartFront(this.#result === 'moved');
    this.#scene = 'the guest goes on';
    await this.#goOn();
    this.#scene = 'the checks';
    // what ends with connections has ended
    await this.clock.delay(this.#stage.settleMs);
    await this.#checkEnd(this.#result);
  }

  async #move(): Promise<Result> {
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      this.#attempts++;
      if (attempt >= ATTEMPTS_UNTIL_HEALED) {
        this.#faultsAreOver = true;
        this.#stage.heal();
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
    const process = new Orchestrator(this.clock, {
      before: (name) => this.#before(name),
      after: (name, step) => this.#after(name, step),
    });
    this.#process = process;
    const tools: Tools = {
      ...this.#stage.connect(process),
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

  async #checkEnd(result: Result): Promise<void> {
    const must = (holds: boolean, what: string): void => {
      if (!holds) throw new Violation(`After the end (${result}): ${what}`);
    };
    const isMoved = result === 'moved';
    must(isMoved === this.#isCommitted, `the journal ${this.#isCommitted ? 'has' : 'has not'} committed`);
    const { whenStuck } = this.scenario;
    must(isMoved || this.#happened.size > 0 || whenStuck !== 'cut', 'nothing went wrong, and it is not moved');
    await this.#stage.check(isMoved, must);
    this.#oracles.forEach((oracle, i) => {
      oracle.check(this.#stage.values(i + 1, isMoved).slice(0, this.scenario.blockCount));
    });
  }
}

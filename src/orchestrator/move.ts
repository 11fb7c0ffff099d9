/**
 * A move from one end to the other: the steps of docs/moving.md, each written down before it is taken. Before the commit every failure takes all of
 * them back; from the commit on they are taken until they succeed. Another process goes on with the journal: `abort` or `resume`.
 */
import { assert } from '../util/assert.ts';
import { NvmeofError } from '../util/error.ts';
import type { FenceState } from './end.ts';
import type { JournalEntry } from './journal.ts';
import { all, isSuperseded, MoveError, type MoveErrorCode, type MoveOutcome, messageOf } from './move-error.ts';
import { failureOf } from './move-failure.ts';
import type { MoveOptions } from './move-options.ts';
import type { MoveReport, StepTime, UndoneStep } from './move-report.ts';
import type { MovePlan, MoveRecord, PlannedNamespace } from './move-spec.ts';
import { type MoveStatus, moveStatus } from './move-status.ts';
import { MoveWork, patienceMsOf, retryMsOf } from './move-work.ts';
import { makePlan } from './plan.ts';
import {
  AFTER_COMMIT,
  BEFORE_COMMIT,
  COMMIT_ENTRY,
  MOVE_ENTRY,
  PLAN_ENTRY,
  ROLLBACK_ENTRY,
  type Step,
  type StepDeps,
  stepsOf,
} from './steps.ts';
import { type Left, undoSteps } from './undo.ts';

const BLACKOUT_BUDGET_MS = 300;
const BLACKOUT_LIMIT_MS = 15_000;
const BUDGETS_IN_LIMIT = 10;

export class Move {
  readonly #options: MoveOptions;
  readonly #report: MoveReport;
  readonly #startMs: number;
  #work: MoveWork | undefined;
  #plan: MovePlan | undefined;
  #isRunning = false;
  /** Since when hosts, or the guest, wait. */
  #pausedAtMs: number | undefined;
  readonly #late = new AbortController();
  /** Before the commit: the operator has had enough, or the pause takes too long. */
  readonly #signal: AbortSignal;

  constructor(options: MoveOptions) {
    this.#options = options;
    const { source, destination, tuning, clock, signal } = options;
    this.#signal = signal === undefined ? this.#late.signal : AbortSignal.any([signal, this.#late.signal]);
    this.#startMs = clock.nowMs();
    this.#report = {
      outcome: 'under-way',
      source: source.name,
      destination: destination.name,
      record: undefined,
      failure: undefined,
      undone: [],
      steps: [],
      rounds: [],
      namespaces: [],
      memory: undefined,
      queueOverflows: 0,
      restarts: 0,
      throttledTo: undefined,
      verification: tuning?.verification ?? 'none',
      blackoutBudgetMs: tuning?.blackoutBudgetMs ?? BLACKOUT_BUDGET_MS,
      blackoutForecastMs: undefined,
      blackoutMs: undefined,
      totalMs: 0,
      warnings: [],
    };
  }

  /** As far as it has come; complete once `run`, `abort` or `resume` has settled. */
  get report(): MoveReport {
    this.#work?.noteFigures();
    if (this.#report.outcome === 'under-way') this.#report.totalMs = this.#options.clock.nowMs() - this.#startMs;
    return this.#report;
  }

  /** Where the journal says it stands. */
  get status(): MoveStatus {
    return moveStatus(this.#options.journal.entries);
  }

  /** Looks at both ends, and touches nothing. */
  async plan(): Promise<MovePlan> {
    const { spec, onEvent } = this.#options;
    if (spec === undefined) throw stateError('Nothing is named that should move');
    const plan = await makePlan(this.#options, spec, this.#report.blackoutBudgetMs);
    this.#plan = plan;
    this.#report.record = plan.record;
    onEvent?.({ event: 'plan', plan });
    return plan;
  }

  async #tryPlan(): Promise<MovePlan> {
    try {
      return await this.plan();
    } catch (cause) {
      if (cause instanceof MoveError) throw cause;
      const isAborted = this.#options.signal?.aborted === true;
      const code = isAborted ? 'NVMEOF_ERR_ABORTED' : 'NVMEOF_ERR_MOVE_FAILED';
      throw new MoveError(code, `The plan failed: ${messageOf(cause)}; nothing was touched`, 'as-before', { cause });
    }
  }

  /**
   * All of it, with the plan that `plan` has made, or a new one. The journal is empty.
   * @throws MoveError; its `outcome` says where that leaves things
   */
  run(): Promise<MoveReport> {
    return this.#once(async () => {
      const { journal, signal } = this.#options;
      if (this.status.phase !== 'none')
        throw stateError('The journal has a move already: abort or resume it, or take another');
      const plan = this.#plan ?? (await this.#tryPlan());
      if (plan.refusals.length > 0) {
        const message = plan.refusals.map((refusal) => refusal.message).join('\n');
        throw new MoveError('NVMEOF_ERR_MOVE_REFUSED', message, 'as-before');
      }
      if (signal?.aborted === true) throw new MoveError('NVMEOF_ERR_ABORTED', messageOf(signal.reason), 'as-before');
      for (const { message } of plan.warnings) this.#report.warnings.push(message);
      const work = this.#begin(plan.record, plan.switchMs);
      await this.#asPlanned(work);
      await journal.note({ step: PLAN_ENTRY, state: 'done', detail: plan.record });
      try {
        for (const step of stepsOf(BEFORE_COMMIT, plan.record)) {
          this.#signal.throwIfAborted();
          await this.#take(step, work);
        }
        this.#signal.throwIfAborted();
        await this.#guard(work);
        this.#signal.throwIfAborted();
      } catch (error) {
        await this.#failed(work, error);
      }
      await this.#commit();
      await this.#forward(work);
    });
  }

  /** Undoes a move that another process has begun. @throws MoveError NVMEOF_ERR_MOVE_STATE after its commit */
  abort(): Promise<MoveReport> {
    return this.#once(async () => {
      const { phase, record } = this.status;
      if (phase === 'committed' || phase === 'moved') {
        throw stateError('The move is committed: what was written at the destination since would be lost; resume it');
      }
      if (phase === 'none' || record === undefined) throw stateError('The journal is empty: there is nothing to abort');
      if (phase === 'as-before') {
        this.#report.failure = this.status.failure;
        this.#end('as-before');
      } else await this.#rollBackOther(record);
    });
  }

  /**
   * Goes on with a move that another process has begun: to its end after the commit; before it, back, because what was followed has ended with that
   * process. The report says which.
   */
  resume(): Promise<MoveReport> {
    return this.#once(async () => {
      const { phase, record } = this.status;
      if (phase === 'none' || record === undefined)
        throw stateError('The journal is empty: there is nothing to resume');
      if (phase === 'moved' || phase === 'as-before') {
        this.#report.failure = this.status.failure;
        this.#end(phase);
      } else if (phase === 'committed') await this.#forward(this.#begin(record, 0));
      else await this.#rollBackOther(record);
    });
  }

  async #once(act: () => Promise<void>): Promise<MoveReport> {
    assert(!this.#isRunning, 'A move runs once');
    this.#isRunning = true;
    this.#waitUntil(undefined);
    try {
      await act();
    } catch (error) {
      if (error instanceof MoveError) this.#report.failure ??= failureOf(this.#step, error.code, error);
      throw error;
    }
    return this.report;
  }

  /** Both ends fail what is not answered by then. */
  #waitUntil(atMs: number | undefined): void {
    const { source, destination } = this.#options;
    for (const end of [source, destination]) end.waitUntil?.(atMs === Number.POSITIVE_INFINITY ? undefined : atMs);
  }

  #begin(record: MoveRecord, switchMs: number): MoveWork {
    this.#report.record = record;
    const work = new MoveWork(this.#options, record, this.#report, switchMs);
    work.startMs = this.#startMs;
    this.#work = work;
    return work;
  }

  // ---- steps ---------------------------------------------------------------------------------------------------------------------

  #deps(work: MoveWork): StepDeps {
    return { work, entries: this.#options.journal.entries, signal: this.#signal };
  }

  async #take(step: Step, work: MoveWork): Promise<void> {
    const { journal, onEvent } = this.#options;
    if (step.pauses === true) this.#pause(work);
    await journal.note({ step: step.name, state: 'begun' });
    onEvent?.({ event: 'step', step: step.name, state: 'begun' });
    const time: StepTime = { step: step.name, startMs: work.nowMs, durationMs: 0 };
    this.#report.steps.push(time);
    try {
      const detail = await step.take(this.#deps(work));
      const done: JournalEntry = { step: step.name, state: 'done' };
      await journal.note(detail === undefined ? done : { ...done, detail });
    } finally {
      time.durationMs = work.nowMs - time.startMs;
    }
    onEvent?.({ event: 'step', step: step.name, state: 'done' });
  }

  #pause(work: MoveWork): void {
    if (this.#pausedAtMs !== undefined) return;
    const { clock, tuning } = this.#options;
    this.#pausedAtMs = clock.nowMs();
    work.liftRate();
    this.#report.blackoutForecastMs = work.preCopy?.blackoutMs ?? work.switchMs;
    const budgetMs = this.#report.blackoutBudgetMs;
    const limitMs = tuning?.blackoutLimitMs ?? Math.max(BLACKOUT_LIMIT_MS, BUDGETS_IN_LIMIT * budgetMs);
    if (limitMs === Number.POSITIVE_INFINITY) return;
    const message = `The pause has lasted ${limitMs} ms, longer than any that was planned: see what made the last copy slow`;
    const late = new MoveError('NVMEOF_ERR_MOVE_BUDGET', message, 'as-before');
    const timer = clock.setTimer(() => this.#late.abort(late), limitMs);
    this.#waitUntil(this.#pausedAtMs + limitMs);
    this.#late.signal.addEventListener('abort', () => timer.cancel(), { once: true });
    this.#limit = timer;
  }

  #limit: { cancel(): void } | undefined;

  #goesOn(): void {
    this.#limit?.cancel();
    if (this.#pausedAtMs === undefined) return;
    this.#report.blackoutMs = this.#options.clock.nowMs() - this.#pausedAtMs;
    this.#pausedAtMs = undefined;
  }

  /**
   * Last look before the commit: an end that forgets its fence when it restarts may have done so. A source that is gone and does not forget stays
   * closed, and everything of it is copied: the move goes on.
   */
  async #guard(work: MoveWork): Promise<void> {
    await all([...(await work.atDestination())], async ({ planned, namespace }) =>
      this.#stillClosed(work, planned, await namespace.fence()),
    );
    await all([...(await work.atSource())], async ({ planned, namespace }) => {
      let fence: FenceState | undefined;
      try {
        fence = await namespace.fence();
      } catch (error) {
        if (!planned.sourceIsDurable) throw error;
        work.warn(`${this.#options.source.name} does not answer any more: ${messageOf(error)}`);
        return;
      }
      this.#stillClosed(work, planned, fence);
    });
  }

  /** An operator may look at a plan for long: who has moved something meanwhile would see it overwritten. Nothing was touched yet. */
  async #asPlanned(work: MoveWork): Promise<void> {
    try {
      await all([...(await work.pairs())], async ({ planned, source, destination }) => {
        const [ours, theirs] = await Promise.all([source.fence(), destination.fence()]);
        const isSame =
          ours?.isOpen === true &&
          (theirs?.isOpen === true) === planned.destinationWasOpen &&
          String(ours.epoch) === planned.found.source &&
          String(theirs?.epoch ?? 0n) === planned.found.destination;
        if (isSame) return;
        const message = `The fence of namespace ${planned.nsid} has changed since the plan: another move has begun; plan again when it is over`;
        throw new MoveError('NVMEOF_ERR_MOVE_SUPERSEDED', message, 'as-before');
      });
    } catch (cause) {
      if (cause instanceof MoveError) throw cause;
      const message = `An end could not be looked at again: ${messageOf(cause)}; nothing was touched`;
      throw new MoveError('NVMEOF_ERR_MOVE_FAILED', message, 'as-before', { cause });
    }
  }

  #stillClosed(work: MoveWork, { nsid }: PlannedNamespace, fence: FenceState | undefined): void {
    if (fence !== undefined && !fence.isOpen && fence.epoch === work.epoch) return;
    const found = fence === undefined ? 'gone' : `${fence.isOpen ? 'open' : 'closed'} in epoch ${fence.epoch}`;
    const message = `The fence of namespace ${nsid} is ${found}, not closed in epoch ${work.epoch}: an end was restarted`;
    throw new MoveError('NVMEOF_ERR_MOVE_FAILED', `${message}, or another move is under way`, 'as-before');
  }

  // ---- forward -------------------------------------------------------------------------------------------------------------------

  async #commit(): Promise<void> {
    this.#limit?.cancel();
    this.#waitUntil(undefined);
    try {
      await this.#options.journal.note({ step: COMMIT_ENTRY, state: 'done' });
    } catch (error) {
      const message = `The commit may be in the journal, or not (${messageOf(error)}): resume the move, it goes by what is there`;
      throw new MoveError('NVMEOF_ERR_MOVE_FAILED', message, 'undecided', { cause: error });
    }
    this.#options.onEvent?.({ event: 'step', step: COMMIT_ENTRY, state: 'done' });
  }

  async #forward(work: MoveWork): Promise<void> {
    const steps = stepsOf(AFTER_COMMIT, work.record);
    const isDone = new Set(this.status.done);
    for (const step of steps) {
      if (isDone.has(step.name)) continue;
      const goOnAfter = work.record.spec.kind === 'controller' ? 'release' : 'open-destination';
      await this.#until('moved-unfinished', step.name, () => this.#take(step, work));
      if (step.name === goOnAfter) this.#goesOn();
    }
    await this.#until('moved-unfinished', MOVE_ENTRY, () =>
      this.#options.journal.note({ step: MOVE_ENTRY, state: 'done' }),
    );
    this.#end('moved');
  }

  /** Again and again, with patience. */
  async #until(outcome: MoveOutcome, name: string, act: () => Promise<void>): Promise<void> {
    const { clock, tuning, onEvent } = this.#options;
    const deadlineMs = clock.nowMs() + patienceMsOf(tuning);
    this.#waitUntil(deadlineMs);
    for (;;) {
      try {
        await act();
        this.#waitUntil(undefined);
        return;
      } catch (error) {
        if (isSuperseded(error)) {
          const message = `A newer move has taken over (${messageOf(error)}): nothing more can be done here`;
          throw new MoveError('NVMEOF_ERR_MOVE_SUPERSEDED', message, outcome, { cause: error });
        }
        if (error instanceof MoveError && error.code === 'NVMEOF_ERR_MOVE_STATE') throw error;
        if (clock.nowMs() >= deadlineMs) {
          const message = `The move is committed, but step ${name} does not succeed (${messageOf(error)}): ${KEPT}, resume it when that is mended`;
          throw new MoveError('NVMEOF_ERR_MOVE_FAILED', message, outcome, { cause: error });
        }
        onEvent?.({ event: 'retry', step: name, message: messageOf(error) });
        await this.#work!.wait(retryMsOf(tuning));
      }
    }
  }

  // ---- back ----------------------------------------------------------------------------------------------------------------------

  /** Rolls back, and says what for. @throws MoveError always */
  async #failed(work: MoveWork, error: unknown): Promise<never> {
    const isAborted = this.#options.signal?.aborted === true;
    const code: MoveErrorCode = isAborted
      ? 'NVMEOF_ERR_ABORTED'
      : error instanceof MoveError
        ? (error.code as MoveErrorCode)
        : isSuperseded(error)
          ? 'NVMEOF_ERR_MOVE_SUPERSEDED'
          : 'NVMEOF_ERR_MOVE_FAILED';
    const what = error instanceof MoveError ? error.message : `Step ${this.#step} failed: ${messageOf(error)}`;
    this.#report.failure = failureOf(this.#step, code, error, what);
    await this.#rollBack(work, what);
    throw new MoveError(code, `${what}; everything is as before`, 'as-before', { cause: error });
  }

  /** The step under way, or the last one. */
  get #step(): string {
    return this.#report.steps.at(-1)?.step ?? PLAN_ENTRY;
  }

  /** Of a move that another process has begun. */
  async #rollBackOther(record: MoveRecord): Promise<void> {
    this.#report.failure = this.status.failure;
    await this.#rollBack(this.#begin(record, 0));
  }

  async #rollBack(work: MoveWork, reason?: string): Promise<void> {
    const { clock, tuning, journal } = this.#options;
    const { failure } = this.#report;
    this.#limit?.cancel();
    const detail = failure && {
      reason: failure.message,
      step: failure.step,
      code: failure.code,
      causes: failure.causes,
    };
    await this.#tryNote({ step: ROLLBACK_ENTRY, state: 'begun', ...(detail === undefined ? {} : { detail }) });
    const deadlineMs = clock.nowMs() + patienceMsOf(tuning);
    this.#waitUntil(deadlineMs);
    const has = (name: string, state: JournalEntry['state']): boolean =>
      journal.entries.some((entry) => entry.step === name && entry.state === state);
    // a step whose note failed may be in the journal, and may not: this process knows what it has begun
    const begun = new Set(this.#report.steps.map(({ step }) => step));
    const steps = stepsOf(BEFORE_COMMIT, work.record)
      .filter(({ name }) => (has(name, 'begun') || begun.has(name)) && !has(name, 'undone'))
      .reverse();
    const left = await undoSteps({
      ...{ steps, clock, deadlineMs, retryMs: retryMsOf(tuning) },
      undo: (step) => this.#undo(step, work),
      onUrgentDone: () => this.#goesOn(),
    });
    for (const { step } of left) this.#undone(step).state = 'left';
    if (left.length > 0) throw unfinished(left, reason);
    this.#waitUntil(undefined);
    await this.#tryNote({ step: MOVE_ENTRY, state: 'undone' });
    this.#end('as-before');
  }

  /** Its line of the report. */
  #undone({ name, undoneAt }: Step): UndoneStep {
    const known = this.#report.undone.find(({ step }) => step === name);
    if (known !== undefined) return known;
    const line: UndoneStep = { step: name, end: undoneAt, state: 'left', said: [] };
    this.#report.undone.push(line);
    return line;
  }

  /** @throws if it has to be tried again */
  async #undo(step: Step, work: MoveWork): Promise<void> {
    const { onEvent } = this.#options;
    const line = this.#undone(step);
    try {
      await step.undo?.(this.#deps(work));
    } catch (error) {
      if (!line.said.includes(messageOf(error))) line.said.push(messageOf(error));
      if (step.undoing !== 'once') {
        onEvent?.({ event: 'retry', step: step.name, message: messageOf(error) });
        throw error;
      }
      work.warn(`Step ${step.name} could not be undone and ends with the connection: ${messageOf(error)}`);
    }
    line.state = 'undone';
    await this.#tryNote({ step: step.name, state: 'undone' });
    onEvent?.({ event: 'step', step: step.name, state: 'undone' });
  }

  /** Undoing does not depend on its record: who reads an older one undoes it again. */
  async #tryNote(entry: JournalEntry): Promise<void> {
    try {
      await this.#options.journal.note(entry);
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error;
      this.#report.warnings.push(messageOf(error));
    }
  }

  #end(outcome: 'moved' | 'as-before'): void {
    this.#report.outcome = outcome;
    this.#report.totalMs = this.#options.clock.nowMs() - this.#startMs;
  }
}

/** Of a move that is not over. */
const KEPT = 'the journal is kept';

function unfinished(left: readonly Left[], reason: string | undefined): MoveError {
  const said = reason === undefined ? '' : `${reason}; `;
  const names = left.map(({ step }) => step.name).join(', ');
  // one for each end at most, in the order of its steps
  const errors = [...new Set(left.flatMap(({ error }) => (error === undefined ? [] : [messageOf(error)])))];
  const why = errors.length === 0 ? 'there was no time' : errors.join('; ');
  const message = `${said}not undone yet: ${names} (${why}): ${KEPT}, abort the move again when that is mended`;
  const cause = left.find(({ error }) => error !== undefined)?.error;
  return new MoveError('NVMEOF_ERR_MOVE_FAILED', message, 'unfinished', { cause });
}

function stateError(message: string): MoveError {
  return new MoveError('NVMEOF_ERR_MOVE_STATE', message, 'undecided');
}

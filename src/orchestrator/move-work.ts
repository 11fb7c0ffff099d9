/** What the steps of a move work on: the ends' namespaces, what is copied, and the figures of the report. */
import { assert } from '../util/assert.ts';
import type { Timer } from '../util/clock.ts';
import { OutcomeUnknownError, TransportError } from '../util/error.ts';
import { BlockCopier } from './block-copier.ts';
import { BlockStream } from './block-stream.ts';
import type { End, EndController, EndNamespace, FollowedByQueue } from './end.ts';
import { followed } from './followed.ts';
import { MemoryStream } from './memory-stream.ts';
import { all, MoveError, messageOf } from './move-error.ts';
import type { MoveOptions } from './move-options.ts';
import type { MoveReport } from './move-report.ts';
import type { MoveRecord, MoveTuning, PlannedNamespace } from './move-spec.ts';
import { hasData } from './plan.ts';
import { PreCopy, type Stuck, type StuckAnswer } from './pre-copy.ts';
import { RateLimit } from './rate-limit.ts';

const IN_FLIGHT_BYTES = 32 << 20;
const IN_FLIGHT_BYTES_MIN = 2 << 20;
/** Hosts are not held to less than this. */
const THROTTLE_BYTES_MIN = 64 << 10;
const RESTARTS_MAX = 2;
const RETRY_MS = 500;
const PATIENCE_MS = 60_000;

export const retryMsOf = (tuning: MoveTuning | undefined): number => tuning?.retryMs ?? RETRY_MS;
export const patienceMsOf = (tuning: MoveTuning | undefined): number => tuning?.patienceMs ?? PATIENCE_MS;

interface CopiedNamespace {
  readonly planned: PlannedNamespace;
  readonly stream: BlockStream;
  readonly copier: BlockCopier;
}

/** A namespace of the move, at both ends. */
export interface NamespacePair {
  readonly planned: PlannedNamespace;
  readonly source: EndNamespace;
  readonly destination: EndNamespace;
}

export class MoveWork {
  readonly options: MoveOptions;
  readonly record: MoveRecord;
  readonly report: MoveReport;
  readonly switchMs: number;
  readonly #ends = new Map<End, readonly EndNamespace[]>();
  readonly #rate: RateLimit;
  #copied: readonly CopiedNamespace[] = [];
  #followed: FollowedByQueue | undefined;
  /** Of those that are not followed any more. */
  #overflowsBefore = 0;
  #memory: MemoryStream | undefined;
  #preCopy: PreCopy | undefined;
  #throttle: number | undefined;

  constructor(options: MoveOptions, record: MoveRecord, report: MoveReport, switchMs: number) {
    this.options = options;
    this.record = record;
    this.report = report;
    this.switchMs = switchMs;
    this.#rate = new RateLimit(options.clock, options.tuning?.bytesPerSecond);
  }

  get tuning(): MoveTuning {
    return this.options.tuning ?? {};
  }

  /** Of a rollback, or of a step after the commit, for both ends. */
  get patienceMs(): number {
    return patienceMsOf(this.tuning);
  }

  get epoch(): bigint {
    return BigInt(this.record.epoch);
  }

  /** Of what ends the move, either way: newer than that of the move, so that nothing of it that is late closes what was opened. */
  get endEpoch(): bigint {
    return this.epoch + 1n;
  }

  get sourceController(): EndController {
    return this.options.source.controller(this.#controllers.source);
  }

  get destinationController(): EndController {
    return this.options.destination.controller(this.#controllers.destination);
  }

  get #controllers(): { readonly source: number; readonly destination: number } {
    assert(this.record.spec.controller !== undefined, 'No controller moves');
    return this.record.spec.controller;
  }

  warn(message: string): void {
    this.report.warnings.push(message);
    this.options.onEvent?.({ event: 'warning', message });
  }

  // ---- namespaces ----------------------------------------------------------------------------------------------------------------

  async atSource(): Promise<readonly { readonly planned: PlannedNamespace; readonly namespace: EndNamespace }[]> {
    return this.#at(this.options.source);
  }

  async atDestination(): Promise<readonly { readonly planned: PlannedNamespace; readonly namespace: EndNamespace }[]> {
    return this.#at(this.options.destination);
  }

  async #at(end: End): Promise<{ planned: PlannedNamespace; namespace: EndNamespace }[]> {
    let known = this.#ends.get(end);
    if (known === undefined) {
      known = await end.namespaces();
      this.#ends.set(end, known);
    }
    return this.record.namespaces.map((planned) => {
      const namespace = known.find(({ identity }) => identity.nsid === planned.nsid);
      if (namespace === undefined) {
        this.#ends.delete(end);
        const message = `Namespace ${planned.nsid} is not at ${end.name} any more: make it as it was`;
        throw new MoveError('NVMEOF_ERR_MOVE_FAILED', message, 'as-before');
      }
      return { planned, namespace };
    });
  }

  async pairs(): Promise<readonly NamespacePair[]> {
    const [ours, theirs] = await Promise.all([this.atSource(), this.atDestination()]);
    return ours.map(({ planned, namespace }, i) => ({
      planned,
      source: namespace,
      destination: theirs[i]!.namespace,
    }));
  }

  // ---- copying -------------------------------------------------------------------------------------------------------------------

  get preCopy(): PreCopy | undefined {
    return this.#preCopy;
  }

  /** Copies until the rest fits the pause. Begins again when an end was lost: what it had not flushed may be gone, and changes were missed. */
  async copyWhileInUse(): Promise<void> {
    const restartsMax = this.tuning.restartsMax ?? RESTARTS_MAX;
    for (;;) {
      try {
        await this.#copyOnce();
        return;
      } catch (error) {
        const isLost = error instanceof TransportError || error instanceof OutcomeUnknownError;
        if (!isLost || this.report.restarts >= restartsMax || this.options.signal?.aborted === true) throw error;
        this.report.restarts++;
        this.options.onEvent?.({ event: 'retry', step: 'pre-copy', message: messageOf(error) });
        await this.wait(retryMsOf(this.tuning));
      }
    }
  }

  async #copyOnce(): Promise<void> {
    await this.#unfollow();
    this.#ends.clear();
    const pairs = await this.pairs();
    // an end that was restarted may have forgotten it
    await all(pairs, ({ destination }) => destination.setFence(false, this.epoch));
    const preCopy = await this.#prepare(pairs.filter(({ planned }) => planned.mode === 'copied'));
    this.#preCopy = preCopy;
    try {
      if (!(await preCopy.run())) throw this.#notConverged(preCopy);
    } finally {
      this.noteFigures();
    }
  }

  #notConverged(preCopy: PreCopy): MoveError {
    const { blackoutBudgetMs } = this.report;
    const { copyRate = 0, dirtyRate, bearableRate } = preCopy.convergence;
    const pause = Number.isFinite(preCopy.blackoutMs)
      ? `${Math.ceil(preCopy.blackoutMs)} ms`
      : 'longer than can be told';
    const rates = `${mib(dirtyRate)} a second are changed and ${mib(copyRate)} copied`;
    const remedy = `allow a longer pause, or a limit of writes (about ${mib(bearableRate)} a second), or copy faster`;
    const message = `The pause would be ${pause}, allowed are ${blackoutBudgetMs} ms: ${rates}; ${remedy}`;
    return new MoveError('NVMEOF_ERR_MOVE_BUDGET', message, 'as-before');
  }

  async #prepare(pairs: readonly NamespacePair[]): Promise<PreCopy> {
    const { clock, signal, memory } = this.options;
    const { verification = 'none', chunkBytes, inFlightBytes = IN_FLIGHT_BYTES } = this.tuning;
    const share = Math.max(
      Math.min(inFlightBytes, IN_FLIGHT_BYTES_MIN),
      Math.floor(inFlightBytes / Math.max(1, pairs.length)),
    );
    const copied: CopiedNamespace[] = [];
    const sources = followed(
      this.options,
      this.record,
      pairs.map((pair) => pair.source),
    );
    this.#followed = sources;
    for (const [i, { planned, destination }] of pairs.entries()) {
      const source = sources.sources[i]!;
      const isZero = !(await hasData(destination, signal));
      if (!isZero && this.record.spec.overwrite !== true && this.report.restarts === 0) {
        const what = `Namespace ${planned.nsid} at ${this.options.destination.name} holds data since the move began`;
        throw new MoveError('NVMEOF_ERR_MOVE_REFUSED', `${what}: see who writes to it`, 'as-before');
      }
      const copier = new BlockCopier({
        source,
        destination: destination.destination,
        rate: this.#rate,
        inFlightBytes: share,
        ...(chunkBytes === undefined ? {} : { chunkBytes }),
      });
      const stream = new BlockStream({
        name: `namespace ${planned.nsid}`,
        source,
        destination: destination.destination,
        copier,
        destinationIsZero: isZero,
        verification,
        written: destination.source,
        rate: this.#rate,
      });
      copied.push({ planned, stream, copier });
    }
    this.#copied = copied;
    this.#memory =
      memory === undefined
        ? undefined
        : new MemoryStream({ mover: memory, controller: this.sourceController, rate: this.#rate, clock });
    const streams = [...copied.map(({ stream }) => stream), ...(this.#memory === undefined ? [] : [this.#memory])];
    const started = this.report.rounds.length;
    return new PreCopy({
      streams,
      clock,
      signal,
      verify: verification !== 'none',
      roundsMax: this.tuning.roundsMax,
      blackoutBudgetMs: this.report.blackoutBudgetMs,
      switchMs: this.switchMs,
      onRound: (convergence) => {
        this.noteFigures();
        const round = convergence.rounds.at(-1)!;
        const noted = { ...round, atMs: this.nowMs, blackoutMs: this.#preCopy?.blackoutMs ?? convergence.blackoutMs };
        assert(this.report.rounds.length === started + convergence.rounds.length - 1, 'A round is noted once');
        this.report.rounds.push(noted);
        const { copyRate, dirtyRate, remainingMs } = convergence;
        this.options.onEvent?.({ event: 'round', round: noted, copyRate, dirtyRate, remainingMs });
      },
      onStuck: (stuck) => this.#onStuck(stuck),
    });
  }

  async #onStuck(stuck: Stuck): Promise<StuckAnswer> {
    const answer = (await this.options.onStuck?.(stuck)) ?? this.tuning.whenStuck ?? 'refuse';
    if (answer !== 'throttle') return answer;
    const share = stuck.bytesPerSecond / Math.max(1, this.#copied.length);
    // it was too much: half of it
    const next = Math.floor(this.#throttle === undefined ? share : Math.min(share, this.#throttle / 2));
    if (next < THROTTLE_BYTES_MIN) return 'refuse';
    this.#throttle = next;
    this.report.throttledTo = next * this.#copied.length;
    const copied = (await this.atSource()).filter(({ planned }) => planned.mode === 'copied');
    await all(copied, ({ namespace }) => namespace.limitWrites(next));
    return 'again';
  }

  /** Nothing is followed or held back any more. All of it ends with the manager's connection anyway. */
  async stopCopying(): Promise<void> {
    const copied = (await this.atSource()).filter(({ planned }) => planned.mode === 'copied');
    const stops = copied.map(({ namespace }) => async (): Promise<void> => {
      if (this.#throttle !== undefined) await namespace.limitWrites(undefined);
      if (this.record.changes !== 'queue') await namespace.source.stopTracking();
    });
    await all([() => this.#unfollow(), ...stops], (stop) => stop());
    this.#throttle = undefined;
  }

  /** A queue ends with its connection; one that is still there would be in the way of the next. */
  async #unfollow(): Promise<void> {
    const before = this.#followed;
    if (this.record.changes !== 'queue' || before === undefined) return;
    this.#followed = undefined;
    await all(before.sources, (source) => source.stopTracking());
    this.#overflowsBefore += before.overflows;
  }

  async stopTrackingMemory(): Promise<void> {
    if (this.#memory !== undefined) await this.sourceController.stopTrackingMemory();
  }

  /** Hosts wait: what holds copying back for their sake would only make them wait longer. */
  liftRate(): void {
    this.#rate.release();
  }

  // ---- time and figures ----------------------------------------------------------------------------------------------------------

  get nowMs(): number {
    return this.options.clock.nowMs() - this.startMs;
  }

  startMs = 0;
  /** Of a rollback: the destination is being told. Never rejects. */
  closing: Promise<void> | undefined;

  wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.options.clock.setTimer(resolve, ms);
    });
  }

  /** Returns when `act` is over, or `ms` have gone by. */
  async atMost(ms: number, act: Promise<void>): Promise<void> {
    let timer: Timer | undefined;
    const late = new Promise<void>((resolve) => {
      timer = this.options.clock.setTimer(resolve, ms);
    });
    await Promise.race([act, late]);
    timer?.cancel();
  }

  noteFigures(): void {
    this.report.queueOverflows = this.#overflowsBefore + (this.#followed?.overflows ?? 0);
    this.report.namespaces = this.#copied.map(({ planned, stream, copier }) => ({
      nsid: planned.nsid,
      blockSize: planned.blockSize,
      blockCount: planned.blockCount,
      allocatedBytes: stream.allocatedBytes,
      dirtiedBytes: stream.dirtiedBytes,
      readBytes: copier.counters.read,
      writtenBytes: copier.counters.written,
      clearedBytes: copier.counters.cleared,
      verifiedBytes: stream.verifiedBytes,
      heat: stream.heat.map((row) => [...row]),
    }));
    if (this.#memory !== undefined) {
      const { allocatedBytes, dirtiedBytes, copiedBytes } = this.#memory;
      this.report.memory = { allocatedBytes, dirtiedBytes, copiedBytes };
    }
  }
}

export function mib(bytes: number): string {
  return `${(bytes / (1 << 20)).toFixed(bytes < 100 << 20 ? 1 : 0)} MiB`;
}

/**
 * Is it time to cut over? Each round copies what was changed during the one before; it converges if that gets less. The pause that a cut costs is
 * the time to copy what is changed by then, plus what the switch itself takes.
 */

/** One round of copying. Bytes, milliseconds. */
export interface Round {
  /** Copied in it. */
  readonly bytes: number;
  readonly durationMs: number;
  /** Changed while it ran: what the next round has to copy. */
  readonly dirtiedBytes: number;
}

export interface ConvergenceOptions {
  /** The longest pause that is allowed. */
  readonly blackoutBudgetMs: number;
  /** What suspension, state and resumption take, without any blocks. */
  readonly switchMs: number;
  /** Rounds without progress before it is said not to converge. Default 3. */
  readonly patience?: number;
}

export type Verdict =
  | { readonly kind: 'cut' }
  | { readonly kind: 'again' }
  /** The guest writes about as fast as we copy: at `bytesPerSecond` of writes or less, the budget could be kept. */
  | { readonly kind: 'stuck'; readonly bytesPerSecond: number };

/** A later round counts as progress if it leaves this share of the least that was left so far, or less. */
const PROGRESS = 0.9;
/** Weight of the last round in the averages. */
const WEIGHT = 0.5;
/** Below this a round says nothing about speed. */
const MEASURABLE_MS = 1;
/** The first round copies long runs; what is changed is scattered, and slower to copy. So much of it is trusted to that speed all the same. */
const UNMEASURED_BYTES = 1 << 20;

export class Convergence {
  readonly #options: ConvergenceOptions;
  readonly rounds: Round[] = [];
  #copyRate: number | undefined;
  #dirtyRate = 0;
  #least = Number.POSITIVE_INFINITY;
  #withoutProgress = 0;
  /** Of the pause, beside the switch and copying: as it was measured last. */
  finishMs = 0;

  constructor(options: ConvergenceOptions) {
    this.#options = options;
  }

  add(round: Round): void {
    this.rounds.push(round);
    if (round.durationMs >= MEASURABLE_MS) {
      const dirty = (round.dirtiedBytes / round.durationMs) * 1000;
      this.#dirtyRate = this.rounds.length === 1 ? dirty : average(this.#dirtyRate, dirty);
      if (round.bytes > 0) {
        const copy = (round.bytes / round.durationMs) * 1000;
        const isFirstOfChanges = this.rounds.length === 2;
        this.#copyRate = this.#copyRate === undefined || isFirstOfChanges ? copy : average(this.#copyRate, copy);
      }
    }
    if (round.dirtiedBytes <= this.#least * PROGRESS || round.dirtiedBytes === 0) this.#withoutProgress = 0;
    else this.#withoutProgress++;
    this.#least = Math.min(this.#least, round.dirtiedBytes);
  }

  /** Bytes a second. */
  get copyRate(): number | undefined {
    return this.#copyRate;
  }

  /** Bytes a second that the guest changes, as seen at the granularity of the tracker. */
  get dirtyRate(): number {
    return this.#dirtyRate;
  }

  /** Of a cut now. */
  get blackoutMs(): number {
    const left = this.rounds.at(-1)?.dirtiedBytes;
    if (left === undefined) return Number.POSITIVE_INFINITY;
    return this.#fixedMs + (left === 0 ? 0 : this.#copyMs(left));
  }

  get #fixedMs(): number {
    return this.#options.switchMs + this.finishMs;
  }

  #copyMs(bytes: number): number {
    return this.#copyRate === undefined ? Number.POSITIVE_INFINITY : (bytes / this.#copyRate) * 1000;
  }

  /** Time until the budget can be kept, if rates stay as they are; undefined if they never can. */
  get remainingMs(): number | undefined {
    let left = this.rounds.at(-1)?.dirtiedBytes;
    if (left === undefined || this.#copyRate === undefined) return undefined;
    const enough = this.#bytesWithin(this.#copyRate);
    if (left <= enough) return 0;
    const shrink = this.#dirtyRate / this.#copyRate;
    if (shrink >= 1 || enough < 0) return undefined;
    let total = 0;
    while (left > enough) {
      total += this.#copyMs(left);
      left *= shrink;
      if (left < 1) break;
    }
    return total;
  }

  /** Bytes that can be copied within the budget, at that rate. */
  #bytesWithin(copyRate: number): number {
    return ((this.#options.blackoutBudgetMs - this.#fixedMs) * copyRate) / 1000;
  }

  get verdict(): Verdict {
    if (this.blackoutMs <= this.#options.blackoutBudgetMs && this.#isMeasured) return { kind: 'cut' };
    if (this.#withoutProgress < (this.#options.patience ?? 3)) return { kind: 'again' };
    return { kind: 'stuck', bytesPerSecond: this.bearableRate };
  }

  /** How fast changes are copied is known, or does not matter. */
  get #isMeasured(): boolean {
    return this.rounds.length > 1 || this.rounds.at(-1)!.dirtiedBytes <= UNMEASURED_BYTES;
  }

  /** Writes a second so that a round that starts with what fits the budget leaves no more than that: half of what is copied in the time. */
  get bearableRate(): number {
    return (this.#copyRate ?? 0) / 2;
  }
}

function average(before: number, now: number): number {
  return before + (now - before) * WEIGHT;
}

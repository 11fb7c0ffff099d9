/**
 * What moves is copied while it is in use: first all that is there, then, round by round, what was changed meanwhile, all streams in each round.
 * Nothing is cut here: it ends with little left to copy, or with the finding that it does not get less.
 */
import type { Clock } from '../util/clock.ts';
import { Convergence, type ConvergenceOptions } from './convergence.ts';
import { all } from './move-error.ts';
import type { Stream } from './stream.ts';

const ROUNDS_MAX = 100;
/** Verified again before the cut, if so much was changed meanwhile that it does not fit the pause. */
const VERIFICATIONS_MAX = 3;

/** The guest writes about as fast as we copy: at `bytesPerSecond` of writes or less, the budget could be kept. */
export interface Stuck {
  readonly bytesPerSecond: number;
  /** Of a cut now. */
  readonly blackoutMs: number;
}

/** `again`: something was done about it; `cut`: now, however long the pause. */
export type StuckAnswer = 'refuse' | 'again' | 'cut';

export interface PreCopyOptions extends ConvergenceOptions {
  readonly streams: readonly Stream[];
  readonly clock: Clock;
  /** Compares before the cut what is quiet, so that only the rest is compared within the pause. */
  readonly verify?: boolean;
  readonly roundsMax?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** After each round, for progress on screen. */
  readonly onRound?: (convergence: Convergence) => void;
  /** It does not converge. Default: refuse. */
  readonly onStuck?: (stuck: Stuck) => Promise<StuckAnswer>;
}

export class PreCopy {
  readonly #options: PreCopyOptions;
  readonly convergence: Convergence;

  constructor(options: PreCopyOptions) {
    this.#options = options;
    this.convergence = new Convergence(options);
  }

  /** Of a cut now: what is left is copied, and what is not verified is compared. */
  get blackoutMs(): number {
    const { copyRate, blackoutMs } = this.convergence;
    const bytes = this.#unverifiedBytes;
    return blackoutMs + (bytes === 0 || copyRate === undefined ? 0 : (bytes / copyRate) * 1000);
  }

  get #unverifiedBytes(): number {
    return sum(this.#options.streams, (stream) => stream.unverifiedBytes ?? 0);
  }

  /** Tracking goes on when it returns; who gives up stops it. @returns false if the budget cannot be kept, and `onStuck` did not help */
  async run(): Promise<boolean> {
    const { signal, blackoutBudgetMs, verify = false, roundsMax = ROUNDS_MAX } = this.#options;
    const { convergence } = this;
    await this.#round((stream, stop) => stream.first(stop));
    let verifications = 0;
    for (;;) {
      signal?.throwIfAborted();
      const { verdict } = convergence;
      if (verdict.kind === 'cut') {
        const isTooMuch = verifications === 0 || this.blackoutMs > blackoutBudgetMs;
        if (!verify || this.#unverifiedBytes === 0 || !isTooMuch) return true;
        if (verifications++ < VERIFICATIONS_MAX) {
          await this.#round(async (stream, stop) => {
            await stream.again(stop);
            await stream.verify?.(stop);
          });
          continue;
        }
      }
      if (verdict.kind !== 'again' || convergence.rounds.length >= roundsMax) {
        const askedMs = this.#options.clock.nowMs();
        const answer = (await this.#options.onStuck?.(this.#stuck())) ?? 'refuse';
        if (answer === 'refuse') return false;
        const tookMs = this.#options.clock.nowMs() - askedMs;
        // whoever thought about it meanwhile was told of less than there is now
        const isOld = tookMs > convergence.rounds.at(-1)!.durationMs;
        if (answer === 'cut') {
          if (isOld) await this.#round((stream, stop) => stream.again(stop));
          return true;
        }
      }
      await this.#round((stream, stop) => stream.again(stop));
    }
  }

  #stuck(): Stuck {
    return { bytesPerSecond: this.convergence.bearableRate, blackoutMs: this.blackoutMs };
  }

  /** Nothing changes any more: what is left is copied, compared and durable when it returns. */
  async finish(signal: AbortSignal | undefined = this.#options.signal): Promise<void> {
    await this.#each((stream, stop) => stream.finish(stop), signal);
  }

  async #round(copy: (stream: Stream, stop: AbortSignal) => Promise<void>): Promise<void> {
    const { clock, streams, signal } = this.#options;
    const startMs = clock.nowMs();
    const before = sum(streams, ({ copiedBytes }) => copiedBytes);
    await this.#each(copy, signal);
    const durationMs = clock.nowMs() - startMs;
    let dirtiedBytes = 0;
    await all(streams, async (stream) => {
      dirtiedBytes += await stream.look();
    });
    this.convergence.finishMs = Math.max(0, ...streams.map(({ finishMs = 0 }) => finishMs));
    this.convergence.add({ bytes: sum(streams, ({ copiedBytes }) => copiedBytes) - before, durationMs, dirtiedBytes });
    this.#options.onRound?.(this.convergence);
  }

  /** All streams at once; a failure of one stops the others, and nothing is under way when it throws. */
  async #each(
    act: (stream: Stream, stop: AbortSignal) => Promise<void>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const stop = new AbortController();
    const onAbort = (): void => stop.abort(signal?.reason);
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    let failure: { readonly cause: unknown } | undefined;
    try {
      await all(this.#options.streams, async (stream) => {
        try {
          await act(stream, stop.signal);
        } catch (cause) {
          failure ??= { cause };
          stop.abort(cause);
        }
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
    if (failure !== undefined) throw failure.cause;
  }
}

function sum(streams: readonly Stream[], bytesOf: (stream: Stream) => number): number {
  return streams.reduce((total, stream) => total + bytesOf(stream), 0);
}

/**
 * The blocks of a namespace move while its controllers write: first what is allocated, then, round by round, what was changed meanwhile. Nothing is
 * cut here: it ends with little left to copy, or with the finding that it does not get less.
 */
import type { Clock } from '../util/clock.ts';
import type { BlockCopier } from './block-copier.ts';
import { Convergence, type ConvergenceOptions, type Verdict } from './convergence.ts';
import { type BlockRun, blocksIn, type ChangeSnapshot, type DestinationVolume, type SourceVolume } from './volume.ts';

export interface PreCopyOptions extends ConvergenceOptions {
  readonly source: SourceVolume;
  readonly destination: DestinationVolume;
  readonly copier: BlockCopier;
  readonly clock: Clock;
  /** Nothing was ever written to the destination. */
  readonly destinationIsZero: boolean;
  readonly signal?: AbortSignal | undefined;
  /** After each round, for progress on screen. */
  readonly onRound?: (convergence: Convergence) => void;
  /** It does not converge: do something about it (throttle the guest) and say whether to go on. Default: do not. */
  readonly onStuck?: (verdict: Verdict & { readonly kind: 'stuck' }) => Promise<boolean>;
}

export interface PreCopyResult {
  readonly convergence: Convergence;
  /** False: the budget cannot be kept, and `onStuck` did not want to go on. */
  readonly converged: boolean;
  readonly allocatedBytes: number;
  /** Copied again because it was changed. */
  readonly dirtiedBytes: number;
}

export class PreCopy {
  readonly #options: PreCopyOptions;
  /** What was changed and is not copied yet. */
  #left: ChangeSnapshot | undefined;
  #dirtiedBytes = 0;

  constructor(options: PreCopyOptions) {
    this.#options = options;
  }

  /** Tracking goes on when it returns; who gives up stops it. */
  async run(): Promise<PreCopyResult> {
    const { source, copier, signal, destinationIsZero } = this.#options;
    const convergence = new Convergence(this.#options);
    await source.startTracking();
    let allocatedBytes = 0;
    const counted = async function* (): AsyncGenerator<BlockRun> {
      for await (const run of source.allocated(signal)) {
        allocatedBytes += run.blockCount * source.blockSize;
        yield run;
      }
    };
    // what is not allocated reads zero, and has to at the destination as well
    const runs = destinationIsZero ? counted() : this.#withHoles(counted());
    await this.#round(convergence, () => copier.copy(runs, { destinationIsZero, signal }));
    let converged = true;
    for (let { verdict } = convergence; verdict.kind !== 'cut'; verdict = convergence.verdict) {
      if (verdict.kind === 'stuck' && (await this.#options.onStuck?.(verdict)) !== true) {
        converged = false;
        break;
      }
      await this.#round(convergence, () => this.#copyLeft());
    }
    return { convergence, converged, allocatedBytes, dirtiedBytes: this.#dirtiedBytes };
  }

  /** Copies what is left, and all that was changed by now: the controllers are quiet, so it ends. The destination is durable afterwards. */
  async finish(): Promise<void> {
    const { source, destination } = this.#options;
    await this.#copyLeft();
    for (;;) {
      this.#left = await source.changes();
      if (this.#left.runs.length === 0) break;
      await this.#copyLeft();
    }
    await destination.flush();
  }

  async #copyLeft(): Promise<void> {
    const { copier, signal, source } = this.#options;
    while (this.#left !== undefined) {
      const left = this.#left;
      this.#dirtiedBytes += blocksIn(left.runs) * source.blockSize;
      await copier.copy(left.runs, { signal });
      await left.acknowledge();
      this.#left = left.complete ? undefined : await source.changes();
    }
  }

  async #round(convergence: Convergence, copy: () => Promise<void>): Promise<void> {
    const { clock, copier, source } = this.#options;
    const startMs = clock.nowMs();
    const before = copier.counters.read;
    await copy();
    const durationMs = clock.nowMs() - startMs;
    const left = await source.changes();
    this.#left = left;
    // of changes that do not fit a snapshot only a bound is known
    const dirtied = left.complete ? blocksIn(left.runs) : source.blockCount;
    convergence.add({
      bytes: copier.counters.read - before,
      durationMs,
      dirtiedBytes: dirtied * source.blockSize,
    });
    this.#options.onRound?.(convergence);
  }

  /** Passes the runs on, and clears what is between them. */
  async *#withHoles(runs: AsyncIterable<BlockRun>): AsyncGenerator<BlockRun> {
    const { destination, source } = this.#options;
    let at = 0;
    for await (const run of runs) {
      if (run.slba > at) await destination.clear(at, run.slba - at);
      at = run.slba + run.blockCount;
      yield run;
    }
    if (at < source.blockCount) await destination.clear(at, source.blockCount - at);
  }
}

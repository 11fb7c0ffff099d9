// @hot
/** One namespace over the paths to it: which may be used now, and what waits for one. */
import type { NamespaceIdentifiers } from '../../wire/cold/lists.ts';
import type { HostQueuePair } from '../queue-pair.ts';
import { CommandList } from './command.ts';
import type { MultipathPath } from './path.ts';

/** How the next path is chosen among those of the best ANA state. @public */
export type PathPolicy = 'round-robin' | 'queue-depth';

export class NamespacePaths {
  readonly nsid: number;
  /** What every path must say that the namespace is. */
  readonly identifiers: NamespaceIdentifiers;
  /** Bytes of a logical block: the same on every path as well. */
  readonly blockSize: number;
  readonly waiting: CommandList = new CommandList();
  readonly #byDepth: boolean;
  #usable: readonly MultipathPath[] = [];
  #next = 0;
  /** The path of the queue pair that `pick` returned. */
  picked: MultipathPath | undefined = undefined;

  constructor(nsid: number, identifiers: NamespaceIdentifiers, blockSize: number, policy: PathPolicy) {
    this.nsid = nsid;
    this.identifiers = identifiers;
    this.blockSize = blockSize;
    this.#byDepth = policy === 'queue-depth';
  }

  /** Paths that I/O goes to now: the optimized ones, or the non-optimized if there is no other. */
  get usable(): readonly MultipathPath[] {
    return this.#usable;
  }

  set usable(paths: readonly MultipathPath[]) {
    if (paths.length === this.#usable.length && paths.every((path, i) => path === this.#usable[i])) return;
    this.#usable = paths;
    this.#next = 0;
  }

  /** A queue pair with a free slot; sets `picked`. */
  pick(): HostQueuePair | undefined {
    const paths = this.#usable;
    if (this.#byDepth && paths.length > 1) return this.#pickShallow(paths);
    for (let tries = paths.length; tries > 0; tries--) {
      this.#next = this.#next + 1 >= paths.length ? 0 : this.#next + 1;
      const path = paths[this.#next]!;
      const queuePair = path.pickFree();
      if (queuePair === undefined) continue;
      this.picked = path;
      return queuePair;
    }
    return undefined;
  }

  /** Of the path with the fewest commands in flight; equal ones take turns. */
  #pickShallow(paths: readonly MultipathPath[]): HostQueuePair | undefined {
    let best: HostQueuePair | undefined;
    let bestDepth = Number.POSITIVE_INFINITY;
    this.#next = this.#next + 1 >= paths.length ? 0 : this.#next + 1;
    for (let i = 0; i < paths.length; i++) {
      const at = this.#next + i;
      const path = paths[at >= paths.length ? at - paths.length : at]!;
      const depth = path.activeCount;
      if (depth >= bestDepth) continue;
      const queuePair = path.pickFree();
      if (queuePair === undefined) continue;
      best = queuePair;
      bestDepth = depth;
      this.picked = path;
    }
    return best;
  }
}

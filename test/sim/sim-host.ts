/** A host on the network: paths to both targets, commands over one that is accessible, repeated over another when their path is lost. */
import type { Network } from './network.ts';
import type { Party } from './scenario.ts';
import type { SimClock } from './sim-clock.ts';
import { type HostAnswer, type HostCommand, INACCESSIBLE } from './sim-host-io.ts';
import type { SimTarget } from './sim-target.ts';

/** A target may still execute what was sent over a path that is lost: that long, and no longer. */
const QUIESCE_MS = 6;
const RECONNECT_MS = 4;

class Path {
  readonly target: SimTarget;
  isConnected = false;
  /** Namespaces that this path has found inaccessible. */
  readonly inaccessible = new Set<number>();
  generation = 0;
  /** Commands under way: told when it is lost. */
  readonly onLost = new Set<() => void>();

  constructor(target: SimTarget) {
    this.target = target;
  }

  /** The state of the groups, as their log page says. */
  refresh(): void {
    this.inaccessible.clear();
    for (const { nsid, fence } of this.target.namespaces.values()) if (!fence.isOpen) this.inaccessible.add(nsid);
  }
}

export class SimHost {
  readonly #clock: SimClock;
  readonly #network: Network;
  readonly #paths: readonly Path[];
  readonly #changes: (() => void)[] = [];

  /** @param knowsAll connects to both at once; otherwise to the destination when the source's discovery names it */
  constructor(clock: SimClock, network: Network, targets: readonly [SimTarget, SimTarget], knowsAll: boolean) {
    this.#clock = clock;
    this.#network = network;
    this.#paths = targets.map((target) => new Path(target));
    const [first, second] = this.#paths as [Path, Path];
    void this.#follow(first);
    if (knowsAll) void this.#follow(second);
    else {
      const look = (): void => {
        if (first.target.peers.size === 0 || !first.target.isUp) return;
        first.target.listeners.delete(look);
        void this.#follow(second);
      };
      first.target.listeners.add(look);
    }
  }

  /** Keeps a path connected for ever. */
  async #follow(path: Path): Promise<void> {
    const { target } = path;
    target.onEnd(() => this.#lost(path));
    target.listeners.add(() => {
      if (!path.isConnected) return;
      path.refresh();
      this.#changed();
    });
    for (;;) {
      await this.#clock.delay(RECONNECT_MS);
      const reachable = target.isUp && !this.#network.isCut(`${target.name} hosts`);
      if (path.isConnected && !reachable) this.#lost(path);
      if (path.isConnected || !reachable) continue;
      path.isConnected = true;
      path.refresh();
      this.#changed();
    }
  }

  #lost(path: Path): void {
    path.isConnected = false;
    path.generation++;
    for (const callback of [...path.onLost]) callback();
    this.#changed();
  }

  cut(party: Party): void {
    for (const path of this.#paths) if (path.target.name === party) this.#lost(path);
  }

  #changed(): void {
    for (const resolve of this.#changes.splice(0)) resolve();
  }

  async submit(command: HostCommand): Promise<HostAnswer> {
    for (;;) {
      const path = this.#paths.find(({ isConnected, inaccessible }) => isConnected && !inaccessible.has(command.nsid));
      if (path === undefined) {
        await new Promise<void>((resolve) => this.#changes.push(resolve));
        continue;
      }
      const answer = await this.#over(path, command);
      if (answer === undefined) {
        await this.#clock.delay(QUIESCE_MS);
      } else if (answer.status === INACCESSIBLE) {
        path.inaccessible.add(command.nsid);
      } else {
        return answer;
      }
    }
  }

  /** Undefined: the path is lost, and whether it was executed is not known. */
  async #over(path: Path, command: HostCommand): Promise<HostAnswer | undefined> {
    const { target, generation } = path;
    await target.latency();
    if (generation !== path.generation && (!target.isUp || target.random.oneIn(2))) return undefined;
    const sent = target.namespaces.get(command.nsid)!.execute(command);
    const answer = await orLost(path, sent);
    if (answer === undefined || generation !== path.generation) return undefined;
    await target.latency();
    return generation === path.generation ? answer : undefined;
  }
}

async function orLost<T>(path: Path, answer: Promise<T>): Promise<T | undefined> {
  let callback = (): void => {};
  const lost = new Promise<undefined>((resolve) => {
    callback = (): void => resolve(undefined);
    path.onLost.add(callback);
  });
  try {
    return await Promise.race([answer, lost]);
  } finally {
    path.onLost.delete(callback);
  }
}

/** Looks at both ends before anything is touched: what will move, and what stands against it. */
import { isZero } from './block-copier.ts';
import { controllerDifferences, namespaceDifferences, reservationObstacles } from './compatibility.ts';
import type { ControllerFigures, End, EndNamespace, FenceState, MemoryRun } from './end.ts';
import type { Difference } from './figure-rules.ts';
import { followed } from './followed.ts';
import { dirtyRateOf, forecast, readRateOf } from './forecast.ts';
import type { MoveOptions } from './move-options.ts';
import type {
  ChangesBy,
  Finding,
  MoveForecast,
  MovePlan,
  MoveRecord,
  MoveSpec,
  PlannedNamespace,
} from './move-spec.ts';

/** Answers of an end that a switch waits for, about. */
const ANSWERS_NAMESPACES = 5;
const ANSWERS_CONTROLLER = 14;
const SWITCH_MS_MIN = 5;
/** A move has its epoch, and the next for its rollback. */
const EPOCH_STEP = 2n;
/** Read of a destination that is said to be empty, before it is closed. */
const PLAN_LOOK_BYTES = 64 << 20;

interface Pair {
  readonly nsid: number;
  readonly source: EndNamespace;
  readonly destination: EndNamespace;
}

export async function makePlan(options: MoveOptions, spec: MoveSpec, blackoutBudgetMs: number): Promise<MovePlan> {
  return new Planner(options, spec, blackoutBudgetMs).plan();
}

class Planner {
  readonly #options: MoveOptions;
  readonly #spec: MoveSpec;
  readonly #budgetMs: number;
  readonly #refusals: Finding[] = [];
  readonly #warnings: Finding[] = [];
  #allocatedBytes = 0;

  constructor(options: MoveOptions, spec: MoveSpec, budgetMs: number) {
    this.#options = options;
    this.#spec = spec;
    this.#budgetMs = budgetMs;
  }

  async plan(): Promise<MovePlan> {
    const { source, destination } = this.#options;
    if (source.subnqn !== destination.subnqn) {
      const remedy = 'hosts and guests know a subsystem by its NQN: give the destination the same';
      this.#refuse(
        'subnqn',
        `${source.name} is ${source.subnqn}, ${destination.name} is ${destination.subnqn}: ${remedy}`,
      );
    }
    const pairs = await this.#pairs();
    const { namespaces, epoch } = await this.#namespaces(pairs);
    await this.#figures(pairs);
    await this.#controller();
    const switchMs = await this.#switchMs(pairs);
    if (switchMs > this.#budgetMs) {
      const took = `the switch alone takes about ${Math.ceil(switchMs)} ms, allowed are ${this.#budgetMs} ms`;
      this.#refuse('budget', `The pause would be too long: ${took}; allow a longer one`);
    }
    const copied = pairs.filter(({ nsid }) => this.#spec.shared?.includes(nsid) !== true);
    const changes = await this.#changes(copied.map((pair) => pair.source));
    const record: MoveRecord = {
      spec: this.#spec,
      subnqn: source.subnqn,
      epoch: String(epoch),
      namespaces,
      ...(changes === undefined ? {} : { changes }),
      ...(this.#options.context === undefined ? {} : { context: this.#options.context }),
    };
    const observeMs = this.#options.tuning?.observeMs ?? 0;
    const isPossible = this.#refusals.length === 0 && copied.length > 0 && observeMs > 0;
    const sources = copied.map((pair) => pair.source);
    const { memory } = this.#options;
    const memoryBytes = bytesIn(memory?.ranges ?? []);
    const memoryUsedBytes = memory?.used === undefined ? memoryBytes : bytesIn(await memory.used());
    this.#allocatedBytes += memoryUsedBytes;
    return {
      record,
      refusals: this.#refusals,
      warnings: this.#warnings,
      allocatedBytes: this.#allocatedBytes,
      memoryBytes,
      memoryUsedBytes,
      switchMs,
      ...(isPossible ? { forecast: await this.#forecast(record, sources, observeMs, switchMs) } : {}),
    };
  }

  #refuse(what: string, message: string): void {
    this.#refusals.push({ what, message });
  }

  #warn(what: string, message: string): void {
    this.#warnings.push({ what, message });
  }

  /** Namespaces at both ends, by NSID. */
  async #pairs(): Promise<Pair[]> {
    const { source, destination } = this.#options;
    const [ours, theirs] = await Promise.all([source.namespaces(), destination.namespaces()]);
    const present = ours.map(({ identity }) => identity.nsid);
    const wanted = this.#spec.nsids ?? present;
    for (const nsid of this.#spec.shared ?? []) {
      if (!wanted.includes(nsid)) {
        this.#refuse('namespace', `Namespace ${nsid} is said to be shared, but is none of ${list(wanted)} that move`);
      }
    }
    if (wanted.length === 0 && this.#spec.kind === 'namespaces') {
      this.#refuse(
        'namespace',
        `${source.name} has no namespace that its manager sees: attach one, or name another manager`,
      );
    }
    const pairs: Pair[] = [];
    for (const nsid of wanted) {
      const from = ours.find(({ identity }) => identity.nsid === nsid);
      const to = theirs.find(({ identity }) => identity.nsid === nsid);
      if (from === undefined) {
        this.#refuse('namespace', `Namespace ${nsid} is not at ${source.name}; there are ${list(present)}`);
      } else if (to === undefined) {
        const { blockCount, blockSize } = from.identity;
        const remedy = `make one there with ${blockCount} blocks of ${blockSize} bytes and the same identity`;
        this.#refuse('namespace', `Namespace ${nsid} is not at ${destination.name}: ${remedy}`);
      } else pairs.push({ nsid, source: from, destination: to });
    }
    return pairs;
  }

  async #namespaces(pairs: readonly Pair[]): Promise<{ namespaces: PlannedNamespace[]; epoch: bigint }> {
    const namespaces: PlannedNamespace[] = [];
    let epoch = 1n;
    for (const pair of pairs) {
      const isShared = this.#spec.shared?.includes(pair.nsid) === true;
      this.#sameIdentity(pair);
      const [ours, theirs] = await Promise.all([pair.source.fence(), pair.destination.fence()]);
      this.#fences(pair.nsid, ours, theirs);
      for (const fence of [ours, theirs]) if (fence !== undefined && fence.epoch >= epoch) epoch = fence.epoch + 1n;
      if (!isShared) await this.#content(pair);
      const reservations = await pair.destination.reservations();
      await this.#reservations(pair);
      const { blockSize, blockCount } = pair.source.identity;
      namespaces.push({
        nsid: pair.nsid,
        mode: isShared ? 'shared' : 'copied',
        blockSize,
        blockCount,
        destinationWasOpen: theirs?.isOpen === true,
        sourceIsDurable: ours?.isDurable === true,
        found: { source: String(ours?.epoch ?? 0n), destination: String(theirs?.epoch ?? 0n) },
        ...(reservations === undefined
          ? {}
          : { destinationReservations: Buffer.from(reservations).toString('base64') }),
      });
    }
    return { namespaces, epoch: epoch + EPOCH_STEP * BigInt(this.#options.salt ?? 0) };
  }

  /** Those that are held have to be held there. */
  async #reservations({ nsid, source, destination }: Pair): Promise<void> {
    const { figures } = destination;
    if (figures === undefined) return;
    const who = `Namespace ${nsid} at ${this.#options.destination.name}`;
    const obstacles = reservationObstacles(who, await source.reservations(), figures.rescap);
    for (const obstacle of obstacles) this.#refuse('reservations', obstacle);
  }

  /** What hosts were told, and would not find. */
  async #figures(pairs: readonly Pair[]): Promise<void> {
    const { source, destination } = this.#options;
    const { kind } = this.#spec;
    const [ours, theirs] = await Promise.all([source.figures?.(), destination.figures?.()]);
    const found: Difference[] = [];
    if (ours !== undefined && theirs !== undefined) {
      found.push(...controllerDifferences(destination.name, ours, theirs, kind));
      if (kind === 'namespaces') this.#controllerIds(ours, theirs);
    }
    for (const { nsid, source: from, destination: to } of pairs) {
      if (from.figures === undefined || to.figures === undefined) continue;
      const who = `Namespace ${nsid} at ${destination.name}`;
      found.push(...namespaceDifferences(who, from.figures, to.figures, kind));
    }
    this.#different('less', found);
  }

  #different(what: string, found: readonly Difference[]): void {
    for (const { severity, message } of found) {
      const isRefused = severity === 'refused' || (severity === 'less' && this.#spec.acceptLess !== true);
      if (isRefused) this.#refuse(what, message);
      else this.#warn(what, message);
    }
  }

  /** Linux refuses a second controller of the same number in a subsystem. Both ends count up from where their managers are. */
  #controllerIds(ours: ControllerFigures, theirs: ControllerFigures): void {
    const last = Math.max(...ours.cntlids);
    const first = Math.min(...ours.cntlids);
    if (theirs.cntlid < first || theirs.cntlid > last) return;
    const mine = first === last ? `CNTLID of the source is ${first}` : `CNTLIDs of the source are ${first} to ${last}`;
    const remedy = 'give each end a range of its own (cntlidMin, cntlidMax)';
    this.#warn(
      'cntlid',
      `${mine}, ${this.#options.destination.name} has ${theirs.cntlid}: hosts refuse a second controller of the same number; ${remedy}`,
    );
  }

  #sameIdentity({ nsid, source, destination }: Pair): void {
    const ours = source.identity;
    const theirs = destination.identity;
    const at = this.#options.destination.name;
    if (ours.blockSize !== theirs.blockSize || ours.blockCount !== theirs.blockCount) {
      const found = `${theirs.blockCount} blocks of ${theirs.blockSize} bytes`;
      const needed = `${ours.blockCount} of ${ours.blockSize}`;
      this.#refuse('geometry', `Namespace ${nsid} at ${at} has ${found}, the source has ${needed}: make it the same`);
    }
    for (const name of ['uuid', 'nguid', 'eui64'] as const) {
      if (ours[name] === theirs[name]) continue;
      const found = `${name.toUpperCase()} ${theirs[name] ?? 'none'}, the source has ${ours[name] ?? 'none'}`;
      this.#refuse('identity', `Namespace ${nsid} at ${at} has ${found}: give it the identity of the source`);
    }
    if (ours.uuid === undefined && ours.nguid === undefined && ours.eui64 === undefined) {
      this.#warn(
        'identity',
        `Namespace ${nsid} has no UUID, NGUID or EUI64: a host cannot know that both are the same`,
      );
    }
  }

  #fences(nsid: number, ours: FenceState | undefined, theirs: FenceState | undefined): void {
    const { source, destination } = this.#options;
    for (const [end, fence] of [
      [source, ours],
      [destination, theirs],
    ] as const) {
      if (fence === undefined) {
        const remedy = 'without one two sides could write: serve it by nvmeferry, with this host among its managers';
        this.#refuse('fence', `Namespace ${nsid} has no fence at ${end.name}: ${remedy}`);
      } else if (!fence.isDurable) this.#forgets(nsid, end);
    }
    if (ours?.isOpen === false) {
      const remedy = 'move it from where it is open, or open it';
      this.#refuse('fence', `Namespace ${nsid} is closed at ${source.name} (epoch ${ours.epoch}): ${remedy}`);
    }
  }

  /**
   * A source that is restarted after the commit would open with what it had, beside the destination: two sides write. A destination that is restarted
   * is closed by its configuration, and nobody writes.
   */
  #forgets(nsid: number, end: End): void {
    const what = `The fence of namespace ${nsid} at ${end.name} is not durable`;
    const remedy = 'configure a state directory there';
    if (end === this.#options.source) {
      const message = `${what}: restarted after the move it would serve the namespace beside the destination`;
      if (this.#spec.acceptForgetful !== true) {
        this.#refuse(
          'durability',
          `${message}; ${remedy}, or see to it that it is not, and say so (--accept-forgetful)`,
        );
      } else this.#warn('durability', `${message}: switch it off, or take the namespace out of its configuration`);
      return;
    }
    this.#warn('durability', `${what}: restarted it forgets that it is open, and its reservations; ${remedy}`);
  }

  /** What is to be copied, and what is in its way. */
  async #content({ nsid, source, destination }: Pair): Promise<void> {
    const { signal, destination: end } = this.#options;
    for await (const { blockCount } of source.source.allocated(signal)) {
      this.#allocatedBytes += blockCount * source.identity.blockSize;
    }
    // all of it is looked at once it is closed
    if (await hasData(destination, signal, PLAN_LOOK_BYTES)) {
      const what = `Namespace ${nsid} at ${end.name} holds data`;
      if (this.#spec.overwrite === true) this.#warn('overwrite', `${what}: it will be overwritten`);
      else this.#refuse('overwrite', `${what}: empty it, or say that it may be overwritten`);
    }
  }

  async #controller(): Promise<void> {
    const { kind, controller } = this.#spec;
    const { source, destination, front, memory } = this.#options;
    if (kind === 'namespaces') {
      if (front !== undefined || memory !== undefined || controller !== undefined)
        this.#refuse(
          'kind',
          'A front, memory or a controller was named, but only namespaces move: name all for a controller',
        );
      return;
    }
    if (controller === undefined) {
      this.#refuse(
        'controller',
        `No controller is named: ${source.name} has ${list(await source.migratable())} to move`,
      );
      return;
    }
    if (memory !== undefined && front === undefined) {
      const remedy = 'name what stops them while the rest is copied';
      this.#refuse('memory', `The memory of a VM is named, and nothing that stops its CPUs: ${remedy}`);
    }
    for (const [end, cntlid] of [
      [source, controller.source],
      [destination, controller.destination],
    ] as const) {
      const there = await end.migratable();
      if (!there.includes(cntlid)) {
        const remedy = 'name one of those, or connect its host there first';
        this.#refuse('controller', `Controller ${cntlid} is not at ${end.name}, which has ${list(there)}: ${remedy}`);
      }
    }
    if (controller.source !== controller.destination) {
      const ids = `${controller.source} becomes ${controller.destination}`;
      this.#warn(
        'controller',
        `CNTLID ${ids}: a guest that identifies it again sees that; give it the same to avoid it`,
      );
    }
    if (this.#refusals.length > 0) return;
    if (await source.controller(controller.source).isSuspended()) {
      const remedy = 'end the migration that suspended it, or resume it';
      this.#refuse('controller', `Controller ${controller.source} at ${source.name} is suspended already: ${remedy}`);
    }
    const untracked = memory === undefined ? undefined : await source.controller(controller.source).untracked?.();
    if (untracked !== undefined) this.#refuse('memory', untracked);
    const found = await source.controller(controller.source).differences?.(destination, controller.destination);
    this.#different('compatibility', found ?? []);
  }

  /** The bitmap has the changes of everybody, so it is taken where it is there. */
  async #changes(namespaces: readonly EndNamespace[]): Promise<ChangesBy | undefined> {
    if (namespaces.length === 0) return undefined;
    const { source, tuning } = this.#options;
    const { kind, controller } = this.#spec;
    const wanted = tuning?.changes ?? 'auto';
    if (wanted !== 'queue') {
      const without: number[] = [];
      for (const one of namespaces) if ((await one.followsChanges?.()) === false) without.push(one.identity.nsid);
      if (without.length === 0) return 'bitmap';
      if (wanted === 'bitmap' || kind === 'namespaces' || controller === undefined) {
        const remedy = 'serve it by a target that does, or move the controller by its queue';
        this.#refuse('changes', `${source.name} keeps no log of changes of namespace ${list(without)}: ${remedy}`);
        return undefined;
      }
    }
    if (kind === 'namespaces') {
      const why = 'a queue has the changes of one controller, and hosts may come at any time';
      this.#refuse('changes', `Namespaces cannot be followed by queue, ${why}: use the bitmap`);
      return undefined;
    }
    if (controller === undefined || this.#refusals.length > 0) return undefined;
    const queue = source.controller(controller.source).changes;
    const nsids = namespaces.map(({ identity }) => identity.nsid);
    const obstacles = (await queue?.obstacles(nsids)) ?? [`${source.name} has no queue of changes: use the bitmap`];
    for (const obstacle of obstacles) this.#refuse('changes', obstacle);
    return 'queue';
  }

  async #forecast(
    record: MoveRecord,
    namespaces: readonly EndNamespace[],
    observeMs: number,
    switchMs: number,
  ): Promise<MoveForecast> {
    const { clock, tuning, signal } = this.#options;
    const { sources } = followed(this.#options, record, namespaces);
    const dirtyBytesPerSecond = await dirtyRateOf(sources, observeMs, clock);
    const limit = tuning?.bytesPerSecond ?? Number.POSITIVE_INFINITY;
    const copyBytesPerSecond = Math.min(limit, await readRateOf(sources, observeMs, clock, signal));
    const rates = { copyBytesPerSecond, dirtyBytesPerSecond };
    return { ...rates, ...forecast(this.#allocatedBytes, rates, this.#budgetMs, switchMs) };
  }

  /** From how fast the ends answer; a floor for what they do in it. */
  async #switchMs(pairs: readonly Pair[]): Promise<number> {
    const { clock, tuning } = this.#options;
    if (tuning?.switchMs !== undefined) return tuning.switchMs;
    const pair = pairs[0];
    if (pair === undefined) return SWITCH_MS_MIN;
    const startMs = clock.nowMs();
    await pair.source.fence();
    await pair.destination.fence();
    const answerMs = (clock.nowMs() - startMs) / 2;
    return SWITCH_MS_MIN + answerMs * (this.#spec.kind === 'controller' ? ANSWERS_CONTROLLER : ANSWERS_NAMESPACES);
  }
}

/** Of one read. */
const LOOK_BYTES = 1 << 20;

/**
 * Something that does not read zero. An end that cannot tell what is allocated says that all is, so it is read, up to the first byte that is not zero.
 * @param lookBytesMax read at most that much; what is behind it counts as zero
 */
export async function hasData(
  namespace: EndNamespace,
  signal: AbortSignal | undefined,
  lookBytesMax: number = Number.POSITIVE_INFINITY,
): Promise<boolean> {
  const { source } = namespace;
  const blocks = Math.max(1, Math.floor(LOOK_BYTES / source.blockSize));
  const buffer = new Uint8Array(new ArrayBuffer(blocks * source.blockSize));
  let looked = 0;
  for await (const run of source.allocated(signal)) {
    for (let done = 0; done < run.blockCount; done += blocks) {
      if (looked >= lookBytesMax) return false;
      signal?.throwIfAborted();
      const data = buffer.subarray(0, Math.min(blocks, run.blockCount - done) * source.blockSize);
      await source.readInto(run.slba + done, data);
      if (!isZero(data, 0, data.length)) return true;
      looked += data.length;
    }
  }
  return false;
}

function bytesIn(runs: readonly MemoryRun[]): number {
  return runs.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

function list(ids: readonly number[]): string {
  return ids.length === 0 ? 'none' : ids.join(', ');
}

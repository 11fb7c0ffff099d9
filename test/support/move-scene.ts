/** A move on model ends, hosts that write meanwhile, and what has to be true in the end. */
import { expect } from 'chai';
import { Move } from '../../src/orchestrator/move.ts';
import type { MoveOptions } from '../../src/orchestrator/move-options.ts';
import type { MoveSpec } from '../../src/orchestrator/move-spec.ts';
import type { Clock, Timer } from '../../src/util/clock.ts';
import {
  MODEL_BLOCK,
  ModelControllerState,
  ModelEnd,
  ModelFront,
  ModelJournal,
  ModelMemory,
  ModelStorage,
  ModelTarget,
  ModelWorld,
} from './model-end.ts';
import { Random } from './random.ts';

const BLOCKS = 64;
const KEY = new Uint8Array([1, 2, 3]);

/** Time goes by only where somebody waits for it: timers go off when nothing else has happened for some turns. */
export class IdleClock implements Clock {
  #nowMs = 0;
  nowMs(): number {
    return this.#nowMs;
  }
  /** Time that an operation took. */
  pass(ms: number): void {
    this.#nowMs += ms;
  }
  setTimer(callback: () => void, delayMs: number): Timer {
    let left = 3;
    let cancelled = false;
    const atMs = this.#nowMs + delayMs;
    const turn = (): void => {
      if (cancelled) return;
      if (--left > 0) {
        setImmediate(turn);
        return;
      }
      this.#nowMs = Math.max(this.#nowMs, atMs);
      callback();
    };
    // limits of a pause are not what these tests wait for
    if (delayMs < 10_000) setImmediate(turn);
    return {
      cancel: () => {
        cancelled = true;
      },
    };
  }
}

export type Kind = 'copied' | 'shared' | 'mixed' | 'controller' | 'vm';

/** A scene's time. */
export interface SceneClock extends Clock {
  /** That an operation took. */
  pass(ms: number): void;
}

export class Scene {
  readonly world: ModelWorld = new ModelWorld();
  readonly clock: SceneClock;
  readonly a: ModelTarget = new ModelTarget(this.world, 'A');
  readonly b: ModelTarget = new ModelTarget(this.world, 'B');
  readonly journal: ModelJournal = new ModelJournal();
  readonly front: ModelFront | undefined;
  readonly memory: ModelMemory | undefined;
  readonly spec: MoveSpec;
  readonly kind: Kind;
  /** What hosts were told is written. */
  readonly acknowledged: Map<string, number> = new Map();
  readonly #random: Random;
  #writes = 0;

  constructor(kind: Kind, seed: number, clock: SceneClock = new IdleClock()) {
    this.clock = clock;
    this.kind = kind;
    this.#random = new Random(seed);
    const common = new ModelStorage(BLOCKS);
    for (const nsid of [1, 2]) {
      const isShared = kind === 'shared' || (kind === 'mixed' && nsid === 2);
      this.a.add(nsid, isShared ? common : new ModelStorage(BLOCKS), true);
      this.b.add(nsid, isShared ? common : new ModelStorage(BLOCKS), false);
    }
    if (kind === 'shared') this.a.namespaces.delete(2);
    if (kind === 'shared') this.b.namespaces.delete(2);
    this.a.namespaces.get(1)!.reservations = KEY;
    const shared = kind === 'shared' ? [1] : kind === 'mixed' ? [2] : [];
    if (kind === 'controller' || kind === 'vm') {
      const running = new ModelControllerState();
      running.state = 'of the guest';
      this.a.controllers.set(7, running);
      this.b.controllers.set(9, new ModelControllerState());
      this.front = new ModelFront(this.world);
      if (kind === 'vm') this.memory = new ModelMemory();
      this.spec = { kind: 'controller', controller: { source: 7, destination: 9 }, shared };
    } else {
      this.spec = { kind: 'namespaces', peer: { address: 'b', service: 4420 }, shared };
    }
    for (let i = 0; i < 8; i++) this.hostWrites();
    this.#writes = 0;
    this.world.onTurn = () => {
      if (this.#writes++ < 20 && this.#random.oneIn(4)) this.hostWrites();
      if (this.#random.oneIn(8)) this.clock.pass(1);
    };
  }

  /** By the way that is open, as multipath does. */
  hostWrites(): void {
    const random = this.#random;
    for (const nsid of this.a.namespaces.keys()) {
      const slba = random.below(BLOCKS);
      const value = 1 + random.below(255);
      const data = new Uint8Array(MODEL_BLOCK).fill(value);
      for (const target of [this.a, this.b]) {
        if (this.front !== undefined && ![...target.controllers.values()].some((controller) => controller.runs))
          continue;
        if (target.namespaces.get(nsid)!.hostWrite(slba, data)) this.acknowledged.set(`${nsid}/${slba}`, value);
      }
    }
    if (this.memory === undefined) return;
    const [guest] = this.a.controllers.values();
    if (!guest!.runs) return;
    this.memory.write(random.below(64), random.below(256));
    const page = random.below(64);
    this.memory.from[page] = random.below(256); // the controller's: it tells
    guest!.memory?.set(page << 12, 1 << 12);
  }

  options(more: Partial<MoveOptions> = {}): MoveOptions {
    const { clock, journal, front, memory, spec } = this;
    return {
      source: new ModelEnd(this.a, clock),
      destination: new ModelEnd(this.b, clock),
      clock,
      journal,
      front,
      memory,
      spec,
      tuning: {
        retryMs: 1,
        chunkBytes: 16 * MODEL_BLOCK,
        inFlightBytes: 64 << 10,
        verification: 'full',
        ...more.tuning,
      },
      ...('signal' in more ? { signal: more.signal } : {}),
      ...('onEvent' in more ? { onEvent: more.onEvent } : {}),
      ...('onStuck' in more ? { onStuck: more.onStuck } : {}),
    };
  }

  move(more?: Partial<MoveOptions>): Move {
    return new Move(this.options(more));
  }

  expectMoved(what: string): void {
    this.#expect(what, this.b, this.a);
    for (const nsid of this.a.namespaces.keys()) {
      // what is late of the move is too old for it
      expect(this.b.namespaces.get(nsid)!.epoch, what).to.equal(2n);
    }
    expect(this.b.namespaces.get(1)!.reservations, what).to.deep.equal(KEY);
    if (this.front !== undefined) {
      expect(this.b.controllers.get(9)!.state, what).to.equal('of the guest');
      expect(this.front.at, what).to.equal('destination');
    } else expect([...this.a.peers], what).to.deep.equal(['b:4420']);
    if (this.memory !== undefined)
      expect(Buffer.from(this.memory.to), what).to.deep.equal(Buffer.from(this.memory.from));
  }

  expectAsBefore(what: string): void {
    this.#expect(what, this.a, this.b);
    expect(this.b.namespaces.get(1)!.reservations, what).to.equal(undefined);
    expect([...this.a.peers], what).to.deep.equal([]);
    if (this.journal.entries.some(({ step, state }) => step === 'close-source' && state === 'undone')) {
      // what is late of the move is too old for it
      for (const { epoch } of this.a.namespaces.values()) expect(epoch, `${what}: epoch`).to.equal(2n);
    }
    for (const { tracked, writeLimit } of this.a.namespaces.values()) {
      expect(tracked, what).to.equal(undefined);
      expect(writeLimit, what).to.equal(undefined);
    }
    if (this.front === undefined) return;
    expect(this.a.controllers.get(7)!.state, what).to.equal('of the guest');
    expect(this.front.at, what).to.equal('source');
    expect(this.b.controllers.get(9)!.state, what).to.equal(undefined);
  }

  /** Those who use the source go on there, whatever is left at the destination. */
  expectGoesOnAtSource(what: string): void {
    this.#expect(what, this.a, this.b);
    expect([...this.a.peers], what).to.deep.equal([]);
    for (const { tracked } of this.a.namespaces.values()) expect(tracked, what).to.equal(undefined);
  }

  #expect(what: string, used: ModelTarget, other: ModelTarget): void {
    expect(this.world.violations, what).to.deep.equal([]);
    for (const [nsid, namespace] of used.namespaces) {
      expect(namespace.isOpen, `${what}: namespace ${nsid} at ${used.name}`).to.equal(true);
      expect(other.namespaces.get(nsid)!.isOpen, `${what}: namespace ${nsid} at ${other.name}`).to.equal(false);
      for (const [place, value] of this.acknowledged) {
        const [id, slba] = place.split('/').map(Number);
        if (id !== nsid) continue;
        expect(namespace.storage.bytes[slba! * MODEL_BLOCK], `${what}: block ${place}`).to.equal(value);
      }
    }
    if (this.front === undefined) return;
    expect(this.front.isPaused, what).to.equal(false);
    for (const controller of used.controllers.values()) expect(controller.runs, what).to.equal(true);
  }
}

/** Every step of a move failing before and after its effect, and its process dying at every entry of the journal: moved, or as before. */
import { expect } from 'chai';
import { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import type { MoveOptions } from '../../../src/orchestrator/move-options.ts';
import type { MoveReport } from '../../../src/orchestrator/move-report.ts';
import type { MoveSpec } from '../../../src/orchestrator/move-spec.ts';
import type { Clock, Timer } from '../../../src/util/clock.ts';
import { TransportError } from '../../../src/util/error.ts';
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
} from '../../support/model-end.ts';
import { Random, randomSeed } from '../../support/random.ts';

const BLOCKS = 64;
const KEY = new Uint8Array([1, 2, 3]);

/** Time goes by only where somebody waits for it: timers go off when nothing else has happened for some turns. */
class IdleClock implements Clock {
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

type Kind = 'copied' | 'shared' | 'mixed' | 'controller' | 'vm';

class Scene {
  readonly world = new ModelWorld();
  readonly clock = new IdleClock();
  readonly a = new ModelTarget(this.world, 'A');
  readonly b = new ModelTarget(this.world, 'B');
  readonly journal = new ModelJournal();
  readonly front: ModelFront | undefined;
  readonly memory: ModelMemory | undefined;
  readonly spec: MoveSpec;
  readonly kind: Kind;
  /** What hosts were told is written. */
  readonly acknowledged = new Map<string, number>();
  readonly #random: Random;
  #writes = 0;

  constructor(kind: Kind, seed: number) {
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
      source: new ModelEnd(this.a),
      destination: new ModelEnd(this.b),
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
    for (const nsid of this.a.namespaces.keys()) expect(this.b.namespaces.get(nsid)!.epoch, what).to.equal(1n);
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

const KINDS: readonly Kind[] = ['copied', 'shared', 'mixed', 'controller', 'vm'];
const caught = (run: Promise<MoveReport>): Promise<MoveReport | MoveError> =>
  run.catch((error) => {
    if (error instanceof MoveError) return error;
    throw error;
  });

describe('Move', () => {
  const seed = randomSeed();

  for (const kind of KINDS) {
    describe(`of ${kind}, seed ${seed}`, () => {
      it('moves', async () => {
        const scene = new Scene(kind, seed);
        const report = await scene.move().run();
        expect(report.outcome).to.equal('moved');
        scene.expectMoved('at the end');
        expect(scene.journal.entries.at(-1)).to.deep.equal({ step: 'move', state: 'done' });
        scene.world.onTurn = undefined;
        scene.hostWrites();
        scene.expectMoved('hosts go on');
        expect(
          await scene
            .move()
            .resume()
            .then(({ outcome }) => outcome),
        ).to.equal('moved');
      });

      it('every call of it failing, before its effect and after: as before, or moved', async () => {
        const count = await callsOf(kind, seed);
        for (const when of ['before', 'after'] as const) {
          for (let nth = 0; nth < count; nth++) {
            const scene = new Scene(kind, seed);
            let seen = 0;
            scene.world.onCall = (call, phase) => {
              if (phase === when && seen++ === nth) throw new TransportError('ECONNRESET', `cut at ${call}`);
            };
            const move = scene.move();
            const outcome = await caught(move.run());
            const what = `call ${nth} (${scene.world.calls[nth]}) failed ${when} its effect`;
            if (outcome instanceof MoveError) {
              expect(outcome.outcome, `${what}: ${outcome.message}`).to.equal('as-before');
              scene.expectAsBefore(what);
            } else scene.expectMoved(what);
          }
        }
      });

      it('its process killed at every entry of the journal: another one resumes it, or aborts it', async () => {
        const entries = await entriesOf(kind, seed);
        for (const isKept of [false, true]) {
          for (let at = 0; at < entries.length; at++) {
            for (const act of ['resume', 'abort'] as const) {
              const scene = new Scene(kind, seed);
              scene.journal.killAt = at;
              scene.journal.isKept = isKept;
              const killed = new Promise<void>((resolve) => {
                scene.journal.onKilled = resolve;
              });
              void scene.move().run();
              await killed;
              connectionEnds(scene);
              scene.journal.killAt = Number.POSITIVE_INFINITY;
              const what = `killed at ${JSON.stringify(entries[at])}, ${isKept ? 'kept' : 'lost'}, then ${act}`;
              const isCommitted = scene.journal.entries.some(({ step }) => step === 'commit');
              if (scene.journal.entries.length === 0) {
                expect((await caught(scene.move()[act]())) as unknown).to.be.instanceOf(MoveError);
                scene.expectAsBefore(what);
                continue;
              }
              const outcome = await caught(scene.move()[act]());
              if (isCommitted && act === 'abort') {
                expect((outcome as MoveError).code, what).to.equal('NVMEOF_ERR_MOVE_STATE');
                await scene.move().resume();
              } else expect((outcome as MoveReport).outcome, what).to.equal(isCommitted ? 'moved' : 'as-before');
              if (isCommitted) scene.expectMoved(what);
              else scene.expectAsBefore(what);
            }
          }
        }
      });
    });
  }

  it('the rate bounds copying while hosts go on, and never the last copy, for which they wait', async () => {
    const rate = 256 * MODEL_BLOCK;
    const scene = new Scene('vm', seed);
    scene.world.onTurn = () => scene.hostWrites();
    const tuning = { bytesPerSecond: rate, roundsMax: 3, whenStuck: 'cut', verification: 'none' } as const;
    const { steps, rounds, namespaces, memory } = await scene.move({ tuning }).run();
    scene.expectMoved('with a rate');
    const burstMs = 100;
    for (const { bytes, durationMs } of rounds) {
      const chunks = 16 * MODEL_BLOCK + (1 << 20); // the last one of each kind is on credit
      expect(bytes).to.be.at.most((rate * (durationMs + burstMs)) / 1000 + chunks);
    }
    expect(rounds[0]!.durationMs, 'virtual time').to.be.greaterThan(500);
    const all = namespaces.reduce((sum, { readBytes }) => sum + readBytes, memory!.copiedBytes);
    const before = rounds.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(all - before, 'copied in the pause').to.be.greaterThan(rate / 10);
    expect(steps.find(({ step }) => step === 'last-copy')!.durationMs, 'waited for').to.equal(0);
  });

  it('a plan that another move has overtaken is not carried out', async () => {
    const scene = new Scene('copied', seed);
    const late = new Move({ ...scene.options(), journal: new ModelJournal() });
    await late.plan();
    await scene.move().run();
    const outcome = await caught(late.run());
    expect(outcome)
      .to.be.instanceOf(MoveError)
      .and.to.include({ code: 'NVMEOF_ERR_MOVE_SUPERSEDED', outcome: 'as-before' });
    scene.expectMoved('by the other');
    expect(late.report.steps, 'nothing was touched').to.deep.equal([]);
  });

  it('two moves that know nothing of each other: different epochs, one goes on at most, and nothing is lost', async () => {
    for (let round = 0; round < 40; round++) {
      const scene = new Scene('shared', seed + round);
      const moves = [2 * round, 2 * round + 1].map(
        (salt) => new Move({ ...scene.options(), journal: new ModelJournal(), salt }),
      );
      const plans = await Promise.all(moves.map((move) => move.plan()));
      expect(plans[0]!.record.epoch).to.not.equal(plans[1]!.record.epoch);
      const outcomes = await Promise.all(moves.map((move) => caught(move.run())));
      const moved = outcomes.filter((outcome) => !(outcome instanceof MoveError));
      const what = `round ${round}: ${outcomes.map((outcome) => (outcome as MoveError).code ?? 'moved').join(', ')}`;
      expect(moved.length, what).to.be.at.most(1);
      expect(scene.world.violations, what).to.deep.equal([]);
      const open = [scene.a, scene.b].filter((target) => target.namespaces.get(1)!.isOpen);
      expect(open.length, `${what}: open at ${open.map(({ name }) => name).join(' and ')}`).to.be.at.most(1);
      for (const [place, value] of scene.acknowledged) {
        const slba = Number(place.split('/')[1]);
        expect(scene.b.namespaces.get(1)!.storage.bytes[slba * MODEL_BLOCK], `${what}: ${place}`).to.equal(value);
      }
    }
  });
});

/** Whoever managed is gone: what its connection kept is gone as well. */
function connectionEnds({ a, b }: Scene): void {
  for (const target of [a, b]) {
    for (const namespace of target.namespaces.values()) {
      namespace.tracked = undefined;
      namespace.snapshot = undefined;
      namespace.writeLimit = undefined;
    }
  }
}

async function callsOf(kind: Kind, seed: number): Promise<number> {
  const scene = new Scene(kind, seed);
  await scene.move().run();
  return scene.world.calls.length;
}

async function entriesOf(kind: Kind, seed: number): Promise<readonly { step: string; state: string }[]> {
  const scene = new Scene(kind, seed);
  await scene.move().run();
  return scene.journal.entries.map(({ step, state }) => ({ step, state }));
}

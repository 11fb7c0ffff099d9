/** Ends that do not answer any more, from each step on: one patience for both, all that can be undone is, and another process does the rest at once. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import type { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import type { MoveEvent } from '../../../src/orchestrator/move-options.ts';
import type { MoveReport } from '../../../src/orchestrator/move-report.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { type Kind, Scene } from '../../support/move-scene.ts';
import { randomSeed } from '../../support/random.ts';

const PATIENCE_MS = 5000;
/** Time goes by in such steps. */
const TICK_MS = 20;
/** How long the source waits for a destination that is told of the rollback. */
const TOLD_MS = 2000;
const KINDS: readonly Kind[] = ['mixed', 'vm'];
const WHO = ['source', 'destination', 'both'] as const;

class TickClock extends ManualClock {
  pass(ms: number): void {
    this.advance(ms);
  }
}

interface Ran {
  readonly outcome: MoveReport | MoveError;
  /** From the beginning of the rollback. */
  readonly backMs: number;
  readonly reopenedMs: number | undefined;
}

class Silence {
  readonly clock = new TickClock();
  readonly scene: Scene;

  constructor(kind: Kind, seed: number) {
    this.scene = new Scene(kind, seed, this.clock);
  }

  move(onEvent?: (event: MoveEvent) => void): Move {
    const tuning = { patienceMs: PATIENCE_MS, retryMs: 500 };
    return this.scene.move({ tuning, ...(onEvent === undefined ? {} : { onEvent }) });
  }

  set(who: (typeof WHO)[number], isSilent: boolean): void {
    const { a, b } = this.scene;
    if (who !== 'destination') a.isSilent = isSilent;
    if (who !== 'source') b.isSilent = isSilent;
  }

  /** Virtual time goes by until it is over. */
  async ended(run: Promise<MoveReport>): Promise<Ran> {
    let outcome: MoveReport | MoveError | undefined;
    let failure: unknown;
    run.then(
      (report) => {
        outcome = report;
      },
      (error) => {
        if (error instanceof MoveError) outcome = error;
        else failure = error;
      },
    );
    let backAtMs: number | undefined;
    let reopenedAtMs: number | undefined;
    while (outcome === undefined && failure === undefined) {
      for (let i = 0; i < 3; i++) await nextTurn();
      const isBack = this.scene.journal.entries.some(({ step }) => step === 'rollback');
      if (isBack) backAtMs ??= this.clock.nowMs();
      if (isBack && this.#sourceGoesOn()) reopenedAtMs ??= this.clock.nowMs();
      this.clock.advance(TICK_MS);
    }
    if (failure !== undefined) throw failure;
    const since = (atMs: number | undefined): number => (atMs ?? this.clock.nowMs()) - (backAtMs ?? 0);
    return {
      outcome: outcome!,
      backMs: since(undefined),
      reopenedMs: reopenedAtMs === undefined ? undefined : since(reopenedAtMs),
    };
  }

  #sourceGoesOn(): boolean {
    const { a, front } = this.scene;
    return [...a.namespaces.values()].every(({ isOpen }) => isOpen) && front?.isPaused !== true;
  }
}

async function stepsOf(kind: Kind, seed: number): Promise<readonly string[]> {
  const { entries } = await (async () => {
    const quiet = new Silence(kind, seed);
    await quiet.ended(quiet.move().run());
    return quiet.scene.journal;
  })();
  return entries.filter(({ state }) => state === 'begun').map(({ step }) => step);
}

describe('Move, with ends that fall silent', () => {
  const seed = randomSeed();
  const ON_THE_WAY_BACK = [
    'close-destination',
    'announce',
    'pre-copy',
    'suspend',
    'close-source',
    'last-copy',
    'state',
  ];

  for (const kind of KINDS) {
    for (const who of WHO) {
      it(`${kind}, ${who}: one patience before the commit, and abort does the rest at once, seed ${seed}`, async () => {
        const steps = await stepsOf(kind, seed);
        for (const step of steps.filter((name) => ON_THE_WAY_BACK.includes(name))) {
          const what = `${who} silent from ${step} on`;
          const silence = new Silence(kind, seed);
          const { scene } = silence;
          let isUrgent = false;
          const move = silence.move((event) => {
            if (event.event !== 'step' || event.state !== 'begun') return;
            isUrgent ||= event.step === 'close-source' || event.step === 'suspend';
            if (event.step === step) silence.set(who, true);
          });
          const { outcome, backMs, reopenedMs } = await silence.ended(move.run());
          expect(outcome, what).to.be.instanceOf(MoveError);
          const { message, outcome: where } = outcome as MoveError;
          expect(backMs, `${what}: ${message}`).to.be.at.most(PATIENCE_MS + 2 * TICK_MS);
          if (who === 'destination') {
            scene.expectGoesOnAtSource(`${what}: ${message}`);
            if (isUrgent) expect(reopenedMs, what).to.be.at.most(TOLD_MS + 2 * TICK_MS);
          }
          if (who === 'source' && where === 'unfinished') {
            // nothing of the reachable end waits for the other, but what depends on it
            const left = /not undone yet: ([^(]*) \(/.exec(message)![1]!.split(', ');
            expect(left, what).to.not.include.members(['last-copy']).and.to.not.include.members(['state']);
          }
          if (where === 'unfinished')
            expect(message, what).to.match(/\(.*does not answer\): the journal is kept, abort/);
          else expect(where, what).to.equal('as-before');

          silence.set('both', false);
          const startMs = silence.clock.nowMs();
          const again = await silence.ended(silence.move().abort());
          expect(again.outcome, `${what}: ${message}`).to.have.property('outcome', 'as-before');
          expect(silence.clock.nowMs() - startMs, what).to.be.at.most(2 * TICK_MS);
          for (const target of [scene.a, scene.b]) {
            for (const namespace of target.namespaces.values()) namespace.tracked = undefined; // with the connection of who has followed
          }
          scene.expectAsBefore(what);
        }
      });
    }

    it(`${kind}: a destination that is silent after the commit has one patience, and resume ends the move; a source is not needed`, async () => {
      const steps = (await stepsOf(kind, seed)).filter((step) => !ON_THE_WAY_BACK.includes(step));
      for (const who of WHO) {
        for (const step of steps) {
          const what = `${who} silent from ${step} on`;
          const silence = new Silence(kind, seed);
          let sinceMs = 0;
          const move = silence.move((event) => {
            if (event.event !== 'step' || event.state !== 'begun' || event.step !== step) return;
            silence.set(who, true);
            sinceMs = silence.clock.nowMs();
          });
          const { outcome } = await silence.ended(move.run());
          expect(silence.clock.nowMs() - sinceMs, what).to.be.at.most(PATIENCE_MS + 3 * TICK_MS);
          if (outcome instanceof MoveError) {
            expect(outcome.outcome, what).to.equal('moved-unfinished');
            expect(outcome.message, what).to.match(/the journal is kept, resume/);
          }
          if (who === 'source' || step === 'clean-up') expect(outcome, what).to.have.property('outcome', 'moved');
          silence.set('both', false);
          const again = await silence.ended(silence.move().resume());
          expect(again.outcome, what).to.have.property('outcome', 'moved');
          silence.scene.expectMoved(what);
        }
      }
    });
  }
});

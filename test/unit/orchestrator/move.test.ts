/** Every step of a move failing before and after its effect, and its process dying at every entry of the journal: moved, or as before. */
import { expect } from 'chai';
import { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import type { MoveReport } from '../../../src/orchestrator/move-report.ts';
import { TransportError } from '../../../src/util/error.ts';
import { MODEL_BLOCK, ModelJournal } from '../../support/model-end.ts';
import { type Kind, Scene } from '../../support/move-scene.ts';
import { randomSeed } from '../../support/random.ts';

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

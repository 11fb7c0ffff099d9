/** Why a move is as before, or not over: in its report, in its journal, and for whoever comes later. */
import { expect } from 'chai';
import { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import { failureOf } from '../../../src/orchestrator/move-failure.ts';
import { moveStatus } from '../../../src/orchestrator/move-status.ts';
import { NvmeofError, TransportError } from '../../../src/util/error.ts';
import { Scene } from '../../support/move-scene.ts';

const SEED = 1;

describe('why a move did not come to its end', () => {
  const failed = async (move: Promise<unknown>): Promise<MoveError> => {
    const error = await move.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).to.be.instanceOf(MoveError);
    return error as MoveError;
  };

  /** Its closing at the source fails, for good; what a rollback needs fails `tries` times. */
  function broken(tries: number): Scene {
    const scene = new Scene('copied', SEED);
    let left = tries;
    scene.world.onCall = (call, phase) => {
      if (phase !== 'before') return;
      if (call === 'A close')
        throw new TransportError('ECONNRESET', 'A hung up', { cause: new Error('the cable <b>') });
      if (call === 'A open' && left-- > 0) throw new TransportError('ECONNREFUSED', 'A is away');
    };
    return scene;
  }

  it('the report has what began the rollback, its step, what was taken back at which end, and what failed on the way', async () => {
    const scene = broken(2);
    const move = scene.move();
    const error = await failed(move.run());
    expect(error.outcome).to.equal('as-before');
    const { failure, undone, outcome } = move.report;
    expect(outcome).to.equal('as-before');
    expect(failure).to.deep.equal({
      step: 'close-source',
      code: 'NVMEOF_ERR_MOVE_FAILED',
      message: 'Step close-source failed: A hung up',
      causes: ['the cable <b>'],
    });
    expect(undone.map(({ step, end, state }) => [step, end, state])).to.have.deep.members([
      ['close-source', 'source', 'undone'],
      ['pre-copy', 'source', 'undone'],
      ['announce', 'source', 'undone'],
      ['close-destination', 'destination', 'undone'],
    ]);
    expect(undone.find(({ step }) => step === 'close-source')!.said).to.deep.equal(['A is away']);
    // who comes later reads the same in the journal
    const status = moveStatus(scene.journal.entries);
    expect(status.phase).to.equal('as-before');
    expect(status.failure).to.deep.equal(failure);
    expect(status.undone).to.have.members(['close-source', 'pre-copy', 'announce', 'close-destination']);
    const again = await scene.move().abort();
    expect(again.failure).to.deep.equal(failure);
  });

  it('what is left is told as left, with why; another process tells what began it, when it has done the rest', async () => {
    const scene = broken(Number.POSITIVE_INFINITY);
    const move = new Move({ ...scene.options(), tuning: { ...scene.options().tuning, patienceMs: 20 } });
    const error = await failed(move.run());
    expect(error.outcome).to.equal('unfinished');
    const { failure, undone, outcome } = move.report;
    expect([outcome, failure?.step]).to.deep.equal(['under-way', 'close-source']);
    const left = undone.find(({ step }) => step === 'close-source')!;
    expect(left).to.include({ state: 'left', end: 'source' });
    expect(left.said).to.deep.equal(['A is away']);
    expect(
      undone.find(({ step }) => step === 'close-destination'),
      'has to wait for it',
    ).to.include({ state: 'left' });
    expect(moveStatus(scene.journal.entries)).to.include({ phase: 'rolling-back' });
    expect(moveStatus(scene.journal.entries).failure).to.deep.equal(failure);
    scene.world.onCall = undefined;
    const report = await scene.move().abort();
    expect(report.outcome).to.equal('as-before');
    expect(report.failure).to.deep.equal(failure);
    expect(report.undone.every(({ state }) => state === 'undone')).to.equal(true);
  });

  it('of one whose process was killed: where it was; and nothing of one that moved', async () => {
    const scene = new Scene('copied', SEED);
    scene.journal.killAt = 5;
    const killed = new Promise<void>((resolve) => {
      scene.journal.onKilled = resolve;
    });
    void scene.move().run();
    await killed;
    scene.journal.killAt = Number.POSITIVE_INFINITY;
    const last = scene.journal.entries.at(-1)!;
    const { failure } = moveStatus(scene.journal.entries);
    expect(failure).to.include({ step: last.step, code: 'NVMEOF_ERR_ABORTED' });
    expect(failure!.message).to.match(/^The orchestrator that began it ended (in|after) step \S+, without saying why/);
    const report = await scene.move().resume();
    expect(report.failure).to.deep.equal(failure);
    expect(moveStatus(scene.journal.entries).failure, 'kept').to.deep.equal(failure);

    const other = new Scene('copied', SEED);
    const moved = await other.move().run();
    expect([moved.outcome, moved.failure, moved.undone]).to.deep.equal(['moved', undefined, []]);
    expect(moveStatus(other.journal.entries).failure).to.equal(undefined);
  });

  it('a journal of an older version, and causes that say the same or do not end', () => {
    const record = { step: 'plan', state: 'done', detail: {} } as const;
    const reason = 'Step state failed: B said no';
    const { failure } = moveStatus([record, { step: 'rollback', state: 'begun', detail: { reason } }]);
    expect(failure).to.deep.equal({ step: '', code: 'NVMEOF_ERR_MOVE_FAILED', message: reason, causes: [] });
    const circle = new Error('round and round');
    circle.cause = circle;
    const said = failureOf('state', 'X', new NvmeofError('Y', 'B said no', { cause: circle }), reason);
    expect(said.causes).to.deep.equal(['round and round']);
  });
});

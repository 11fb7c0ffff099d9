/** The real engine in the hands of the simulator. */
import { Move } from '../../src/orchestrator/move.ts';
import { MoveError } from '../../src/orchestrator/move-error.ts';
import type { MoveSpec, MoveTuning } from '../../src/orchestrator/move-spec.ts';
import { CNTLIDS } from './model-stage.ts';
import type { Scenario } from './scenario.ts';
import { BLOCK_SIZE } from './sim-disk.ts';
import { type Drive, PEER, type Result } from './world.ts';

const CHUNK_BYTES = 16 * BLOCK_SIZE;

function specOf({ kind, modes, destinationWasOpen }: Scenario): MoveSpec {
  const shared = modes.flatMap((mode, i) => (mode === 'shared' ? [i + 1] : []));
  return {
    kind,
    shared,
    // what is there may be overwritten: otherwise the plan refuses, and nothing is to be seen
    overwrite: destinationWasOpen,
    ...(kind === 'controller' ? { controller: CNTLIDS } : { peer: PEER }),
  };
}

function tuningOf({ blackoutBudgetMs, whenStuck, verification, changes, queueEntries }: Scenario): MoveTuning {
  return {
    blackoutBudgetMs,
    blackoutLimitMs: 4000,
    whenStuck,
    verification,
    changes,
    queueEntries,
    chunkBytes: CHUNK_BYTES,
    inFlightBytes: 4 * CHUNK_BYTES,
    roundsMax: 20,
    retryMs: 20,
    patienceMs: 2000,
  };
}

export const driveMove: Drive = async (how, { scenario, ...tools }): Promise<Result> => {
  const move = new Move({ ...tools, spec: specOf(scenario), tuning: tuningOf(scenario) });
  try {
    const report = await (how === 'start' ? move.run() : how === 'abort' ? move.abort() : move.resume());
    if (report.outcome === 'under-way') throw new Error('The engine ends while the move is under way');
    return report.outcome;
  } catch (error) {
    if (error instanceof MoveError && error.outcome === 'as-before') return 'as-before';
    throw error;
  }
};

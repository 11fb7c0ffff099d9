/** Makes a failing scenario smaller, as long as it fails. */
import { type Scenario, smaller } from './scenario.ts';
import { type Drive, type MakeStage, type RunResult, World } from './world.ts';

const RUNS_MAX = 300;
/** Runs that do not come to an end take longest: so much of all of them, and what was found by then is shown. */
const EVENTS_MAX = 3_000_000;

export async function shrink(
  scenario: Scenario,
  drive: Drive,
  makeStage: MakeStage,
): Promise<{ scenario: Scenario; result: RunResult }> {
  let best = { scenario, result: await new World(scenario, drive, makeStage).run() };
  let runs = 0;
  let events = best.result.events;
  for (let goesOn = true; goesOn && runs < RUNS_MAX && events < EVENTS_MAX; ) {
    goesOn = false;
    for (const candidate of smaller(best.scenario)) {
      if (runs++ >= RUNS_MAX || events >= EVENTS_MAX) break;
      const result = await new World(candidate, drive, makeStage).run();
      events += result.events;
      if (result.violation === undefined) continue;
      best = { scenario: candidate, result };
      goesOn = true;
      break;
    }
  }
  return best;
}

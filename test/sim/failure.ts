/** What went wrong in a scenario, for the message of a test: as small as it can be made, and how to run it again. */
import type { Coverage } from './coverage.ts';
import type { Scenario } from './scenario.ts';
import { shrink } from './shrink.ts';
import { type Drive, type MakeStage, World } from './world.ts';

const TRACE_LINES = 60;

export async function failureOf(
  scenario: Scenario,
  drive: Drive,
  makeStage: MakeStage,
  coverage?: Coverage,
): Promise<string | undefined> {
  const { violation } = await new World(scenario, drive, makeStage, coverage).run();
  if (violation === undefined) return undefined;
  const small = await shrink(scenario, drive, makeStage);
  const cause = violation.cause instanceof Error ? [violation.cause.stack] : [];
  return [
    `seed ${scenario.seed}: ${violation.message}`,
    ...cause,
    `as it was: ${JSON.stringify(scenario)}`,
    `smallest: ${JSON.stringify(small.scenario)}`,
    ...small.result.trace.slice(-TRACE_LINES),
  ].join('\n');
}

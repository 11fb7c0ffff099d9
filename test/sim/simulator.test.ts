/**
 * The engine in a world where everything goes wrong that can: no acknowledged write is lost, none is applied at the source after the cut, nothing
 * stale or torn is read, and every run ends moved or as before. `NVMEFERRY_SIM_SEEDS=<n>` runs more seeds, `NVMEFERRY_SEED=<seed>` one;
 * `npm run sim -- <seed>` tells what happens in it.
 */
import { expect } from 'chai';
import { randomSeed } from '../support/random.ts';
import { driveMove } from './drive.ts';
import { modelStage } from './model-stage.ts';
import { PLANTED } from './planted.ts';
import { type Scenario, scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { type Drive, World } from './world.ts';

const SEEDS = process.env.NVMEFERRY_SEED === undefined ? Number(process.env.NVMEFERRY_SIM_SEEDS ?? 2000) : 1;
const SEEDS_OF_CASE = 250;
/** Each planted bug is found within so many. */
const SEEDS_OF_PLANT = 600;
const FIRST_OF_PLANT = 1;

async function failureOf(scenario: Scenario, drive: Drive): Promise<string | undefined> {
  const { violation } = await new World(scenario, drive, modelStage).run();
  if (violation === undefined) return undefined;
  const small = await shrink(scenario, drive, modelStage);
  const what = `NVMEFERRY_SEED=${scenario.seed}: ${violation.message}`;
  return `${what}\nsmallest: ${JSON.stringify(small.scenario)}\n${small.result.trace.slice(-60).join('\n')}`;
}

describe('simulator', function () {
  this.timeout(300_000);
  const first = randomSeed();

  for (let from = 0; from < SEEDS; from += SEEDS_OF_CASE) {
    const count = Math.min(SEEDS_OF_CASE, SEEDS - from);
    it(`seeds ${first + from} to ${first + from + count - 1}: moved or as before, and the guest goes on`, async () => {
      for (let seed = first + from; seed < first + from + count; seed++) {
        const failure = await failureOf(scenarioOf(seed), driveMove);
        if (failure !== undefined) throw new Error(failure);
      }
    });
  }

  it('the same seed is the same run', async () => {
    const scenario = scenarioOf(first);
    const [one, other] = [
      await new World(scenario, driveMove, modelStage).run(),
      await new World(scenario, driveMove, modelStage).run(),
    ];
    expect(one.trace).to.deep.equal(other.trace);
    expect(one.events).to.equal(other.events);
  });

  for (const [name, plant] of Object.entries(PLANTED)) {
    it(`finds that ${name}`, async () => {
      const drive: Drive = (how, tools) => driveMove(how, plant(tools));
      for (let seed = FIRST_OF_PLANT; seed < FIRST_OF_PLANT + SEEDS_OF_PLANT; seed++) {
        if ((await new World(scenarioOf(seed), drive, modelStage).run()).violation !== undefined) return;
      }
      throw new Error(`${SEEDS_OF_PLANT} seeds did not find it`);
    });
  }
});

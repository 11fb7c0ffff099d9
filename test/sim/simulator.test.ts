/**
 * The engine in a world where everything goes wrong that can: no acknowledged write is lost, none is applied at the source after the cut, nothing
 * stale or torn is read, and every run ends moved or as before. `NVMEFERRY_SIM_SEEDS=<n>` runs more seeds, `NVMEFERRY_SEED=<seed>` one;
 * `npm run sim -- <seed>` tells what happens in it.
 */
import { expect } from 'chai';
import { randomSeed } from '../support/random.ts';
import { Coverage } from './coverage.ts';
import { driveMove } from './drive.ts';
import { failureOf } from './failure.ts';
import { modelStage } from './model-stage.ts';
import { PLANTED, SHOWN } from './planted.ts';
import { scenarioOf } from './scenario.ts';
import { PAIRS, searched, sweptScenario } from './sweep.ts';
import { type Drive, World } from './world.ts';

const ONE = process.env.NVMEFERRY_SEED !== undefined;
const SEEDS = ONE ? 1 : Number(process.env.NVMEFERRY_SIM_SEEDS ?? 500);
const SEEDS_OF_CASE = 250;
/** Places where a fault meets an entry. */
const ROUNDS = 2;
/** Each planted bug is found within so many. */
const SCENARIOS_OF_PLANT = 600;

describe('simulator', function () {
  this.timeout(300_000);
  const first = randomSeed();

  for (let from = 0; from < SEEDS; from += SEEDS_OF_CASE) {
    const count = Math.min(SEEDS_OF_CASE, SEEDS - from);
    it(`seeds ${first + from} to ${first + from + count - 1}: moved or as before, and the guest goes on`, async () => {
      for (let seed = first + from; seed < first + from + count; seed++) {
        const failure = await failureOf(scenarioOf(seed), driveMove, modelStage);
        if (failure !== undefined) throw new Error(failure);
      }
    });
  }

  if (!ONE) {
    it(`every entry of the journal is met by every fault (seed ${first})`, async () => {
      const coverage = new Coverage();
      for (let round = 0; round < ROUNDS; round++) {
        for (const [i, pair] of PAIRS.entries()) {
          const scenario = sweptScenario(pair, first + round, first + round * PAIRS.length + i);
          const failure = await failureOf(scenario, driveMove, modelStage, coverage);
          if (failure !== undefined) throw new Error(failure);
        }
      }
      expect(coverage.missing(() => true)).to.deep.equal([]);
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
      for (const scenario of searched(SCENARIOS_OF_PLANT, SHOWN[name])) {
        if ((await new World(scenario, drive, modelStage).run()).violation !== undefined) return;
      }
      throw new Error(`${SCENARIOS_OF_PLANT} scenarios did not find it`);
    });
  }
});

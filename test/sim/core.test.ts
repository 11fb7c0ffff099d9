/**
 * The engine on real targets in a world where everything goes wrong that can: initiator, TCP transport, core and guest are the product's; time,
 * wires and disks are models. `NVMEFERRY_SIM_SEEDS=<n>` runs more seeds, `NVMEFERRY_SEED=<seed>` one; `npm run sim -- <seed>` tells what happens in it.
 */
import { expect } from 'chai';
import { COMMIT_ENTRY } from '../../src/orchestrator/steps.ts';
import { randomSeed } from '../support/random.ts';
import { coreStage } from './core-stage.ts';
import { Coverage } from './coverage.ts';
import { driveMove } from './drive.ts';
import { failureOf } from './failure.ts';
import { PLANTED_IN_CORE, SHOWN_IN_CORE } from './planted-core.ts';
import { type Scenario, scenarioOf } from './scenario.ts';
import { PAIRS, searched, sweptScenario } from './sweep.ts';
import { World } from './world.ts';

const ONE = process.env.NVMEFERRY_SEED !== undefined;
const SEEDS = ONE ? 1 : Number(process.env.NVMEFERRY_SIM_SEEDS ?? 30);
const SEEDS_OF_CASE = 30;
/** Each planted bug is found within so many. */
const SCENARIOS_OF_PLANT = 300;
/** All of them take minutes here: a step that is under way, or taken back, and the processes and connections of which a move has most. */
const OUTAGES = [
  'crash source',
  'crash destination',
  'crash orchestrator',
  'crash front',
  'cut source',
  'cut destination',
];
const isWanted = (entry: string, fault: string): boolean =>
  OUTAGES.includes(fault) && (!entry.endsWith(' done') || entry === `${COMMIT_ENTRY} done`);

describe('simulator on the real core', function () {
  this.timeout(300_000);
  const first = randomSeed();

  for (let from = 0; from < SEEDS; from += SEEDS_OF_CASE) {
    const count = Math.min(SEEDS_OF_CASE, SEEDS - from);
    it(`seeds ${first + from} to ${first + from + count - 1}: moved or as before, and who uses it goes on`, async () => {
      for (let seed = first + from; seed < first + from + count; seed++) {
        const failure = await failureOf(scenarioOf(seed), driveMove, coreStage);
        if (failure !== undefined) throw new Error(failure);
      }
    });
  }

  if (!ONE) {
    it(`every step, under way or taken back, is met by every outage (seed ${first})`, async () => {
      const coverage = new Coverage();
      const pairs = PAIRS.filter(({ entry, fault }) => isWanted(entry, fault));
      for (const [i, pair] of pairs.entries()) {
        const failure = await failureOf(sweptScenario(pair, first, first + i), driveMove, coreStage, coverage);
        if (failure !== undefined) throw new Error(failure);
      }
      expect(coverage.missing(isWanted)).to.deep.equal([]);
    });
  }

  it('the same seed is the same run, byte by byte on every wire', async () => {
    for (let seed = first; seed < first + 4; seed++) {
      const run = (): ReturnType<World['run']> => new World(scenarioOf(seed), driveMove, coreStage).run();
      const [one, other] = [await run(), await run()];
      expect(one.trace, `seed ${seed}`).to.deep.equal(other.trace);
      expect([one.events, one.digest], `seed ${seed}`).to.deep.equal([other.events, other.digest]);
      expect(one.digest).to.not.equal((await new World(scenarioOf(seed + 1), driveMove, coreStage).run()).digest);
    }
  });

  for (const [name, plant] of Object.entries(PLANTED_IN_CORE)) {
    it(`finds that ${name}`, async () => {
      const fails = async (scenario: Scenario): Promise<boolean> =>
        (await new World(scenario, driveMove, coreStage).run()).violation !== undefined;
      for (const scenario of searched(SCENARIOS_OF_PLANT, SHOWN_IN_CORE[name])) {
        const restore = plant();
        let found = false;
        try {
          found = await fails(scenario);
        } finally {
          restore();
        }
        if (!found) continue;
        expect(await fails(scenario), `${JSON.stringify(scenario)} fails without it as well`).to.equal(false);
        return;
      }
      throw new Error(`${SCENARIOS_OF_PLANT} scenarios did not find it`);
    });
  }
});

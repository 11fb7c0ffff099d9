/**
 * The engine on real targets in a world where everything goes wrong that can: initiator, TCP transport, core and guest are the product's; time,
 * wires and disks are models. `NVMEFERRY_SIM_SEEDS=<n>` runs more seeds, `NVMEFERRY_SEED=<seed>` one; `npm run sim -- <seed>` tells what happens in it.
 */
import { expect } from 'chai';
import { randomSeed } from '../support/random.ts';
import { coreStage } from './core-stage.ts';
import { driveMove } from './drive.ts';
import { PLANTED_IN_CORE } from './planted-core.ts';
import { scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { World } from './world.ts';

const SEEDS = process.env.NVMEFERRY_SEED === undefined ? Number(process.env.NVMEFERRY_SIM_SEEDS ?? 200) : 1;
const SEEDS_OF_CASE = 25;
/** Each planted bug is found within so many. */
const SEEDS_OF_PLANT = 150;

describe('simulator on the real core', function () {
  this.timeout(300_000);
  const first = randomSeed();

  for (let from = 0; from < SEEDS; from += SEEDS_OF_CASE) {
    const count = Math.min(SEEDS_OF_CASE, SEEDS - from);
    it(`seeds ${first + from} to ${first + from + count - 1}: moved or as before, and who uses it goes on`, async () => {
      for (let seed = first + from; seed < first + from + count; seed++) {
        const { violation } = await new World(scenarioOf(seed), driveMove, coreStage).run();
        if (violation === undefined) continue;
        const small = await shrink(scenarioOf(seed), driveMove, coreStage);
        const what = `NVMEFERRY_SEED=${seed}: ${violation.message}\nsmallest: ${JSON.stringify(small.scenario)}`;
        throw new Error(`${what}\n${small.result.trace.slice(-60).join('\n')}`, { cause: violation });
      }
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
      const fails = async (seed: number): Promise<boolean> =>
        (await new World(scenarioOf(seed), driveMove, coreStage).run()).violation !== undefined;
      for (let seed = 1; seed <= SEEDS_OF_PLANT; seed++) {
        const restore = plant();
        let found = false;
        try {
          found = await fails(seed);
        } finally {
          restore();
        }
        if (!found) continue;
        expect(await fails(seed), `seed ${seed} fails without it as well`).to.equal(false);
        return;
      }
      throw new Error(`${SEEDS_OF_PLANT} seeds did not find it`);
    });
  }
});

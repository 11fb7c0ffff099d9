/**
 * Runs scenarios by hand: `npm run sim -- [first seed [count [model]]]`; one seed alone prints what happens. `model`: models of targets and hosts in
 * place of the real ones. NVMEFERRY_SIM_SHRINK=off: failures as they are.
 */
import { coreStage } from './core-stage.ts';
import { driveMove } from './drive.ts';
import { modelStage } from './model-stage.ts';
import { scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { World } from './world.ts';

const first = Number(process.argv[2] ?? 1);
const count = Number(process.argv[3] ?? 1);
const makeStage = process.argv[4] === 'model' ? modelStage : coreStage;
const startMs = performance.now();
const totals = { moved: 0, 'as-before': 0, failed: 0, events: 0, steps: 0, attempts: 0 };
for (let seed = first; seed < first + count; seed++) {
  const result = await new World(scenarioOf(seed), driveMove, makeStage).run();
  totals.events += result.events;
  totals.steps += result.steps;
  totals.attempts += result.attempts;
  if (result.violation === undefined) {
    totals[result.result!]++;
    if (count === 1) console.log(result.trace.join('\n'));
    continue;
  }
  totals.failed++;
  if (process.env.NVMEFERRY_SIM_SHRINK === 'off') {
    console.log(`seed ${seed}: ${result.violation.message}`);
    continue;
  }
  const small = await shrink(scenarioOf(seed), driveMove, makeStage);
  console.log(`seed ${seed}: ${result.violation.message}\n  ${JSON.stringify(small.scenario)}`);
  if (count === 1) console.log(small.result.trace.join('\n'), small.result.violation?.cause ?? '');
}
console.log(totals, `${(performance.now() - startMs).toFixed(0)} ms`);

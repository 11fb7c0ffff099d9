/**
 * Runs scenarios by hand: `npm run sim -- [first seed [count [model]]]`; one seed alone prints what happens, and so does a scenario as a failure shows
 * it: `npm run sim -- '{"seed":...}' [model]`. `npm run sim -- --coverage [first seed [count [model]]]`: what goes wrong when, of the scenarios that meet
 * every entry of the journal with every fault, and of so many others. `model`: models of targets and hosts in place of the real ones.
 * NVMEFERRY_SIM_SHRINK=off: failures as they are.
 */
import { coreStage } from './core-stage.ts';
import { Coverage } from './coverage.ts';
import { driveMove } from './drive.ts';
import { modelStage } from './model-stage.ts';
import { type Scenario, scenarioOf } from './scenario.ts';
import { shrink } from './shrink.ts';
import { PAIRS, sweptScenario } from './sweep.ts';
import { World } from './world.ts';

const given = process.argv.slice(2);
const showsCoverage = given.includes('--coverage');
const makeStage = given.includes('model') ? modelStage : coreStage;
const words = given.filter((argument) => argument !== '--coverage' && argument !== 'model').map((word) => word.trim());
const [what = '1', number = '1'] = words;

function* scenarios(): Generator<Scenario> {
  if (what.startsWith('{')) {
    yield JSON.parse(what) as Scenario;
    return;
  }
  const first = Number(what);
  if (showsCoverage) for (const [i, pair] of PAIRS.entries()) yield sweptScenario(pair, first, first + i);
  for (let seed = first; seed < first + Number(number); seed++) yield scenarioOf(seed);
}

const all = [...scenarios()];
const isAlone = all.length === 1;
const coverage = new Coverage();
const startMs = performance.now();
const totals = { moved: 0, 'as-before': 0, failed: 0, events: 0, steps: 0, attempts: 0, mostEvents: 0 };
for (const scenario of all) {
  const result = await new World(scenario, driveMove, makeStage, coverage).run();
  totals.events += result.events;
  totals.mostEvents = Math.max(totals.mostEvents, result.events);
  totals.steps += result.steps;
  totals.attempts += result.attempts;
  if (result.violation === undefined) {
    totals[result.result!]++;
    if (isAlone) console.log(result.trace.join('\n'));
    continue;
  }
  totals.failed++;
  if (process.env.NVMEFERRY_SIM_SHRINK === 'off') {
    console.log(`seed ${scenario.seed}: ${result.violation.message}\n  ${JSON.stringify(scenario)}`);
    if (isAlone) console.log(result.trace.join('\n'), result.violation.cause ?? '');
    continue;
  }
  const small = await shrink(scenario, driveMove, makeStage);
  console.log(`seed ${scenario.seed}: ${result.violation.message}\n  ${JSON.stringify(small.scenario)}`);
  if (isAlone) console.log(small.result.trace.join('\n'), small.result.violation?.cause ?? '');
}
if (showsCoverage) console.log(`${coverage.table}\n`);
console.log(totals, `${(performance.now() - startMs).toFixed(0)} ms`);

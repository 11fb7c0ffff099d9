import { coreStage } from './core-stage.ts';
import { driveMove } from './drive.ts';
import { modelStage } from './model-stage.ts';
import { PLANTED } from './planted.ts';
import { PLANTED_IN_CORE } from './planted-core.ts';
import { searched } from './sweep.ts';
import { World } from './world.ts';

const word = process.argv[3] ?? '';
const max = Number(process.argv[4] ?? 400);
if (process.argv[2] === 'model') {
  for (const [name, plant] of Object.entries(PLANTED)) {
    if (!name.includes(word)) continue;
    let n = 0;
    let found = 'NOT FOUND';
    for (const scenario of searched(max)) {
      n++;
      const { violation } = await new World(scenario, (how, tools) => driveMove(how, plant(tools)), modelStage).run();
      if (violation === undefined) continue;
      found = violation.message.split('\n')[0]!;
      break;
    }
    console.log(`${n} ${name}: ${found}`);
  }
} else {
  for (const [name, plant] of Object.entries(PLANTED_IN_CORE)) {
    if (!name.includes(word)) continue;
    let n = 0;
    let found = 'NOT FOUND';
    for (const scenario of searched(max)) {
      n++;
      const restore = plant();
      const { violation } = await new World(scenario, driveMove, coreStage).run();
      restore();
      if (violation === undefined) continue;
      found = violation.message.split('\n')[0]!;
      break;
    }
    console.log(`${n} ${name}: ${found}`);
  }
}

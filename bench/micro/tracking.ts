/** What following changes costs a write, in JavaScript alone: rounds with and without the bitmap in turns, by CPU time, so that the machine's moods cancel. */

import type { Controller } from '../../src/target/controller.ts';
import { ChangedBlocks } from '../../src/target/migration/changed-blocks.ts';
import { report } from './harness.ts';
import { Loop } from './loop.ts';

const COUNT = 40_000;
const ROUNDS = 30;

const setting = { rw: 'write', blockBytes: 4096, depth: 128, backend: 'memory', digests: false } as const;
const loop = await Loop.open(setting);
await loop.fill();
const run = loop.runner(setting);
await new Promise((resolve) => setImmediate(resolve));
const namespace = loop.targetNamespace;
// whose it is does not matter here
const changes = new ChangedBlocks(undefined as unknown as Controller, namespace);

function track(on: boolean): void {
  namespace.changes = on ? changes : undefined;
  namespace.setTracked([]);
}

const target: Record<'off' | 'on', number[]> = { off: [], on: [] };
const whole: Record<'off' | 'on', number[]> = { off: [], on: [] };
for (const on of [false, true]) {
  track(on);
  run(COUNT * 5);
}
for (let round = 0; round < ROUNDS; round++) {
  for (const on of round % 2 === 0 ? [false, true] : [true, false]) {
    track(on);
    loop.times.targetMs = 0;
    const before = process.cpuUsage();
    run(COUNT);
    const { user, system } = process.cpuUsage(before);
    const key = on ? 'on' : 'off';
    target[key].push((loop.times.targetMs * 1e6) / COUNT);
    whole[key].push(((user + system) * 1e3) / COUNT);
  }
}
for (const key of ['off', 'on'] as const) {
  report({
    name: `target: write 4096 bytes, depth 128, tracking ${key}`,
    nsPerOp: target[key],
    bytesPerOp: Number.NaN,
  });
}
const ratios = whole.off.map((ns, i) => ns / whole.on[i]!).sort((a, b) => a - b);
console.log(
  `CPU time of host and target without tracking / with (median of ${ROUNDS} pairs): ${ratios[ROUNDS >> 1]!.toFixed(3)}`,
);
process.exit(0);

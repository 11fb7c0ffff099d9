/** What following changes costs a write, in JavaScript alone: rounds without, with the bitmap, and with a queue in turns, by CPU time, so that the machine's moods cancel. */

import type { Controller } from '../../src/target/controller.ts';
import { ChangedBlocks } from '../../src/target/migration/changed-blocks.ts';
import { ResidentQueue } from '../../src/target/migration/resident-queue.ts';
import type { Arena } from '../../src/util/arena.ts';
import { report } from './harness.ts';
import { Loop } from './loop.ts';

const COUNT = 30_000;
const ROUNDS = 30;

const setting = { rw: 'write', blockBytes: 4096, depth: 128, backend: 'memory', digests: false } as const;
const loop = await Loop.open(setting);
await loop.fill();
const run = loop.runner(setting);
await new Promise((resolve) => setImmediate(resolve));
const namespace = loop.targetNamespace;
const controller = loop.targetController;
// whose they are does not matter here
const changes = new ChangedBlocks(undefined as unknown as Controller, namespace);
const queue = new ResidentQueue(0, controller, controller, 32_768, 1n);

const MODES = ['off', 'bitmap', 'queue'] as const;
type Mode = (typeof MODES)[number];

function track(mode: Mode): void {
  namespace.changes = mode === 'bitmap' ? changes : undefined;
  controller.changeLog = mode === 'queue' ? queue.log : undefined;
  namespace.setTracked(mode === 'queue' ? [queue.log] : []);
  if (mode === 'queue') queue.log.start();
  else queue.log.stop();
}

const target: Record<Mode, number[]> = { off: [], bitmap: [], queue: [] };
const whole: Record<Mode, number[]> = { off: [], bitmap: [], queue: [] };
/** The queue is read at the end of each round, in parts as a host would. */
const part = new Uint8Array(128 << 10);
let filled = 0;
const host = {
  lend(view: Uint8Array): void {
    part.set(view, filled);
    filled += view.length;
  },
  lendAt(arena: Arena, offset: number, length: number): void {
    host.lend(arena.bytes.subarray(offset, offset + length));
  },
};
const page = (): void => {
  for (let offset = 0; queue.lend(host, false, offset, part.length); offset += part.length) filled = 0;
  queue.ring.consume(queue.ring.tail);
};
for (const mode of MODES) {
  for (let i = 0; i < 5; i++) {
    track(mode);
    run(COUNT);
    page();
  }
}
for (let round = 0; round < ROUNDS; round++) {
  for (let i = 0; i < MODES.length; i++) {
    const mode = MODES[(round + i) % MODES.length]!;
    track(mode);
    loop.times.targetMs = 0;
    const before = process.cpuUsage();
    run(COUNT);
    if (mode === 'queue') page();
    const { user, system } = process.cpuUsage(before);
    target[mode].push((loop.times.targetMs * 1e6) / COUNT);
    whole[mode].push(((user + system) * 1e3) / COUNT);
  }
}
for (const mode of MODES) {
  report({
    name: `target: write 4096 bytes, depth 128, tracking by ${mode}`,
    nsPerOp: target[mode],
    bytesPerOp: Number.NaN,
  });
}
const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!;
for (const mode of ['bitmap', 'queue'] as const) {
  const more = median(target[mode].map((ns, i) => ns - target.off[i]!));
  const ratio = median(whole.off.map((ns, i) => ns / whole[mode][i]!));
  console.log(
    `tracking by ${mode}, medians of ${ROUNDS} pairs: ${more.toFixed(0)} ns more in the target, CPU time of host and target without / with ${ratio.toFixed(3)}`,
  );
}
process.exit(0);

/** Runs the micro benchmarks, each file in a process of its own, and prints one table. */
import { compiled, LOAD_CORE, pinned, run } from '../lib/machine.ts';
import { median, short, table } from '../lib/stats.ts';
import type { MicroResult } from './harness.ts';

const FILES = [
  'accessors',
  'crc32c',
  'view-cache',
  'buffer-pool',
  'gather-writer',
  'memory-backend',
  'command-path',
  'pcie-path',
  'tracking',
  'multipath',
] as const;
const FLAGS = ['--expose-gc', '--max-semi-space-size=64', '--no-warnings'];

const wanted = process.argv.slice(2).filter((text) => !text.startsWith('--'));
const flags = process.argv.slice(2).filter((text) => text.startsWith('--'));
const rows: string[][] = [];
for (const file of FILES) {
  if (wanted.length > 0 && !wanted.includes(file)) continue;
  const output = await run(pinned(LOAD_CORE, [process.execPath, ...FLAGS, compiled(`micro/${file}.js`), ...flags]));
  for (const line of output.split('\n')) {
    if (!line.startsWith('{')) continue;
    const { name, nsPerOp, bytesPerOp } = JSON.parse(line) as MicroResult;
    rows.push([
      file,
      name,
      short(median(nsPerOp)),
      `${short(Math.min(...nsPerOp))} - ${short(Math.max(...nsPerOp))}`,
      bytesPerOp === null ? '-' : bytesPerOp < 0.05 ? '0' : short(bytesPerOp),
    ]);
  }
}
process.stdout.write(
  `${table(['module', 'operation', 'ns', 'min - max', 'garbage bytes'], ['left', 'left', 'right', 'right', 'right'], rows)}\n`,
);

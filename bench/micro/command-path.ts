/**
 * All JavaScript that runs for one I/O, on the host and on the target, without the kernel: the whole initiator and the whole target over a link in
 * memory. Blocks of 512 bytes show the path nearly without its payload copies (the host copies what it reads; the target what it is written).
 */
import { garbage, report } from './harness.ts';
import { Loop, type Setting } from './loop.ts';

const COUNT = process.argv.includes('--full') ? 400_000 : 100_000;
const SAMPLES = 7;

async function measure(setting: Setting): Promise<void> {
  const { rw, blockBytes, depth, backend, digests } = setting;
  const loop = await Loop.open(setting);
  if (backend === 'memory') await loop.fill();
  const run = loop.runner(setting);
  // the host's submits wait for the next turn once; from then on they leave with what they answer
  await new Promise((resolve) => setImmediate(resolve));
  run(COUNT);
  const host: number[] = [];
  const target: number[] = [];
  for (let i = 0; i < SAMPLES; i++) {
    loop.times.hostMs = 0;
    loop.times.targetMs = 0;
    run(COUNT);
    host.push((loop.times.hostMs * 1e6) / COUNT);
    target.push((loop.times.targetMs * 1e6) / COUNT);
  }
  const bytesPerOp = garbage(run, 20_000);
  const what = `${rw} ${blockBytes} bytes, depth ${depth}, ${backend}${digests ? ', digests' : ''}`;
  report({ name: `target: ${what}`, nsPerOp: target, bytesPerOp: Number.NaN });
  report({ name: `host:   ${what}`, nsPerOp: host, bytesPerOp: Number.NaN });
  report({ name: `both:   ${what}`, nsPerOp: host.map((ns, i) => ns + target[i]!), bytesPerOp });
}

const settings: Setting[] = [];
for (const rw of ['read', 'write'] as const) {
  for (const backend of ['memory', 'null'] as const) {
    settings.push({ rw, blockBytes: 4096, depth: 32, backend, digests: false });
    settings.push({ rw, blockBytes: 4096, depth: 128, backend, digests: false });
  }
  settings.push({ rw, blockBytes: 512, depth: 128, backend: 'memory', digests: false });
  settings.push({ rw, blockBytes: 4096, depth: 128, backend: 'memory', digests: true });
}
const index = process.argv.indexOf('--setting');
if (index < 0) {
  // each in a process of its own, as the compiler would otherwise see them all at once
  const { spawnSync } = await import('node:child_process');
  for (let i = 0; i < settings.length; i++) {
    const flags = [...process.execArgv, process.argv[1]!, ...process.argv.slice(2), '--setting', String(i)];
    const { status } = spawnSync(process.execPath, flags, { stdio: 'inherit' });
    if (status !== 0) process.exit(1);
  }
} else {
  await measure(settings[Number(process.argv[index + 1])]!);
}
process.exit(0);

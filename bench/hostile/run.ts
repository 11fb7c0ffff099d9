/**
 * What hostile peers cost the others: latency of a well-behaved host's 4 KiB reads, with and without 64 slow readers, 64 senders that announce data and
 * do not send it, 200 half-open associations, 64 hosts that send a byte at a time, and 100 aborted set-ups a second. Target on core 0; the host
 * that is measured and the hostile peers share core 1.
 */
import { fork } from 'node:child_process';
import { parseArgs } from 'node:util';
import { HostController, parseNvmeUri } from '../../src/initiator.ts';
import { Histogram } from '../lib/histogram.ts';
import { compiled, residentBytes } from '../lib/machine.ts';
import { ProductTarget } from '../lib/product.ts';
import { spread, table } from '../lib/stats.ts';

const KINDS = ['none', 'slow readers', 'stalled senders', 'half-open', 'byte by byte', 'aborted set-ups'] as const;
const DEPTH = 8;
const BLOCK_BYTES = 4096;
const WARM_UP_MS = 200;

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '1.5' }, rounds: { type: 'string', default: '5' } },
});
const MEASURE_MS = Number(values.seconds) * 1000;
const ROUNDS = Number(values.rounds);

interface Sample {
  readonly iops: number;
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
  readonly residentMib: number;
}

const target = await ProductTarget.start(['--memory', '256MiB']);
const { nsid, address, subnqn, port, ...rest } = parseNvmeUri(target.uri);
const controller = await HostController.connect({ ...rest, address, port, subnqn: subnqn!, ioQueues: 1 });
const namespace = await controller.namespace(nsid!);
const perBuffer = BLOCK_BYTES / namespace.blockSize;
for (let slba = 0; slba < namespace.blockCount; slba += 256 * perBuffer) {
  await namespace.write(slba, new Uint8Array(256 * BLOCK_BYTES).fill(slba));
}

/** Reads with DEPTH in flight for a time. */
function measure(): Promise<Sample> {
  const histogram = new Histogram();
  const blocks = namespace.blockCount / perBuffer;
  const startMs = performance.now();
  let inFlight = 0;
  return new Promise((resolve, reject) => {
    const one = (): void => {
      const buffer = new Uint8Array(BLOCK_BYTES);
      let sentMs = 0;
      const submit = (): void => {
        inFlight++;
        sentMs = performance.now();
        const slba = Math.floor(Math.random() * blocks) * perBuffer;
        namespace.submitRead(slba, perBuffer, buffer, done, undefined);
      };
      const done = (status: number): void => {
        inFlight--;
        const nowMs = performance.now();
        if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
        if (sentMs > startMs + WARM_UP_MS) histogram.record(Histogram.units(nowMs - sentMs));
        if (nowMs < startMs + WARM_UP_MS + MEASURE_MS) submit();
        else if (inFlight === 0) {
          resolve({
            iops: (histogram.total / MEASURE_MS) * 1000,
            p50: histogram.percentileUs(0.5),
            p99: histogram.percentileUs(0.99),
            p999: histogram.percentileUs(0.999),
            residentMib: residentBytes(target.pid) / 2 ** 20,
          });
        }
      };
      submit();
    };
    for (let i = 0; i < DEPTH; i++) one();
  });
}

const samples = new Map<string, Sample[]>(KINDS.map((kind) => [kind, []]));
for (let round = 0; round < ROUNDS; round++) {
  for (const kind of KINDS) {
    const peers = fork(compiled('hostile/peers.js'), [kind, String(port), subnqn!]);
    await new Promise<void>((resolve, reject) => {
      peers.once('message', () => resolve());
      peers.once('exit', (code) => reject(new Error(`${kind} ended with ${code}`)));
    });
    samples.get(kind)!.push(await measure());
    await new Promise<void>((resolve) => {
      peers.removeAllListeners('exit');
      peers.once('exit', () => resolve());
      peers.kill('SIGKILL');
    });
  }
}

const rows = KINDS.map((kind) => {
  const all = samples.get(kind)!;
  const quiet = samples.get('none')!;
  const of = (field: keyof Sample): string => spread(all.map((sample) => sample[field]));
  // against the quiet figure of the same round: what else happens on the machine falls on both
  const ratios = spread(all.map(({ p99 }, round) => p99 / quiet[round]!.p99));
  return [kind, of('iops'), of('p50'), of('p99'), of('p999'), ratios, of('residentMib')];
});
process.stdout.write(
  `4 KiB random reads, ${DEPTH} in flight, ${ROUNDS} rounds of ${values.seconds} s, interleaved; median (min - max), microseconds\n\n${table(
    ['hostile peers', 'IOPS', 'p50', 'p99', 'p99.9', 'p99 / none', 'target MiB'],
    ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    rows,
  )}\n`,
);
await controller.close();
await target.stop();

/** bench: how fast, in fio's words. */
import { type Command, Option } from 'commander';
import { HostController } from '../../initiator/controller.ts';
import type { HostNamespace } from '../../initiator/namespace.ts';
import { PathStatus } from '../../spec/status.ts';
import { ConfigError, NvmeStatusError, TransportError } from '../../util/error.ts';
import { ExitCode } from '../exit.ts';
import { type AddressFlags, addAddress, parseBytes, parseInteger, resolveAddress } from './address.ts';
import { type BenchLane, BenchLoop, type BenchPlan } from './bench-loop.ts';
import type { LatencyHistogram } from './latency-histogram.ts';
import { printJson, printLine } from './print.ts';
import { type IoHost, openNamespace, progress, requireNsid, runVerb, withIoHost } from './run.ts';

interface BenchFlags extends AddressFlags {
  rw: string;
  bs: number;
  iodepth: number;
  connections: number;
  time: number;
  ramp: number;
  rwmixread: number;
  size?: number;
  offset: number;
  verify?: boolean;
  seed?: number;
}

const RW = ['read', 'write', 'randread', 'randwrite', 'rw', 'randrw'];
const PERCENTILES = [1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99];
const CONNECTIONS_MAX = 64;

function parseSeconds(text: string): number {
  const value = Number(text.replace(/s$/, ''));
  if (!(value >= 0)) throw new ConfigError(`--time, --ramp: found ${text}, needed are seconds`);
  return value;
}

export function registerBench(program: Command): void {
  addAddress(program.command('bench').description('load generator; reports IOPS, bandwidth and latencies'), 'cl', true)
    .addOption(new Option('--rw <kind>', 'what to do').choices(RW).default('randread'))
    .option('--bs <size>', 'bytes of one I/O', parseBytes, 4096)
    .option('--iodepth <n>', 'I/Os in flight on each connection', parseInteger, 32)
    .option('--connections <n>', 'I/O queues, each a TCP connection', parseInteger, 1)
    .option('--time <seconds>', 'how long', parseSeconds, 10)
    .option('--ramp <seconds>', 'how long before it counts', parseSeconds, 0)
    .option('--rwmixread <percent>', 'reads in rw and randrw', parseInteger, 50)
    .option('--size <size>', 'bytes of the namespace to use', parseBytes)
    .option('--offset <size>', 'where to start in the namespace', parseBytes, 0)
    .option('--verify', 'compare what is read with what was written; writes are read back at the end')
    .option('--seed <n>', 'of addresses and contents', parseInteger)
    .action((uri: string | undefined, flags: BenchFlags) => runVerb((signal) => run(uri, flags, signal)));
}

function checkFlags(flags: BenchFlags): void {
  const limits = [
    ['--iodepth', flags.iodepth, 1, 32767],
    ['--connections', flags.connections, 1, CONNECTIONS_MAX],
    ['--rwmixread', flags.rwmixread, 0, 100],
  ] as const;
  for (const [name, value, min, max] of limits) {
    if (value < min || value > max) throw new ConfigError(`${name}: found ${value}, allowed are ${min} to ${max}`);
  }
}

function planOf(flags: BenchFlags, namespace: HostNamespace): BenchPlan {
  const { blockSize, maxTransferBlocks } = namespace;
  const { bs, offset } = flags;
  const maxBytes = maxTransferBlocks * blockSize;
  if (bs === 0 || bs % blockSize !== 0 || bs > maxBytes) {
    throw new ConfigError(`--bs: found ${bs}, allowed are multiples of the block size ${blockSize} up to ${maxBytes}`);
  }
  if (offset % blockSize !== 0) {
    throw new ConfigError(`--offset: found ${offset}, allowed are multiples of the block size ${blockSize}`);
  }
  const pieces = Math.floor(Math.min(flags.size ?? Number.POSITIVE_INFINITY, namespace.sizeBytes - offset) / bs);
  if (pieces < 1) {
    throw new ConfigError(
      `bench: no I/O of ${bs} bytes fits into offset ${offset}, size ${flags.size ?? 'all'} of ${namespace.sizeBytes} bytes`,
    );
  }
  const readPercent = flags.rw.endsWith('rw') ? flags.rwmixread : flags.rw.endsWith('read') ? 100 : 0;
  return {
    nsid: namespace.nsid,
    blocksPerIo: bs / blockSize,
    ioBytes: bs,
    firstBlock: offset / blockSize,
    pieces,
    random: flags.rw.startsWith('rand'),
    readPercent,
    verify: flags.verify ?? false,
    seed: flags.seed ?? Math.floor(Math.random() * 0x7fffffff),
  };
}

async function run(uri: string | undefined, flags: BenchFlags, signal: AbortSignal): Promise<void> {
  checkFlags(flags);
  const address = resolveAddress('bench', uri, flags);
  const { nsid } = address;
  const wanted = requireNsid('bench', nsid);
  const sized = { ioQueues: flags.connections, queueSize: Math.max(2, flags.queueSize ?? flags.iodepth + 1) };
  await withIoHost(address, sized, signal, async (host) => {
    const plan = planOf(flags, await openNamespace('bench', host, wanted));
    await measure(lanesOf(host, flags), plan, flags, signal);
  });
}

const sleep = (seconds: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, seconds * 1000);
    signal.addEventListener('abort', end);
    if (signal.aborted) end();
  });

/** A controller's queue pairs, each kept at `--iodepth`; or all paths as one, with as many in flight. */
function lanesOf(host: IoHost, flags: BenchFlags): BenchLane[] {
  if (host instanceof HostController) {
    const queuePairs = host.association?.ioQueuePairs ?? [];
    return queuePairs.map((queuePair) => ({ io: queuePair, depth: Math.min(flags.iodepth, queuePair.freeCount) }));
  }
  return [{ io: host.io, depth: flags.iodepth * flags.connections }];
}

async function measure(
  lanes: readonly BenchLane[],
  plan: BenchPlan,
  flags: BenchFlags,
  signal: AbortSignal,
): Promise<void> {
  const loop = new BenchLoop(plan, lanes);
  const ended = loop.run();
  if (flags.ramp > 0) {
    await sleep(flags.ramp, signal);
    loop.clearStatistics();
  }
  const startMs = performance.now();
  const cpu = process.cpuUsage();
  const rate = (): string => `${Math.round((loop.completedCount / (performance.now() - startMs)) * 1000)} IOPS`;
  await progress(`${flags.rw} on namespace ${plan.nsid}`, Promise.race([sleep(flags.time, signal), ended]), rate);
  const elapsedMs = performance.now() - startMs;
  const used = process.cpuUsage(cpu);
  loop.stop();
  const report = reportOf(loop, plan, flags, elapsedMs, used);
  await ended;
  if (plan.verify && plan.readPercent !== 100 && !signal.aborted) {
    await progress('verifying what was written', loop.verifyWritten(), () => `${loop.verifiedCount} pieces`);
  }
  failed(loop);
  if (flags.output === 'json') printJson({ ...report, ...verifyJson(loop, plan) });
  else printReport(report, loop, plan);
  if (loop.miscompare !== undefined) process.exitCode = ExitCode.Miscompare;
}

function failed(loop: BenchLoop): void {
  const { failedStatus } = loop;
  if (failedStatus === 0) return;
  if (failedStatus === PathStatus.HostPathingError || failedStatus === PathStatus.AbortedByHost) {
    throw new TransportError('NVMEOF_ERR_PATH', 'The controller was lost during the run');
  }
  throw new NvmeStatusError('An I/O of the run', failedStatus, 'io');
}

interface Side {
  io_bytes: number;
  bw_bytes: number;
  iops: number;
  runtime: number;
  total_ios: number;
  lat_ns: { min: number; max: number; mean: number; stddev: number; percentile: Record<string, number> };
}

interface Report {
  jobname: string;
  'job options': Record<string, string | number | boolean>;
  read?: Side;
  write?: Side;
  usr_cpu: number;
  sys_cpu: number;
}

function sideOf(latency: LatencyHistogram, ioBytes: number, elapsedMs: number): Side {
  const { count } = latency;
  const percentile = Object.fromEntries(PERCENTILES.map((p) => [p.toFixed(6), Math.round(latency.percentileNs(p))]));
  return {
    io_bytes: count * ioBytes,
    bw_bytes: Math.round((count * ioBytes * 1000) / elapsedMs),
    iops: Math.round((count * 1000) / elapsedMs),
    runtime: Math.round(elapsedMs),
    total_ios: count,
    lat_ns: {
      min: latency.minNs,
      max: latency.maxNs,
      mean: Math.round(latency.meanNs),
      stddev: Math.round(latency.stddevNs),
      percentile,
    },
  };
}

function reportOf(
  loop: BenchLoop,
  plan: BenchPlan,
  flags: BenchFlags,
  elapsedMs: number,
  cpu: NodeJS.CpuUsage,
): Report {
  const { readLatency, writeLatency } = loop;
  return {
    jobname: flags.rw,
    'job options': {
      rw: flags.rw,
      bs: flags.bs,
      iodepth: flags.iodepth,
      connections: flags.connections,
      in_flight: loop.depth,
      seed: plan.seed,
      hdgst: flags.hdrDigest ?? false,
      ddgst: flags.dataDigest ?? false,
      disable_sqflow: flags.disableSqflow ?? false,
    },
    ...(readLatency.count > 0 ? { read: sideOf(readLatency, plan.ioBytes, elapsedMs) } : {}),
    ...(writeLatency.count > 0 ? { write: sideOf(writeLatency, plan.ioBytes, elapsedMs) } : {}),
    usr_cpu: Number((cpu.user / elapsedMs / 10).toFixed(2)),
    sys_cpu: Number((cpu.system / elapsedMs / 10).toFixed(2)),
  };
}

function verifyJson(loop: BenchLoop, plan: BenchPlan): object {
  if (!plan.verify) return {};
  return { verify: { pieces: loop.verifiedCount, miscompare: loop.miscompare ?? null } };
}

function printReport(report: Report, loop: BenchLoop, plan: BenchPlan): void {
  const options = report['job options'];
  printLine(
    `${report.jobname}: bs=${options.bs}, iodepth=${options.iodepth}, connections=${options.connections}, seed=${options.seed}`,
  );
  for (const name of ['read', 'write'] as const) {
    const side = report[name];
    if (side !== undefined) printSide(name, side);
  }
  printLine(`  cpu          : usr=${report.usr_cpu.toFixed(2)}%, sys=${report.sys_cpu.toFixed(2)}%`);
  if (!plan.verify) return;
  const { miscompare } = loop;
  if (miscompare === undefined)
    printLine(`  verify       : ${loop.verifiedCount} pieces of ${plan.ioBytes} bytes compared, no difference`);
  else printLine(`  verify       : MISCOMPARE at block ${miscompare.block}, byte ${miscompare.byte} of the I/O`);
}

function printSide(name: string, side: Side): void {
  const { lat_ns: lat } = side;
  const mib = (side.bw_bytes / 2 ** 20).toFixed(1);
  const us = (ns: number): string => (ns / 1000).toFixed(ns < 100_000 ? 1 : 0);
  const iops = side.iops >= 10_000 ? `${(side.iops / 1000).toFixed(0)}k` : String(side.iops);
  printLine(
    `  ${name}: IOPS=${iops}, BW=${mib}MiB/s (${(side.bw_bytes / 1e6).toFixed(1)}MB/s)(${(side.io_bytes / 2 ** 20).toFixed(0)}MiB/${side.runtime}msec)`,
  );
  printLine(`    lat (usec): min=${us(lat.min)}, max=${us(lat.max)}, avg=${us(lat.mean)}, stdev=${us(lat.stddev)}`);
  printLine('    lat percentiles (usec):');
  const cells = Object.entries(lat.percentile).map(
    ([p, ns]) => `${Number(p).toFixed(2).padStart(5)}th=[${us(ns).padStart(7)}]`,
  );
  for (let i = 0; i < cells.length; i += 3) printLine(`     | ${cells.slice(i, i + 3).join(', ')}`);
}

/**
 * The load generator: one process, one controller, the initiator's callback path. `node load.js '<LoadJob as JSON>'` prints one line of JSON
 * (`LoadResult`). A fixed number of commands is in flight; each completion submits the next one from its own callback. Time stamps cost more than
 * anything else here, and each leaves 16 bytes of garbage: from 32 in flight on, every eighth command is timed.
 */
import { PerformanceObserver } from 'node:perf_hooks';
import { HostController, type HostNamespace, parseNvmeUri } from '../../src/initiator.ts';
import { Histogram } from '../lib/histogram.ts';
import { cpuTimeOf, machineCpuTime } from '../lib/machine.ts';

/** What to do. */
export interface LoadJob {
  /** With `nsid`. */
  readonly uri: string;
  /** `fill` writes the whole namespace once, in order. */
  readonly rw: 'read' | 'write' | 'fill';
  readonly blockBytes: number;
  /** Commands in flight in all. */
  readonly depth: number;
  readonly connections: number;
  readonly digests: boolean;
  readonly disableSqFlow?: boolean;
  readonly warmupSeconds: number;
  /** How long to measure, unless `ioCount` says how much. */
  readonly seconds: number;
  readonly ioCount?: number;
  /** The server's process: its CPU time over the same time. */
  readonly pid?: number;
  /** The namespace was filled: what is read must begin with the number of its block. */
  readonly stamped: boolean;
}

/** What came of it. */
export interface LoadResult {
  readonly ios: number;
  readonly seconds: number;
  /** Commands that were really in flight: less than asked for where the controller's queues are shorter. */
  readonly depth: number;
  /** Percentiles 50, 90, 99, 99.9. */
  readonly latencyUs: readonly number[];
  /** CPU seconds while measuring; NaN (null in JSON) where not known. */
  readonly server: { readonly user: number; readonly system: number };
  readonly load: { readonly user: number; readonly system: number };
  /** CPU seconds of everything else on the machine meanwhile. */
  readonly others: number;
  /** Garbage collections in this process while measuring. */
  readonly collections: number;
  /** Heap in use when measuring began and ended, after a forced collection if the process has `--expose-gc`. */
  readonly heapBytes: readonly [number, number];
}

export const PERCENTILES: readonly number[] = [0.5, 0.9, 0.99, 0.999];
const STAMP_BYTES = 4;
/** From this depth on, one slot of `TIMED_EVERY` is timed. */
const TIMED_DEPTH = 32;
const TIMED_EVERY = 8;

const Phase = { Warmup: 0, Measure: 1, Drain: 2 } as const;

class Load {
  readonly #job: LoadJob;
  readonly #controller: HostController;
  readonly #namespace: HostNamespace;
  readonly #depth: number;
  /** Slots with these bits 0 are timed. */
  readonly #timedMask: number;
  readonly #histogram = new Histogram();
  readonly #buffers: readonly Uint8Array[];
  /** First word of each buffer. */
  readonly #stamps: Int32Array;
  readonly #stampStep: number;
  readonly #startMs: Float64Array;
  readonly #slba: Int32Array;
  readonly #blocksPerIo: number;
  /** Places of this size in the namespace. */
  readonly #places: number;
  /** [0]: random state; [1]: next place of a fill. */
  readonly #ints: Int32Array = new Int32Array([0x2545f491, 0]);
  /** Now (of the last timed command), when the phase ends, and counts: in arrays, and not passed as arguments, so that they are not boxed. */
  readonly #nowMs: Float64Array = new Float64Array(1);
  readonly #phaseEndMs: Float64Array = new Float64Array(1);
  readonly #done: Float64Array = new Float64Array(1);
  readonly #ioLimit: number;
  #phase: number = Phase.Warmup;
  #active = 0;
  #failed: string | undefined;
  #finish: () => void = () => {};
  #begin: Snapshot | undefined;
  #end: Snapshot | undefined;
  #collections = 0;

  constructor(job: LoadJob, controller: HostController, namespace: HostNamespace) {
    this.#job = job;
    this.#controller = controller;
    this.#namespace = namespace;
    let slots = 0;
    for (const { freeCount } of controller.association?.ioQueuePairs ?? []) slots += freeCount;
    this.#depth = Math.min(job.depth, slots);
    this.#timedMask = this.#depth >= TIMED_DEPTH ? TIMED_EVERY - 1 : 0;
    const arena = new ArrayBuffer(this.#depth * job.blockBytes);
    this.#stamps = new Int32Array(arena);
    this.#stampStep = job.blockBytes / STAMP_BYTES;
    this.#buffers = Array.from({ length: this.#depth }, (_, slot) => {
      return new Uint8Array(arena, slot * job.blockBytes, job.blockBytes);
    });
    for (const [slot, buffer] of this.#buffers.entries()) buffer.fill(slot + 1);
    this.#startMs = new Float64Array(this.#depth);
    this.#slba = new Int32Array(this.#depth);
    this.#blocksPerIo = job.blockBytes / namespace.blockSize;
    this.#places = Math.floor(namespace.blockCount / this.#blocksPerIo);
    this.#ioLimit = job.rw === 'fill' ? this.#places : (job.ioCount ?? Number.POSITIVE_INFINITY);
    if (!Number.isInteger(this.#blocksPerIo) || this.#places < 1) throw new Error('The namespace has other blocks');
  }

  async run(): Promise<LoadResult> {
    const observer = new PerformanceObserver((list) => {
      if (this.#phase === Phase.Measure) this.#collections += list.getEntries().length;
    });
    observer.observe({ entryTypes: ['gc'] });
    this.#controller.on('lost', (error) => this.#fail(error.message));
    this.#phaseEndMs[0] = performance.now() + this.#job.warmupSeconds * 1000;
    this.#nowMs[0] = performance.now();
    if (this.#job.rw === 'fill') this.#measure();
    await new Promise<void>((resolve) => {
      this.#finish = resolve;
      for (let slot = 0; slot < this.#depth; slot++) this.#submit(slot);
    });
    this.#collections += observer.takeRecords().length;
    observer.disconnect();
    if (this.#failed !== undefined) throw new Error(this.#failed);
    return this.#result(this.#begin!, this.#end!);
  }

  #submit(slot: number): void {
    const place = this.#job.rw === 'fill' ? this.#ints[1]!++ : this.#randomPlace();
    if (place >= this.#places) return; // all of it is written
    const blocks = this.#blocksPerIo;
    const slba = place * blocks;
    if ((slot & this.#timedMask) === 0) this.#startMs[slot] = this.#nowMs[0]!;
    this.#slba[slot] = slba;
    this.#active++;
    const buffer = this.#buffers[slot]!;
    const stamp = slot * this.#stampStep;
    if (this.#job.rw === 'read') {
      this.#stamps[stamp] = -1;
      this.#namespace.submitRead(slba, blocks, buffer, this.#onDone, slot);
    } else {
      // every block of the device carries its number, whatever size it is written and read in
      for (let i = 0; i < blocks; i++) this.#stamps[stamp + (i * this.#stampStep) / blocks] = slba + i;
      this.#namespace.submitWrite(slba, blocks, buffer, this.#onDone, slot);
    }
  }

  #randomPlace(): number {
    let x = this.#ints[0]!;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#ints[0] = x;
    return (x >>> 1) % this.#places;
  }

  readonly #onDone = (status: number, _result: number, context: unknown): void => {
    const slot = context as number;
    const timed = (slot & this.#timedMask) === 0;
    if (timed) this.#nowMs[0] = performance.now();
    this.#active--;
    if (status !== 0) this.#fail(`A command failed with status 0x${status.toString(16)}`);
    if (this.#job.rw === 'read' && this.#job.stamped && this.#stamps[slot * this.#stampStep] !== this.#slba[slot]) {
      this.#fail(`Block ${this.#slba[slot]} reads as another one`);
    }
    if (this.#phase === Phase.Measure) {
      // units of the histogram are small integers: those are not boxed
      if (timed) this.#histogram.record(Histogram.units(this.#nowMs[0]! - this.#startMs[slot]!));
      this.#done[0]!++;
      if (this.#done[0]! >= this.#ioLimit || this.#nowMs[0]! >= this.#phaseEndMs[0]!) this.#drain();
    } else if (this.#phase === Phase.Warmup && this.#nowMs[0]! >= this.#phaseEndMs[0]!) {
      this.#measure();
    }
    if (this.#phase !== Phase.Drain) this.#submit(slot);
    else if (this.#active === 0) this.#finish();
  };

  #measure(): void {
    const byCount = Number.isFinite(this.#ioLimit);
    this.#begin = snapshot(this.#job.pid);
    this.#phaseEndMs[0] = byCount ? Number.POSITIVE_INFINITY : this.#nowMs[0]! + this.#job.seconds * 1000;
    this.#phase = Phase.Measure;
  }

  #drain(): void {
    this.#phase = Phase.Drain;
    this.#end = snapshot(this.#job.pid);
  }

  #fail(message: string): void {
    this.#failed ??= message;
    this.#phase = Phase.Drain;
    setImmediate(() => this.#finish());
  }

  #result(begin: Snapshot, end: Snapshot): LoadResult {
    const server = minus(end.server, begin.server);
    const load = minus(end.load, begin.load);
    const used = (Number.isNaN(server.user) ? 0 : server.user + server.system) + load.user + load.system;
    return {
      ios: this.#done[0]!,
      seconds: (end.nowMs - begin.nowMs) / 1000,
      depth: this.#depth,
      latencyUs: PERCENTILES.map((fraction) => this.#histogram.percentileUs(fraction)),
      server,
      load,
      others: Math.max(0, end.machine.busy - begin.machine.busy - used) + end.machine.stolen - begin.machine.stolen,
      collections: this.#collections,
      heapBytes: [begin.heapBytes, end.heapBytes],
    };
  }
}

interface Snapshot {
  readonly nowMs: number;
  readonly server: { user: number; system: number };
  readonly load: { user: number; system: number };
  readonly machine: { busy: number; stolen: number };
  readonly heapBytes: number;
}

function snapshot(pid: number | undefined): Snapshot {
  globalThis.gc?.();
  const own = process.cpuUsage();
  return {
    server: pid === undefined ? { user: Number.NaN, system: Number.NaN } : cpuTimeOf(pid),
    load: { user: own.user / 1e6, system: own.system / 1e6 },
    machine: machineCpuTime(),
    heapBytes: process.memoryUsage().heapUsed,
    nowMs: performance.now(),
  };
}

const minus = (a: { user: number; system: number }, b: { user: number; system: number }) => ({
  user: a.user - b.user,
  system: a.system - b.system,
});

const QUEUE_ENTRIES_MIN = 32;

async function main(): Promise<void> {
  const job = JSON.parse(process.argv[2] ?? '') as LoadJob;
  const { nsid, address, subnqn, ...rest } = parseNvmeUri(job.uri);
  if (nsid === undefined || subnqn === undefined) throw new Error(`${job.uri} names no namespace`);
  const controller = await HostController.connect({
    ...rest,
    address,
    subnqn,
    ioQueues: job.connections,
    // one more than can be outstanding; whichever queue they end up on
    queueSize: Math.max(QUEUE_ENTRIES_MIN, job.depth + 1),
    headerDigest: job.digests,
    dataDigest: job.digests,
    disableSqFlow: job.disableSqFlow ?? false,
    // a machine that is busy with other things is no target that does not answer, nor a host that is gone
    connectTimeoutMs: 60_000,
    katoMs: 0,
    ctrlLossTimeoutMs: 0,
  });
  const namespace = await controller.namespace(nsid);
  const result = await new Load(job, controller, namespace).run();
  process.stdout.write(`${JSON.stringify(result)}\n`);
  await controller.close();
}

await main();

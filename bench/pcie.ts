/**
 * The PCIe path: 4 KiB reads and writes of a guest in this process, on the null backend (the path alone) and on namespaces of a target in another
 * process (over the fabric, as `nvmeferry dpu --connect`). And what a doorbell costs that comes as a vfio-user message, beside a page that is polled.
 *
 *     node dist-test/bench/pcie.js [--rounds 3] [--seconds 0.5] [--only guest|doorbell]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { BlockBackend } from '../src/backend/block-backend.ts';
import { NullBackend } from '../src/backend/null.ts';
import { createMemfd, MappedMemory } from '../src/native/mapped-memory.ts';
import { openRemoteNamespace } from '../src/service/remote-namespace.ts';
import { AdminOpcode, IoOpcode } from '../src/spec/opcode.ts';
import { Target } from '../src/target/target.ts';
import { Guest } from '../src/vm/guest.ts';
import { Cmd, fields, VfioUserClient } from '../test/support/vfio-user-client.ts';
import { Histogram } from './lib/histogram.ts';
import { cpuTimeOf, LOAD_CORE, PACKAGE_ROOT, pinned, pinSelf, SERVER_CORE, start, stop } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { median, short, spread, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '0.5' },
    only: { type: 'string', default: '' },
  },
});
const ROUNDS = Number(values.rounds);
const SECONDS = Number(values.seconds);
const BLOCK_BYTES = 4096;
const PAGE_BYTES = 4096;
const NAMESPACE_BYTES = 256 << 20;
const QUEUE_ENTRIES = 256;

// ---- a guest in this process -----------------------------------------------------------------------------------------------------------

class Machine {
  readonly #guest = new Guest();
  readonly #target = new Target();
  readonly #backend: BlockBackend;
  #buffers = 0;

  constructor(backend: BlockBackend) {
    this.#backend = backend;
    const subsystem = this.#target.addSubsystem({ nqn: 'nqn.2026-01.io.nvmeferry:pcie', allowAnyHost: true });
    this.#target.addNamespace(subsystem, { nsid: 1, backend });
    const { function: pci } = this.#target.addFunction(subsystem, { vectorCount: 2 });
    this.#guest.plug(pci);
  }

  async start(): Promise<void> {
    await this.#guest.start(1, QUEUE_ENTRIES);
    this.#buffers = this.#guest.ram.allocate(QUEUE_ENTRIES * PAGE_BYTES);
  }

  /** Full depth for some time; each completion puts the next command, the doorbell is rung once a batch. */
  async load(opcode: number, depth: number): Promise<{ iops: number; histogram: Histogram }> {
    const guest = this.#guest;
    const queue = guest.queues[1]!;
    const blocks = this.#backend.blockCount;
    const histogram = new Histogram();
    const started = new Float64Array(depth);
    const command = { opcode, nsid: 1, prp1: 0, cdw10: 0, cdw12: BLOCK_BYTES / this.#backend.blockSize - 1 };
    const begin = performance.now();
    const end = begin + SECONDS * 1000;
    let count = 0;
    let flying = 0;
    let seed = 12_345;
    await new Promise<void>((resolve, reject) => {
      let rings = false;
      const ring = (): void => {
        rings = false;
        guest.ring(queue);
      };
      const put = (slot: number): void => {
        seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
        command.cdw10 = (seed >>> 0) % blocks;
        command.prp1 = this.#buffers + slot * PAGE_BYTES;
        started[slot] = performance.now();
        flying++;
        guest.put(queue, command, done[slot]!);
        if (rings) return;
        rings = true;
        setImmediate(ring);
      };
      const done = Array.from({ length: depth }, (_, slot) => (cqe: DataView, at: number): void => {
        const now = performance.now();
        flying--;
        count++;
        histogram.record(Histogram.units(now - started[slot]!));
        const status = cqe.getUint16(at + 14, true) >>> 1;
        if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
        if (now < end) put(slot);
        else if (flying === 0) resolve();
      });
      for (let slot = 0; slot < depth; slot++) put(slot);
    });
    return { iops: count / ((performance.now() - begin) / 1000), histogram };
  }

  async close(): Promise<void> {
    await this.#target.close();
  }
}

async function guests(): Promise<void> {
  const shape = { blockSize: BLOCK_BYTES, blockCount: NAMESPACE_BYTES / BLOCK_BYTES };
  const targets = await Promise.all(
    ['--null', '--memory'].map((flag) =>
      ProductTarget.start([flag, `${NAMESPACE_BYTES >> 20}MiB,blockSize=${BLOCK_BYTES}`]),
    ),
  );
  const backends: readonly [string, BlockBackend][] = [
    ['null, in process', new NullBackend(shape)],
    ['null, over the fabric', await openRemoteNamespace({ type: 'remote', uri: targets[0]!.uri })],
    ['memory, over the fabric', await openRemoteNamespace({ type: 'remote', uri: targets[1]!.uri })],
  ];
  const cases = backends.flatMap(([name, backend]) => {
    const machine = new Machine(backend);
    return [IoOpcode.Read, IoOpcode.Write].flatMap((opcode) =>
      [1, 32, 128].map((depth) => ({
        name,
        machine,
        opcode,
        depth,
        iops: [] as number[],
        p50: [] as number[],
        p99: [] as number[],
      })),
    );
  });
  for (const machine of new Set(cases.map((one) => one.machine))) await machine.start();
  for (let round = 0; round <= ROUNDS; round++) {
    for (const one of cases) {
      const { iops, histogram } = await one.machine.load(one.opcode, one.depth);
      if (round === 0) continue; // to warm up
      one.iops.push(iops);
      one.p50.push(histogram.percentileUs(0.5));
      one.p99.push(histogram.percentileUs(0.99));
    }
  }
  const rows = cases.map(({ name, opcode, depth, iops, p50, p99 }) => [
    name,
    opcode === IoOpcode.Read ? 'read' : 'write',
    String(depth),
    spread(iops),
    short(median(p50)),
    short(median(p99)),
  ]);
  const head = ['4 KiB, a guest in process', '', 'depth', 'IOPS', 'p50 us', 'p99 us'];
  console.log(table(head, ['left', 'left', 'right', 'right', 'right', 'right'], rows));
  for (const machine of new Set(cases.map((one) => one.machine))) await machine.close();
  for (const target of targets) await target.stop();
}

// ---- doorbells of vfio-user --------------------------------------------------------------------------------------------------------------

const SQ = 0x10_0000;
const CQ = 0x10_1000;
const CONFIG_REGION = 7;
const DOORBELL = 0x1000;
const ENTRIES = 64;
const COMMANDS = 20_000;
const RINGS = 200_000;

/** Admin commands without data, one at a time, whose completion is polled for in memory: what is left is doorbell, command, and entry. */
async function doorbells(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-bench-'));
  const socket = join(folder, 'vm.sock');
  const child = start(
    pinned(SERVER_CORE, [
      ...[process.execPath, `${PACKAGE_ROOT}dist/cli/main.js`, 'dpu', '--log-level', 'warn', '--output', 'json'],
      ...['--null', '1GiB', '--vfio-user', socket],
    ]),
  );
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (text: Buffer) => text.toString().includes('"ready"') && resolve());
    child.once('close', () => reject(new Error('nvmeferry dpu ended')));
  });
  const client = await VfioUserClient.connect(socket);
  const fd = createMemfd({ name: 'bench', lengthBytes: 2 * PAGE_BYTES });
  const memory = MappedMemory.map({ fd, lengthBytes: 2 * PAGE_BYTES });
  const view = new DataView(memory.buffer);
  const words = new Int32Array(view.buffer);
  await client.map(SQ, 2 * PAGE_BYTES, 0, fd);
  const write = (offset: number, value: number): Promise<void> => client.writeRegion(0, offset, fields(value));
  await client.writeRegion(CONFIG_REGION, 4, fields([2, 6]));
  await write(0x24, (ENTRIES - 1) | ((ENTRIES - 1) << 16));
  await write(0x28, SQ);
  await write(0x30, CQ);
  await write(0x14, 0x0046_0001);

  const post = (index: number, value: number): void =>
    client.post(Cmd.RegionWrite, fields(BigInt(DOORBELL + index * 4), 0, 4, value));
  const histogram = new Histogram();
  let phase = 1;
  let slot = 0;
  const before = cpuTimeOf(child.pid!);
  for (let i = 0; i < COMMANDS; i++) {
    view.setUint32(slot * 64, AdminOpcode.GetFeatures | (i << 16), true);
    view.setUint32(slot * 64 + 40, 0x07, true);
    const at = (PAGE_BYTES + slot * 16 + 12) >>> 2;
    slot = (slot + 1) % ENTRIES;
    const began = performance.now();
    post(0, slot);
    while (((Atomics.load(words, at) >>> 16) & 1) !== phase);
    histogram.record(Histogram.units(performance.now() - began));
    if (slot === 0) phase ^= 1;
    if (i % 16 === 15) post(1, slot);
  }
  const between = cpuTimeOf(child.pid!);
  // a doorbell with the value that it has: the message and nothing else
  for (let i = 0; i < RINGS; i++) {
    try {
      post(0, slot);
    } catch {
      i--; // the socket is full
    }
    if (i % 256 === 255) await client.readRegion(0, 0x1c, 4);
  }
  const after = cpuTimeOf(child.pid!);
  const us = (a: { user: number; system: number }, b: { user: number; system: number }, n: number): string =>
    short(((b.user + b.system - a.user - a.system) * 1e6) / n);
  console.log(
    `A command by a doorbell message: p50 ${short(histogram.percentileUs(0.5))} us, p99 ${short(histogram.percentileUs(0.99))} us, ` +
      `server ${us(before, between, COMMANDS)} us of CPU; a message alone, many at once: ${us(between, after, RINGS)} us of CPU`,
  );

  // what a polled page would take: an event loop that never sleeps, and looks at it each turn
  let turns = 0;
  const began = performance.now();
  const cpu = process.cpuUsage();
  await new Promise<void>((resolve) => {
    const turn = (): void => {
      turns++;
      Atomics.load(words, 0);
      if (performance.now() - began > 1000) resolve();
      else setImmediate(turn);
    };
    turn();
  });
  const used = process.cpuUsage(cpu);
  const elapsed = performance.now() - began;
  console.log(
    `A page that is polled: a turn of an idle event loop takes ${short((elapsed * 1000) / turns)} us, and a core is busy ` +
      `${short((100 * (used.user + used.system)) / 1000 / elapsed)} % without any I/O`,
  );
  client.close();
  await stop(child);
  rmSync(folder, { recursive: true });
}

pinSelf(LOAD_CORE);
if (values.only !== 'doorbell') await guests();
if (values.only !== 'guest') await doorbells();
process.exit(0);

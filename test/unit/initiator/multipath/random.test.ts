/**
 * Verified I/O over three paths while paths are lost and ANA states change at random: no error reaches the caller, no read is stale, no write is
 * lost. NVMEFERRY_SEED=<seed> runs one again, NVMEFERRY_TEST_ROUNDS more of them.
 */
import { expect } from 'chai';
import type { BlockIo } from '../../../../src/backend/block-backend.ts';
import type { MultipathSubsystem } from '../../../../src/initiator/multipath/multipath-subsystem.ts';
import type { PathPolicy } from '../../../../src/initiator/multipath/namespace-paths.ts';
import type { HostNamespace } from '../../../../src/initiator/namespace.ts';
import { AnaState } from '../../../../src/wire/cold/log-ana.ts';
import { CopyBackend } from '../../../support/test-target.ts';
import { settle, until } from '../support.ts';
import { Fabric } from './support.ts';

const SEED = Number(process.env.NVMEFERRY_SEED ?? 20_261_126);
const ROUNDS = Number(process.env.NVMEFERRY_TEST_ROUNDS ?? 3);
const PORTS = [1, 2, 3];
const WORKERS = 8;
const BLOCKS_PER_WORKER = 6;
const EVENTS = 40;
/** Commands between two events. */
const COMMANDS_BETWEEN = 20;
const BLOCK = 512;
/** Longest that the backend keeps an operation; after it, no old write can land. */
const BACKEND_MS_MAX = 25;
const QUIESCE_MS = 60;

/** Mulberry32. */
function randomSource(seed: number): (below: number) => number {
  let a = seed >>> 0;
  return (below) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** Operations end in any order, and go on when their connection is gone: an old write lands late. */
class SlowBackend extends CopyBackend {
  readonly #random: (below: number) => number;
  #running = 0;

  constructor(random: (below: number) => number) {
    super();
    this.#random = random;
  }

  get idle(): boolean {
    return this.#running === 0;
  }

  #later(step: () => void): void {
    this.#running++;
    const delayMs = this.#random(8) === 0 ? this.#random(BACKEND_MS_MAX) : 0;
    const run = (): void => {
      this.#running--;
      step();
    };
    if (delayMs === 0) setImmediate(run);
    else setTimeout(run, delayMs);
  }

  override read(io: BlockIo): void {
    this.#later(() => {
      io.provide().set(this.bytes.subarray(io.offsetBytes, io.offsetBytes + io.lengthBytes));
      io.complete(0);
    });
  }

  override write(io: BlockIo): void {
    io.retain();
    // as a disk does it: the data is in flight, whatever becomes of the request
    const data = Buffer.concat(io.segments.slice(0, io.segmentCount));
    const { offsetBytes } = io;
    this.#later(() => {
      this.bytes.set(data, offsetBytes);
      io.complete(0);
    });
  }
}

/** Every eight bytes name the block and the number of the write. */
function content(block: number, number: number): Uint8Array {
  const words = new Uint32Array(BLOCK / 4);
  for (let i = 0; i < words.length; i += 2) {
    words[i] = block;
    words[i + 1] = number;
  }
  return new Uint8Array(words.buffer);
}

const numberIn = (data: Uint8Array): number => new DataView(data.buffer, data.byteOffset).getUint32(4, true);

class Load {
  readonly #namespace: HostNamespace;
  readonly #random: (below: number) => number;
  commandCount = 0;
  ended = false;
  /** Number of the last write to each block that was acknowledged. */
  readonly written: Uint32Array = new Uint32Array(WORKERS * BLOCKS_PER_WORKER);

  constructor(namespace: HostNamespace, random: (below: number) => number) {
    this.#namespace = namespace;
    this.#random = random;
  }

  async worker(index: number): Promise<void> {
    const random = this.#random;
    for (let number = 1; !this.ended; number++) {
      const block = index * BLOCKS_PER_WORKER + random(BLOCKS_PER_WORKER);
      await this.#namespace.write(block, content(block, number));
      this.written[block] = number;
      this.commandCount++;
      await this.check(index * BLOCKS_PER_WORKER + random(BLOCKS_PER_WORKER));
      if (random(16) === 0) await this.#namespace.flush();
    }
  }

  async check(block: number): Promise<void> {
    const data = await this.#namespace.read(block, 1);
    const expected = this.written[block]!;
    expect(numberIn(data), `block ${block}`).to.equal(expected);
    if (expected !== 0) expect(Buffer.compare(data, content(block, expected)), `block ${block}`).to.equal(0);
    this.commandCount++;
  }
}

class Chaos {
  readonly #fabric: Fabric;
  readonly #host: MultipathSubsystem;
  readonly #random: (below: number) => number;
  readonly #stopped = new Set<number>();

  constructor(fabric: Fabric, host: MultipathSubsystem, random: (below: number) => number) {
    this.#fabric = fabric;
    this.#host = host;
    this.#random = random;
  }

  async event(): Promise<void> {
    const random = this.#random;
    const portId = PORTS[random(PORTS.length)]!;
    switch (random(6)) {
      case 0:
        if (!this.#stopped.has(portId)) this.#fabric.drop(portId);
        break;
      case 1: {
        const path = this.#fabric.to(this.#host, portId);
        if (path.state === 'live') path.controller!.reset();
        break;
      }
      case 2:
        if (this.#stopped.has(portId)) await this.#start(portId);
        else if (this.#stopped.size === 0) {
          this.#stopped.add(portId);
          await this.#fabric.stop(portId);
        }
        break;
      default:
        this.#fabric.setAna(
          portId,
          [AnaState.Optimized, AnaState.NonOptimized, AnaState.Inaccessible, AnaState.Change][random(4)]!,
        );
    }
    // one way at least stays, so that the load goes on
    if (
      PORTS.every((id) => this.#stopped.has(id) || this.#fabric.t.subsystem.ana.state(1, id) > AnaState.NonOptimized)
    ) {
      this.#fabric.setAna(PORTS.find((id) => !this.#stopped.has(id))!, AnaState.Optimized);
    }
  }

  async #start(portId: number): Promise<void> {
    this.#stopped.delete(portId);
    await this.#fabric.startAgain(portId);
  }

  async calm(): Promise<void> {
    for (const portId of [...this.#stopped]) await this.#start(portId);
    for (const portId of PORTS) this.#fabric.setAna(portId, AnaState.Optimized);
    await until(
      () => PORTS.every((id) => this.#fabric.to(this.#host, id).anaState(1) === AnaState.Optimized),
      'every path is back and optimized',
    );
  }
}

/** @returns what was found wrong first, or undefined */
async function run(seed: number, policy: PathPolicy, quiesceMs: number): Promise<unknown> {
  const random = randomSource(seed);
  const backend = new SlowBackend(random);
  const fabric = await Fabric.start(PORTS.length, { backend });
  let failure: unknown;
  try {
    const host = await fabric.connect(PORTS, { policy, quiesceMs });
    const load = new Load(await host.namespace(1), random);
    const chaos = new Chaos(fabric, host, random);
    const workers = Array.from({ length: WORKERS }, (_, index) =>
      load.worker(index).catch((error: unknown) => {
        failure ??= error;
        load.ended = true;
      }),
    );
    for (let event = 0; event < EVENTS && failure === undefined; event++) {
      const after = load.commandCount + COMMANDS_BETWEEN;
      while (load.commandCount < after && failure === undefined) await settle(1);
      await chaos.event();
    }
    load.ended = true;
    await chaos.calm();
    await Promise.all(workers);
    // late writes have landed: what is there now is what stays
    await until(() => backend.idle, 'the backend is idle');
    for (let block = 0; block < load.written.length && failure === undefined; block++) {
      await load.check(block).catch((error: unknown) => {
        failure = error;
      });
    }
    expect(host.paths.map(({ heldCount }) => heldCount)).to.deep.equal([0, 0, 0]);
    expect(host.io.waitingCount).to.equal(0);
  } finally {
    await fabric.close();
  }
  return failure;
}

describe('multipath under random events', function () {
  this.timeout(120_000);

  for (let round = 0; round < ROUNDS; round++) {
    for (const policy of ['round-robin', 'queue-depth'] as const) {
      it(`seed ${SEED + round}, ${policy}`, async () => {
        const failure = await run(SEED + round, policy, QUIESCE_MS);
        if (failure !== undefined) throw new Error(`With NVMEFERRY_SEED=${SEED + round}`, { cause: failure });
      });
    }
  }
});

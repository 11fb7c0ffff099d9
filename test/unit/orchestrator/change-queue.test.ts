/** Rounds of copying by the queue of changes: the product's ring and log, a guest that writes all the time, and a queue that becomes full. */
import { expect } from 'chai';
import { BlockCopier } from '../../../src/orchestrator/block-copier.ts';
import { BlockStream } from '../../../src/orchestrator/block-stream.ts';
import { ChangeQueue, type QueueDevice, QueuedSource } from '../../../src/orchestrator/change-queue.ts';
import { PreCopy } from '../../../src/orchestrator/pre-copy.ts';
import { RateLimit } from '../../../src/orchestrator/rate-limit.ts';
import { ResidentQueueFlag, type ResidentQueueLog } from '../../../src/wire/cold/log-migration.ts';
import { UDMQ_ATTRIBUTES_OFFSET, UDMQ_ENTRY_BYTES } from '../../../src/wire/udmq-entry.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { ModelQueueDevice } from '../../support/model-queue.ts';
import { MODEL_BLOCK_SIZE, ModelDestination, ModelSource } from '../../support/model-volume.ts';
import { Random, randomSeed } from '../../support/random.ts';

const BLOCKS = 512;
const CHUNK_BYTES = 8 * MODEL_BLOCK_SIZE;

const nobody = async (): Promise<void> => {};

/** A namespace whose changes are in the queue, as soon as they have their effect. */
class LoggedSource extends ModelSource {
  readonly #nsid: number;
  readonly #device: ModelQueueDevice;

  constructor(nsid: number, random: Random, device: ModelQueueDevice) {
    super(BLOCKS, random);
    this.#nsid = nsid;
    this.#device = device;
  }

  override change(slba: number, blockCount: number, byte: number | undefined): void {
    super.change(slba, blockCount, byte);
    this.#device.queue?.changed(this.#nsid, slba, blockCount, byte === undefined);
  }
}

class Scene {
  readonly clock = new ManualClock();
  readonly device: ModelQueueDevice;
  readonly queue: ChangeQueue;
  readonly sources: readonly LoggedSource[];
  readonly destinations: readonly ModelDestination[];
  readonly streams: readonly BlockStream[];

  constructor(random: Random, slots: number, plant: (device: QueueDevice) => QueueDevice = (device) => device) {
    const turn = async (): Promise<void> => {
      for (let left = random.below(3); left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
    };
    this.device = new ModelQueueDevice(slots, turn);
    this.queue = new ChangeQueue(plant(this.device), this.clock);
    this.sources = [1, 2].map((nsid) => new LoggedSource(nsid, random, this.device));
    this.destinations = this.sources.map(() => new ModelDestination(BLOCKS, random));
    this.streams = this.sources.map((volume, i) => {
      const source = new QueuedSource(this.queue, i + 1, volume, nobody);
      const destination = this.destinations[i]!;
      const copier = new BlockCopier({
        source,
        destination,
        rate: new RateLimit(this.clock),
        chunkBytes: CHUNK_BYTES,
        inFlightBytes: 4 * CHUNK_BYTES,
      });
      return new BlockStream({ name: `namespace ${i + 1}`, source, destination, copier, destinationIsZero: true });
    });
  }

  /** A guest that changes what it likes, whenever a read is under way, `times` times. */
  guest(random: Random, times: number): void {
    let left = times;
    const turn = (): void => {
      this.clock.advance(random.below(3));
      if (left === 0 || !random.oneIn(3)) return;
      left--;
      const blockCount = 1 + random.below(20);
      const slba = random.below(BLOCKS - blockCount);
      random.pick(this.sources).change(slba, blockCount, random.oneIn(3) ? undefined : 1 + random.below(255));
    };
    for (const source of this.sources) source.onTurn = turn;
  }

  /** Time goes by until that is over. */
  async withTime<T>(act: Promise<T>): Promise<T> {
    let isOver = false;
    const over = (): void => {
      isOver = true;
    };
    act.then(over, over);
    while (!isOver) {
      await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(5);
    }
    return act;
  }

  async stop(): Promise<void> {
    for (const nsid of [1, 2]) await this.queue.unfollow(nsid);
  }

  get differs(): boolean {
    return this.sources.some(({ bytes }, i) => Buffer.compare(bytes, this.destinations[i]!.bytes) !== 0);
  }
}

/** A whole copy under a guest that writes. */
async function copied(seed: number, slots: number, plant?: (device: QueueDevice) => QueueDevice): Promise<Scene> {
  const random = new Random(seed);
  const scene = new Scene(random, slots, plant);
  for (const source of scene.sources) {
    for (let i = 0; i < 20; i++) source.change(random.below(BLOCKS - 30), 1 + random.below(30), 1 + random.below(255));
  }
  scene.guest(random, 1 + random.below(200));
  const preCopy = new PreCopy({
    streams: scene.streams,
    clock: scene.clock,
    blackoutBudgetMs: 300,
    switchMs: 50,
    onStuck: async () => 'again',
  });
  expect(await preCopy.run()).to.equal(true);
  // it writes up to the moment of its suspension
  for (let left = random.below(10); left > 0; left--) {
    random.pick(scene.sources).change(random.below(BLOCKS - 4), 1 + random.below(4), 1 + random.below(255));
  }
  for (const source of scene.sources) source.onTurn = undefined;
  scene.device.queue!.suspend();
  await scene.withTime(preCopy.finish());
  return scene;
}

/** What the queue answers is changed on its way. */
function like(device: QueueDevice, changes: Partial<QueueDevice>): QueueDevice {
  return {
    name: device.name,
    open: () => device.open(),
    read: () => device.read(),
    consume: (head) => device.consume(head),
    restart: () => device.restart(),
    close: () => device.close(),
    ...changes,
  };
}

function withAttributes(log: ResidentQueueLog, change: (attributes: number) => number): ResidentQueueLog {
  const entries = log.entries.slice();
  for (let at = UDMQ_ATTRIBUTES_OFFSET; at < entries.length; at += UDMQ_ENTRY_BYTES) entries[at] = change(entries[at]!);
  return { ...log, entries };
}

const isEnd = (attributes: number): boolean => ((attributes >> 1) & 7) >= 2;

/** Bugs that make the copy wrong, or leave it without an end; each is found by the same runs. */
const PLANTED: Readonly<Record<string, (device: QueueDevice) => QueueDevice>> = {
  'a queue that was full goes on as if nothing was lost': (device) =>
    like(device, {
      read: async () => {
        const log = withAttributes(await device.read(), (byte) => (isEnd(byte) ? byte & ~0x0e : byte));
        return { ...log, header: { ...log.header, flags: log.header.flags & ~ResidentQueueFlag.Full } };
      },
    }),
  'what was written counts as deallocated': (device) =>
    like(device, { read: async () => withAttributes(await device.read(), (byte) => byte | 0x20) }),
  'entries are consumed that were not read': (device) =>
    like(device, {
      read: async () => {
        const log = await device.read();
        const entries = log.entries.subarray(0, Math.max(0, log.entries.length - UDMQ_ENTRY_BYTES));
        return {
          header: log.header,
          entries: log.entries.length > UDMQ_ENTRY_BYTES ? padded(entries, log) : log.entries,
        };
      },
    }),
};

/** The last entry is lost: the one before stands in its place. */
function padded(entries: Uint8Array, log: ResidentQueueLog): Uint8Array {
  const result = log.entries.slice();
  if (isEnd(result[result.length - 1]!)) return result;
  result.set(entries.subarray(entries.length - UDMQ_ENTRY_BYTES), entries.length);
  return result;
}

describe('ChangeQueue', () => {
  const seed = randomSeed();
  for (const [name, slots] of [
    ['one with room', 4096],
    ['a small one', 24],
    ['one that is full at once', 3],
  ] as const) {
    for (let round = 0; round < 25; round++) {
      it(`${name}: two namespaces under a guest that writes all the time, seed ${seed + round}`, async () => {
        const scene = await copied(seed + round, slots);
        expect(scene.differs, 'the copy').to.equal(false);
        if (slots === 4096) expect(scene.queue.overflows).to.equal(0);
        await scene.stop();
        expect([scene.device.opened, scene.device.closed]).to.deep.equal([1, 1]);
        expect(scene.clock.timerCount, 'nothing is left behind').to.equal(0);
      });
    }
  }

  it('a queue that is full at once was full in those runs', async () => {
    const scene = await copied(7, 3);
    expect(scene.queue.overflows).to.be.greaterThan(0);
    expect(scene.differs).to.equal(false);
  });

  for (const [name, plant] of Object.entries(PLANTED)) {
    it(`these runs find that ${name}`, async () => {
      for (let one = 1; one < 60; one++) {
        const isRight = await copied(one, 24, plant).then(
          (scene) => !scene.differs,
          () => false,
        );
        if (!isRight) return;
      }
      throw new Error('60 seeds did not find it');
    });
  }

  it('what is deallocated is cleared at the destination without being read, however small', async () => {
    const random = new Random(3);
    const scene = new Scene(random, 4096);
    const [source] = scene.sources;
    const [destination] = scene.destinations;
    source!.change(0, 100, 7);
    const stream = scene.streams[0]!;
    await stream.first(undefined);
    const read = source!.readBytes;
    source!.change(10, 3, undefined);
    source!.change(50, 2, 9);
    source!.change(51, 1, undefined);
    scene.device.queue!.suspend();
    await stream.finish(undefined);
    expect(source!.readBytes - read, 'only block 50').to.equal(MODEL_BLOCK_SIZE);
    expect(stream.dirtiedBytes).to.equal(MODEL_BLOCK_SIZE);
    expect(Buffer.compare(destination!.bytes, source!.bytes)).to.equal(0);
  });

  it('changes that are only deallocations are no reason to stop looking', async () => {
    const scene = new Scene(new Random(4), 4096);
    const [source] = scene.sources;
    source!.change(0, 100, 7);
    const stream = scene.streams[0]!;
    await stream.first(undefined);
    expect(await stream.look()).to.equal(0);
    source!.change(0, 64, undefined);
    scene.device.queue!.suspend();
    await stream.finish(undefined);
    expect(scene.destinations[0]!.bytes.subarray(0, 64 * MODEL_BLOCK_SIZE).every((byte) => byte === 0)).to.equal(true);
  });

  it('the entry that ends the log may come later than the suspension: what comes before it is waited for', async () => {
    const scene = new Scene(new Random(5), 4096);
    const [source] = scene.sources;
    await scene.streams[0]!.first(undefined);
    // suspended, as its manager is told, but a command that it had fetched is not logged yet
    scene.device.queue!.isSuspended = true;
    const looked = scene.streams[0]!.look();
    const late = (async () => {
      for (let i = 0; i < 20; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        scene.clock.advance(1);
      }
      source!.change(33, 2, 1);
      scene.device.queue!.suspend();
      for (let i = 0; i < 60; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        scene.clock.advance(1);
      }
    })();
    expect(await looked).to.equal(2 * MODEL_BLOCK_SIZE);
    await late;
  });

  it('a log without its end is a failure after some time, not a wait without end', async () => {
    const scene = new Scene(new Random(6), 4096);
    await scene.streams[0]!.first(undefined);
    scene.device.queue!.isSuspended = true;
    const looked = scene.streams[0]!.look().then(
      () => undefined,
      (error: { code?: string }) => error.code,
    );
    let isOver = false;
    void looked.then(() => {
      isOver = true;
    });
    for (let i = 0; i < 5000 && !isOver; i++) {
      await new Promise((resolve) => setImmediate(resolve));
      scene.clock.advance(10);
    }
    expect(await looked).to.equal('NVMEOF_ERR_TRACKING_LOST');
  });

  it('goes on after the controller was resumed, up to its next suspension', async () => {
    const scene = new Scene(new Random(8), 4096);
    const [source] = scene.sources;
    const stream = scene.streams[0]!;
    await stream.first(undefined);
    scene.device.queue!.suspend();
    await stream.finish(undefined);
    scene.device.queue!.resume();
    source!.change(5, 5, 5);
    expect(await stream.look()).to.equal(5 * MODEL_BLOCK_SIZE);
    source!.change(6, 1, undefined);
    scene.device.queue!.suspend();
    await stream.finish(undefined);
    expect(Buffer.compare(scene.destinations[0]!.bytes, source!.bytes)).to.equal(0);
  });

  it('all of a namespace changed is all that is allocated, in whatever entry it stands', async () => {
    const scene = new Scene(new Random(9), 4096, (device) =>
      like(device, {
        // the marker of the beginning says so, of namespace 1
        read: async () => {
          const log = await device.read();
          const entries = log.entries.slice();
          if (entries.length > 0 && ((entries[UDMQ_ATTRIBUTES_OFFSET]! >> 1) & 7) === 1) {
            entries[0] = 1;
            entries[UDMQ_ATTRIBUTES_OFFSET] = (entries[UDMQ_ATTRIBUTES_OFFSET]! & 0x3f) | 0x40;
          }
          return { ...log, entries };
        },
      }),
    );
    const [source] = scene.sources;
    source!.change(8, 4, 1);
    await scene.queue.follow(1, source!);
    const { runs } = await scene.queue.changes(1);
    expect(runs).to.deep.equal([
      { slba: 0, blockCount: 8, isDeallocated: true },
      { slba: 8, blockCount: 4 },
      { slba: 12, blockCount: BLOCKS - 12, isDeallocated: true },
    ]);
  });

  for (const [what, change] of [
    ['another queue with that number', (log: ResidentQueueLog) => ({ nonce: log.header.nonce + 1n })],
    ['entries that somebody else took', (log: ResidentQueueLog) => ({ seq: log.header.seq + 1n })],
  ] as const) {
    it(`${what}: no answer "nothing changed"`, async () => {
      let reads = 0;
      const scene = new Scene(new Random(10), 4096, (device) =>
        like(device, {
          read: async () => {
            const log = await device.read();
            return reads++ === 0 ? log : { ...log, header: { ...log.header, ...change(log) } };
          },
        }),
      );
      await scene.queue.follow(1, scene.sources[0]!);
      await (await scene.queue.changes(1)).acknowledge();
      const failure = await scene.queue.changes(1).then(
        () => undefined,
        (error: { code?: string }) => error.code,
      );
      expect(failure).to.equal('NVMEOF_ERR_TRACKING_LOST');
    });
  }

  it('is drained while nobody asks', async () => {
    const scene = new Scene(new Random(11), 64);
    const [source] = scene.sources;
    await scene.queue.follow(1, source!);
    for (let i = 0; i < 500; i++) {
      source!.change(i, 1, 1);
      if (i % 20 !== 0) continue;
      scene.clock.advance(50);
      for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(scene.queue.overflows).to.equal(0);
    expect((await scene.queue.changes(1)).runs).to.deep.equal([{ slba: 0, blockCount: 500 }]);
    await scene.queue.unfollow(1);
  });

  it('a failure while nobody asks is told to who asks', async () => {
    let isBroken = false;
    const scene = new Scene(new Random(12), 64, (device) =>
      like(device, {
        read: async () => {
          if (isBroken) throw new Error('the connection is gone');
          return device.read();
        },
      }),
    );
    await scene.queue.follow(1, scene.sources[0]!);
    isBroken = true;
    scene.clock.advance(100);
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
    isBroken = false;
    const failure = await scene.queue.changes(1).then(
      () => '',
      (error: Error) => error.message,
    );
    expect(failure).to.equal('the connection is gone');
  });

  it('snapshots are the same until they are acknowledged; later changes come later', async () => {
    const scene = new Scene(new Random(13), 64);
    const [source] = scene.sources;
    await scene.queue.follow(1, source!);
    source!.change(1, 1, 1);
    const first = await scene.queue.changes(1);
    source!.change(3, 1, 1);
    expect((await scene.queue.changes(1)).runs).to.deep.equal(first.runs);
    await first.acknowledge();
    const second = await scene.queue.changes(1);
    expect(second.runs).to.deep.equal([{ slba: 3, blockCount: 1 }]);
    await first.acknowledge(); // late: of another one
    expect((await scene.queue.changes(1)).runs).to.deep.equal([{ slba: 3, blockCount: 1 }]);
  });
});

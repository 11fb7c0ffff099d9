/**
 * A migration against a model: several controllers change a namespace in every way, many at a time, while a reader follows, by their queues (so
 * small that they overflow), by the bitmap, and by the allocated blocks, and copies. After suspend and drain, each copy is the source.
 * NVMEFERRY_MODEL_SEEDS runs more of them.
 */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { HostController } from '../../../src/initiator/controller.ts';
import { LiveMigration } from '../../../src/initiator/live-migration.ts';
import { EntryRange, EntrySequence } from '../../../src/spec/migration.ts';
import { ChangedBlocksFlag } from '../../../src/wire/cold/log-migration.ts';
import { entryBlockCount, entryNsid, entryRange, entrySequence, entrySlba } from '../../../src/wire/udmq-entry.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import type { RawHost } from '../../support/raw-host.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const BLOCK = 512;
const GRANULE = 8;
/** In steps of 8 granules. */
const SIZE_STEP = 64;
const SIZE_MAX = 512;
const CHUNK = 128;
const UNREADABLE = 0xdb;
const COPY_NSID = 2;

const SEEDS = Number(process.env.NVMEFERRY_MODEL_SEEDS ?? 200);
const SEEDS_OF_CASE = 25;

/** The content of a namespace as somebody has read it. */
class Image {
  bytes: Buffer;
  constructor(blocks: number) {
    this.bytes = Buffer.alloc(blocks * BLOCK, 0xee);
  }
  get blocks(): number {
    return this.bytes.length / BLOCK;
  }
  /** What is new reads as zero, as at the source. */
  resize(blocks: number): void {
    const bytes = Buffer.alloc(blocks * BLOCK);
    this.bytes.copy(bytes);
    this.bytes = bytes;
  }
}

/** Reads a range into an image; blocks that cannot be read are marked. */
async function read(host: RawHost, image: Image, slba: number, blocks: number): Promise<void> {
  const end = Math.min(slba + blocks, image.blocks);
  for (let at = slba; at < end; at += CHUNK) {
    const count = Math.min(CHUNK, end - at);
    const { code, data } = await host.read(at, count);
    if (code === 0) data.copy(image.bytes, at * BLOCK);
    else if (count > 1) {
      const half = count >> 1;
      await read(host, image, at, half);
      await read(host, image, at + half, count - half);
    } else {
      expect(code, `block ${at}`).to.equal(0x281);
      image.bytes.fill(UNREADABLE, at * BLOCK, (at + 1) * BLOCK);
    }
  }
}

class Follower {
  readonly lm: LiveMigration;
  readonly #read: RawHost;
  readonly byQueue: Image;
  readonly byBitmap: Image;
  fullCount = 0;

  constructor(lm: LiveMigration, host: RawHost, blocks: number) {
    this.lm = lm;
    this.#read = host;
    this.byQueue = new Image(blocks);
    this.byBitmap = new Image(blocks);
  }

  resize(blocks: number): void {
    this.byQueue.resize(blocks);
    this.byBitmap.resize(blocks);
  }

  copyAll(image: Image): Promise<void> {
    return read(this.#read, image, 0, image.blocks);
  }

  /**
   * Several controllers log the namespace: entries of their queues have no order among each other, so that each only says what is to be read.
   * @returns the ESA of the last entry, or undefined if there was none
   */
  async drain(cdqid: number, restart = true): Promise<number | undefined> {
    const { header, entries } = await this.lm.readQueue(cdqid, 64);
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    let last: number | undefined;
    for (let at = 0; at < entries.length; at += 32) {
      last = entrySequence(view, at);
      const range = entryRange(view, at);
      if (range === EntryRange.None || entryNsid(view, at) !== 1) continue;
      if (range === EntryRange.WholeNamespace) await this.copyAll(this.byQueue);
      else await read(this.#read, this.byQueue, entrySlba(view, at), entryBlockCount(view, at));
    }
    await this.lm.consumeQueue(cdqid, (header.head + entries.length / 32) % header.cap);
    if (last !== EntrySequence.Full) return last;
    this.fullCount++;
    if (restart) {
      await this.lm.trackUserData(cdqid, true);
      await this.copyAll(this.byQueue);
    }
    return last;
  }

  async bitmap(): Promise<void> {
    for (let more = true; more; ) {
      const { header, runs } = await this.lm.changedBlocks(1);
      for (const { slba, blockCount } of runs) await read(this.#read, this.byBitmap, slba, blockCount);
      await this.lm.acknowledgeChanges(1, header);
      more = (header.flags & ChangedBlocksFlag.More) !== 0;
    }
  }
}

/** Blocks, and how they begin: in the copy, at the source. */
function differences(copy: Image, source: Image): string[] {
  const found: string[] = [];
  for (let at = 0; at < source.bytes.length; at += BLOCK) {
    const [a, b] = [copy.bytes.subarray(at, at + BLOCK), source.bytes.subarray(at, at + BLOCK)];
    if (Buffer.compare(a, b) !== 0) found.push(`${at / BLOCK}: ${a.toString('hex', 0, 4)} ${b.toString('hex', 0, 4)}`);
  }
  return found;
}

/** One command that changes something. Others are under way, so that it may be refused; the model only wants to know what is there in the end. */
async function change(random: Random, io: RawHost, blocksThere: number): Promise<void> {
  const blocks = 1 + random.below(16);
  const slba = random.below(blocksThere - blocks);
  const data = random.bytes(blocks * BLOCK);
  const range = Buffer.alloc(32);
  switch (random.below(9)) {
    case 0:
      await io.command({ opcode: 8, nsid: 1, cdw10: slba, cdw12: (blocks - 1) | 0x0200_0000 });
      return;
    case 1:
      await io.command({ opcode: 8, nsid: 1, cdw10: slba, cdw12: blocks - 1 });
      return;
    case 2:
      range.writeUInt32LE(blocks, 4);
      range.writeBigUInt64LE(BigInt(slba), 8);
      await io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range.subarray(0, 16) });
      return;
    case 3:
      range.writeBigUInt64LE(BigInt(random.below(blocksThere - blocks)), 8);
      range.writeUInt16LE(blocks - 1, 16);
      await io.command({ opcode: 0x19, nsid: 1, cdw10: slba }, { data: range });
      return;
    case 4:
      await io.command({ opcode: 4, nsid: 1, cdw10: slba, cdw12: Math.min(blocks, 4) - 1 });
      return;
    case 5: {
      // compare and write: what was read just before is there, unless somebody else was faster
      const before = await io.read(slba, 1);
      const expected = before.code === 0 ? before.data : data.subarray(0, BLOCK);
      await Promise.all([
        io.command({ opcode: 5, flags: 0x41, nsid: 1, cdw10: slba }, { data: expected }),
        io.command({ opcode: 1, flags: 0x42, nsid: 1, cdw10: slba }, { data: data.subarray(0, BLOCK) }),
      ]);
      return;
    }
    default:
      await io.write(slba, data);
  }
}

describe('live migration, model', function () {
  this.timeout(120_000);
  let t: TestTarget;
  let controller: HostController;
  let lm: LiveMigration;
  let writers: { admin: RawHost; io: RawHost }[];
  let reader: RawHost;
  /** Over all seeds. */
  let fullCount = 0;

  beforeEach(async () => {
    t = await startManaged({
      backend: new MemoryBackend({ blockSize: BLOCK, blockCount: SIZE_MAX }),
      subsystem: { allowSanitize: true },
    });
    t.target.addNamespace(t.subsystem, {
      nsid: COPY_NSID,
      backend: new MemoryBackend({ blockSize: BLOCK, blockCount: SIZE_MAX }),
    });
    controller = await HostController.connect({
      address: '127.0.0.1',
      port: t.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: MANAGER_NQN,
      ioQueues: 1,
    });
    lm = new LiveMigration(controller);
    writers = [await t.association(), await t.association(), await t.association()];
    reader = (await t.association()).io;
  });
  afterEach(async () => {
    await controller.close();
    await t.close();
  });

  /** Format or Sanitize, to its end. */
  async function erase(random: Random): Promise<void> {
    const { admin } = random.pick(writers);
    if (random.oneIn(2)) {
      await admin.command({ opcode: 0x80, nsid: 1, cdw10: 0 });
      return;
    }
    await admin.command({ opcode: 0x84, cdw10: 2 });
    for (;;) {
      const { data } = await admin.logPage(0x81, 512);
      if ((data.readUInt16LE(2) & 7) !== 2) return;
    }
  }

  async function resize(random: Random, follower: Follower): Promise<void> {
    const blocks = SIZE_STEP * (1 + random.below(SIZE_MAX / SIZE_STEP));
    await t.target.resizeNamespace(t.subsystem, 1, blocks * BLOCK);
    follower.resize(blocks);
  }
  const size = (): number => t.subsystem.namespaces[1]!.blockCount;

  /** What is allocated, written to another namespace; the rest deallocated there. */
  async function copyAllocated(source: Image): Promise<void> {
    await t.target.resizeNamespace(t.subsystem, COPY_NSID, source.blocks * BLOCK);
    const { io } = writers[0]!;
    const all = Buffer.alloc(16);
    all.writeUInt32LE(source.blocks, 4);
    await io.command({ opcode: 9, nsid: COPY_NSID, cdw11: 4 }, { data: all });
    const wanted = new Uint8Array(source.blocks / GRANULE);
    for await (const { slba, blockCount } of lm.allocatedBlocks(1)) {
      wanted.fill(1, slba / GRANULE, Math.ceil((slba + blockCount) / GRANULE));
      for (let at = slba; at < slba + blockCount; at += 16) {
        const count = Math.min(16, slba + blockCount - at);
        const data = source.bytes.subarray(at * BLOCK, (at + count) * BLOCK);
        const done = await io.command({ opcode: 1, nsid: COPY_NSID, cdw10: at, cdw12: count - 1 }, { data });
        expect(done.code).to.equal(0);
      }
    }
    const found = new Uint8Array(wanted.length);
    for await (const { slba, blockCount } of lm.allocatedBlocks(COPY_NSID)) {
      found.fill(1, slba / GRANULE, Math.ceil((slba + blockCount) / GRANULE));
    }
    expect(found, 'allocated at the destination').to.deep.equal(wanted);
    for (let block = 0; block < source.blocks; block++) {
      if (wanted[Math.floor(block / GRANULE)] === 1) continue;
      const bytes = source.bytes.subarray(block * BLOCK, (block + 1) * BLOCK);
      expect(
        bytes.every((byte) => byte === 0 || byte === UNREADABLE),
        `block ${block} has data, and is not allocated`,
      ).to.equal(true);
    }
  }

  async function migrate(random: Random): Promise<void> {
    await t.target.resizeNamespace(t.subsystem, 1, SIZE_STEP * (1 + random.below(SIZE_MAX / SIZE_STEP)) * BLOCK);
    const follower = new Follower(lm, reader, size());
    const queues: number[] = [];
    for (const { admin } of writers) {
      const cdqid = await lm.createQueue(admin.cntlid, random.oneIn(4) ? 256 : 3 + random.below(4));
      await lm.trackUserData(cdqid, true);
      queues.push(cdqid);
    }
    await lm.trackChanges(1, true);
    // the first copies are made while changes go on
    const flying = new Set<Promise<unknown>>();
    const launch = (work: Promise<unknown>): void => {
      const tracked: Promise<unknown> = work.finally(() => flying.delete(tracked));
      flying.add(tracked);
    };
    const first = Promise.all([follower.copyAll(follower.byQueue), follower.copyAll(follower.byBitmap)]);
    const rounds = 6 + random.below(10);
    for (let round = 0; round < rounds; round++) {
      for (let i = random.below(6); i >= 0; i--) launch(change(random, random.pick(writers).io, size()));
      if (round === 2) await first;
      if (random.oneIn(2) && round > 1) await follower.drain(random.pick(queues));
      if (random.oneIn(4) && round > 1) await follower.bitmap();
      if (random.oneIn(3)) await Promise.all(flying);
      if (random.oneIn(40)) await erase(random);
      if (random.oneIn(20) && round > 2) {
        // by the operator, who lets the hosts come to rest
        await Promise.all(flying);
        await resize(random, follower);
      }
    }
    await first;
    for (const { io } of writers) launch(change(random, io, size()));
    for (const { admin } of writers) await lm.suspend(admin.cntlid);
    for (const cdqid of queues) {
      const last = await follower.drain(cdqid, false);
      // a queue that was full has lost changes, and can start again only after Resume
      if (last !== EntrySequence.Suspended) await follower.copyAll(follower.byQueue);
    }
    await follower.bitmap();
    const source = new Image(size());
    await follower.copyAll(source);
    expect(differences(follower.byQueue, source), 'by queue').to.deep.equal([]);
    expect(differences(follower.byBitmap, source), 'by bitmap').to.deep.equal([]);
    if (random.oneIn(4)) {
      const selection = { csvi: 0, csuuidi: 1 };
      const saved = await lm.getState(writers[0]!.admin.cntlid, selection);
      expect(saved.suspended).to.equal(true);
      await lm.setState(writers[1]!.admin.cntlid, saved.bytes, selection);
    }
    for (const { admin } of writers) await lm.resume(admin.cntlid);
    await Promise.all(flying);
    for (const cdqid of queues) await lm.deleteQueue(cdqid);
    await lm.trackChanges(1, false);
    if (random.oneIn(4)) {
      await follower.copyAll(source);
      await copyAllocated(source);
    }
    fullCount += follower.fullCount;
  }

  const start = randomSeed();
  const count = process.env.NVMEFERRY_SEED === undefined ? SEEDS : 1;
  for (let from = start; from < start + count; from += SEEDS_OF_CASE) {
    const seeds = Math.min(SEEDS_OF_CASE, start + count - from);
    it(`E01, E02, E05: copies by queue, bitmap and allocation end as the source, seeds ${from} to ${from + seeds - 1}`, async () => {
      for (let seed = from; seed < from + seeds; seed++) {
        try {
          await migrate(new Random(seed));
        } catch (error) {
          throw new Error(`NVMEFERRY_SEED=${seed}: ${(error as Error).message}`, { cause: error });
        }
      }
    });
  }

  it('queues were full among them', function () {
    if (count < SEEDS_OF_CASE) this.skip();
    expect(fullCount).to.be.greaterThan(0);
  });
});

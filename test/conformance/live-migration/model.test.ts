/**
 * A migration against a model: several controllers change a namespace in every way while a reader follows, once by their queues (so small that they
 * overflow), once by the bitmap, and copies. After suspend and drain, both copies are the source. The reader is the host library.
 */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { HostController } from '../../../src/initiator/controller.ts';
import { LiveMigration } from '../../../src/initiator/live-migration.ts';
import { EntryRange, EntrySequence } from '../../../src/spec/migration.ts';
import {
  entryBlockCount,
  entryDeallocated,
  entryRange,
  entrySequence,
  entrySlba,
} from '../../../src/wire/udmq-entry.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import type { RawHost } from '../../support/raw-host.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const BLOCKS = 512;
const BLOCK = 512;
const CHANGES = 120;

class Reader {
  readonly lm: LiveMigration;
  readonly #read: RawHost;
  readonly byQueue: Buffer = Buffer.alloc(BLOCKS * BLOCK, 0xee);
  readonly byBitmap: Buffer = Buffer.alloc(BLOCKS * BLOCK, 0xee);
  fullCount = 0;

  constructor(lm: LiveMigration, read: RawHost) {
    this.lm = lm;
    this.#read = read;
  }

  async copy(to: Buffer, slba: number, blocks: number): Promise<void> {
    for (let at = slba; at < slba + blocks; at += 128) {
      const count = Math.min(128, slba + blocks - at);
      (await this.#read.read(at, count)).data.copy(to, at * BLOCK);
    }
  }

  /** @returns the ESA of the last entry, or undefined if there was none */
  async drain(cdqid: number, restart = true): Promise<number | undefined> {
    const { header, entries } = await this.lm.readQueue(cdqid, 64);
    const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
    let last: number | undefined;
    for (let at = 0; at < entries.length; at += 32) {
      last = entrySequence(view, at);
      if (entryRange(view, at) !== EntryRange.Blocks) continue;
      const slba = entrySlba(view, at);
      const blocks = entryBlockCount(view, at);
      if (entryDeallocated(view, at)) this.byQueue.fill(0, slba * BLOCK, (slba + blocks) * BLOCK);
      else await this.copy(this.byQueue, slba, blocks);
    }
    await this.lm.consumeQueue(cdqid, (header.head + entries.length / 32) % header.cap);
    if (last !== EntrySequence.Full || !restart) return last;
    this.fullCount++;
    await this.lm.trackUserData(cdqid, true);
    await this.copy(this.byQueue, 0, BLOCKS);
    return last;
  }

  async bitmap(): Promise<void> {
    const { header, runs } = await this.lm.changedBlocks(1);
    for (const { slba, blockCount } of runs) await this.copy(this.byBitmap, slba, blockCount);
    await this.lm.acknowledgeChanges(1, header);
  }
}

async function change(random: Random, io: RawHost): Promise<void> {
  const blocks = 1 + random.below(16);
  const slba = random.below(BLOCKS - blocks);
  const kind = random.below(6);
  const range = Buffer.alloc(kind === 3 ? 32 : 16);
  let done: { code: number };
  if (kind === 0) done = await io.command({ opcode: 8, nsid: 1, cdw10: slba, cdw12: (blocks - 1) | 0x0200_0000 });
  else if (kind === 1) done = await io.command({ opcode: 8, nsid: 1, cdw10: slba, cdw12: blocks - 1 });
  else if (kind === 2) {
    range.writeUInt32LE(blocks, 4);
    range.writeBigUInt64LE(BigInt(slba), 8);
    done = await io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range });
  } else if (kind === 3) {
    range.writeBigUInt64LE(BigInt(random.below(BLOCKS - blocks)), 8);
    range.writeUInt16LE(blocks - 1, 16);
    done = await io.command({ opcode: 0x19, nsid: 1, cdw10: slba }, { data: range });
  } else done = await io.write(slba, random.bytes(blocks * BLOCK));
  expect(done.code, `kind ${kind}`).to.equal(0);
}

describe('live migration, model', () => {
  let t: TestTarget;
  let controller: HostController;
  afterEach(async () => {
    await controller.close();
    await t.close();
  });

  const first = randomSeed();
  for (const seed of [first, first + 1, first + 2]) {
    it(`copies by queue and by bitmap end as the source (NVMEFERRY_SEED=${seed})`, async () => {
      const random = new Random(seed);
      t = await startManaged({ backend: new MemoryBackend({ blockSize: BLOCK, blockCount: BLOCKS }) });
      controller = await HostController.connect({
        address: '127.0.0.1',
        port: t.port.service,
        subnqn: SUBSYSTEM_NQN,
        hostnqn: MANAGER_NQN,
        ioQueues: 1,
      });
      const writers = [await t.association(), await t.association()];
      const reader = new Reader(new LiveMigration(controller), (await t.association()).io);
      for (let i = 0; i < 10; i++) await change(random, writers[i % 2]!.io);
      const queues: number[] = [];
      for (const { admin } of writers) {
        const cdqid = await reader.lm.createQueue(admin.cntlid, 3 + random.below(3));
        await reader.lm.trackUserData(cdqid, true);
        queues.push(cdqid);
      }
      await reader.lm.trackChanges(1, true);
      await reader.copy(reader.byQueue, 0, BLOCKS);
      await reader.copy(reader.byBitmap, 0, BLOCKS);
      for (let i = 0; i < CHANGES; i++) {
        await change(random, random.pick(writers).io);
        if (random.oneIn(4)) await reader.drain(random.pick(queues));
        if (random.oneIn(9)) await reader.bitmap();
      }
      const flying = writers.flatMap(({ io }) => Array.from({ length: 4 }, () => change(random, io)));
      for (const { admin } of writers) await reader.lm.suspend(admin.cntlid);
      for (const cdqid of queues) {
        const last = await reader.drain(cdqid, false);
        // a queue that was full has lost changes, and can start again only after Resume
        if (last !== EntrySequence.Suspended) await reader.copy(reader.byQueue, 0, BLOCKS);
      }
      await reader.bitmap();
      const source = Buffer.alloc(BLOCKS * BLOCK);
      await reader.copy(source, 0, BLOCKS);
      expect(Buffer.compare(reader.byQueue, source), 'by queue').to.equal(0);
      expect(Buffer.compare(reader.byBitmap, source), 'by bitmap').to.equal(0);
      expect(reader.fullCount, 'full queues').to.be.greaterThan(0);
      const { csuuidi } = { csuuidi: 1 };
      const saved = await reader.lm.getState(writers[0]!.admin.cntlid, { csvi: 0, csuuidi });
      expect(saved.suspended).to.equal(true);
      await reader.lm.setState(writers[1]!.admin.cntlid, saved.bytes, { csvi: 0, csuuidi });
      for (const { admin } of writers) await reader.lm.resume(admin.cntlid);
      await Promise.all(flying);
    });
  }
});

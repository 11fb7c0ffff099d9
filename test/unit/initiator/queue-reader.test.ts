import { expect } from 'chai';
import type { PassthruCommand, PassthruResult } from '../../../src/initiator/admin-queue.ts';
import { LiveMigration, type MigrationHost, QueueReader } from '../../../src/migration.ts';
import { EntryRange, MIGRATION_EXTENSION_UUID } from '../../../src/spec/migration.ts';
import { AdminOpcode } from '../../../src/spec/opcode.ts';
import type { Controller } from '../../../src/target/controller.ts';
import { ResidentQueue } from '../../../src/target/migration/resident-queue.ts';
import {
  entryBlockCount,
  entrySlba,
  entryWordAttributes,
  entryWordBlockCount,
  entryWordNsid,
  entryWordSlba,
  isDeallocated,
  rangeOfAttributes,
  UDMQ_ENTRY_BYTES,
  UDMQ_ENTRY_DWORDS,
} from '../../../src/wire/udmq-entry.ts';
import { queuePage } from '../../support/queue-page.ts';
import { Random, randomSeed } from '../../support/random.ts';

/** A controller that has one queue and nothing else. */
class QueueHost {
  readonly queue: ResidentQueue;
  readonly maxTransferBytes: number;
  /** Before each answer. */
  onCommand: (command: PassthruCommand) => void = () => {};
  /** It gives the data in memory of its own. */
  ownMemory = false;
  pages = 0;
  events = 0;

  constructor(slots: number, maxTransferBytes: number) {
    const manager = { cntlid: 1, asyncEvents: { oneShot: () => this.events++ } } as unknown as Controller;
    this.queue = new ResidentQueue(0, manager, manager, slots, 7n);
    this.queue.log.start();
    this.maxTransferBytes = maxTransferBytes;
  }

  get lm(): LiveMigration<MigrationHost> {
    return new LiveMigration(this as unknown as MigrationHost);
  }

  async executeAdmin(_what: string, command: PassthruCommand): Promise<PassthruResult> {
    await Promise.resolve();
    const answer = new Uint8Array(command.readBytes!);
    if (command.opcode === AdminOpcode.Identify) {
      answer.set(MIGRATION_EXTENSION_UUID, 32 + 16);
    } else {
      this.onCommand(command);
      this.pages++;
      expect(command.readBytes).to.be.at.most(this.maxTransferBytes);
      expect(command.readBytes).to.equal(((command.cdw10! >>> 16) + 1) * 4);
      answer.set(queuePage(this.queue, false, command.cdw12!, command.readBytes!)!);
    }
    if (this.ownMemory || command.readInto === undefined) {
      return { status: 0, result: 0, resultHigh: 0, data: answer };
    }
    command.readInto.set(answer);
    return { status: 0, result: 0, resultHigh: 0, data: command.readInto.subarray(0, answer.length) };
  }

  async setFeature(
    _fid: number,
    { cdw11, cdw12, cdw13 }: { cdw11: number; cdw12: number; cdw13: number },
  ): Promise<void> {
    await Promise.resolve();
    if (!this.queue.log.consume(cdw12)) throw new Error(`Slot ${cdw12} cannot be the head`);
    this.queue.ring.arm(cdw11 >>> 31 === 1, cdw13);
  }
}

const PIECE = 64 + 4 * 32;

describe('QueueReader', () => {
  const first = randomSeed();
  it(`gives every entry once and in order, in pieces of one command, over the end of the ring (NVMEFERRY_SEED=${first})`, async () => {
    for (let seed = first; seed < first + 100; seed++) {
      const random = new Random(seed);
      const host = new QueueHost(2 + random.below(300), PIECE + 4 * random.below(2000));
      host.ownMemory = random.oneIn(4);
      const reader = new QueueReader(host.lm, 0);
      const told: number[] = [];
      const logged: number[] = [];
      let next = 10;
      host.onCommand = () => {
        // the host goes on writing
        for (let i = random.below(4); i > 0 && host.queue.ring.free > 1; i--) {
          host.queue.log.changed(1, next, 3, false);
          logged.push(next);
          next += 10;
        }
      };
      for (let turn = 0; turn < 8; turn++) {
        for (let i = random.below(host.queue.ring.slots); i > 0 && host.queue.ring.free > 1; i--) {
          host.queue.log.changed(1, next, 3, false);
          logged.push(next);
          next += 10;
        }
        if (turn === 7) host.onCommand = () => {};
        await reader.drain((entries, base, count) => {
          for (let at = base; at < base + count * UDMQ_ENTRY_BYTES; at += UDMQ_ENTRY_BYTES) {
            if (entryBlockCount(entries, at) === 3) told.push(entrySlba(entries, at));
          }
        });
      }
      expect(told, `seed ${seed}`).to.deep.equal(logged);
      expect(host.queue.ring.used).to.equal(0);
    }
  });

  it('peeks at the first that wait, by one command, and releases nothing', async () => {
    const host = new QueueHost(64, PIECE);
    const reader = new QueueReader(host.lm, 0);
    for (let i = 0; i < 9; i++) host.queue.log.changed(1, 10 * i, 1, false);
    for (const head of [0, 4, 8]) {
      const pages = host.pages;
      const { header, entries } = await reader.peek();
      expect(host.pages - pages).to.equal(1);
      expect([header.head, header.nent, host.queue.ring.used]).to.deep.equal([head, 10 - head, 10 - head]);
      const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
      const found: number[] = [];
      for (let at = 0; at < entries.length; at += UDMQ_ENTRY_BYTES) found.push(entrySlba(view, at));
      const all = [0, 0, 10, 20, 30, 40, 50, 60, 70, 80];
      expect(found).to.deep.equal(all.slice(head, head + 4));
      expect(host.queue.log.consume(head + found.length)).to.equal(true);
    }
    expect(host.queue.ring.used).to.equal(0);
  });

  it('peeks at no more than it has asked for', async () => {
    const host = new QueueHost(512, 64 << 10);
    for (let i = 0; i < 299; i++) host.queue.log.changed(1, 10 * i, 1, false);
    const { header, entries } = await new QueueReader(host.lm, 0).peek();
    expect([header.nent, entries.length / UDMQ_ENTRY_BYTES]).to.deep.equal([300, 126]);
  });

  it('gives the same entries as words', async () => {
    const host = new QueueHost(64, PIECE);
    for (let i = 0; i < 9; i++) host.queue.log.changed(3, 2 ** 33 + 10 * i, 2, i % 2 === 0);
    const seen: string[] = [];
    await new QueueReader(host.lm, 0).drain((entries, base, count, words) => {
      for (let i = 0; i < count; i++) {
        const at = base + i * UDMQ_ENTRY_BYTES;
        const word = base / 4 + i * UDMQ_ENTRY_DWORDS;
        const attributes = entryWordAttributes(words, word);
        if (rangeOfAttributes(attributes) !== EntryRange.Blocks) continue;
        const [nsid, slba] = [entryWordNsid(words, word), entryWordSlba(words, word)];
        expect(slba).to.equal(entrySlba(entries, at));
        seen.push(`${nsid} ${slba - 2 ** 33} ${entryWordBlockCount(words, word)} ${isDeallocated(attributes)}`);
      }
    });
    expect(seen).to.deep.equal([...new Array(9).keys()].map((i) => `3 ${10 * i} 2 ${i % 2 === 0}`));
  });

  it('reads what came before the trigger was armed, if that would have fired it, and is told of what comes then', async () => {
    const host = new QueueHost(32, PIECE);
    const reader = new QueueReader(host.lm, 0);
    let left = 9;
    let slba = 0;
    const write = (): void => {
      slba += 10;
      host.queue.log.changed(1, slba, 1, false);
    };
    host.onCommand = ({ cdw12 }) => {
      if (cdw12 === 0 && left > 0) for (let i = 0; i < 9; i++, left--) write();
    };
    let count = 0;
    await reader.drain((_entries, _base, more) => {
      count += more;
    }, 8);
    expect(count, 'the marker, and what was written while it was read').to.equal(10);
    for (let i = 0; i < 8; i++) write();
    expect(host.events, 'the eighth has not come: the ninth slot is armed').to.equal(0);
    write();
    expect(host.events).to.equal(1);
  });

  it('does not wait for an event that cannot come', async () => {
    const host = new QueueHost(16, 4096);
    const reader = new QueueReader(host.lm, 0);
    let reads = 0;
    let slba = 0;
    host.onCommand = () => {
      // after the first page, and before the trigger is armed
      if (++reads === 1) queueMicrotask(() => queueMicrotask(() => fill(5)));
    };
    const fill = (count: number): void => {
      for (let i = 0; i < count; i++) {
        slba += 10;
        host.queue.log.changed(1, slba, 1, false);
      }
    };
    let count = 0;
    await reader.drain((_entries, _base, more) => {
      count += more;
    }, 4);
    expect(host.queue.ring.used, 'less wait than the trigger is ahead').to.be.below(4);
    expect(count + host.queue.ring.used).to.equal(6);
    expect(host.queue.ring.triggerEnabled).to.equal(true);
  });

  it('releases nothing if it cannot read all, and has it again', async () => {
    const host = new QueueHost(64, PIECE);
    const reader = new QueueReader(host.lm, 0);
    for (let i = 0; i < 20; i++) host.queue.log.changed(1, i * 10, 1, false);
    host.onCommand = ({ cdw12 }) => {
      if (cdw12 !== 0) throw new Error('The link is gone');
    };
    let count = 0;
    const visit = (_entries: DataView, _base: number, more: number): void => {
      count += more;
    };
    const error = await reader.drain(visit).then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error?.message).to.equal('The link is gone');
    expect(host.queue.ring.used).to.equal(21);
    host.onCommand = () => {};
    count = 0;
    await reader.drain(visit);
    expect(count).to.equal(21);
  });

  it('refuses a trigger that no ring of the size has', async () => {
    const host = new QueueHost(8, PIECE);
    const reader = new QueueReader(host.lm, 0);
    for (const ahead of [-1, 7]) {
      const error = await reader
        .drain(() => {}, ahead)
        .then(
          () => undefined,
          (reason: Error) => reason,
        );
      expect(error?.message, String(ahead)).to.match(/^Trigger/);
    }
    expect(host.queue.ring.used, 'nothing was released').to.equal(1);
  });
});

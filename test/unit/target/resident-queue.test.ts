import { expect } from 'chai';
import type { Controller } from '../../../src/target/controller.ts';
import { ResidentQueue } from '../../../src/target/migration/resident-queue.ts';
import { queuePage } from '../../support/queue-page.ts';
import { type Random, withSeeds } from '../../support/random.ts';

const nobody = { cntlid: 7, asyncEvents: { oneShot: () => {} } } as unknown as Controller;
const HEADER_BYTES = 64;
const ENTRY_BYTES = 32;

/** A queue in which `entries` wait, the first of them in slot `head`. */
function queueAt(slots: number, head: number, entries: number): ResidentQueue {
  const queue = new ResidentQueue(3, nobody, nobody, slots, 7n);
  queue.log.start();
  for (let i = 1; i < head; i++) {
    queue.log.changed(1, i * 10, 1, false);
    queue.ring.consume(queue.ring.tail);
  }
  queue.ring.consume(queue.ring.tail);
  for (let i = 0; i < entries; i++) queue.log.changed(2, 1000 + i * 10, 1, false);
  return queue;
}

describe('ResidentQueue: log page C8h', () => {
  it('has the entries from the head on, over the end of the ring, in order', () => {
    const queue = queueAt(8, 6, 5);
    const page = queuePage(queue, false, 0, HEADER_BYTES + 5 * ENTRY_BYTES)!;
    const view = new DataView(page.buffer);
    expect(view.getUint32(16, true)).to.equal(5);
    for (let i = 0; i < 5; i++) {
      expect(view.getUint32(HEADER_BYTES + i * ENTRY_BYTES + 8, true), `entry ${i}`).to.equal(1000 + i * 10);
      // slots 6 and 7 of the first turn, then the second
      expect(page[HEADER_BYTES + i * ENTRY_BYTES + 31]! & 1, `phase ${i}`).to.equal(i < 2 ? 1 : 0);
    }
  });

  it('an entry that was read takes no more changes', () => {
    const queue = queueAt(8, 1, 0);
    queue.log.changed(2, 1000, 1, false);
    const before = queuePage(queue, false, HEADER_BYTES, ENTRY_BYTES)!;
    queue.log.changed(2, 1001, 1, false);
    expect(queuePage(queue, false, HEADER_BYTES, ENTRY_BYTES)).to.deep.equal(before);
    expect(queue.ring.used).to.equal(2);
  });

  it('says More as long as entries are behind what is asked for; zeros are behind its end, and nothing beyond', () => {
    const queue = queueAt(8, 1, 3);
    const whole = HEADER_BYTES + 3 * ENTRY_BYTES;
    expect(queuePage(queue, false, 0, whole - 4)![1]! & 1).to.equal(1);
    expect(queuePage(queue, false, 0, whole)![1]! & 1).to.equal(0);
    expect([...queuePage(queue, false, whole - 4, 8)!.subarray(4)]).to.deep.equal([0, 0, 0, 0]);
    expect([...queuePage(queue, false, whole, 4)!]).to.deep.equal([0, 0, 0, 0]);
    expect(queuePage(queue, false, whole + 4, 4)).to.equal(undefined);
  });

  it('is the same read whole or in parts, wherever they are cut (random)', () => {
    withSeeds(200, (random: Random) => {
      const slots = 2 + random.below(30);
      const queue = queueAt(slots, 1 + random.below(2 * slots), random.below(slots));
      const bytes = HEADER_BYTES + queue.ring.used * ENTRY_BYTES;
      const whole = Buffer.from(queuePage(queue, false, 0, bytes)!);
      const parts: Uint8Array[] = [];
      for (let offset = 0; offset < bytes; ) {
        const length = Math.min(4 * (1 + random.below(40)), bytes - offset);
        parts.push(queuePage(queue, false, offset, length)!);
        offset += length;
      }
      const joined = Buffer.concat(parts);
      // More differs: it is about the part
      for (const page of [whole, joined]) page[1] = page[1]! & ~1;
      expect(joined.toString('hex')).to.equal(whole.toString('hex'));
    });
  });
});

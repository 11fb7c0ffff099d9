import { expect } from 'chai';
import { type CdqEntry, CdqRing } from '../../../src/migration/cdq-ring.ts';

function ring(slots: number): { ring: CdqRing; written: [number, number][]; triggers: number[] } {
  const written: [number, number][] = [];
  const triggers: number[] = [];
  const made: CdqRing = new CdqRing(
    slots,
    { write: (slot, entry) => written.push([slot, entry.view.getUint8(0)]) },
    () => triggers.push(made.tail),
  );
  return { ring: made, written, triggers };
}
const entry = (value: number): CdqEntry => {
  const words = Uint32Array.of(value);
  return { words, view: new DataView(words.buffer) };
};

describe('CdqRing (Base 2.1 section 8.1.6)', () => {
  it('holds one entry less than it has slots', () => {
    const { ring: queue } = ring(4);
    expect([queue.used, queue.free]).to.deep.equal([0, 3]);
    for (let i = 0; i < 3; i++) queue.post(entry(i));
    expect([queue.used, queue.free, queue.tail]).to.deep.equal([3, 0, 3]);
    expect(queue.consume(2)).to.equal(true);
    expect([queue.used, queue.free, queue.consumed]).to.deep.equal([1, 2, 2]);
  });

  it('F17: inverts the phase at each wrap to slot 0', () => {
    const { ring: queue } = ring(4);
    const phases: number[] = [];
    for (let i = 0; i < 12; i++) {
      phases.push(queue.phase);
      queue.post(entry(i));
      queue.consume(queue.tail);
    }
    expect(phases).to.deep.equal([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
  });

  it('posts slot after slot', () => {
    const { ring: queue, written } = ring(3);
    for (let i = 0; i < 4; i++) {
      queue.post(entry(i));
      queue.consume(queue.tail);
    }
    queue.rewriteLast(entry(99));
    expect(written).to.deep.equal([
      [0, 0],
      [1, 1],
      [2, 2],
      [0, 3],
      [0, 99],
    ]);
  });

  it('F04-F08: takes a head from the old head to the tail, and nothing else', () => {
    const { ring: queue } = ring(8);
    expect(queue.consume(0), 'empty, the current head').to.equal(true);
    expect(queue.consume(1), 'empty, beyond it').to.equal(false);
    for (let i = 0; i < 6; i++) queue.post(entry(i));
    expect(queue.consume(6)).to.equal(true);
    for (let i = 0; i < 3; i++) queue.post(entry(i)); // slots 6, 7, 0: tail 1
    expect(queue.consume(2), 'beyond the tail').to.equal(false);
    expect(queue.consume(5), 'behind the head').to.equal(false);
    expect(queue.consume(8), 'no slot').to.equal(false);
    expect(queue.consume(7)).to.equal(true);
    expect(queue.consume(1), 'the tail, across the wrap').to.equal(true);
    expect([queue.head, queue.used, queue.consumed]).to.deep.equal([1, 0, 9]);
  });

  it('F09-F13: triggers once, when an entry is posted in the slot', () => {
    const { ring: queue, triggers } = ring(4);
    expect(queue.arm(true, 4)).to.equal(false);
    expect(queue.arm(false, 0xffff_ffff), 'ignored when disarmed').to.equal(true);
    expect(queue.arm(true, 1)).to.equal(true);
    queue.post(entry(0));
    expect(triggers).to.deep.equal([]);
    queue.post(entry(1));
    expect(triggers).to.deep.equal([2]);
    expect([queue.triggerEnabled, queue.triggerSlot]).to.deep.equal([false, 0]);
    for (let i = 0; i < 8; i++) {
      queue.consume(queue.tail);
      queue.post(entry(i));
    }
    expect(triggers, 'not again after wraps').to.deep.equal([2]);
  });

  it('a disarmed trigger does not fire', () => {
    const { ring: queue, triggers } = ring(4);
    queue.arm(true, 0);
    queue.arm(false, 0);
    queue.post(entry(0));
    expect(triggers).to.deep.equal([]);
  });
});

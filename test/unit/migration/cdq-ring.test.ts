import { expect } from 'chai';
import { CdqRing } from '../../../src/migration/cdq-ring.ts';
import { withSeeds } from '../../support/random.ts';

const ENTRY_BYTES = 32;

/** A ring in a host's memory, or one of its own. */
interface Rig {
  readonly ring: CdqRing;
  /** Slot and first byte of what the host's memory was given. */
  readonly written: [number, number][];
  /** The tail at each trigger. */
  readonly triggers: number[];
  post(value: number): void;
}

function rig(slots: number, isElsewhere = false): Rig {
  const written: [number, number][] = [];
  const triggers: number[] = [];
  const memory = { write: (slot: number, entry: DataView) => written.push([slot, entry.getUint8(0)]) };
  const ring: CdqRing = new CdqRing(
    slots,
    ENTRY_BYTES,
    () => triggers.push(ring.tail),
    isElsewhere ? memory : undefined,
  );
  const post = (value: number): void => {
    ring.words[ring.base] = value;
    ring.post();
  };
  return { ring, written, triggers, post };
}

describe('CdqRing (Base 2.1 section 8.1.6)', () => {
  it('holds one entry less than it has slots', () => {
    const { ring: queue, post } = rig(4);
    expect([queue.used, queue.free]).to.deep.equal([0, 3]);
    for (let i = 0; i < 3; i++) post(i);
    expect([queue.used, queue.free, queue.tail]).to.deep.equal([3, 0, 3]);
    expect(queue.consume(2)).to.equal(true);
    expect([queue.used, queue.free, queue.consumed]).to.deep.equal([1, 2, 2]);
  });

  it('F17: inverts the phase at each wrap to slot 0', () => {
    const { ring: queue, post } = rig(4);
    const phases: number[] = [];
    for (let i = 0; i < 12; i++) {
      phases.push(queue.phase);
      post(i);
      queue.consume(queue.tail);
    }
    expect(phases).to.deep.equal([1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
  });

  it("in a host's memory: writes slot after slot, each as it is posted", () => {
    const { ring: queue, written, post } = rig(3, true);
    for (let i = 0; i < 4; i++) {
      post(i);
      queue.consume(queue.tail);
    }
    expect(written).to.deep.equal([
      [0, 0],
      [1, 1],
      [2, 2],
      [0, 3],
    ]);
  });

  it('F04-F08: takes a head from the old head to the tail, and nothing else', () => {
    const { ring: queue, post } = rig(8);
    expect(queue.consume(0), 'empty, the current head').to.equal(true);
    expect(queue.consume(1), 'empty, beyond it').to.equal(false);
    for (let i = 0; i < 6; i++) post(i);
    expect(queue.consume(6)).to.equal(true);
    for (let i = 0; i < 3; i++) post(i); // slots 6, 7, 0: tail 1
    expect(queue.consume(2), 'beyond the tail').to.equal(false);
    expect(queue.consume(5), 'behind the head').to.equal(false);
    expect(queue.consume(8), 'no slot').to.equal(false);
    expect(queue.consume(7)).to.equal(true);
    expect(queue.consume(1), 'the tail, across the wrap').to.equal(true);
    expect([queue.head, queue.used, queue.consumed]).to.deep.equal([1, 0, 9]);
  });

  it('F09-F13: triggers once, when an entry is posted in the slot', () => {
    const { ring: queue, triggers, post } = rig(4);
    expect(queue.arm(true, 4)).to.equal(false);
    expect(queue.arm(false, 0xffff_ffff), 'ignored when disarmed').to.equal(true);
    expect(queue.arm(true, 1)).to.equal(true);
    post(0);
    expect(triggers).to.deep.equal([]);
    post(1);
    expect(triggers).to.deep.equal([2]);
    expect([queue.triggerEnabled, queue.triggerSlot]).to.deep.equal([false, 0]);
    for (let i = 0; i < 8; i++) {
      queue.consume(queue.tail);
      post(i);
    }
    expect(triggers, 'not again after wraps').to.deep.equal([2]);
  });

  it('a disarmed trigger does not fire', () => {
    const { ring: queue, triggers, post } = rig(4);
    queue.arm(true, 0);
    queue.arm(false, 0);
    post(0);
    expect(triggers).to.deep.equal([]);
  });

  it('of its own: an entry stands in its slot, and nowhere else', () => {
    const { ring: queue, post } = rig(3);
    for (const value of [1, 2, 3, 4]) {
      post(value);
      queue.consume(queue.tail);
    }
    expect([0, 1, 2].map((slot) => queue.words[(slot * ENTRY_BYTES) / 4])).to.deep.equal([4, 2, 3]);
  });

  for (const isElsewhere of [false, true]) {
    it(`does with every post what a ring that looks at everything does (${isElsewhere ? "a host's memory" : 'its own'})`, () => {
      withSeeds(200, (random) => {
        const slots = 2 + random.below(9);
        const { ring: queue, triggers, post } = rig(slots, isElsewhere);
        // counts since creation, and what follows from them
        let posted = 0;
        let consumed = 0;
        let armed: number | undefined;
        const fired: number[] = [];
        for (let i = 0; i < 200; i++) {
          const what = random.below(8);
          if (what < 5 && posted - consumed < slots - 1) {
            const slot = posted % slots;
            if (queue.isPlain && posted - consumed >= slots - 2) throw new Error('no room for one more');
            post(slot);
            posted++;
            if (armed === slot) {
              armed = undefined;
              fired.push(posted % slots);
            }
          } else if (what < 7) {
            consumed += random.below(posted - consumed + 1);
            if (!queue.consume(consumed % slots)) throw new Error('a head that was posted');
          } else {
            armed = random.oneIn(3) ? undefined : random.below(slots);
            queue.arm(armed !== undefined, armed ?? 0);
          }
          const { tail, phase, used, triggerEnabled } = queue;
          const found = [tail, phase, used, queue.consumed, triggerEnabled, triggers.join()].join(' ');
          const wanted = [
            posted % slots,
            1 ^ (Math.floor(posted / slots) & 1),
            posted - consumed,
            consumed,
            armed !== undefined,
            fired.join(),
          ].join(' ');
          if (found !== wanted) expect(found).to.equal(wanted); // chai takes long for a hundred thousand
        }
      });
    });
  }
});

import { expect } from 'chai';
import { CdqRing } from '../../../src/migration/cdq-ring.ts';
import { LogState, UserDataLog } from '../../../src/migration/user-data-log.ts';
import { type Random, withSeeds } from '../../support/random.ts';
import { hex } from '../../vectors/layout.ts';

class Queue {
  readonly bytes: Uint8Array;
  readonly ring: CdqRing;
  readonly log: UserDataLog;
  full = 0;

  constructor(slots: number) {
    this.ring = new CdqRing(slots, 32, () => {});
    this.bytes = new Uint8Array(this.ring.words.buffer);
    this.log = new UserDataLog(this.ring, () => this.full++);
  }

  /** What a host that looks at slot `slot` reads. */
  look(slot: number): string {
    this.log.markSeen();
    return this.entry(slot);
  }

  /** What stands in slot `slot`. */
  entry(slot: number): string {
    return Buffer.from(this.bytes.subarray(slot * 32, slot * 32 + 32)).toString('hex');
  }
}

/** Byte 31 as the sheet's table has it, phase 1, no range. */
const marker = (byte31: string): string => `${'00'.repeat(31)}${byte31}`;
/** NSID, NLB (0's based), SLBA, byte 31. */
const ranged = (nsid: string, nlb: string, slba: string, byte31: string): string =>
  Buffer.from(hex(`${nsid} ${nlb} ${slba}`)).toString('hex') + '00'.repeat(15) + byte31;

describe('UserDataLog (NVM Command Set 1.2 section 5.6)', () => {
  it('L01, L08, L11, L21: start, a written and a deallocated range, stop, byte by byte', () => {
    const queue = new Queue(8);
    expect(queue.log.start()).to.equal(true);
    queue.log.changed(1, 10, 8, false);
    queue.log.changed(2, 0x1_2345_6789, 0x1000, true);
    queue.log.stop();
    queue.log.changed(1, 0, 1, false);
    expect(queue.entry(0)).to.equal(marker('83'));
    expect(queue.entry(1)).to.equal(ranged('01000000', '07000000', '0a00000000000000', '01'));
    expect(queue.entry(2)).to.equal(ranged('02000000', 'ff0f0000', '8967452301000000', '21'));
    expect(queue.entry(3)).to.equal(marker('85'));
    expect(queue.ring.used).to.equal(4);
  });

  it('S16, S17: a suspension ends the log, a resumption goes on with it', () => {
    const queue = new Queue(8);
    queue.log.start();
    queue.log.suspend();
    queue.log.changed(1, 0, 1, false);
    queue.log.resume();
    queue.log.changed(1, 5, 1, false);
    expect([0, 1, 2].map((slot) => queue.entry(slot))).to.deep.equal([marker('83'), marker('87'), marker('83')]);
    expect(queue.entry(3)).to.equal(ranged('01000000', '00000000', '0500000000000000', '01'));
  });

  it('makes no entry when it was never started', () => {
    const queue = new Queue(8);
    queue.log.suspend();
    queue.log.resume();
    queue.log.stop();
    queue.log.changed(1, 0, 1, false);
    expect(queue.ring.used).to.equal(0);
  });

  it('L22: the entry that fills the queue carries its range and says so; nothing follows', () => {
    const queue = new Queue(4);
    queue.log.start();
    queue.log.changed(1, 0, 1, false);
    expect(queue.full).to.equal(0);
    queue.log.changed(1, 100, 2, true);
    queue.log.changed(1, 200, 1, false);
    expect(queue.full).to.equal(1);
    expect(queue.log.state).to.equal(LogState.Full);
    expect(queue.entry(2)).to.equal(ranged('01000000', '01000000', '6400000000000000', '2f'));
    expect(queue.ring.used).to.equal(3);
    queue.log.suspend();
    expect(queue.ring.used, 'no suspend entry when logging is off').to.equal(3);
  });

  it('L23, L24: starts again only when there is room', () => {
    const queue = new Queue(4);
    queue.log.start();
    queue.log.changed(1, 0, 1, false);
    queue.log.changed(1, 10, 1, false);
    expect(queue.log.start()).to.equal(false);
    queue.ring.consume(queue.ring.tail);
    expect(queue.log.start()).to.equal(true);
    expect(queue.entry(3)).to.equal(marker('83'));
  });

  it('merges neighbours that nobody has seen, and only those', () => {
    const queue = new Queue(16);
    queue.log.start();
    queue.log.changed(1, 10, 5, false);
    queue.log.changed(1, 15, 5, false); // right behind
    queue.log.changed(1, 8, 2, false); // right in front
    queue.log.changed(1, 9, 3, false); // within
    expect(queue.ring.used).to.equal(2);
    queue.log.changed(1, 21, 1, false); // a block apart
    expect(queue.entry(1)).to.equal(ranged('01000000', '0b000000', '0800000000000000', '01'));
    queue.log.changed(1, 22, 1, true); // of another kind
    queue.log.changed(2, 23, 1, true); // of another namespace
    expect(queue.ring.used).to.equal(5);
    queue.log.changed(2, 24, 1, true);
    expect(queue.look(4)).to.equal(ranged('02000000', '01000000', '1700000000000000', '21'));
    queue.log.changed(2, 23, 1, true);
    expect(queue.ring.used, 'L17: seen, so it needs an entry of its own').to.equal(6);
  });

  it('an entry that has grown stands whole in its slot, with its phase, when another one is posted in slot 0', () => {
    const queue = new Queue(4);
    queue.log.start();
    queue.ring.consume(1);
    queue.log.changed(1, 0, 1, false);
    queue.log.changed(1, 100, 1, true);
    queue.ring.consume(2);
    queue.log.changed(1, 200, 1, false); // slot 3
    queue.log.changed(1, 201, 1, false);
    queue.ring.consume(3);
    queue.log.changed(1, 300, 1, false); // slot 0
    expect(queue.entry(3)).to.equal(ranged('01000000', '01000000', 'c800000000000000', '01'));
    expect(queue.entry(0)).to.equal(ranged('01000000', '00000000', '2c01000000000000', '00'));
  });

  it('an entry has nothing of the one that stood in its slot the turn before', () => {
    const queue = new Queue(4);
    queue.log.start();
    const changed = (slba: number): void => {
      queue.log.consume(queue.ring.tail);
      queue.log.changed(5, slba, 1, false);
    };
    for (const slba of [2 ** 45 + 7, 2 ** 45 + 70, 2 ** 45 + 700]) changed(slba);
    expect(queue.entry(1), 'slot 1, first turn').to.equal(`${'05000000000000000700000000200000'.padEnd(62, '0')}01`);
    // slot 0, then 1 and 2 again, by the second turn's phase
    for (const slba of [3, 30, 0xffff_ffff]) changed(slba);
    expect(queue.entry(1)).to.equal('05000000000000001e000000'.padEnd(64, '0'));
    expect(queue.entry(2)).to.equal('0500000000000000ffffffff'.padEnd(64, '0'));
  });

  it('splits what is more than 2^32 blocks', () => {
    const queue = new Queue(8);
    queue.log.start();
    queue.log.changed(1, 7, 2 ** 32 + 3, false);
    expect(queue.entry(1)).to.equal(ranged('01000000', 'ffffffff', '0700000000000000', '01'));
    expect(queue.entry(2)).to.equal(ranged('01000000', '02000000', '0700000001000000', '01'));
  });

  it('blocks that are neighbours only modulo 2^32, or in another namespace, are no neighbours', () => {
    const queue = new Queue(16);
    queue.log.start();
    queue.log.changed(1, 10, 5, false);
    queue.log.changed(1, 2 ** 32 + 15, 1, false);
    queue.log.changed(2, 2 ** 32 + 16, 1, false);
    queue.log.changed(2, 2 ** 32 + 17, 1, false); // of the newest entry
    queue.log.changed(2, 17, 1, false);
    expect(queue.look(1)).to.equal(ranged('01000000', '04000000', '0a00000000000000', '01'));
    expect(queue.look(2)).to.equal(ranged('01000000', '00000000', '0f00000001000000', '01'));
    expect(queue.look(3)).to.equal(ranged('02000000', '01000000', '1000000001000000', '01'));
    expect(queue.look(4)).to.equal(ranged('02000000', '00000000', '1100000000000000', '01'));
    expect(queue.ring.used).to.equal(5);
  });

  it('a block above 2^32 is no neighbour of the one that its lower half would be next to', () => {
    const queue = new Queue(8);
    queue.log.start();
    queue.log.changed(1, 2 ** 32 + 10, 1, false);
    queue.log.changed(1, 11, 1, false);
    expect(queue.entry(1)).to.equal(ranged('01000000', '00000000', '0a00000001000000', '01'));
    expect(queue.entry(2)).to.equal(ranged('01000000', '00000000', '0b00000000000000', '01'));
  });

  it('does not merge into a marker', () => {
    const queue = new Queue(4);
    queue.log.start();
    queue.log.changed(0, 0, 1, false); // what a marker has in these fields
    expect(queue.ring.used).to.equal(2);
    expect(queue.entry(0)).to.equal(marker('83'));
  });

  it('an entry that a host released unseen takes no more changes', () => {
    const queue = new Queue(8);
    queue.log.start();
    queue.log.changed(1, 5, 1, false);
    queue.log.consume(queue.ring.tail);
    queue.log.changed(1, 5, 1, false);
    expect(queue.ring.used).to.equal(1);
  });

  it('entries in their order say what was done last to every block, whatever is read when (random)', () => {
    withSeeds(500, (random: Random) => {
      const queue = new Queue(2 + random.below(12));
      const origin = random.oneIn(2) ? 0 : 2 ** 32 - 32;
      const source = new Map<string, boolean>();
      const copy = new Map<string, boolean>();
      let phase = 1;
      let slot = 0;
      let lost = false;
      const read = (): void => {
        queue.log.markSeen();
        for (;;) {
          const view = new DataView(queue.bytes.buffer, slot * 32, 32);
          const byte31 = view.getUint8(31);
          if ((byte31 & 1) !== phase) break;
          if (byte31 >> 6 === 0) {
            const first = view.getUint32(8, true) + view.getUint32(12, true) * 2 ** 32;
            for (let i = 0; i <= view.getUint32(4, true); i++) {
              copy.set(`${view.getUint32(0, true)}:${first + i}`, (byte31 & 0x20) !== 0);
            }
          }
          lost ||= ((byte31 >> 1) & 7) === 7;
          if (++slot === queue.ring.slots) {
            slot = 0;
            phase ^= 1;
          }
        }
        if (!queue.log.consume(slot)) throw new Error('the host cannot release what it has read');
      };
      if (!queue.log.start()) return;
      for (let i = 0; i < 300 && !lost; i++) {
        const nsid = 1 + random.below(2);
        const first = origin + random.below(64);
        const count = 1 + random.below(4);
        const deallocated = random.oneIn(4);
        const { logging } = queue.log;
        queue.log.changed(nsid, first, count, deallocated);
        if (logging) for (let b = first; b < first + count; b++) source.set(`${nsid}:${b}`, deallocated);
        if (random.oneIn(3)) read();
      }
      read();
      for (const [block, deallocated] of source) expect(copy.get(block), block).to.equal(deallocated);
    });
  });
});

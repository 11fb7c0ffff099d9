import { expect } from 'chai';
import { MemoryTracker } from '../../../src/migration/memory-tracker.ts';
import { type Random, withSeeds } from '../../support/random.ts';

const KIB = 1024;

describe('MemoryTracker (Base 2.1 sections 5.1.26, 5.1.27)', () => {
  it('reports what was written, in whole units, and forgets it', () => {
    const tracker = new MemoryTracker(0, [{ address: 0x10000, lengthBytes: 64 * KIB }]);
    tracker.mark(0x10fff, 2);
    tracker.mark(0x1ffff, 1);
    expect(tracker.report(8)).to.deep.equal({
      changes: [
        { address: 0x10000, lengthBytes: 8 * KIB },
        { address: 0x1f000, lengthBytes: 4 * KIB },
      ],
      more: false,
    });
    expect(tracker.report(8)).to.deep.equal({ changes: [], more: false });
  });

  it('clips to its ranges: what is outside is not its business', () => {
    const tracker = new MemoryTracker(0, [
      { address: 0x1000, lengthBytes: 4 * KIB },
      { address: 2 ** 40, lengthBytes: 8 * KIB },
    ]);
    tracker.mark(0, 0x1000);
    tracker.mark(0x2000, 0x1000);
    expect(tracker.report(8).changes).to.deep.equal([]);
    tracker.mark(0xfff, 0x3000);
    tracker.mark(2 ** 40 + 4 * KIB, 1);
    expect(tracker.report(8).changes).to.deep.equal([
      { address: 0x1000, lengthBytes: 4 * KIB },
      { address: 2 ** 40 + 4 * KIB, lengthBytes: 4 * KIB },
    ]);
  });

  it('M21: what the buffer has no room for comes next, nothing twice', () => {
    const tracker = new MemoryTracker(8, [{ address: 0, lengthBytes: 64 * 1024 * KIB }]);
    for (const mib of [0, 2, 4, 63]) tracker.mark(mib * 1024 * KIB, 1);
    const first = tracker.report(2);
    expect(first.more).to.equal(true);
    const second = tracker.report(2);
    expect(second.more).to.equal(false);
    expect([...first.changes, ...second.changes].map(({ address }) => address / (1024 * KIB))).to.deep.equal([
      0, 2, 4, 63,
    ]);
  });

  it('a superset of the bytes that differ, and no more than the unit explains (random)', () => {
    withSeeds(60, (random: Random) => {
      const size = 64 * KIB;
      const tracker = new MemoryTracker(0, [{ address: 0, lengthBytes: size }]);
      const written = new Set<number>();
      const reported = new Set<number>();
      for (let i = 0; i < 40; i++) {
        const address = random.below(size);
        const length = 1 + random.below(Math.min(9000, size - address));
        tracker.mark(address, length);
        for (let page = address >> 12; page <= (address + length - 1) >> 12; page++) written.add(page);
        if (!random.oneIn(4)) continue;
        for (const { address: at, lengthBytes } of tracker.report(1 + random.below(3)).changes) {
          for (let page = at >> 12; page < (at + lengthBytes) >> 12; page++) reported.add(page);
        }
      }
      for (let more = true; more; ) {
        const report = tracker.report(1);
        for (const { address: at, lengthBytes } of report.changes) {
          for (let page = at >> 12; page < (at + lengthBytes) >> 12; page++) reported.add(page);
        }
        more = report.more;
      }
      expect([...reported].sort((a, b) => a - b)).to.deep.equal([...written].sort((a, b) => a - b));
    });
  });
});

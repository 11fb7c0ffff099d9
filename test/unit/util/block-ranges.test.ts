import { expect } from 'chai';
import { BlockRanges } from '../../../src/util/block-ranges.ts';

const list = (ranges: BlockRanges, start = 0, end = Number.POSITIVE_INFINITY): number[][] =>
  [...ranges.within(start, end)].map((range) => [range.start, range.end]);

describe('util/block-ranges', () => {
  it('merges what overlaps or touches, keeps apart what does not', () => {
    const ranges = new BlockRanges();
    ranges.add(10, 5);
    ranges.add(20, 5);
    ranges.add(15, 1);
    expect(list(ranges)).to.deep.equal([
      [10, 16],
      [20, 25],
    ]);
    ranges.add(16, 4);
    expect(list(ranges)).to.deep.equal([[10, 25]]);
    ranges.add(0, 100);
    expect(list(ranges)).to.deep.equal([[0, 100]]);
  });

  it('cuts: the middle, the ends, all, nothing', () => {
    const ranges = new BlockRanges();
    ranges.add(0, 100);
    expect(ranges.remove(40, 10)).to.equal(true);
    expect(ranges.remove(40, 10)).to.equal(false);
    expect(ranges.remove(100, 10)).to.equal(false);
    expect(ranges.remove(0, 10)).to.equal(true);
    expect(list(ranges)).to.deep.equal([
      [10, 40],
      [50, 100],
    ]);
    expect(ranges.remove(0, 200)).to.equal(true);
    expect(ranges.isEmpty).to.equal(true);
  });

  it('gives the parts within a window', () => {
    const ranges = new BlockRanges();
    ranges.add(0, 10);
    ranges.add(20, 10);
    ranges.add(40, 10);
    expect(list(ranges, 5, 25)).to.deep.equal([
      [5, 10],
      [20, 25],
    ]);
    expect(list(ranges, 10, 20)).to.deep.equal([]);
  });

  it('is what a set of numbers would be (seed 7)', () => {
    let state = 7;
    const random = (below: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const ranges = new BlockRanges();
    const model = new Set<number>();
    for (let round = 0; round < 2000; round++) {
      const start = random(200);
      const count = 1 + random(20);
      const blocks = Array.from({ length: count }, (_, i) => start + i);
      if (random(2) === 0) {
        ranges.add(start, count);
        for (const block of blocks) model.add(block);
      } else {
        expect(ranges.remove(start, count)).to.equal(blocks.some((block) => model.has(block)));
        for (const block of blocks) model.delete(block);
      }
      const probe = random(220);
      expect(ranges.intersects(probe, 3)).to.equal([0, 1, 2].some((i) => model.has(probe + i)));
      const found = list(ranges).flatMap(([from, to]) => Array.from({ length: to! - from! }, (_, i) => from! + i));
      expect(found).to.deep.equal([...model].sort((a, b) => a - b));
      for (const [i, range] of list(ranges).entries()) {
        if (i > 0) expect(range[0]!, 'a gap between ranges').to.be.greaterThan(list(ranges)[i - 1]![1]!);
      }
    }
  });
});

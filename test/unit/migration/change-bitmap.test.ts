import { expect } from 'chai';
import { ChangeBitmap } from '../../../src/migration/change-bitmap.ts';
import { type Random, withSeeds } from '../../support/random.ts';

function runs(bitmap: ChangeBitmap): [number, number][] {
  const found: [number, number][] = [];
  let from = 0;
  for (let run = bitmap.nextRun(from); run !== undefined; run = bitmap.nextRun(from)) {
    found.push([run.first, run.count]);
    from = run.first + run.count;
  }
  return found;
}

describe('ChangeBitmap', () => {
  it('rounds to granules, and merges neighbours', () => {
    const bitmap = new ChangeBitmap(8, 1000);
    bitmap.mark(7, 2); // granules 0 and 1
    bitmap.mark(16, 1);
    bitmap.mark(999, 1); // the last, shorter one
    bitmap.takeSnapshot();
    expect(runs(bitmap)).to.deep.equal([
      [0, 3],
      [124, 1],
    ]);
    expect(bitmap.snapshotCount()).to.equal(4);
  });

  for (const granuleBlocks of [2 ** 20, 3 * 2 ** 19]) {
    it(`has every block in its granule where addresses need more than 32 bits, granules of ${granuleBlocks} blocks`, () => {
      const places = [2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 3 * 2 ** 20, 2 ** 33 + 5];
      for (const slba of places) {
        for (const blockCount of [1, 2, 3 * 2 ** 20]) {
          const bitmap = new ChangeBitmap(granuleBlocks, 2 ** 34);
          bitmap.mark(slba, blockCount);
          bitmap.takeSnapshot();
          const first = Number(BigInt(slba) / BigInt(granuleBlocks));
          const last = Number(BigInt(slba + blockCount - 1) / BigInt(granuleBlocks));
          expect(runs(bitmap), `${blockCount} from ${slba}`).to.deep.equal([[first, last - first + 1]]);
        }
      }
    });
  }

  it('keeps a snapshot until it is acknowledged, and new changes apart from it', () => {
    const bitmap = new ChangeBitmap(1, 100);
    bitmap.mark(5, 1);
    const epoch = bitmap.takeSnapshot();
    bitmap.mark(6, 1);
    expect(bitmap.takeSnapshot(), 'the same snapshot').to.equal(epoch);
    expect(runs(bitmap)).to.deep.equal([[5, 1]]);
    expect(bitmap.acknowledge(epoch + 1)).to.equal(false);
    expect(runs(bitmap)).to.deep.equal([[5, 1]]);
    expect(bitmap.acknowledge(epoch)).to.equal(true);
    expect(bitmap.acknowledge(epoch), 'once').to.equal(false);
    expect(bitmap.takeSnapshot()).to.be.greaterThan(epoch);
    expect(runs(bitmap)).to.deep.equal([[6, 1]]);
  });

  it('gives back what a vanished reader did not acknowledge', () => {
    const bitmap = new ChangeBitmap(1, 5000);
    bitmap.mark(4999, 1);
    bitmap.takeSnapshot();
    bitmap.mark(0, 1);
    bitmap.giveBack();
    bitmap.takeSnapshot();
    expect(runs(bitmap)).to.deep.equal([
      [0, 1],
      [4999, 1],
    ]);
  });

  it('counts new blocks as changed when it grows, and forgets those that are gone', () => {
    const bitmap = new ChangeBitmap(2, 20);
    bitmap.mark(0, 1);
    bitmap.resize(40);
    bitmap.takeSnapshot();
    expect(runs(bitmap)).to.deep.equal([
      [0, 1],
      [10, 10],
    ]);
    bitmap.resize(24);
    expect(runs(bitmap)).to.deep.equal([
      [0, 1],
      [10, 2],
    ]);
  });

  it('takes two bits a granule and little more: 64 MiB for 1 TiB in granules of 4 KiB', () => {
    const bitmap = new ChangeBitmap(1, 2 ** 28);
    expect(bitmap.byteLength).to.be.within(2 ** 26, 2 ** 26 * 1.04);
    bitmap.mark(2 ** 28 - 1, 1);
    bitmap.takeSnapshot();
    expect(runs(bitmap)).to.deep.equal([[2 ** 28 - 1, 1]]);
  });

  it('loses and invents nothing, whatever is marked, read, acknowledged or given back (random)', () => {
    withSeeds(200, (random: Random) => {
      const blocks = 1 + random.below(3000);
      const granule = 1 + random.below(4);
      const bitmap = new ChangeBitmap(granule, blocks);
      let active = new Set<number>();
      let snapshot: Set<number> | undefined;
      for (let step = 0; step < 60; step++) {
        switch (random.below(5)) {
          case 0:
          case 1: {
            const first = random.below(blocks);
            const count = 1 + random.below(Math.min(blocks - first, random.oneIn(4) ? 2000 : 4));
            bitmap.mark(first, count);
            for (let b = first; b < first + count; b++) active.add(Math.floor(b / granule));
            break;
          }
          case 2: {
            bitmap.takeSnapshot();
            if (snapshot === undefined) {
              snapshot = active;
              active = new Set();
            }
            const expected = [...snapshot].sort((a, b) => a - b);
            const found = runs(bitmap).flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
            expect(found).to.deep.equal(expected);
            expect(bitmap.snapshotCount()).to.equal(expected.length);
            break;
          }
          case 3:
            if (snapshot !== undefined && bitmap.acknowledge(bitmap.epoch)) snapshot = undefined;
            break;
          default:
            bitmap.giveBack();
            for (const granuleIndex of snapshot ?? []) active.add(granuleIndex);
            snapshot = undefined;
        }
      }
    });
  });
});

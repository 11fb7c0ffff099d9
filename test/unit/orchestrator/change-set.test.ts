import { expect } from 'chai';
import { ChangeSet } from '../../../src/orchestrator/change-set.ts';
import type { ChangedRun } from '../../../src/orchestrator/volume.ts';
import { type Random, withSeeds } from '../../support/random.ts';

type Word = 'same' | 'written' | 'deallocated';

/** What the set says of each block, and that its runs are in order and apart. */
function words(runs: readonly ChangedRun[], blockCount: number): Word[] {
  const found = new Array<Word>(blockCount).fill('same');
  let end = 0;
  for (const run of runs) {
    expect(run.slba, 'ascending').to.be.at.least(end);
    end = run.slba + run.blockCount;
    expect(end, 'within the namespace').to.be.at.most(blockCount);
    found.fill(run.isDeallocated === true ? 'deallocated' : 'written', run.slba, end);
  }
  return found;
}

function allRuns(set: ChangeSet, runsMax: number): ChangedRun[] {
  const all: ChangedRun[] = [];
  for (let from: number | undefined = 0; from !== undefined; ) {
    const { runs, next } = set.runs(from, runsMax);
    expect(runs.length).to.be.at.most(runsMax);
    all.push(...runs);
    from = next;
  }
  return all;
}

function someChange(random: Random, blockCount: number): { slba: number; count: number } {
  const count = 1 + random.below(random.pick([1, 4, 70, blockCount]));
  return { slba: random.below(blockCount - Math.min(count, blockCount) + 1), count: Math.min(count, blockCount) };
}

describe('ChangeSet', () => {
  it('says of each block what was said of it last, in as many answers as it takes', () => {
    withSeeds(60, (random) => {
      // pages have 32,768 granules: some of these have a part of one, some several
      const blockCount = random.pick([1, 31, 33, 1000, 32_768, 70_001]);
      const set = new ChangeSet(blockCount);
      const model = new Array<Word>(blockCount).fill('same');
      for (let left = random.below(40); left > 0; left--) {
        if (random.oneIn(20)) {
          set.allDeallocated();
          model.fill('deallocated');
          continue;
        }
        const { slba, count } = someChange(random, blockCount);
        const isDeallocated = random.oneIn(3);
        if (isDeallocated) set.deallocated(slba, count);
        else set.written(slba, count);
        model.fill(isDeallocated ? 'deallocated' : 'written', slba, slba + count);
      }
      expect(words(allRuns(set, random.pick([1, 3, 1000])), blockCount).join()).to.equal(model.join());
    });
  });

  it('coarse granules: nothing that was written is left out, and only whole ones are deallocated', () => {
    withSeeds(60, (random) => {
      const blockCount = 1000 + random.below(50);
      const set = new ChangeSet(blockCount, 132);
      expect(set.granuleBlocks).to.equal(8);
      const model = new Array<Word>(blockCount).fill('same');
      for (let left = 1 + random.below(20); left > 0; left--) {
        const { slba, count } = someChange(random, blockCount);
        const isDeallocated = random.oneIn(2);
        if (isDeallocated) set.deallocated(slba, count);
        else set.written(slba, count);
        model.fill(isDeallocated ? 'deallocated' : 'written', slba, slba + count);
      }
      const found = words(allRuns(set, 1000), blockCount);
      for (let block = 0; block < blockCount; block++) {
        // a part of a granule is read: that is always right
        const allowed: Word[] = model[block] === 'written' ? ['written'] : [model[block]!, 'written'];
        expect(allowed, `block ${block}`).to.include(found[block]!);
      }
    });
  });

  it('neighbours are one run, and 1 TiB that was deallocated is a few and takes no memory', () => {
    const blockCount = 2 ** 28;
    const set = new ChangeSet(blockCount);
    set.written(10, 5);
    set.written(15, 5);
    expect(allRuns(set, 10)).to.deep.equal([{ slba: 10, blockCount: 10 }]);
    set.allDeallocated();
    expect(set.byteLength).to.equal(0);
    set.written(2 ** 27, 1);
    expect(allRuns(set, 10)).to.deep.equal([
      { slba: 0, blockCount: 2 ** 27, isDeallocated: true },
      { slba: 2 ** 27, blockCount: 1 },
      { slba: 2 ** 27 + 1, blockCount: 2 ** 27 - 1, isDeallocated: true },
    ]);
    expect(set.byteLength).to.be.at.most(8192);
  });

  it('is bounded for any size', () => {
    const set = new ChangeSet(2 ** 44);
    expect(2 ** 44 / set.granuleBlocks).to.be.at.most(2 ** 28);
  });
});

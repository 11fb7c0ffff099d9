import { expect } from 'chai';
import type { MemoryRun } from '../../../src/orchestrator/end.ts';
import { unitsOf, within } from '../../../src/orchestrator/memory-ranges.ts';
import { withSeeds } from '../../support/random.ts';

const PAGE = 4096;
const ANY = { trattr: 0 };
const POWERS = { trattr: 0x04 };

const pages = (first: number, count: number): MemoryRun => ({ address: first * PAGE, lengthBytes: count * PAGE });
const said = (units: ReturnType<typeof unitsOf>): string | undefined =>
  units?.map(({ saddr, len }) => `${Number(saddr) / PAGE}+${len}`).join(' ');

describe('memory ranges', () => {
  it('are rounded to the granularity, and joined where they touch', () => {
    expect(said(unitsOf([pages(5, 1), pages(1, 2), pages(3, 1)], 0, ANY, 8))).to.equal('1+3 5+1');
    expect(said(unitsOf([{ address: 100, lengthBytes: PAGE }], 0, ANY, 8))).to.equal('0+2');
    // units of 16 KiB
    expect(said(unitsOf([pages(5, 1), pages(17, 4)], 2, ANY, 8))).to.equal('4+1 16+2');
  });

  it('the nearest go together when there are too many', () => {
    const ranges = [pages(0, 1), pages(2, 1), pages(10, 1), pages(13, 1), pages(100, 1)];
    expect(said(unitsOf(ranges, 0, ANY, 5))).to.equal('0+1 2+1 10+1 13+1 100+1');
    expect(said(unitsOf(ranges, 0, ANY, 4))).to.equal('0+3 10+1 13+1 100+1');
    expect(said(unitsOf(ranges, 0, ANY, 3))).to.equal('0+3 10+4 100+1');
    expect(said(unitsOf(ranges, 0, ANY, 1))).to.equal('0+101');
  });

  it('powers of two where the controller wants them, and none where they do not do', () => {
    expect(said(unitsOf([pages(0, 7)], 0, POWERS, 3))).to.equal('0+4 4+2 6+1');
    expect(said(unitsOf([pages(0, 7)], 0, POWERS, 2))).to.equal(undefined);
    expect(said(unitsOf([pages(0, 8)], 0, POWERS, 1))).to.equal('0+8');
  });

  it('cover all that was asked for, whatever the limits, and no report is of anything else', () => {
    withSeeds(200, (random) => {
      const ranges = Array.from({ length: 1 + random.below(20) }, () => ({
        address: random.below(2 ** 20),
        lengthBytes: 1 + random.below(2 ** 16),
      }));
      const exponent = random.below(4);
      const most = 1 + random.below(12);
      const units = unitsOf(ranges, exponent, random.oneIn(2) ? ANY : POWERS, most);
      if (units === undefined) return;
      expect(units.length).to.be.at.most(most);
      const unit = PAGE * 2 ** exponent;
      const tracked = units.map(({ saddr, len }) => ({ address: Number(saddr), lengthBytes: len * unit }));
      for (const { address, lengthBytes } of ranges) {
        const covered = within(tracked, [{ address, lengthBytes }]);
        const bytes = new Set(covered.flatMap((run) => [run.address, run.address + run.lengthBytes - 1]));
        expect([...bytes].some((at) => at === address)).to.equal(true);
        expect([...bytes].some((at) => at === address + lengthBytes - 1)).to.equal(true);
        expect(covered.reduce((sum, run) => sum + run.lengthBytes, 0)).to.equal(lengthBytes);
      }
    });
  });
});

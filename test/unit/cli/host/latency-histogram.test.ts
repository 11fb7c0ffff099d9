import { expect } from 'chai';
import { LatencyHistogram } from '../../../../src/cli/host/latency-histogram.ts';

describe('LatencyHistogram', () => {
  it('percentiles are exact to 1.6 % over the whole range', () => {
    for (const scale of [1, 1000, 1_000_000]) {
      const histogram = new LatencyHistogram();
      for (let i = 1; i <= 1000; i++) histogram.add(i * scale);
      for (const percent of [1, 10, 50, 90, 99, 99.9, 100]) {
        const exact = percent * 10 * scale;
        expect(histogram.percentileNs(percent)).to.be.at.least(exact);
        expect(histogram.percentileNs(percent)).to.be.at.most(exact * 1.016 + 1);
      }
      expect([histogram.minNs, histogram.maxNs, histogram.count]).to.deep.equal([scale, 1000 * scale, 1000]);
      expect(histogram.meanNs).to.be.closeTo(500.5 * scale, 0.01);
      expect(histogram.stddevNs).to.be.closeTo(288.675 * scale, 0.01 * scale);
    }
  });

  it('counts what is longer than it can say as the longest', () => {
    const histogram = new LatencyHistogram();
    histogram.add(1e12);
    expect(histogram.percentileNs(50)).to.equal(0x7fffffff);
  });

  it('is empty after clear', () => {
    const histogram = new LatencyHistogram();
    histogram.add(5);
    histogram.clear();
    expect([histogram.count, histogram.meanNs, histogram.percentileNs(99)]).to.deep.equal([0, 0, 0]);
  });
});

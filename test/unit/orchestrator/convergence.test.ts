import { expect } from 'chai';
import { Convergence } from '../../../src/orchestrator/convergence.ts';

const MB = 1_000_000;

describe('Convergence', () => {
  const options = { blackoutBudgetMs: 300, switchMs: 50 };

  it('before the first round nothing is known', () => {
    const convergence = new Convergence(options);
    expect(convergence.blackoutMs).to.equal(Number.POSITIVE_INFINITY);
    expect(convergence.remainingMs).to.equal(undefined);
    expect(convergence.verdict.kind).to.equal('again');
  });

  it('forecasts the pause from what is left and the rate of copying', () => {
    const convergence = new Convergence(options);
    convergence.add({ bytes: 1000 * MB, durationMs: 10_000, dirtiedBytes: 100 * MB });
    expect(convergence.copyRate).to.equal(100 * MB);
    expect(convergence.dirtyRate).to.equal(10 * MB);
    expect(convergence.blackoutMs).to.equal(1050);
    expect(convergence.verdict.kind).to.equal('again');
    // 100 MB take 1 s and leave 10 MB, which fit 250 ms
    expect(convergence.remainingMs).to.equal(1000);
    convergence.add({ bytes: 100 * MB, durationMs: 1000, dirtiedBytes: 10 * MB });
    expect(convergence.blackoutMs).to.equal(150);
    expect(convergence.remainingMs).to.equal(0);
    expect(convergence.verdict).to.deep.equal({ kind: 'cut' });
  });

  it('a cut is exactly allowed at its budget, not above', () => {
    const first = { bytes: 1000 * MB, durationMs: 1000, dirtiedBytes: 100 * MB };
    const at = new Convergence(options);
    at.add(first);
    at.add({ bytes: 100 * MB, durationMs: 1000, dirtiedBytes: 25 * MB });
    expect(at.verdict.kind).to.equal('cut');
    const above = new Convergence(options);
    above.add(first);
    above.add({ bytes: 100 * MB, durationMs: 1000, dirtiedBytes: 25 * MB + 1000 });
    expect(above.verdict.kind).to.equal('again');
  });

  it('the speed of long runs says nothing of scattered changes: those are copied once before a cut', () => {
    const convergence = new Convergence(options);
    convergence.add({ bytes: 1000 * MB, durationMs: 1000, dirtiedBytes: 20 * MB });
    expect(convergence.blackoutMs, 'by the first round').to.be.below(300);
    expect(convergence.verdict.kind).to.equal('again');
    convergence.add({ bytes: 20 * MB, durationMs: 500, dirtiedBytes: 12 * MB });
    expect(convergence.copyRate, 'of changes alone').to.equal(40 * MB);
    expect(convergence.blackoutMs).to.equal(350);
    expect(convergence.verdict.kind).to.equal('again');
    const little = new Convergence(options);
    little.add({ bytes: 1000 * MB, durationMs: 1000, dirtiedBytes: MB });
    expect(little.verdict.kind).to.equal('cut');
  });

  it('an idle guest, and an empty namespace, can be cut at once', () => {
    const convergence = new Convergence(options);
    convergence.add({ bytes: 0, durationMs: 0, dirtiedBytes: 0 });
    expect(convergence.blackoutMs).to.equal(50);
    expect(convergence.verdict.kind).to.equal('cut');
  });

  it('a switch that takes longer than the budget is never allowed', () => {
    const convergence = new Convergence({ blackoutBudgetMs: 40, switchMs: 50 });
    for (let i = 0; i < 10; i++) convergence.add({ bytes: 0, durationMs: 5, dirtiedBytes: 0 });
    expect(convergence.verdict.kind).to.equal('again');
    expect(convergence.blackoutMs).to.equal(50);
  });

  it('is stuck after three rounds without progress, and names the rate of writes that it could bear', () => {
    const convergence = new Convergence(options);
    const round = { bytes: 100 * MB, durationMs: 1000, dirtiedBytes: 100 * MB };
    convergence.add(round);
    convergence.add(round);
    convergence.add(round);
    expect(convergence.verdict.kind).to.equal('again');
    expect(convergence.remainingMs).to.equal(undefined);
    convergence.add(round);
    expect(convergence.verdict).to.deep.equal({ kind: 'stuck', bytesPerSecond: 50 * MB });
    // a throttle that helps ends it
    convergence.add({ ...round, dirtiedBytes: 60 * MB });
    expect(convergence.verdict.kind).to.equal('again');
  });

  it('slow progress is progress', () => {
    const convergence = new Convergence(options);
    for (let dirtiedBytes = 100 * MB; dirtiedBytes > 26 * MB; dirtiedBytes *= 0.89) {
      convergence.add({ bytes: 100 * MB, durationMs: 1000, dirtiedBytes });
      expect(convergence.verdict.kind).to.equal('again');
    }
  });
});

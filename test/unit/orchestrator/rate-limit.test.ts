import { expect } from 'chai';
import { RateLimit } from '../../../src/orchestrator/rate-limit.ts';
import { ManualClock } from '../../support/manual-clock.ts';

describe('RateLimit', () => {
  async function settle(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
  }

  it('without a limit everything goes at once, and no timer is left', async () => {
    const clock = new ManualClock();
    const rate = new RateLimit(clock);
    for (let i = 0; i < 10; i++) await rate.take(1e9);
    expect(clock.timerCount).to.equal(0);
  });

  it('lets so many bytes a second go, in order', async () => {
    const clock = new ManualClock();
    const rate = new RateLimit(clock, 1000);
    const gone: number[] = [];
    for (let i = 0; i < 20; i++) void rate.take(100).then(() => gone.push(i));
    await settle();
    expect(gone).to.deep.equal([0]); // on credit
    for (let second = 1; second <= 1; second++) {
      for (let step = 0; step < 10; step++) {
        clock.advance(100);
        await settle();
      }
      expect(gone.length).to.be.within(10, 12);
    }
    clock.advance(10_000);
    await settle();
    expect(gone).to.deep.equal(Array.from({ length: 20 }, (_, i) => i));
    expect(clock.timerCount).to.equal(0);
  });

  it('a pause earns a tenth of a second, not more', async () => {
    const clock = new ManualClock();
    const rate = new RateLimit(clock, 1000);
    clock.advance(60_000);
    let gone = 0;
    for (let i = 0; i < 100; i++) void rate.take(50).then(() => gone++);
    await settle();
    expect(gone).to.be.within(2, 3);
  });

  it('a transfer longer than a burst goes, and is paid for afterwards', async () => {
    const clock = new ManualClock();
    const rate = new RateLimit(clock, 1000);
    await rate.take(5000);
    let gone = false;
    void rate.take(1).then(() => {
      gone = true;
    });
    clock.advance(4900);
    await settle();
    expect(gone).to.equal(false);
    clock.advance(101);
    await settle();
    expect(gone).to.equal(true);
  });

  it('a new rate holds for who waits, and release lets all go', async () => {
    const clock = new ManualClock();
    const rate = new RateLimit(clock, 10);
    let gone = 0;
    for (let i = 0; i < 5; i++) void rate.take(100).then(() => gone++);
    await settle();
    expect(gone).to.equal(1);
    rate.set(1000);
    clock.advance(201);
    await settle();
    expect(gone).to.be.within(3, 4);
    rate.release();
    await settle();
    expect(gone).to.equal(5);
    expect(clock.timerCount).to.equal(0);
    for (const wrong of [0, -1, Number.NaN]) expect(() => rate.set(wrong)).to.throw(/above 0/);
  });
});

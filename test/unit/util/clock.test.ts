import { expect } from 'chai';
import { systemClock } from '../../../src/util/clock.ts';
import { ManualClock } from '../../support/manual-clock.ts';

describe('clocks', () => {
  it('the system clock never goes back and keeps no process alive', () => {
    const first = systemClock.nowMs();
    expect(systemClock.nowMs()).to.be.at.least(first);
    const timersBefore = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    const timer = systemClock.setTimer(() => {}, 100_000);
    const timers = process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    expect(timers, 'timers that keep the process alive').to.equal(timersBefore);
    timer.cancel();
  });

  it('the system clock calls back once', async () => {
    let calls = 0;
    await new Promise<void>((resolve) => {
      systemClock.setTimer(() => {
        calls++;
        setImmediate(resolve);
      }, 1);
      setTimeout(() => {}, 50).unref();
      // an unref'd timer alone would let the loop end: something must hold it
      const hold = setInterval(() => {
        if (calls > 0) clearInterval(hold);
      }, 1);
    });
    expect(calls).to.equal(1);
  });

  it('the manual clock runs timers in the order of their times, cancelled ones not at all', () => {
    const clock = new ManualClock();
    const ran: string[] = [];
    clock.setTimer(() => ran.push(`late ${clock.nowMs()}`), 20);
    clock.setTimer(() => {
      ran.push(`early ${clock.nowMs()}`);
      clock.setTimer(() => ran.push(`nested ${clock.nowMs()}`), 5);
    }, 10);
    clock.setTimer(() => ran.push('cancelled'), 15).cancel();
    clock.advance(9);
    expect(ran).to.deep.equal([]);
    clock.advance(11);
    expect(ran).to.deep.equal(['early 10', 'nested 15', 'late 20']);
    expect([clock.nowMs(), clock.timerCount]).to.deep.equal([20, 0]);
  });
});

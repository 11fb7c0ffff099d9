import { expect } from 'chai';
import { GateState } from '../../../src/target/range-gate.ts';
import { type LimitedIo, WAIT_MS_MAX, WriteLimit } from '../../../src/target/write-limit.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { withSeeds } from '../../support/random.ts';

interface Io extends LimitedIo {
  readonly name: number;
  retained: boolean;
}
const MS_PER_S = 1000;

describe('WriteLimit', () => {
  let clock: ManualClock;
  let passed: number[];
  let limit: WriteLimit<Io>;
  const start = (bytesPerSecond: number): void => {
    clock = new ManualClock();
    passed = [];
    limit = new WriteLimit<Io>(bytesPerSecond, clock, ({ name, gateState }) => {
      expect(gateState).to.equal(GateState.Outside);
      passed.push(name);
    });
  };
  const io = (name: number, lengthBytes = 1000): Io => ({
    name,
    lengthBytes,
    retained: false,
    gateState: GateState.Outside,
    retain(): void {
      this.retained = true;
    },
  });

  it('lets a burst of 100 ms go, then one after the other in order, with one timer', () => {
    start(10_000);
    const all = Array.from({ length: 6 }, (_, i) => io(i));
    expect(all.map((one) => limit.admit(one))).to.deep.equal([true, false, false, false, false, false]);
    expect(all.map(({ gateState }) => gateState)).to.deep.equal([0, 3, 3, 3, 3, 3]);
    expect(all.map(({ retained }) => retained)).to.deep.equal([false, true, true, true, true, true]);
    expect(clock.timerCount).to.equal(1);
    clock.advance(1);
    expect(passed).to.deep.equal([1]);
    clock.advance(99);
    expect(passed).to.deep.equal([1]);
    clock.advance(2);
    expect(passed).to.deep.equal([1, 2]);
    clock.advance(1000);
    expect(passed).to.deep.equal([1, 2, 3, 4, 5]);
    expect(clock.timerCount, 'nothing waits').to.equal(0);
  });

  it('whoever comes while others wait waits behind them', () => {
    start(10_000);
    limit.admit(io(0, 5000));
    expect(limit.admit(io(1))).to.equal(false);
    clock.advance(399);
    expect(limit.admit(io(2, 1))).to.equal(false);
    clock.advance(200);
    expect(passed).to.deep.equal([1, 2]);
  });

  it('nothing waits longer than 5 s, however slow the limit, and a long write does not make the next ones late for ever', () => {
    start(1);
    limit.admit(io(0, 1 << 20));
    for (let i = 1; i < 10; i++) limit.admit(io(i, 1 << 20));
    clock.advance(WAIT_MS_MAX - 1);
    expect(passed).to.deep.equal([]);
    clock.advance(1);
    expect(passed).to.have.length(9);
    limit.setRate(1 << 20);
    expect(limit.admit(io(10, 512))).to.equal(false);
    clock.advance(10);
    expect(passed, 'the debt is one of 5 s at most, which the new rate pays at once').to.include(10);
  });

  it('the rate may change under what waits', () => {
    start(1000);
    limit.admit(io(0, 100_000));
    limit.admit(io(1));
    limit.setRate(1_000_000);
    clock.advance(101);
    expect(passed).to.deep.equal([1]);
    expect(limit.bytesPerSecond).to.equal(1_000_000);
  });

  it('some are let through, some taken back; the end lets all go, and leaves no timer', () => {
    start(1000);
    limit.admit(io(0, 100_000));
    const waiting = [1, 2, 3, 4].map((name) => io(name));
    for (const one of waiting) limit.admit(one);
    limit.letThrough(({ name }) => name === 3);
    expect(passed).to.deep.equal([3]);
    limit.takeBack(waiting[1]!);
    expect(waiting[1]!.gateState).to.equal(GateState.Outside);
    limit.close();
    expect(passed).to.deep.equal([3, 1, 4]);
    expect([limit.waitingCount, clock.timerCount]).to.deep.equal([0, 0]);
  });

  it('never passes more than the rate and a burst, nor much less while enough waits', () =>
    withSeeds(20, (random) => {
      const rate = 1 + random.below(1_000_000);
      start(rate);
      let bytes = 0;
      let largest = 0;
      const lengths: number[] = [];
      for (let i = 0; i < 200; i++) {
        lengths.push(512 + random.below(8192));
        largest = Math.max(largest, lengths[i]!);
        if (limit.admit(io(i, lengths[i]!))) bytes += lengths[i]!;
      }
      let seconds = 0;
      while (limit.waitingCount > 0 && seconds < 4) {
        const ms = 1 + random.below(300);
        clock.advance(ms);
        seconds += ms / MS_PER_S;
        const total = bytes + passed.reduce((sum, name) => sum + lengths[name]!, 0);
        expect(total).to.be.at.most(rate * (seconds + 0.1) + largest + 1);
        // a timer is late by a millisecond at most
        if (limit.waitingCount > 0) expect(total).to.be.at.least(rate * (seconds - 0.002) - 1);
      }
      expect(passed, 'in order').to.deep.equal([...passed].sort((a, b) => a - b));
    }));
});

import { expect } from 'chai';
import { RunList } from '../../../src/orchestrator/run-list.ts';
import { type Random, withSeeds } from '../../support/random.ts';

describe('a list of runs in bounded room', () => {
  it('joins what touches', () => {
    const list = new RunList(4096);
    list.add(0, 4096);
    list.add(4096, 8192);
    list.add(16384, 4096);
    expect(list.runs).to.deep.equal([
      { address: 0, lengthBytes: 12288 },
      { address: 16384, lengthBytes: 4096 },
    ]);
  });

  it('joins what is nearest, with what is between, once there are too many', () => {
    const list = new RunList(1, 3);
    for (const address of [0, 2, 10, 12]) list.add(address, 1);
    expect(list.runs).to.deep.equal([
      { address: 0, lengthBytes: 3 },
      { address: 10, lengthBytes: 3 },
    ]);
  });

  it('leaves nothing out, in order, never more than its bound', () => {
    withSeeds(50, leavesNothingOut);
  });
});

function leavesNothingOut(random: Random): void {
  const max = 1 + random.below(20);
  const list = new RunList(1, max);
  const added = new Set<number>();
  for (let at = 0; at < 2000; ) {
    const length = 1 + random.below(8);
    list.add(at, length);
    for (let i = 0; i < length; i++) added.add(at + i);
    expect(list.runs.length).to.be.at.most(max);
    at += length + random.below(2 ** random.below(8));
  }
  const has = (value: number): boolean =>
    list.runs.some(({ address, lengthBytes }) => value >= address && value < address + lengthBytes);
  for (const value of added) expect(has(value), `${value}`).to.equal(true);
  list.runs.slice(1).forEach(({ address }, i) => {
    expect(address).to.be.greaterThan(list.runs[i]!.address + list.runs[i]!.lengthBytes);
  });
}

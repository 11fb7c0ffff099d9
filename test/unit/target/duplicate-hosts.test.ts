/** What becomes of a host whose NQN is connected already. */
import { expect } from 'chai';
import type { Controller } from '../../../src/target/controller.ts';
import { type DuplicateHostPolicy, duplicatesOf } from '../../../src/target/duplicate-hosts.ts';

interface Host {
  readonly hostnqn: string;
  readonly hostid: Uint8Array;
  readonly portId: number;
}
const host = (hostnqn: string, id: number, portId: number): Host => ({
  hostnqn,
  hostid: new Uint8Array(16).fill(id),
  portId,
});

describe('duplicate hosts', () => {
  const there = [host('a', 1, 1), host('a', 1, 2), host('a', 2, 1), host('b', 1, 1)];
  const decide = (policy: DuplicateHostPolicy, newcomer: Host): number[] | 'refuse' => {
    const decided = duplicatesOf(policy, there as unknown as Controller[], newcomer);
    return decided === 'refuse' ? decided : decided.map((one) => there.indexOf(one as unknown as Host));
  };

  it('are allowed by default', () => {
    expect(decide({}, host('a', 1, 1))).to.deep.equal([]);
  });

  it('same identifier: only the same port counts, another is another path', () => {
    expect(decide({ sameHostid: 'replace' }, host('a', 1, 1))).to.deep.equal([0]);
    expect(decide({ sameHostid: 'refuse' }, host('a', 1, 1))).to.equal('refuse');
    expect(decide({ sameHostid: 'refuse' }, host('a', 1, 3))).to.deep.equal([]);
  });

  it('another identifier: every port counts; another NQN never', () => {
    expect(decide({ otherHostid: 'replace' }, host('a', 9, 3))).to.deep.equal([0, 1, 2]);
    expect(decide({ otherHostid: 'refuse' }, host('a', 9, 3))).to.equal('refuse');
    expect(decide({ otherHostid: 'refuse', sameHostid: 'refuse' }, host('c', 1, 1))).to.deep.equal([]);
  });
});

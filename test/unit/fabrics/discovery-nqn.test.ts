/** Default discovery NQN: stable, and different for different services. */
import { expect } from 'chai';
import { defaultDiscoveryNqn } from '../../../src/fabrics/discovery-nqn.ts';
import { nqnProblem } from '../../../src/fabrics/nqn.ts';

describe('default discovery NQN', () => {
  it('is a UUID NQN of version 8, the same each time, another for each place', () => {
    const nqn = defaultDiscoveryNqn('127.0.0.1 8009');
    expect(nqn).to.match(
      /^nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    expect(nqnProblem(nqn)).to.equal(undefined);
    expect(defaultDiscoveryNqn('127.0.0.1 8009')).to.equal(nqn);
    expect(defaultDiscoveryNqn('127.0.0.1 8010')).to.not.equal(nqn);
  });
});

import { expect } from 'chai';
import { AssertionError, assert } from '../../../src/util/assert.ts';

describe('assert', () => {
  it('throws its own kind of error with the message, on any false value', () => {
    for (const value of [false, 0, '', undefined, null]) {
      expect(() => assert(value, 'what must hold')).to.throw(AssertionError, 'what must hold');
    }
    expect(() => assert(1, 'holds')).to.not.throw();
  });
});

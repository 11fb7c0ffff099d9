import { expect } from 'chai';
import { isPinned, pin, pinnedCount, unpin } from '../../../src/util/pin.ts';

describe('pin', () => {
  it('counts: a buffer stays pinned until the last one unpins it', () => {
    const buffer = new ArrayBuffer(8);
    const other = new ArrayBuffer(8);
    expect(isPinned(buffer)).to.equal(false);
    pin(buffer);
    pin(buffer);
    pin(other);
    expect(pinnedCount).to.equal(2);
    unpin(buffer);
    expect([isPinned(buffer), isPinned(other)]).to.deep.equal([true, true]);
    unpin(buffer);
    expect([isPinned(buffer), isPinned(other), pinnedCount]).to.deep.equal([false, true, 1]);
    unpin(other);
    expect([isPinned(other), pinnedCount]).to.deep.equal([false, 0]);
  });
});

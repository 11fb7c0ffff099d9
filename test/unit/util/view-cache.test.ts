import { expect } from 'chai';
import { ViewCache } from '../../../src/util/view-cache.ts';

describe('ViewCache', () => {
  const whole = Uint8Array.from({ length: 64 }, (_, i) => i);

  it('gives views of the buffer itself, the same object for the same question', () => {
    const cache = new ViewCache(whole);
    const view = cache.view(8, 16);
    expect([...view]).to.deep.equal([...whole.subarray(8, 24)]);
    expect(view.buffer).to.equal(whole.buffer);
    expect(cache.view(8, 16)).to.equal(view);
  });

  it('gives every offset and length right, whatever was asked before', () => {
    const cache = new ViewCache(whole);
    for (let round = 0; round < 3; round++) {
      for (let offset = 0; offset <= 64; offset++) {
        for (const length of [0, 1, 4, 64 - offset]) {
          if (offset + length > 64) continue;
          const view = cache.view(offset, length);
          expect([view.byteOffset, view.length]).to.deep.equal([offset, length]);
        }
      }
    }
  });

  it('serves a buffer that does not start its ArrayBuffer', () => {
    const part = whole.subarray(16, 48);
    const cache = new ViewCache(part);
    const view = cache.view(4, 8);
    expect([...view]).to.deep.equal([20, 21, 22, 23, 24, 25, 26, 27]);
    expect(cache.view(4, 8)).to.equal(view);
  });

  it('remembers one view per offset: memory is bounded by the buffer', () => {
    const cache = new ViewCache(whole);
    const first = cache.view(8, 4);
    cache.view(8, 8);
    expect(cache.view(8, 4)).to.not.equal(first);
    expect([...cache.view(8, 4)]).to.deep.equal([8, 9, 10, 11]);
  });
});

import { expect } from 'chai';
import { BufferPool } from '../../../src/util/buffer-pool.ts';
import { WorkMemory } from '../../../src/util/work-memory.ts';

describe('util/work-memory', () => {
  it('gives at once while there is room, then in order, never more than its limit', () => {
    const pool = new BufferPool();
    const work = new WorkMemory(pool, 16384);
    const got: { name: string; buffer: Uint8Array }[] = [];
    const take = (name: string, bytes: number): void =>
      work.take(bytes, (buffer) => {
        got.push({ name, buffer });
      });
    take('a', 8192);
    take('b', 8192);
    take('c', 16384);
    take('d', 4096);
    expect(got.map(({ name }) => name)).to.deep.equal(['a', 'b']);
    work.give(got[0]!.buffer);
    expect(got.length, 'd does not pass c').to.equal(2);
    work.give(got[1]!.buffer);
    expect(got.map(({ name }) => name)).to.deep.equal(['a', 'b', 'c']);
    work.give(got[2]!.buffer);
    work.give(got[3]!.buffer);
    expect([work.usedBytes, pool.usedBytes]).to.deep.equal([0, 0]);
  });

  it('one that asks for more than there is gets it alone', () => {
    const work = new WorkMemory(new BufferPool(), 4096);
    let got: Uint8Array | undefined;
    work.take(65536, (buffer) => {
      got = buffer;
    });
    expect(got?.length).to.equal(65536);
  });
});

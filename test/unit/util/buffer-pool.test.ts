import { expect } from 'chai';
import { BufferPool } from '../../../src/util/buffer-pool.ts';

describe('BufferPool', () => {
  for (const [length, bytes] of [
    [1, 4096],
    [4095, 4096],
    [4096, 4096],
    [4097, 8192],
    [8192, 8192],
    [65_537, 131_072],
    [1 << 20, 1 << 20],
    [(1 << 20) + 1, 1 << 21],
    [100 << 20, 128 << 20],
  ] as const) {
    it(`gives ${bytes} bytes for ${length}`, () => {
      const pool = new BufferPool();
      const buffer = pool.take(length);
      expect(buffer.length).to.equal(bytes);
      expect(buffer.byteOffset).to.equal(0);
      expect(buffer.buffer.byteLength).to.equal(bytes);
      expect(pool.usedBytes).to.equal(bytes);
      pool.give(buffer);
      expect(pool.usedBytes).to.equal(0);
    });
  }

  it('gives a returned buffer again, last returned first, and only for its own size', () => {
    const pool = new BufferPool();
    const small = pool.take(4096);
    const other = pool.take(4096);
    const large = pool.take(8192);
    pool.give(small);
    pool.give(other);
    pool.give(large);
    expect(pool.take(1)).to.equal(other);
    expect(pool.take(4096)).to.equal(small);
    expect(pool.take(4096)).to.not.be.oneOf([small, other]);
    expect(pool.take(5000)).to.equal(large);
  });

  it('never hands out one buffer twice', () => {
    const pool = new BufferPool();
    const out = new Set<Uint8Array>();
    for (let round = 0; round < 200; round++) {
      const length = 1 + ((round * 7919) % 40_000);
      const buffer = pool.take(length);
      expect(out.has(buffer)).to.equal(false);
      out.add(buffer);
      if (round % 3 === 0) {
        const [first] = out;
        out.delete(first!);
        pool.give(first!);
      }
    }
  });

  it('keeps at most its bound for reuse, and counts what it keeps', () => {
    const pool = new BufferPool(16_384);
    const buffers = Array.from({ length: 8 }, () => pool.take(4096));
    for (const buffer of buffers) pool.give(buffer);
    const again = new Set(Array.from({ length: 8 }, () => pool.take(4096)));
    expect(buffers.filter((buffer) => again.has(buffer)).length).to.equal(4);
    for (const buffer of again) pool.give(buffer);
    expect(pool.usedBytes).to.equal(0);
    // one that is larger than the bound is not kept
    const large = pool.take(32_768);
    pool.give(large);
    expect(pool.take(32_768)).to.not.equal(large);
  });

  it('trim forgets what it kept, and keeps again afterwards', () => {
    const pool = new BufferPool(8192);
    const first = pool.take(8192);
    pool.give(first);
    pool.trim();
    const second = pool.take(8192);
    expect(second).to.not.equal(first);
    pool.give(second);
    expect(pool.take(8192)).to.equal(second);
  });
});

/** Data buffers. */
import { BufferPool } from '../../src/util/buffer-pool.ts';
import { bench, sink } from './harness.ts';

for (const length of [4096, 131072]) {
  const pool = new BufferPool();
  const held: Uint8Array[] = new Array<Uint8Array>(128).fill(new Uint8Array(0));
  for (let i = 0; i < held.length; i++) held[i] = pool.take(length);
  // the oldest goes back before the next is taken, as on a queue with 128 commands in flight
  bench(`give() and take(), ${length} bytes`, (count) => {
    for (let i = 0; i < count; i++) {
      const slot = i & 127;
      pool.give(held[slot]!);
      held[slot] = pool.take(length);
    }
    sink[0] = pool.usedBytes;
  });
}

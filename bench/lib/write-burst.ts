/** So many writes of one block at full depth. */
import type { HostNamespace } from '../../src/initiator.ts';

const DATA = new Uint8Array(4096).fill(0x5a);

/** @param next the block of 4 KiB of each @throws Error with the status of one that failed */
export function writeBurst(namespace: HostNamespace, depth: number, count: number, next: () => number): Promise<void> {
  const step = DATA.length / namespace.blockSize;
  return new Promise<void>((resolve, reject) => {
    let left = count;
    let flying = 0;
    const submit = (): void => {
      left--;
      flying++;
      namespace.submitWrite(next() * step, step, DATA, done, undefined);
    };
    const done = (status: number): void => {
      flying--;
      if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
      if (left > 0) submit();
      else if (flying === 0) resolve();
    };
    for (let i = 0; i < depth; i++) submit();
  });
}

/** Places of no order, the same ones in each run. */
export function randomPlaces(blocks: number): () => number {
  let seed = 12_345;
  return () => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) | 0;
    return (seed >>> 0) % blocks;
  };
}

/** Each place behind the one before, over and over. */
export function placesInOrder(blocks: number): () => number {
  let at = 0;
  return () => at++ % blocks;
}

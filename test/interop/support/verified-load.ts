/**
 * Random writes and reads through our initiator, each read compared with what was last written there.
 */
import type { HostNamespace } from '../../../src/initiator.ts';

export interface VerifiedLoadOptions {
  /** Writers and readers at once, each with blocks of its own. */
  readonly workers: number;
  readonly blocksPerWorker: number;
  readonly flushEvery: number;
  /** Ends the load. */
  readonly signal: AbortSignal;
  /** Called after each command. */
  readonly onCommand?: () => void;
}

/**
 * Runs until the signal, then reads everything back. Rejects on the first command that fails or read that differs.
 * @returns the number of commands
 */
export async function verifiedLoad(namespace: HostNamespace, options: VerifiedLoadOptions): Promise<number> {
  const workers = Array.from({ length: options.workers }, (_, index) => worker(namespace, options, index));
  const counts = await Promise.all(workers);
  return counts.reduce((sum, count) => sum + count, 0);
}

async function worker(namespace: HostNamespace, options: VerifiedLoadOptions, index: number): Promise<number> {
  const { blocksPerWorker, flushEvery, signal } = options;
  const first = index * blocksPerWorker;
  /** Number of the last write to each block; 0: none. */
  const written = new Uint32Array(blocksPerWorker);
  let count = 0;
  const counted = (): void => {
    count++;
    options.onCommand?.();
  };

  const check = async (offset: number): Promise<void> => {
    const found = await namespace.read(first + offset, 1);
    counted();
    if (written[offset] !== 0 && !isContent(found, first + offset, written[offset]!)) {
      throw new Error(`Block ${first + offset} has not what write ${written[offset]} put there`);
    }
  };

  for (let number = 1; !signal.aborted; number++) {
    const offset = Math.floor(Math.random() * blocksPerWorker);
    await namespace.write(first + offset, content(namespace.blockSize, first + offset, number));
    written[offset] = number;
    counted();
    await check(Math.floor(Math.random() * blocksPerWorker));
    if (number % flushEvery === 0) await namespace.flush();
  }
  for (let offset = 0; offset < blocksPerWorker; offset++) await check(offset);
  return count;
}

/** Every eight bytes name the block and the write. */
function content(bytes: number, block: number, number: number): Uint8Array {
  const data = new Uint32Array(bytes / 4);
  for (let index = 0; index < data.length; index += 2) {
    data[index] = block;
    data[index + 1] = number;
  }
  return new Uint8Array(data.buffer);
}

function isContent(found: Uint8Array, block: number, number: number): boolean {
  return Buffer.compare(found, content(found.length, block, number)) === 0;
}

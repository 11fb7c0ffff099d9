/** Changes every block of a namespace, in pieces that leave the event loop free: what Format NVM and Sanitize do. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { BlockIo } from '../backend/block-backend.ts';
import type { Namespace } from './namespace.ts';

/** Zeroes need no data: large pieces, so that a sparse file of terabytes takes few system calls. */
const ZERO_PIECE_BYTES = 256 << 20;
const PATTERN_PIECE_BYTES = 1 << 20;

class EraseIo implements BlockIo {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly fua = false;
  readonly segments: Uint8Array[];
  readonly segmentCount: number;
  readonly #resolve: (status: number) => void;

  constructor(
    offsetBytes: number,
    lengthBytes: number,
    data: Uint8Array | undefined,
    resolve: (status: number) => void,
  ) {
    this.offsetBytes = offsetBytes;
    this.lengthBytes = lengthBytes;
    this.segments = data === undefined ? [] : [data];
    this.segmentCount = this.segments.length;
    this.#resolve = resolve;
  }

  retain(): void {}
  lend(): void {}
  lendAt(): void {}
  provide(): Uint8Array {
    return new Uint8Array(this.lengthBytes);
  }
  complete(status: number): void {
    this.#resolve(status);
  }
}

export interface EraseOptions {
  /** Told after each piece, 0 to 1. */
  readonly onProgress?: ((fraction: number) => void) | undefined;
  /** True: stop at the next piece. */
  readonly isCancelled?: (() => boolean) | undefined;
}

/** The blocks read as zeroes afterwards, durably; deallocated where the backend can. @returns the first status that is no success, or 0 */
export async function zeroNamespace(namespace: Namespace, options: EraseOptions = {}): Promise<number> {
  const mayDeallocate = namespace.backend.readsZeroAfterDeallocate;
  return thenChanged(namespace, async () => {
    const status = await inPieces(namespace, ZERO_PIECE_BYTES, options, (offsetBytes, lengthBytes, done) =>
      namespace.erase(new EraseIo(offsetBytes, lengthBytes, undefined, done), mayDeallocate),
    );
    if (status === 0) await namespace.forgetUncorrectable();
    return status;
  });
}

/** Every block holds the pattern afterwards, durably. @param pattern a dword @returns as `zeroNamespace` */
export function overwriteNamespace(namespace: Namespace, pattern: number, options: EraseOptions = {}): Promise<number> {
  const data = new Uint8Array(new Uint32Array(PATTERN_PIECE_BYTES / 4).fill(pattern).buffer);
  return thenChanged(namespace, () =>
    inPieces(namespace, PATTERN_PIECE_BYTES, options, (offsetBytes, lengthBytes, done) =>
      namespace.overwrite(new EraseIo(offsetBytes, lengthBytes, data.subarray(0, lengthBytes), done)),
    ),
  );
}

/** Whatever became of it, followers hear that every block may be another, once all of its effect is in place. */
async function thenChanged(namespace: Namespace, work: () => Promise<number>): Promise<number> {
  try {
    return await work();
  } finally {
    namespace.allChanged();
  }
}

async function inPieces(
  namespace: Namespace,
  pieceBytes: number,
  options: EraseOptions,
  run: (offsetBytes: number, lengthBytes: number, done: (status: number) => void) => void,
): Promise<number> {
  const sizeBytes = namespace.blockCount * namespace.blockSize;
  for (let offset = 0; offset < sizeBytes; offset += pieceBytes) {
    if (options.isCancelled?.() === true) return 0;
    const length = Math.min(pieceBytes, sizeBytes - offset);
    const status = await new Promise<number>((resolve) => run(offset, length, resolve));
    if (status !== 0) return status;
    options.onProgress?.((offset + length) / sizeBytes);
    await nextTurn();
  }
  return new Promise<number>((resolve) => namespace.flushErased(new EraseIo(0, 0, undefined, resolve)));
}

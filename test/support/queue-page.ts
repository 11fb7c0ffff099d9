import type { ResidentQueue } from '../../src/target/migration/resident-queue.ts';
import type { Arena } from '../../src/util/arena.ts';

/** A part of log page C8h as a host gets it, copied at once. @returns undefined if the page ends before `offset` */
export function queuePage(
  queue: ResidentQueue,
  isSuspended: boolean,
  offset: number,
  bytes: number,
): Uint8Array | undefined {
  const pieces: Uint8Array[] = [];
  const to = {
    lend: (view: Uint8Array) => void pieces.push(view.slice()),
    lendAt: (arena: Arena, at: number, length: number) => void pieces.push(arena.bytes.slice(at, at + length)),
  };
  if (!queue.lend(to, isSuspended, offset, bytes)) return undefined;
  const page = new Uint8Array(Buffer.concat(pieces));
  if (page.length !== bytes) throw new Error(`${page.length} bytes of log page C8h were lent, asked for were ${bytes}`);
  return page;
}

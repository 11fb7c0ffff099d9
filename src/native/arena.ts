/** Memory for namespaces and PDU headers: from the addon, which knows it by number, or from the heap without it. */
import type { Arena } from '../util/arena.ts';
import type { NativeBinding } from './binding.ts';
import { nativeBinding } from './load.ts';

/** Of x86-64 and of 64-bit ARM with pages of 4 KiB. */
export const HUGE_PAGE_BYTES: number = 2 << 20;

/** Zeroed memory, committed by the system as it is touched. It lives as long as its ArrayBuffer. */
export class MemoryArena implements Arena {
  readonly bytes: Uint8Array;
  readonly id: number;
  readonly #binding: NativeBinding | undefined;
  /** Nobody needs it any more: huge pages that it waits for are not made. */
  abandoned = false;
  /** Huge pages that wait, or are being made. */
  readonly #wanted = new Set<number>();

  /** @param lengthBytes 1 to 4 GiB - 1 */
  constructor(lengthBytes: number, binding: NativeBinding | undefined = nativeBinding()) {
    const mapped = binding?.arenaMap(lengthBytes);
    if (mapped === undefined || typeof mapped === 'number') {
      this.bytes = new Uint8Array(new ArrayBuffer(lengthBytes));
      this.id = 0;
    } else {
      this.bytes = new Uint8Array(mapped[0]);
      this.id = mapped[1];
      this.#binding = binding;
    }
  }

  /** Whole pages of 4 KiB: zeroed, and given back to the system if that is possible. */
  discard(offsetBytes: number, lengthBytes: number): void {
    if (this.#binding?.arenaDiscard(this.id, offsetBytes, lengthBytes) === 0) return;
    this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
  }

  /**
   * Moves what the huge page at `offsetBytes` holds into one, if the system has one: its memory is then reached with fewer misses. Not at once: one
   * after the other, beside this thread.
   */
  collapse(offsetBytes: number): void {
    if (this.id === 0 || this.#wanted.has(offsetBytes)) return;
    this.#wanted.add(offsetBytes);
    waiting.push({ arena: this, offsetBytes });
    if (waiting.length === 1) collapseNext();
  }

  /** For `collapsed` only. */
  endCollapse(offsetBytes: number): void {
    this.#wanted.delete(offsetBytes);
  }

  /** For `collapseNext` only. */
  startCollapse(offsetBytes: number, done: () => void): boolean {
    const memory = this.bytes.buffer as ArrayBuffer;
    return this.#binding!.arenaCollapse(memory, this.id, offsetBytes, HUGE_PAGE_BYTES, done) === 0;
  }
}

/** At most one entry per huge page of all arenas. The first is under way. */
const waiting: { readonly arena: MemoryArena; readonly offsetBytes: number }[] = [];

function collapseNext(): void {
  while (waiting[0]?.arena.abandoned) waiting.shift();
  const first = waiting[0];
  if (first !== undefined && !first.arena.startCollapse(first.offsetBytes, collapsed)) collapsed();
}

/** Whether it worked shows nowhere but in speed. */
function collapsed(): void {
  const { arena, offsetBytes } = waiting.shift()!;
  arena.endCollapse(offsetBytes);
  collapseNext();
}

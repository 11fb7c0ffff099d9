/** Reservation notifications of one controller: the queue behind log page 80h, and feature 82h. Base 2.1 sections 5.1.12.1.32, 5.1.25.1.28. */
import { reservationLogCodec } from '../wire/cold/log-reservation.ts';
import type { Namespace } from './namespace.ts';

/** Notices kept for a host that does not read them; beyond, the oldest are dropped: the count shows the gap. */
export const NOTICES_MAX = 256;
/** NALP counts no further. */
const NALP_MAX = 255;
/** LPC is 64 bits wide and never 0 on a page that tells something. */
const COUNT_MASK = 0xffff_ffff_ffff_ffffn;
/** Bits of feature 82h: 1 << `ReservationNotification`. */
export const NOTICE_MASK_BITS = 0x0e;

/** One that waits. */
export interface QueuedNotice {
  readonly count: bigint;
  readonly type: number;
  readonly nsid: number;
}

export class ReservationNotices {
  #count = 0n;
  readonly #queue: QueuedNotice[] = [];
  /** By namespace and not by NSID: another one may get the number. */
  #masks = new WeakMap<Namespace, number>();

  get waiting(): number {
    return this.#queue.length;
  }

  /** @returns false if the host does not want to hear of it */
  add(namespace: Namespace, type: number): boolean {
    if ((this.mask(namespace) & (1 << type)) !== 0) return false;
    this.#count = (this.#count + 1n) & COUNT_MASK || 1n;
    this.#queue.push({ count: this.#count, type, nsid: namespace.nsid });
    if (this.#queue.length > NOTICES_MAX) this.#queue.shift();
    return true;
  }

  /** The oldest notice as log page 80h, an empty page if there is none. @param remove it is read: it leaves the queue */
  page(remove: boolean): Uint8Array {
    const notice = this.#queue[0];
    if (notice === undefined) return reservationLogCodec.encode({});
    const nalp = Math.min(this.#queue.length - 1, NALP_MAX);
    if (remove) this.#queue.shift();
    return reservationLogCodec.encode({ lpc: notice.count, rnlpt: notice.type, nalp, nsid: notice.nsid });
  }

  /** Feature 82h: bits of notices that make no log page. */
  mask(namespace: Namespace): number {
    return this.#masks.get(namespace) ?? 0;
  }

  setMask(namespace: Namespace, mask: number): void {
    this.#masks.set(namespace, mask);
  }

  /** What is to move with the controller. */
  export(): { readonly count: bigint; readonly queue: readonly QueuedNotice[] } {
    return { count: this.#count, queue: [...this.#queue] };
  }

  /** Instead of all that is here; no mask is set then. */
  import(count: bigint, queue: readonly QueuedNotice[]): void {
    this.reset();
    this.#count = count;
    this.#queue.push(...queue);
  }

  /** Controller Level Reset. */
  reset(): void {
    this.#count = 0n;
    this.#queue.length = 0;
    this.#masks = new WeakMap();
  }
}

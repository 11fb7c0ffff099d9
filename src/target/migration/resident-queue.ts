/**
 * A User Data Migration Queue whose entries the controller keeps, and its host reads by log page C8h: for hosts whose memory we cannot write.
 * docs/live-migration-over-tcp.md
 */
import { CdqRing } from '../../migration/cdq-ring.ts';
import { LogState, UserDataLog } from '../../migration/user-data-log.ts';
import { CdqEvent } from '../../spec/migration.ts';
import {
  MIGRATION_LOG_HEADER_BYTES,
  ResidentQueueFlag,
  residentQueueHeaderCodec,
} from '../../wire/cold/log-migration.ts';
import { UDMQ_ENTRY_BYTES } from '../../wire/udmq-entry.ts';
import type { Controller } from '../controller.ts';

/** Slots of one queue: 4 MiB of entries, which 400,000 writes a second fill in a third of a second. */
export const RESIDENT_QUEUE_SLOTS_MAX = 131_072;

export class ResidentQueue {
  readonly cdqid: number;
  /** Whose queue it is. */
  readonly manager: Controller;
  /** Whose changes it logs; it may be gone. */
  readonly target: Controller;
  readonly ring: CdqRing;
  readonly log: UserDataLog;
  readonly #entries: Uint8Array;
  readonly #nonce: bigint;

  /** @param nonce tells it from every other queue that had this id, before a restart too */
  constructor(cdqid: number, manager: Controller, target: Controller, slots: number, nonce: bigint) {
    this.#nonce = nonce;
    this.cdqid = cdqid;
    this.manager = manager;
    this.target = target;
    const onTrigger = (): void => manager.asyncEvents.oneShot(CdqEvent.TailPointer, cdqid);
    this.ring = new CdqRing(slots, UDMQ_ENTRY_BYTES, onTrigger);
    this.#entries = new Uint8Array(this.ring.words.buffer);
    this.log = new UserDataLog(this.ring, () => manager.asyncEvents.oneShot(CdqEvent.Full, cdqid));
  }

  /**
   * A part of log page C8h.
   * @returns `bytes` of it from `offset` on, zeros behind its end; undefined if it ends before `offset`
   */
  page(suspended: boolean, offset: number, bytes: number): Uint8Array | undefined {
    const { ring, log } = this;
    log.markSeen();
    const pageBytes = MIGRATION_LOG_HEADER_BYTES + ring.used * UDMQ_ENTRY_BYTES;
    if (offset > pageBytes) return undefined;
    const part = new Uint8Array(bytes);
    if (offset < MIGRATION_LOG_HEADER_BYTES) {
      const header = residentQueueHeaderCodec.encode({
        flags:
          (offset + bytes < pageBytes ? ResidentQueueFlag.More : 0) |
          (log.logging ? ResidentQueueFlag.Logging : 0) |
          (log.state === LogState.Full ? ResidentQueueFlag.Full : 0) |
          (suspended ? ResidentQueueFlag.Suspended : 0),
        cdqid: this.cdqid,
        cntlid: this.target.cntlid,
        esz: UDMQ_ENTRY_BYTES,
        head: ring.head,
        tail: ring.tail,
        nent: ring.used,
        cap: ring.slots,
        seq: BigInt(ring.consumed),
        nonce: this.#nonce,
      });
      part.set(header.subarray(offset, offset + bytes));
    }
    // where the entries of this part begin, in the part and among those that wait
    const place = Math.max(0, MIGRATION_LOG_HEADER_BYTES - offset);
    const from = Math.max(0, offset - MIGRATION_LOG_HEADER_BYTES);
    const length = Math.min(bytes - place, ring.used * UDMQ_ENTRY_BYTES - from);
    if (length > 0) this.#copyEntries(from, length, part, place);
    return part;
  }

  /** @param from bytes from the entry at the head on */
  #copyEntries(from: number, length: number, target: Uint8Array, offset: number): void {
    const entries = this.#entries;
    const start = (this.ring.head * UDMQ_ENTRY_BYTES + from) % entries.length;
    const first = Math.min(length, entries.length - start);
    target.set(entries.subarray(start, start + first), offset);
    target.set(entries.subarray(0, length - first), offset + first);
  }
}

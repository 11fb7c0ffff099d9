/**
 * A User Data Migration Queue whose entries the controller keeps, and its host reads by log page C8h: for hosts whose memory we cannot write.
 * docs/live-migration-over-tcp.md
 */
import { randomBytes } from 'node:crypto';
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

/** Slots of one queue: 1 MiB of entries. */
export const QUEUE_SLOTS_MAX = 32_768;

export class ResidentQueue {
  readonly cdqid: number;
  /** Whose queue it is. */
  readonly manager: Controller;
  /** Whose changes it logs; it may be gone. */
  readonly target: Controller;
  readonly ring: CdqRing;
  readonly log: UserDataLog;
  readonly #entries: Uint8Array;
  readonly #nonce: bigint = randomBytes(8).readBigUInt64LE();

  constructor(cdqid: number, manager: Controller, target: Controller, slots: number) {
    this.cdqid = cdqid;
    this.manager = manager;
    this.target = target;
    const entries = new Uint8Array(slots * UDMQ_ENTRY_BYTES);
    this.#entries = entries;
    const memory = {
      write(slot: number, entry: Uint8Array): void {
        entries.set(entry, slot * UDMQ_ENTRY_BYTES);
      },
    };
    this.ring = new CdqRing(slots, memory, () => manager.asyncEvents.oneShot(CdqEvent.TailPointer, cdqid));
    this.log = new UserDataLog(this.ring, () => manager.asyncEvents.oneShot(CdqEvent.Full, cdqid));
  }

  /** Log page C8h. @param endBytes where the part ends that the host asked for */
  page(suspended: boolean, endBytes: number): Uint8Array {
    const { ring, log } = this;
    const page = new Uint8Array(MIGRATION_LOG_HEADER_BYTES + ring.used * UDMQ_ENTRY_BYTES);
    residentQueueHeaderCodec.encodeInto(page, 0, {
      flags:
        (endBytes < page.length ? ResidentQueueFlag.More : 0) |
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
    const first = Math.min(ring.used, ring.slots - ring.head);
    const start = ring.head * UDMQ_ENTRY_BYTES;
    page.set(this.#entries.subarray(start, start + first * UDMQ_ENTRY_BYTES), MIGRATION_LOG_HEADER_BYTES);
    const rest = this.#entries.subarray(0, (ring.used - first) * UDMQ_ENTRY_BYTES);
    page.set(rest, MIGRATION_LOG_HEADER_BYTES + first * UDMQ_ENTRY_BYTES);
    log.markSeen();
    return page;
  }
}

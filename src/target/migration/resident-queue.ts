/**
 * A User Data Migration Queue whose entries the controller keeps, and its host reads by log page C8h: for hosts whose memory we cannot write.
 * docs/live-migration-over-tcp.md
 */
import type { BlockIo } from '../../backend/block-backend.ts';
import { CdqRing } from '../../migration/cdq-ring.ts';
import { LogState, UserDataLog } from '../../migration/user-data-log.ts';
import { MemoryArena } from '../../native/arena.ts';
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

/** What a page has behind its end. */
const ZEROES = new MemoryArena(128 << 10);

export class ResidentQueue {
  readonly cdqid: number;
  /** Whose queue it is. */
  readonly manager: Controller;
  /** Whose changes it logs; it may be gone. */
  readonly target: Controller;
  readonly ring: CdqRing;
  readonly log: UserDataLog;
  /** The ring's memory: what is read goes out from where it stands. */
  readonly #arena: MemoryArena;
  readonly #nonce: bigint;

  /** @param nonce tells it from every other queue that had this id, before a restart too */
  constructor(cdqid: number, manager: Controller, target: Controller, slots: number, nonce: bigint) {
    this.#nonce = nonce;
    this.cdqid = cdqid;
    this.manager = manager;
    this.target = target;
    const onTrigger = (): void => manager.asyncEvents.oneShot(CdqEvent.TailPointer, cdqid);
    this.#arena = new MemoryArena(slots * UDMQ_ENTRY_BYTES);
    this.#arena.bytes.fill(0); // its pages are there from now on: no write of a host waits for them
    this.ring = new CdqRing(slots, UDMQ_ENTRY_BYTES, onTrigger, new Uint32Array(this.#arena.bytes.buffer));
    this.log = new UserDataLog(this.ring, () => manager.asyncEvents.oneShot(CdqEvent.Full, cdqid));
  }

  /**
   * A part of log page C8h, from where it stands: what is posted and not consumed does not change. (A host that consumes entries before it has them
   * may find others in their place.)
   * @param to gets `bytes` of it from `offset` on, zeros behind its end
   * @returns false if it ends before `offset`
   */
  lend(to: Pick<BlockIo, 'lend' | 'lendAt'>, suspended: boolean, offset: number, bytes: number): boolean {
    const { ring, log } = this;
    log.markSeen();
    const entryBytes = ring.used * UDMQ_ENTRY_BYTES;
    const pageBytes = MIGRATION_LOG_HEADER_BYTES + entryBytes;
    if (offset > pageBytes) return false;
    let left = bytes;
    if (offset < MIGRATION_LOG_HEADER_BYTES) {
      const header = this.#header(suspended, offset + bytes < pageBytes).subarray(offset, offset + bytes);
      to.lend(header);
      left -= header.length;
    }
    const from = Math.max(0, offset - MIGRATION_LOG_HEADER_BYTES);
    const length = Math.min(left, entryBytes - from);
    if (length > 0) {
      this.#lendEntries(to, from, length);
      left -= length;
    }
    for (; left > 0; left -= ZEROES.bytes.length) to.lendAt(ZEROES, 0, Math.min(left, ZEROES.bytes.length));
    return true;
  }

  /** @param from bytes from the entry at the head on */
  #lendEntries(to: Pick<BlockIo, 'lendAt'>, from: number, length: number): void {
    const arena = this.#arena;
    const ringBytes = arena.bytes.length;
    const start = (this.ring.head * UDMQ_ENTRY_BYTES + from) % ringBytes;
    const first = Math.min(length, ringBytes - start);
    to.lendAt(arena, start, first);
    if (first < length) to.lendAt(arena, 0, length - first);
  }

  #header(suspended: boolean, hasMore: boolean): Uint8Array {
    const { ring, log } = this;
    return residentQueueHeaderCodec.encode({
      flags:
        (hasMore ? ResidentQueueFlag.More : 0) |
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
  }
}

/** A User Data Migration Queue in the memory of a manager behind PCIe, as the specification has it. Base 2.1 sections 5.1.4, 8.1.6. */
import { CdqRing } from '../../migration/cdq-ring.ts';
import { UserDataLog } from '../../migration/user-data-log.ts';
import { CdqEvent } from '../../spec/migration.ts';
import { UDMQ_ENTRY_BYTES } from '../../wire/udmq-entry.ts';
import type { Controller } from '../controller.ts';
import type { DataQueue } from './migration.ts';

/** Slots of one queue: its pages fit a list of one page. */
export const MEMORY_QUEUE_SLOTS_MAX = 32_768;

export class MemoryQueue implements DataQueue {
  readonly cdqid: number;
  readonly manager: Controller;
  readonly target: Controller;
  readonly ring: CdqRing;
  readonly log: UserDataLog;

  /** @param pages where each page of it stands; one of all of it, if it is contiguous @param pageBytes of each */
  constructor(
    cdqid: number,
    manager: Controller,
    target: Controller,
    slots: number,
    pages: readonly number[],
    pageBytes: number,
  ) {
    this.cdqid = cdqid;
    this.manager = manager;
    this.target = target;
    const { memory } = manager.memory!;
    const slotsOfPage = pageBytes / UDMQ_ENTRY_BYTES;
    const place = (slot: number): number =>
      pages[Math.floor(slot / slotsOfPage)]! + (slot % slotsOfPage) * UDMQ_ENTRY_BYTES;
    this.ring = new CdqRing(slots, UDMQ_ENTRY_BYTES, () => manager.asyncEvents.oneShot(CdqEvent.TailPointer, cdqid), {
      write: (slot, entry) => {
        // a manager that takes its memory away has lost entries
        if (!memory.writeDwords(place(slot), entry, 0, UDMQ_ENTRY_BYTES / 4)) this.log.lost();
      },
    });
    this.log = new UserDataLog(this.ring, () => manager.asyncEvents.oneShot(CdqEvent.Full, cdqid));
  }
}

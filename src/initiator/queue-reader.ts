/**
 * Follows one User Data Migration Queue that the controller keeps (docs/live-migration-over-tcp.md): all that waits is read in pieces of one command
 * each, into one buffer, and released by one more. Where each write is an entry, what a reader makes of it is as much as the write.
 */
import { ConfigError, NvmeofError } from '../util/error.ts';
import {
  MIGRATION_LOG_HEADER_BYTES,
  type ResidentQueueHeader,
  type ResidentQueueLog,
  residentQueueHeaderOf,
} from '../wire/cold/log-migration.ts';
import { UDMQ_ENTRY_BYTES } from '../wire/udmq-entry.ts';
import { type LiveMigration, type MigrationHost, TRANSFER_BYTES_DEFAULT } from './live-migration.ts';

/**
 * Some entries, in order.
 * @param entries valid until it returns
 * @param base of the first one: `entrySlba(entries, base)`; the next one is `UDMQ_ENTRY_BYTES` further
 * @param words the same, for who has to be quick: `entryWordSlba(words, base / 4)`; the next one is `UDMQ_ENTRY_DWORDS` further
 * @public
 */
export type VisitEntries = (entries: DataView, base: number, count: number, words: Uint32Array) => void;

/** Entries that are asked for beyond those that are expected: a page of 4 KiB with its header, where none is. */
const ENTRIES_FEW = 126;
/** Of the buffer: a command costs as much as some hundred entries, so that half of the largest queue comes by one. */
const BUFFER_BYTES_MAX = 1 << 20;

/** Of the log page: where so many entries end. */
const endOf = (entries: number): number => MIGRATION_LOG_HEADER_BYTES + entries * UDMQ_ENTRY_BYTES;

/** @public */
export class QueueReader<H extends MigrationHost> {
  readonly #lm: LiveMigration<H>;
  readonly #cdqid: number;
  readonly #buffer: Uint8Array;
  readonly #view: DataView;
  readonly #words: Uint32Array;
  /** Entries that were there the last time. */
  #expected = 0;

  constructor(lm: LiveMigration<H>, cdqid: number) {
    this.#lm = lm;
    this.#cdqid = cdqid;
    const bytes = Math.min(BUFFER_BYTES_MAX, lm.controller.maxTransferBytes ?? TRANSFER_BYTES_DEFAULT);
    this.#buffer = new Uint8Array(bytes - ((bytes - MIGRATION_LOG_HEADER_BYTES) % UDMQ_ENTRY_BYTES));
    this.#view = new DataView(this.#buffer.buffer);
    this.#words = new Uint32Array(this.#buffer.buffer);
  }

  /**
   * Reads what one command brings, and releases nothing.
   * @returns the first of the entries that wait, valid until the next call: maybe fewer than the header says
   */
  async peek(): Promise<ResidentQueueLog> {
    const { header, count } = await this.#readFirst();
    return { header, entries: this.#buffer.subarray(MIGRATION_LOG_HEADER_BYTES, endOf(count)) };
  }

  /**
   * Reads everything that waits, and releases it then. If that fails, nothing of it was released: the next call has it again.
   * @param triggerAhead the event Tail Pointer is armed for when so many entries wait again, 1 to two less than the queue has slots; what came before
   * it was armed is read as well, if it is that much. 0: no event, and one reading
   * @returns what the last look has said, before the release
   */
  async drain(visit: VisitEntries, triggerAhead = 0): Promise<ResidentQueueHeader> {
    for (;;) {
      const header = await this.#read(visit);
      if (triggerAhead !== 0 && (triggerAhead < 1 || triggerAhead > header.cap - 2)) {
        throw new ConfigError(`Trigger ${triggerAhead} entries ahead: 1 to ${header.cap - 2} are possible`);
      }
      const trigger = triggerAhead === 0 ? undefined : (header.tail + triggerAhead) % header.cap;
      await this.#lm.consumeQueue(this.#cdqid, header.tail, trigger);
      if (trigger === undefined) return header;
      // the trigger's slot may have been passed before it was armed
      const now = residentQueueHeaderOf(await this.#part(0, MIGRATION_LOG_HEADER_BYTES));
      if (now.nent < triggerAhead) return header;
    }
  }

  async #read(visit: VisitEntries): Promise<ResidentQueueHeader> {
    const { header, count: first } = await this.#readFirst();
    let offset = endOf(first);
    if (first > 0) visit(this.#view, MIGRATION_LOG_HEADER_BYTES, first, this.#words);
    for (let left = header.nent - first; left > 0; ) {
      const count = Math.min(left, Math.floor(this.#buffer.length / UDMQ_ENTRY_BYTES));
      await this.#part(offset, count * UDMQ_ENTRY_BYTES);
      visit(this.#view, 0, count, this.#words);
      offset += count * UDMQ_ENTRY_BYTES;
      left -= count;
    }
    return header;
  }

  /** The header, and the first of the entries. */
  async #readFirst(): Promise<{ readonly header: ResidentQueueHeader; readonly count: number }> {
    const most = (this.#buffer.length - MIGRATION_LOG_HEADER_BYTES) / UDMQ_ENTRY_BYTES;
    // what is asked for and not there costs as if it were
    const guess = Math.min(most, ENTRIES_FEW + this.#expected + (this.#expected >> 4));
    const header = residentQueueHeaderOf(await this.#part(0, endOf(guess)));
    this.#expected = header.nent;
    return { header, count: Math.min(guess, header.nent) };
  }

  /** @returns the buffer with it */
  async #part(offset: number, bytes: number): Promise<Uint8Array> {
    const into = this.#buffer.subarray(0, bytes);
    const data = await this.#lm.queuePart(this.#cdqid, offset, into);
    if (data.length !== bytes) {
      throw new NvmeofError('NVMEOF_ERR_SHORT', `Get Log Page C8h gave ${data.length} of ${bytes} bytes`);
    }
    if (data.buffer !== this.#buffer.buffer) into.set(data); // a local device has its own
    return into;
  }
}

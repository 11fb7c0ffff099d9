/** A User Data Migration Queue without a connection: the product's own ring, log and log page, and the manager's side with delays. */
import type { QueueDevice } from '../../src/orchestrator/change-queue.ts';
import type { Controller } from '../../src/target/controller.ts';
import { ResidentQueue } from '../../src/target/migration/resident-queue.ts';
import {
  decodeResidentQueueLog,
  MIGRATION_LOG_HEADER_BYTES,
  type ResidentQueueLog,
} from '../../src/wire/cold/log-migration.ts';
import { UDMQ_ENTRY_BYTES } from '../../src/wire/udmq-entry.ts';
import { queuePage } from './queue-page.ts';

let queuesMade = 0;

/** The controller's side. */
export class ModelQueue {
  readonly #queue: ResidentQueue;
  isSuspended = false;
  /** Entries of one answer. */
  entriesMax = Number.POSITIVE_INFINITY;

  constructor(cntlid: number, slots: number) {
    const nobody = { cntlid, asyncEvents: { oneShot() {} } } as unknown as Controller;
    this.#queue = new ResidentQueue(0, nobody, nobody, slots, BigInt(++queuesMade));
  }

  changed(nsid: number, slba: number, blockCount: number, deallocated: boolean): void {
    this.#queue.log.changed(nsid, slba, blockCount, deallocated);
  }

  start(): boolean {
    if (this.isSuspended) return false;
    if (!this.#queue.log.start()) throw new Error('The queue has no room to start');
    return true;
  }

  suspend(): void {
    this.isSuspended = true;
    this.#queue.log.suspend();
  }

  resume(): void {
    this.isSuspended = false;
    this.#queue.log.resume();
  }

  read(): ResidentQueueLog {
    const entries = Math.min(this.#queue.ring.used, this.entriesMax);
    const bytes = MIGRATION_LOG_HEADER_BYTES + entries * UDMQ_ENTRY_BYTES;
    return decodeResidentQueueLog(queuePage(this.#queue, this.isSuspended, 0, bytes)!);
  }

  consume(head: number): void {
    if (!this.#queue.ring.consume(head)) throw new Error(`Head ${head} is not among the entries`);
  }

  stop(): void {
    this.#queue.log.stop();
  }
}

/** The manager's side. */
export class ModelQueueDevice implements QueueDevice {
  readonly name = 'model';
  readonly #slots: number;
  readonly #turn: () => Promise<void>;
  queue: ModelQueue | undefined;
  opened = 0;
  closed = 0;

  /** @param turn a command takes one before its effect, and one after it */
  constructor(slots: number, turn: () => Promise<void>) {
    this.#slots = slots;
    this.#turn = turn;
  }

  async #command<T>(act: (queue: ModelQueue) => T): Promise<T> {
    await this.#turn();
    const result = act(this.queue!);
    await this.#turn();
    return result;
  }

  async open(): Promise<void> {
    this.opened++;
    this.queue = new ModelQueue(1, this.#slots);
    await this.#command((queue) => queue.start());
  }
  read(): Promise<ResidentQueueLog> {
    return this.#command((queue) => queue.read());
  }
  consume(head: number): Promise<void> {
    return this.#command((queue) => queue.consume(head));
  }
  restart(): Promise<boolean> {
    return this.#command((queue) => queue.start());
  }
  async close(): Promise<void> {
    await this.#command((queue) => queue.stop());
    this.closed++;
    this.queue = undefined;
  }
}

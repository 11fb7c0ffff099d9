/** The User Data Migration Queue of a controller over NVMe/TCP, as its manager's connection has it. docs/live-migration-over-tcp.md */
import type { LiveMigration } from '../initiator/live-migration.ts';
import { QueueReader } from '../initiator/queue-reader.ts';
import { SpecificStatus, Status } from '../spec/status.ts';
import { NvmeofError, NvmeStatusError, OutcomeUnknownError, TransportError } from '../util/error.ts';
import type { ResidentQueueLog } from '../wire/cold/log-migration.ts';
import type { QueueDevice } from './change-queue.ts';
import type { FabricEnd, Link } from './fabric-end.ts';
import { pastOtherSession } from './other-session.ts';

const STATUS_MASK = 0x7ff;

export class FabricQueue implements QueueDevice {
  readonly name: string;
  readonly #end: FabricEnd;
  readonly #cntlid: number;
  readonly #slots: number;
  /** Of one connection: the queue ends with it. */
  #queue:
    | {
        readonly migration: LiveMigration;
        readonly cdqid: number;
        readonly reader: QueueReader<LiveMigration['controller']>;
      }
    | undefined;

  /** @param entries that it has room for */
  constructor(end: FabricEnd, cntlid: number, entries: number) {
    this.name = `${end.name}: queue of controller ${cntlid}`;
    this.#end = end;
    this.#cntlid = cntlid;
    // one slot is always empty
    this.#slots = entries + 1;
  }

  async open(): Promise<void> {
    const link = await this.#end.link();
    const { migration } = link;
    const cdqid = await this.#create(link);
    this.#queue = { migration, cdqid, reader: new QueueReader(migration, cdqid) };
    await migration.trackUserData(cdqid, true);
  }

  #create(link: Link): Promise<number> {
    return pastOtherSession(
      this.#end,
      link,
      () => link.migration.createQueue(this.#cntlid, this.#slots),
      (error) => [Status.InvalidField, SpecificStatus.NotEnoughResources].some((one) => one === statusOf(error)),
      (error) => this.#refused(statusOf(error), error),
    );
  }

  #refused(status: number | undefined, cause: unknown): NvmeofError {
    const why =
      status === Status.InvalidField
        ? 'it has one already: end the migration that made it'
        : `no room for one of ${this.#slots} entries: use a smaller one, or end other migrations`;
    return new NvmeofError('NVMEOF_ERR_UNSUPPORTED', `${this.name} cannot be made, ${why}`, { cause });
  }

  async read(): Promise<ResidentQueueLog> {
    const { reader } = this.#queue!;
    return this.#orLost(() => reader.peek());
  }

  async consume(head: number): Promise<void> {
    await this.#orLost((migration, cdqid) => migration.consumeQueue(cdqid, head));
  }

  async restart(): Promise<boolean> {
    return this.#orLost(async (migration, cdqid) => {
      try {
        await migration.trackUserData(cdqid, true);
        return true;
      } catch (error) {
        if (statusOf(error) === SpecificStatus.ControllerSuspended) return false;
        throw error;
      }
    });
  }

  /** Somebody has deleted it. */
  async #orLost<T>(act: (migration: LiveMigration, cdqid: number) => Promise<T>): Promise<T> {
    const { migration, cdqid } = this.#queue!;
    try {
      return await act(migration, cdqid);
    } catch (error) {
      if (statusOf(error) !== SpecificStatus.InvalidControllerDataQueue) throw error;
      const message = `${this.name} is not there any more, and with it changes are lost; copy it anew`;
      throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', message, { cause: error });
    }
  }

  async close(): Promise<void> {
    if (this.#queue === undefined) return;
    const { migration, cdqid } = this.#queue;
    this.#queue = undefined;
    try {
      await migration.deleteQueue(cdqid);
    } catch (error) {
      // it ends with its connection
      const isGone = error instanceof TransportError || error instanceof OutcomeUnknownError;
      if (!isGone && statusOf(error) !== SpecificStatus.InvalidControllerDataQueue) throw error;
    }
  }
}

function statusOf(error: unknown): number | undefined {
  return error instanceof NvmeStatusError ? error.status & STATUS_MASK : undefined;
}

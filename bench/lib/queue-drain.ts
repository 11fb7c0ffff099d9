/** Follows the changes of a controller by a queue, as the specification means it: waits for the trigger that is set half a queue ahead, reads, releases, sets it anew. */
import type { AsyncEvent } from '../../src/initiator.ts';
import { ChangeBitmap } from '../../src/migration/change-bitmap.ts';
import { type LiveMigration, QueueReader } from '../../src/migration.ts';
import { AsyncEventType } from '../../src/spec/log-page.ts';
import { CdqEvent, EntryRange } from '../../src/spec/migration.ts';
import {
  entryWordAttributes,
  entryWordBlockCount,
  entryWordSlba,
  rangeOfAttributes,
  UDMQ_ENTRY_DWORDS,
} from '../../src/wire/udmq-entry.ts';

/** How it drains. */
export interface DrainPolicy {
  readonly slots: number;
  /** Entries that are to wait before it drains. */
  readonly triggerAhead: number;
  /** Of the one namespace. */
  readonly blockCount: number;
}

export class QueueDrain {
  readonly #lm: LiveMigration;
  readonly #reader: QueueReader<LiveMigration['controller']>;
  readonly #cdqid: number;
  readonly #triggerAhead: number;
  /** What a mover does with an entry: it notes what is to be copied again. */
  readonly #changed: ChangeBitmap;
  readonly #onEvent: (event: AsyncEvent) => void;
  #busy: Promise<void> = Promise.resolve();
  #failure: unknown;
  entries = 0;

  private constructor(lm: LiveMigration, cdqid: number, policy: DrainPolicy) {
    this.#lm = lm;
    this.#reader = new QueueReader(lm, cdqid);
    this.#cdqid = cdqid;
    this.#triggerAhead = policy.triggerAhead;
    this.#changed = new ChangeBitmap(1, policy.blockCount);
    this.#onEvent = ({ type, info, parameter }) => {
      if (type !== AsyncEventType.OneShot || parameter !== cdqid) return;
      if (info === CdqEvent.Full) this.#failure ??= new Error('The queue became full: changes are lost');
      this.#busy = this.#busy
        .then(() => this.#drain(true))
        .catch((error: unknown) => {
          this.#failure ??= error;
        });
    };
    lm.controller.on('asyncEvent', this.#onEvent);
  }

  /** @param cntlid whose changes */
  static async start(lm: LiveMigration, cntlid: number, policy: DrainPolicy): Promise<QueueDrain> {
    const cdqid = await lm.createQueue(cntlid, policy.slots);
    const drain = new QueueDrain(lm, cdqid, policy);
    await lm.trackUserData(cdqid, true);
    await drain.#drain(true);
    return drain;
  }

  async #drain(again: boolean): Promise<void> {
    await this.#reader.drain(this.#visit, again ? this.#triggerAhead : 0);
  }

  readonly #visit = (_entries: DataView, base: number, count: number, words: Uint32Array): void => {
    this.entries += count;
    const changed = this.#changed;
    const end = base / 4 + count * UDMQ_ENTRY_DWORDS;
    for (let at = base / 4; at < end; at += UDMQ_ENTRY_DWORDS) {
      if (rangeOfAttributes(entryWordAttributes(words, at)) !== EntryRange.Blocks) continue;
      changed.mark(entryWordSlba(words, at), entryWordBlockCount(words, at));
    }
  };

  /** Reads all that waits. */
  flush(): Promise<void> {
    return this.#drain(true);
  }

  /** Follows, or does not: the queue stays. */
  track(on: boolean): Promise<void> {
    return this.#lm.trackUserData(this.#cdqid, on);
  }

  /** No drain is under way then. */
  async settled(): Promise<void> {
    for (let busy: Promise<void> | undefined; busy !== this.#busy; ) {
      busy = this.#busy;
      await busy;
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** The queue is gone then. @throws what went wrong since the start */
  async stop(): Promise<void> {
    this.#lm.controller.off('asyncEvent', this.#onEvent);
    await this.#busy;
    await this.#lm.trackUserData(this.#cdqid, false);
    await this.#drain(false);
    await this.#lm.deleteQueue(this.#cdqid);
    if (this.#failure !== undefined) throw this.#failure;
  }
}

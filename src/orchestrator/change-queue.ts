/**
 * Changes of several namespaces from one User Data Migration Queue: drained all the time, so that it does not fill while much is copied, into bits for each
 * namespace. A queue that was full has lost changes: it is started again, and then all that is allocated counts as changed. While the controller is
 * suspended, nothing is said before the entry that ends its log. NVM Command Set 1.2 section 5.6, docs/live-migration-over-tcp.md.
 */
import { EntryRange, EntrySequence } from '../spec/migration.ts';
import type { Clock, Timer } from '../util/clock.ts';
import { NvmeofError } from '../util/error.ts';
import { ResidentQueueFlag, type ResidentQueueHeader, type ResidentQueueLog } from '../wire/cold/log-migration.ts';
import {
  entryBlockCount,
  entryDeallocated,
  entryNsid,
  entryRange,
  entrySequence,
  entrySlba,
  UDMQ_ENTRY_BYTES,
} from '../wire/udmq-entry.ts';
import { ChangeSet } from './change-set.ts';
import type { BlockRun, ChangeSnapshot, SourceVolume } from './volume.ts';

/** Runs of one snapshot. */
const RUNS_MAX = 65_536;
/** Between two looks: the shorter, the more was found. */
const PAUSE_MIN_MS = 1;
const PAUSE_MAX_MS = 50;
/** The entry that ends the log of a suspended controller may come late, but not later than this. */
const END_WAIT_MS = 5000;
const END_RETRY_MS = 2;

/** The queue of one controller, as its manager reaches it. */
export interface QueueDevice {
  /** For messages. */
  readonly name: string;
  /** Makes the queue and starts its log. */
  open(): Promise<void>;
  /** The first of the entries that wait in it, some if there are any, valid until the next call; consumes nothing. */
  read(): Promise<ResidentQueueLog>;
  /** @param head the slot behind the last one that was read */
  consume(head: number): Promise<void>;
  /** Starts the log again. @returns false if the controller is suspended: nothing changes any more */
  restart(): Promise<boolean>;
  /** The queue is gone; it may be gone already. */
  close(): Promise<void>;
}

/** One namespace whose changes are taken from the queue. */
interface Followed {
  readonly volume: SourceVolume;
  active: ChangeSet;
  snapshot: ChangeSet | undefined;
  /** Granule of the snapshot where the part that is not acknowledged begins. */
  from: number;
  /** Changes were lost, or all of it was changed: what is allocated is to be listed. */
  isUnknown: boolean;
}

export class ChangeQueue {
  readonly #device: QueueDevice;
  readonly #clock: Clock;
  readonly #followed = new Map<number, Followed>();
  #opening: Promise<void> | undefined;
  #isClosed = false;
  /** One look at a time. */
  #last: Promise<unknown> = Promise.resolve();
  #timer: Timer | undefined;
  #pauseMs = PAUSE_MAX_MS;
  #failure: { readonly cause: unknown } | undefined;
  #nonce: bigint | undefined;
  /** Number of the entry that comes next. */
  #seq = 0n;
  #state: 'logging' | 'ended' | 'stopped' = 'logging';
  /** Times that it was full. */
  overflows = 0;

  constructor(device: QueueDevice, clock: Clock) {
    this.#device = device;
    this.#clock = clock;
  }

  // ---- namespaces ----------------------------------------------------------------------------------------------------------------

  /** From its return on every change that the controller makes is found; nothing has changed yet. */
  async follow(nsid: number, volume: SourceVolume): Promise<void> {
    const active = new ChangeSet(volume.blockCount);
    this.#followed.set(nsid, { volume, active, snapshot: undefined, from: 0, isUnknown: false });
    this.#opening ??= this.#open();
    await this.#opening;
  }

  /** The queue ends with the last one that follows it. */
  async unfollow(nsid: number): Promise<void> {
    this.#followed.delete(nsid);
    if (this.#followed.size === 0) await this.close();
  }

  async #open(): Promise<void> {
    await this.#device.open();
    this.#wait();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#last;
    if (this.#opening === undefined) return;
    try {
      await this.#opening;
    } catch {
      return; // who asked for it was told
    }
    await this.#device.close();
  }

  /** @throws NvmeofError NVMEOF_ERR_TRACKING_LOST */
  async changes(nsid: number, signal?: AbortSignal): Promise<ChangeSnapshot> {
    const followed = this.#followed.get(nsid);
    if (followed === undefined || this.#isClosed) throw this.#lost('its changes are not followed any more');
    await this.#look();
    // what was listed by an earlier call and is not copied yet is in the snapshot
    if (followed.snapshot === undefined) {
      if (followed.isUnknown) await listAllocated(followed, signal);
      followed.snapshot = followed.active;
      followed.from = 0;
      followed.active = new ChangeSet(followed.volume.blockCount);
    }
    const { snapshot, from } = followed;
    const { runs, next } = snapshot.runs(from, RUNS_MAX);
    // nobody acknowledges that nothing has changed
    if (runs.length === 0) followed.snapshot = undefined;
    return {
      runs,
      complete: next === undefined,
      acknowledge: async () => {
        if (followed.snapshot !== snapshot || followed.from !== from) return;
        if (next === undefined) followed.snapshot = undefined;
        else followed.from = next;
      },
    };
  }

  // ---- draining ------------------------------------------------------------------------------------------------------------------

  #wait(): void {
    if (this.#isClosed || this.#failure !== undefined) return;
    this.#timer = this.#clock.setTimer(() => {
      // who asks for changes is told
      this.#look().then(
        () => this.#wait(),
        () => {},
      );
    }, this.#pauseMs);
  }

  /** All that was posted by now is in the sets. */
  async #look(): Promise<void> {
    const look = this.#last.then(() => this.#drain());
    this.#last = look.catch(() => {});
    try {
      await look;
    } catch (cause) {
      this.#failure ??= { cause };
      throw cause;
    }
  }

  async #drain(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    if (this.#isClosed) return;
    const deadlineMs = this.#clock.nowMs() + END_WAIT_MS;
    for (;;) {
      const { header, entries } = await this.#device.read();
      this.#check(header);
      const count = entries.length / UDMQ_ENTRY_BYTES;
      const view = new DataView(entries.buffer, entries.byteOffset, entries.byteLength);
      for (let i = 0; i < count; i++) this.#take(view, i * UDMQ_ENTRY_BYTES);
      if (count > 0) await this.#device.consume((header.head + count) % header.cap);
      this.#seq += BigInt(count);
      this.#pauseMs = count * 8 > header.cap ? PAUSE_MIN_MS : Math.min(PAUSE_MAX_MS, this.#pauseMs * 2);
      if (count < header.nent) continue;
      const isSuspended = (header.flags & ResidentQueueFlag.Suspended) !== 0;
      if (isSuspended && this.#state === 'ended') return;
      if (this.#state === 'stopped' || (header.flags & ResidentQueueFlag.Full) !== 0) {
        await this.#startAgain();
        return;
      }
      if (!isSuspended) return;
      if (this.#clock.nowMs() >= deadlineMs) throw this.#lost('the controller is suspended, and its log has no end');
      await new Promise<void>((resolve) => {
        this.#clock.setTimer(resolve, END_RETRY_MS);
      });
    }
  }

  #check({ nonce, seq }: ResidentQueueHeader): void {
    this.#nonce ??= nonce;
    if (nonce !== this.#nonce) throw this.#lost('another queue has its number');
    if (seq !== this.#seq) throw this.#lost(`somebody else took entries from it (${seq}, expected ${this.#seq})`);
  }

  #take(view: DataView, at: number): void {
    const sequence = entrySequence(view, at);
    if (sequence === EntrySequence.First) this.#state = 'logging';
    else if (sequence === EntrySequence.Suspended) this.#state = 'ended';
    else if (sequence === EntrySequence.Full || sequence === EntrySequence.HostStopped) this.#state = 'stopped';
    const range = entryRange(view, at);
    if (range === EntryRange.None) return;
    const followed = this.#followed.get(entryNsid(view, at));
    if (followed === undefined) return;
    if (range !== EntryRange.Blocks) {
      followed.isUnknown = true;
      return;
    }
    const { active } = followed;
    const slba = entrySlba(view, at);
    const end = slba + entryBlockCount(view, at);
    if (end > active.blockCount) throw this.#grown(entryNsid(view, at), end, active.blockCount);
    if (entryDeallocated(view, at)) active.deallocated(slba, end - slba);
    else active.written(slba, end - slba);
  }

  /** What came since the log has ended is lost, up to here. */
  async #startAgain(): Promise<void> {
    this.overflows++;
    this.#state = (await this.#device.restart()) ? 'logging' : 'ended';
    for (const followed of this.#followed.values()) followed.isUnknown = true;
  }

  #lost(what: string): NvmeofError {
    return new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `${this.#device.name}: ${what}; copy it anew`);
  }

  #grown(nsid: number, end: number, blockCount: number): NvmeofError {
    const what = `namespace ${nsid} has ${end} blocks or more, it had ${blockCount} when the move began`;
    return new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `${this.#device.name}: ${what}: move it as it is now`);
  }
}

/**
 * Everything counts as deallocated but what is allocated. What the controller changes meanwhile is found by its entries, which are taken after the
 * list has begun, and so after what the list says of them.
 */
async function listAllocated(followed: Followed, signal: AbortSignal | undefined): Promise<void> {
  followed.isUnknown = false;
  followed.active.allDeallocated();
  try {
    for await (const { slba, blockCount } of followed.volume.allocated(signal))
      followed.active.written(slba, blockCount);
  } catch (error) {
    followed.isUnknown = true;
    throw error;
  }
}

/** The blocks of a namespace, with the changes that one controller logs. */
export class QueuedSource implements SourceVolume {
  readonly #queue: ChangeQueue;
  readonly #nsid: number;
  readonly #volume: SourceVolume;
  readonly #mustBeWhole: () => Promise<void>;

  /** @param mustBeWhole throws if others change the namespace as well: the queue does not have everything then */
  constructor(queue: ChangeQueue, nsid: number, volume: SourceVolume, mustBeWhole: () => Promise<void>) {
    this.#queue = queue;
    this.#nsid = nsid;
    this.#volume = volume;
    this.#mustBeWhole = mustBeWhole;
  }

  get blockSize(): number {
    return this.#volume.blockSize;
  }
  get blockCount(): number {
    return this.#volume.blockCount;
  }

  startTracking(): Promise<void> {
    return this.#queue.follow(this.#nsid, this.#volume);
  }

  stopTracking(): Promise<void> {
    return this.#queue.unfollow(this.#nsid);
  }

  allocated(signal: AbortSignal | undefined): AsyncIterable<BlockRun> {
    return this.#volume.allocated(signal);
  }

  async changes(): Promise<ChangeSnapshot> {
    const snapshot = await this.#queue.changes(this.#nsid);
    await this.#mustBeWhole();
    return snapshot;
  }

  readInto(slba: number, buffer: Uint8Array): Promise<void> {
    return this.#volume.readInto(slba, buffer);
  }
}

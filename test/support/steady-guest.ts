/**
 * The guest of `RemoteVm` with what Linux's driver does when its controller is lost: it watches CSTS, resets a controller that has failed, and issues
 * again what was outstanding. Whoever uses it waits, and sees no error.
 */
import { NvmeStatusError } from '../../src/util/error.ts';
import type { GuestQueue } from '../../src/vm/guest-queue.ts';
import type { RemoteVm } from './remote-vm.ts';

const CSTS = 0x1c;
const RDY = 1;
const CFS = 2;
const WATCH_MS = 20;

/** One life of the controller, from reset to reset. */
interface Life {
  /** Rejects when it is over. */
  readonly over: Promise<never>;
  readonly end: () => void;
}

class Lost extends Error {}

export class SteadyGuest {
  readonly vm: RemoteVm;
  readonly #queueCount: number;
  #life: Life | undefined;
  #wakes: (() => void)[] = [];
  #isClosed = false;
  /** How often the controller was lost. */
  resets = 0;
  /** Completions that came for nothing, in lives that are over. */
  #strays = 0;
  readonly #watching: Promise<void>;

  private constructor(vm: RemoteVm, queueCount: number) {
    this.vm = vm;
    this.#queueCount = queueCount;
    this.#live();
    this.#watching = this.#watch();
    this.#watching.catch(() => {});
  }

  static async start(vm: RemoteVm, queueCount: number): Promise<SteadyGuest> {
    await vm.start(queueCount);
    return new SteadyGuest(vm, queueCount);
  }

  get strays(): number {
    return this.vm.guest.queues.reduce((sum, { strays }) => sum + strays, this.#strays);
  }

  read(nsid: number, slba: number, blocks: number, qid: number): Promise<Uint8Array> {
    return this.#again((queue) => this.vm.guest.read(nsid, slba, blocks, 'prp', queue), qid);
  }

  write(nsid: number, slba: number, data: Uint8Array, qid: number): Promise<void> {
    return this.#again((queue) => this.vm.guest.write(nsid, slba, data, 'prp', queue), qid);
  }

  /** @throws NvmeStatusError: an error that a user of the disk would see */
  async #again<T>(act: (queue: GuestQueue) => Promise<T>, qid: number): Promise<T> {
    while (!this.#isClosed) {
      if (this.#life === undefined) {
        await new Promise<void>((resolve) => this.#wakes.push(resolve));
        continue;
      }
      try {
        const done = act(this.vm.guest.queues[qid]!);
        done.catch(() => {});
        return await Promise.race([done, this.#life.over]);
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
      }
    }
    throw new Error('The guest was switched off');
  }

  #live(): void {
    let end = (): void => {};
    const over = new Promise<never>((_resolve, reject) => {
      end = () => reject(new Lost('The controller was reset'));
    });
    over.catch(() => {});
    this.#life = { over, end };
    for (const wake of this.#wakes.splice(0)) wake();
  }

  async #watch(): Promise<void> {
    while (!this.#isClosed) {
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
      const csts = await this.#status();
      if (csts !== undefined && (csts & (RDY | CFS)) !== RDY) await this.#reset();
    }
  }

  /** Undefined: no answer, as while no controller is there for longer than the front waits. */
  async #status(): Promise<number | undefined> {
    try {
      return await this.vm.readDword(CSTS);
    } catch (error) {
      if (this.vm.client.isClosed && !this.#isClosed) throw error;
      return undefined;
    }
  }

  async #reset(): Promise<void> {
    this.resets++;
    this.#life?.end();
    this.#life = undefined;
    while (!this.#isClosed && !(await this.#tryStart())) {
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
    }
    if (!this.#isClosed) this.#live();
  }

  /** @returns false if the controller was lost once more meanwhile */
  async #tryStart(): Promise<boolean> {
    const { guest } = this.vm;
    for (const { strays } of guest.queues) this.#strays += strays;
    guest.queues.length = 0;
    let state: 'starting' | 'started' | 'failed' = 'starting';
    const started = this.vm.start(this.#queueCount).then(
      () => {
        state = 'started';
      },
      (error: unknown) => {
        if (error instanceof NvmeStatusError) throw error;
        state = 'failed';
      },
    );
    started.catch(() => {});
    while (state === 'starting' && !this.#isClosed) {
      await Promise.race([started, new Promise((resolve) => setTimeout(resolve, WATCH_MS))]);
      // a command of its own would wait for ever
      if (state === 'starting' && ((await this.#status()) ?? 0) & CFS) return false;
    }
    return (state as string) === 'started';
  }

  /** Switches it off, whatever it waits for. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#life?.end();
    for (const wake of this.#wakes.splice(0)) wake();
    await this.vm.close();
    await this.#watching;
  }
}

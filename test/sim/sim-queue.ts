/** The queue of changes of a guest's controller, over a link: the product's ring and log at the target, the product's draining at the manager. */
import { ChangeQueue, type QueueDevice, QueuedSource } from '../../src/orchestrator/change-queue.ts';
import type { EndChangeQueue, EndNamespace, FollowedByQueue } from '../../src/orchestrator/end.ts';
import { DNR, SpecificStatus } from '../../src/spec/status.ts';
import type { Clock } from '../../src/util/clock.ts';
import { NvmeofError, NvmeStatusError } from '../../src/util/error.ts';
import type { ResidentQueueLog } from '../../src/wire/cold/log-migration.ts';
import { ModelQueue } from '../support/model-queue.ts';
import type { SimController } from './sim-controller.ts';
import type { SimLink } from './sim-link.ts';
import type { Session } from './sim-target.ts';

/** Of a session: it ends with it. */
export interface SimQueue {
  readonly owner: Session;
  readonly log: ModelQueue;
}

/** A manager that is gone is noticed by then. */
const CREATE_PATIENCE_MS = 300;
const CREATE_RETRY_MS = 5;

class LinkedQueue implements QueueDevice {
  readonly name: string;
  readonly #link: SimLink;
  readonly #cntlid: number;
  readonly #slots: number;
  #generation = 0;

  constructor(link: SimLink, cntlid: number, entries: number) {
    this.name = `queue of controller ${cntlid}`;
    this.#link = link;
    this.#cntlid = cntlid;
    this.#slots = entries + 1;
  }

  async open(): Promise<void> {
    const { clock } = this.#link.target;
    const deadlineMs = clock.nowMs() + CREATE_PATIENCE_MS;
    for (;;) {
      const isMade = await this.#link.command('create queue', (owner) => this.#make(owner));
      if (isMade) break;
      if (clock.nowMs() >= deadlineMs) throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', `${this.name}: there is one`);
      await clock.delay(CREATE_RETRY_MS);
    }
    this.#generation = this.#link.generation;
  }

  #make(owner: Session): boolean {
    const controller = this.#controller();
    if (controller.queue !== undefined) return false;
    const log = new ModelQueue(this.#cntlid, this.#slots);
    if (controller.isSuspended || !log.start())
      throw new NvmeStatusError('Track Send', SpecificStatus.ControllerSuspended | DNR, 'admin');
    controller.queue = { owner, log };
    return true;
  }

  #controller(): SimController {
    const controller = this.#link.target.controllers.get(this.#cntlid);
    if (controller !== undefined) return controller;
    throw new NvmeStatusError('Track Send', SpecificStatus.InvalidControllerIdentifier | DNR, 'admin');
  }

  /** Looks are no steps: there is no end of them. */
  #command<T>(act: (log: ModelQueue) => T): Promise<T> {
    return this.#link.bound(this.#generation, this.name, (session) => {
      const controller = this.#controller();
      const { queue } = controller;
      if (queue?.owner !== session) throw new NvmeofError('NVMEOF_ERR_TRACKING_LOST', `${this.name} is not there`);
      queue.log.isSuspended = controller.isSuspended;
      return act(queue.log);
    });
  }

  read(): Promise<ResidentQueueLog> {
    return this.#command((log) => log.read());
  }
  consume(head: number): Promise<void> {
    return this.#command((log) => log.consume(head));
  }
  restart(): Promise<boolean> {
    return this.#command((log) => log.start());
  }

  async close(): Promise<void> {
    try {
      await this.#command(() => {
        this.#controller().queue = undefined;
      });
    } catch (error) {
      if (!(error instanceof NvmeofError)) throw error; // it has ended with its connection
    }
  }
}

export class SimChangeQueue implements EndChangeQueue {
  readonly #link: SimLink;
  readonly #cntlid: number;
  readonly #clock: Clock;

  constructor(link: SimLink, cntlid: number, clock: Clock) {
    this.#link = link;
    this.#cntlid = cntlid;
    this.#clock = clock;
  }

  async obstacles(): Promise<readonly string[]> {
    return [];
  }

  follow(namespaces: readonly EndNamespace[], entries: number): FollowedByQueue {
    const queue = new ChangeQueue(new LinkedQueue(this.#link, this.#cntlid, entries), this.#clock);
    const sources = namespaces.map(
      ({ identity: { nsid }, source }) => new QueuedSource(queue, nsid, source, async () => {}),
    );
    return {
      sources,
      get overflows() {
        return queue.overflows;
      },
    };
  }
}

import { AdminOpcode, Direction } from '../spec/opcode.ts';
import { Status } from '../spec/status.ts';
import { NO_DATA } from '../transport/tcp/host-command.ts';
import { buildSqe } from './admin-queue.ts';
import type { HostQueuePair } from './queue-pair.ts';

/** One asynchronous event. Base 2.1 section 5.1.2. @public */
export interface AsyncEvent {
  /** `AsyncEventType`. */
  readonly type: number;
  /** What happened; for notices one of `AsyncNotice`. */
  readonly info: number;
  /** Log page to read; reading it lets the controller report this type again. */
  readonly lid: number;
  /** Event specific parameter (DW1). */
  readonly parameter: number;
}

/** Keeps Asynchronous Event Requests outstanding on an admin queue. */
export class AsyncEventRequests {
  readonly #queuePair: HostQueuePair;
  readonly #onEvent: (event: AsyncEvent) => void;

  constructor(queuePair: HostQueuePair, count: number, onEvent: (event: AsyncEvent) => void) {
    this.#queuePair = queuePair;
    this.#onEvent = onEvent;
    for (let i = 0; i < count; i++) this.#request();
  }

  #request(): void {
    const sqe = buildSqe({ opcode: AdminOpcode.AsyncEventRequest });
    const command = this.#queuePair.submitRaw(sqe, 0, Direction.None, NO_DATA, AsyncEventRequests.#done, this);
    if (command !== undefined) command.timedOut = true; // it may take for ever
  }

  static #done(status: number, result: number, context: unknown): void {
    const self = context as AsyncEventRequests;
    // over the limit, or the association is lost: this one is not asked again
    if (status !== Status.Success) return;
    const parameter = self.#queuePair.resultHigh;
    self.#request();
    self.#onEvent({ type: result & 7, info: (result >>> 8) & 0xff, lid: (result >>> 16) & 0xff, parameter });
  }
}

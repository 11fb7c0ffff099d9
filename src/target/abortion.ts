/**
 * Commands that another host takes back (Preempt and Abort). Those that wait for data or buffers never run; those that a backend has end with the
 * abort's status once it gave them back. Base 2.1 section 8.1.22.7: whoever aborted them is answered after all of them.
 */
import type { Clock, Timer } from '../util/clock.ts';
import type { Namespace } from './namespace.ts';
import type { QueuePair } from './queue-pair.ts';
import { Phase, type Request } from './request.ts';

/** How a command ends that was taken back; `Request.abortion`. */
export class Abortion {
  readonly status: number;
  readonly #waiters: (() => void)[] = [];

  constructor(status: number) {
    this.status = status;
  }

  /** @param waiter is called once, when the command has ended */
  await(waiter: () => void): void {
    this.#waiters.push(waiter);
  }

  /** For `Request` only. */
  ended(): void {
    for (const waiter of this.#waiters.splice(0)) waiter();
  }
}

/** A host that owes data for an aborted command must not hold up who fences it: after this its connection is closed. */
export const ABORT_DATA_TIMEOUT_MS = 2000;

/**
 * Aborts what is outstanding on `namespace` in these queue pairs.
 * @param spare commands that are past their point of no return: they are left alone
 * @param done is called when none of it can touch the namespace any more, at once if there is nothing
 */
export function abortCommands(
  queuePairs: Iterable<QueuePair>,
  namespace: Namespace,
  status: number,
  spare: (request: Request) => boolean,
  clock: Clock,
  done: () => void,
): void {
  const victims: Request[] = [];
  for (const { requests } of queuePairs) {
    for (const request of requests) {
      if (request.namespace === namespace && request.phase < Phase.Finished && request.inUse && !spare(request)) {
        victims.push(request);
      }
    }
  }
  let left = victims.length;
  if (left === 0) {
    done();
    return;
  }
  const ended = new Set<Request>();
  let timer: Timer | undefined;
  for (const request of victims) {
    request.abortion ??= new Abortion(status);
    request.abortion.await(() => {
      ended.add(request);
      if (--left > 0) return;
      timer?.cancel();
      done();
    });
  }
  for (const request of victims) {
    // a fused half may have ended with its partner
    if (!ended.has(request) && !request.queuePair.transport.abort(request)) request.queuePair.cancel(request);
  }
  if (!victims.some((request) => !ended.has(request) && request.phase === Phase.Pending)) return;
  timer = clock.setTimer(() => {
    for (const request of victims) {
      if (ended.has(request) || request.phase !== Phase.Pending) continue;
      request.queuePair.transport.close('a command that was preempted and aborted still waits for its data');
    }
  }, ABORT_DATA_TIMEOUT_MS);
}

/**
 * What the connection of another manager holds: changes that are followed, of blocks or of memory, a queue, a limit of writes. That of an orchestrator
 * that is gone, or of a link that was cut, holds it until the target has noticed: up to twice its Keep Alive Timeout.
 */
import type { Clock } from '../util/clock.ts';
import { NvmeofError } from '../util/error.ts';
import type { Link } from './fabric-end.ts';

const RETRY_MS = 100;
/** Beyond the time-outs: the target's timers, and the way. */
const MARGIN_MS = 2000;
/** Of a session that has none, or of another program: what hosts usually ask for. */
const KATO_MS = 5000;

/**
 * Tries until it is no longer held, for as long as a session that is gone may hold it. The other's time-out is not known: it is taken for ours.
 * @throws the reason of `interrupt`, which ends the waiting, and only that
 * @param isHeld the failure says so @param held what is thrown in the end
 */
export async function pastOtherSession<T>(
  { clock, interrupt }: { readonly clock: Clock; readonly interrupt?: AbortSignal | undefined },
  { controller }: Link,
  act: () => Promise<T>,
  isHeld: (error: unknown) => boolean,
  held: (error: unknown) => Error,
): Promise<T> {
  const { katoMs } = controller.options;
  const deadlineMs = clock.nowMs() + 2 * (katoMs === 0 ? KATO_MS : katoMs) + MARGIN_MS;
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (!isHeld(error)) throw error;
      if (clock.nowMs() >= deadlineMs) throw held(error);
      interrupt?.throwIfAborted();
      await new Promise<void>((resolve) => {
        clock.setTimer(resolve, RETRY_MS);
      });
    }
  }
}

/** It was no session that is gone: somebody is there. @param what is held, up to "by" */
export function heldByOther(end: string, what: string, cause: unknown): NvmeofError {
  const remedy = 'end that move, or wait until its keep alive time-out has ended what is left of it';
  return new NvmeofError('NVMEOF_ERR_HELD', `${end}: ${what} by another manager: ${remedy}`, { cause });
}

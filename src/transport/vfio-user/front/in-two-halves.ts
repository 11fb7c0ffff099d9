import type { Clock, Timer } from '../../../util/clock.ts';

/** If the machine stood still, what has come meanwhile is read before the second half. */
export function inTwoHalves(clock: Clock, delayMs: number, act: () => void): Timer {
  let timer = clock.setTimer(() => {
    timer = clock.setTimer(act, delayMs / 2);
  }, delayMs / 2);
  return { cancel: () => timer.cancel() };
}

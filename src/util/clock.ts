/** Time, passed in so that the simulator can own it. Milliseconds; monotonic. */
export interface Clock {
  nowMs(): number;
  /** Calls `callback` once after `delayMs`; the timer does not keep the process alive. */
  setTimer(callback: () => void, delayMs: number): Timer;
  /** Keeps the process alive until it is cancelled: for somebody who waits while only timers run. Absent: a clock that is not the machine's holds none. */
  hold?(): Timer;
}
export interface Timer {
  cancel(): void;
}

const HOLD_MS = 60_000;

/** The machine's own clock. */
export const systemClock: Required<Clock> = {
  nowMs: () => performance.now(),
  setTimer(callback, delayMs) {
    const timeout = setTimeout(callback, delayMs);
    timeout.unref();
    return { cancel: () => clearTimeout(timeout) };
  },
  hold() {
    const interval = setInterval(() => {}, HOLD_MS);
    return { cancel: () => clearInterval(interval) };
  },
};

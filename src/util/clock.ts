/** Time, passed in so that the simulator can own it. Milliseconds; monotonic. */
export interface Clock {
  nowMs(): number;
  /** Calls `callback` once after `delayMs`; the timer does not keep the process alive. */
  setTimer(callback: () => void, delayMs: number): Timer;
}
export interface Timer {
  cancel(): void;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  nowMs: () => performance.now(),
  setTimer(callback, delayMs) {
    const timeout = setTimeout(callback, delayMs);
    timeout.unref();
    return { cancel: () => clearTimeout(timeout) };
  },
};

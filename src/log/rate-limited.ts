/** Warnings that a peer can cause at will: a few of each kind per interval, then a count. */
import type { Clock } from '../util/clock.ts';
import type { Logger } from './logger.ts';

const KINDS_MAX = 1024;

/** @public */
export interface RateLimitOptions {
  readonly clock: Clock;
  /** Default 10 s. */
  readonly intervalMs?: number;
  /** Lines of one kind per interval; default 5. */
  readonly burst?: number;
}

/** @param kind what is counted together; not built from what a peer sends @public */
export type RateLimitedWarn = (kind: string, object: object, message: string) => void;

interface Window {
  startMs: number;
  written: number;
  suppressed: number;
}

/**
 * A `warn` that cannot flood the log. The first line of a new interval tells how many were left out, as `suppressed`.
 * @public
 */
export function rateLimitedWarn(logger: Logger, options: RateLimitOptions): RateLimitedWarn {
  const { clock, intervalMs = 10_000, burst = 5 } = options;
  const windows = new Map<string, Window>();
  return (kind, object, message) => {
    const nowMs = clock.nowMs();
    let window = windows.get(kind);
    if (window === undefined) {
      // forgetting the oldest kind costs at most a few lines more
      if (windows.size >= KINDS_MAX) windows.delete(windows.keys().next().value!);
      window = { startMs: nowMs, written: 0, suppressed: 0 };
      windows.set(kind, window);
    } else if (nowMs - window.startMs >= intervalMs) {
      window.startMs = nowMs;
      window.written = 0;
    }
    if (window.written >= burst) {
      window.suppressed++;
      return;
    }
    window.written++;
    if (window.suppressed === 0) {
      logger.warn(object, message);
    } else {
      logger.warn({ ...object, suppressed: window.suppressed }, message);
      window.suppressed = 0;
    }
  };
}

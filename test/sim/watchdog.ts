/**
 * A run that never gives way to the event loop again (promises that go round and round, a loop without end) cannot fail by itself, and no time-out of
 * mocha ends it: a thread beside it looks whether events go on, and otherwise says where the program is, and ends it.
 */
import { Worker } from 'node:worker_threads';
import type { WatchdogData } from './watchdog-worker.ts';

/** Looks without progress until it is given up: more than any event takes, on a machine that is stopped now and then. */
const LOOKS = 20;
const LOOK_MS = 3000;

const cells = new Int32Array(new SharedArrayBuffer(8));
let worker: Worker | undefined;

/** An event was taken. */
export function progress(): void {
  cells[0] = cells[0]! + 1;
}

/** While `act` is under way, events must go on. */
export async function watched<T>(act: () => Promise<T>, options?: Partial<WatchdogData>): Promise<T> {
  const workerData: WatchdogData = { cells, looks: LOOKS, lookMs: LOOK_MS, ...options };
  worker ??= new Worker(new URL('./watchdog-worker.js', import.meta.url), { workerData, execArgv: [] });
  worker.unref();
  cells[1] = cells[1]! + 1;
  try {
    return await act();
  } finally {
    cells[1] = cells[1]! - 1;
  }
}

/** Keeps two processes from using one file: targets that serve it, orchestrators that write a journal. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { nativeBinding } from './load.ts';

/** A killed target's helper may hold the lock for some milliseconds more. */
const ATTEMPTS = 5;
const EWOULDBLOCK = -11;
const ATTEMPT_INTERVAL_MS = 100;

/** `held`: somebody else has it. `unavailable`: no `flock` program here, or a file system without locks. */
export type LockResult = 'locked' | 'held' | 'unavailable';

/**
 * Takes the kernel's advisory lock flock(2) of the open file `fd`. Without the native addon, util-linux `flock` does the call on the descriptor
 * it inherits. The lock belongs to the open file, so it lasts until we close it or die: nothing is left behind, and containers that share the file are covered.
 * @param shared for readers: any number of them, but no writer
 */
export async function lockFile(fd: number, shared: boolean): Promise<LockResult> {
  for (let attempt = 1; ; attempt++) {
    const result = await tryLock(fd, shared);
    if (result !== 'held' || attempt === ATTEMPTS) return result;
    await sleep(ATTEMPT_INTERVAL_MS);
  }
}

function tryLock(fd: number, shared: boolean): Promise<LockResult> {
  const binding = nativeBinding();
  if (binding !== undefined) {
    const result = binding.lockFile(fd, shared);
    return Promise.resolve(result === 0 ? 'locked' : result === EWOULDBLOCK ? 'held' : 'unavailable');
  }
  return new Promise((resolve) => {
    const child = spawn('flock', [shared ? '-s' : '-x', '-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
    child.on('error', () => resolve('unavailable'));
    // 1 is what flock(1) says for a lock held elsewhere; anything else is an error of its own
    child.on('exit', (code) => resolve(code === 0 ? 'locked' : code === 1 ? 'held' : 'unavailable'));
  });
}

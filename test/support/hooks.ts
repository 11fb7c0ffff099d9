/** Root hooks: a test run fails on an unhandled rejection, and each test file must close every socket and server it opened. */
import { Server, Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Sockets and servers that are open now; stdio does not count. */
function openHandles(): unknown[] {
  const handles = (process as unknown as { _getActiveHandles(): unknown[] })._getActiveHandles();
  return handles.filter((handle) => {
    if (handle === process.stdin || handle === process.stdout || handle === process.stderr) return false;
    if (handle instanceof Server) return handle.listening;
    return handle instanceof Socket && !handle.destroyed && handle.remoteAddress !== undefined;
  });
}

const describeHandle = (handle: unknown): string =>
  handle instanceof Server
    ? `server ${JSON.stringify(handle.address())}`
    : `socket ${(handle as Socket).localPort} -> ${(handle as Socket).remoteAddress}:${(handle as Socket).remotePort}`;

export const mochaHooks = {
  beforeAll(): void {
    process.on('unhandledRejection', (reason) => {
      throw reason instanceof Error ? reason : new Error(`Unhandled rejection: ${String(reason)}`);
    });
  },
  async afterAll(): Promise<void> {
    // closing takes a few turns of the loop
    for (let turn = 0; turn < 100 && openHandles().length > 0; turn++) await nextTurn();
    const left = openHandles();
    if (left.length > 0) throw new Error(`Left open by the tests: ${left.map(describeHandle).join(', ')}`);
  },
};

/**
 * A target in a process of its own, for `vanish.test.ts`: its clock moves when the test says so, and it counts what it holds after a collection of
 * garbage. Started with --expose-gc and an IPC channel.
 */
import { MemoryBackend } from '../../src/backend/memory.ts';
import { Target } from '../../src/target/target.ts';
import { ManualClock } from '../support/manual-clock.ts';

export interface LoadRequest {
  /** Milliseconds that the clock moves first. */
  readonly advanceMs?: number;
}

/** What the target holds. */
export interface LoadFigures {
  readonly port: number;
  readonly connections: number;
  readonly controllers: number;
  /** Buffers that requests hold. */
  readonly poolBytes: number;
  readonly timers: number;
  /** Sockets, timers and requests that the process has open. */
  readonly handles: number;
  /** Heap, and memory of typed arrays beside it. */
  readonly heapBytes: number;
  readonly buffersBytes: number;
}

export const LOAD_NQN = 'nqn.2024-01.org.example:load';
export const BUFFER_BYTES_MAX = 65_536;

async function main(): Promise<void> {
  const clock = new ManualClock();
  const target = new Target({ clock, tcp: { bufferBytesMax: BUFFER_BYTES_MAX } });
  const subsystem = target.addSubsystem({ nqn: LOAD_NQN, allowAnyHost: true });
  target.addNamespace(subsystem, { nsid: 1, backend: new MemoryBackend({ blockSize: 512, blockCount: 65_536 }) });
  const port = await target.addPort({ portId: 1, address: '127.0.0.1', service: 0, subsystems: ['*'] });
  const collect = (globalThis as { gc?: () => void }).gc;
  if (collect === undefined) throw new Error('Start with --expose-gc');
  process.on('message', ({ advanceMs }: LoadRequest) => {
    if (advanceMs !== undefined) clock.advance(advanceMs);
    setImmediate(() => {
      collect();
      collect();
      const { heapUsed, arrayBuffers } = process.memoryUsage();
      const figures: LoadFigures = {
        port: port.service,
        connections: port.connections.size,
        controllers: [...subsystem.controllers].length,
        poolBytes: target.pool.usedBytes,
        timers: clock.timerCount,
        handles: process.getActiveResourcesInfo().length,
        heapBytes: heapUsed,
        buffersBytes: arrayBuffers,
      };
      process.send!(figures);
    });
  });
  process.on('disconnect', () => process.exit());
}

if (process.send !== undefined) await main();

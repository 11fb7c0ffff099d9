/** The I/O engine that everything in this thread shares: opened by the first user, closed after the last. */
import { ConfigError } from '../util/error.ts';
import { IoEngine, type IoEngineOptions } from './io-engine.ts';
import { nativeBinding, requireNative } from './load.ts';

/** `node`: no engine, `node:fs` instead. @public */
export type EngineChoice = 'auto' | 'io_uring' | 'thread-pool' | 'node';

export interface EngineLease {
  readonly engine: IoEngine;
  /** Idempotent; when nothing of this user is in flight. */
  release(): void;
}

const shared = new Map<string, { engine: IoEngine; users: number }>();

/**
 * @param choice default: what the environment variable NVMEFERRY_IO says, else `auto`
 * @returns undefined if `node` is chosen, or `auto` and there is no addon
 * @throws NativeError if what was chosen is not to be had
 */
export function leaseThreadEngine(
  choice: EngineChoice = engineChoice(),
  options: IoEngineOptions = {},
): EngineLease | undefined {
  if (choice === 'node') return undefined;
  const binding = choice === 'auto' ? nativeBinding() : requireNative(`The I/O engine ${choice}`);
  if (binding === undefined) return undefined;
  let entry = shared.get(choice);
  if (entry === undefined) {
    entry = { engine: new IoEngine(binding, { ...options, mode: choice }), users: 0 };
    shared.set(choice, entry);
  }
  const { engine } = entry;
  entry.users++;
  let released = false;
  return {
    engine,
    release: () => {
      if (released) return;
      released = true;
      entry.users--;
      if (entry.users > 0) return;
      shared.delete(choice);
      engine.close();
    },
  };
}

function engineChoice(): EngineChoice {
  const given = process.env.NVMEFERRY_IO;
  switch (given) {
    case undefined:
    case '':
      return 'auto';
    case 'auto':
    case 'io_uring':
    case 'thread-pool':
    case 'node':
      return given;
    default:
      throw new ConfigError(`NVMEFERRY_IO is ${given}; it may be auto, io_uring, thread-pool or node`);
  }
}

/** The engines of this thread, for start-up messages and metrics. */
export function threadEngines(): readonly IoEngine[] {
  return [...shared.values()].map((entry) => entry.engine);
}

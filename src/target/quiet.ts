/**
 * Makes a namespace quiet before its blocks change under it (Format NVM, Sanitize, shrink, delete): commands that the gate let through and
 * that still wait for data are turned away, those that the backend has are waited for, also of hosts that have gone meanwhile.
 */
import type { BlockBackend, BlockIo } from '../backend/block-backend.ts';
import type { Clock } from '../util/clock.ts';
import type { Controller } from './controller.ts';
import { Namespace } from './namespace.ts';
import type { QueuePair } from './queue-pair.ts';
import { Phase } from './request.ts';
import type { Subsystem } from './subsystem.ts';

const POLL_MS = 5;

/** Fails whatever comes. */
class FencedBackend implements BlockBackend {
  readonly kind = 'fence';
  readonly blockSize: number;
  readonly blockCount: number;
  readonly volatileWriteCache = false;
  readonly readsZeroAfterDeallocate: boolean;
  readonly readOnly = false;
  readonly lendsMemory: boolean;
  readonly #status: number;

  constructor(like: BlockBackend, status: number) {
    this.blockSize = like.blockSize;
    this.blockCount = like.blockCount;
    this.readsZeroAfterDeallocate = like.readsZeroAfterDeallocate;
    this.lendsMemory = like.lendsMemory === true;
    this.#status = status;
  }

  read(io: BlockIo): void {
    io.complete(this.#status);
  }
  write(io: BlockIo): void {
    io.complete(this.#status);
  }
  flush(io: BlockIo): void {
    io.complete(this.#status);
  }
  writeZeroes(io: BlockIo): void {
    io.complete(this.#status);
  }
  deallocate(io: BlockIo): void {
    io.complete(this.#status);
  }
  async close(): Promise<void> {}
}

type Whose = (controller: Controller) => boolean;

/** Every queue pair that may have commands of the subsystem, those of hosts that are gone included. */
function* queuePairs(subsystem: Subsystem, whose: Whose): Iterable<QueuePair> {
  for (const controller of subsystem.controllers) if (whose(controller)) yield* controller.ioQueuePairs;
  for (const pair of subsystem.lingering()) if (pair.controller !== undefined && whose(pair.controller)) yield pair;
}

/** Turns away what the gate let through and what still waits, for its data or a buffer. @param status how it ends, when its data is there */
export function fenceWaiting(pairs: Iterable<QueuePair>, namespace: Namespace, status: number): void {
  let fence: Namespace | undefined;
  for (const { requests } of pairs) {
    for (const request of requests) {
      if (!request.inUse || request.phase !== Phase.Pending || request.namespace !== namespace) continue;
      fence ??= new Namespace(
        { nsid: namespace.nsid, backend: new FencedBackend(namespace.backend, status) },
        namespace.uuid,
        namespace.reservations,
      );
      request.namespace = fence;
    }
  }
}

function isBusy(subsystem: Subsystem, namespace: Namespace, whose: Whose): boolean {
  for (const pair of queuePairs(subsystem, whose)) if (pair.isBusyWith(namespace)) return true;
  return false;
}

/**
 * Resolves when the backend has nothing of the namespace in flight. New commands must be refused by the gate already.
 * @param status what commands get that were let in before and have not reached the backend
 * @param whose commands it is about; default: everybody's
 */
export async function becomeQuiet(
  subsystem: Subsystem,
  namespace: Namespace,
  status: number,
  clock: Clock,
  whose: Whose = () => true,
): Promise<void> {
  fenceWaiting(queuePairs(subsystem, whose), namespace, status);
  namespace.writeLimit?.letThrough(({ controller }) => whose(controller));
  while (isBusy(subsystem, namespace, whose))
    await new Promise<void>((resolve) => void clock.setTimer(resolve, POLL_MS));
}

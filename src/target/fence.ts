/**
 * The fence of a namespace: its hosts may use it (open), or only managers of live migration (closed). Each change carries an epoch, and one that is
 * older than what the namespace has seen is refused, so that who was cut off cannot open what others have closed since.
 * docs/live-migration-over-tcp.md, feature CAh.
 */
import { createHash } from 'node:crypto';
import { NvmeofError } from '../util/error.ts';
import type { Controller } from './controller.ts';
import type { Namespace } from './namespace.ts';
import type { StateStore } from './state-store.ts';
import type { Subsystem } from './subsystem.ts';

/** What is kept of a fence. */
interface SavedFence {
  readonly version: 1;
  readonly closed: boolean;
  /** Decimal: JSON has no integers of 64 bits. */
  readonly epoch: string;
}

/** The state of one; target/fence-change.ts changes it. */
export class Fence {
  isClosed: boolean;
  /** Of the newest change. */
  epoch: bigint;
  /** The change before is in force. */
  settled: Promise<unknown> = Promise.resolve();

  constructor(isClosed = false, epoch = 0n) {
    this.isClosed = isClosed;
    this.epoch = epoch;
  }

  /** Who says so was cut off, and does not know what has happened since. The same epoch is the same change once more. */
  isStale(epoch: bigint): boolean {
    return epoch < this.epoch;
  }
}

/** It manages live migration. */
export const isManager = (controller: Controller): boolean =>
  controller.subsystem.migration?.manages(controller) === true;

/** The controller's host may not use the namespace: it is closed, and the controller manages no migration. */
export function isClosedTo(controller: Controller, { fence }: Namespace): boolean {
  return fence.isClosed && !isManager(controller);
}

/** By what the namespace is, not by where it stands. */
function nameOf(subnqn: string, uuid: Uint8Array): string {
  const subsystem = createHash('sha256').update(subnqn).digest('hex').slice(0, 8);
  return `fence-${Buffer.from(uuid).toString('hex')}-${subsystem}`;
}

/**
 * The fence that a namespace comes with.
 * @param uuid 16 bytes @param closed where nothing is known of it
 * @throws NvmeofError NVMEOF_ERR_STATE_STORE
 */
export function savedFence(store: StateStore | undefined, subnqn: string, uuid: Uint8Array, closed: boolean): Fence {
  const name = nameOf(subnqn, uuid);
  const saved = store?.load(name);
  if (saved === undefined) return new Fence(closed);
  if (!isSaved(saved)) {
    throw new NvmeofError(
      'NVMEOF_ERR_STATE_STORE',
      `State ${name} is not what this version saves: restore it, or remove it to start as configured`,
    );
  }
  return new Fence(saved.closed, BigInt(saved.epoch));
}

function isSaved(value: unknown): value is SavedFence {
  const saved = value as Partial<SavedFence> | null;
  return (
    typeof saved === 'object' &&
    saved !== null &&
    saved.version === 1 &&
    typeof saved.closed === 'boolean' &&
    typeof saved.epoch === 'string' &&
    /^\d{1,20}$/.test(saved.epoch)
  );
}

/** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
export async function saveFence(
  { state, nqn }: Subsystem,
  { uuid }: Namespace,
  { closed, epoch }: { readonly closed: boolean; readonly epoch: bigint },
): Promise<void> {
  const value: SavedFence = { version: 1, closed, epoch: String(epoch) };
  await state?.save(nameOf(nqn, uuid), value);
}

/** The namespace is deleted. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
export async function forgetFence(subsystem: Subsystem, { uuid }: Namespace): Promise<void> {
  await subsystem.state?.save(nameOf(subsystem.nqn, uuid), undefined);
}

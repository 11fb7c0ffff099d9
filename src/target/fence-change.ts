/** How the fence of a namespace is opened and closed (feature CAh): in what order, and when it is done. */
import { DNR, PathStatus, Status } from '../spec/status.ts';
import type { Controller } from './controller.ts';
import { isClosedTo, saveFence } from './fence.ts';
import type { Namespace } from './namespace.ts';
import { becomeQuiet } from './quiet.ts';
import type { Subsystem } from './subsystem.ts';

/** @internal */
export interface FenceChange {
  readonly isOpen: boolean;
  readonly epoch: bigint;
  /** Whose command it is. */
  readonly manager: Controller;
}

/**
 * Opens or closes; one change after the other. Closed: hosts are turned away first; when it resolves, that is durable, and nothing of theirs is in
 * flight. Open: durable first.
 * @returns a status: Command Sequence Error if the namespace has seen a newer epoch
 */
export async function setFence(subsystem: Subsystem, namespace: Namespace, change: FenceChange): Promise<number> {
  const { fence } = namespace;
  const applied = fence.settled.then(() => (change.isOpen ? open : close)(subsystem, namespace, change));
  fence.settled = applied.catch(() => {});
  const status = await applied;
  if (status !== Status.Success || change.isOpen) return status;
  // not in turn: a backend that hangs must not keep the namespace closed for ever
  await becomeQuiet(subsystem, namespace, PathStatus.AnaInaccessible, subsystem.clock, (controller) =>
    isClosedTo(controller, namespace),
  );
  return fence.isClosed ? Status.Success : Status.CommandSequenceError | DNR;
}

async function close(subsystem: Subsystem, namespace: Namespace, { epoch }: FenceChange): Promise<number> {
  const { fence } = namespace;
  if (fence.isStale(epoch)) return Status.CommandSequenceError | DNR;
  if (subsystem.namespaces[namespace.nsid] !== namespace) return Status.InvalidNamespaceOrFormat | DNR;
  // they change blocks past every gate
  if (namespace.formatting) return Status.FormatInProgress;
  if (subsystem.sanitizer.refusal !== undefined) return subsystem.sanitizer.refusal;
  fence.epoch = epoch;
  if (!fence.isClosed) {
    fence.isClosed = true;
    subsystem.fenceChanged(namespace);
  }
  return keep(subsystem, namespace, { closed: true, epoch });
}

async function open(subsystem: Subsystem, namespace: Namespace, { epoch, manager }: FenceChange): Promise<number> {
  const { fence } = namespace;
  if (fence.isStale(epoch)) return Status.CommandSequenceError | DNR;
  if (!fence.isClosed && fence.epoch === epoch) return Status.Success;
  const status = await keep(subsystem, namespace, { closed: false, epoch });
  if (status !== Status.Success) return status;
  if (subsystem.namespaces[namespace.nsid] !== namespace) return Status.InvalidNamespaceOrFormat | DNR;
  fence.epoch = epoch;
  if (!fence.isClosed) return Status.Success;
  fence.isClosed = false;
  subsystem.fenceChanged(namespace);
  subsystem.migration?.opened(manager);
  return Status.Success;
}

/** @returns a status */
async function keep(
  subsystem: Subsystem,
  namespace: Namespace,
  saved: { readonly closed: boolean; readonly epoch: bigint },
): Promise<number> {
  try {
    await saveFence(subsystem, namespace, saved);
    return Status.Success;
  } catch (error) {
    subsystem.events.stateNotSaved(subsystem, error);
    return Status.InternalError;
  }
}

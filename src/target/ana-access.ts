/** What the ANA state of a namespace's group, on the port of a controller, allows. Base 2.1 section 8.1.1.5 and following. */
import { PathStatus } from '../spec/status.ts';
import { AnaState } from '../wire/cold/log-ana.ts';
import { ANA_GROUP_CLOSED } from './ana-group.ts';
import type { Controller } from './controller.ts';
import { isClosedTo } from './fence.ts';
import type { Namespace } from './namespace.ts';

/** DNR stays clear: on another controller the same command may work. */
const STATUS: Readonly<Record<number, number>> = {
  [AnaState.Inaccessible]: PathStatus.AnaInaccessible,
  [AnaState.PersistentLoss]: PathStatus.AnaPersistentLoss,
  [AnaState.Change]: PathStatus.AnaTransition,
};

/** The group in which the controller's host sees the namespace. */
export function anaGroupOf(controller: Controller, namespace: Namespace): number {
  return isClosedTo(controller, namespace) ? ANA_GROUP_CLOSED : namespace.anagrpid;
}

/** One of `AnaState`. */
export function anaStateOf(controller: Controller, namespace: Namespace): number {
  if (isClosedTo(controller, namespace)) return AnaState.Inaccessible;
  return controller.subsystem.ana.state(namespace.anagrpid, controller.portId);
}

/** 0, or the status of commands that use the namespace now. */
export function anaStatusOf(controller: Controller, namespace: Namespace): number {
  return STATUS[anaStateOf(controller, namespace)] ?? 0;
}

/** As `anaStatusOf`, for any of the namespaces attached to the controller (NSID FFFFFFFFh). */
export function anaStatusOfAll(controller: Controller): number {
  for (const namespace of controller.activeNamespaces()) {
    const status = anaStatusOf(controller, namespace);
    if (status !== 0) return status;
  }
  return 0;
}

/** Capacities that are in use are not known here now: NUSE and NVMCAP read 0. */
export function hidesCapacity(controller: Controller, namespace: Namespace): boolean {
  const state = anaStateOf(controller, namespace);
  return state === AnaState.Inaccessible || state === AnaState.PersistentLoss;
}

/**
 * The one gate between a command and a namespace (DESIGN section 4): what a controller may do with a namespace now, and why not. Each controller keeps
 * a byte of `Access` bits per NSID, so that a command costs one look-up; whoever changes what a rule reads calls `Subsystem.accessChanged`.
 */
import { DNR, Status } from '../spec/status.ts';
import { anaStatusOf } from './ana-access.ts';
import type { Controller } from './controller.ts';
import { isManager } from './fence.ts';
import type { Namespace } from './namespace.ts';

/** What a command needs of its namespace. The groups are those of the reservation matrix (Base 2.1, figure of command behaviour). */
export const Access = {
  /** The namespace is attached to the controller. Part of every need. */
  Attached: 0x01,
  /** Read, Compare, Verify, source of Copy. */
  Read: 0x02,
  /** Write, Write Zeroes, Write Uncorrectable, Dataset Management, destination of Copy. */
  Write: 0x04,
  Flush: 0x08,
  /** Reservation commands, whose own rules decide the rest. */
  Reserve: 0x10,
  /** Dataset Management that only gives hints: reservations treat it as a write, write protection does not. */
  Advise: 0x20,
} as const;

const ALL = Access.Attached | Access.Read | Access.Write | Access.Flush | Access.Reserve | Access.Advise;

/** One reason why commands may be refused. */
export interface AccessRule {
  /** `Access` bits (never `Attached`) that this controller may not use on this namespace now. */
  forbids(controller: Controller, namespace: Namespace): number;
  /** What a refused command is answered with, DNR included where a retry cannot help. */
  status(controller: Controller, namespace: Namespace): number;
}

const writeProtection: AccessRule = {
  forbids: (_controller, namespace) => (namespace.isWriteProtected ? Access.Write : 0),
  status: () => Status.NamespaceWriteProtected | DNR,
};

/** Who moves a namespace reads it whoever has reserved it; and writes it while its hosts cannot, by whose reservations it is not meant. */
const reservation: AccessRule = {
  forbids(controller, namespace): number {
    const forbidden = namespace.reservations.forbids(controller.host);
    if (forbidden === 0 || !isManager(controller)) return forbidden;
    return namespace.fence.isClosed ? 0 : forbidden & ~Access.Read;
  },
  status: () => Status.ReservationConflict | DNR,
};

/** Before all others: what a namespace would refuse is not known where it cannot be reached. */
const asymmetricAccess: AccessRule = {
  forbids: (controller, namespace) => (anaStatusOf(controller, namespace) === 0 ? 0 : ALL & ~Access.Attached),
  status: anaStatusOf,
};

const format: AccessRule = {
  forbids: (_controller, namespace) => (namespace.formatting ? Access.Read | Access.Write | Access.Flush : 0),
  status: () => Status.FormatInProgress,
};

const sanitize: AccessRule = {
  forbids: ({ subsystem }) => (subsystem.sanitizer.refusal === undefined ? 0 : ALL & ~Access.Attached),
  status: ({ subsystem }) => subsystem.sanitizer.refusal ?? 0,
};

/** In the order in which they answer when several forbid the same. */
const RULES: readonly AccessRule[] = [asymmetricAccess, sanitize, format, writeProtection, reservation];

/** The bits that are allowed; 0 if the namespace is not attached. */
export function accessOf(controller: Controller, namespace: Namespace | undefined): number {
  if (namespace === undefined || !namespace.isAttachedTo(controller)) return 0;
  let allowed: number = ALL;
  for (const rule of RULES) allowed &= ~rule.forbids(controller, namespace);
  return allowed;
}

/** Why `need` is not allowed: the status, or undefined if the namespace is not attached. */
export function refusalOf(controller: Controller, namespace: Namespace | undefined, need: number): number | undefined {
  if (namespace === undefined || !namespace.isAttachedTo(controller)) return undefined;
  return conflictOf(controller, namespace, need);
}

/** As `refusalOf`, for commands that take a namespace whether it is attached or not; undefined if they may have it. */
export function conflictOf(controller: Controller, namespace: Namespace, need: number): number | undefined {
  const rule = RULES.find((candidate) => (candidate.forbids(controller, namespace) & need) !== 0);
  return rule?.status(controller, namespace);
}

/** What the reservations of a namespace do to its subsystem: the gate is set again, hosts are told, commands of fenced hosts are aborted. */
import { Status } from '../spec/status.ts';
import type { Clock } from '../util/clock.ts';
import { abortCommands } from './abortion.ts';
import { isReservationCommand } from './commands/reservation.ts';
import type { Namespace } from './namespace.ts';
import type { QueuePair } from './queue-pair.ts';
import type { HostKey, ReservationOutcome } from './reservation-state.ts';
import { Reservations, reservationsName } from './reservations.ts';
import type { Subsystem } from './subsystem.ts';

/**
 * @param uuid of the namespace, 16 bytes
 * @throws NvmeofError if what was kept through the last loss of power cannot be read
 */
export function reservationsOf(subsystem: Subsystem, nsid: number, uuid: Uint8Array, clock: Clock): Reservations {
  const reservations: Reservations = new Reservations(reservationsName(subsystem.nqn, uuid), {
    store: subsystem.state,
    changed: (outcome) => {
      const namespace = current();
      if (namespace === undefined) return;
      subsystem.accessChanged(nsid);
      tell(subsystem, namespace, outcome);
    },
    abort: (hosts, done) => {
      const namespace = current();
      if (namespace === undefined) {
        done();
        return;
      }
      const pairs = queuePairsOf(subsystem, new Set(hosts));
      abortCommands(pairs, namespace, Status.AbortedPreempt, isReservationCommand, clock, done);
    },
    notSaved: (error) => subsystem.events.stateNotSaved(subsystem, error),
  });
  /** Undefined once the namespace is removed, even if another one has its NSID. */
  const current = (): Namespace | undefined => {
    const namespace = subsystem.namespaces[nsid];
    return namespace?.reservations === reservations ? namespace : undefined;
  };
  return reservations;
}

/** Those without connection included: a host that is fenced has often vanished, and a backend may still have its writes. */
function* queuePairsOf(subsystem: Subsystem, hosts: ReadonlySet<HostKey>): Iterable<QueuePair> {
  for (const controller of subsystem.controllers) if (hosts.has(controller.host)) yield* controller.ioQueuePairs;
  for (const pair of subsystem.lingering()) {
    if (pair.controller !== undefined && hosts.has(pair.controller.host)) yield pair;
  }
}

/** Every controller of a host hears of it, if the namespace is attached to it. */
function tell(subsystem: Subsystem, namespace: Namespace, { notices }: ReservationOutcome): void {
  if (notices.length === 0) return;
  for (const controller of subsystem.controllers) {
    if (!namespace.isAttachedTo(controller)) continue;
    for (const { host, type } of notices) if (host === controller.host) controller.reservationNotice(namespace, type);
  }
}

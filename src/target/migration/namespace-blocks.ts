/** Blocks about the namespaces of a controller: which ones it has, what its host holds of them, what the host was not told yet. */
import {
  NoticeEntry,
  namespacesCodec,
  noticesCodec,
  ReservationFlag,
  reservationsCodec,
  StateBlockKind,
  type StateNamespace,
  type StateReservation,
} from '../../wire/cold/state-blocks.ts';
import { type Controller, NO_HOST } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import { NOTICE_MASK_BITS, NOTICES_MAX } from '../reservation-notices.ts';
import { holds } from '../reservation-state.ts';
import { Protection, setProtection } from '../write-protection.ts';
import { type BlockType, wrongState } from './block-type.ts';

type Undo = () => Promise<void>;

/** Runs them in turn; if one fails, what the ones before it did is undone. */
export async function allOrNothing(steps: readonly (() => Promise<Undo>)[]): Promise<Undo> {
  const undos: Undo[] = [];
  const undo = async (): Promise<void> => {
    for (const back of undos.reverse()) await back();
  };
  try {
    for (const step of steps) undos.push(await step());
  } catch (error) {
    await undo();
    throw error;
  }
  return undo;
}

const known = (controller: Controller, nsid: number): Namespace => {
  const namespace = controller.subsystem.allocated(nsid, controller.hostnqn);
  if (namespace === undefined) throw wrongState(`has namespace ${nsid}, which does not exist here for its host`);
  return namespace;
};

// ---- attachment, protection, health --------------------------------------------------------------------------------------------------

function checkNamespace(controller: Controller, entry: StateNamespace): Namespace {
  const namespace = known(controller, entry.nsid);
  const { blockSize, blockCount } = namespace;
  if (entry.blockSize !== blockSize || entry.blockCount !== BigInt(blockCount)) {
    const theirs = `${entry.blockCount} blocks of ${entry.blockSize} bytes`;
    throw wrongState(`has namespace ${entry.nsid} with ${theirs}, here it has ${blockCount} of ${blockSize}`);
  }
  if (entry.protection > Protection.Permanent) throw wrongState(`has write protection ${entry.protection}`);
  const { writeProtection: here } = namespace;
  if (here !== entry.protection && here >= Protection.UntilPowerCycle) {
    throw wrongState(
      `has write protection ${entry.protection} for namespace ${entry.nsid}, here it has ${here} for good`,
    );
  }
  const served = controller.subsystem.protectionsServed;
  if (here !== entry.protection && (served & (1 << entry.protection)) === 0) {
    throw wrongState(`has write protection ${entry.protection} for namespace ${entry.nsid}, which would not last here`);
  }
  return namespace;
}

function attaching(controller: Controller, namespace: Namespace, attached: boolean) {
  const { manager } = controller.subsystem;
  const set = async (to: boolean): Promise<void> => {
    const status = await (to ? manager.attach(namespace, [controller]) : manager.detach(namespace, [controller]));
    if (status === 0) return;
    throw wrongState(`cannot ${to ? 'attach' : 'detach'} namespace ${namespace.nsid}: status ${status.toString(16)}h`);
  };
  return async (): Promise<Undo> => {
    await set(attached);
    return () => set(!attached);
  };
}

function protecting(controller: Controller, namespace: Namespace, protection: number) {
  return async (): Promise<Undo> => {
    const before = namespace.writeProtection;
    await setProtection(controller.subsystem, namespace, protection);
    return () => setProtection(controller.subsystem, namespace, before);
  };
}

export const namespacesBlock: BlockType = {
  kind: StateBlockKind.Namespaces,
  version: 1,
  essential: true,
  save: (controller) =>
    namespacesCodec.encode(
      controller.activeNamespaces().map((namespace) => ({
        nsid: namespace.nsid,
        blockSize: namespace.blockSize,
        blockCount: BigInt(namespace.blockCount),
        protection: namespace.writeProtection,
        readBytes: BigInt(namespace.readBytes),
        writtenBytes: BigInt(namespace.writtenBytes),
        readCommands: BigInt(namespace.readCommands),
        writeCommands: BigInt(namespace.writeCommands),
      })),
    ),
  load(controller, bytes) {
    const entries = namespacesCodec.decode(bytes);
    const wanted = new Map(entries.map((entry) => [checkNamespace(controller, entry), entry]));
    if (wanted.size !== entries.length) throw wrongState('has a namespace twice');
    const steps: (() => Promise<Undo>)[] = [];
    for (const namespace of controller.activeNamespaces()) {
      if (!wanted.has(namespace)) steps.push(attaching(controller, namespace, false));
    }
    for (const [namespace, { protection }] of wanted) {
      if (!namespace.isAttachedTo(controller)) steps.push(attaching(controller, namespace, true));
      // the last one, and not undone: what is for good cannot be
      if (namespace.writeProtection !== protection) steps.push(protecting(controller, namespace, protection));
    }
    return {
      durable: steps.length === 0 ? undefined : () => allOrNothing(steps),
      apply(): void {
        for (const [namespace, entry] of wanted) raiseCounters(namespace, entry);
      },
    };
  },
};

/** What log page 02h says never goes back, whoever has used the namespace here meanwhile. */
function raiseCounters(namespace: Namespace, entry: StateNamespace): void {
  namespace.readBytes = Math.max(namespace.readBytes, Number(entry.readBytes));
  namespace.writtenBytes = Math.max(namespace.writtenBytes, Number(entry.writtenBytes));
  namespace.readCommands = Math.max(namespace.readCommands, Number(entry.readCommands));
  namespace.writeCommands = Math.max(namespace.writeCommands, Number(entry.writeCommands));
}

// ---- reservations --------------------------------------------------------------------------------------------------------------------

const RESERVATION_TYPE_MAX = 6;

/** What the controller's host has registered and holds. Other hosts come with states of their own. */
export const reservationsBlock: BlockType = {
  kind: StateBlockKind.Reservations,
  version: 1,
  essential: true,
  save(controller) {
    if (controller.host === NO_HOST) return reservationsCodec.encode([]);
    const entries = controller.activeNamespaces().flatMap(({ nsid, reservations: { state } }) => {
      const key = state.registrants.get(controller.host);
      if (key === undefined && state.generation === 0) return [];
      return [
        {
          nsid,
          generation: state.generation,
          type: state.type !== 0 && holds(state, controller.host) ? state.type : 0,
          flags:
            (key === undefined ? 0 : ReservationFlag.Registered) | (state.persistent ? ReservationFlag.Persistent : 0),
          key: key ?? 0n,
        },
      ];
    });
    return reservationsCodec.encode(entries);
  },
  load(controller, bytes) {
    const entries = reservationsCodec.decode(bytes);
    if (entries.length > 0 && controller.host === NO_HOST)
      throw wrongState('has reservations of a host without identifier');
    const steps = entries.flatMap((entry) => {
      const { reservations } = checkReservation(controller, entry);
      return [
        () =>
          reservations.adopt(controller.host, {
            generation: entry.generation,
            key: (entry.flags & ReservationFlag.Registered) === 0 ? undefined : entry.key,
            type: entry.type,
            persistent: (entry.flags & ReservationFlag.Persistent) !== 0,
          }),
      ];
    });
    return { durable: steps.length === 0 ? undefined : () => allOrNothing(steps) };
  },
};

function checkReservation(controller: Controller, entry: StateReservation): Namespace {
  const namespace = known(controller, entry.nsid);
  const registered = (entry.flags & ReservationFlag.Registered) !== 0;
  if (entry.type > RESERVATION_TYPE_MAX || (entry.type !== 0 && !registered)) {
    throw wrongState(`has reservation type ${entry.type} of namespace ${entry.nsid}`);
  }
  const problem = namespace.reservations.adoptable(controller.host, registered, entry.type);
  if (problem !== undefined) throw wrongState(`has a reservation of namespace ${entry.nsid}: ${problem}`);
  if ((entry.flags & ReservationFlag.Persistent) !== 0 && !namespace.reservations.canPersist) {
    throw wrongState(`has reservations of namespace ${entry.nsid} that persist: this target needs a state directory`);
  }
  return namespace;
}

/** Log page 80h, and feature 82h by namespace. */
export const noticesBlock: BlockType = {
  kind: StateBlockKind.ReservationNotices,
  version: 1,
  essential: false,
  save(controller) {
    const { reservationNotices } = controller;
    const { count, queue } = reservationNotices.export();
    if (count === 0n && controller.activeNamespaces().every((n) => reservationNotices.mask(n) === 0)) {
      return noticesCodec.encode([]);
    }
    const masks = controller.activeNamespaces().filter((namespace) => reservationNotices.mask(namespace) !== 0);
    return noticesCodec.encode([
      { what: NoticeEntry.Counter, count },
      ...queue.map((notice) => ({ what: NoticeEntry.Notice, ...notice })),
      ...masks.map((n) => ({ what: NoticeEntry.Mask, nsid: n.nsid, type: reservationNotices.mask(n) })),
    ]);
  },
  load(controller, bytes) {
    const entries = noticesCodec.decode(bytes);
    const queue = entries.filter(({ what }) => what === NoticeEntry.Notice);
    const masks = entries.filter(({ what }) => what === NoticeEntry.Mask);
    if (queue.length > NOTICES_MAX) throw wrongState(`has ${queue.length} reservation notices`);
    if (queue.some(({ type }) => type > 3)) throw wrongState('has a reservation notice of an unknown type');
    if (masks.some(({ type }) => (type & ~NOTICE_MASK_BITS) !== 0))
      throw wrongState('has an unknown notification mask');
    const byNamespace = masks.map(({ nsid, type }) => [known(controller, nsid), type] as const);
    return {
      apply(): void {
        controller.reservationNotices.import(
          entries.find(({ what }) => what === NoticeEntry.Counter)?.count ?? 0n,
          queue,
        );
        for (const [namespace, mask] of byNamespace) controller.reservationNotices.setMask(namespace, mask);
      },
    };
  },
};

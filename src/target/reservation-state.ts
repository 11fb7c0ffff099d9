/**
 * Reservations of one namespace as a pure state machine: which host did what, what becomes of it, who is to hear of it. Base 2.1 section
 * 8.1.22, NVM Command Set 1.2 figure of command behaviour. No I/O, no clock: what is kept, sent or aborted is up to target/reservations.ts.
 */
import {
  AcquireAction,
  ChangePersistence,
  RegisterAction,
  ReleaseAction,
  ReservationNotification,
  ReservationType,
} from '../spec/reservation.ts';
import { Status } from '../spec/status.ts';
import { Access } from './access.ts';

/** A host: its Host Identifier, 32 hex digits. All its controllers share what it registered. */
export type HostKey = string;

export interface ReservationState {
  /** GEN: 32 bits, wraps. */
  readonly generation: number;
  /** `ReservationType`, 0 if nothing is held. */
  readonly type: number;
  /** Who holds it; undefined if nothing is held, or all registrants hold it. */
  readonly holder: HostKey | undefined;
  /** Reservation keys, in the order of registration. */
  readonly registrants: ReadonlyMap<HostKey, bigint>;
  /** PTPL: all of this survives a loss of power. */
  readonly persistent: boolean;
}

export const NO_RESERVATION: ReservationState = {
  generation: 0,
  type: 0,
  holder: undefined,
  registrants: new Map(),
  persistent: false,
};

/** Registrants that one namespace keeps: hosts must not grow our memory without bound. */
export const REGISTRANTS_MAX = 1024;

export interface RegisterCommand {
  readonly kind: 'register';
  /** `RegisterAction`. */
  readonly action: number;
  readonly ignoreExistingKey: boolean;
  /** `ChangePersistence`. */
  readonly persistence: number;
  readonly currentKey: bigint;
  readonly newKey: bigint;
}
export interface AcquireCommand {
  readonly kind: 'acquire';
  /** `AcquireAction`. */
  readonly action: number;
  readonly type: number;
  readonly currentKey: bigint;
  readonly preemptKey: bigint;
}
export interface ReleaseCommand {
  readonly kind: 'release';
  /** `ReleaseAction`. */
  readonly action: number;
  readonly type: number;
  readonly currentKey: bigint;
}
export type ReservationCommand = RegisterCommand | AcquireCommand | ReleaseCommand;

export interface ReservationNotice {
  readonly host: HostKey;
  /** `ReservationNotification`. */
  readonly type: number;
}

export interface ReservationOutcome {
  /** SCT and SC; the state is unchanged unless 0. */
  readonly status: number;
  readonly state: ReservationState;
  readonly notices: readonly ReservationNotice[];
  /** Hosts whose registration another host removed. */
  readonly preempted: readonly HostKey[];
}

// ---- what is allowed ---------------------------------------------------------------------------------------------------------------

const WRITES = Access.Write | Access.Flush | Access.Advise;
const READS_AND_WRITES = WRITES | Access.Read;

/** `Access` bits that are refused, by type: to hosts that are not registered, and to registrants that do not hold the reservation. */
const FORBIDDEN: readonly (readonly [stranger: number, registrant: number])[] = [
  [0, 0],
  [WRITES, WRITES],
  [READS_AND_WRITES, READS_AND_WRITES],
  [WRITES, 0],
  [READS_AND_WRITES, 0],
  [WRITES, 0],
  [READS_AND_WRITES, 0],
];

/** `Access` bits that `host` may not use now. */
export function forbiddenAccess(state: ReservationState, host: HostKey): number {
  if (state.type === 0 || holds(state, host)) return 0;
  const [stranger, registrant] = FORBIDDEN[state.type]!;
  return state.registrants.has(host) ? registrant : stranger;
}

/** The types that all registrants hold together. */
export function isHeldByAll(type: number): boolean {
  return (
    type === ReservationType.WriteExclusiveAllRegistrants || type === ReservationType.ExclusiveAccessAllRegistrants
  );
}

/** The host holds the reservation, alone or with all other registrants. */
export function holds(state: ReservationState, host: HostKey): boolean {
  return isHeldByAll(state.type) ? state.registrants.has(host) : state.holder === host;
}

// ---- transitions -------------------------------------------------------------------------------------------------------------------

const refuse = (state: ReservationState, status: number): ReservationOutcome => ({
  status,
  state,
  notices: [],
  preempted: [],
});
const conflict = (state: ReservationState): ReservationOutcome => refuse(state, Status.ReservationConflict);

function succeed(
  state: ReservationState,
  notices: readonly ReservationNotice[] = [],
  preempted: readonly HostKey[] = [],
): ReservationOutcome {
  return { status: Status.Success, state, notices, preempted };
}

/** A notice for every registrant but `issuer`. */
function toOthers(state: ReservationState, issuer: HostKey, type: number): ReservationNotice[] {
  return [...state.registrants.keys()].filter((host) => host !== issuer).map((host) => ({ host, type }));
}

const nextGeneration = (state: ReservationState): number => (state.generation + 1) >>> 0;

const released = (state: ReservationState): ReservationState => ({ ...state, type: 0, holder: undefined });

const heldBy = (state: ReservationState, host: HostKey, type: number): ReservationState => ({
  ...state,
  type,
  holder: isHeldByAll(type) ? undefined : host,
});

function withKey(state: ReservationState, host: HostKey, key: bigint): ReservationState {
  return { ...state, registrants: new Map(state.registrants).set(host, key) };
}

/** Without these registrants; a reservation that nobody holds any more is released. */
function withoutHosts(state: ReservationState, hosts: readonly HostKey[]): ReservationState {
  const registrants = new Map(state.registrants);
  for (const host of hosts) registrants.delete(host);
  const left = { ...state, registrants };
  const held = isHeldByAll(state.type)
    ? registrants.size > 0
    : state.holder !== undefined && registrants.has(state.holder);
  return held ? left : released(left);
}

type Transition<C> = (state: ReservationState, host: HostKey, command: C) => ReservationOutcome;

const register: Transition<RegisterCommand> = (state, host, { newKey }) => {
  const key = state.registrants.get(host);
  if (key !== undefined) return key === newKey ? succeed(state) : conflict(state);
  if (state.registrants.size >= REGISTRANTS_MAX) return refuse(state, Status.InternalError);
  return succeed(withKey(state, host, newKey));
};

const unregister: Transition<RegisterCommand> = (state, host, { currentKey, ignoreExistingKey }) => {
  const key = state.registrants.get(host);
  if (key === undefined || (!ignoreExistingKey && key !== currentKey)) return conflict(state);
  const next = withoutHosts(state, [host]);
  const tells =
    state.type === ReservationType.WriteExclusiveRegistrantsOnly ||
    state.type === ReservationType.ExclusiveAccessRegistrantsOnly;
  if (!tells || next.type !== 0) return succeed(next);
  return succeed(next, toOthers(next, host, ReservationNotification.ReservationReleased));
};

/** With IEKEY whatever the host had before, even nothing. */
const replace: Transition<RegisterCommand> = (state, host, { currentKey, newKey, ignoreExistingKey }) => {
  const key = state.registrants.get(host);
  if (!ignoreExistingKey && key !== currentKey) return conflict(state);
  if (key === undefined && state.registrants.size >= REGISTRANTS_MAX) return refuse(state, Status.InternalError);
  return succeed(withKey(state, host, newKey));
};

const acquire: Transition<AcquireCommand> = (state, host, { type }) => {
  if (state.type === 0) return succeed(heldBy(state, host, type));
  return state.type === type && holds(state, host) ? succeed(state) : conflict(state);
};

const preempt: Transition<AcquireCommand> = (state, host, { type, preemptKey }) => {
  const others = [...state.registrants.keys()].filter((other) => other !== host);
  const matching = (hosts: Iterable<HostKey>): HostKey[] =>
    [...hosts].filter((other) => state.registrants.get(other) === preemptKey);
  if (isHeldByAll(state.type) ? preemptKey === 0n : state.holder !== undefined && isHolderKey(state, preemptKey)) {
    // the reservation itself: its holders go, except the issuer, who holds the new one
    return removed(state, host, isHeldByAll(state.type) ? others : matching(others), type);
  }
  if (state.holder !== undefined && preemptKey === 0n) return refuse(state, Status.InvalidField);
  // registrations alone; the issuer's own, if it has that key
  const victims = matching(state.registrants.keys());
  return victims.length === 0 ? conflict(state) : removed(state, host, victims);
};

const isHolderKey = (state: ReservationState, key: bigint): boolean => state.registrants.get(state.holder!) === key;

/** @param type of the new reservation for `issuer`; undefined leaves what is held */
function removed(
  state: ReservationState,
  issuer: HostKey,
  victims: readonly HostKey[],
  type?: number,
): ReservationOutcome {
  const left = withoutHosts(state, victims);
  const next = type === undefined ? left : heldBy(left, issuer, type);
  const preempted = victims.filter((host) => host !== issuer);
  const notices = preempted.map((host) => ({ host, type: ReservationNotification.RegistrationPreempted as number }));
  if (next.type !== state.type && state.type !== 0) {
    notices.push(...toOthers(next, issuer, ReservationNotification.ReservationReleased));
  }
  return succeed(next, notices, preempted);
}

const release: Transition<ReleaseCommand> = (state, host, { type }) => {
  if (state.type === 0 || !holds(state, host)) return succeed(state);
  if (state.type !== type) return refuse(state, Status.InvalidField);
  const tells = type !== ReservationType.WriteExclusive && type !== ReservationType.ExclusiveAccess;
  return succeed(released(state), tells ? toOthers(state, host, ReservationNotification.ReservationReleased) : []);
};

const clear: Transition<ReleaseCommand> = (state, host) =>
  succeed(
    { ...released(state), registrants: new Map() },
    toOthers(state, host, ReservationNotification.ReservationPreempted),
  );

const REGISTER: Readonly<Record<number, Transition<RegisterCommand>>> = {
  [RegisterAction.Register]: register,
  [RegisterAction.Unregister]: unregister,
  [RegisterAction.Replace]: replace,
};
const ACQUIRE: Readonly<Record<number, Transition<AcquireCommand>>> = {
  [AcquireAction.Acquire]: acquire,
  [AcquireAction.Preempt]: preempt,
  [AcquireAction.PreemptAndAbort]: preempt,
};
const RELEASE: Readonly<Record<number, Transition<ReleaseCommand>>> = {
  [ReleaseAction.Release]: release,
  [ReleaseAction.Clear]: clear,
};

/** Only for registrants, with the key they registered. */
function asRegistrant<C extends AcquireCommand | ReleaseCommand>(transition: Transition<C>): Transition<C> {
  return (state, host, command) =>
    state.registrants.get(host) === command.currentKey ? transition(state, host, command) : conflict(state);
}

/** GEN counts registrations: every Register, Preempt and Clear that succeeds. */
function counted(outcome: ReservationOutcome): ReservationOutcome {
  if (outcome.status !== Status.Success) return outcome;
  return { ...outcome, state: { ...outcome.state, generation: nextGeneration(outcome.state) } };
}

function withPersistence(outcome: ReservationOutcome, persistence: number): ReservationOutcome {
  if (outcome.status !== Status.Success || persistence === ChangePersistence.None) return outcome;
  return { ...outcome, state: { ...outcome.state, persistent: persistence === ChangePersistence.Set } };
}

/** What `host`'s command does. Its fields are in range: commands/reservation.ts has seen to it. */
export function applyReservation(
  state: ReservationState,
  host: HostKey,
  command: ReservationCommand,
): ReservationOutcome {
  switch (command.kind) {
    case 'register':
      return withPersistence(counted(REGISTER[command.action]!(state, host, command)), command.persistence);
    case 'acquire': {
      const outcome = asRegistrant(ACQUIRE[command.action]!)(state, host, command);
      return command.action === AcquireAction.Acquire ? outcome : counted(outcome);
    }
    case 'release': {
      const outcome = asRegistrant(RELEASE[command.action]!)(state, host, command);
      return command.action === ReleaseAction.Release ? outcome : counted(outcome);
    }
  }
}

/** What a host has registered and holds, taken over from another target. Pure, as target/reservation-state.ts. */
import { type HostKey, holds, isHeldByAll, REGISTRANTS_MAX, type ReservationState } from './reservation-state.ts';

/** What one host has of one namespace's reservations. */
export interface HostHolding {
  /** GEN as the host knows it: it never goes back. */
  readonly generation: number;
  /** Undefined: not registered. */
  readonly key: bigint | undefined;
  /** Of what it holds, alone or with all registrants; 0: nothing. */
  readonly type: number;
  /** PTPL. */
  readonly persistent: boolean;
}

/** Why it cannot be taken over, or undefined. */
export function adoptionProblem(
  state: ReservationState,
  host: HostKey,
  registered: boolean,
  type: number,
): string | undefined {
  const others = state.registrants.size - (state.registrants.has(host) ? 1 : 0);
  if (registered && others >= REGISTRANTS_MAX) return `there are ${REGISTRANTS_MAX} registrants`;
  if (type === 0 || state.type === 0 || (state.type === type && (isHeldByAll(type) || state.holder === host))) {
    return undefined;
  }
  return state.holder === host ? undefined : 'here another host holds one';
}

/** There is no `adoptionProblem`. */
export function adopted(state: ReservationState, host: HostKey, holding: HostHolding): ReservationState {
  const { key, type } = holding;
  const registrants = new Map(state.registrants);
  if (key === undefined) registrants.delete(host);
  else registrants.set(host, key);
  const heldHere = state.type !== 0 && holds(state, host);
  let next: ReservationState = {
    ...state,
    registrants,
    persistent: state.persistent || holding.persistent,
    generation: Math.max(state.generation, holding.generation),
  };
  if (type !== 0) next = { ...next, type, holder: isHeldByAll(type) ? undefined : host };
  else if (heldHere && !(isHeldByAll(state.type) && registrants.size > 0))
    next = { ...next, type: 0, holder: undefined };
  return isSame(state, next) ? state : next;
}

function isSame(a: ReservationState, b: ReservationState): boolean {
  return (
    a.type === b.type &&
    a.holder === b.holder &&
    a.persistent === b.persistent &&
    a.generation === b.generation &&
    a.registrants.size === b.registrants.size &&
    [...a.registrants].every(([host, key]) => b.registrants.get(host) === key)
  );
}

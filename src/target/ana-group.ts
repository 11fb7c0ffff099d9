/**
 * Asymmetric Namespace Access of one subsystem: which state each ANA group has on each port, and how it changes at run time.
 * Base 2.1 section 8.1.1. A group and port that nobody mentioned is optimized.
 */
import type { Clock, Timer } from '../util/clock.ts';
import { ConfigError, NvmeofError } from '../util/error.ts';
import { AnaState } from '../wire/cold/log-ana.ts';

/** Groups that a namespace can be put into have ids 1 to this. As many as the Linux target has. */
export const ANA_GROUPS_MAX = 128;
/** ANAGRPMAX and NANAGRPID: the group, always inaccessible, in which hosts see a namespace that is closed to them (target/fence.ts). */
export const ANA_GROUP_CLOSED = 129;
/** ANACAP: every state is reported; a namespace may be moved to another group (bit 6 clear). */
export const ANACAP = 0x1f;
/** The group of a namespace that names none. */
export const ANA_GROUP_DEFAULT = 1;
export const ANA_TRANSITION_SECONDS_DEFAULT = 10;

/** @public */
export interface AnaGroupOptions {
  /** 1 to 128. */
  readonly anagrpid: number;
  /** One of `AnaState` by port id; ports that are not listed are optimized. */
  readonly states: readonly { readonly portId: number; readonly state: number }[];
}

/** One group on one port. */
interface Place {
  state: number;
  /** In the change state: what it was before, and the timer that ends a transition that nobody ends. */
  before: number;
  timer: Timer | undefined;
}

const KNOWN_STATES: readonly number[] = Object.values(AnaState);

/** @throws ConfigError */
export function checkAnagrpid(anagrpid: number): number {
  if (!Number.isInteger(anagrpid) || anagrpid < 1 || anagrpid > ANA_GROUPS_MAX) {
    throw new ConfigError(`ANA group ${anagrpid}: allowed are 1 to ${ANA_GROUPS_MAX}`);
  }
  return anagrpid;
}

export class AnaGroups {
  /** ANATT, seconds: no transition takes longer. */
  readonly transitionSeconds: number;
  readonly #clock: Clock;
  /** A group has another state on a port now. */
  readonly #changed: (anagrpid: number, portId: number, state: number) => void;
  /** By port, then by group. */
  readonly #places = new Map<number, Map<number, Place>>();

  constructor(
    transitionSeconds: number,
    clock: Clock,
    changed: (anagrpid: number, portId: number, state: number) => void,
  ) {
    this.transitionSeconds = transitionSeconds;
    this.#clock = clock;
    this.#changed = changed;
  }

  /** One of `AnaState`. */
  state(anagrpid: number, portId: number): number {
    return this.#places.get(portId)?.get(anagrpid)?.state ?? AnaState.Optimized;
  }

  /**
   * Sets the state of a group on a port; hosts there are told. `AnaState.Change` lasts until the next call, at most ANATT: then the transition
   * has failed and the group is what it was before.
   * @throws ConfigError for a group or state that cannot be, NvmeofError if the group is lost there for good
   */
  setState(anagrpid: number, portId: number, state: number): void {
    checkAnagrpid(anagrpid);
    if (!KNOWN_STATES.includes(state))
      throw new ConfigError(`ANA state ${state}: allowed are ${KNOWN_STATES.join(', ')}`);
    const place = this.#place(anagrpid, portId);
    if (place.state === state) return;
    if (place.state === AnaState.PersistentLoss) {
      throw new NvmeofError(
        'NVMEOF_ERR_ANA_LOST',
        `ANA group ${anagrpid} on port ${portId} is in persistent loss, which is final`,
      );
    }
    place.timer?.cancel();
    place.timer = undefined;
    if (state === AnaState.Change) {
      place.before = place.state;
      place.timer = this.#clock.setTimer(
        () => this.setState(anagrpid, portId, place.before),
        this.transitionSeconds * 1000,
      );
    }
    place.state = state;
    this.#changed(anagrpid, portId, state);
  }

  #place(anagrpid: number, portId: number): Place {
    let port = this.#places.get(portId);
    if (port === undefined) {
      port = new Map();
      this.#places.set(portId, port);
    }
    let place = port.get(anagrpid);
    if (place === undefined) {
      place = { state: AnaState.Optimized, before: AnaState.Optimized, timer: undefined };
      port.set(anagrpid, place);
    }
    return place;
  }

  /** Ends the timers; the subsystem goes. Idempotent. */
  close(): void {
    for (const port of this.#places.values()) {
      for (const place of port.values()) {
        place.timer?.cancel();
        place.timer = undefined;
      }
    }
  }
}

/**
 * The change counts of one controller's ANA log: of the page and of each group, from 0 after a Controller Level Reset. Base 2.1 section
 * 5.1.12.1.13.
 */
export class AnaChangeCounts {
  count = 0;
  readonly #groups = new Map<number, number>();

  /** What the log says of the group is different now. */
  changed(anagrpid: number): void {
    this.count++;
    this.#groups.set(anagrpid, this.group(anagrpid) + 1);
  }

  group(anagrpid: number): number {
    return this.#groups.get(anagrpid) ?? 0;
  }

  /** Group and count, of those that have one. */
  groups(): IterableIterator<[number, number]> {
    return this.#groups.entries();
  }

  /** @param counts by group; 0: of the page */
  replace(counts: ReadonlyMap<number, number>): void {
    this.reset();
    for (const [anagrpid, count] of counts) {
      if (anagrpid === 0) this.count = count;
      else this.#groups.set(anagrpid, count);
    }
  }

  reset(): void {
    this.count = 0;
    this.#groups.clear();
  }
}

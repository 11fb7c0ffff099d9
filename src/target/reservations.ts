/**
 * The reservations of one namespace at work: commands one after the other, durable before they are answered where the namespace persists
 * through power loss, then the gate, the notices and the aborts that follow from them.
 */
import { createHash } from 'node:crypto';
import { AcquireAction, ReservationCapability } from '../spec/reservation.ts';
import { Status } from '../spec/status.ts';
import { NvmeofError } from '../util/error.ts';
import { adopted, adoptionProblem, type HostHolding } from './reservation-adoption.ts';
import { type ReservationImage, reservationImage, reservationState } from './reservation-image.ts';
import {
  applyReservation,
  forbiddenAccess,
  type HostKey,
  NO_RESERVATION,
  type ReservationCommand,
  type ReservationOutcome,
  type ReservationState,
} from './reservation-state.ts';
import type { StateStore } from './state-store.ts';

/** Who acts on what a command did. */
export interface ReservationOwner {
  /** Where persistent reservations are kept; undefined: nothing can persist. */
  readonly store: StateStore | undefined;
  /** The state is another one: what hosts may do with the namespace has to be looked up again, and these are to be told. */
  changed(outcome: ReservationOutcome): void;
  /** Aborts what these hosts have outstanding on the namespace. @param done nothing of it is left */
  abort(hosts: readonly HostKey[], done: () => void): void;
  /** The store failed: nothing was changed. */
  notSaved(error: unknown): void;
}

/** One change of the state that waits for the one before it to be durable. */
interface Change {
  readonly apply: (state: ReservationState) => ReservationOutcome;
  readonly done: (outcome: ReservationOutcome) => void;
}

export class Reservations {
  #state: ReservationState = NO_RESERVATION;
  readonly #owner: ReservationOwner;
  readonly #name: string;
  readonly #waiting: Change[] = [];
  #saving = false;
  #forgotten = false;

  /**
   * @param name of the namespace: the same one through every restart
   * @throws NvmeofError if what was kept cannot be read
   */
  constructor(name: string, owner: ReservationOwner) {
    this.#name = name;
    this.#owner = owner;
    const kept = owner.store?.load(name);
    if (kept !== undefined) {
      this.#state = reservationState(kept, `State ${name} (remove it to start without reservations)`);
    }
  }

  get state(): ReservationState {
    return this.#state;
  }

  /** RESCAP. */
  get capabilities(): number {
    return (
      ReservationCapability.AllTypes |
      ReservationCapability.IgnoreExistingKey13 |
      (this.canPersist ? ReservationCapability.PersistThroughPowerLoss : 0)
    );
  }

  /** PTPL can be set. */
  get canPersist(): boolean {
    return this.#owner.store !== undefined;
  }

  /** `Access` bits that the host may not use now. */
  forbids(host: HostKey): number {
    return forbiddenAccess(this.#state, host);
  }

  /** Runs a command. @param done gets its status when its effect is complete, and durable if it has to be */
  execute(host: HostKey, command: ReservationCommand, done: (status: number) => void): void {
    const aborts = command.kind === 'acquire' && command.action === AcquireAction.PreemptAndAbort;
    this.#change(
      (state) => applyReservation(state, host, command),
      ({ status, preempted }) => {
        if (!aborts || preempted.length === 0) done(status);
        else this.#owner.abort(preempted, () => done(status));
      },
    );
  }

  /** Feature 83h. @param done gets a status */
  setPersistent(persistent: boolean, done: (status: number) => void): void {
    this.#change(
      (state) => ({
        status: Status.Success,
        state: state.persistent === persistent ? state : { ...state, persistent },
        notices: [],
        preempted: [],
      }),
      ({ status }) => done(status),
    );
  }

  /** All there is to know, for a target that takes the namespace over. */
  export(): ReservationImage {
    return reservationImage(this.#state);
  }

  /**
   * Replaces everything by what another target exported.
   * @throws NvmeofError NVMEOF_ERR_RESERVATION_IMAGE if it is malformed; NVMEOF_ERR_STATE_STORE if it persists through power loss and cannot be kept here
   */
  async import(image: unknown): Promise<void> {
    const state = reservationState(image, `Reservations of ${this.#name}`);
    if (state.persistent && !this.canPersist) {
      throw new NvmeofError(
        'NVMEOF_ERR_STATE_STORE',
        `Reservations of ${this.#name} persist through power loss: this target needs a state directory`,
      );
    }
    await this.#replace(() => state);
  }

  /** Why `adopt` cannot be, or undefined. @param type that the host holds; 0: nothing */
  adoptable(host: HostKey, registered: boolean, type: number): string | undefined {
    return adoptionProblem(this.#state, host, registered, type);
  }

  /**
   * The host has here what it had at another target; other hosts keep what they have.
   * @returns what undoes it
   * @throws NvmeofError NVMEOF_ERR_STATE_STORE, NVMEOF_ERR_RESERVATION_IMAGE: nothing has changed
   */
  async adopt(host: HostKey, holding: HostHolding): Promise<() => Promise<void>> {
    const before = this.#state;
    const problem = adoptionProblem(before, host, holding.key !== undefined, holding.type);
    if (problem !== undefined) {
      throw new NvmeofError('NVMEOF_ERR_RESERVATION_IMAGE', `Reservations of ${this.#name}: ${problem}`);
    }
    await this.#replace((state) => adopted(state, host, holding));
    return () => this.#replace(() => before);
  }

  async #replace(next: (state: ReservationState) => ReservationState): Promise<void> {
    const { status } = await new Promise<ReservationOutcome>((resolve) =>
      this.#change((state) => ({ status: Status.Success, state: next(state), notices: [], preempted: [] }), resolve),
    );
    if (status === Status.Success) return;
    throw new NvmeofError('NVMEOF_ERR_STATE_STORE', `Reservations of ${this.#name} could not be saved`);
  }

  /** The namespace is deleted: nothing of it is kept. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  async forget(): Promise<void> {
    this.#forgotten = true;
    await this.#owner.store?.save(this.#name, undefined);
  }

  #change(apply: Change['apply'], done: Change['done']): void {
    this.#waiting.push({ apply, done });
    if (!this.#saving) this.#next();
  }

  #next(): void {
    while (!this.#saving && this.#waiting.length > 0) this.#run(this.#waiting.shift()!);
  }

  #run({ apply, done }: Change): void {
    const before = this.#state;
    const outcome = apply(before);
    const { state } = outcome;
    const { store } = this.#owner;
    if (state === before || store === undefined || this.#forgotten || !(before.persistent || state.persistent)) {
      this.#install(outcome, done);
      return;
    }
    this.#saving = true;
    store.save(this.#name, state.persistent ? reservationImage(state) : undefined).then(
      () => {
        this.#saving = false;
        this.#install(outcome, done);
        this.#next();
      },
      (error: unknown) => {
        this.#saving = false;
        this.#owner.notSaved(error);
        done({ status: Status.InternalError, state: before, notices: [], preempted: [] });
        this.#next();
      },
    );
  }

  #install(outcome: ReservationOutcome, done: Change['done']): void {
    const isNew = outcome.state !== this.#state;
    this.#state = outcome.state;
    if (isNew) this.#owner.changed(outcome);
    done(outcome);
  }
}

/** A name for the store: by what the namespace is, not by where it stands. @param uuid 16 bytes */
export function reservationsName(subnqn: string, uuid: Uint8Array): string {
  const subsystem = createHash('sha256').update(subnqn).digest('hex').slice(0, 8);
  return `reservations-${Buffer.from(uuid).toString('hex')}-${subsystem}`;
}

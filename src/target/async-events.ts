/**
 * Asynchronous events of one controller: the AERs the host left with us, what is enabled, what waits, what is masked until its log page is
 * read. Base 2.1 section 5.1.2.
 */
import { AsyncEventType, IoCommandSetEvent, LogPage } from '../spec/log-page.ts';
import { EventState, type StateEvent } from '../wire/cold/state-blocks.ts';
import type { Request } from './request.ts';

/** AERL + 1: commands that may be outstanding. */
export const AER_LIMIT = 4;
/** Events kept while the host has no AER outstanding; more are dropped, oldest first (they merge by log page, so this is never met). */
const PENDING_MAX = 16;
/** Types have 3 bits. */
export const EVENT_TYPE_MAX = 7;

interface AsyncEvent {
  readonly type: number;
  readonly info: number;
  readonly lid: number;
  /** DW1. Absent: 0. */
  readonly result1?: number;
}

export class AsyncEvents {
  /** Feature 0Bh. */
  configuration = 0;
  #frozen = false;
  readonly #requests: Request[] = [];
  readonly #pending: AsyncEvent[] = [];
  /** Event types reported whose log page was not read since, and which page that is: no other event of the type is sent meanwhile. */
  readonly #masked = new Map<number, number>();

  /** An AER arrived. @returns false if there are too many */
  add(request: Request): boolean {
    if (this.#requests.length >= AER_LIMIT) return false;
    this.#requests.push(request);
    this.#deliver();
    return true;
  }

  /** Takes an AER back (Abort). */
  remove(request: Request): boolean {
    const index = this.#requests.indexOf(request);
    if (index < 0) return false;
    this.#requests.splice(index, 1);
    return true;
  }

  /** A notice whose bit of feature 0Bh is set. @param bit position of its enable bit */
  notice(info: number, lid: number, bit: number): void {
    if ((this.configuration & bit) === 0) return;
    this.#report({ type: AsyncEventType.Notice, info, lid });
  }

  /** A One-Shot event: no log page clears it, nothing masks it. @param value DW1: what it is about */
  oneShot(info: number, value: number): void {
    this.#report({ type: AsyncEventType.OneShot, info, lid: 0, result1: value });
  }

  /** A One-Shot event that was not reported yet is void. */
  dropOneShot(info: number, value: number): void {
    const at = this.#pending.findIndex(
      (event) => event.type === AsyncEventType.OneShot && event.info === info && event.result1 === value,
    );
    if (at >= 0) this.#pending.splice(at, 1);
  }

  /** While frozen, events wait and AERs stay with us. */
  setFrozen(frozen: boolean): void {
    this.#frozen = frozen;
    this.#deliver();
  }

  /** Reservation notices wait in log page 80h. Feature 82h has the say, not 0Bh. */
  reservation(): void {
    this.#report({
      type: AsyncEventType.IoCommandSet,
      info: IoCommandSetEvent.ReservationLogAvailable,
      lid: LogPage.ReservationNotification,
    });
  }

  /** An event of a type that has no enable bit. @param type AsyncEventType */
  report(type: number, info: number, lid: number): void {
    this.#report({ type, info, lid });
  }

  #report(event: AsyncEvent): void {
    const { type, info, result1 } = event;
    if (this.#pending.some((other) => other.type === type && other.info === info && other.result1 === result1)) return;
    this.#pending.push(event);
    if (this.#pending.length > PENDING_MAX) this.#pending.shift();
    this.#deliver();
  }

  /** The host read a log page with RAE 0: what was reported of it is clear, what waited for it is void. */
  logRead(lid: number): void {
    for (const [type, maskedLid] of this.#masked) if (maskedLid === lid) this.#masked.delete(type);
    for (let i = this.#pending.length - 1; i >= 0; i--) if (this.#pending[i]!.lid === lid) this.#pending.splice(i, 1);
    this.#deliver();
  }

  #deliver(): void {
    if (this.#frozen) return;
    for (let i = 0; i < this.#pending.length && this.#requests.length > 0; ) {
      const event = this.#pending[i]!;
      if (this.#masked.has(event.type)) {
        i++;
        continue;
      }
      this.#pending.splice(i, 1);
      if (event.type !== AsyncEventType.OneShot) this.#masked.set(event.type, event.lid);
      const request = this.#requests.shift()!;
      request.result0 = event.type | (event.info << 8) | (event.lid << 16);
      request.result1 = event.result1 ?? 0;
      request.complete(0);
    }
  }

  /** AERs that the host left with us. */
  get outstanding(): readonly Request[] {
    return this.#requests;
  }

  /** What waits, in order, then what was reported and not cleared since. */
  export(): StateEvent[] {
    const waiting = this.#pending.map(({ type, info, lid, result1 = 0 }) => ({
      type,
      info,
      lid,
      state: EventState.Waiting,
      result1,
    }));
    const reported = [...this.#masked].map(([type, lid]) => ({
      type,
      info: 0,
      lid,
      state: EventState.Reported,
      result1: 0,
    }));
    return [...waiting, ...reported];
  }

  /** As `export` gave it, of another controller; instead of all that is here. AERs stay: they are this controller's. */
  import(events: readonly StateEvent[]): void {
    this.#pending.length = 0;
    this.#masked.clear();
    for (const { type, info, lid, state, result1 } of events) {
      if (state === EventState.Reported) this.#masked.set(type, lid);
      else this.#pending.push({ type, info, lid, result1 });
    }
    this.#pending.splice(PENDING_MAX);
    this.#deliver();
  }

  /** Controller reset: AERs vanish without an answer. @returns them, for the owner to release */
  reset(): Request[] {
    this.#pending.length = 0;
    this.#masked.clear();
    this.configuration = 0;
    return this.#requests.splice(0);
  }
}

/** Log pages whose reading clears an event. */
export const EVENT_LOG_PAGES: readonly number[] = [
  LogPage.ErrorInformation,
  LogPage.SmartHealth,
  LogPage.FirmwareSlot,
  LogPage.ChangedNamespaces,
  LogPage.Ana,
  LogPage.ChangedAllocatedNamespaces,
  LogPage.SanitizeStatus,
  LogPage.Discovery,
  LogPage.ReservationNotification,
];

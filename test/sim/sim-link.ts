/**
 * A manager's connection to a target: requests and answers take time, may be lost with the connection, or wait behind a stall. Commands fail when
 * their connection does; whether they had their effect is not known then. The next command goes over a new connection.
 */
import { TransportError } from '../../src/util/error.ts';
import type { Network } from './network.ts';
import type { Orchestrator } from './orchestrator-process.ts';
import type { Session, SimTarget } from './sim-target.ts';

/** From the loss of a connection until the initiator gives up making it again. */
const LOSS_TIMEOUT_MS = 400;
/** The target finds out about a silent connection. */
const KEEP_ALIVE_MS = 80;
const RECONNECT_MS = 5;

export const lost = (what: string, target: SimTarget): TransportError =>
  new TransportError('NVMEOF_ERR_LOST', `${what}: the connection to the ${target.name} is lost`);

export class SimLink {
  readonly #process: Orchestrator;
  readonly #network: Network;
  readonly #target: SimTarget;
  #session: Session | undefined;
  /** Connections so far: what belongs to an older one fails. */
  #generation = 0;
  readonly #onBreak = new Set<() => void>();
  /** When the connection was made: a stall of before is of another way. */
  #bornMs = 0;
  #isClosed = false;
  readonly #forget: () => void;

  constructor(process: Orchestrator, network: Network, target: SimTarget) {
    this.#process = process;
    this.#network = network;
    this.#target = target;
    process.life.sockets.add({ kill: () => this.close() });
    this.#forget = target.onEnd(() => this.breakNow());
  }

  get process(): Orchestrator {
    return this.#process;
  }

  get target(): SimTarget {
    return this.#target;
  }

  /** The connection is over at this end; the target knows at once, or by its keep alive. */
  breakNow(): void {
    const session = this.#session;
    this.#session = undefined;
    this.#generation++;
    if (session !== undefined && !session.isOver) {
      const { clock, random } = this.#target;
      if (random.oneIn(2)) this.#target.end(session);
      else clock.setTimer(() => this.#target.end(session), 1 + random.below(KEEP_ALIVE_MS));
    }
    for (const callback of [...this.#onBreak]) callback();
  }

  close(): void {
    this.#isClosed = true;
    this.#forget();
    this.breakNow();
  }

  async #connected(what: string): Promise<Session> {
    const { clock } = this.#target;
    const giveUpMs = clock.nowMs() + LOSS_TIMEOUT_MS;
    while (this.#session === undefined) {
      if (this.#isClosed) throw lost(what, this.#target);
      await this.#process.alive(clock.delay(RECONNECT_MS));
      if (this.#target.isUp && !this.#network.isCut(this.#target.name)) {
        if (this.#session === undefined) this.#bornMs = clock.nowMs();
        this.#session ??= this.#target.connect();
      } else if (clock.nowMs() >= giveUpMs) throw lost(what, this.#target);
    }
    return this.#session;
  }

  /** A command: counted as a step, so that faults can meet it. @param generation it goes over that connection or fails */
  async command<T>(what: string, act: (session: Session) => T | Promise<T>, generation?: number): Promise<T> {
    return this.#process.step(`${this.#target.name}: ${what}`, () =>
      generation === undefined ? this.#once(what, act) : this.bound(generation, what, act),
    );
  }

  /** Connections so far. */
  get generation(): number {
    return this.#generation;
  }

  /** Reads, writes: over the connection that was there when `generation` was; they fail with it. */
  async bound<T>(generation: number, what: string, act: (session: Session) => T | Promise<T>): Promise<T> {
    if (generation !== this.#generation) {
      await this.#process.alive(this.#target.clock.delay(0));
      throw lost(what, this.#target);
    }
    return this.#once(what, act);
  }

  async #once<T>(what: string, act: (session: Session) => T | Promise<T>): Promise<T> {
    const process = this.#process;
    const session = await this.#connected(what);
    if (session !== this.#session) throw lost(what, this.#target);
    const generation = this.#generation;
    let onBreak = (): void => {};
    const broken = new Promise<never>((_, reject) => {
      onBreak = (): void => reject(lost(what, this.#target));
      this.#onBreak.add(onBreak);
    });
    const answer = this.#exchange(session, generation, act);
    answer.catch(() => {});
    try {
      return await process.alive(Promise.race([answer, broken]));
    } finally {
      this.#onBreak.delete(onBreak);
    }
  }

  async #exchange<T>(session: Session, generation: number, act: (session: Session) => T | Promise<T>): Promise<T> {
    const { random } = this.#target;
    const bornMs = this.#bornMs;
    await this.#travel(bornMs);
    // what is on its way when a connection breaks may arrive all the same
    const arrives = !session.isOver && this.#target.isUp && (generation === this.#generation || random.oneIn(2));
    if (!arrives) return new Promise<never>(() => {});
    const result = await act(session);
    await this.#travel(bornMs);
    if (generation !== this.#generation) return new Promise<never>(() => {});
    return result;
  }

  async #travel(bornMs: number): Promise<void> {
    const { clock, random, name } = this.#target;
    const network = this.#network;
    await clock.delay(0.05 + random.below(20) / 100);
    for (let ms = network.stallMs(name, bornMs); ms > 0; ms = network.stallMs(name, bornMs)) await clock.delay(ms);
  }
}

/**
 * Connections to the NVM subsystems that discovery names: one per place, made when an entry comes, closed when the last entry of the place goes,
 * tried again while it fails. The part of nvme-stas' stacd, and of `nvme connect-all`.
 */
import { EventEmitter } from 'node:events';
import { type Clock, systemClock, type Timer } from '../util/clock.ts';
import { type DiscoveryLogEntry, SubsystemType, TransportType } from '../wire/cold/discovery-log.ts';
import { HostController } from './controller.ts';
import { entryAddress } from './discovery.ts';
import type { HostOptions } from './options.ts';

/** Where a subsystem is reached. @public */
export interface SubsystemPlace {
  readonly subnqn: string;
  readonly address: string;
  readonly port: number;
}

/** @public */
export interface DiscoveredControllersEvents {
  connected: [place: SubsystemPlace, controller: HostController];
  /** It will be tried again after the reconnect delay. */
  failed: [place: SubsystemPlace, error: Error];
  /** The place is no longer named, or its controller was given up. */
  disconnected: [place: SubsystemPlace];
}

/** The place of an NVM subsystem on TCP, or undefined for any other entry. @public */
export function subsystemPlace(entry: DiscoveryLogEntry): SubsystemPlace | undefined {
  const at = entryAddress(entry);
  if (entry.subtype !== SubsystemType.Nvm || entry.trtype !== TransportType.Tcp || at === undefined) return undefined;
  return { subnqn: entry.subnqn, ...at };
}

const RETRY_MS_DEFAULT = 10_000;

interface Connection {
  readonly place: SubsystemPlace;
  /** How many entries name it. */
  uses: number;
  controller?: HostController;
  retry?: Timer;
  readonly abort: AbortController;
  work: Promise<void>;
}

/** @public */
export class DiscoveredControllers extends EventEmitter<DiscoveredControllersEvents> {
  readonly #options: Omit<HostOptions, 'address' | 'port' | 'subnqn'>;
  readonly #clock: Clock;
  readonly #connections = new Map<string, Connection>();
  /** Ends of connections that are no longer in the map. */
  readonly #endings = new Set<Promise<void>>();
  #closed = false;

  /** @param options for every connection */
  constructor(options: Omit<HostOptions, 'address' | 'port' | 'subnqn'>) {
    super();
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** An entry is there: connects unless that is done. */
  add(place: SubsystemPlace): void {
    if (this.#closed) return;
    const key = JSON.stringify(place);
    const known = this.#connections.get(key);
    if (known !== undefined) {
      known.uses++;
      return;
    }
    const connection: Connection = { place, uses: 1, abort: new AbortController(), work: Promise.resolve() };
    this.#connections.set(key, connection);
    connection.work = this.#connect(connection);
  }

  /** An entry is gone: disconnects with the last one. */
  remove(place: SubsystemPlace): void {
    const key = JSON.stringify(place);
    const connection = this.#connections.get(key);
    if (connection === undefined || --connection.uses > 0) return;
    this.#connections.delete(key);
    const ending = this.#end(connection).then(() => {
      this.#endings.delete(ending);
      if (!this.#closed) this.emit('disconnected', place);
    });
    this.#endings.add(ending);
  }

  async #connect(connection: Connection): Promise<void> {
    const { place, abort } = connection;
    try {
      const controller = await HostController.connect({ ...this.#options, ...place, signal: abort.signal });
      connection.controller = controller;
      controller.on('state', (state) => {
        if (state === 'dead' && !abort.signal.aborted) this.#again(connection, undefined);
      });
      if (!abort.signal.aborted) this.emit('connected', place, controller);
    } catch (error) {
      if (abort.signal.aborted) return;
      this.#again(connection, error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** @param error why it failed; undefined: a controller that was connected was given up */
  #again(connection: Connection, error: Error | undefined): void {
    delete connection.controller;
    const delayMs = this.#options.reconnectDelayMs ?? RETRY_MS_DEFAULT;
    connection.retry = this.#clock.setTimer(() => {
      connection.work = this.#connect(connection);
    }, delayMs);
    if (error === undefined) this.emit('disconnected', connection.place);
    else this.emit('failed', connection.place, error);
  }

  async #end(connection: Connection): Promise<void> {
    connection.abort.abort();
    connection.retry?.cancel();
    await connection.work;
    await connection.controller?.close();
  }

  /** Disconnects from all; no event follows. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    const all = [...this.#connections.values()];
    this.#connections.clear();
    await Promise.all([...all.map((connection) => this.#end(connection)), ...this.#endings]);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

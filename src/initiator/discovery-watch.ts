/**
 * Stays connected to a Discovery controller, and to those that it refers to, and tells what comes and goes: the part of nvme-stas' stafd.
 * Base 2.1 section 3.1.3.3.
 */
import { EventEmitter } from 'node:events';
import { DISCOVERY_PORT } from '../spec/nqn.ts';
import { type DiscoveryLog, type DiscoveryLogEntry, SubsystemType, TransportType } from '../wire/cold/discovery-log.ts';
import { DiscoveryController, type DiscoveryOptions, entryAddress } from './discovery.ts';

/** Where a Discovery controller is. @public */
export interface DiscoverySource {
  readonly address: string;
  readonly port: number;
}

/** @public */
export interface DiscoveryWatchEvents {
  /** A log was read for the first time, or again after a change; only what differs is in `added` and `removed`. */
  log: [
    source: DiscoverySource,
    log: DiscoveryLog,
    added: readonly DiscoveryLogEntry[],
    removed: readonly DiscoveryLogEntry[],
  ];
  /** A Discovery controller cannot be reached, or its log not be read; it stays watched if it was ever connected. */
  failed: [source: DiscoverySource, error: Error];
  /** The connection was lost (its entries stay valid meanwhile), and made again. */
  lost: [source: DiscoverySource, error: Error];
  restored: [source: DiscoverySource];
  /** It is no longer watched: the referral to it is gone, or it was given up. Its entries came as `removed` before. */
  ended: [source: DiscoverySource];
}

/** @public */
export interface DiscoveryWatchOptions {
  /** Watch what referrals lead to as well. */
  readonly followReferrals?: boolean | undefined;
}

const WATCHED_MAX = 64;

interface Watched {
  readonly source: DiscoverySource;
  readonly discovery: DiscoveryController | undefined;
  entries: Map<string, DiscoveryLogEntry>;
}

/** Tells two entries apart, as far as it matters for connecting. */
function keyOf(entry: DiscoveryLogEntry): string {
  const { trtype, subtype, subnqn, traddr, trsvcid, portid } = entry;
  return JSON.stringify([trtype, subtype, subnqn, traddr, trsvcid, portid]);
}

/** @public */
export class DiscoveryWatch extends EventEmitter<DiscoveryWatchEvents> {
  readonly #follow: boolean;
  readonly #watched = new Map<string, Watched>();
  readonly #abort = new AbortController();
  #closing: Promise<void> | undefined;

  constructor(options: DiscoveryWatchOptions = {}) {
    super();
    this.#follow = options.followReferrals ?? false;
  }

  /** Watches another Discovery controller; returns when its log was read once. @throws what connecting or reading throws */
  async add(options: DiscoveryOptions): Promise<void> {
    const source = { address: options.address, port: options.port ?? DISCOVERY_PORT };
    const key = sourceKey(source);
    if (this.#watched.has(key) || this.#watched.size >= WATCHED_MAX) return;
    this.#watched.set(key, { source, discovery: undefined, entries: new Map() });
    let discovery: DiscoveryController | undefined;
    try {
      const signal =
        options.signal === undefined ? this.#abort.signal : AbortSignal.any([options.signal, this.#abort.signal]);
      discovery = await DiscoveryController.connectPersistent({ ...options, signal });
      await this.#watch(source, discovery, options);
    } catch (error) {
      this.#watched.delete(key);
      await discovery?.close();
      throw error;
    }
  }

  async #watch(source: DiscoverySource, discovery: DiscoveryController, options: DiscoveryOptions): Promise<void> {
    const key = sourceKey(source);
    const watched: Watched = { source, discovery, entries: new Map() };
    if (this.#closing !== undefined || !this.#watched.has(key)) {
      await discovery.close(); // taken away while it was connecting
      return;
    }
    this.#watched.set(key, watched);
    discovery.on('change', (log) => this.#read(watched, log, options));
    discovery.on('readFailed', (error) => this.emit('failed', source, error));
    let wasLost = false;
    discovery.controller.on('lost', (error) => {
      wasLost = true;
      this.emit('lost', source, error);
    });
    discovery.controller.on('state', (state) => {
      if (state === 'live' && wasLost) this.emit('restored', source);
      if (state === 'dead' && this.#watched.get(key) === watched) void this.#drop(watched);
    });
    this.#read(watched, await discovery.readLog(), options);
  }

  #read(watched: Watched, log: DiscoveryLog, options: DiscoveryOptions): void {
    if (this.#watched.get(sourceKey(watched.source)) !== watched) return;
    const before = watched.entries;
    const after = new Map(log.entries.map((entry) => [keyOf(entry), entry]));
    watched.entries = after;
    const added = [...after].filter(([key]) => !before.has(key)).map(([, entry]) => entry);
    const removed = [...before].filter(([key]) => !after.has(key)).map(([, entry]) => entry);
    this.emit('log', watched.source, log, added, removed);
    if (!this.#follow) return;
    for (const entry of removed) this.#dropReferral(entry);
    for (const entry of added) this.#addReferral(entry, options);
  }

  #addReferral(entry: DiscoveryLogEntry, { subnqn: _, ...options }: DiscoveryOptions): void {
    const at = referral(entry);
    if (at === undefined) return;
    this.add({ ...options, ...at, subnqn: entry.subnqn }).catch((error: Error) => {
      if (this.#closing === undefined) this.emit('failed', at, error);
    });
  }

  #dropReferral(entry: DiscoveryLogEntry): void {
    const at = referral(entry);
    if (at === undefined) return;
    const named = [...this.#watched.values()].some(({ entries }) =>
      [...entries.values()].some((other) => {
        const there = referral(other);
        return there !== undefined && sourceKey(there) === sourceKey(at);
      }),
    );
    const watched = this.#watched.get(sourceKey(at));
    if (!named && watched !== undefined) void this.#drop(watched);
  }

  async #drop(watched: Watched): Promise<void> {
    this.#watched.delete(sourceKey(watched.source));
    const removed = [...watched.entries.values()];
    watched.entries = new Map();
    await watched.discovery?.close();
    if (this.#closing !== undefined) return;
    if (this.#follow) for (const entry of removed) this.#dropReferral(entry);
    const empty = { genctr: 0n, numrec: 0n, recfmt: 0, dlpf: 0, tdlpl: 0, entries: [] };
    if (removed.length > 0) this.emit('log', watched.source, empty, [], removed);
    this.emit('ended', watched.source);
  }

  /** The Discovery controllers that are watched now. */
  get sources(): DiscoverySource[] {
    return [...this.#watched.values()].map(({ source }) => source);
  }

  /** Disconnects from all; no event follows. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#abort.abort();
      const all = [...this.#watched.values()];
      this.#watched.clear();
      await Promise.all(all.map(({ discovery }) => discovery?.close()));
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

const sourceKey = ({ address, port }: DiscoverySource): string => `${address} ${port}`;

function referral(entry: DiscoveryLogEntry): DiscoverySource | undefined {
  if (entry.subtype !== SubsystemType.Referral || entry.trtype !== TransportType.Tcp) return undefined;
  return entryAddress(entry);
}

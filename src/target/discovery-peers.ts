/** Other targets that a subsystem is reached at, as managers of live migration have announced them (feature CCh). Kept in the state store. */
import { isIPv4, isIPv6 } from 'node:net';
import { isDeepStrictEqual } from 'node:util';
import { NvmeofError } from '../util/error.ts';
import { AddressFamily, type DiscoveryLogEntry, SubsystemType, TransportType } from '../wire/cold/discovery-log.ts';
import type { StateStore } from './state-store.ts';

/** Peers of one subsystem. */
export const PEERS_MAX = 16;

/** The fields of an entry that say something of TCP. */
const KEPT = ['adrfam', 'treq', 'portid', 'cntlid', 'asqsz', 'eflags', 'trsvcid', 'traddr', 'sectype'] as const;

/** @internal */
export type Peer = Pick<DiscoveryLogEntry, (typeof KEPT)[number]>;

interface Saved {
  readonly version: 1;
  readonly peers: readonly Peer[];
}

const samePlace = (one: Peer, other: Peer): boolean => one.traddr === other.traddr && one.trsvcid === other.trsvcid;

/** What of an entry cannot be announced for that subsystem: the byte at which the field is, or undefined. */
export function peerFault(entry: DiscoveryLogEntry, subnqn: string): number | undefined {
  if (entry.trtype !== TransportType.Tcp) return 0;
  const fits = entry.adrfam === AddressFamily.Ipv4 ? isIPv4(entry.traddr) : isIPv6(entry.traddr);
  if (entry.adrfam !== AddressFamily.Ipv4 && entry.adrfam !== AddressFamily.Ipv6) return 1;
  if (entry.subtype !== SubsystemType.Nvm) return 2;
  const service = /^\d{1,5}$/.test(entry.trsvcid) ? Number(entry.trsvcid) : 0;
  if (service < 1 || service > 0xffff) return 32;
  if (entry.subnqn !== subnqn) return 256;
  return fits ? undefined : 512;
}

export class DiscoveryPeers {
  readonly #store: StateStore | undefined;
  readonly #name: string;
  #peers: readonly Peer[] = [];
  /** The change before is done. */
  #settled: Promise<unknown> = Promise.resolve();

  /** @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  constructor(store: StateStore | undefined, subnqn: string) {
    this.#store = store;
    this.#name = `${subnqn}.peers`;
    const saved = store?.load(this.#name) as Partial<Saved> | undefined;
    if (saved === undefined) return;
    if (saved.version !== 1 || !Array.isArray(saved.peers)) {
      throw new NvmeofError(
        'NVMEOF_ERR_STATE_STORE',
        `State ${this.#name} is not what this version saves: restore it, or remove it to start without peers`,
      );
    }
    this.#peers = saved.peers;
  }

  get all(): readonly Peer[] {
    return this.#peers;
  }

  /** What is so already changes nothing (`all` stays the same object). @returns false: there are too many. It is kept when this resolves. @throws NvmeofError NVMEOF_ERR_STATE_STORE: nothing has changed */
  change(entry: DiscoveryLogEntry, isThere: boolean): Promise<boolean> {
    const peer = Object.fromEntries(KEPT.map((key) => [key, entry[key]])) as Peer;
    const done = this.#settled.then(() => this.#change(peer, isThere));
    this.#settled = done.catch(() => {});
    return done;
  }

  async #change(peer: Peer, isThere: boolean): Promise<boolean> {
    const found = this.#peers.find((other) => samePlace(other, peer));
    if (isThere ? isDeepStrictEqual(found, peer) : found === undefined) return true;
    const others = this.#peers.filter((other) => !samePlace(other, peer));
    if (isThere && others.length >= PEERS_MAX) return false;
    const peers = isThere ? [...others, peer] : others;
    const value: Saved = { version: 1, peers };
    await this.#store?.save(this.#name, peers.length === 0 ? undefined : value);
    this.#peers = peers;
    return true;
  }
}

/** A host on the network, as the product's own initiator is one: paths to both targets, commands over one that is accessible. */
import { MultipathSubsystem } from '../../src/initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../src/initiator/namespace.ts';
import type { HostOptions } from '../../src/initiator/options.ts';
import { ChangePersistence, ReservationType } from '../../src/spec/reservation.ts';
import { NvmeStatusError } from '../../src/util/error.ts';
import { ADDRESSES, type CoreTarget, HOST_NQN, SUBNQN } from './core-target.ts';
import { Life } from './life.ts';
import type { Party } from './scenario.ts';
import { BLOCK_SIZE, valuesIn } from './sim-disk.ts';
import type { HostAnswer, HostCommand } from './sim-host-io.ts';
import type { SimNet } from './sim-net.ts';

const HOST_ID = '5a5a5a5a-5a5a-4a5a-8a5a-5a5a5a5a5a5a';
const KATO_MS = 500;
const RECONNECT_MS = 5;
const KEY = 0x5eedn;

/** `CoreHost.reservation` of one that reserves. */
export const RESERVED = `${ReservationType.WriteExclusive}: 1 ${KEY}`;

export class CoreHost {
  readonly #net: SimNet;
  readonly #life: Life;
  readonly #source: CoreTarget;
  readonly #knowsAll: boolean;
  #subsystem: MultipathSubsystem | undefined;
  readonly #namespaces = new Map<number, HostNamespace>();

  /** @param knowsAll connects to both at once; otherwise to the destination when the source's discovery names it */
  constructor(net: SimNet, source: CoreTarget, knowsAll: boolean) {
    this.#net = net;
    this.#life = new Life(net.clock);
    this.#source = source;
    this.#knowsAll = knowsAll;
  }

  #path(party: Party): HostOptions {
    return {
      address: ADDRESSES[party],
      subnqn: SUBNQN,
      hostnqn: HOST_NQN,
      hostid: HOST_ID,
      queueSize: 12,
      katoMs: KATO_MS,
      reconnectDelayMs: RECONNECT_MS,
      ctrlLossTimeoutMs: Number.POSITIVE_INFINITY,
      clock: this.#life.clock,
      connectSocket: this.#net.connector(this.#life, (to) => `${to} hosts`),
    };
  }

  async start(nsids: readonly number[], reserves: boolean): Promise<void> {
    const paths = (this.#knowsAll ? (['source', 'destination'] as const) : (['source'] as const)).map((party) =>
      this.#path(party),
    );
    this.#subsystem = await MultipathSubsystem.connect({ paths, noPathTimeoutMs: 60_000 });
    for (const nsid of nsids) {
      const namespace = await this.#subsystem.namespace(nsid);
      this.#namespaces.set(nsid, namespace);
      if (!reserves) continue;
      await namespace.reservationRegister({ newKey: KEY, persistence: ChangePersistence.Set });
      await namespace.reservationAcquire({ currentKey: KEY, type: ReservationType.WriteExclusive });
    }
    if (!this.#knowsAll) void this.#look();
  }

  /** Until discovery names another path. */
  async #look(): Promise<void> {
    while (!this.#source.isUp || this.#source.process.subsystem.peers.all.length === 0) await this.#life.delay(3);
    await this.#subsystem!.addPath(this.#path('destination'));
  }

  /** What it has reserved, as the controllers say. */
  async reservation(nsid: number): Promise<string> {
    const { rtype, registrants } = await this.#namespaces.get(nsid)!.reservationReport({ extended: true });
    const mine = registrants.map(({ rcsts, rkey }) => `${rcsts} ${rkey}`);
    return rtype === 0 && mine.length === 0 ? '' : `${rtype}: ${mine.join()}`;
  }

  async submit(command: HostCommand): Promise<HostAnswer> {
    try {
      return { status: 0, values: await this.#run(command) };
    } catch (error) {
      if (error instanceof NvmeStatusError) return { status: error.status, values: [] };
      throw error;
    }
  }

  async #run({ opcode, nsid, slba, blockCount, value, fua }: HostCommand): Promise<readonly number[]> {
    const namespace = this.#namespaces.get(nsid)!;
    switch (opcode) {
      case 'read':
        return valuesIn(await namespace.read(slba, blockCount));
      case 'write':
        await namespace.write(slba, blocksOf(value, blockCount), { fua });
        return [];
      case 'deallocate':
        await namespace.writeZeroes(slba, blockCount, { deallocate: true });
        return [];
      default:
        await namespace.flush();
        return [];
    }
  }
}

/** Blocks that hold a value throughout. */
export function blocksOf(value: number, blockCount: number): Uint8Array {
  return new Uint8Array(new Uint32Array((blockCount * BLOCK_SIZE) / 4).fill(value).buffer);
}

/**
 * A target's process: the real core, with its TCP transport over connections in virtual time. Its disks and what its state store has synced outlive
 * it; all else is made anew when it is started again.
 */

import type { BlockIo } from '../../src/backend/block-backend.ts';
import { savedFence } from '../../src/target/fence.ts';
import type { Namespace, NamespaceIo } from '../../src/target/namespace.ts';
import { Port } from '../../src/target/port.ts';
import type { Subsystem } from '../../src/target/subsystem.ts';
import { Target } from '../../src/target/target.ts';
import type { PciFunction } from '../../src/transport/pcie/pci-function.ts';
import { TCP_TARGET_DEFAULTS } from '../../src/transport/tcp/target-link.ts';
import type { Random } from '../support/random.ts';
import { Life } from './life.ts';
import type { Party } from './scenario.ts';
import { SimBackend } from './sim-backend.ts';
import type { SimClock } from './sim-clock.ts';
import { BLOCK_SIZE, type SimDisk } from './sim-disk.ts';
import type { SimNet } from './sim-net.ts';
import { SimStateStore } from './sim-state-store.ts';

export const SUBNQN = 'nqn.2026-01.io.nvmeferry:sim';
export const MANAGER_NQN = 'nqn.2026-01.io.nvmeferry:manager';
export const HOST_NQN = 'nqn.2026-01.io.nvmeferry:host';
export const ADDRESSES: Readonly<Record<Party, string>> = { source: '192.0.2.1', destination: '192.0.2.2' };
const DISCOVERY_NQNS: Readonly<Record<Party, string>> = {
  source: 'nqn.2026-01.io.nvmeferry:discovery-a',
  destination: 'nqn.2026-01.io.nvmeferry:discovery-b',
};
const VECTORS = 3;
/** Blocks. */
const GROWTH = 16;

export interface CoreTargetEvents {
  /** A command of a host or guest takes effect. */
  effect(party: Party, io: BlockIo, opcode: 'read' | 'write' | 'deallocate', nsid: number): void;
  /** The core gave up a controller because of a bug of its own. */
  failed(error: unknown): void;
}

interface Volume {
  readonly disk: SimDisk;
  /** At its first start. */
  readonly isOpen: boolean;
  readonly isOwn: boolean;
}

/** What stands in the memory of one life. */
interface Process {
  readonly life: Life;
  readonly target: Target;
  readonly subsystem: Subsystem;
  readonly function: PciFunction | undefined;
}

export class CoreTarget {
  readonly party: Party;
  readonly volumes: Map<number, Volume> = new Map();
  /** Of a controller behind PCIe; undefined: it has none. */
  cntlid: number | undefined;
  readonly #kept = new Map<string, string>();
  readonly #clock: SimClock;
  readonly #random: Random;
  readonly #events: CoreTargetEvents;
  readonly #net: SimNet;
  #process: Process | undefined;
  readonly onStart: Set<() => void> = new Set();
  readonly onEnd: Set<() => void> = new Set();

  constructor(party: Party, net: SimNet, events: CoreTargetEvents) {
    this.party = party;
    this.#clock = net.clock;
    this.#random = net.random;
    this.#net = net;
    this.#events = events;
  }

  get isUp(): boolean {
    return this.#process !== undefined;
  }

  get process(): Process {
    if (this.#process === undefined) throw new Error(`The ${this.party} is down`);
    return this.#process;
  }

  namespace(nsid: number): Namespace {
    return this.process.subsystem.namespaces[nsid]!;
  }

  /** After a restart it would be closed. */
  willBeClosed(nsid: number): boolean {
    const store = new SimStateStore(this.#kept, new Life(this.#clock));
    return savedFence(store, SUBNQN, this.namespace(nsid).uuid, !this.volumes.get(nsid)!.isOpen).isClosed;
  }

  start(): void {
    if (this.#process !== undefined) return;
    const life = new Life(this.#clock);
    const { clock } = life;
    const target = new Target({
      clock,
      state: new SimStateStore(this.#kept, life),
      discoveryNqn: DISCOVERY_NQNS[this.party],
      events: { fatal: (_controller, error) => this.#events.failed(error) },
    });
    const subsystem = target.addSubsystem({
      nqn: SUBNQN,
      allowAnyHost: true,
      serial: 'SIM',
      cntlidMin: 0x100,
      migration: { managers: { hosts: [MANAGER_NQN] }, nonce: () => BigInt(this.#random.below(2 ** 31)) },
      ...(this.cntlid === undefined ? {} : { cntlidMin: 1, cntlidFirst: 0x100 }),
    });
    for (const [nsid, { disk, isOpen }] of this.volumes) {
      const backend = new SimBackend(disk, life, this.#random, {
        effect: (io, opcode) => this.#events.effect(this.party, io, opcode, nsid),
        minds: isOfManager,
      });
      target.addNamespace(subsystem, { nsid, backend, uuid: uuidOf(nsid), closed: !isOpen });
    }
    const port = new Port(
      { portId: 1, address: ADDRESSES[this.party], service: 4420, subsystems: ['*'], queueEntriesMax: 64 },
      TCP_TARGET_DEFAULTS,
      {
        clock,
        pool: target.pool,
        discovery: target.discovery,
        subsystem: (nqn) => target.subsystem(nqn),
        connectionClosed: () => {},
      },
    );
    const pci =
      this.cntlid === undefined
        ? undefined
        : target.addFunction(subsystem, { cntlid: this.cntlid, vectorCount: VECTORS }).function;
    this.#process = { life, target, subsystem, function: pci };
    this.#net.listen(ADDRESSES[this.party], { party: this.party, life, accept: (socket) => port.accept(socket) });
    for (const callback of [...this.onStart]) callback();
  }

  /** As its operator does. */
  async grow(nsid: number): Promise<void> {
    const { target, subsystem } = this.process;
    const { disk } = this.volumes.get(nsid)!;
    await target.resizeNamespace(subsystem, nsid, (disk.blockCount + GROWTH) * BLOCK_SIZE);
  }

  /** The process is gone at once, and with it what its disks had not made durable. */
  crash(): void {
    const process = this.#process;
    if (process === undefined) return;
    this.#process = undefined;
    this.#net.listen(ADDRESSES[this.party], { party: this.party, life: undefined, accept: () => {} });
    // an answer that came now would be believed
    process.life.end(true);
    for (const { disk, isOwn } of this.volumes.values()) if (isOwn) disk.crash(this.#random);
    for (const callback of [...this.onEnd]) callback();
  }
}

/** It copies; all else is of hosts and guests. */
export const isOfManager = (io: BlockIo): boolean => (io as NamespaceIo).controller.hostnqn === MANAGER_NQN;

const uuidOf = (nsid: number): string => `aaaaaaaa-aaaa-4aaa-8aaa-${nsid.toString(16).padStart(12, '0')}`;

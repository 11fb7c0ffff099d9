/**
 * The discovery log: what each host finds. One generation counter; every change of a port, subsystem, allow-list or referral raises it and tells
 * the persistent connections. Base 2.1 section 8.3.2, log page 70h.
 */
import { isIPv6 } from 'node:net';
import { DISCOVERY_NQN } from '../spec/nqn.ts';
import {
  AddressFamily,
  DISCOVERY_HEADER_BYTES,
  type DiscoveryLogEntry,
  DiscoveryLogOption,
  discoveryLogHeaderCodec,
  Eflags,
  encodeDiscoveryLog,
  SubsystemType,
  TransportType,
  Treq,
} from '../wire/cold/discovery-log.ts';
import { encodeExtendedDiscoveryEntry } from '../wire/cold/discovery-log-extended.ts';
import { advertisedAddress } from './advertised-address.ts';
import type { Controller } from './controller.ts';
import type { Port } from './port.ts';
import { CNTLID_ANY_STATIC, CNTLID_DYNAMIC, type Subsystem } from './subsystem.ts';

/** A pointer to another discovery service. @public */
export interface Referral {
  readonly portId: number;
  readonly address: string;
  readonly service: number;
  /** NQN of that discovery service; the well-known one by default. */
  readonly nqn?: string | undefined;
}

const ADMIN_QUEUE_ENTRIES = 128;

type Entry = Partial<DiscoveryLogEntry>;

export class DiscoveryLog {
  #generation = 1;
  readonly #ports: () => Iterable<Port>;
  readonly #subsystems: () => Iterable<Subsystem>;
  referrals: readonly Referral[] = [];
  /** NQNs of hosts that may ask for the entries of all subsystems (ALLSUBE): central discovery controllers. */
  allSubsystemsFor: readonly string[] = [];

  /** The page that was made last: hosts read a long one in pieces. */
  #last: { readonly key: string; readonly page: Uint8Array } | undefined;

  constructor(ports: () => Iterable<Port>, subsystems: () => Iterable<Subsystem>) {
    this.#ports = ports;
    this.#subsystems = subsystems;
  }

  get generation(): number {
    return this.#generation;
  }

  changed(): void {
    this.#generation++;
  }

  /** What this host may ask for. */
  options(controller: Controller): number {
    const all = this.allSubsystemsFor.includes(controller.hostnqn) ? DiscoveryLogOption.AllSubsystems : 0;
    return DiscoveryLogOption.Extended | DiscoveryLogOption.PortLocal | all;
  }

  /**
   * The page for the host behind `controller`: the subsystems that it may connect to, on every port that is advertised.
   * @param options `DiscoveryLogOption` bits
   */
  page(discovery: Subsystem, controller: Controller, options: number): Uint8Array {
    const { hostnqn, portId, localAddress } = controller;
    // whatever else it depends on moves the generation
    const key = JSON.stringify([this.#generation, options, portId, localAddress, hostnqn]);
    if (this.#last?.key !== key) this.#last = { key, page: this.#make(discovery, controller, options) };
    return this.#last.page;
  }

  #make(discovery: Subsystem, controller: Controller, options: number): Uint8Array {
    const entries = [...this.#entries(discovery, controller, options)];
    const header = { genctr: BigInt(this.#generation), dlpf: options };
    if ((options & DiscoveryLogOption.Extended) === 0) return encodeDiscoveryLog(header, entries);
    const extended = entries.map((entry) => encodeExtendedDiscoveryEntry(entry));
    const page = new Uint8Array(extended.reduce((sum, { length }) => sum + length, DISCOVERY_HEADER_BYTES));
    const numrec = BigInt(entries.length);
    discoveryLogHeaderCodec.encodeInto(page, 0, { ...header, numrec, tdlpl: page.length });
    let at = DISCOVERY_HEADER_BYTES;
    for (const bytes of extended) {
      page.set(bytes, at);
      at += bytes.length;
    }
    return page;
  }

  *#entries(discovery: Subsystem, controller: Controller, options: number): Generator<Entry, void, undefined> {
    const portLocal = (options & DiscoveryLogOption.PortLocal) !== 0;
    const all = (options & DiscoveryLogOption.AllSubsystems) !== 0;
    const ports = [...this.#ports()];
    const here = ports.find((port) => port.portId === controller.portId);
    if (here !== undefined) {
      // every port of ours answers discovery with the same entries
      const duplicate = ports.length > 1 ? Eflags.DuplicateReturnedInformation : 0;
      const eflags = Eflags.ExplicitPersistentConnections | duplicate;
      // that it is not advertised is for those who do not know it; this host does
      yield* portEntry(here, here.advertise, controller, SubsystemType.CurrentDiscovery, discovery.nqn, { eflags });
    }
    for (const port of ports) {
      if (port.advertise === 'off' || (portLocal && !isLocal(port, here, controller))) continue;
      for (const subsystem of this.#subsystems()) {
        if (!port.exposes(subsystem.nqn) || !(all || subsystem.allows(controller.hostnqn))) continue;
        const cntlid = subsystem.controllerModel === 'static' ? CNTLID_ANY_STATIC : CNTLID_DYNAMIC;
        yield* portEntry(port, port.advertise, controller, SubsystemType.Nvm, subsystem.nqn, { cntlid });
      }
    }
    // these and the next are about no port of ours, so that a host which wants one port only needs them all the same
    for (const subsystem of this.#subsystems()) {
      if (!all && !subsystem.allows(controller.hostnqn)) continue;
      for (const peer of subsystem.peers.all) {
        yield { ...peer, trtype: TransportType.Tcp, subtype: SubsystemType.Nvm, subnqn: subsystem.nqn };
      }
    }
    for (const { portId, address, service, nqn = DISCOVERY_NQN } of this.referrals) {
      const eflags = Eflags.ExplicitPersistentConnections;
      yield entryOf(portId, address, service, SubsystemType.Referral, nqn, { eflags });
    }
  }
}

/**
 * PLEO: what is reached at the address that was asked. Not by PORTID alone: discovery usually has a TCP port of its own, and hosts that ask so by
 * default (nvme-stas) would find nothing.
 */
function isLocal(port: Port, here: Port | undefined, { localAddress }: Controller): boolean {
  if (here === undefined) return false;
  const at = advertisedAddress(here.options.address, localAddress);
  return port === here || advertisedAddress(port.options.address, localAddress) === at;
}

function* portEntry(
  port: Port,
  advertise: Port['advertise'],
  controller: Controller,
  subtype: number,
  subnqn: string,
  more: Entry,
): Generator<Entry, void, undefined> {
  const named = advertise === 'off' ? {} : advertise;
  const address = named.address ?? advertisedAddress(port.options.address, controller.localAddress);
  if (address !== undefined) yield entryOf(port.portId, address, named.service ?? port.service, subtype, subnqn, more);
}

function entryOf(
  portid: number,
  address: string,
  service: number,
  subtype: number,
  subnqn: string,
  more: Entry,
): Entry {
  return {
    trtype: TransportType.Tcp,
    adrfam: isIPv6(address) ? AddressFamily.Ipv6 : AddressFamily.Ipv4,
    subtype,
    treq: Treq.SecureChannelNotRequired | Treq.DisableSqFlowControl,
    portid,
    cntlid: CNTLID_DYNAMIC,
    asqsz: ADMIN_QUEUE_ENTRIES,
    trsvcid: String(service),
    subnqn,
    traddr: address,
    ...more,
  };
}

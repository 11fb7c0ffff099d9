/**
 * The discovery log: what each host finds. One generation counter; every change of a port, subsystem, allow-list or referral raises it and tells
 * the persistent connections. Base 2.1 section 8.3.2, log page 70h.
 */
import { isIPv6 } from 'node:net';
import { DISCOVERY_NQN } from '../spec/nqn.ts';
import { type DiscoveryLogEntry, encodeDiscoveryLog } from '../wire/cold/discovery-log.ts';
import type { Controller } from './controller.ts';
import type { Port } from './port.ts';
import type { Subsystem } from './subsystem.ts';

/** A pointer to another discovery service. @public */
export interface Referral {
  readonly portId: number;
  readonly address: string;
  readonly service: number;
  /** NQN of that discovery service; the well-known one by default. */
  readonly nqn?: string | undefined;
}

const TRTYPE_TCP = 3;
const ADRFAM_IPV4 = 1;
const ADRFAM_IPV6 = 2;
const SUBTYPE_REFERRAL = 1;
const SUBTYPE_NVM = 2;
const SUBTYPE_CURRENT_DISCOVERY = 3;
/** Secure channel not required; SQ flow control may be disabled. */
const TREQ = 0x02 | 0x04;
const EFLAGS_DUPLICATE_INFORMATION = 0x01;
const EFLAGS_PERSISTENT = 0x02;
const CNTLID_DYNAMIC = 0xffff;
const CNTLID_STATIC = 0xfffe;
const ADMIN_QUEUE_ENTRIES = 128;

export class DiscoveryLog {
  #generation = 1;
  readonly #ports: () => Iterable<Port>;
  readonly #subsystems: () => Iterable<Subsystem>;
  referrals: readonly Referral[] = [];

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

  /** The page for the host behind `controller`: the subsystems that it may connect to, on every port. */
  page(discovery: Subsystem, controller: Controller): Uint8Array {
    const entries: Partial<DiscoveryLogEntry>[] = [];
    const ports = [...this.#ports()];
    const here = ports.find((port) => port.portId === controller.portId);
    if (here !== undefined) {
      entries.push(
        entryOf(here.portId, here.options.address, here.service, SUBTYPE_CURRENT_DISCOVERY, discovery.nqn, {
          eflags: EFLAGS_PERSISTENT | (ports.length > 1 ? EFLAGS_DUPLICATE_INFORMATION : 0),
        }),
      );
    }
    for (const port of ports) {
      for (const subsystem of this.#subsystems()) {
        if (!port.exposes(subsystem.nqn) || !subsystem.allows(controller.hostnqn)) continue;
        entries.push(
          entryOf(port.portId, port.options.address, port.service, SUBTYPE_NVM, subsystem.nqn, {
            cntlid: subsystem.controllerModel === 'static' ? CNTLID_STATIC : CNTLID_DYNAMIC,
          }),
        );
      }
    }
    for (const referral of this.referrals) {
      entries.push(
        entryOf(referral.portId, referral.address, referral.service, SUBTYPE_REFERRAL, referral.nqn ?? DISCOVERY_NQN, {
          eflags: EFLAGS_PERSISTENT,
        }),
      );
    }
    return encodeDiscoveryLog({ genctr: BigInt(this.#generation) }, entries);
  }
}

function entryOf(
  portid: number,
  address: string,
  service: number,
  subtype: number,
  subnqn: string,
  more: Partial<DiscoveryLogEntry>,
): Partial<DiscoveryLogEntry> {
  return {
    trtype: TRTYPE_TCP,
    adrfam: isIPv6(address) ? ADRFAM_IPV6 : ADRFAM_IPV4,
    subtype,
    treq: TREQ,
    portid,
    cntlid: CNTLID_DYNAMIC,
    asqsz: ADMIN_QUEUE_ENTRIES,
    trsvcid: String(service),
    subnqn,
    traddr: address,
    ...more,
  };
}

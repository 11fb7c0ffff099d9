/** The vendor extension for live migration over NVMe/TCP as a management controller's host uses it. docs/live-migration-over-tcp.md */
import { isIPv6 } from 'node:net';
import { Cns } from '../spec/identify.ts';
import { FENCE_DATA_BYTES, MIGRATION_EXTENSION_UUID } from '../spec/migration.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { NvmeofError } from '../util/error.ts';
import {
  AddressFamily,
  type DiscoveryLogEntry,
  discoveryLogEntryCodec,
  SubsystemType,
  TransportType,
  Treq,
} from '../wire/cold/discovery-log.ts';
import { FenceFlag, fenceCodec } from '../wire/cold/fence.ts';
import type { MigrationHost } from './live-migration.ts';

const UUID_BYTES = 16;
const UUID_ENTRY_BYTES = 32;

/** The fence of a namespace: who may use it. @public */
export interface FenceStatus {
  /** Its hosts may; else only managers. */
  readonly isOpen: boolean;
  /** Of the newest change; a change with a lower one is refused. */
  readonly epoch: bigint;
  /** It outlives the target's process. */
  readonly isDurable: boolean;
}

/** Where else a subsystem is reached: an entry of the discovery log. @public */
export type PeerEntry = Pick<DiscoveryLogEntry, 'traddr' | 'trsvcid' | 'subnqn'> & Partial<DiscoveryLogEntry>;

/** CNTLID of subsystems of the dynamic controller model, and the ASQSZ of our targets. */
const CNTLID_DYNAMIC = 0xffff;
const ADMIN_QUEUE_ENTRIES = 128;

/** @throws WireError if a value does not fit */
export function encodePeer(peer: PeerEntry): Uint8Array {
  return discoveryLogEntryCodec.encode({
    trtype: TransportType.Tcp,
    adrfam: isIPv6(peer.traddr) ? AddressFamily.Ipv6 : AddressFamily.Ipv4,
    subtype: SubsystemType.Nvm,
    treq: Treq.SecureChannelNotRequired | Treq.DisableSqFlowControl,
    cntlid: CNTLID_DYNAMIC,
    asqsz: ADMIN_QUEUE_ENTRIES,
    ...peer,
  });
}

/** The vendor specific features of one management controller; its UUID index is asked for once. */
export class MigrationExtension {
  readonly #controller: MigrationHost;
  #uuidIndex: number | undefined;

  constructor(controller: MigrationHost) {
    this.#controller = controller;
  }

  /** The UUID index of the vendor commands. @throws NvmeofError NVMEOF_ERR_UNSUPPORTED if the controller does not have them */
  async uuidIndex(): Promise<number> {
    if (this.#uuidIndex !== undefined) return this.#uuidIndex;
    const { data } = await this.#controller.executeAdmin('Identify CNS 17h', {
      opcode: AdminOpcode.Identify,
      cdw10: Cns.UuidList,
      readBytes: 4096,
    });
    for (let i = 1; i < data.length / UUID_ENTRY_BYTES; i++) {
      const uuid = data.subarray(i * UUID_ENTRY_BYTES + UUID_BYTES, (i + 1) * UUID_ENTRY_BYTES);
      if (!uuid.every((byte, n) => byte === MIGRATION_EXTENSION_UUID[n])) continue;
      this.#uuidIndex = i;
      return i;
    }
    throw new NvmeofError(
      'NVMEOF_ERR_UNSUPPORTED',
      'The controller does not list the vendor extension for live migration over NVMe/TCP (Identify CNS 17h)',
    );
  }

  /** Set Features. @param fields.number CDW12 and CDW13 */
  async set(
    fid: number,
    fields: {
      readonly nsid?: number;
      readonly cdw11: number;
      readonly number?: bigint;
      readonly data?: Uint8Array | undefined;
    },
  ): Promise<void> {
    const { nsid = 0, cdw11, number = 0n, data } = fields;
    await this.#controller.executeAdmin(`Set Features ${fid.toString(16).toUpperCase()}h`, {
      opcode: AdminOpcode.SetFeatures,
      nsid,
      cdw10: fid,
      cdw11,
      cdw12: Number(number & 0xffff_ffffn),
      cdw13: Number((number >> 32n) & 0xffff_ffffn),
      cdw14: await this.uuidIndex(),
      ...(data === undefined || data.length === 0 ? {} : { data }),
    });
  }

  /** Get Features. @returns DW0 and the data */
  async get(fid: number, nsid: number, readBytes = 0): Promise<{ readonly result: number; readonly data: Uint8Array }> {
    return this.#controller.executeAdmin(`Get Features ${fid.toString(16).toUpperCase()}h`, {
      opcode: AdminOpcode.GetFeatures,
      nsid,
      cdw10: fid,
      cdw14: await this.uuidIndex(),
      ...(readBytes === 0 ? {} : { readBytes }),
    });
  }

  /** Feature CAh. */
  async fence(fid: number, nsid: number): Promise<FenceStatus> {
    const { flags, epoch } = fenceCodec.decode((await this.get(fid, nsid, FENCE_DATA_BYTES)).data);
    return {
      isOpen: (flags & FenceFlag.Closed) === 0,
      epoch,
      isDurable: (flags & FenceFlag.Durable) !== 0,
    };
  }
}

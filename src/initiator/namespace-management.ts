/** The host's side of Namespace Management and Attachment, Format NVM and Sanitize. */
import { Cns, NSID_ALL } from '../spec/identify.ts';
import { LogPage } from '../spec/log-page.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { SanitizeAction } from '../spec/sanitize.ts';
import { type IdentifyNamespace, identifyNamespaceCodec } from '../wire/cold/identify-namespace.ts';
import {
  CONTROLLER_LIST_MAX,
  decodeControllerList,
  decodeNsidList,
  encodeControllerList,
  NSID_LIST_MAX,
} from '../wire/cold/lists.ts';
import { SANITIZE_LOG_BYTES, type SanitizeLog, sanitizeLogCodec } from '../wire/cold/log-sanitize.ts';
import { namespaceCreateCodec } from '../wire/cold/namespace-management.ts';
import { type ExecuteAdmin, getLogPage, identify } from './controller-commands.ts';

/** @public */
export interface CreateNamespaceOptions {
  /** NSZE, in blocks of the LBA format. */
  readonly blockCount: bigint | number;
  /** NCAP; default `blockCount`. */
  readonly capacityBlocks?: bigint | number | undefined;
  /** Index of the LBA format. Default 0. */
  readonly lbaFormat?: number | undefined;
  /** NMIC: several controllers may have it at once. Default false, as the specification has it. */
  readonly shared?: boolean | undefined;
  /** DPS. */
  readonly dps?: number | undefined;
  /** 0: the controller chooses. */
  readonly anagrpid?: number | undefined;
  readonly nvmsetid?: number | undefined;
  readonly endgid?: number | undefined;
  readonly csi?: number | undefined;
}

/** @public */
export interface FormatOptions {
  /** Index of the LBA format; default: the one in use. */
  readonly lbaFormat?: number | undefined;
  /** SES: 0 none, 1 user data erase, 2 cryptographic erase. */
  readonly secureErase?: number | undefined;
  readonly protection?: number | undefined;
  readonly protectionFirst?: boolean | undefined;
  readonly extendedMetadata?: boolean | undefined;
}

/** @public */
export interface SanitizeOptions {
  /** `SanitizeAction`. */
  readonly action: number;
  /** AUSE: a failed operation may be left by ExitFailureMode. */
  readonly allowUnrestrictedExit?: boolean | undefined;
  /** 1 to 16; default 1. */
  readonly overwritePasses?: number | undefined;
  readonly overwritePattern?: number | undefined;
  readonly invertPattern?: boolean | undefined;
  readonly noDeallocate?: boolean | undefined;
}

/** @public */
export class NamespaceManagement {
  readonly #execute: ExecuteAdmin;

  constructor(execute: ExecuteAdmin) {
    this.#execute = execute;
  }

  /** @returns the NSID; the namespace is attached to no controller yet */
  async create(options: CreateNamespaceOptions): Promise<number> {
    const { lbaFormat = 0, blockCount } = options;
    const data = namespaceCreateCodec.encode({
      nsze: BigInt(blockCount),
      ncap: BigInt(options.capacityBlocks ?? blockCount),
      flbas: (lbaFormat & 0xf) | ((lbaFormat & 0x30) << 1),
      dps: options.dps ?? 0,
      nmic: options.shared === true ? 1 : 0,
      anagrpid: options.anagrpid ?? 0,
      nvmsetid: options.nvmsetid ?? 0,
      endgid: options.endgid ?? 0,
    });
    const { result } = await this.#execute('Namespace Management: create', {
      opcode: AdminOpcode.NamespaceManagement,
      cdw10: 0,
      cdw11: (options.csi ?? 0) << 24,
      data,
    });
    return result;
  }

  /** With all its data. @param nsid FFFFFFFFh: every namespace */
  async delete(nsid: number): Promise<void> {
    await this.#execute(`Namespace Management: delete of ${nsid}`, {
      opcode: AdminOpcode.NamespaceManagement,
      nsid,
      cdw10: 1,
    });
  }

  /** @param cntlids the controllers that get it, ascending */
  attach(nsid: number, cntlids: readonly number[]): Promise<void> {
    return this.#attachment('attach', 0, nsid, cntlids);
  }

  detach(nsid: number, cntlids: readonly number[]): Promise<void> {
    return this.#attachment('detach', 1, nsid, cntlids);
  }

  async #attachment(what: string, select: number, nsid: number, cntlids: readonly number[]): Promise<void> {
    await this.#execute(`Namespace Attachment: ${what} of ${nsid}`, {
      opcode: AdminOpcode.NamespaceAttachment,
      nsid,
      cdw10: select,
      data: encodeControllerList([...cntlids].sort((a, b) => a - b)),
    });
  }

  /** NSIDs of all namespaces there are, attached or not, ascending. */
  async allocated(): Promise<number[]> {
    const all: number[] = [];
    for (let from = 0; from < NSID_ALL - 1; from = all.at(-1)!) {
      const some = decodeNsidList(await identify(this.#execute, Cns.AllocatedNamespaceList, from));
      all.push(...some);
      if (some.length < NSID_LIST_MAX) break;
    }
    return all;
  }

  /** Identify Namespace, attached or not. */
  async identifyAllocated(nsid: number): Promise<IdentifyNamespace> {
    return identifyNamespaceCodec.decode(await identify(this.#execute, Cns.AllocatedNamespace, nsid));
  }

  /** Controller ids, ascending. @param nsid only those that have it attached @param from the first id of interest */
  async controllers(nsid?: number, from = 0): Promise<number[]> {
    const cns = nsid === undefined ? Cns.ControllerList : Cns.NamespaceControllerList;
    const all: number[] = [];
    for (let cntid = from; cntid <= 0xffff; cntid = all.at(-1)! + 1) {
      const some = decodeControllerList(await identify(this.#execute, cns, nsid ?? 0, { cntid }));
      all.push(...some);
      if (some.length < CONTROLLER_LIST_MAX) break;
    }
    return all;
  }

  /** Gives the namespace another block size, or the same; its data is gone. Ends when it is done. */
  async format(nsid: number, options: FormatOptions = {}): Promise<void> {
    const lbaFormat = options.lbaFormat ?? (await this.#formatInUse(nsid));
    await this.#execute(`Format NVM of namespace ${nsid}`, {
      opcode: AdminOpcode.FormatNvm,
      nsid,
      cdw10:
        (lbaFormat & 0xf) |
        (options.extendedMetadata === true ? 0x10 : 0) |
        ((options.protection ?? 0) << 5) |
        (options.protectionFirst === true ? 0x100 : 0) |
        ((options.secureErase ?? 0) << 9) |
        ((lbaFormat & 0x30) << 8),
    });
  }

  async #formatInUse(nsid: number): Promise<number> {
    const { flbas } = identifyNamespaceCodec.decode(await identify(this.#execute, Cns.Namespace, nsid));
    return (flbas & 0xf) | ((flbas >> 1) & 0x30);
  }

  /** Starts it; it goes on in the background: `sanitizeStatus`, or the event that it has ended. */
  async sanitize(options: SanitizeOptions): Promise<void> {
    const passes = options.action === SanitizeAction.Overwrite ? (options.overwritePasses ?? 1) & 0xf : 0;
    await this.#execute('Sanitize', {
      opcode: AdminOpcode.Sanitize,
      cdw10:
        options.action |
        (options.allowUnrestrictedExit === true ? 0x8 : 0) |
        (passes << 4) |
        (options.invertPattern === true ? 0x100 : 0) |
        (options.noDeallocate === true ? 0x200 : 0),
      cdw11: options.overwritePattern ?? 0,
    });
  }

  async sanitizeStatus(options: { readonly retainEvent?: boolean } = {}): Promise<SanitizeLog> {
    const page = await getLogPage(this.#execute, {
      lid: LogPage.SanitizeStatus,
      bytes: SANITIZE_LOG_BYTES,
      ...options,
    });
    return sanitizeLogCodec.decode(page);
  }
}

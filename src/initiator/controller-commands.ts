/** Identify, log pages and features as calls: what tools and the rest of this package ask a controller. */
import { Cns, IDENTIFY_BYTES, NSID_ALL } from '../spec/identify.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { NvmeofError, TransportError } from '../util/error.ts';
import { type IdentifyController, identifyControllerCodec } from '../wire/cold/identify-controller.ts';
import { type IdentifyNamespace, identifyNamespaceCodec } from '../wire/cold/identify-namespace.ts';
import {
  decodeNamespaceDescriptors,
  decodeNsidList,
  type NamespaceIdentifiers,
  NSID_LIST_MAX,
} from '../wire/cold/lists.ts';
import type { PassthruCommand, PassthruResult } from './admin-queue.ts';

/** Sends an Admin command; throws on any status but success. */
export type ExecuteAdmin = (what: string, command: PassthruCommand) => Promise<PassthruResult>;

/** @public */
export interface GetLogPageOptions {
  readonly lid: number;
  /** Length in bytes, a multiple of 4. */
  readonly bytes: number;
  /** Byte offset of the first byte, a multiple of 4; default 0. */
  readonly offset?: number;
  /** Default FFFFFFFFh. */
  readonly nsid?: number;
  /** Log Specific Parameter. */
  readonly lsp?: number;
  /** Log Specific Identifier. */
  readonly lsi?: number;
  /** Keep the event that this page belongs to; default false: reading clears it. */
  readonly retainEvent?: boolean;
  /** Command Set Identifier. */
  readonly csi?: number;
  readonly uuidIndex?: number;
  /** Most bytes asked for in one command, a multiple of 4; default 4096. */
  readonly bytesPerCommand?: number;
}

/** Most bytes asked for in one Get Log Page. */
const LOG_CHUNK_BYTES = 4096;
/** Far more than any controller has; a list that goes on would fill the memory. */
const NAMESPACES_MAX = 1 << 17;

export async function identify(
  execute: ExecuteAdmin,
  cns: number,
  nsid = 0,
  options: { readonly cntid?: number; readonly csi?: number; readonly cnsSpecific?: number } = {},
): Promise<Uint8Array> {
  const { data } = await execute(`Identify CNS ${cns.toString(16).padStart(2, '0')}h`, {
    opcode: AdminOpcode.Identify,
    nsid,
    cdw10: cns | ((options.cntid ?? 0) << 16),
    cdw11: (options.cnsSpecific ?? 0) | ((options.csi ?? 0) << 24),
    readBytes: IDENTIFY_BYTES,
  });
  return data;
}

export async function identifyController(execute: ExecuteAdmin): Promise<IdentifyController> {
  return identifyControllerCodec.decode(await identify(execute, Cns.Controller));
}

export async function identifyNamespace(execute: ExecuteAdmin, nsid: number): Promise<IdentifyNamespace> {
  return identifyNamespaceCodec.decode(await identify(execute, Cns.Namespace, nsid));
}

export async function namespaceDescriptors(execute: ExecuteAdmin, nsid: number): Promise<NamespaceIdentifiers> {
  return decodeNamespaceDescriptors(await identify(execute, Cns.NamespaceDescriptors, nsid));
}

/** All active namespaces, ascending. */
export async function activeNamespaces(execute: ExecuteAdmin): Promise<number[]> {
  const all: number[] = [];
  for (let from = 0; ; ) {
    const some = decodeNsidList(await identify(execute, Cns.ActiveNamespaceList, from));
    all.push(...some);
    if (all.length > NAMESPACES_MAX) {
      throw new TransportError(
        'NVMEOF_ERR_PROTOCOL',
        `Controller claims more than ${NAMESPACES_MAX} active namespaces, the list does not end`,
      );
    }
    if (some.length < NSID_LIST_MAX) return all;
    from = some[some.length - 1]!;
    if (from >= NSID_ALL - 1) return all;
  }
}

/** Reads a log page, in several commands if it is long; the event is retained until the last. */
export async function getLogPage(execute: ExecuteAdmin, options: GetLogPageOptions): Promise<Uint8Array> {
  const { lid, bytes } = options;
  if (bytes % 4 !== 0 || bytes <= 0) {
    throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `Log page length ${bytes} is no multiple of 4 above 0`);
  }
  const page = new Uint8Array(bytes);
  for (let done = 0; done < bytes; ) {
    const length = Math.min(options.bytesPerCommand ?? LOG_CHUNK_BYTES, bytes - done);
    const last = done + length === bytes;
    const retain = (options.retainEvent ?? false) || !last;
    const offset = (options.offset ?? 0) + done;
    const numd = length / 4 - 1;
    const { data } = await execute(`Get Log Page ${lid.toString(16).padStart(2, '0')}h`, {
      opcode: AdminOpcode.GetLogPage,
      nsid: options.nsid ?? NSID_ALL,
      cdw10: lid | ((options.lsp ?? 0) << 8) | (retain ? 0x8000 : 0) | ((numd & 0xffff) << 16),
      cdw11: (numd >>> 16) | ((options.lsi ?? 0) << 16),
      cdw12: offset >>> 0,
      cdw13: Math.floor(offset / 0x1_0000_0000),
      cdw14: (options.uuidIndex ?? 0) | ((options.csi ?? 0) << 24),
      readBytes: length,
    });
    page.set(data, done);
    if (data.length < length) return page.subarray(0, done + data.length);
    done += length;
  }
  return page;
}

/** Lists that Identify returns: namespaces, controllers, identifiers of a namespace, I/O command sets. Base 2.1 sections 4.6.1 and 5.1.13.2. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

/** Most entries of a namespace list, and of a controller list. */
export const NSID_LIST_MAX = 1024;
export const CONTROLLER_LIST_MAX = 2047;

const NSID_LIST = [[0, 'nsids', 'u32[]', NSID_LIST_MAX]] as const;
const nsidListCodec: Codec<{ nsids: number[] }> = structure('NamespaceList', IDENTIFY_BYTES, NSID_LIST);

/**
 * Namespace list (CNS 02h, 07h, 10h).
 * @param nsids at most 1024, ascending, none 0
 * @throws WireError `range` or `invalid` otherwise
 * @public
 */
export function encodeNsidList(nsids: readonly number[]): Uint8Array {
  const bytes = nsidListCodec.encode({ nsids });
  checkAscending('NamespaceList', nsids, 1);
  return bytes;
}

/**
 * @param bytes 4096 bytes
 * @returns the identifiers before the first 0
 * @throws WireError `invalid` if they do not ascend: a host that continues after the last one would never end
 * @public
 */
export function decodeNsidList(bytes: Uint8Array): number[] {
  const { nsids } = nsidListCodec.decode(bytes);
  const end = nsids.indexOf(0);
  const list = end < 0 ? nsids : nsids.slice(0, end);
  checkAscending('NamespaceList', list, 1);
  return list;
}

const CONTROLLER_LIST = [
  [0, 'numid', 'u16'],
  [2, 'cntlid', 'u16[]', 2047],
] as const;
const controllerListCodec: Codec<Decoded<typeof CONTROLLER_LIST>> = structure(
  'ControllerList',
  IDENTIFY_BYTES,
  CONTROLLER_LIST,
);

/** Controller list (CNS 12h, 13h; Namespace Attachment). @param cntlids at most 2047, ascending @public */
export function encodeControllerList(cntlids: readonly number[]): Uint8Array {
  const bytes = controllerListCodec.encode({ numid: cntlids.length, cntlid: cntlids });
  checkAscending('ControllerList', cntlids, 0);
  return bytes;
}

/** @param bytes 4096 bytes @throws WireError `invalid` if the count exceeds 2047 or the identifiers do not ascend @public */
export function decodeControllerList(bytes: Uint8Array): number[] {
  const { numid, cntlid } = controllerListCodec.decode(bytes);
  if (numid > CONTROLLER_LIST_MAX) {
    throw new WireError(
      'invalid',
      'ControllerList',
      'numid',
      0,
      `is ${numid}, allowed are at most ${CONTROLLER_LIST_MAX}`,
    );
  }
  const list = cntlid.slice(0, numid);
  checkAscending('ControllerList', list, 0);
  return list;
}

function checkAscending(structureName: string, ids: readonly number[], min: number): void {
  let least = min;
  for (const id of ids) {
    if (id < least) {
      throw new WireError('invalid', structureName, undefined, 0, `has ${id} where at least ${least} must follow`);
    }
    least = id + 1;
  }
}

/** Namespace Identifier Type. Base 2.1 figure 315. @public */
export const Nidt = { Eui64: 1, Nguid: 2, Uuid: 3, Csi: 4 } as const;

/** Identifiers of a namespace (CNS 03h). Byte strings, most significant byte first. @public */
export interface NamespaceIdentifiers {
  /** 8 bytes. */
  eui64?: Uint8Array;
  /** 16 bytes. */
  nguid?: Uint8Array;
  /** 16 bytes. */
  uuid?: Uint8Array;
  /** Command Set Identifier. */
  csi?: number;
}

const DESCRIPTORS = 'NamespaceDescriptors';
const DESCRIPTOR_HEADER_BYTES = 4;
const DESCRIPTOR_HEADER = [
  [0, 'nidt', 'u8'],
  [1, 'nidl', 'u8'],
  [2, 'reserved', 2],
] as const;
const descriptorHeaderCodec: Codec<Decoded<typeof DESCRIPTOR_HEADER>> = structure(
  DESCRIPTORS,
  DESCRIPTOR_HEADER_BYTES,
  DESCRIPTOR_HEADER,
);
/** NIDL of each NIDT. */
const NID_BYTES: Readonly<Record<number, number>> = { 1: 8, 2: 16, 3: 16, 4: 1 };

/** @throws WireError if an identifier has the wrong length @public */
export function encodeNamespaceDescriptors(identifiers: NamespaceIdentifiers): Uint8Array {
  const bytes = new Uint8Array(IDENTIFY_BYTES);
  let offset = 0;
  const append = (nidt: number, nid: Uint8Array | undefined): void => {
    if (nid === undefined) return;
    checkNidl(nidt, nid.length, offset);
    descriptorHeaderCodec.encodeInto(bytes, offset, { nidt, nidl: nid.length });
    bytes.set(nid, offset + DESCRIPTOR_HEADER_BYTES);
    offset += DESCRIPTOR_HEADER_BYTES + nid.length;
  };
  append(Nidt.Eui64, identifiers.eui64);
  append(Nidt.Nguid, identifiers.nguid);
  append(Nidt.Uuid, identifiers.uuid);
  if (identifiers.csi !== undefined) append(Nidt.Csi, csiCodec.encode({ csi: identifiers.csi }));
  return bytes;
}

const csiCodec: Codec<{ csi: number }> = structure(DESCRIPTORS, 1, [[0, 'csi', 'u8']]);

/**
 * Unknown types are skipped; of a type that comes twice the first counts.
 * @throws WireError `invalid` if a descriptor has the wrong length or runs past the end
 * @public
 */
export function decodeNamespaceDescriptors(bytes: Uint8Array): NamespaceIdentifiers {
  const found: NamespaceIdentifiers = {};
  let offset = 0;
  while (offset + DESCRIPTOR_HEADER_BYTES <= bytes.length) {
    const { nidt, nidl } = descriptorHeaderCodec.decode(bytes, offset);
    if (nidl === 0) break;
    checkNidl(nidt, nidl, offset);
    const start = offset + DESCRIPTOR_HEADER_BYTES;
    offset = start + nidl;
    if (offset > bytes.length) {
      throw new WireError(
        'invalid',
        DESCRIPTORS,
        'nidl',
        start - 3,
        `is ${nidl}, past the end of ${bytes.length} bytes`,
      );
    }
    const nid = Uint8Array.from(bytes.subarray(start, offset));
    if (nidt === Nidt.Eui64) found.eui64 ??= nid;
    else if (nidt === Nidt.Nguid) found.nguid ??= nid;
    else if (nidt === Nidt.Uuid) found.uuid ??= nid;
    else if (nidt === Nidt.Csi) found.csi ??= nid[0]!;
  }
  return found;
}

function checkNidl(nidt: number, nidl: number, offset: number): void {
  const allowed = NID_BYTES[nidt];
  if (allowed !== undefined && nidl !== allowed) {
    throw new WireError(
      'invalid',
      DESCRIPTORS,
      'nidl',
      offset + 1,
      `is ${nidl} for type ${nidt}, allowed is ${allowed}`,
    );
  }
}

const IO_COMMAND_SETS = [[0, 'iocsc', 'u64[]', 512]] as const;
/** I/O Command Set combinations (CNS 1Ch): bit n of a vector is CSI n. @public */
export type IoCommandSets = Decoded<typeof IO_COMMAND_SETS>;
/** @public */
export const ioCommandSetsCodec: Codec<IoCommandSets> = structure('IoCommandSets', IDENTIFY_BYTES, IO_COMMAND_SETS);

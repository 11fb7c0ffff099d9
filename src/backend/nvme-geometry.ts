/** What a local SSD says of a namespace, and what follows for serving it. NVM Command Set 1.2 section 4.1.5, Base 2.1 section 5.1.13. */
import { ConfigError } from '../util/error.ts';
import { identifyControllerCodec } from '../wire/cold/identify-controller.ts';
import { identifyNamespaceCodec } from '../wire/cold/identify-namespace.ts';
import { nvmControllerCodec, nvmNamespaceCodec } from '../wire/cold/identify-nvm.ts';
import type { CopyLimits } from './block-backend.ts';

/** How the metadata of blocks, which hosts do not see, is dealt with. */
export const Metadata = {
  None: 0,
  /** Protection information that the device makes and checks itself (PRINFO.PRACT). */
  Protection: 1,
  /** A buffer of its own with zeroes, whose content nobody looks at. */
  Scratch: 2,
} as const;

export interface NvmeGeometry {
  readonly blockSize: number;
  readonly blockCount: number;
  /** `Metadata`. */
  readonly metadata: number;
  /** Of one block. */
  readonly metadataBytes: number;
  /** Protection type 1 or 2: the reference tag of a command is its first block. */
  readonly referenceTag: boolean;
  /** Of one command, a multiple of the block size. */
  readonly transferBytesMax: number;
  /** Commands do not cross multiples of it; 0: they may. */
  readonly boundaryBytes: number;
  readonly volatileWriteCache: boolean;
  readonly readsZeroAfterDeallocate: boolean;
  readonly writeZeroes: boolean;
  /** Blocks of one Write Zeroes. */
  readonly writeZeroesBlocksMax: number;
  readonly compares: boolean;
  /** Blocks by which the device knows what is allocated (RALBAS, TLBAAG); 0 if it does not tell. */
  readonly allocationBlocks: number;
  readonly verifies: boolean;
  /** Blocks of one Verify. */
  readonly verifyBlocksMax: number;
  /** The device's own Copy, with descriptors of format 0. */
  readonly copy: CopyLimits | undefined;
  readonly deacSupported: boolean;
  readonly deallocates: boolean;
  /** Blocks of one Dataset Management range. */
  readonly deallocateBlocksMax: number;
  readonly atomicBytes: number | undefined;
  readonly writeProtected: boolean;
  readonly model: string;
  readonly serial: string;
}

export interface IdentifyData {
  readonly controller: Uint8Array;
  readonly namespace: Uint8Array;
  /** CNS 05h and 06h; absent where the device has none (before 2.0). */
  readonly nvmNamespace?: Uint8Array | undefined;
  readonly nvmController?: Uint8Array | undefined;
}

const PAGE_BYTES = 4096;
/** NLB has 16 bits. */
const NLB_MAX = 0x1_0000;
const RANGE_BLOCKS_MAX = 0xffff_ffff;
/** Bytes of protection information by PIF: 16-bit, 32-bit and 64-bit guard. */
const PI_BYTES = [8, 16, 16] as const;

/**
 * @param path for messages
 * @param queueBytesMax what the kernel takes in one command
 * @throws ConfigError for a format that cannot be served
 */
export function nvmeGeometry(path: string, data: IdentifyData, queueBytesMax: number): NvmeGeometry {
  const ctrl = identifyControllerCodec.decode(data.controller);
  const ns = identifyNamespaceCodec.decode(data.namespace);
  const index = (ns.flbas & 0xf) | ((ns.flbas >> 1) & 0x30);
  const format = ns.lbaf[index]!;
  if (ns.nsze === 0n || format.lbads === 0)
    throw new ConfigError(`${path}: the namespace is not active on that device; attach it first`);
  const blockSize = 2 ** format.lbads;
  if (blockSize < 512 || blockSize > 65_536)
    throw new ConfigError(`${path}: has blocks of ${blockSize} bytes; format it with 512 or 4096`);
  if (ns.nsze * BigInt(blockSize) > BigInt(Number.MAX_SAFE_INTEGER))
    throw new ConfigError(`${path}: is larger than ${Number.MAX_SAFE_INTEGER} bytes, which is more than can be served`);
  const nvm = data.nvmNamespace === undefined ? undefined : nvmNamespaceCodec.decode(data.nvmNamespace);
  const elbaf = nvm?.elbaf[index] ?? 0;
  const protection = protectionOf(path, ns, format.ms, elbaf);
  const transferBytesMax = transferMax(ctrl.mdts, queueBytesMax, blockSize);
  const limits = data.nvmController === undefined ? undefined : nvmControllerCodec.decode(data.nvmController);
  const boundaryBytes = ns.noiob * blockSize;
  const blocksOf = (log2Pages: number | undefined): number =>
    log2Pages === undefined || log2Pages === 0
      ? NLB_MAX
      : Math.max(1, Math.min(NLB_MAX, Math.floor((PAGE_BYTES * 2 ** log2Pages) / blockSize)));
  return {
    blockSize,
    blockCount: Number(ns.nsze),
    ...protection,
    metadataBytes: format.ms,
    transferBytesMax,
    boundaryBytes: boundaryBytes >= blockSize && boundaryBytes < transferBytesMax ? boundaryBytes : 0,
    volatileWriteCache: (ctrl.vwc & 1) !== 0,
    readsZeroAfterDeallocate: (ns.dlfeat & 7) === 1 && (ctrl.oncs & 4) !== 0,
    writeZeroes: (ctrl.oncs & 8) !== 0,
    writeZeroesBlocksMax: blocksOf(limits?.wzsl),
    // with metadata it would compare that as well, which hosts do not have
    compares: (ctrl.oncs & 1) !== 0 && protection.metadata === Metadata.None,
    allocationBlocks: (limits?.aocs ?? 0) & 1 ? Math.max(1, nvm?.tlbaag ?? 0) : 0,
    verifies: (ctrl.oncs & 0x80) !== 0,
    verifyBlocksMax: blocksOf(limits?.vsl),
    copy: copyOf(ctrl, ns, protection.metadata),
    deacSupported: (ns.dlfeat & 8) !== 0,
    deallocates: (ctrl.oncs & 4) !== 0,
    deallocateBlocksMax: limits === undefined || limits.dmrsl === 0 ? RANGE_BLOCKS_MAX : limits.dmrsl,
    atomicBytes: atomicOf(ctrl.awun, ns, blockSize, transferBytesMax),
    writeProtected: (ns.nsattr & 1) !== 0,
    model: text(data.controller, 24, 40),
    serial: text(data.controller, 4, 20),
  };
}

/** With metadata, a copy would take along what hosts do not have, and tags that belong to other blocks. */
function copyOf(
  ctrl: { readonly oncs: number; readonly ocfs: number },
  ns: CopyLimits,
  metadata: number,
): CopyLimits | undefined {
  if ((ctrl.oncs & 0x100) === 0 || (ctrl.ocfs & 1) === 0 || metadata !== Metadata.None) return undefined;
  if (ns.mssrl === 0 || ns.mcl === 0) return undefined;
  return { mssrl: ns.mssrl, mcl: ns.mcl, msrc: ns.msrc };
}

function text(bytes: Uint8Array, offset: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, length)
    .toString('latin1')
    .trim();
}

function protectionOf(
  path: string,
  ns: { readonly flbas: number; readonly dps: number },
  metadataBytes: number,
  elbaf: number,
): Pick<NvmeGeometry, 'metadata' | 'referenceTag'> {
  if (metadataBytes === 0) return { metadata: Metadata.None, referenceTag: false };
  const type = ns.dps & 7;
  const referenceTag = type === 1 || type === 2;
  const storageTagBits = elbaf & 0x7f;
  if (type !== 0 && metadataBytes === PI_BYTES[(elbaf >> 7) & 3] && storageTagBits === 0) {
    return { metadata: Metadata.Protection, referenceTag };
  }
  if (type !== 0)
    throw new ConfigError(
      `${path}: its format has ${metadataBytes} bytes of metadata with protection information of another size in it; format it with protection information alone, or without`,
    );
  if ((ns.flbas & 0x10) !== 0)
    throw new ConfigError(
      `${path}: its format has ${metadataBytes} bytes of metadata inside each block, which hosts would see as data; format it without, or with separate metadata (nvme format --ms=0)`,
    );
  return { metadata: Metadata.Scratch, referenceTag: false };
}

function transferMax(mdts: number, queueBytesMax: number, blockSize: number): number {
  const device = mdts === 0 ? Number.POSITIVE_INFINITY : PAGE_BYTES * 2 ** mdts;
  const bytes = Math.min(device, queueBytesMax, NLB_MAX * blockSize);
  return Math.max(blockSize, Math.floor(bytes / blockSize) * blockSize);
}

/** The largest power of two that every aligned write of that many bytes is atomic in. */
function atomicOf(
  awun: number,
  ns: { readonly nsfeat: number; readonly nawun: number; readonly nabsn: number; readonly nabo: number },
  blockSize: number,
  transferBytesMax: number,
): number | undefined {
  const own = (ns.nsfeat & 2) !== 0;
  let blocks = (own ? ns.nawun : awun) + 1;
  // with boundaries, only what lies between two of them is atomic
  if (own && ns.nabsn !== 0) {
    if (ns.nabo !== 0) return undefined;
    blocks = Math.min(blocks, lowestPower(ns.nabsn + 1));
  }
  const bytes = Math.min(blocks * blockSize, transferBytesMax);
  const power = 2 ** Math.floor(Math.log2(bytes));
  return power <= blockSize ? undefined : power;
}

const lowestPower = (value: number): number => value & -value;

/** Copy over any number of ranges: as many commands as the destination's limits ask for. NVM Command Set 1.2 section 3.3.2. */
import { Feature } from '../spec/feature.ts';
import { IoOpcode } from '../spec/opcode.ts';
import { NvmeofError, NvmeStatusError } from '../util/error.ts';
import { HOST_BEHAVIOR_BYTES, hostBehaviorCodec } from '../wire/cold/host-behavior.ts';
import type { IdentifyNamespace } from '../wire/cold/identify-namespace.ts';
import { buildSqe } from './admin-queue.ts';
import type { Association } from './association.ts';
import type { HostController } from './controller.ts';
import type { IoOptions } from './operation.ts';

/** @public */
export interface CopySource {
  readonly slba: number;
  readonly blockCount: number;
  /** Default: the destination's namespace. */
  readonly nsid?: number | undefined;
  /** FCO: only if the controller does it faster than by reading and writing. */
  readonly fastOnly?: boolean | undefined;
}

/** @public */
export interface CopyOptions extends IoOptions {
  readonly fua?: boolean;
  /**
   * Descriptor format; default 0 within one namespace, else 2. 1 and 3 are the same with room for larger tags. 2 and 3 are enabled (feature 16h)
   * if need be.
   */
  readonly format?: 0 | 1 | 2 | 3;
}

/** The destination, as far as copying goes. */
export interface CopyDestination {
  readonly controller: HostController;
  readonly nsid: number;
  readonly identify: IdentifyNamespace;
}

/** Runs one command. @param path where it must go; undefined: anywhere */
export type RunCopy = (
  what: string,
  sqe: DataView,
  data: Uint8Array,
  path: HostController | undefined,
  replayable: boolean,
) => Promise<void>;

/** By format. */
const DESCRIPTOR_BYTES: readonly number[] = [32, 40, 32, 40];
/** Bit of the format: its descriptors name the namespace of their source. */
const FORMAT_ANY_NAMESPACE = 2;
const FAST_COPY_ONLY = 0x8000;
const FUA = 0x4000_0000;

/** A part of a source. */
interface Piece {
  readonly source: CopySource;
  readonly slba: number;
  readonly blockCount: number;
}

export async function copyRanges(
  destination: CopyDestination,
  slba: number,
  sources: readonly CopySource[],
  options: CopyOptions,
  run: RunCopy,
): Promise<void> {
  const { controller, nsid } = destination;
  if (sources.length === 0) throw new NvmeofError('NVMEOF_ERR_ARGUMENT', 'Copy has no source range; give at least one');
  const elsewhere = sources.some((source) => (source.nsid ?? nsid) !== nsid);
  const format = options.format ?? (elsewhere ? FORMAT_ANY_NAMESPACE : 0);
  const within = (format & FORMAT_ANY_NAMESPACE) === 0;
  if (elsewhere && within) {
    throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `Copy format ${format} has no source namespaces; take format 2`);
  }
  const commands = split(destination.identify, sources);
  const total = sources.reduce((sum, { blockCount }) => sum + blockCount, 0);
  const overlaps = sources.some(
    (one) => (one.nsid ?? nsid) === nsid && one.slba < slba + total && slba < one.slba + one.blockCount,
  );
  if (overlaps && commands.length > 1) {
    const told = `Copy of ${total} blocks onto its own sources takes ${commands.length} commands`;
    throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `${told}, the first of which would change what the next copy`);
  }
  if (!within) await enableFormat(controller, format);
  let at = slba;
  for (const pieces of commands) {
    const sqe = buildSqe({
      opcode: IoOpcode.Copy,
      nsid,
      cdw10: at >>> 0,
      cdw11: at / 0x1_0000_0000,
      cdw12: (pieces.length - 1) | (format << 8) | (options.fua ? FUA : 0),
    });
    const data = descriptors(pieces, DESCRIPTOR_BYTES[format]!, within ? undefined : nsid);
    const what = `Copy to namespace ${nsid}, block ${at}`;
    // sent again, a copy onto its sources would copy what it has changed; formats 2 and 3 must be enabled again first
    await run(what, sqe, data, within ? undefined : controller, !overlaps && within).catch((error: unknown) => {
      throw error instanceof NvmeStatusError ? atSource(what, error, sources, pieces) : error;
    });
    at += pieces.reduce((sum, { blockCount }) => sum + blockCount, 0);
  }
}

/** DW0 counts the ranges of one command: says which of the caller's it was. */
function atSource(
  what: string,
  error: NvmeStatusError,
  sources: readonly CopySource[],
  pieces: readonly Piece[],
): NvmeStatusError {
  const piece = pieces[Math.min(error.result, pieces.length - 1)]!;
  const index = sources.indexOf(piece.source);
  const place = `source ${index} (block ${piece.slba}, ${piece.blockCount})`;
  return new NvmeStatusError(`${what} from ${place}`, error.status, 'io', index);
}

function split({ mssrl, mcl, msrc }: IdentifyNamespace, sources: readonly CopySource[]): Piece[][] {
  if (mssrl === 0 || mcl === 0) {
    throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', 'Copy is not supported by the controller (MSSRL and MCL are 0)');
  }
  const commands: Piece[][] = [];
  let pieces: Piece[] = [];
  let blocks = 0;
  for (const source of sources) {
    for (let done = 0; done < source.blockCount; ) {
      if (pieces.length === msrc + 1 || blocks === mcl) {
        commands.push(pieces);
        pieces = [];
        blocks = 0;
      }
      const blockCount = Math.min(source.blockCount - done, mssrl, mcl - blocks);
      pieces.push({ source, slba: source.slba + done, blockCount });
      blocks += blockCount;
      done += blockCount;
    }
  }
  commands.push(pieces);
  return commands;
}

/** @param nsid of the destination, where descriptors name namespaces */
function descriptors(pieces: readonly Piece[], bytes: number, nsid: number | undefined): Uint8Array {
  const view = new DataView(new ArrayBuffer(pieces.length * bytes));
  pieces.forEach(({ source, slba, blockCount }, i) => {
    const at = i * bytes;
    if (nsid !== undefined) view.setUint32(at, source.nsid ?? nsid, true);
    view.setBigUint64(at + 8, BigInt(slba), true);
    view.setUint16(at + 16, blockCount - 1, true);
    if (nsid !== undefined && source.fastOnly === true) view.setUint16(at + 22, FAST_COPY_ONLY, true);
  });
  return new Uint8Array(view.buffer);
}

/** The formats that are enabled on an association, as CDFE: a reset or a new connection disables them. */
const enabled = new WeakMap<Association, number>();

async function enableFormat(controller: HostController, format: number): Promise<void> {
  const { association } = controller;
  if (association !== undefined && ((enabled.get(association) ?? 0) & (1 << format)) !== 0) return;
  if ((controller.identify.ocfs & (1 << format)) === 0) {
    const told = `Copy between namespaces (descriptor format ${format}) is not supported by the controller`;
    throw new NvmeofError('NVMEOF_ERR_UNSUPPORTED', `${told}; read and write instead`);
  }
  const { data } = await controller.getFeature(Feature.HostBehaviorSupport, { readBytes: HOST_BEHAVIOR_BYTES });
  const behavior = hostBehaviorCodec.decode(data);
  const cdfe = behavior.cdfe | (1 << format);
  if (cdfe !== behavior.cdfe) {
    await controller.setFeature(Feature.HostBehaviorSupport, { data: hostBehaviorCodec.encode({ ...behavior, cdfe }) });
  }
  if (association !== undefined && association === controller.association) enabled.set(association, cdfe);
}

/** Copy: several source ranges, one destination. NVM Command Set 1.2 section 3.3.2. */
import type { CopyLimits, DeviceCopy } from '../../backend/block-backend.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, IoStatus, Status } from '../../spec/status.ts';
import { sqeCdw12, sqeSlba } from '../../wire/sqe.ts';
import { Access, refusalOf } from '../access.ts';
import type { Controller } from '../controller.ts';
import { CopyJob, type CopySource } from '../copy-job.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { admitted } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';

/**
 * OCFS: descriptor formats 0 and 1 (sources in the destination namespace), 2 and 3 (any namespace). Formats 1 and 3 have room for the tags of
 * 32-bit and 64-bit guards; without protection information, each does what its neighbour does.
 */
export const COPY_FORMATS = 0x0f;
/** Bit of the format: its sources may be in any namespace. */
const FORMAT_ANY_NAMESPACE = 2;
/** By format. */
const DESCRIPTOR_BYTES: readonly number[] = [32, 40, 32, 40];
const SOPT_FAST_COPY_ONLY = 0x8000;
const CDW12_FUA = 0x4000_0000;

const COPY_BYTES_MAX = 16 << 20;
const RANGE_BYTES_MAX = 4 << 20;
const RANGES_MAX = 128;

/** A device's own where it copies, so that what is within them is one command of it. */
export function copyLimits({ backend, blockSize }: Namespace): CopyLimits {
  return (
    backend.copyLimits ?? { mssrl: RANGE_BYTES_MAX / blockSize, mcl: COPY_BYTES_MAX / blockSize, msrc: RANGES_MAX - 1 }
  );
}

const READ = Access.Attached | Access.Read;
const WRITE = Access.Attached | Access.Write;

const formatOf = (request: Request): number => (sqeCdw12(request.sqe, request.sqeBase) >>> 8) & 0xf;

export const copy: CommandHandler = {
  prepare(request): number {
    const namespace = admitted(request, WRITE);
    if (namespace === undefined) return request.status;
    const format = formatOf(request);
    const { copyFormatsEnabled } = request.queuePair.controller!.hostBehavior;
    const enabled = (format & FORMAT_ANY_NAMESPACE) === 0 || (copyFormatsEnabled & (1 << format)) !== 0;
    if ((COPY_FORMATS & (1 << format)) === 0 || !enabled) return request.invalidField(49);
    const ranges = (sqeCdw12(request.sqe, request.sqeBase) & 0xff) + 1;
    if (ranges > copyLimits(namespace).msrc + 1) return request.fail(IoStatus.CommandSizeLimitExceeded, 48);
    if (sqeSlba(request.sqe, request.sqeBase) >= namespace.blockCount) return Status.LbaOutOfRange | DNR;
    request.direction = Direction.HostToController;
    request.transferBytes = ranges * DESCRIPTOR_BYTES[format]!;
    return 0;
  },
  execute(request): void {
    request.retain();
    const plan = planOf(request);
    if (typeof plan === 'number') {
      request.finish(plan);
      return;
    }
    const { sources, fault } = plan;
    const namespace = request.namespace!;
    const fua = (sqeCdw12(request.sqe, request.sqeBase) & CDW12_FUA) !== 0;
    if (fault === 0 && namespace.copiesItself && sources.every((source) => source.namespace === namespace)) {
      byDevice(request, sources, fua);
      return;
    }
    CopyJob.start(request, { sources, mayRun: () => mayRun(request, sources), fua }, (status, completeCount) => {
      const final = status !== 0 ? status : fault;
      request.result0 = final === 0 ? 0 : completeCount;
      request.finish(final);
    });
  },
};

/** As one command of the device that the namespace is. */
function byDevice(request: Request, sources: readonly CopySource[], fua: boolean): void {
  const refusal = mayRun(request, sources);
  if (refusal !== 0) {
    request.finish(refusal);
    return;
  }
  const job: DeviceCopy = { sources, completeCount: 0 };
  request.deviceCopy = job;
  request.fua = fua;
  request.continuation = (self, status) => {
    self.result0 = status === 0 ? 0 : job.completeCount;
    self.finish(status);
  };
  request.namespace!.copy(request);
}

interface Plan {
  /** What can be copied: up to the first range that cannot. */
  readonly sources: readonly CopySource[];
  /** What is wrong with the range after those, or 0. */
  readonly fault: number;
}

/** @returns a status where nothing at all is copied */
function planOf(request: Request): Plan | number {
  const namespace = request.namespace!;
  const controller = request.queuePair.controller!;
  const data = request.data();
  const view = new DataView(data.buffer, data.byteOffset, request.transferBytes);
  const format = formatOf(request);
  const descriptorBytes = DESCRIPTOR_BYTES[format]!;
  const { mssrl, mcl } = copyLimits(namespace);
  const sdlba = sqeSlba(request.sqe, request.sqeBase);
  let blocks = 0;
  for (let at = 0; at < view.byteLength; at += descriptorBytes) {
    const count = view.getUint16(at + 16, true) + 1;
    if (count > mssrl) return IoStatus.CommandSizeLimitExceeded | DNR;
    blocks += count;
  }
  if (blocks > mcl) return IoStatus.CommandSizeLimitExceeded | DNR;
  if (sdlba + blocks > namespace.blockCount) return Status.LbaOutOfRange | DNR;
  request.offsetBytes = sdlba * namespace.blockSize;
  request.lengthBytes = blocks * namespace.blockSize;

  const sources: CopySource[] = [];
  const within = (format & FORMAT_ANY_NAMESPACE) === 0;
  let fault = 0;
  for (let at = 0; at < view.byteLength; at += descriptorBytes) {
    const source = sourceOf(view, at, within, controller, namespace);
    if (typeof source === 'number') {
      fault ||= source;
      continue;
    }
    // within one namespace, overlapping is the host's business; of these formats, it is an error
    if (!within && source.namespace === namespace && overlaps(source, request))
      return IoStatus.OverlappingIoRange | DNR;
    if (fault === 0) sources.push(source);
  }
  return { sources, fault };
}

const overlaps = (one: CopySource, other: { readonly offsetBytes: number; readonly lengthBytes: number }): boolean =>
  one.offsetBytes < other.offsetBytes + other.lengthBytes && other.offsetBytes < one.offsetBytes + one.lengthBytes;

/** One descriptor. @returns why it cannot be copied, or where it is */
function sourceOf(
  view: DataView,
  at: number,
  within: boolean,
  controller: Controller,
  destination: Namespace,
): CopySource | number {
  const nsid = within ? destination.nsid : view.getUint32(at, true);
  if (nsid === 0 || nsid > controller.subsystem.nsidMax) return Status.InvalidNamespaceOrFormat | DNR;
  const namespace = controller.subsystem.namespaces[nsid];
  if (!isReadable(controller, nsid)) return refusalOf(controller, namespace, READ) ?? Status.InvalidField | DNR;
  if (namespace!.blockSize !== destination.blockSize) return IoStatus.IncompatibleNamespaceOrFormat | DNR;
  // (reserved in the formats within a namespace)
  if (!within && (view.getUint16(at + 22, true) & SOPT_FAST_COPY_ONLY) !== 0) return IoStatus.FastCopyNotPossible | DNR;
  const slba = view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 2 ** 32;
  const blocks = view.getUint16(at + 16, true) + 1;
  if (slba + blocks > namespace!.blockCount) return Status.LbaOutOfRange | DNR;
  return {
    namespace: namespace!,
    offsetBytes: slba * destination.blockSize,
    lengthBytes: blocks * destination.blockSize,
  };
}

const isReadable = (controller: Controller, nsid: number): boolean => (controller.access[nsid]! & READ) === READ;

/** The gate once more, between the parts of a long copy. @returns 0, or why it must not go on */
function mayRun(request: Request, sources: readonly CopySource[]): number {
  const controller = request.queuePair.controller!;
  const { namespaces } = controller.subsystem;
  if (request.abandoned) return Status.AbortedSqDeletion;
  const destination = request.namespace!;
  if ((controller.access[destination.nsid]! & WRITE) !== WRITE || namespaces[destination.nsid] !== destination) {
    return refusalOf(controller, namespaces[destination.nsid], WRITE) ?? Status.InvalidField | DNR;
  }
  for (const { namespace } of sources) {
    if (!isReadable(controller, namespace.nsid) || namespaces[namespace.nsid] !== namespace) {
      return refusalOf(controller, namespaces[namespace.nsid], READ) ?? Status.InvalidField | DNR;
    }
  }
  return 0;
}

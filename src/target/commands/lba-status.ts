/** Get LBA Status: which blocks are allocated, which ones Write Uncorrectable has made unreadable; and log page 0Eh, where to look. NVM Command Set 1.2 section 4.2.1. */
import type { AllocatedRuns, BlockBackend } from '../../backend/block-backend.ts';
import { Direction } from '../../spec/opcode.ts';
import { DNR, PathStatus, STATUS_CODE_MASK, Status } from '../../spec/status.ts';
import { NvmeStatusError } from '../../util/error.ts';
import { type LbaStatusDescriptor, lbaStatusCodec, lbaStatusDescriptorCodec } from '../../wire/cold/lba-status.ts';
import { lbaStatusLogCodec, lbaStatusLogElementCodec } from '../../wire/cold/log-lba-status.ts';
import { sqeCdw10, sqeCdw12, sqeCdw13, sqeSlba } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import type { Controller } from '../controller.ts';
import type { Namespace } from '../namespace.ts';
import type { Request } from '../request.ts';
import { admitted } from './admitted.ts';
import type { CommandHandler } from './command-set.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';

const ACTION_ALLOCATED = 0x02;
/** ATYPE: allocated blocks; unreadable ones after a scan, or as tracked. We track all there is, so both of these give the same. */
const ACTIONS: readonly number[] = [ACTION_ALLOCATED, 0x10, 0x11];
const ACTION_TRACKED = 0x11;
const DESCRIPTOR_BLOCKS_MAX = 2 ** 32;
/** Status of the blocks. */
const STATUS_ALLOCATED = 2;
/** By Write Uncorrectable only. */
const STATUS_WRITE_UNCORRECTABLE = 3;
const COMPLETION_INCOMPLETE = 1;
const COMPLETION_COMPLETE = 2;
const CDW10_RAE = 0x8000;
const LOG_EXAMINE_EVERYTHING = 0xffff_ffff;

export const getLbaStatus: CommandHandler = {
  prepare(request): number {
    const { sqe, sqeBase } = request;
    if (request.queuePair.controller!.subsystem.isDiscovery) return request.fail(Status.InvalidOpcode, 0);
    const namespace = admitted(request, Access.Attached | Access.Read);
    if (namespace === undefined) return request.status;
    if (!ACTIONS.includes(sqeCdw13(sqe, sqeBase) >>> 24)) return request.invalidField(55);
    const bytes = (sqeCdw12(sqe, sqeBase) + 1) * 4;
    if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(48);
    const slba = sqeSlba(sqe, sqeBase);
    const blocks = sqeCdw13(sqe, sqeBase) & 0xffff;
    if (slba >= namespace.blockCount || slba + blocks > namespace.blockCount) return Status.LbaOutOfRange | DNR;
    request.direction = Direction.ControllerToHost;
    request.transferBytes = bytes;
    return 0;
  },
  execute(request): void {
    const { sqe, sqeBase } = request;
    const slba = sqeSlba(sqe, sqeBase);
    const blocks = sqeCdw13(sqe, sqeBase) & 0xffff;
    const end = blocks === 0 ? request.namespace!.blockCount : slba + blocks;
    const room = Math.floor((request.transferBytes - lbaStatusCodec.size) / lbaStatusDescriptorCodec.size);
    const readAllocated = request.namespace!.backend.readAllocated;
    if (readAllocated !== undefined && isAllocation(request)) {
      void answerRemote(request, slba, end, Math.max(0, room), readAllocated);
      return;
    }
    answer(request, describe(request, slba, end, Math.max(0, room)));
  },
};

interface Description {
  readonly descriptors: readonly LbaStatusDescriptor[];
  readonly complete: boolean;
}

const isAllocation = ({ sqe, sqeBase }: Request): boolean => sqeCdw13(sqe, sqeBase) >>> 24 === ACTION_ALLOCATED;

/** The backend has to ask somebody else. */
async function answerRemote(
  request: Request,
  slba: number,
  end: number,
  room: number,
  readAllocated: NonNullable<BlockBackend['readAllocated']>,
): Promise<void> {
  const { blockSize } = request.namespace!;
  let found: AllocatedRuns;
  try {
    found = await readAllocated(slba * blockSize, end * blockSize, room);
  } catch (error) {
    request.finish(
      error instanceof NvmeStatusError ? error.status & STATUS_CODE_MASK : PathStatus.ControllerPathingError,
    );
    return;
  }
  const blocks = found.runs.map((run) => ({ start: run.startBytes / blockSize, end: run.endBytes / blockSize }));
  const { descriptors, complete } = descriptorsOf(blocks, STATUS_ALLOCATED, room);
  answer(request, { descriptors, complete: complete && found.complete });
}

function answer(request: Request, { descriptors, complete }: Description): void {
  const page = new Uint8Array(lbaStatusCodec.size + descriptors.length * lbaStatusDescriptorCodec.size);
  lbaStatusCodec.encodeInto(page, 0, {
    nlsd: descriptors.length,
    cmpc: complete ? COMPLETION_COMPLETE : COMPLETION_INCOMPLETE,
  });
  descriptors.forEach((descriptor, i) => {
    lbaStatusDescriptorCodec.encodeInto(page, lbaStatusCodec.size + i * lbaStatusDescriptorCodec.size, descriptor);
  });
  // what the host asked for beyond the descriptors reads as zero
  const data = new Uint8Array(request.transferBytes);
  data.set(page.subarray(0, data.length));
  request.answer(data);
  request.finish(Status.Success);
}

function describe(request: Request, slba: number, end: number, room: number): Description {
  const { namespace } = request;
  return isAllocation(request)
    ? descriptorsOf(allocated(namespace!, slba, end), STATUS_ALLOCATED, room)
    : descriptorsOf(namespace!.uncorrectable.within(slba, end), STATUS_WRITE_UNCORRECTABLE, room);
}

function descriptorsOf(ranges: Iterable<{ start: number; end: number }>, status: number, room: number): Description {
  const descriptors: LbaStatusDescriptor[] = [];
  for (const range of ranges) {
    for (let start = range.start; start < range.end; start += DESCRIPTOR_BLOCKS_MAX) {
      if (descriptors.length === room) return { descriptors, complete: false };
      const blocks = Math.min(DESCRIPTOR_BLOCKS_MAX, range.end - start);
      descriptors.push({ dslba: BigInt(start), nlb: blocks - 1, status });
    }
  }
  return { descriptors, complete: true };
}

/** Blocks that may hold what was written, in as few runs as there are; by whole granules, clipped to the range. */
function* allocated(namespace: Namespace, slba: number, end: number): Generator<{ start: number; end: number }> {
  const { backend, blockSize } = namespace;
  if (backend.nextAllocated === undefined) {
    yield { start: slba, end };
    return;
  }
  for (let from = slba; from < end; ) {
    const run = backend.nextAllocated(from * blockSize, end * blockSize);
    if (run === undefined) return;
    const granule = Math.max(1, allocationGranule(namespace)) * blockSize;
    const start = Math.max(slba, (Math.floor(run.startBytes / granule) * granule) / blockSize);
    from = Math.min(end, (Math.ceil(run.endBytes / granule) * granule) / blockSize);
    yield { start, end: from };
  }
}

/** TLBAAG: blocks by which allocation is known; 0 where it is not. */
export function allocationGranule({ backend, blockSize }: Namespace): number {
  return (backend.allocationUnitBytes ?? 0) / blockSize;
}

/** Log page 0Eh: the namespaces that have such blocks. It stands still from a read with RAE until one without. */
export function lbaStatusLog(request: Request, controller: Controller): Uint8Array {
  const frozen = controller.lbaStatusLog;
  if (frozen !== undefined) return frozen;
  const affected = controller.activeNamespaces().filter(({ uncorrectable }) => !uncorrectable.isEmpty);
  const page = new Uint8Array(lbaStatusLogCodec.size + affected.length * lbaStatusLogElementCodec.size);
  let blocks = 0;
  affected.forEach(({ nsid, uncorrectable }, i) => {
    blocks += uncorrectable.blockCount;
    lbaStatusLogElementCodec.encodeInto(page, lbaStatusLogCodec.size + i * lbaStatusLogElementCodec.size, {
      neid: nsid,
      nlrd: LOG_EXAMINE_EVERYTHING,
      ratype: ACTION_TRACKED,
    });
  });
  let generation = 0;
  for (const { uncorrectable } of controller.subsystem.allocatedNamespaces()) generation += uncorrectable.generation;
  lbaStatusLogCodec.encodeInto(page, 0, {
    lslplen: page.length,
    nlslne: affected.length,
    estulb: Math.min(blocks, LOG_EXAMINE_EVERYTHING - 1),
    lsgc: generation & 0xffff,
  });
  if ((sqeCdw10(request.sqe, request.sqeBase) & CDW10_RAE) !== 0) controller.lbaStatusLog = page;
  return page;
}

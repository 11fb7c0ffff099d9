/** Compare, Compare and Write (fused), Verify. NVM Command Set 1.2 sections 3.3.1, 3.3.5; Base 2.1 section 3.4.2. */
import { Direction, IoOpcode } from '../../spec/opcode.ts';
import { MediaStatus, Status } from '../../spec/status.ts';
import { sqeCdw12 } from '../../wire/sqe.ts';
import { Access } from '../access.ts';
import { RangeScan, type Visit } from '../range-scan.ts';
import type { Request } from '../request.ts';
import { admitted, blockRange } from './admitted.ts';
import type { CommandHandler, FusedOperation } from './command-set.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';

const CDW12_PRACT = 0x2000_0000;
const READ = Access.Attached | Access.Read;

/** Namespace, range, and PRACT, which neither may set. */
function prepareScan(request: Request): number {
  const namespace = admitted(request, READ);
  if (namespace === undefined) return request.status;
  const status = blockRange(request, namespace);
  if (status !== 0) return status;
  return (sqeCdw12(request.sqe, request.sqeBase) & CDW12_PRACT) !== 0 ? request.invalidField(51, 5) : 0;
}

/** Compares pieces of the namespace with the command's data. */
function against(request: Request): Visit {
  const data = request.data();
  return (view, offset) =>
    Buffer.compare(view, data.subarray(offset, offset + view.length)) === 0 ? 0 : MediaStatus.CompareFailure;
}

export const compare: CommandHandler = {
  prepare(request): number {
    const status = prepareScan(request);
    if (status !== 0) return status;
    if (request.lengthBytes > TRANSFER_BYTES_MAX) return request.invalidField(48);
    request.direction = Direction.HostToController;
    request.transferBytes = request.lengthBytes;
    return 0;
  },
  execute(request): void {
    request.retain();
    const namespace = request.namespace!;
    namespace.countRead(request.lengthBytes);
    if (namespace.backend.compare === undefined)
      RangeScan.start(request, false, against(request), (status) => request.finish(status));
    else namespace.compare(request);
  },
};

export const verify: CommandHandler = {
  prepare: prepareScan,
  execute(request): void {
    const namespace = request.namespace!;
    namespace.countRead(request.lengthBytes);
    if (namespace.backend.verify === undefined)
      RangeScan.start(request, false, undefined, (status) => request.finish(status));
    else namespace.verify(request);
  },
};

/** The range is the pair's alone from before the comparison until after the write. */
export const compareAndWrite: FusedOperation = {
  first: IoOpcode.Compare,
  second: IoOpcode.Write,
  execute(_first, second): void {
    second.continuation = rangeLocked;
    second.namespace!.lock(second);
  },
};

function rangeLocked(second: Request): void {
  const first = second.partner!;
  if (second.abandoned) {
    endUnwritten(second, Status.AbortedSqDeletion, Status.AbortedSqDeletion);
    return;
  }
  first.namespace!.countRead(first.lengthBytes);
  RangeScan.start(first, true, against(first), (status) => {
    if (status !== 0) {
      endUnwritten(second, status, Status.AbortedFailedFused);
    } else {
      second.continuation = written;
      second.namespace!.writeLocked(second);
    }
  });
}

function endUnwritten(second: Request, firstStatus: number, secondStatus: number): void {
  const first = second.partner!;
  second.namespace!.unlock(second);
  first.finish(firstStatus);
  second.finish(secondStatus);
}

/** A write that fails does not change what the comparison found. */
function written(second: Request, status: number): void {
  second.partner!.finish(Status.Success);
  second.finish(status);
}

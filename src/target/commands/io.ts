// @hot
/** I/O commands of the NVM command set. NVM Command Set 1.2 section 3.3. */

import { NSID_ALL } from '../../spec/identify.ts';
import { Direction, IoOpcode } from '../../spec/opcode.ts';
import { DNR, Status } from '../../spec/status.ts';
import { sqeCdw10, sqeCdw11, sqeCdw12, sqeNsid } from '../../wire/sqe.ts';
import { Access, refusalOf } from '../access.ts';
import { anaStatusOfAll } from '../ana-access.ts';
import type { Controller } from '../controller.ts';
import type { Request } from '../request.ts';
import { admitted, blockRange } from './admitted.ts';
import { type CommandSet, commandSet } from './command-set.ts';
import { compare, compareAndWrite, verify } from './compare.ts';
import { copy } from './copy.ts';
import { TRANSFER_BYTES_MAX } from './limits.ts';
import { reservationCommands } from './reservation.ts';
import { writeUncorrectable } from './write-uncorrectable.ts';

const CDW12_FUA = 0x4000_0000;
const CDW12_DEAC = 0x0200_0000;
const CDW12_NSZ = 0x0080_0000;
/** DW0 of Write Zeroes: the whole namespace was zeroed. */
const NAMESPACE_ZEROED = 1;
/** PRINFO.PRCHK and STC, which Write Zeroes must leave 0. */
const CDW12_CHECKS = 0x1d00_0000;
const DSM_DEALLOCATE = 0x4;
const DSM_RANGE_BYTES = 16;

const READ = Access.Attached | Access.Read;
const WRITE = Access.Attached | Access.Write;
const FLUSH = Access.Attached | Access.Flush;
const ADVISE = Access.Attached | Access.Advise;

function prepareRead(request: Request): number {
  const namespace = admitted(request, READ);
  if (namespace === undefined) return request.status;
  const status = blockRange(request, namespace);
  if (status !== 0) return status;
  const bytes = request.lengthBytes;
  if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(48);
  request.direction = Direction.ControllerToHost;
  request.transferBytes = bytes;
  const lends = !namespace.readNeedsBuffer && request.queuePair.transport.sendsByPlace === true;
  request.bufferBytes = lends ? 0 : bytes;
  request.fua = (sqeCdw12(request.sqe, request.sqeBase) & CDW12_FUA) !== 0;
  return 0;
}

function executeRead(request: Request): void {
  request.namespace!.read(request);
}

function prepareWrite(request: Request): number {
  const namespace = admitted(request, WRITE);
  if (namespace === undefined) return request.status;
  const status = blockRange(request, namespace);
  if (status !== 0) return status;
  const bytes = request.lengthBytes;
  if (bytes > TRANSFER_BYTES_MAX) return request.invalidField(48);
  request.passesDataOn = true;
  request.direction = Direction.HostToController;
  request.transferBytes = bytes;
  request.fua = (sqeCdw12(request.sqe, request.sqeBase) & CDW12_FUA) !== 0;
  return 0;
}

function executeWrite(request: Request): void {
  request.namespace!.write(request);
}

/** FFFFFFFFh flushes every attached namespace (VWC bits 2:1 = 11b). */
function prepareFlush(request: Request): number {
  if (sqeNsid(request.sqe, request.sqeBase) === NSID_ALL) {
    // one that cannot be reached, or may not be flushed, must not pass for flushed
    const controller = request.queuePair.controller!;
    return anaStatusOfAll(controller) || flushAllStatus(controller);
  }
  return admitted(request, FLUSH) === undefined ? request.status : 0;
}

/** 0, or why the host may not flush one of its namespaces. */
function flushAllStatus(controller: Controller): number {
  const { access } = controller;
  for (let nsid = 1; nsid < access.length; nsid++) {
    if ((access[nsid]! & FLUSH) === Access.Attached) {
      return refusalOf(controller, controller.subsystem.namespaces[nsid], FLUSH)!;
    }
  }
  return 0;
}

function executeFlush(request: Request): void {
  if (request.namespace !== undefined) {
    request.namespace.flush(request);
    return;
  }
  request.progress = 0;
  flushNext(request, 0);
}

function flushNext(request: Request, status: number): void {
  const controller = request.queuePair.controller!;
  const { access } = controller;
  const { namespaces } = controller.subsystem;
  let nsid = request.progress + 1;
  while (nsid < access.length && (access[nsid]! & FLUSH) !== FLUSH) nsid++;
  if (status !== 0 || nsid >= access.length) {
    request.finish(status);
    return;
  }
  request.progress = nsid;
  request.continuation = flushNext;
  namespaces[nsid]!.flush(request);
}

function prepareWriteZeroes(request: Request): number {
  const namespace = admitted(request, WRITE);
  if (namespace === undefined) return request.status;
  const cdw12 = sqeCdw12(request.sqe, request.sqeBase);
  if ((cdw12 & CDW12_CHECKS) !== 0) return request.invalidField(51);
  request.fua = (cdw12 & CDW12_FUA) !== 0;
  if ((cdw12 & CDW12_NSZ) === 0) return blockRange(request, namespace);
  // the whole namespace, which only deallocation makes quick: SLBA and NLB are ignored
  if ((cdw12 & CDW12_DEAC) === 0 || !namespace.backend.readsZeroAfterDeallocate) return request.invalidField(50, 7);
  request.offsetBytes = 0;
  request.lengthBytes = namespace.blockCount * namespace.blockSize;
  request.result0 = NAMESPACE_ZEROED;
  return 0;
}

function executeWriteZeroes(request: Request): void {
  const mayDeallocate = (sqeCdw12(request.sqe, request.sqeBase) & CDW12_DEAC) !== 0;
  const namespace = request.namespace!;
  namespace.writeZeroes(request, mayDeallocate && namespace.backend.readsZeroAfterDeallocate);
}

function prepareDsm(request: Request): number {
  const deallocates = (sqeCdw11(request.sqe, request.sqeBase) & DSM_DEALLOCATE) !== 0;
  // hints alone change nothing, but are no more welcome from a host that may not write
  if (admitted(request, deallocates ? WRITE : ADVISE) === undefined) return request.status;
  request.direction = Direction.HostToController;
  request.transferBytes = ((sqeCdw10(request.sqe, request.sqeBase) & 0xff) + 1) * DSM_RANGE_BYTES;
  return 0;
}

function executeDsm(request: Request): void {
  request.retain();
  const namespace = request.namespace!;
  const data = request.data();
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  for (let at = 0; at < data.length; at += DSM_RANGE_BYTES) {
    if (rangeSlba(view, at) + view.getUint32(at + 4, true) > namespace.blockCount) {
      request.finish(Status.LbaOutOfRange | DNR);
      return;
    }
  }
  if ((sqeCdw11(request.sqe, request.sqeBase) & DSM_DEALLOCATE) === 0) {
    request.finish(0); // hints only
    return;
  }
  request.progress = 0;
  deallocateNext(request, 0);
}

const rangeSlba = (view: DataView, at: number): number =>
  view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 0x1_0000_0000;

/** One range after the other. */
function deallocateNext(request: Request, status: number): void {
  const data = request.data();
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const namespace = request.namespace!;
  let at = request.progress * DSM_RANGE_BYTES;
  while (at < data.length && view.getUint32(at + 4, true) === 0) at += DSM_RANGE_BYTES;
  if (status !== 0 || at >= data.length) {
    request.finish(status);
    return;
  }
  request.progress = at / DSM_RANGE_BYTES + 1;
  request.offsetBytes = rangeSlba(view, at) * namespace.blockSize;
  request.lengthBytes = view.getUint32(at + 4, true) * namespace.blockSize;
  request.continuation = deallocateNext;
  namespace.deallocate(request);
}

/** What an I/O queue serves. */
export const ioCommandSet: CommandSet = commandSet(
  {
    [IoOpcode.Flush]: { prepare: prepareFlush, execute: executeFlush },
    [IoOpcode.Write]: { prepare: prepareWrite, execute: executeWrite },
    [IoOpcode.Read]: { prepare: prepareRead, execute: executeRead },
    [IoOpcode.WriteZeroes]: { prepare: prepareWriteZeroes, execute: executeWriteZeroes },
    [IoOpcode.DatasetManagement]: { prepare: prepareDsm, execute: executeDsm },
    [IoOpcode.WriteUncorrectable]: writeUncorrectable,
    [IoOpcode.Compare]: compare,
    [IoOpcode.Verify]: verify,
    [IoOpcode.Copy]: copy,
    ...reservationCommands,
  },
  compareAndWrite,
);

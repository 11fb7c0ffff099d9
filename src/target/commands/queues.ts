/** Admin commands that exist only where queues stand in host memory: create and delete I/O queues, Doorbell Buffer Config. Base 2.1 sections 5.2.1 to 5.2.5. */
import { DNR, SpecificStatus, Status } from '../../spec/status.ts';
import { sqeCdw10, sqeCdw11 } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import type { Request } from '../request.ts';
import type { CommandHandler } from './command-set.ts';

const CONTIGUOUS = 0x1;
const INTERRUPTS_ENABLED = 0x2;
const PRP1 = 24;
const PRP2 = 32;
/** The largest queue ends below 2^53. */
const ADDRESS_MAX = 2 ** 53 - 65536 * 64;

const isPcie = ({ memory }: Controller): boolean => memory !== undefined;
const cdw10 = (request: Request): number => sqeCdw10(request.sqe, request.sqeBase);
const cdw11 = (request: Request): number => sqeCdw11(request.sqe, request.sqeBase);

function address(request: Request, offset: number): number {
  const { sqe, sqeBase } = request;
  return sqe.getUint32(sqeBase + offset, true) + sqe.getUint32(sqeBase + offset + 4, true) * 2 ** 32;
}

/** QID, QSIZE and PRP1, which both kinds of queues have. @returns 0 or a status */
function checkQueue(request: Request, exists: boolean): number {
  const controller = request.queuePair.controller!;
  const qid = cdw10(request) & 0xffff;
  const entries = (cdw10(request) >>> 16) + 1;
  if (qid === 0 || qid > controller.ioQueuesMax || exists) {
    return request.fail(SpecificStatus.InvalidQueueIdentifier, 40);
  }
  if (entries < 2 || entries > controller.queueEntriesMax) return request.fail(SpecificStatus.InvalidQueueSize, 42);
  // CAP.CQR
  if ((cdw11(request) & CONTIGUOUS) === 0) return request.invalidField(44);
  const base = address(request, PRP1);
  if (base % controller.memory!.pageBytes !== 0) return request.fail(Status.PrpOffsetInvalid, PRP1);
  return base < ADDRESS_MAX ? 0 : request.invalidField(PRP1);
}

export const createCompletionQueue: CommandHandler = {
  isOffered: isPcie,
  prepare: () => 0,
  execute(request): void {
    const memory = request.queuePair.controller!.memory!;
    const qid = cdw10(request) & 0xffff;
    const status = checkQueue(request, memory.hasCompletionQueue(qid));
    const vector = cdw11(request) >>> 16;
    if (status !== 0) {
      request.finish(status);
    } else if (vector >= memory.vectorsUsable) {
      request.finish(request.fail(SpecificStatus.InvalidInterruptVector, 46));
    } else {
      memory.createCompletionQueue({
        qid,
        entries: (cdw10(request) >>> 16) + 1,
        address: address(request, PRP1),
        vector,
        hasInterrupt: (cdw11(request) & INTERRUPTS_ENABLED) !== 0,
      });
      request.finish(0);
    }
  },
};

export const createSubmissionQueue: CommandHandler = {
  isOffered: isPcie,
  prepare: () => 0,
  execute(request): void {
    const memory = request.queuePair.controller!.memory!;
    const qid = cdw10(request) & 0xffff;
    const cqid = cdw11(request) >>> 16;
    // one that is being deleted still has its identifier
    const status = checkQueue(request, request.queuePair.controller!.hasQueue(qid));
    if (status !== 0) {
      request.finish(status);
    } else if (cqid === 0 || !memory.hasCompletionQueue(cqid)) {
      request.finish(request.fail(SpecificStatus.CompletionQueueInvalid, 46));
    } else {
      memory.createSubmissionQueue({
        qid,
        entries: (cdw10(request) >>> 16) + 1,
        address: address(request, PRP1),
        cqid,
        priority: (cdw11(request) >>> 1) & 0x3,
      });
      request.finish(0);
    }
  },
};

export const deleteCompletionQueue: CommandHandler = {
  isOffered: isPcie,
  prepare: () => 0,
  execute(request): void {
    const memory = request.queuePair.controller!.memory!;
    const qid = cdw10(request) & 0xffff;
    if (qid === 0 || !memory.hasCompletionQueue(qid)) {
      request.finish(request.fail(SpecificStatus.InvalidQueueIdentifier, 40));
    } else {
      request.finish(memory.deleteCompletionQueue(qid) ? 0 : SpecificStatus.InvalidQueueDeletion | DNR);
    }
  },
};

export const deleteSubmissionQueue: CommandHandler = {
  isOffered: isPcie,
  prepare: () => 0,
  execute(request): void {
    const memory = request.queuePair.controller!.memory!;
    const qid = cdw10(request) & 0xffff;
    if (qid === 0 || !memory.hasSubmissionQueue(qid)) {
      request.finish(request.fail(SpecificStatus.InvalidQueueIdentifier, 40));
    } else {
      memory.deleteSubmissionQueue(qid, () => request.finish(0));
    }
  },
};

export const doorbellBufferConfig: CommandHandler = {
  isOffered: isPcie,
  prepare: () => 0,
  execute(request): void {
    const memory = request.queuePair.controller!.memory!;
    const shadow = address(request, PRP1);
    const eventIndex = address(request, PRP2);
    if (shadow % memory.pageBytes !== 0) request.finish(request.invalidField(PRP1));
    else if (eventIndex % memory.pageBytes !== 0) request.finish(request.invalidField(PRP2));
    else if (!memory.setDoorbellBuffers(shadow, eventIndex)) request.finish(Status.DataTransferError | DNR);
    else request.finish(0);
  },
};

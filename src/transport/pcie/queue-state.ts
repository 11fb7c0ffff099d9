/** I/O queues in host memory as the NVMe Controller State (version 0) has them: saved, checked, made again. Base 2.1 section 5.1.13. */
import type { NvmeControllerState } from '../../wire/cold/controller-state.ts';
import { ADDRESS_MAX } from './guest-memory.ts';
import type { SubmissionQueueRequest } from './memory-transport.ts';
import type { QueueSet } from './queue-set.ts';

/** Bytes of the longest queue. */
const QUEUE_BYTES_MAX = 65_536 * 64;
const CONTIGUOUS = 1;
const HAS_INTERRUPT = 2;

export function saveQueues(queues: QueueSet): NvmeControllerState {
  queues.readShadow();
  return {
    submissionQueues: queues.submissionQueues
      .filter(({ qid }) => qid > 0)
      .map((queue) => ({
        prp1: BigInt(queue.address),
        qsize: queue.entries - 1,
        qid: queue.qid,
        cqid: queue.completionQueue.qid,
        attributes: CONTIGUOUS | (queue.priority << 1),
        head: queue.head,
        tail: queue.tail,
      })),
    completionQueues: queues.completionQueues
      .filter(({ qid }) => qid > 0)
      .map((queue) => ({
        prp1: BigInt(queue.address),
        qsize: queue.entries - 1,
        qid: queue.qid,
        head: queue.head,
        tail: queue.tail,
        attributes: CONTIGUOUS | (queue.hasInterrupt ? HAS_INTERRUPT : 0) | (queue.slot0Phase << 2),
        vector: queue.vector,
      })),
  };
}

export interface QueueLimits {
  readonly ioQueuesMax: number;
  readonly queueEntriesMax: number;
  readonly pageBytes: number;
  readonly vectorCount: number;
}

/** @returns what is wrong, to follow "Controller state" */
export function checkQueues(state: NvmeControllerState, limits: QueueLimits): string | undefined {
  const { submissionQueues, completionQueues } = state;
  const cqids = new Set(completionQueues.map(({ qid }) => qid));
  for (const queue of [...submissionQueues, ...completionQueues]) {
    const { qid, qsize, head, tail, prp1, attributes } = queue;
    if (qid > limits.ioQueuesMax) return `has a queue ${qid}, granted are ${limits.ioQueuesMax}`;
    if (qsize < 1 || qsize >= limits.queueEntriesMax) return `has a queue ${qid} of ${qsize + 1} entries`;
    if (head > qsize || tail > qsize) return `has a queue ${qid} with a pointer behind its end`;
    if ((attributes & CONTIGUOUS) === 0) return `has a queue ${qid} that is not contiguous`;
    if (prp1 % BigInt(limits.pageBytes) !== 0n || prp1 >= BigInt(ADDRESS_MAX - QUEUE_BYTES_MAX)) {
      return `has a queue ${qid} at 0x${prp1.toString(16)}`;
    }
  }
  for (const { qid, cqid } of submissionQueues) {
    if (!cqids.has(cqid)) return `has a submission queue ${qid} without its completion queue ${cqid}`;
  }
  for (const { qid, vector } of completionQueues) {
    if (vector >= limits.vectorCount) return `has a completion queue ${qid} with vector ${vector}`;
  }
  return undefined;
}

/** Of a checked state, into a controller without I/O queues. */
export function loadQueues(
  queues: QueueSet,
  { submissionQueues, completionQueues }: NvmeControllerState,
  createSubmissionQueue: (request: SubmissionQueueRequest) => void,
): void {
  for (const { qid, qsize, prp1, vector, attributes, head, tail } of completionQueues) {
    const hasInterrupt = (attributes & HAS_INTERRUPT) !== 0;
    const options = { qid, entries: qsize + 1, address: Number(prp1), vector, hasInterrupt };
    queues.addCompletionQueue(options).restore(head, tail, (attributes >>> 2) & 1);
  }
  for (const { qid, qsize, prp1, cqid, attributes, head, tail } of submissionQueues) {
    const priority = (attributes >>> 1) & 3;
    createSubmissionQueue({ qid, entries: qsize + 1, address: Number(prp1), cqid, priority });
    const queue = queues.submissionQueue(qid)!;
    queue.head = head;
    queue.tail = tail;
  }
}

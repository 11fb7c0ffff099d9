/** What a controller whose queues stand in host memory asks of its transport: commands that exist only there, and what live migration needs of it. */

import type { Request } from '../../target/request.ts';
import type {
  CompletionQueueState,
  NvmeControllerState,
  SubmissionQueueState,
} from '../../wire/cold/controller-state.ts';
import type { GuestMemory } from './guest-memory.ts';

/** Create I/O Completion Queue. */
export interface CompletionQueueRequest {
  readonly qid: number;
  readonly entries: number;
  readonly address: number;
  readonly vector: number;
  readonly hasInterrupt: boolean;
}

/** Create I/O Submission Queue. */
export interface SubmissionQueueRequest {
  readonly qid: number;
  readonly entries: number;
  readonly address: number;
  readonly cqid: number;
  readonly priority: number;
}

/** Of the data pointer of a command, before it is executed. */
export interface PointedCommand {
  readonly sqe: DataView;
  readonly sqeBase: number;
}

export interface MemoryTransport {
  readonly memory: GuestMemory;
  /** CC.MPS in bytes. */
  readonly pageBytes: number;
  /** Bits of CAP that are the transport's: DSTRD, NSSRS, MPSMAX. */
  readonly capabilities: bigint;

  // ---- the controller's life ------------------------------------------------------------------------------------------------------

  /** CC.EN was set, in a configuration that the core has no objection to. @returns false: it cannot be ready (CSTS.CFS) */
  enable(cc: number): boolean;
  /** Controller Level Reset: every queue is closed. */
  disabled(): void;
  /** The controller is gone from its subsystem. */
  closed(): void;
  /** As by PCIe reset, by NVM Subsystem Reset. */
  subsystemReset(): void;
  /** VID and SSVID of Identify Controller. */
  readonly vendorId: number;

  // ---- queues: statuses without DNR, 0 for success --------------------------------------------------------------------------------

  hasCompletionQueue(qid: number): boolean;
  hasSubmissionQueue(qid: number): boolean;
  /** Vectors that a completion queue may name now. */
  readonly vectorsUsable: number;
  createCompletionQueue(request: CompletionQueueRequest): void;
  createSubmissionQueue(request: SubmissionQueueRequest): void;
  /** @returns false if submission queues complete there */
  deleteCompletionQueue(qid: number): boolean;
  /** `done` is called when everything that was fetched has completed. */
  deleteSubmissionQueue(qid: number, done: () => void): void;
  /** Doorbell Buffer Config. @returns false if a buffer is not in guest memory */
  setDoorbellBuffers(shadowAddress: number, eventIndexAddress: number): boolean;

  /** The first bytes of a command's data, or undefined if they are not in guest memory. */
  peek(command: PointedCommand, length: number): Uint8Array | undefined;

  // ---- live migration -------------------------------------------------------------------------------------------------------------

  saveQueues(): NvmeControllerState;
  /** @returns what is wrong with it, or undefined */
  checkQueues(
    state: NvmeControllerState,
    ioQueuesMax: number,
    queueEntriesMax: number,
    pageBytes: number,
  ): string | undefined;
  loadQueues(state: NvmeControllerState): void;
  /** Registers, admin queue, interrupts, config space. */
  saveFunction(): Uint8Array;
  /** @returns what is wrong with it, or what applies it */
  loadFunction(bytes: Uint8Array): string | (() => void);
  /** Async Event Requests that have completed, and wait for room in the admin completion queue. */
  readonly parkedEvents: readonly Request[];
  /** One that was so when the state was saved. */
  parkEvent(request: Request): void;
  /** The controller's suspension is over. */
  resumed(): void;
}

export type { CompletionQueueState, NvmeControllerState, SubmissionQueueState };

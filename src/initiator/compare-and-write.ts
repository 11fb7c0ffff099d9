/** Compare and Write as one promise: a fused pair, of which each half has its own status. Base 2.1 section 3.4.2. */
import { MediaStatus, PathStatus, Status } from '../spec/status.ts';
import type { CommandDone } from '../transport/tcp/host-command.ts';
import { NvmeofError, OutcomeUnknownError, TransportError } from '../util/error.ts';
import type { HostController } from './controller.ts';
import { OUTCOME_UNKNOWN } from './multipath/outcome.ts';
import type { Cancellable } from './namespace-owner.ts';

const FUSE_FIRST = 1;
const FUSE_SECOND = 2;
const CODE = 0x7ff;

/** A command of the pair. */
export interface PairHalf {
  /** FUSE is set here. */
  readonly sqe: DataView;
  readonly data: Uint8Array;
}

/** What became of both halves. */
class FusedOperation implements Cancellable {
  cancelled = false;
  first: number | undefined;
  second: number | undefined;
  firstResult = 0;
  secondResult = 0;
  ended: () => void = () => {};

  static readonly firstDone: CommandDone = (status, result, context) => {
    const operation = context as FusedOperation;
    operation.first = status;
    operation.firstResult = result;
    if (operation.second !== undefined) operation.ended();
  };
  static readonly secondDone: CommandDone = (status, result, context) => {
    const operation = context as FusedOperation;
    operation.second = status;
    operation.secondResult = result;
    if (operation.first !== undefined) operation.ended();
  };
}

const isLost = (status: number): boolean =>
  status === OUTCOME_UNKNOWN || status === PathStatus.HostPathingError || status === PathStatus.AbortedByHost;

/**
 * @param what names the command in messages
 * @returns true if it was written, false if the comparison failed
 */
export async function compareAndWrite(
  controller: HostController,
  what: string,
  compare: PairHalf,
  write: PairHalf,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  signal?.throwIfAborted();
  if (!controller.io.takesFused) {
    throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `${what} takes two queue entries; give a queue size of at least 3`);
  }
  compare.sqe.setUint8(1, FUSE_FIRST);
  write.sqe.setUint8(1, FUSE_SECOND);
  const operation = new FusedOperation();
  const onAbort = (): void => cancel(controller, operation);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    await new Promise<void>((resolve) => {
      operation.ended = resolve;
      controller.io.submitFused(
        { ...compare, onDone: FusedOperation.firstDone },
        { ...write, onDone: FusedOperation.secondDone },
        operation,
      );
    });
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
  return judge(controller, what, operation, signal);
}

/** Takes it back if it still waits; else asks the controller to abort both. */
function cancel(controller: HostController, operation: FusedOperation): void {
  operation.cancelled = true;
  if (controller.cancelIo(operation) > 0) {
    operation.first = Status.CommandAbortRequested;
    operation.second = Status.CommandAbortRequested;
    operation.ended();
    return;
  }
}

function judge(
  controller: HostController,
  what: string,
  operation: FusedOperation,
  signal: AbortSignal | undefined,
): boolean {
  const first = operation.first ?? 0;
  const second = operation.second ?? 0;
  if (first === 0 && second === 0) return true;
  if ((first & CODE) === MediaStatus.CompareFailure) return false;
  if (operation.cancelled && !isLost(second)) throw signal?.reason;
  if (isLost(second) && (first === 0 || isLost(first))) {
    const cause = controller.ioError(what, second, 0);
    if (cause instanceof OutcomeUnknownError) throw cause;
    throw new TransportError(
      cause?.code ?? 'NVMEOF_ERR_PATH',
      `${cause?.message ?? what}; whether it was written is not known: read the blocks`,
      { cause },
    );
  }
  // the first failed, or the second alone
  const own = first === 0 || (first & CODE) === Status.AbortedFailedFused;
  const error = own
    ? controller.ioError(what, second, operation.secondResult)
    : controller.ioError(what, first, operation.firstResult);
  throw error ?? controller.ioError(what, second, operation.secondResult);
}

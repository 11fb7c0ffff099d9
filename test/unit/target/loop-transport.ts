/**
 * A transport without sockets: commands and data are handed to a QueuePair by function calls, as a PCIe transport would do it. That it is
 * possible proves that `target/` knows none of TCP.
 */
import type { CommandSet } from '../../../src/target/commands/command-set.ts';
import { QueuePair, type QueueTransport } from '../../../src/target/queue-pair.ts';
import type { Request } from '../../../src/target/request.ts';
import { BufferPool } from '../../../src/util/buffer-pool.ts';

export interface LoopCompletion {
  cid: number;
  status: number;
  result0: number;
  result1: number;
  sqhd: number;
  data: Buffer;
}

export class LoopTransport implements QueueTransport {
  readonly peer = 'loop';
  readonly pool: BufferPool;
  readonly queuePair: QueuePair;
  readonly completions: LoopCompletion[] = [];
  isConnected = false;
  closedBecause: string | undefined;
  /** Answers of `abort`. */
  readonly #abortable = new Set<Request>();

  constructor(commandSet: CommandSet, depth = 2, pool: BufferPool = new BufferPool()) {
    this.pool = pool;
    this.queuePair = new QueuePair(this, commandSet, pool, depth);
  }

  /** Runs one command; `data` is what the host sends. @returns its completion if it is there already */
  run(sqe: Uint8Array, data?: Uint8Array): LoopCompletion | undefined {
    const request = this.queuePair.acquire();
    if (request === undefined) throw new Error('the queue is full');
    const { sqeBase } = request;
    for (let i = 0; i < 64; i++) request.sqe.setUint8(sqeBase + i, sqe[i]!);
    const before = this.completions.length;
    const status = this.queuePair.prepare(request);
    if (status !== 0) request.finish(status);
    else {
      if (request.direction === 1 && request.transferBytes > 0) {
        request.hold(request.transferBytes).set((data ?? new Uint8Array(0)).subarray(0, request.transferBytes));
      }
      this.queuePair.execute(request);
    }
    return this.completions[before];
  }

  complete(request: Request): void {
    const { cid, status, result0, result1 } = request;
    const pieces = request.direction === 2 && status === 0 ? request.segments.slice(0, request.segmentCount) : [];
    const data = Buffer.concat(pieces);
    this.#abortable.delete(request);
    this.queuePair.release(request);
    this.completions.push({ cid, status, result0, result1, sqhd: this.queuePair.sqhd, data });
  }

  connected(): void {
    this.isConnected = true;
  }

  abort(request: Request): boolean {
    return this.#abortable.delete(request);
  }

  close(reason: string): void {
    if (this.closedBecause !== undefined) return;
    this.closedBecause = reason;
    this.queuePair.detached(reason);
  }
}

// @hot
/**
 * Fused commands of one queue pair (Base 2.1 section 3.4.2): a first command and the second that must be its neighbour on the queue. Both are
 * held until the data of both is there; then the command set runs them as one.
 */
import { Status } from '../spec/status.ts';
import type { CommandSet } from './commands/command-set.ts';
import { Phase, type Request } from './request.ts';

/** FUSE of CDW0. */
const FUSE_FIRST = 1;
const FUSE_SECOND = 2;

/** `Request.fuse`. */
const Fuse = {
  None: 0,
  /** Its data is not there yet. */
  Incomplete: 1,
  /** It waits for the other half. */
  Ready: 2,
  /** Both run. */
  Running: 3,
} as const;

export class FusedPairs {
  /** The command before was a first one: the next must be its second. */
  expecting = false;
  /** That first command; undefined if it has failed already. */
  #first: Request | undefined = undefined;

  /**
   * For every command with FUSE, and for the one after a first command, in the order of the queue and before anything else of it is judged.
   * @returns a status if it must fail
   */
  begin(request: Request, fuse: number, set: CommandSet): number {
    const first = this.#first;
    const expected = this.expecting;
    this.#first = undefined;
    this.expecting = false;
    if (fuse === FUSE_SECOND && expected && request.opcode === set.fused?.second) {
      if (first === undefined) return Status.AbortedFailedFused;
      first.partner = request;
      request.partner = first;
      request.fuse = Fuse.Incomplete;
      return 0;
    }
    if (first !== undefined) this.#fail(first, Status.AbortedMissingFused);
    if (fuse === 0) return 0;
    if (fuse === FUSE_SECOND && request.opcode === set.fused?.second) return Status.AbortedMissingFused;
    if (fuse !== FUSE_FIRST || request.opcode !== set.fused?.first) return request.invalidField(1);
    this.expecting = true;
    this.#first = request;
    request.fuse = Fuse.Incomplete;
    return 0;
  }

  /** A half was decoded without error. @returns a status if it must fail */
  prepared(request: Request): number {
    const first = request.partner;
    if (first === undefined) return 0;
    if (
      first.namespace === request.namespace &&
      first.offsetBytes === request.offsetBytes &&
      first.lengthBytes === request.lengthBytes
    ) {
      return 0;
    }
    request.partner = undefined;
    this.#fail(first, first.invalidField(40));
    return request.invalidField(40);
  }

  /** The data of a half is complete. */
  execute(request: Request, set: CommandSet): void {
    if (request.fuseStatus !== 0) {
      request.finish(request.fuseStatus);
      return;
    }
    request.retain();
    request.fuse = Fuse.Ready;
    const partner = request.partner;
    if (partner === undefined || partner.fuse !== Fuse.Ready) return;
    request.fuse = Fuse.Running;
    partner.fuse = Fuse.Running;
    request.phase = Phase.Executing;
    partner.phase = Phase.Executing;
    const isFirst = request.opcode === set.fused!.first;
    set.fused!.execute(isFirst ? request : partner, isFirst ? partner : request);
  }

  /** A half failed; unless the pair runs, that decides what becomes of the other. */
  failed(request: Request, set: CommandSet): void {
    if (request.fuse === Fuse.Running) return;
    request.fuse = Fuse.None;
    if (this.#first === request) {
      this.#first = undefined; // its second fails when it comes
      return;
    }
    const { partner } = request;
    if (partner === undefined) return;
    request.partner = undefined;
    if (request.opcode === set.fused!.first) {
      this.#fail(partner, Status.AbortedFailedFused);
      return;
    }
    // a second that fails on its own account does not change what its first answers
    partner.partner = undefined;
    const isReady = partner.fuse === Fuse.Ready;
    partner.fuse = Fuse.None;
    if (isReady) partner.phase = Phase.Executing;
    if (isReady) set.execute[partner.opcode]!(partner);
  }

  /** A half must fail because of the other: now, or when its data is there. */
  #fail(request: Request, status: number): void {
    request.partner = undefined;
    if (request.fuse === Fuse.Ready) request.finish(status);
    else request.fuseStatus = status;
  }

  /** A first command that waits for its second, which has not come: it is forgotten. */
  takeBackFirst(): Request | undefined {
    const first = this.#first;
    if (first?.fuse !== Fuse.Ready) return undefined;
    this.#first = undefined;
    this.expecting = false;
    first.fuse = Fuse.None;
    return first;
  }

  /** It waits for its other half, so it may be aborted. */
  isWaiting(request: Request): boolean {
    return request.fuse === Fuse.Ready;
  }
}

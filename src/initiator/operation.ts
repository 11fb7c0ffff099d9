/** One promise call on a namespace, over the callbacks of the data path. */
import type { CommandDone } from '../transport/tcp/host-command.ts';
import type { Cancellable, NamespaceOwner } from './namespace-owner.ts';

/** @public */
export interface IoOptions {
  /** The call rejects with the signal's reason once no command of it is in flight any more; an Abort is sent for those that are. */
  readonly signal?: AbortSignal;
}

/** One promise call: it may have become several commands. */
export class Operation implements Cancellable {
  readonly owner: NamespaceOwner;
  readonly what: string;
  pending = 0;
  #sealed = false;
  #status = 0;
  #result = 0;
  #aborted: unknown;
  cancelled = false;
  readonly promise: Promise<void>;
  #resolve: () => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #unlisten: () => void = () => {};

  constructor(owner: NamespaceOwner, what: string, signal: AbortSignal | undefined) {
    this.owner = owner;
    this.what = what;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    if (signal === undefined) return;
    const onAbort = (): void => this.#abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    this.#unlisten = () => signal.removeEventListener('abort', onAbort);
  }

  static readonly done: CommandDone = (status, result, context) => (context as Operation).#oneDone(status, result);

  /** All commands are submitted. */
  seal(): Promise<void> {
    this.#sealed = true;
    this.#settleIfDone();
    return this.promise;
  }

  #oneDone(status: number, result: number): void {
    this.pending--;
    if (status !== 0 && this.#status === 0) {
      this.#status = status;
      this.#result = result;
    }
    this.#settleIfDone();
  }

  #settleIfDone(): void {
    if (!this.#sealed || this.pending !== 0) return;
    this.#unlisten();
    if (this.cancelled) {
      this.#reject(this.#aborted);
      return;
    }
    const error = this.owner.ioError(this.what, this.#status, this.#result);
    if (error === undefined) this.#resolve();
    else this.#reject(error);
  }

  #abort(reason: unknown): void {
    this.#aborted = reason;
    this.cancelled = true;
    this.pending -= this.owner.cancelIo(this);
    this.#settleIfDone();
  }
}

// @hot
/**
 * The data path over several controllers: takes a command object, picks a path, puts it into a slot there. While a path has a free slot this
 * allocates nothing; what failed goes to `MultipathRecovery`, off this path.
 */
import { NSID_ALL } from '../../spec/identify.ts';
import { DNR, PathStatus, Status } from '../../spec/status.ts';
import { type CommandDone, NO_DATA } from '../../transport/tcp/host-command.ts';
import { assert } from '../../util/assert.ts';
import { sqeNsid, sqeOpcode } from '../../wire/sqe.ts';
import type { SlotWaiter } from '../io-dispatcher.ts';
import type { IoSubmitter } from '../namespace-owner.ts';
import { CommandKind, MultipathCommand } from './command.ts';
import type { NamespacePaths } from './namespace-paths.ts';
import { isHarmless } from './outcome.ts';
import type { MultipathPath } from './path.ts';

/** What the data path hands over. */
export interface MultipathIoOwner {
  /** A command ended with another status than 0; it is the owner's now. */
  failed(command: MultipathCommand, status: number, result: number): void;
  /** Commands of the namespace wait, and there is no path. */
  stuck(namespace: NamespacePaths): void;
}

export class MultipathIo implements IoSubmitter, SlotWaiter {
  readonly #owner: MultipathIoOwner;
  readonly #onDone: CommandDone;
  /** By NSID. */
  readonly #namespaces = new Map<number, NamespacePaths>();
  readonly #free: MultipathCommand[] = [];
  #paths: readonly MultipathPath[] = [];
  #waitingCount = 0;
  #closed = false;
  /** Commands that were sent again, for statistics. */
  resentCount = 0;

  constructor(owner: MultipathIoOwner) {
    this.#owner = owner;
    this.#onDone = (status, result, context) => this.#done(context as MultipathCommand, status, result);
  }

  /** Commands that wait for a slot or for a path. */
  get waitingCount(): number {
    return this.#waitingCount;
  }

  set paths(paths: readonly MultipathPath[]) {
    this.#paths = paths;
  }

  add(namespace: NamespacePaths): void {
    this.#namespaces.set(namespace.nsid, namespace);
  }

  namespace(nsid: number): NamespacePaths | undefined {
    return this.#namespaces.get(nsid);
  }

  get namespaces(): IterableIterator<NamespacePaths> {
    return this.#namespaces.values();
  }

  // ---- submitting

  submitRead(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
  ): void {
    const command = this.#take(CommandKind.Read, onDone, context);
    command.replayable = true;
    command.harmless = true;
    command.slba = slba;
    command.blockCount = blockCount;
    command.buffer = buffer;
    this.#start(command, nsid);
  }

  submitWrite(
    nsid: number,
    slba: number,
    blockCount: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    fua: boolean = false,
  ): void {
    const command = this.#take(CommandKind.Write, onDone, context);
    command.replayable = true;
    command.harmless = false;
    command.slba = slba;
    command.blockCount = blockCount;
    command.buffer = buffer;
    command.flag = fua;
    this.#start(command, nsid);
  }

  submitWriteZeroes(
    nsid: number,
    slba: number,
    blockCount: number,
    deallocate: boolean,
    onDone: CommandDone,
    context: unknown,
  ): void {
    const command = this.#take(CommandKind.WriteZeroes, onDone, context);
    command.replayable = true;
    command.harmless = false;
    command.slba = slba;
    command.blockCount = blockCount;
    command.buffer = NO_DATA;
    command.flag = deallocate;
    this.#start(command, nsid);
  }

  submitFlush(nsid: number, onDone: CommandDone, context: unknown): void {
    const command = this.#take(CommandKind.Flush, onDone, context);
    command.replayable = true;
    command.harmless = true;
    command.buffer = NO_DATA;
    this.#start(command, nsid);
  }

  submitRaw(
    sqe: DataView,
    direction: number,
    buffer: Uint8Array,
    onDone: CommandDone,
    context: unknown,
    shortAllowed: boolean,
    replayable: boolean,
  ): void {
    const command = this.#take(CommandKind.Raw, onDone, context);
    command.replayable = replayable;
    command.harmless = replayable && isHarmless(sqeOpcode(sqe, 0));
    command.sqe = sqe;
    command.direction = direction;
    command.buffer = buffer;
    command.flag = shortAllowed;
    this.#start(command, sqeNsid(sqe, 0));
  }

  #take(kind: number, onDone: CommandDone, context: unknown): MultipathCommand {
    const command = this.#free.pop() ?? new MultipathCommand();
    command.kind = kind;
    command.onDone = onDone;
    command.context = context;
    return command;
  }

  #start(command: MultipathCommand, nsid: number): void {
    const namespace = this.#namespaces.get(nsid) ?? this.#namespaces.get(NSID_ALL);
    command.namespace = namespace;
    if (namespace === undefined || this.#closed) {
      this.#refuse(command, this.#closed ? PathStatus.AbortedByHost : Status.InvalidNamespaceOrFormat | DNR);
      return;
    }
    if (namespace.waiting.first === undefined && this.#send(command, namespace)) return;
    namespace.waiting.push(command);
    this.#nowWaits(namespace);
  }

  #refuse(command: MultipathCommand, status: number): void {
    queueMicrotask(() => this.finish(command, status, 0));
  }

  /** Sends it on a path of its namespace. @returns false if none has a slot */
  #send(command: MultipathCommand, namespace: NamespacePaths): boolean {
    for (;;) {
      const queuePair = namespace.pick();
      if (queuePair === undefined) return false;
      command.path = namespace.picked;
      command.queuePair = queuePair;
      if (command.submit(queuePair, this.#onDone)) return true;
      // lost, its owner is about to hear of it
      if (!queuePair.live) return false;
    }
  }

  // ---- completing

  #done(command: MultipathCommand, status: number, result: number): void {
    if (status === 0) this.finish(command, 0, result);
    else this.#owner.failed(command, status, result);
  }

  /** The caller gets the end of its command; the object is free. */
  finish(command: MultipathCommand, status: number, result: number): void {
    const { onDone, context } = command;
    command.release();
    this.#free.push(command);
    onDone(status, result, context);
  }

  // ---- waiting

  #nowWaits(namespace: NamespacePaths): void {
    this.#waitingCount++;
    for (const path of this.#paths) path.slotWaiter = this;
    if (namespace.usable.length === 0) this.#owner.stuck(namespace);
  }

  /** Sends it again, before those that wait. */
  again(command: MultipathCommand): void {
    assert(command.namespace !== undefined, 'a command without namespace is sent again');
    const { namespace } = command;
    this.resentCount++;
    if (this.#send(command, namespace)) return;
    namespace.waiting.unshift(command);
    this.#nowWaits(namespace);
  }

  /** Paths of the namespace have changed. */
  drain(namespace: NamespacePaths): void {
    const { waiting } = namespace;
    while (waiting.first !== undefined && this.#send(waiting.first, namespace)) {
      waiting.shift();
      this.#waitingCount--;
    }
    if (this.#waitingCount === 0) for (const path of this.#paths) path.slotWaiter = undefined;
  }

  slotFree(): void {
    for (const namespace of this.#namespaces.values()) this.drain(namespace);
  }

  /** Ends what waits of a namespace. */
  failWaiting(namespace: NamespacePaths, status: number): void {
    for (let left = namespace.waiting.length; left > 0; left--) {
      this.#waitingCount--;
      this.finish(namespace.waiting.shift()!, status, 0);
    }
  }

  /** Takes back what waits with this context. @returns how many; their `onDone` is not called */
  cancelWaiting(context: unknown): number {
    let count = 0;
    for (const namespace of this.#namespaces.values()) {
      for (const command of namespace.waiting.take(context)) {
        command.release();
        this.#free.push(command);
        this.#waitingCount--;
        count++;
      }
    }
    return count;
  }

  /** From now on nothing is taken; what waits ends with `status`. */
  close(status: number): void {
    this.#closed = true;
    for (const namespace of this.#namespaces.values()) this.failWaiting(namespace, status);
  }
}

// @hot
/** One I/O command over several paths: what it takes to send it, and to send it again. Taken from a free list, reused for ever. */
import type { CommandDone } from '../../transport/tcp/host-command.ts';
import { NO_DATA } from '../../transport/tcp/host-command.ts';
import type { HostQueuePair } from '../queue-pair.ts';
import type { NamespacePaths } from './namespace-paths.ts';
import type { MultipathPath } from './path.ts';

/** The commands that a queue pair builds itself, and the one whose SQE the caller gave. */
export const CommandKind = { Read: 0, Write: 1, WriteZeroes: 2, Flush: 3, Raw: 4 } as const;

const noCallback: CommandDone = () => {};

export class MultipathCommand {
  kind: number = CommandKind.Read;
  /** Sending it a second time does no harm, once the first is known not to be executed later. */
  replayable = true;
  /** It changes nothing: it may be sent again even while the first may still be executed. */
  harmless = true;
  slba = 0;
  blockCount = 0;
  buffer: Uint8Array = NO_DATA;
  /** FUA of a write, DEAC of Write Zeroes, "may be short" of a raw command. */
  flag = false;
  /** Raw commands. */
  sqe: DataView | undefined = undefined;
  direction = 0;
  onDone: CommandDone = noCallback;
  context: unknown = undefined;
  namespace: NamespacePaths | undefined = undefined;
  /** Where it was sent last. */
  path: MultipathPath | undefined = undefined;
  queuePair: HostQueuePair | undefined = undefined;
  /** It may have been executed, and nothing said how that ended. */
  outcomeUnknown = false;
  /** Times that it was sent again after a status. */
  retries = 0;
  /** When refusals by ANA state end; NaN before the first. */
  anaDeadlineMs: number = Number.NaN;
  /** In a list. */
  next: MultipathCommand | undefined = undefined;

  /** Drops every reference to the caller's objects. */
  release(): void {
    this.buffer = NO_DATA;
    this.sqe = undefined;
    this.onDone = noCallback;
    this.context = undefined;
    this.namespace = undefined;
    this.path = undefined;
    this.queuePair = undefined;
    this.outcomeUnknown = false;
    this.retries = 0;
    this.anaDeadlineMs = Number.NaN;
  }

  /** Puts it into a slot of `queuePair`. @returns false if there is none */
  submit(queuePair: HostQueuePair, onDone: CommandDone): boolean {
    const { slba, blockCount, buffer, flag } = this;
    const nsid = this.namespace!.nsid;
    switch (this.kind) {
      case CommandKind.Read:
        return queuePair.submitRead(nsid, slba, blockCount, buffer, onDone, this);
      case CommandKind.Write:
        return queuePair.submitWrite(nsid, slba, blockCount, buffer, onDone, this, flag);
      case CommandKind.WriteZeroes:
        return queuePair.submitWriteZeroes(nsid, slba, blockCount, flag, onDone, this);
      case CommandKind.Flush:
        return queuePair.submitFlush(nsid, onDone, this);
      default:
        return queuePair.submitRaw(this.sqe!, 0, this.direction, buffer, onDone, this, flag, false) !== undefined;
    }
  }
}

/** Commands in order, linked through `next`. */
export class CommandList {
  #head: MultipathCommand | undefined = undefined;
  #tail: MultipathCommand | undefined = undefined;
  length = 0;

  get first(): MultipathCommand | undefined {
    return this.#head;
  }

  push(command: MultipathCommand): void {
    command.next = undefined;
    if (this.#tail === undefined) this.#head = command;
    else this.#tail.next = command;
    this.#tail = command;
    this.length++;
  }

  unshift(command: MultipathCommand): void {
    command.next = this.#head;
    this.#head = command;
    this.#tail ??= command;
    this.length++;
  }

  shift(): MultipathCommand | undefined {
    const command = this.#head;
    if (command === undefined) return undefined;
    this.#head = command.next;
    if (this.#head === undefined) this.#tail = undefined;
    command.next = undefined;
    this.length--;
    return command;
  }

  /** Takes out those with this context, in order. */
  take(context: unknown): MultipathCommand[] {
    const taken: MultipathCommand[] = [];
    for (let left = this.length; left > 0; left--) {
      const command = this.shift()!;
      if (command.context === context) taken.push(command);
      else this.push(command);
    }
    return taken;
  }
}

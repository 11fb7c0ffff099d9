/**
 * Which commands a queue serves: two arrays indexed by opcode, made once per kind of queue.
 * `prepare` validates, sets `direction` and `transferBytes`, and returns a status; `execute` runs once the data is complete.
 */
import { Status } from '../../spec/status.ts';
import type { Controller } from '../controller.ts';
import type { Request } from '../request.ts';

export type PrepareCommand = (request: Request) => number;
export type ExecuteCommand = (request: Request) => void;

export interface CommandHandler {
  readonly prepare: PrepareCommand;
  readonly execute: ExecuteCommand;
  /** False: the command is not there for this controller, an invalid opcode. Default: it is. */
  readonly isOffered?: (controller: Controller) => boolean;
}

/** Two commands that run as one when they come fused. */
export interface FusedOperation {
  /** Opcodes. */
  readonly first: number;
  readonly second: number;
  /** Completes both. */
  execute(first: Request, second: Request): void;
}

export interface CommandSet {
  readonly prepare: readonly (PrepareCommand | undefined)[];
  readonly execute: readonly (ExecuteCommand | undefined)[];
  readonly fused: FusedOperation | undefined;
  readonly isOffered: readonly (((controller: Controller) => boolean) | undefined)[];
}

/** @param handlers by opcode */
export function commandSet(
  handlers: Readonly<Record<number, CommandHandler>>,
  fused?: FusedOperation | undefined,
): CommandSet {
  const prepare = new Array<PrepareCommand | undefined>(256).fill(undefined);
  const execute = new Array<ExecuteCommand | undefined>(256).fill(undefined);
  const isOffered = new Array<((controller: Controller) => boolean) | undefined>(256).fill(undefined);
  for (const [opcode, handler] of Object.entries(handlers)) {
    prepare[Number(opcode)] = offered(handler);
    execute[Number(opcode)] = handler.execute;
    isOffered[Number(opcode)] = handler.isOffered;
  }
  return { prepare, execute, fused, isOffered };
}

function offered({ prepare, isOffered }: CommandHandler): PrepareCommand {
  if (isOffered === undefined) return prepare;
  return (request) =>
    isOffered(request.queuePair.controller!) ? prepare(request) : request.fail(Status.InvalidOpcode, 0);
}

/** The opcodes of a set. @param controller only those that it may use */
export function opcodesOf(set: CommandSet, controller?: Controller): number[] {
  return set.prepare.flatMap((prepare, opcode) =>
    prepare === undefined || (controller !== undefined && set.isOffered[opcode]?.(controller) === false)
      ? []
      : [opcode],
  );
}

/**
 * Which commands a queue serves: two arrays indexed by opcode, made once per kind of queue.
 * `prepare` validates, sets `direction` and `transferBytes`, and returns a status; `execute` runs once the data is complete.
 */
import type { Request } from '../request.ts';

export type PrepareCommand = (request: Request) => number;
export type ExecuteCommand = (request: Request) => void;

export interface CommandHandler {
  readonly prepare: PrepareCommand;
  readonly execute: ExecuteCommand;
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
}

/** @param handlers by opcode */
export function commandSet(
  handlers: Readonly<Record<number, CommandHandler>>,
  fused?: FusedOperation | undefined,
): CommandSet {
  const prepare = new Array<PrepareCommand | undefined>(256).fill(undefined);
  const execute = new Array<ExecuteCommand | undefined>(256).fill(undefined);
  for (const [opcode, handler] of Object.entries(handlers)) {
    prepare[Number(opcode)] = handler.prepare;
    execute[Number(opcode)] = handler.execute;
  }
  return { prepare, execute, fused };
}

/** The opcodes of a set. */
export function opcodesOf(set: CommandSet): number[] {
  return set.prepare.flatMap((prepare, opcode) => (prepare === undefined ? [] : [opcode]));
}

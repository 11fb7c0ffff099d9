/** Commands of a move as they pass a `FaultProxy`, and what may become of one of them and of the connection that it came over. */
import { once } from 'node:events';
import { expect } from 'chai';
import { FenceAction, MigrationSendSelect, MoveFeature } from '../../src/spec/migration.ts';
import { AdminOpcode } from '../../src/spec/opcode.ts';
import type { Pair } from './fault-proxy.ts';

/** `close`, `open`: fences. `reset`: Controller Level Reset by the manager. The rest: Migration Send and Receive. */
export type MoveCommand = 'close' | 'open' | 'reset' | 'suspend' | 'resume' | 'set state' | 'get state';

const CAPSULE_CMD = 0x04;
const PDU_HEADER_BYTES = 8;
const SQE_BYTES = 64;

/** Those that are in it, whole or with their data to come. */
export function commandsIn(data: Buffer): readonly MoveCommand[] {
  const found: MoveCommand[] = [];
  for (let at = 0; at + PDU_HEADER_BYTES <= data.length; at += data.readUInt32LE(at + 4) || data.length) {
    if (data[at] !== CAPSULE_CMD || at + PDU_HEADER_BYTES + SQE_BYTES > data.length) continue;
    const command = nameOf(data.subarray(at + PDU_HEADER_BYTES));
    if (command !== undefined) found.push(command);
  }
  return found;
}

function nameOf(sqe: Buffer): MoveCommand | undefined {
  const low = sqe[40]!; // of CDW10
  switch (sqe[0]) {
    case AdminOpcode.MigrationReceive:
      return 'get state';
    case AdminOpcode.MigrationSend:
      if (low === MigrationSendSelect.SetControllerState) return 'set state';
      return low === MigrationSendSelect.Suspend ? 'suspend' : 'resume';
    case AdminOpcode.SetFeatures:
      if (low === MoveFeature.Reset) return 'reset';
      if (low !== MoveFeature.Fence) return undefined;
      return sqe.readUInt32LE(44) === FenceAction.Close ? 'close' : 'open';
    default:
      return undefined;
  }
}

/** What has become of it. */
export interface Fate {
  /** It does not go on now. */
  readonly kept: boolean;
  /** Call it when the move is over: it comes then. */
  readonly late?: () => Promise<void>;
}

/** By name: what becomes of a command, and of its connection. */
export const COMMAND_FAULTS: Readonly<Record<string, (data: Buffer, pair: Pair) => Fate>> = {
  'reset before it arrives': (_, pair) => {
    pair.reset();
    return { kept: true };
  },
  'reset before its answer arrives': (_, pair) => {
    pair.onAnswer = () => pair.reset();
    return { kept: false };
  },
  'half closed before its answer arrives': (_, pair) => {
    pair.onAnswer = () => pair.client.end();
    return { kept: false };
  },
  'swallowed, and all that follows': (_, pair) => {
    pair.isDeaf = true;
    return { kept: true };
  },
  'done, and its answer swallowed, and all that follows': (_, pair) => {
    pair.onAnswer = () => {
      pair.isDeaf = true;
    };
    return { kept: false };
  },
  'held back until the move is over': (data, pair) => {
    const held = Buffer.from(data);
    pair.isDeaf = true;
    const late = async (): Promise<void> => {
      expect(pair.server.destroyed, 'the target has it still').to.equal(false);
      const closed = once(pair.server, 'close');
      pair.server.end(held);
      await closed;
    };
    return { kept: true, late };
  },
};

import { type CommandDone, HostQueuePair } from '../../../src/initiator/queue-pair.ts';
import { HostConnection, type HostConnectionOptions } from '../../../src/transport/tcp/host-connection.ts';
import type { TransportError } from '../../../src/util/error.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { pdu, type ScriptedConnection, ScriptedTarget } from '../../support/scripted-target.ts';

/** Moves the clock in steps, with time for loopback exchanges after each. */
export async function advance(clock: ManualClock, ms: number, stepMs = 50): Promise<void> {
  for (let done = 0; done < ms; done += stepMs) {
    clock.advance(Math.min(stepMs, ms - done));
    await settle();
  }
}

/** A few turns of the event loop: enough for a loopback exchange that has begun. */
export async function settle(turns = 4): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Waits until `condition` holds; fails after two seconds of real time. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 2000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`Not within 2 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** The error that a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string; status?: number }> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
  throw new Error('Expected a rejection');
}

/** One completed command of a `Bench`. */
export interface Completion {
  readonly status: number;
  readonly result: number;
  readonly context: unknown;
}

/** A queue pair connected to a scripted peer, past ICResp. */
export class Bench {
  readonly clock: ManualClock = new ManualClock();
  readonly completions: Completion[] = [];
  readonly timedOut: number[] = [];
  target!: ScriptedTarget;
  peer!: ScriptedConnection;
  connection!: HostConnection;
  queuePair!: HostQueuePair;
  lost: TransportError | undefined;
  slotFreeCount = 0;

  static async open(
    options: Partial<HostConnectionOptions> = {},
    icResp: Parameters<typeof pdu.icResp>[0] = {},
    inCapsuleBytes = 8192,
  ): Promise<Bench> {
    const bench = new Bench();
    bench.target = await ScriptedTarget.listen();
    const connecting = HostConnection.connect({
      address: '127.0.0.1',
      port: bench.target.port,
      slotCount: 8,
      clock: bench.clock,
      ...options,
    });
    bench.peer = await bench.target.accept();
    await bench.peer.nextOf(0);
    const dgst = (options.headerDigest ? 1 : 0) | (options.dataDigest ? 2 : 0);
    bench.peer.send(pdu.icResp({ dgst, ...icResp }));
    bench.connection = await connecting;
    bench.queuePair = new HostQueuePair(1, bench.connection, inCapsuleBytes, {
      queuePairLost: (_, error) => {
        bench.lost = error;
      },
      slotFree: () => {
        bench.slotFreeCount++;
      },
      commandTimedOut: (_, command) => {
        bench.timedOut.push(command.slot);
      },
    });
    return bench;
  }

  readonly onDone: CommandDone = (status, result, context) => {
    this.completions.push({ status, result, context });
  };

  /** Submits a read of `bytes` and waits for its capsule. @returns its CID and its buffer, filled with AAh */
  async read(bytes: number, context: unknown = 'read'): Promise<{ cid: number; buffer: Uint8Array }> {
    const buffer = new Uint8Array(bytes).fill(0xaa);
    this.queuePair.submitRead(1, 0, bytes / 512, buffer, this.onDone, context);
    const { cid } = await this.peer.nextOf(4);
    return { cid, buffer };
  }

  /** Submits a write and waits for its capsule. */
  async write(data: Uint8Array, context: unknown = 'write'): Promise<{ cid: number }> {
    this.queuePair.submitWrite(1, 0, data.length / 512, data, this.onDone, context);
    const { cid } = await this.peer.nextOf(4);
    return { cid };
  }

  /** Submits a command without data and waits for its capsule. */
  async flush(context: unknown = 'flush'): Promise<{ cid: number }> {
    this.queuePair.submitFlush(1, this.onDone, context);
    const { cid } = await this.peer.nextOf(4);
    return { cid };
  }

  async completed(count: number): Promise<void> {
    await until(() => this.completions.length >= count, `${count} completions, there are ${this.completions.length}`);
  }

  /** The H2CTermReq that must come, after which the host must not have completed anything. */
  async termReq(): Promise<{ fes: number; fei: number; data: Buffer; bytes: Buffer }> {
    const term = await this.peer.nextOf(2);
    await until(() => this.lost !== undefined, 'the loss is reported');
    return term;
  }

  async close(): Promise<void> {
    await this.connection?.close();
    await this.target.close();
  }
}

/** Bytes that differ from place to place, so that a shifted copy shows. */
export function pattern(bytes: number, seed = 1): Uint8Array {
  const data = new Uint8Array(bytes);
  let state = seed;
  for (let i = 0; i < bytes; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    data[i] = state >>> 16;
  }
  return data;
}

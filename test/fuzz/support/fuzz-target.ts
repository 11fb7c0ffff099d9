/** The real target, its hosts connected in memory, its namespaces stamped, and what must be so when all is quiet, and when all is gone. */
import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { AdminOpcode } from '../../../src/spec/opcode.ts';
import type { PortOptions } from '../../../src/target/port.ts';
import type { Request } from '../../../src/target/request.ts';
import type { SubsystemOptions } from '../../../src/target/subsystem.ts';
import type { TcpTargetConnection } from '../../../src/transport/tcp/target-connection.ts';
import type { TcpTargetOptions } from '../../../src/transport/tcp/target-link.ts';
import { Slot } from '../../../src/transport/tcp/target-link.ts';
import {
  CC_ENABLE,
  type ConnectFields,
  connectData,
  connectSqe,
  type IcReqFields,
  icReqPdu,
} from '../../support/raw-pdu.ts';
import { CopyBackend, SUBSYSTEM_NQN, TestTarget } from '../../support/test-target.ts';
import { type Answer, FuzzHost } from './fuzz-host.ts';
import { memoryLink } from './memory-link.ts';
import type { Random } from './random.ts';

export const BLOCK_BYTES = 512;
export const STAMPED_NSID = 1;
export const WRITABLE_NSID = 2;
export const SLOW_NSID = 3;
export const NS_BLOCKS = 4096;

/** Every dword of a block of the stamped namespaces is its number and its place. */
export function stamp(bytes: Uint8Array, firstBlock: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; at += 4) {
    view.setUint32(at, ((firstBlock + Math.floor(at / BLOCK_BYTES)) << 8) | ((at >>> 2) & 0x7f), true);
  }
}

/** For `FuzzHost.checkOf` on I/O queues: a read of stamped blocks. */
function stampCheck(sqe: Buffer): ((offset: number, data: Buffer) => void) | undefined {
  if (sqe[0] !== 2 || sqe.readUInt32LE(4) !== STAMPED_NSID) return undefined;
  const firstBlock = sqe.readUInt32LE(40);
  return (offset, data) => {
    for (let at = 0; at < data.length; at += 4) {
      const place = offset + at;
      const expected = ((firstBlock + Math.floor(place / BLOCK_BYTES)) << 8) | ((place >>> 2) & 0x7f);
      const got = data.readUInt32LE(at);
      if (got !== expected) {
        throw new Error(`Block ${firstBlock}, byte ${place}: ${got.toString(16)} instead of ${expected.toString(16)}`);
      }
    }
  };
}

/** A backend whose operations end when told, reads of it stamped. */
function stampedCopy(): CopyBackend {
  const backend = new CopyBackend({ blockCount: NS_BLOCKS });
  stamp(backend.bytes, 0);
  return backend;
}

async function stampedMemory(): Promise<MemoryBackend> {
  const backend = new MemoryBackend({ blockSize: BLOCK_BYTES, blockCount: NS_BLOCKS });
  const bytes = new Uint8Array(NS_BLOCKS * BLOCK_BYTES);
  stamp(bytes, 0);
  await new Promise<void>((resolve) => {
    backend.write({
      offsetBytes: 0,
      lengthBytes: bytes.length,
      fua: false,
      segments: [bytes],
      segmentCount: 1,
      retain: () => {},
      lend: () => {},
      lendAt: () => {},
      provide: () => bytes,
      complete: () => resolve(),
    });
  });
  return backend;
}

/** Messages of `fatal` that a host can bring about, and that are no bugs. */
const HOSTS_FAULT = /commands outstanding on queue/;
const QUIET_TURNS = 4;
const TURNS_MAX = 20_000;

export class FuzzTarget {
  readonly test: TestTarget;
  /** Namespace 3: reads need a buffer, and nothing ends before it is released. */
  readonly slow: CopyBackend;
  readonly activity: { any: boolean } = { any: false };
  readonly hosts: FuzzHost[] = [];
  readonly connections: TcpTargetConnection[] = [];
  readonly #timersBefore: number;

  private constructor(test: TestTarget, slow: CopyBackend) {
    this.test = test;
    this.slow = slow;
    this.#timersBefore = test.clock.timerCount;
  }

  static async start(
    options: {
      tcp?: Partial<TcpTargetOptions>;
      port?: Partial<PortOptions>;
      subsystem?: Partial<SubsystemOptions>;
    } = {},
  ): Promise<FuzzTarget> {
    const test = await TestTarget.start({ ...options, backend: await stampedMemory() });
    const { target, subsystem } = test;
    await target.removeNamespace(subsystem, STAMPED_NSID);
    target.addNamespace(subsystem, { nsid: STAMPED_NSID, backend: await stampedMemory(), readOnly: true });
    const memory = new MemoryBackend({ blockSize: BLOCK_BYTES, blockCount: NS_BLOCKS });
    target.addNamespace(subsystem, { nsid: WRITABLE_NSID, backend: memory });
    const slow = stampedCopy();
    target.addNamespace(subsystem, { nsid: SLOW_NSID, backend: slow });
    return new FuzzTarget(test, slow);
  }

  /** A TCP connection, nothing sent. */
  connect(firstCid = 0): FuzzHost {
    const [near, far] = memoryLink(this.activity);
    this.connections.push(this.test.port.accept(far as unknown as Socket));
    const host = new FuzzHost(near, firstCid);
    this.hosts.push(host);
    return host;
  }

  /** Whether the target still has the connection of `host`. */
  isOpen(host: FuzzHost): boolean {
    return !host.end.peer.destroyed;
  }

  /** Turns of the loop until nothing happens any more. @throws if that does not come */
  async quiet(): Promise<void> {
    let still = 0;
    for (let turn = 0; still < QUIET_TURNS; turn++) {
      if (turn > TURNS_MAX) throw new Error('No end of activity');
      this.activity.any = false;
      await nextTurn();
      still = this.activity.any ? 0 : still + 1;
    }
    this.check();
  }

  /** What no host may ever see or cause. */
  check(): void {
    for (const host of this.hosts) if (host.failure !== undefined) throw host.failure;
    for (const error of this.test.fatal) {
      if (!(error instanceof Error && HOSTS_FAULT.test(error.message))) {
        throw new Error(`The target failed on a bug: ${error instanceof Error ? error.stack : String(error)}`);
      }
    }
    const internal = this.test.closed.find((reason) => reason.startsWith('internal error'));
    if (internal !== undefined) throw new Error(`A connection ended with ${internal}`);
  }

  /** Lets everything go on that a test held back, and waits. */
  async drain(): Promise<void> {
    this.slow.hold = false;
    for (const { end } of this.hosts) {
      if (!end.destroyed) end.resume();
      end.peer.capacity = Number.POSITIVE_INFINITY;
    }
    do {
      this.slow.release();
      await this.quiet();
    } while (this.slow.held.length > 0);
  }

  /**
   * Nothing is held back: each command that the target still has waits for its host, and a host that broke the rules was told.
   * A command that just hangs is found here.
   */
  expectProgress(): void {
    for (const [i, connection] of this.connections.entries()) {
      const host = this.hosts[i]!;
      if (!this.isOpen(host)) continue;
      const { queuePair } = connection;
      if (host.stream.broken && host.term === undefined && !host.ended)
        throw new Error('The host broke the framing, and was not told');
      if (host.term !== undefined) continue;
      const waiting = queuePair.requests.filter((request) => request.inUse);
      const owed = waiting.some((request) => (request.transportState & Slot.AwaitingData) !== 0);
      for (const request of waiting) {
        const { transportState } = request;
        const forHost = (transportState & Slot.AwaitingData) !== 0;
        // half of a fused pair: until the other half comes, or its data
        if (request.fuse !== 0 && (request.partner === undefined || owed)) continue;
        // parked: until those go on for which the host owes data
        if (request.isAsyncEvent || forHost || ((transportState & Slot.Parked) !== 0 && owed)) continue;
        throw new Error(`Opcode ${request.opcode.toString(16)}h, CID ${request.cid} hangs: ${describe(request)}`);
      }
      // Asynchronous Event Requests vanish without an answer when the controller is reset
      const asked = [...host.outstanding.values()]
        .flat()
        .filter(({ opcode }) => opcode !== AdminOpcode.AsyncEventRequest);
      const known = waiting.filter((request) => !request.isAsyncEvent).length;
      if (!host.ended && asked.length > known && !host.stream.inMiddle && !host.stream.terminated) {
        const cids = asked.map(({ cid }) => cid).join(', ');
        throw new Error(`${asked.length} commands wait (CIDs ${cids}), the target knows of ${known}`);
      }
    }
  }

  /** Every host leaves; afterwards nothing of them is left. */
  async expectBase(random?: Random): Promise<void> {
    for (const host of this.hosts) {
      if (host.end.destroyed) continue;
      if (random?.chance(2) === true) host.end.resetAndDestroy();
      else host.end.destroy();
    }
    await this.drain();
    const { target, clock, subsystem, port } = this.test;
    const left: string[] = [];
    if (port.connections.size > 0) left.push(`${port.connections.size} connections`);
    if (target.pool.usedBytes !== 0) left.push(`${target.pool.usedBytes} bytes of buffers`);
    const controllers = [...subsystem.controllers].length + [...target.discovery.controllers].length;
    if (controllers > 0) left.push(`${controllers} controllers`);
    if (clock.timerCount !== this.#timersBefore) left.push(`${clock.timerCount - this.#timersBefore} timers`);
    for (const { queuePair } of this.connections) {
      // below 0: a slot was given back twice
      if (queuePair.outstanding !== 0) left.push(`${queuePair.outstanding} slots of queue ${queuePair.qid}`);
    }
    if (left.length > 0) throw new Error(`Left behind: ${left.join(', ')}`);
  }

  async close(): Promise<void> {
    await this.test.close();
  }

  // ---- well-behaved steps

  /** Sends one command and waits for its answer. @throws if there is none */
  async answer(host: FuzzHost, bytes: Uint8Array): Promise<Answer & { data: Buffer }> {
    host.send(bytes);
    const command = host.lastSent!;
    await this.quiet();
    if (command.completion === undefined) throw new Error(`CID ${command.cid} was not answered`);
    return { ...command.completion, data: Buffer.concat(command.data) };
  }

  async initialize(host: FuzzHost, fields: IcReqFields = {}): Promise<void> {
    host.hostAlignBytes = ((fields.hpda ?? 0) + 1) * 4;
    host.send(icReqPdu(fields));
    await this.quiet();
    if (!host.icResp) throw new Error('No ICResp');
  }

  async connectQueue(host: FuzzHost, fields: ConnectFields = {}): Promise<number> {
    const full = { subnqn: SUBSYSTEM_NQN, ...fields };
    const bytes = host.capsule(connectSqe(full, host.nextCid(), 'capsule'), connectData(full));
    const { status, result0 } = await this.answer(host, bytes);
    if (status !== 0) throw new Error(`Connect failed with 0x${status.toString(16)}`);
    return result0 & 0xffff;
  }

  /** An admin queue, enabled. */
  async admin(fields: ConnectFields & { icReq?: IcReqFields } = {}): Promise<{ host: FuzzHost; cntlid: number }> {
    const { icReq, ...connect } = fields;
    const host = this.connect();
    await this.initialize(host, icReq);
    const cntlid = await this.connectQueue(host, connect);
    const { status } = await this.answer(
      host,
      host.commandBytes({ opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: CC_ENABLE }),
    );
    if (status !== 0) throw new Error('CC cannot be written');
    return { host, cntlid };
  }

  async io(cntlid: number, fields: ConnectFields & { icReq?: IcReqFields } = {}): Promise<FuzzHost> {
    const { icReq, ...connect } = fields;
    const host = this.connect(0x100);
    await this.initialize(host, icReq);
    await this.connectQueue(host, { cntlid, qid: 1, sqsize: 15, ...connect });
    host.checkOf = stampCheck;
    return host;
  }

  /** One read of stamped blocks on a well-behaved queue: others' faults must not reach it. */
  async expectRead(host: FuzzHost, block: number): Promise<void> {
    const fields = { opcode: 2, nsid: STAMPED_NSID, cdw10: block, cdw12: 7 };
    const { status, data } = await this.answer(host, host.commandBytes(fields, { length: 4096 }));
    if (status !== 0 || data.length !== 4096)
      throw new Error(`A healthy read failed: 0x${status.toString(16)}, ${data.length} bytes`);
  }
}

function describe(request: Request): string {
  return `state ${request.transportState}, direction ${request.direction}, ${request.receivedBytes} of ${request.transferBytes} bytes`;
}

/** A target on a port of its own with a clock that moves when told, and everything that a test opened, closed at its end. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import type { BlockBackend, BlockIo } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import type { Controller } from '../../src/target/controller.ts';
import type { Port, PortOptions } from '../../src/target/port.ts';
import type { StateStore } from '../../src/target/state-store.ts';
import type { Subsystem, SubsystemOptions } from '../../src/target/subsystem.ts';
import { Target } from '../../src/target/target.ts';
import type { TcpTargetOptions } from '../../src/transport/tcp/target-link.ts';
import { ManualClock } from './manual-clock.ts';
import { type ConnectFields, type IcReqFields, RawHost } from './raw-host.ts';

export const SUBSYSTEM_NQN = 'nqn.2024-01.org.example:conformance';
export const DISCOVERY_NQN = 'nqn.2014-08.org.nvmexpress.discovery';
export const UNIQUE_DISCOVERY_NQN = 'nqn.2024-01.org.example:discovery';

export interface TestTargetOptions {
  readonly tcp?: Partial<TcpTargetOptions>;
  /** Of all connections. */
  readonly transferBytesMax?: number;
  readonly subsystem?: Partial<SubsystemOptions>;
  readonly port?: Partial<PortOptions>;
  /** NSID 1; default 64 MiB of memory in blocks of 512 bytes. */
  readonly backend?: BlockBackend;
  readonly clock?: ManualClock;
  readonly state?: StateStore;
  /** Adds the namespaces itself. */
  readonly empty?: boolean;
}

export class TestTarget {
  readonly target: Target;
  readonly clock: ManualClock;
  readonly port: Port;
  readonly subsystem: Subsystem;
  readonly backend: BlockBackend;
  /** Reasons of the connections that closed, in order. */
  readonly closed: string[];
  /** What `fatal` said. */
  readonly fatal: unknown[];
  readonly hosts: RawHost[] = [];

  private constructor(
    target: Target,
    clock: ManualClock,
    port: Port,
    subsystem: Subsystem,
    backend: BlockBackend,
    closed: string[],
    fatal: unknown[],
  ) {
    this.target = target;
    this.clock = clock;
    this.port = port;
    this.subsystem = subsystem;
    this.backend = backend;
    this.closed = closed;
    this.fatal = fatal;
  }

  static async start(options: TestTargetOptions = {}): Promise<TestTarget> {
    const clock = options.clock ?? new ManualClock();
    const closed: string[] = [];
    const fatal: unknown[] = [];
    const target = new Target({
      clock,
      discoveryNqn: UNIQUE_DISCOVERY_NQN,
      tcp: options.tcp,
      transferBytesMax: options.transferBytesMax,
      state: options.state,
      events: {
        connectionClosed: (_port, _peer, reason) => closed.push(reason),
        fatal: (_controller, error) => fatal.push(error),
      },
    });
    const subsystem = target.addSubsystem({ nqn: SUBSYSTEM_NQN, allowAnyHost: true, ...options.subsystem });
    const backend = options.backend ?? new MemoryBackend({ blockSize: 512, blockCount: (64 << 20) / 512 });
    if (options.empty !== true) target.addNamespace(subsystem, { nsid: 1, backend });
    const port = await target.addPort({
      portId: 1,
      address: '127.0.0.1',
      service: 0,
      subsystems: ['*'],
      ...options.port,
    });
    return new TestTarget(target, clock, port, subsystem, backend, closed, fatal);
  }

  /** A TCP connection. */
  async connect(): Promise<RawHost> {
    const host = await RawHost.connect(this.port.service);
    this.hosts.push(host);
    return host;
  }

  /** With ICReq and ICResp done. */
  async initialized(icReq: IcReqFields = {}): Promise<RawHost> {
    const host = await this.connect();
    await host.icReq(icReq);
    return host;
  }

  /** An admin queue, enabled unless `enable` is false. */
  async admin(fields: ConnectFields & { enable?: boolean; icReq?: IcReqFields } = {}): Promise<RawHost> {
    const { enable = true, icReq = {}, ...connect } = fields;
    const host = await this.initialized(icReq);
    const completion = await host.connectQueue({ subnqn: SUBSYSTEM_NQN, ...connect });
    expect(completion.status, 'admin Connect').to.equal(0);
    if (enable) await host.enable();
    return host;
  }

  /** An I/O queue of `admin`'s controller. */
  async io(admin: RawHost, fields: ConnectFields & { icReq?: IcReqFields } = {}): Promise<RawHost> {
    const { icReq = {}, ...connect } = fields;
    const host = await this.initialized(icReq);
    const completion = await host.connectQueue({
      subnqn: SUBSYSTEM_NQN,
      cntlid: admin.cntlid,
      qid: 1,
      sqsize: 127,
      ...connect,
    });
    expect(completion.status, 'I/O Connect').to.equal(0);
    host.cntlid = admin.cntlid;
    return host;
  }

  /** Admin and one I/O queue. */
  async association(
    fields: ConnectFields & { icReq?: IcReqFields } = {},
  ): Promise<{ admin: RawHost; io: RawHost; controller: Controller }> {
    const { icReq = {}, ...connect } = fields;
    const admin = await this.admin({ icReq });
    const io = await this.io(admin, { icReq, ...connect });
    return { admin, io, controller: this.subsystem.controller(admin.cntlid)! };
  }

  get connectionCount(): number {
    return this.port.connections.size;
  }

  /** Lets turns of the event loop pass until `condition` holds (the test's time limit ends it). */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await nextTurn();
  }

  async close(): Promise<void> {
    for (const host of this.hosts) host.destroy();
    const closing = this.target.close();
    await this.until(() => this.connectionCount === 0);
    await closing;
    for (const host of this.hosts) await host.untilEnded();
  }
}

/** Turns of the event loop in which everything that was sent over loopback arrives and is answered. */
export async function settle(turns = 20): Promise<void> {
  for (let i = 0; i < turns; i++) await nextTurn();
}

/**
 * A backend that lends nothing: reads fill a buffer of the request. `hold` keeps operations back until `release`; otherwise they complete in a
 * later turn.
 */
export class CopyBackend implements BlockBackend {
  readonly kind = 'copy';
  readonly blockSize = 512;
  readonly blockCount: number;
  readonly volatileWriteCache: boolean;
  readonly readsZeroAfterDeallocate = true;
  readonly readOnly = false;
  readonly bytes: Buffer;
  hold = false;
  readonly held: (() => void)[] = [];
  flushCount = 0;
  /** Writes that must be durable. */
  fuaCount = 0;
  /** Throws in `read` when set. */
  bug: Error | undefined;

  constructor(options: { blockCount?: number; volatileWriteCache?: boolean } = {}) {
    this.blockCount = options.blockCount ?? 8192;
    this.volatileWriteCache = options.volatileWriteCache ?? false;
    this.bytes = Buffer.alloc(this.blockCount * this.blockSize);
  }

  #later(step: () => void): void {
    if (this.hold) this.held.push(step);
    else setImmediate(step);
  }

  /** Completes what is held. */
  release(count: number = this.held.length): void {
    for (const step of this.held.splice(0, count)) step();
  }

  read(io: BlockIo): void {
    if (this.bug !== undefined) throw this.bug;
    this.#later(() => {
      io.provide().set(this.bytes.subarray(io.offsetBytes, io.offsetBytes + io.lengthBytes));
      io.complete(0);
    });
  }

  write(io: BlockIo): void {
    io.retain();
    if (io.fua) this.fuaCount++;
    this.#later(() => {
      let at = io.offsetBytes;
      for (let i = 0; i < io.segmentCount; i++) {
        this.bytes.set(io.segments[i]!, at);
        at += io.segments[i]!.length;
      }
      io.complete(0);
    });
  }

  flush(io: BlockIo): void {
    this.flushCount++;
    this.#later(() => io.complete(0));
  }

  writeZeroes(io: BlockIo): void {
    this.#later(() => {
      this.bytes.fill(0, io.offsetBytes, io.offsetBytes + io.lengthBytes);
      io.complete(0);
    });
  }

  deallocate(io: BlockIo): void {
    this.writeZeroes(io);
  }

  async close(): Promise<void> {
    this.release();
  }
}

/** A store in memory: what one target leaves, the next finds. */
export class MemoryStateStore implements StateStore {
  readonly values = new Map<string, string>();
  failing = false;

  load(name: string): unknown {
    const text = this.values.get(name);
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  }

  async save(name: string, value: unknown): Promise<void> {
    if (this.failing) throw new Error('no space');
    if (value === undefined) this.values.delete(name);
    else this.values.set(name, JSON.stringify(value));
  }
}

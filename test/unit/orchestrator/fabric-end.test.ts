/** The ends of a move on real targets: what is lost with a connection, at every step of every kind of move. */
import { connect, type Socket, type TcpNetConnectOpts } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import type { DeviceFront } from '../../../src/orchestrator/end.ts';
import { FabricEnd } from '../../../src/orchestrator/fabric-end.ts';
import { Move } from '../../../src/orchestrator/move.ts';
import { MoveError } from '../../../src/orchestrator/move-error.ts';
import type { MoveEvent, MoveOptions } from '../../../src/orchestrator/move-options.ts';
import type { MoveSpec } from '../../../src/orchestrator/move-spec.ts';
import type { PciFunction } from '../../../src/transport/pcie/pci-function.ts';
import { type Clock, systemClock } from '../../../src/util/clock.ts';
import { Guest } from '../../../src/vm/guest.ts';
import { FaultProxy } from '../../support/fault-proxy.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import { ModelJournal } from '../../support/model-end.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const BLOCKS = 4096;
const UUID = '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa';
const CNTLID = 77;

/** One end: a target, the manager's sockets, and a controller behind PCIe if a guest has one. */
class Side {
  readonly name: 'a' | 'b';
  readonly target: TestTarget;
  readonly backend: MemoryBackend;
  readonly sockets: Socket[] = [];
  readonly end: FabricEnd;
  function: PciFunction | undefined;

  private constructor(name: 'a' | 'b', target: TestTarget, backend: MemoryBackend) {
    this.name = name;
    this.target = target;
    this.backend = backend;
    this.end = new FabricEnd({
      address: '127.0.0.1',
      port: target.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: MANAGER_NQN,
      katoMs: 0,
      connectSocket: (options: TcpNetConnectOpts) => {
        const socket = connect(options);
        this.sockets.push(socket);
        return socket;
      },
    });
  }

  static async start(name: 'a' | 'b', backend: MemoryBackend): Promise<Side> {
    const target = await startManaged({ empty: true, state: new MemoryStateStore() });
    target.target.addNamespace(target.subsystem, { nsid: 1, backend, uuid: UUID, closed: name === 'b' });
    return new Side(name, target, backend);
  }

  addFunction(): void {
    this.function = this.target.target.addFunction(this.target.subsystem, { vectorCount: 4, cntlid: CNTLID }).function;
  }

  /** As a link that is cut. */
  cut(): void {
    for (const socket of this.sockets.splice(0)) socket.resetAndDestroy();
  }

  get isOpen(): boolean {
    return this.target.subsystem.namespaces.find((one) => one?.nsid === 1)?.fence.isClosed === false;
  }

  async close(): Promise<void> {
    await this.end.close();
    await this.target.close();
  }
}

describe('FabricEnd', function () {
  this.timeout(120_000);
  let a: Side;
  let b: Side;
  let guest: Guest | undefined;

  async function start(isShared: boolean): Promise<void> {
    const disk = (): MemoryBackend => new MemoryBackend({ blockSize: 512, blockCount: BLOCKS });
    const first = disk();
    a = await Side.start('a', first);
    b = await Side.start('b', isShared ? first : disk());
  }
  afterEach(async () => {
    guest = undefined;
    await a.close();
    await b.close();
    expect([...a.target.fatal, ...b.target.fatal]).to.deep.equal([]);
  });

  const SPECS: Readonly<Record<string, MoveSpec>> = {
    namespaces: { kind: 'namespaces', peer: { address: '127.0.0.9', service: 4420 } },
    'a controller with its namespace': { kind: 'controller', controller: { source: CNTLID, destination: CNTLID } },
    'a controller on shared blocks': {
      kind: 'controller',
      controller: { source: CNTLID, destination: CNTLID },
      shared: [1],
    },
  };

  /** The guest's memory and interrupts go from function to function; its accesses wait as this test does. */
  const frontOf = (): DeviceFront => ({
    pause: async () => {},
    attach: async (at) => {
      const to = (at === 'source' ? a : b).function!;
      if (guest!.function === to) return;
      guest!.unplug();
      guest!.plug(to);
    },
    resume: async () => {},
    close: async () => {},
  });

  function options(spec: MoveSpec, onEvent?: (event: MoveEvent) => void): MoveOptions {
    return {
      source: a.end,
      destination: b.end,
      front: spec.kind === 'controller' ? frontOf() : undefined,
      journal: new ModelJournal(),
      clock: systemClock,
      spec,
      tuning: { blackoutBudgetMs: 60_000, retryMs: 1, verification: 'full', chunkBytes: 64 << 10 },
      onEvent,
    };
  }

  async function prepare(spec: MoveSpec): Promise<void> {
    await start(spec.shared !== undefined);
    if (spec.kind === 'controller') {
      a.addFunction();
      b.addFunction();
      guest = new Guest();
      guest.plug(a.function!);
      await guest.start(1, 16);
      for (let i = 0; i < 16; i++) await guest.write(1, i * 64, new Uint8Array(512).fill(i + 1));
      return;
    }
    for (let i = 0; i < 16; i++) await write(a, i * 64, i + 1);
  }

  async function write({ target }: Side, slba: number, byte: number): Promise<void> {
    const { io } = await target.association();
    const data = Buffer.alloc(512, byte);
    expect((await io.command({ opcode: 1, nsid: 1, cdw10: slba }, { data })).code).to.equal(0);
  }

  /** Its hosts, or the guest, use that side, the other is closed; and everything is there. */
  async function expectAt(side: Side, what: string): Promise<void> {
    const other = side === a ? b : a;
    expect(side.isOpen, `${what}: open at ${side.name}`).to.equal(true);
    expect(other.isOpen, `${what}: open at ${other.name}`).to.equal(false);
    const data = new Uint8Array(512);
    for (let i = 0; i < 16; i++) {
      if (guest !== undefined) {
        expect((await guest.read(1, i * 64, 1))[0], `${what}: block ${i * 64}`).to.equal(i + 1);
        continue;
      }
      const { io } = await side.target.association();
      const { code, data: read } = await io.command({ opcode: 2, nsid: 1, cdw10: i * 64 }, { readBytes: 512 });
      expect(code, what).to.equal(0);
      data.set(read);
      expect(data[511], `${what}: block ${i * 64}`).to.equal(i + 1);
      io.destroy();
    }
    if (guest === undefined) return;
    expect(guest.function, what).to.equal(side.function);
    await guest.write(1, 9, new Uint8Array(512).fill(0x99));
    expect((await guest.read(1, 9, 1))[0], what).to.equal(0x99);
  }

  for (const [kind, spec] of Object.entries(SPECS)) {
    it(`moves ${kind}`, async () => {
      await prepare(spec);
      const report = await new Move(options(spec)).run();
      expect(report.outcome).to.equal('moved');
      // both count their controllers from 1, which no host of ours minds
      expect(report.warnings.filter((text) => !text.startsWith('CNTLID'))).to.deep.equal([]);
      await expectAt(b, 'moved');
    });

    it(`${kind}: either connection cut as each step begins: moved, or as before`, async () => {
      const steps: string[] = [];
      await prepare(spec);
      await new Move(
        options(spec, (event) => {
          if (event.event === 'step' && event.state === 'begun') steps.push(event.step);
        }),
      ).run();
      for (const which of ['a', 'b'] as const) {
        for (const step of steps) {
          await a.close();
          await b.close();
          guest = undefined;
          await prepare(spec);
          const onEvent = (event: MoveEvent): void => {
            if (event.event === 'step' && event.state === 'begun' && event.step === step) (which === 'a' ? a : b).cut();
          };
          const what = `${which} cut at ${step}`;
          const move = new Move(options(spec, onEvent));
          let isMoved = true;
          try {
            await move.run();
          } catch (error) {
            if (!(error instanceof MoveError)) throw error;
            expect(error.outcome, `${what}: ${error.message}`).to.equal('as-before');
            isMoved = false;
          }
          await nextTurn();
          await expectAt(isMoved ? b : a, what);
        }
      }
    });
  }

  it('nothing is waited for beyond that moment, at an end that does not answer; later it is asked again', async () => {
    await start(false);
    const proxy = await FaultProxy.start(a.target.port.service);
    const { subsystem } = a.target;
    const end = new FabricEnd({
      address: '127.0.0.1',
      port: proxy.port,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: MANAGER_NQN,
      katoMs: 0,
    });
    const messageOf = (call: Promise<unknown>): Promise<string> =>
      call.then(
        () => 'none',
        (error: Error) => error.message,
      );
    try {
      const [namespace] = await end.namespaces();
      proxy.mode = 'blackhole';
      end.waitUntil(end.clock.nowMs() + 50);
      // a command that is under way, and a connection that is being made
      expect(await messageOf(namespace!.setFence(false, 9n))).to.match(/has not answered in time/);
      end.waitUntil(end.clock.nowMs() + 50);
      expect(await messageOf(namespace!.fence())).to.match(/has not answered in time/);
      expect(await messageOf(namespace!.fence()), 'at once').to.match(/has not answered in time/);
      proxy.heal();
      end.waitUntil(undefined);
      expect((await namespace!.fence())!.isOpen).to.equal(true);
      expect([...subsystem.controllers].length).to.be.greaterThan(0);
    } finally {
      await end.close();
      await proxy.close();
    }
  });

  it('an end that could not be connected to is not tried again by each call that follows', async () => {
    await start(false);
    const proxy = await FaultProxy.start(a.target.port.service);
    proxy.refuses = true;
    let nowMs = 0;
    const clock: Clock = {
      nowMs: () => nowMs,
      // between attempts only: what is refused needs no time-out
      setTimer: (callback, delayMs) => {
        if (delayMs > 100) return { cancel: () => {} };
        nowMs += delayMs;
        return systemClock.setTimer(callback, 0);
      },
    };
    const end = new FabricEnd({ address: '127.0.0.1', port: proxy.port, subnqn: SUBSYSTEM_NQN, clock });
    const failure = (): Promise<string> =>
      end.namespaces().then(
        () => 'none',
        (error: Error) => error.message,
      );
    try {
      expect(await failure()).to.match(/cannot be reached/);
      const tried = proxy.connections;
      expect(tried, 'for some time').to.be.greaterThan(1);
      expect(await failure()).to.match(/cannot be reached/);
      expect(proxy.connections).to.equal(tried);
      nowMs += 1000;
      expect(await failure()).to.match(/cannot be reached/);
      expect(proxy.connections, 'later it is').to.be.greaterThan(tried);
    } finally {
      await end.close();
      await proxy.close();
    }
  });

  it('what the session of an orchestrator that is gone holds is waited for', async () => {
    await start(false);
    a.addFunction();
    const proxy = await FaultProxy.start(a.target.port.service);
    const options = { address: '127.0.0.1', subnqn: SUBSYSTEM_NQN, hostnqn: MANAGER_NQN, katoMs: 400, ioQueues: 1 };

    const gone = new FabricEnd({ ...options, port: proxy.port });
    const end = new FabricEnd({ ...options, port: a.target.port.service });
    try {
      const [theirs] = await gone.namespaces();
      await theirs!.source.startTracking();
      await theirs!.limitWrites(1 << 20);
      await gone.controller(CNTLID).suspend();
      const lost = gone.controller(CNTLID).changes!.follow([theirs!], 15).sources[0]!;
      await gone.controller(CNTLID).resume();
      await lost.startTracking();
      await gone.controller(CNTLID).suspend();
      proxy.deafen();
      // abort: nothing of it has to be waited for
      await end.controller(CNTLID).resume();
      const [ours] = await end.namespaces();
      await ours!.setFence(true, 7n);
      // a new move
      const manager = (): number =>
        a.target.subsystem.namespaces.find((one) => one?.nsid === 1)!.changes!.manager.cntlid;
      const queued = end.controller(CNTLID).changes!.follow([ours!], 15).sources[0]!;
      const waits = Promise.all([ours!.source.startTracking(), ours!.limitWrites(2 << 20), queued.startTracking()]);
      await ours!.fence();
      const own = (await end.link()).controller.cntlid;
      expect(manager(), 'still that of the other').to.not.equal(own);
      // the target notices
      a.target.clock.advance(400);
      await ours!.fence();
      a.target.clock.advance(400);
      await waits;
      expect(manager()).to.equal(own);
      await queued.stopTracking();
      expect(await end.controller(CNTLID).isSuspended()).to.equal(false);
    } finally {
      gone.waitUntil(0); // it need not say goodbye
      await gone.close();
      await end.close();
      await proxy.close();
    }
  });

  it('a target without managers, and a host that is none, are told by name', async () => {
    await start(false);
    const stranger = new FabricEnd({ address: '127.0.0.1', port: a.target.port.service, subnqn: SUBSYSTEM_NQN });
    const message = await stranger.namespaces().then(
      () => 'none',
      (error: Error) => error.message,
    );
    expect(message).to.match(/manages no migration there: add it to the managers/);
    await stranger.close();
  });
});

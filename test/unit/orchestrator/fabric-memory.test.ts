/** Memory that is followed by a session that is gone: whoever comes next waits until it is over, takes it over, and misses nothing. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import type { HostOptions } from '../../../src/initiator/options.ts';
import type { DeviceFront, GuestMemoryMover, MemoryRun } from '../../../src/orchestrator/end.ts';
import { FabricEnd } from '../../../src/orchestrator/fabric-end.ts';
import { Move } from '../../../src/orchestrator/move.ts';
import type { MoveEvent, MoveOptions } from '../../../src/orchestrator/move-options.ts';
import type { PciFunction } from '../../../src/transport/pcie/pci-function.ts';
import { type Clock, systemClock } from '../../../src/util/clock.ts';
import { Guest } from '../../../src/vm/guest.ts';
import { FaultProxy } from '../../support/fault-proxy.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import { ModelJournal } from '../../support/model-end.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const CNTLID = 77;
const PAGE = 4096;
const KATO_MS = 30_000;
const UUID = '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1aa';
type Side = 'a' | 'b';

describe('memory that is followed', function () {
  this.timeout(60_000);
  let targets: Record<Side, TestTarget>;
  let functions: Record<Side, PciFunction>;
  let proxy: FaultProxy;
  let guest: Guest;
  const ends: FabricEnd[] = [];

  beforeEach(async () => {
    // shared: nothing but memory is followed
    const backend = new MemoryBackend({ blockSize: 512, blockCount: 4096 });
    const start = async (side: Side): Promise<TestTarget> => {
      const target = await startManaged({ empty: true, state: new MemoryStateStore() });
      target.target.addNamespace(target.subsystem, { nsid: 1, backend, uuid: UUID, closed: side === 'b' });
      return target;
    };
    targets = { a: await start('a'), b: await start('b') };
    const functionOf = ({ target, subsystem }: TestTarget): PciFunction =>
      target.addFunction(subsystem, { vectorCount: 4, cntlid: CNTLID }).function;
    functions = { a: functionOf(targets.a), b: functionOf(targets.b) };
    proxy = await FaultProxy.start(targets.a.port.service);
    guest = new Guest();
    guest.plug(functions.a);
    await guest.start(1, 16);
  });
  afterEach(async () => {
    for (const end of ends.splice(0)) {
      end.waitUntil(0); // it need not say goodbye
      await end.close();
    }
    await proxy.close();
    for (const target of Object.values(targets)) await target.close();
    expect([...targets.a.fatal, ...targets.b.fatal]).to.deep.equal([]);
  });

  function endAt(port: number, more: Partial<HostOptions> = {}): FabricEnd {
    const options = { address: '127.0.0.1', subnqn: SUBSYSTEM_NQN, hostnqn: MANAGER_NQN, ioQueues: 1 };
    const end = new FabricEnd({ ...options, katoMs: KATO_MS, port, ...more });
    ends.push(end);
    return end;
  }

  const ram = (): MemoryRun => ({ address: guest.ram.base, lengthBytes: guest.ram.lengthBytes });

  /** The controller writes into the guest's memory. @returns the address of the page */
  async function touch(): Promise<number> {
    const address = guest.ram.allocate(PAGE);
    const { status } = await guest.command(guest.queues[1]!, { opcode: 2, nsid: 1, prp1: address, cdw12: 7 });
    expect(status).to.equal(0);
    return address;
  }

  /** @returns one that settles when somebody was told that he cannot have it */
  function whenRefused(): Promise<void> {
    const { memory } = targets.a.subsystem.migration!;
    const start = memory.start.bind(memory);
    return new Promise((resolve) => {
      memory.start = (...args) => {
        const refusal = start(...args);
        if (refusal !== undefined) resolve();
        return refusal;
      };
    });
  }

  /** The target notices that a manager is gone; the other is heard of meanwhile. */
  async function expire(other: FabricEnd): Promise<void> {
    const own = (await other.link()).controller.cntlid;
    const { subsystem, clock } = targets.a;
    const others = (): number =>
      [...subsystem.controllers].filter(({ hostnqn, cntlid }) => hostnqn === MANAGER_NQN && cntlid !== own).length;
    expect(others()).to.equal(1);
    for (let i = 0; i < 8 && others() > 0; i++) {
      await other.namespaces();
      clock.advance(KATO_MS / 2);
      await nextTurn();
    }
    expect(others()).to.equal(0);
  }

  const failure = (call: Promise<unknown>): Promise<{ readonly code?: string; readonly message: string }> =>
    call.then(
      () => ({ message: 'none' }),
      (error: Error) => error,
    );

  it('by a session that is gone: taken over when it is over, with what is written from then on', async () => {
    const gone = endAt(proxy.port);
    await gone.controller(CNTLID).trackMemory([ram()]);
    await touch();
    proxy.deafen();
    const end = endAt(targets.a.port.service);
    const controller = end.controller(CNTLID);
    await end.link();
    await controller.stopTrackingMemory(); // as a rollback does: it is not ours
    const refused = whenRefused();
    const taken = controller.trackMemory([ram()]);
    await refused;
    const lost = await failure(controller.memoryChanges());
    expect(lost.code, 'nothing is known, which is not "nothing changed"').to.equal('NVMEOF_ERR_PATH');
    await expire(end);
    await taken;
    const address = await touch();
    const { runs } = await controller.memoryChanges();
    expect(runs.some((run) => run.address <= address && address < run.address + run.lengthBytes)).to.equal(true);
  });

  it('by a session that is gone: not waited for any longer once the operator has had enough; what is to be undone still is', async () => {
    await endAt(proxy.port).controller(CNTLID).trackMemory([ram()]);
    proxy.deafen();
    const interrupt = new AbortController();
    const end = endAt(targets.a.port.service, { signal: interrupt.signal });
    await end.link();
    const refused = whenRefused();
    const waits = failure(end.controller(CNTLID).trackMemory([ram()]));
    await refused;
    interrupt.abort(new Error('Interrupted'));
    expect((await waits).message).to.equal('Interrupted');
    await end.controller(CNTLID).stopTrackingMemory();
    expect(await end.namespaces()).to.have.length(1);
  });

  it('by another manager that lives, of a controller that is gone, or that reaches no memory: says which', async () => {
    await endAt(proxy.port).controller(CNTLID).trackMemory([ram()]);
    let nowMs = 0;
    const clock: Clock = {
      ...systemClock,
      nowMs: () => nowMs,
      setTimer: (callback, delayMs) => {
        // between attempts only
        if (delayMs > 100) return { cancel: () => {} };
        nowMs += 1000;
        return systemClock.setTimer(callback, 0);
      },
    };
    const katoMs = 8000;
    const end = endAt(targets.a.port.service, { clock, katoMs });
    const held = await failure(end.controller(CNTLID).trackMemory([ram()]));
    expect(held).to.include({ code: 'NVMEOF_ERR_HELD' });
    expect(held.message).to.match(
      /^nvme\+tcp:.*: memory of controller 77 is followed by another manager: end that move, or wait/,
    );
    expect(nowMs, 'longer than a session that is gone can have it').to.be.greaterThan(2 * katoMs);
    nowMs = 0;
    const absent = await failure(end.controller(55).trackMemory([ram()]));
    expect(absent).to.include({ code: 'NVMEOF_ERR_TRACKING_LOST' });
    expect(absent.message).to.match(/controller 55 is not there any more, and its memory cannot be followed$/);
    const { io } = await targets.a.association();
    const ofHost = [...targets.a.subsystem.controllers].find(({ hostnqn, memory }) => {
      return hostnqn !== MANAGER_NQN && memory === undefined;
    })!;
    const none = await failure(end.controller(ofHost.cntlid).trackMemory([ram()]));
    expect(none).to.include({ code: 'NVMEOF_ERR_UNSUPPORTED' });
    expect(none.message).to.match(/does not track memory of controller \d+: copy its memory while it is suspended$/);
    expect(nowMs, 'nothing is waited for').to.equal(0);
    io.destroy();
  });

  /** Records what it is asked to copy; the guest stays where it is. */
  class Recorder implements GuestMemoryMover {
    readonly ranges: readonly MemoryRun[] = [ram()];
    readonly copied: MemoryRun[] = [];
    async copy(runs: readonly MemoryRun[]): Promise<number> {
      this.copied.push(...runs);
      return runs.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    }
    async changes(): Promise<readonly MemoryRun[]> {
      return [];
    }
  }

  const front = (): DeviceFront => ({
    pause: async () => {},
    attach: async (at) => {
      const to = functions[at === 'source' ? 'a' : 'b'];
      if (guest.function === to) return;
      guest.unplug();
      guest.plug(to);
    },
    resume: async () => {},
    close: async () => {},
  });

  const optionsOf = (
    source: FabricEnd,
    journal: ModelJournal,
    more: Partial<MoveOptions> = {},
  ): MoveOptions & { readonly memory: Recorder } => ({
    source,
    destination: endAt(targets.b.port.service),
    front: front(),
    journal,
    clock: systemClock,
    spec: { kind: 'controller', controller: { source: CNTLID, destination: CNTLID }, shared: [1] },
    tuning: { blackoutBudgetMs: 60_000, retryMs: 1 },
    ...more,
    memory: new Recorder(),
  });

  for (const verb of ['resume', 'abort'] as const) {
    it(`an orchestrator is killed while it follows memory, and the target has not noticed: ${verb}, and a new move`, async () => {
      const journal = new ModelJournal();
      // its last entry is that the step has begun after which memory is followed
      journal.killAt = 4;
      const killed = new Promise<void>((resolve) => {
        journal.onKilled = resolve;
      });
      const gone = new Move(optionsOf(endAt(proxy.port), journal));
      void gone.run();
      await killed;
      expect(journal.entries.at(-1)).to.deep.equal({ step: 'pre-copy', state: 'begun' });
      proxy.deafen();
      journal.killAt = Number.POSITIVE_INFINITY;

      const end = endAt(targets.a.port.service);
      const back = await new Move(optionsOf(end, journal))[verb]();
      expect(back).to.include({ outcome: 'as-before' });
      expect(back.warnings, 'what it follows is not in the way').to.deep.equal([]);

      const refused = whenRefused();
      const events: MoveEvent[] = [];
      const late: number[] = [];
      const options = optionsOf(end, new ModelJournal(), { onEvent: (event) => events.push(event) });
      const moves = new Move({
        ...options,
        front: {
          ...front(),
          // the last moment of the guest at the source
          pause: async () => {
            if (late.length === 0) late.push(await touch());
          },
        },
      }).run();
      await refused;
      await expire(end);
      const report = await moves;
      expect(report.outcome).to.equal('moved');
      expect(events.filter(({ event }) => event === 'retry')).to.deep.equal([]);
      const { copied } = options.memory;
      const whole = copied.findIndex((run) => run.address + run.lengthBytes === ram().address + ram().lengthBytes);
      const after = copied.slice(whole + 1);
      expect(
        after.some((run) => run.address <= late[0]! && late[0]! < run.address + run.lengthBytes),
        'what the controller has written last',
      ).to.equal(true);
    });
  }
});

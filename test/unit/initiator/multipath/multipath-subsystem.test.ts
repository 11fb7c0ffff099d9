/** MultipathSubsystem against our target on several ports. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../../src/backend/memory.ts';
import type { MultipathSubsystem } from '../../../../src/initiator/multipath/multipath-subsystem.ts';
import type { HostNamespace } from '../../../../src/initiator/namespace.ts';
import { AnaState } from '../../../../src/wire/cold/log-ana.ts';
import { ManualClock } from '../../../support/manual-clock.ts';
import { CopyBackend, TestTarget } from '../../../support/test-target.ts';
import { advance, pattern, rejection, settle, until } from '../support.ts';
import { Fabric } from './support.ts';

const { Optimized, NonOptimized, Inaccessible, Change, PersistentLoss } = AnaState;
const BLOCK = 512;

describe('MultipathSubsystem', () => {
  let backend: CopyBackend;
  let fabric: Fabric;
  let host: MultipathSubsystem;
  let namespace: HostNamespace;

  beforeEach(async () => {
    backend = new CopyBackend();
    fabric = await Fabric.start(3, { backend });
  });
  afterEach(() => fabric.close());

  async function connect(portIds: readonly number[], options: Parameters<Fabric['connect']>[1] = {}): Promise<void> {
    host = await fabric.connect(portIds, options);
    namespace = await host.namespace(1);
  }
  const readsOf = (portId: number): number =>
    fabric.to(host, portId).controller!.association?.ioQueuePairs.reduce((sum, pair) => sum + pair.completedCount, 0) ??
    0;
  async function counts(portIds: readonly number[], work: () => Promise<void>): Promise<number[]> {
    const before = portIds.map(readsOf);
    await work();
    return portIds.map((portId, i) => readsOf(portId) - before[i]!);
  }
  const tenReads = async (): Promise<void> => {
    for (let i = 0; i < 10; i++) await namespace.read(i, 1);
  };
  const anaKnown = (portId: number, state: number): Promise<void> =>
    until(() => fabric.to(host, portId).anaState(1) === state, `port ${portId} is known to be ${state}`);
  const ready = (portId: number): Promise<void> =>
    until(() => fabric.to(host, portId).has(1), `the path by port ${portId} is back`);

  it('takes optimized paths in turn', async () => {
    await connect([1, 2]);
    expect(await counts([1, 2], tenReads)).to.deep.equal([5, 5]);
  });

  it('queue-depth: the path with fewer commands in flight', async () => {
    await connect([1, 2], { policy: 'queue-depth' });
    backend.hold = true;
    const reads = Array.from({ length: 9 }, (_, i) => namespace.read(i, 1));
    await until(() => backend.held.length === 9, 'all reads are in the backend');
    const depths = [1, 2].map((portId) => fabric.to(host, portId).activeCount);
    expect(depths.sort()).to.deep.equal([4, 5]);
    backend.hold = false;
    backend.release();
    await Promise.all(reads);
  });

  it('non-optimized paths only while there is no optimized one; inaccessible ones never', async () => {
    fabric.setAna(1, NonOptimized);
    fabric.setAna(3, Inaccessible);
    await connect([1, 2, 3]);
    expect(await counts([1, 2, 3], tenReads)).to.deep.equal([0, 10, 0]);
    fabric.setAna(2, Inaccessible);
    await anaKnown(2, Inaccessible);
    expect(await counts([1, 2, 3], tenReads)).to.deep.equal([10, 0, 0]);
    fabric.setAna(3, Optimized);
    await anaKnown(3, Optimized);
    expect(await counts([1, 2, 3], tenReads)).to.deep.equal([0, 0, 10]);
  });

  it('a status of ANA that comes before its notice sends the command elsewhere, and the log is read', async () => {
    await connect([1, 2]);
    const data = pattern(BLOCK, 3);
    fabric.setAna(1, Inaccessible);
    // the notice is on its way: both ways to write are tried without waiting for it
    await Promise.all([namespace.write(0, data), namespace.write(1, data), namespace.write(2, data)]);
    expect(fabric.to(host, 1).anaState(1)).to.equal(Inaccessible);
    expect(backend.bytes.subarray(0, BLOCK).equals(data)).to.equal(true);
    expect(host.io.resentCount).to.be.greaterThan(0);
  });

  it('waits while every path is in transition, and goes on when one is usable', async () => {
    await connect([1, 2]);
    for (const portId of [1, 2]) fabric.setAna(portId, Change);
    const write = namespace.write(7, pattern(BLOCK, 7));
    await until(() => host.io.waitingCount === 1, 'the write waits');
    fabric.setAna(2, Optimized);
    await write;
    expect(backend.bytes.subarray(7 * BLOCK, 8 * BLOCK).equals(pattern(BLOCK, 7))).to.equal(true);
  });

  it('no path for ANATT: the ANA status that says why', async () => {
    const clock = new ManualClock();
    host = await fabric.connect([], { paths: [1, 2].map((portId) => fabric.path(portId, { clock, katoMs: 0 })) });
    namespace = await host.namespace(1);
    fabric.setAna(1, Inaccessible);
    fabric.setAna(2, PersistentLoss);
    const failed = rejection(namespace.read(0, 1));
    await until(() => host.io.waitingCount === 1 && fabric.to(host, 2).anaState(1) === PersistentLoss, 'it waits');
    await advance(clock, 9_900, 100);
    expect(host.io.waitingCount).to.equal(1);
    await advance(clock, 200, 100);
    expect((await failed).status).to.equal(0x302);
    fabric.setAna(1, Optimized);
    await until(() => fabric.to(host, 1).anaState(1) === Optimized, 'optimized again');
    await namespace.read(0, 1);
    await host.close();
    expect(clock.timerCount, 'timers left').to.equal(0);
  });

  it('a controller that is in transition for twice ANATT is reset', async () => {
    const clock = new ManualClock();
    host = await fabric.connect([], { paths: [1, 2].map((portId) => fabric.path(portId, { clock, katoMs: 0 })) });
    namespace = await host.namespace(1);
    fabric.setAna(1, Change); // the target's clock stands still: it never falls back
    // entering it tells nobody: a command that is refused does
    await namespace.read(0, 1);
    await namespace.read(0, 1);
    await until(() => fabric.to(host, 1).anaState(1) === Change, 'in transition');
    const { controller } = fabric.to(host, 1);
    await advance(clock, 10_000, 500);
    expect(controller!.reconnectCount).to.equal(0);
    for (let step = 0; step < 100 && controller!.reconnectCount === 0; step++) await advance(clock, 500, 250);
    expect(controller!.reconnectCount).to.equal(1);
    await namespace.read(0, 1);
  });

  it('the loss of a path fails nothing: reads go on at once, the path comes back and is used again', async () => {
    await connect([1, 2]);
    backend.hold = true;
    const reads = Array.from({ length: 6 }, (_, i) => namespace.read(i, 1));
    await until(() => backend.held.length === 6, 'all in the backend');
    fabric.drop(1);
    await until(() => backend.held.length === 9, 'three of them again');
    backend.hold = false;
    backend.release();
    await Promise.all(reads);
    await ready(1);
    expect(await counts([1, 2], tenReads)).to.deep.equal([5, 5]);
  });

  it('a write under way on a lost path is repeated only when the lost association can no longer execute it', async () => {
    const clock = new ManualClock();
    host = await fabric.connect([], {
      quiesceMs: undefined,
      paths: [1, 2].map((portId) => fabric.path(portId, { clock, katoMs: 0 })),
    });
    namespace = await host.namespace(1);
    backend.hold = true;
    const old = pattern(BLOCK, 1);
    const writes = [0, 1].map((block) => namespace.write(block, old));
    await until(() => backend.held.length === 2, 'both in the backend');
    fabric.drop(1);
    await until(() => fabric.to(host, 1).heldCount === 1, 'one is held');
    let settledCount = 0;
    for (const write of writes) void write.then(() => settledCount++);
    backend.release();
    backend.hold = false;
    await until(() => settledCount === 1, 'the other is done');
    await advance(clock, 950, 50);
    expect([settledCount, fabric.to(host, 1).heldCount]).to.deep.equal([1, 1]);
    await advance(clock, 100, 50); // a second: the target reports no CQT
    await Promise.all(writes);
    expect(fabric.to(host, 1).heldCount).to.equal(0);
  });

  it('a write that had not been sent yet is sent elsewhere at once', async () => {
    await connect([1, 2], { quiesceMs: 3_600_000 });
    const write = [namespace.write(0, pattern(BLOCK, 5)), namespace.write(1, pattern(BLOCK, 5))];
    // in the same turn nothing has reached a socket
    fabric.to(host, 1).controller!.reset();
    await Promise.all(write);
  });

  it('passthru on a lost path: the outcome is unknown, and the error says so', async () => {
    await connect([1]);
    backend.hold = true;
    const command = rejection(host.ioPassthru({ opcode: 1, nsid: 1, cdw10: 0, data: pattern(BLOCK, 1) }));
    await until(() => backend.held.length === 1, 'in the backend');
    fabric.drop(1);
    const error = await command;
    expect([error.name, error.code]).to.deep.equal(['OutcomeUnknownError', 'NVMEOF_ERR_OUTCOME_UNKNOWN']);
    backend.release();
  });

  it('passthru that ANA refuses goes elsewhere: it was not executed', async () => {
    await connect([1, 2]);
    fabric.setAna(1, Inaccessible);
    const results = await Promise.all(
      [0, 1, 2].map((cdw10) => host.ioPassthru({ opcode: 1, nsid: 1, cdw10, data: pattern(BLOCK, 9) })),
    );
    expect(results.map(({ status }) => status)).to.deep.equal([0, 0, 0]);
  });

  it('a status without DNR is retried, one with DNR is not', async () => {
    fabric.t.subsystem.namespaces[1]!.blockCount = 16;
    await connect([1, 2]);
    expect((await rejection(namespace.read(16, 1))).status! & 0x7ff).to.equal(0x080);
    expect(host.io.resentCount).to.equal(0);
  });

  it('a namespace with another identity on one path is not used there', async () => {
    // another target under the same name: its namespace 1 is another
    const other = await TestTarget.start({ backend: new MemoryBackend({ blockSize: 512, blockCount: 8192 }) });
    other.target.addNamespace(other.subsystem, {
      nsid: 2,
      uuid: '12345678-9abc-4def-8123-456789abcdef',
      backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }),
    });
    fabric.t.target.addNamespace(fabric.t.subsystem, {
      nsid: 2,
      uuid: '22345678-9abc-4def-8123-456789abcdef',
      backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }),
    });
    host = await fabric.connect([1]);
    const mismatches: number[] = [];
    host.on('identityMismatch', (_path, nsid) => mismatches.push(nsid));
    const two = await host.namespace(2);
    await host.addPath({ ...fabric.path(1), port: other.port.service });
    await two.write(0, pattern(BLOCK, 2));
    expect(mismatches).to.deep.equal([2]);
    expect(host.paths.map((path) => path.has(2))).to.deep.equal([true, false]);
    await host.close();
    await other.close();
  });

  it('a namespace that is gone on a path, and there again', async () => {
    await connect([1, 2]);
    const removed = fabric.t.subsystem.removeNamespace(1)!;
    await until(() => !fabric.to(host, 1).has(1) && !fabric.to(host, 2).has(1), 'gone');
    const read = namespace.read(0, 1);
    await until(() => host.io.waitingCount === 1, 'a read waits');
    fabric.t.target.addNamespace(fabric.t.subsystem, { nsid: 1, backend: removed });
    await read;
  });

  it('one path of three is there at first; the others are taken when they come', async () => {
    await fabric.stop(2);
    await fabric.stop(3);
    await connect([1, 2, 3]);
    expect(host.paths.map(({ state }) => state)).to.deep.equal(['live', 'connecting', 'connecting']);
    expect(fabric.to(host, 2).error?.message).to.match(/refused the connection/);
    await namespace.read(0, 1);
    await fabric.startAgain(2);
    await ready(2);
    expect(await counts([1, 2], tenReads)).to.deep.equal([5, 5]);
  });

  it('no path at all: the error of the first', async () => {
    await fabric.stop(1);
    await fabric.stop(2);
    const error = await rejection(fabric.connect([1, 2]));
    expect(error.code).to.equal('ECONNREFUSED');
  });

  it('waits while the only path is being connected again', async () => {
    await connect([1]);
    await fabric.stop(1);
    await until(() => !fabric.to(host, 1).ready, 'lost');
    const write = namespace.write(3, pattern(BLOCK, 4));
    await settle(20);
    expect(host.io.waitingCount).to.equal(1);
    await fabric.startAgain(1);
    await write;
  });

  it('write zeroes and verify wait as well, whether the limits of the controller were read before or not', async () => {
    for (const isKnown of [false, true]) {
      await connect([1]);
      if (isKnown) await namespace.writeZeroes(0, 1);
      await fabric.stop(1);
      await until(() => !fabric.to(host, 1).ready, 'lost');
      const calls = [namespace.writeZeroes(3, 1), namespace.verify(3, 1)];
      await settle(20);
      expect(host.io.waitingCount, `known: ${isKnown}`).to.equal(2);
      await fabric.startAgain(1);
      await Promise.all(calls);
    }
  });

  it('every path is given up: what waits fails, and what comes', async () => {
    host = await fabric.connect([], { paths: [1, 2].map((portId) => fabric.path(portId, { ctrlLossTimeoutMs: 50 })) });
    namespace = await host.namespace(1);
    await fabric.stop(1);
    await fabric.stop(2);
    expect((await rejection(namespace.read(0, 1))).code).to.equal('NVMEOF_ERR_PATH');
    await until(() => host.paths.every(({ state }) => state === 'dead'), 'both are dead');
    expect((await rejection(namespace.read(0, 1))).code).to.equal('NVMEOF_ERR_PATH');
  });

  it('a path is removed without an error and without a write held', async () => {
    await connect([1, 2], { quiesceMs: 3_600_000 });
    backend.hold = true;
    const writes = [0, 1, 2, 3].map((block) => namespace.write(block, pattern(BLOCK, block + 1)));
    await until(() => backend.held.length === 4, 'all in the backend');
    const removing = host.removePath(fabric.to(host, 1));
    backend.hold = false;
    backend.release();
    await removing;
    await Promise.all(writes);
    expect(host.paths).to.have.length(1);
    expect(await counts([2], tenReads)).to.deep.equal([10]);
  });

  it('more commands than slots wait their turn on all paths', async () => {
    host = await fabric.connect([], { paths: [1, 2].map((portId) => fabric.path(portId, { queueSize: 4 })) });
    namespace = await host.namespace(1);
    const reads = Array.from({ length: 50 }, (_, i) => namespace.read(i, 1));
    expect(host.io.waitingCount).to.equal(50 - 6);
    await Promise.all(reads);
    expect(host.io.waitingCount).to.equal(0);
  });

  it('a cancelled call is taken back, or aborted', async () => {
    host = await fabric.connect([], { paths: [fabric.path(1, { queueSize: 2 })] });
    namespace = await host.namespace(1);
    backend.hold = true;
    const first = namespace.read(0, 1);
    const abort = new AbortController();
    const second = rejection(namespace.read(1, 1, { signal: abort.signal }));
    await until(() => backend.held.length === 1, 'in the backend');
    abort.abort(new Error('no longer'));
    expect((await second).message).to.equal('no longer');
    backend.hold = false;
    backend.release();
    await first;
    expect(host.io.waitingCount).to.equal(0);
  });

  it('close: what waits and what is under way fails, nothing is left', async () => {
    await connect([1, 2]);
    backend.hold = true;
    const under = rejection(namespace.write(0, pattern(BLOCK, 1)));
    await until(() => backend.held.length === 1, 'in the backend');
    for (const portId of [1, 2]) fabric.setAna(portId, Inaccessible);
    for (const portId of [1, 2]) await anaKnown(portId, Inaccessible);
    const waits = rejection(namespace.read(0, 1));
    const closing = host.close();
    expect((await waits).code).to.equal('NVMEOF_ERR_CLOSED');
    backend.hold = false;
    backend.release();
    await closing;
    expect((await under).code).to.be.oneOf(['NVMEOF_ERR_OUTCOME_UNKNOWN', 'NVMEOF_ERR_CLOSED']);
    expect((await rejection(namespace.read(0, 1))).code).to.equal('NVMEOF_ERR_CLOSED');
    await until(() => [...fabric.t.subsystem.controllers].length === 0, 'the controllers are free');
  });

  it('paths of another subsystem or host are refused', async () => {
    await connect([1]);
    const message = async (more: object): Promise<string> =>
      (await rejection(host.addPath(fabric.path(2, more)))).message;
    expect(await message({ subnqn: 'nqn.2024-01.org.example:other' })).to.match(/the others are of/);
    expect(await message({ hostnqn: 'nqn.2024-01.org.example:host' })).to.match(/the others are as/);
    expect(host.paths).to.have.length(1);
  });
});

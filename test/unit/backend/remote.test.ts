/** A backend that is another target's namespace: our initiator and our target between the test and the blocks. */
import { expect } from 'chai';
import type { BlockBackend } from '../../../src/backend/block-backend.ts';
import { FaultBackend } from '../../../src/backend/fault.ts';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { NullBackend } from '../../../src/backend/null.ts';
import type { RemoteBackend } from '../../../src/backend/remote.ts';
import { type OpenRemoteDeps, openRemoteNamespace } from '../../../src/service/remote-namespace.ts';
import { describeBackendCompliance, pattern, submit, TestBlockIo } from '../../support/backend-compliance.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { CopyBackend, SUBSYSTEM_NQN, TestTarget } from '../../support/test-target.ts';
import { Fabric } from '../initiator/multipath/support.ts';
import { rejection, settle, until } from '../initiator/support.ts';

const uriOf = (service: number, nsid = '?nsid=1&reconnect-delay=0.02'): string =>
  `nvme+tcp://127.0.0.1:${service}/${SUBSYSTEM_NQN}${nsid}`;

{
  let far: TestTarget;
  describeBackendCompliance('remote', {
    open: async (geometry) => {
      far = await TestTarget.start({ backend: new MemoryBackend(geometry) });
      const backend = await openRemoteNamespace({ type: 'remote', uri: uriOf(far.port.service) });
      // the far side grows first, as an operator would have it
      const grow = backend.grow.bind(backend);
      backend.grow = async (blockCount) => {
        await far.target.resizeNamespace(far.subsystem, 1, blockCount * geometry.blockSize);
        await grow(blockCount);
      };
      return backend;
    },
    cleanUp: () => far.close(),
  });
}

describe('remote backend', () => {
  const BLOCK = 512;
  let fabric: Fabric;
  const opened: RemoteBackend[] = [];

  async function start(ports: number, backend: BlockBackend): Promise<void> {
    fabric = await Fabric.start(ports, { backend });
  }
  async function open(ports: readonly number[], deps: OpenRemoteDeps = {}, query?: string): Promise<RemoteBackend> {
    const [first, ...others] = ports.map((portId) => fabric.services[portId]!);
    const backend = await openRemoteNamespace(
      { type: 'remote', uri: uriOf(first!, query), paths: others.map((service) => `127.0.0.1:${service}`) },
      { quiesceMs: 0, ...deps },
    );
    opened.push(backend);
    return backend;
  }
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((backend) => backend.close()));
    await fabric.close();
  });

  it('says what the far side says: size, cache, protection', async () => {
    await start(1, new CopyBackend({ blockCount: 4000, volatileWriteCache: true }));
    const backend = await open([1]);
    const { kind, blockSize, blockCount, volatileWriteCache, readsZeroAfterDeallocate, readOnly } = backend;
    expect({ kind, blockSize, blockCount, volatileWriteCache, readsZeroAfterDeallocate, readOnly }).to.deep.equal({
      kind: 'remote',
      blockSize: 512,
      blockCount: 4000,
      volatileWriteCache: true,
      readsZeroAfterDeallocate: true,
      readOnly: false,
    });
    const flush = new TestBlockIo({});
    const copy = fabric.t.backend as CopyBackend;
    expect([await submit(backend, 'flush', flush), copy.flushCount]).to.deep.equal([0, 1]);
  });

  it('a far side that is read only', async () => {
    await start(1, new NullBackend({ blockSize: 512, blockCount: 64, readOnly: true }));
    const backend = await open([1]);
    expect(backend.readOnly).to.equal(true);
    for (const operation of ['write', 'writeZeroes', 'deallocate'] as const) {
      const io = new TestBlockIo({ data: [pattern(BLOCK, 1)] });
      expect(await submit(backend, operation, io), operation).to.equal(0x020);
    }
  });

  it("a failure there is the same status here, without the far controller's retry hints", async () => {
    const faulty = new FaultBackend(new MemoryBackend({ blockSize: 512, blockCount: 64 }), {
      clock: new ManualClock(),
    });
    faulty.addRule({ operation: 'read', status: 0x4281 });
    faulty.addRule({ operation: 'write', status: 0x4280 });
    faulty.addRule({ operation: 'flush', status: 0x4006 });
    await start(1, faulty);
    const backend = await open([1]);
    expect(await submit(backend, 'read', new TestBlockIo({ length: BLOCK }))).to.equal(0x4281);
    expect(await submit(backend, 'write', new TestBlockIo({ data: [pattern(BLOCK, 1)] }))).to.equal(0x4280);
    expect(await submit(backend, 'flush', new TestBlockIo({}))).to.equal(0x4006);
  });

  it('blocks behind the end of the far namespace: LBA Out of Range', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    const backend = await open([1]);
    const status = await submit(backend, 'read', new TestBlockIo({ offset: 64 * BLOCK, length: BLOCK }));
    expect(status).to.equal(0x4080);
  });

  const seed = randomSeed();
  it(`loses a path under I/O: every command ends well, and what was written is there (NVMEFERRY_SEED=${seed})`, async () => {
    const random = new Random(seed);
    const copy = new CopyBackend({ blockCount: 1024 });
    await start(2, copy);
    const backend = await open([1, 2]);
    const model = new Uint8Array(1024 * BLOCK);
    for (let round = 0; round < 12; round++) {
      const lost = 1 + (round % 2);
      copy.hold = true;
      const statuses: Promise<number>[] = [];
      for (let i = 0; i < 24; i++) {
        const block = i * 40 + random.below(31);
        const data = pattern(BLOCK * (1 + random.below(8)), round * 100 + i);
        model.set(data, block * BLOCK);
        statuses.push(submit(backend, 'write', new TestBlockIo({ offset: block * BLOCK, data: [data] })));
      }
      for (let i = 0; i < 8; i++)
        statuses.push(submit(backend, 'read', new TestBlockIo({ offset: i * 4096, length: 4096 })));
      await until(() => copy.held.length > 8, 'some are in the far backend');
      fabric.drop(lost);
      copy.hold = false;
      await settle();
      copy.release();
      expect(new Set(await Promise.all(statuses)), `round ${round}`).to.deep.equal(new Set([0]));
    }
    const io = new TestBlockIo({ length: 1024 * BLOCK });
    expect(await submit(backend, 'read', io)).to.equal(0);
    expect(Buffer.compare(io.data, model)).to.equal(0);
  });

  it('waits while its only path is away, and goes on when it is back', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    const warnings: string[] = [];
    const backend = await open([1], { onWarning: (message) => warnings.push(message) });
    await fabric.stop(1);
    const write = new TestBlockIo({ data: [pattern(BLOCK, 7)] });
    void submit(backend, 'write', write);
    await until(() => warnings.length > 0, 'the loss is reported');
    await settle(20);
    expect(write.status).to.equal(undefined);
    await fabric.startAgain(1);
    expect(await write.done).to.equal(0);
    expect(warnings[0]).to.match(/path 127\.0\.0\.1:\d+ is (connecting|resetting)/);
  });

  it('no path any more: Controller Pathing Error, which is ours, not Host Pathing Error, which is for hosts', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    const backend = await open([1], {}, '?nsid=1&ctrl-loss-tmo=0.05&reconnect-delay=0.02');
    await fabric.stop(1);
    expect(await submit(backend, 'read', new TestBlockIo({ length: BLOCK }))).to.equal(0x360);
  });

  it('close does not wait for ever for a path: what is under way fails', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    const backend = await open([1], { closeTimeoutMs: 50 });
    await fabric.stop(1);
    const read = new TestBlockIo({ length: BLOCK });
    void submit(backend, 'read', read);
    await settle();
    expect(read.status).to.equal(undefined);
    await backend.close();
    expect(read.status).to.equal(0x360);
    expect(await submit(backend, 'read', new TestBlockIo({ length: BLOCK }))).to.equal(0x082);
  });

  it('grows and shrinks with the far namespace, and says so', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    let resized = 0;
    const backend = await open([1], { onResized: () => resized++ });
    await fabric.t.target.resizeNamespace(fabric.t.subsystem, 1, 128 * BLOCK);
    await until(() => resized === 1, 'the event');
    expect(backend.blockCount).to.equal(128);
    expect(
      await submit(backend, 'write', new TestBlockIo({ offset: 127 * BLOCK, data: [pattern(BLOCK, 3)] })),
    ).to.equal(0);
    const error = await rejection(backend.grow(256));
    expect(error.message).to.match(/has 128 blocks/);
  });

  it('tells which blocks are allocated by asking', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 65_536 }));
    const backend = await open([1]);
    const unit = backend.allocationUnitBytes;
    expect(unit).to.be.greaterThan(0);
    for (const at of [3, 50, 51, 900]) {
      const data = [pattern(BLOCK, at)];
      expect(await submit(backend, 'write', new TestBlockIo({ offset: at * unit, data }))).to.equal(0);
    }
    const { runs, complete } = await backend.readAllocated!(0, 65_536 * BLOCK, 100);
    expect(complete).to.equal(true);
    expect(runs.map(({ startBytes, endBytes }) => [startBytes / unit, endBytes / unit])).to.deep.equal([
      [3, 4],
      [50, 52],
      [900, 901],
    ]);
    const some = await backend.readAllocated!(4 * unit, 65_536 * BLOCK, 1);
    expect(some).to.deep.equal({ runs: [{ startBytes: 50 * unit, endBytes: 52 * unit }], complete: false });
    const within = await backend.readAllocated!(51 * unit, 60 * unit, 10);
    expect(within).to.deep.equal({ runs: [{ startBytes: 51 * unit, endBytes: 52 * unit }], complete: true });
  });

  it('more runs of allocated blocks than one answer holds', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 65_536 }));
    const backend = await open([1]);
    const unit = backend.allocationUnitBytes;
    const count = 600;
    for (let i = 0; i < count; i++)
      await submit(backend, 'write', new TestBlockIo({ offset: i * 2 * unit, data: [pattern(BLOCK, i)] }));
    const { runs, complete } = await backend.readAllocated!(0, 65_536 * BLOCK, 10_000);
    expect([runs.length, complete, runs.at(-1)!.startBytes / unit]).to.deep.equal([count, true, (count - 1) * 2]);
  });

  it('the only namespace needs no name; of several one has to be named', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    expect((await open([1], {}, '')).blockCount).to.equal(64);
    fabric.t.target.addNamespace(fabric.t.subsystem, {
      nsid: 7,
      backend: new MemoryBackend({ blockSize: 4096, blockCount: 16 }),
    });
    expect((await rejection(open([1], {}, ''))).message).to.match(/has namespaces 1, 7; name one/);
    expect((await rejection(open([1], {}, '?nsid=3'))).message).to.match(/no namespace 3, active are 1, 7/);
    expect((await open([1], {}, '?nsid=7')).blockSize).to.equal(4096);
  });

  it('refuses what is no address', async () => {
    await start(1, new MemoryBackend({ blockSize: 512, blockCount: 64 }));
    const uri = uriOf(fabric.services[1]!);
    const error = await rejection(openRemoteNamespace({ type: 'remote', uri, paths: ['a:b:c'] }));
    expect(error.message).to.match(/path "a:b:c" is no address/);
    const nameless = await rejection(openRemoteNamespace({ type: 'remote', uri: 'nvme+tcp://127.0.0.1:1/' }));
    expect(nameless.message).to.match(/names no subsystem/);
  });
});

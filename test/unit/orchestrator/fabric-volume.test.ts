/** Two targets and a host that writes all the time; only what a host can see of them is used. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { HostController } from '../../../src/initiator/controller.ts';
import { LiveMigration } from '../../../src/initiator/live-migration.ts';
import type { HostNamespace } from '../../../src/initiator/namespace.ts';
import { BlockCopier } from '../../../src/orchestrator/block-copier.ts';
import { BlockStream } from '../../../src/orchestrator/block-stream.ts';
import { FabricDestination, FabricSource } from '../../../src/orchestrator/fabric-volume.ts';
import { PreCopy } from '../../../src/orchestrator/pre-copy.ts';
import { RateLimit } from '../../../src/orchestrator/rate-limit.ts';
import { systemClock } from '../../../src/util/clock.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { SUBSYSTEM_NQN, TestTarget } from '../../support/test-target.ts';

const BLOCK_SIZE = 4096;
const BLOCKS = 4096;
const WRITER_NQN = 'nqn.2024-01.org.example:writer';

describe('moving a namespace between two targets over NVMe/TCP', () => {
  let source: TestTarget;
  let destination: TestTarget;
  const controllers: HostController[] = [];
  const memory = (): MemoryBackend => new MemoryBackend({ blockSize: BLOCK_SIZE, blockCount: BLOCKS });

  beforeEach(async () => {
    source = await startManaged({ backend: memory() });
    destination = await TestTarget.start({ backend: memory() });
  });
  afterEach(async () => {
    for (const controller of controllers.splice(0)) await controller.close();
    await source.close();
    await destination.close();
  });

  async function connect(target: TestTarget, hostnqn: string): Promise<HostController> {
    const controller = await HostController.connect({
      address: '127.0.0.1',
      port: target.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn,
      ioQueues: 1,
      katoMs: 0,
      reconnectDelayMs: 1,
    });
    controllers.push(controller);
    return controller;
  }
  const namespaceOf = (controller: HostController): Promise<HostNamespace> => controller.namespace(1);

  it('an association that was lost has lost the changes: that is no answer "nothing changed"', async () => {
    const manager = await connect(source, MANAGER_NQN);
    const from = new FabricSource(await namespaceOf(manager), new LiveMigration(manager));
    await from.startTracking();
    const writer = await namespaceOf(await connect(source, WRITER_NQN));
    await writer.write(8, new Uint8Array(BLOCK_SIZE).fill(1));
    expect((await from.changes()).runs).to.deep.equal([{ slba: 8, blockCount: 1 }]);

    const again = new Promise<void>((resolve) => {
      manager.on('state', (state) => {
        if (state === 'live') resolve();
      });
    });
    source.subsystem.controller(manager.cntlid)!.close('cut off by the test');
    await again;
    const failure = await from.changes().then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(failure).to.include({ code: 'NVMEOF_ERR_TRACKING_LOST' });
  });

  it('everything acknowledged is at the destination once the writer is suspended and the rest is copied', async () => {
    const random = new Random(randomSeed());
    const writer = await connect(source, WRITER_NQN);
    const manager = await connect(source, MANAGER_NQN);
    const written = await namespaceOf(writer);
    const migration = new LiveMigration(manager);

    // a namespace with holes, then changes without end
    for (let i = 0; i < 20; i++) await written.write(random.below(BLOCKS - 64), random.bytes(16 * BLOCK_SIZE));
    let stop = false;
    let acknowledged = 0;
    const writing = Array.from({ length: 4 }, async () => {
      while (!stop) {
        const slba = random.below(BLOCKS - 8);
        const blockCount = 1 + random.below(4);
        const chance = random.below(5);
        if (chance === 0) await written.writeZeroes(slba, blockCount, { deallocate: true });
        else if (chance === 1) await written.deallocate(slba, blockCount);
        else await written.write(slba, new Uint8Array(blockCount * BLOCK_SIZE).fill(1 + random.below(255)));
        acknowledged++;
      }
    });

    const from = new FabricSource(await namespaceOf(manager), migration);
    const to = new FabricDestination(await namespaceOf(await connect(destination, MANAGER_NQN)));
    const copier = new BlockCopier({ source: from, destination: to, rate: new RateLimit(systemClock) });
    let rounds = 0;
    const stream = new BlockStream({ name: 'it', source: from, destination: to, copier, destinationIsZero: true });
    const preCopy = new PreCopy({
      streams: [stream],
      clock: systemClock,
      blackoutBudgetMs: 10_000,
      switchMs: 1,
      onRound: () => rounds++,
    });
    expect(await preCopy.run()).to.equal(true);
    expect(rounds).to.be.greaterThan(0);
    expect(stream.allocatedBytes, 'holes are not copied').to.be.below(BLOCKS * BLOCK_SIZE);

    await migration.suspend(writer.cntlid);
    const atSuspension = acknowledged;
    await preCopy.finish();
    const [there, here] = await Promise.all([
      namespaceOf(controllers.at(-1)!).then((namespace) => namespace.read(0, BLOCKS)),
      namespaceOf(manager).then((namespace) => namespace.read(0, BLOCKS)),
    ]);
    expect(Buffer.compare(there, here)).to.equal(0);
    expect(here.some((byte) => byte !== 0)).to.equal(true);
    expect(acknowledged, 'nothing more was acknowledged').to.be.at.most(atSuspension + 4);

    // as before: the writer never notices more than a pause
    stop = true;
    await from.stopTracking();
    await migration.resume(writer.cntlid);
    await Promise.all(writing);
    expect([...source.fatal, ...destination.fatal]).to.deep.equal([]);
  });

  it('lists allocated blocks over many commands, and nothing of an empty namespace', async () => {
    const manager = await connect(source, MANAGER_NQN);
    const blocks = await namespaceOf(manager);
    const from = new FabricSource(blocks, new LiveMigration(manager));
    const list = async (): Promise<string[]> => {
      const runs: string[] = [];
      for await (const { slba, blockCount } of from.allocated(undefined)) runs.push(`${slba}+${blockCount}`);
      return runs;
    };
    expect(await list()).to.deep.equal([]);
    // more runs than one answer has room for
    const wanted: string[] = [];
    for (let slba = 1; slba < 1400; slba += 2) {
      await blocks.write(slba, new Uint8Array(BLOCK_SIZE).fill(1));
      wanted.push(`${slba}+1`);
    }
    expect(await list()).to.deep.equal(wanted);
  });

  it('a snapshot that was not acknowledged is there for the next orchestrator', async () => {
    const manager = await connect(source, MANAGER_NQN);
    const blocks = await namespaceOf(manager);
    const from = new FabricSource(blocks, new LiveMigration(manager));
    await from.startTracking();
    await blocks.write(7, new Uint8Array(2 * BLOCK_SIZE).fill(1));
    const first = await from.changes();
    expect(first.runs).to.deep.equal([{ slba: 7, blockCount: 2 }]);
    expect(first.complete).to.equal(true);
    await blocks.write(100, new Uint8Array(BLOCK_SIZE).fill(1));
    expect((await from.changes()).runs).to.deep.equal([{ slba: 7, blockCount: 2 }]);
    await (await from.changes()).acknowledge();
    expect((await from.changes()).runs).to.deep.equal([{ slba: 100, blockCount: 1 }]);
    await from.stopTracking();
  });
});

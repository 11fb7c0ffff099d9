/** Live migration: whole flows between two targets. Those with a model are in model.test.ts. */
import { expect } from 'chai';
import type { BlockIo } from '../../../src/backend/block-backend.ts';
import { type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { type Completion, pattern, type RawHost } from '../../support/raw-host.ts';
import { CopyBackend, type TestTarget } from '../../support/test-target.ts';

/** Counts how often each block is written. */
class CountingBackend extends CopyBackend {
  readonly writes = new Map<number, number>();
  override write(io: BlockIo): void {
    const block = io.offsetBytes / this.blockSize;
    this.writes.set(block, (this.writes.get(block) ?? 0) + 1);
    super.write(io);
  }
}

describe('conformance: live migration, whole flows', () => {
  let source: TestTarget;
  let destination: TestTarget;
  let from: Manager;
  let to: Manager;
  beforeEach(async () => {
    source = await startManaged({ backend: new CopyBackend() });
    destination = await startManaged({ backend: new CopyBackend() });
    from = await managerOf(source);
    to = await managerOf(destination);
  });
  afterEach(async () => {
    await source.close();
    await destination.close();
  });

  it('E03: a destination that refuses the state: the source is resumed, and its log goes on', async () => {
    const { admin, io } = await source.association();
    const { result0: cdqid } = await from.create(admin.cntlid, 64);
    await from.track(cdqid, 1);
    expect((await from.suspend(admin.cntlid)).code).to.equal(0);
    const waits = io.write(3, pattern(512, 3));
    const state = await from.state(admin.cntlid);
    const there = await destination.admin();
    await to.suspend(there.cntlid);
    expect((await to.setState(there.cntlid, state.subarray(0, state.length - 8))).code).to.equal(2);
    await there.propertySet(0x14, 0);
    expect((await from.drain(cdqid)).map(({ esa }) => esa)).to.deep.equal([1, 3]);
    expect((await from.resume(admin.cntlid)).code).to.equal(0);
    expect((await waits).code).to.equal(0);
    expect((await from.drain(cdqid)).map(({ esa, slba, blocks }) => [esa, slba, blocks])).to.deep.equal([
      [1, 0, 0],
      [0, 3, 1],
    ]);
  });

  it('E04: a manager that goes in the middle: the host does not notice, another one begins anew', async () => {
    const { admin, io } = await source.association();
    const { result0: cdqid } = await from.create(admin.cntlid, 64);
    await from.track(cdqid, 1);
    await from.changes(1, 1);
    await io.write(1, pattern(512, 1));
    await from.host.propertySet(0x14, 0);
    expect((await io.write(2, pattern(512, 2))).code).to.equal(0);
    from.host.destroy();
    from = await managerOf(source);
    expect((await from.changed(1)).tracking).to.equal(false);
    expect((await from.changes(1, 1)).code).to.equal(0);
    const again = await from.create(admin.cntlid, 64);
    expect(again.code).to.equal(0);
    expect((await from.track(again.result0, 1)).code).to.equal(0);
    expect((await io.write(3, pattern(512, 3))).code).to.equal(0);
    expect((await from.drain(again.result0)).map(({ slba, blocks }) => [slba, blocks])).to.deep.equal([
      [0, 0],
      [3, 1],
    ]);
  });

  it('E06: there and back ten times, and no queue is left behind', async () => {
    let [here, there] = [source, destination];
    let [near, far] = [from, to];
    let host = await here.admin();
    await host.setFeature(0x04, 300);
    for (let round = 0; round < 10; round++) {
      const { result0: cdqid, code } = await near.create(host.cntlid, 16);
      expect(code, `round ${round}`).to.equal(0);
      expect((await near.track(cdqid, 1)).code).to.equal(0);
      await near.changes(1, 1);
      await near.suspend(host.cntlid);
      const state = await near.state(host.cntlid);
      const next = await there.admin();
      expect((await far.suspend(next.cntlid)).code).to.equal(0);
      expect((await far.setState(next.cntlid, state)).code).to.equal(0);
      expect((await far.resume(next.cntlid)).code).to.equal(0);
      // the host has left: its queue is the manager's, and goes by its hand
      host.destroy();
      const { cntlid } = host;
      await here.until(() => here.subsystem.controller(cntlid) === undefined);
      expect((await near.remove(cdqid)).code).to.equal(0);
      await near.changes(1, 0);
      host = next;
      [here, there] = [there, here];
      [near, far] = [far, near];
    }
    expect((await host.getFeature(0x04)).result0).to.equal(300);
    for (const t of [source, destination]) {
      const managers = [await managerOf(t), await managerOf(t)];
      for (let i = 0; i < 32; i++) {
        const { code } = await managers[i % 2]!.create((await t.admin()).cntlid, 2);
        expect(code, `queue ${i}`).to.equal(0);
      }
    }
  });

  const seed = randomSeed();
  it(`E08: suspended under full queues of every command: none is lost, none is executed twice (NVMEFERRY_SEED=${seed})`, async () => {
    const random = new Random(seed);
    const backend = new CountingBackend();
    const t = await startManaged({ backend });
    try {
      const manager = await managerOf(t);
      const { admin, io } = await t.association();
      const second = await t.io(admin, { qid: 2 });
      let block = 0;
      const written: number[] = [];
      let completed = 0;
      const one = (host: RawHost): Promise<Completion> => {
        const slba = block++ % 4000;
        const kind = random.below(8);
        if (kind === 0) return host.read(slba, 1);
        if (kind === 1) return host.command({ opcode: 8, nsid: 1, cdw10: 4096 + slba });
        if (kind === 2) return host.command({ opcode: 0, nsid: 1 });
        if (kind === 3) return host.command({ opcode: 0x0c, nsid: 1, cdw10: slba });
        if (kind === 4) return host.command({ opcode: 5, nsid: 1, cdw10: 8000 }, { data: Buffer.alloc(512) });
        written.push(slba);
        return host.write(slba, pattern(512, slba), kind === 5 ? { by: 'r2t' } : {});
      };
      for (let round = 0; round < 10; round++) {
        const launched: Promise<Completion>[] = [];
        const launch = (): void => {
          const done = one(random.pick([io, second]));
          launched.push(done);
          void done.then(() => completed++);
        };
        for (let i = 0; i < 60; i++) launch();
        expect((await manager.suspend(admin.cntlid)).code).to.equal(0);
        for (let i = 0; i < 20; i++) launch();
        // what had come is complete; nothing moves until Resume
        const before = [completed, [...backend.writes.values()].reduce((sum, n) => sum + n, 0)];
        expect((await manager.getState(admin.cntlid)).result0 & 1).to.equal(1);
        const after = [completed, [...backend.writes.values()].reduce((sum, n) => sum + n, 0)];
        expect(after[1]).to.equal(before[1]);
        expect((await manager.resume(admin.cntlid)).code).to.equal(0);
        for (const { code } of await Promise.all(launched)) expect(code).to.equal(0);
      }
      for (const slba of written) expect(backend.writes.get(slba), `block ${slba}`).to.equal(1);
    } finally {
      await t.close();
    }
  });
});

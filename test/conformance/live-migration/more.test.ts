/** Live migration: several managers, several namespaces, changes while tracking begins, commands that change everything, whole flows. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { type Entry, type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { pattern, type RawHost } from '../../support/raw-host.ts';
import { CopyBackend, settle, type TestTarget } from '../../support/test-target.ts';

const ranges = (entries: readonly Entry[]): number[][] =>
  entries.filter(({ lbacir }) => lbacir === 0).map(({ nsid, slba, blocks }) => [nsid, slba, blocks]);

describe('conformance: live migration, more of queues and logging', () => {
  let t: TestTarget;
  let manager: Manager;
  let admin: RawHost;
  let io: RawHost;
  let cntlid: number;
  const begin = async (options: Parameters<typeof startManaged>[0] = {}): Promise<void> => {
    t = await startManaged(options);
    manager = await managerOf(t);
    ({ admin, io } = await t.association());
    cntlid = admin.cntlid;
  };
  afterEach(() => t.close());
  const start = async (slots = 64, of = cntlid): Promise<number> => {
    const created = await manager.create(of, slots);
    expect(created.code, 'create').to.equal(0);
    expect((await manager.track(created.result0, 1)).code, 'start').to.equal(0);
    return created.result0;
  };
  const write = async (block: number, nsid = 1): Promise<void> => {
    const sqe = { opcode: 1, nsid, cdw10: block, cdw12: 0 };
    expect((await io.command(sqe, { data: pattern(512, block) })).code).to.equal(0);
  };

  it('I02, I07, I08, I14: what managers and others say of themselves is consistent', async () => {
    await begin();
    const theirs = (await admin.identify(1)).data;
    expect(theirs.readUInt16LE(256) & 0x800, 'I02').to.equal(0);
    expect(
      theirs.subarray(570, 588).every((byte) => byte === 0),
      'no limits',
    ).to.equal(true);
    const { data } = await manager.host.identify(1);
    const [mcmr, nmcmr] = [data.readUInt16LE(582), data.readUInt16LE(584)];
    expect(mcmr === 0 || nmcmr === 0 || nmcmr >= mcmr, 'I07').to.equal(true);
    const tracksMemory = (data[576]! & 1) === 1;
    const [cmmrtd, nmmrtd] = [data.readUInt16LE(570), data.readUInt16LE(572)];
    if (tracksMemory) {
      expect(data[574], 'I08').to.be.at.most(data[575]!);
      expect(cmmrtd).to.be.within(1, nmmrtd);
    } else expect([cmmrtd, nmmrtd, data[574], data[575]], 'I08').to.deep.equal([0, 0, 0, 0]);
    const nvm = (await manager.host.identify(6)).data;
    expect(nvm[24] === 0 || nvm[24]! >= 0xc0, 'I14').to.equal(true);
  });

  it('C10, L04: queues of all managers together; one of a controller, whoever manages it', async () => {
    await begin();
    const managers = [manager, await managerOf(t), await managerOf(t)];
    for (let i = 0; i < 32; i++) {
      expect((await managers[i % 2]!.create((await t.admin()).cntlid, 8)).code, `${i}`).to.equal(0);
    }
    expect((await managers[2]!.create(cntlid, 8)).code, 'C10').to.equal(0x138);
    expect((await managers[0]!.remove(0)).code).to.equal(0);
    expect((await managers[2]!.create(cntlid, 8)).code).to.equal(0);
    expect((await managers[2]!.track(0, 1)).code).to.equal(0);
    // no second queue for it, so no second start either
    expect((await managers[1]!.create(cntlid, 8)).code, 'L04').to.equal(2);
    expect((await managers[1]!.track(99, 1)).code, 'L04').to.equal(0x137);
  });

  it('C24: a queue that is deleted while it logs ends silently', async () => {
    await begin();
    const cdqid = await start(8);
    await manager.drain(cdqid);
    await manager.setHead(cdqid, 1, 1);
    const event = manager.host.command({ opcode: 0x0c });
    let told = false;
    void event.then(
      () => {
        told = true;
      },
      () => {},
    );
    expect((await manager.remove(cdqid)).code).to.equal(0);
    await write(1);
    expect((await manager.queueLog(cdqid)).code).to.equal(0x137);
    expect((await manager.create(cntlid, 8)).code).to.equal(0);
    expect(await manager.drain(0), 'a new one has nothing of the old').to.deep.equal([]);
    expect(told).to.equal(false);
  });

  it('F13: a trigger that has fired does not fire again when its slot is filled once more', async () => {
    await begin();
    const cdqid = await start(4);
    await manager.drain(cdqid);
    await manager.setHead(cdqid, 1, 1);
    const events: number[] = [];
    for (let i = 0; i < 2; i++)
      void manager.host.command({ opcode: 0x0c }).then(
        ({ result0 }) => events.push(result0),
        () => {},
      );
    for (let block = 0; block < 60; block += 10) {
      await write(block);
      await manager.entries(cdqid); // seen, so that the next one is an entry of its own
      const { data } = await manager.queueLog(cdqid, 64);
      // by feature 21h without a trigger
      await manager.setHead(cdqid, data.readUInt32LE(12));
    }
    await settle();
    expect(events).to.deep.equal([4]);
  });

  it('F15: triggers of two queues wait for two AERs, in order', async () => {
    await begin();
    const second = await t.association();
    const first = await start(8);
    const other = await start(8, second.admin.cntlid);
    for (const cdqid of [first, other]) {
      await manager.drain(cdqid);
      await manager.setHead(cdqid, 1, 1);
    }
    expect((await second.io.write(5, pattern(512, 5))).code).to.equal(0);
    await write(6);
    const events = [await manager.host.command({ opcode: 0x0c }), await manager.host.command({ opcode: 0x0c })];
    expect(events.map(({ result0, result1 }) => [result0, result1])).to.deep.equal([
      [4, other],
      [4, first],
    ]);
  });

  it('L09: an entry is there when its effect is, not before', async () => {
    const backend = new CopyBackend();
    await begin({ backend });
    const cdqid = await start();
    await manager.drain(cdqid);
    const reader = await t.association();
    backend.hold = true;
    const pending = io.write(40, pattern(512, 9));
    await t.until(() => backend.held.length === 1);
    expect(await manager.entries(cdqid)).to.deep.equal([]);
    backend.hold = false;
    backend.release();
    let entries: Entry[] = [];
    while (entries.length === 0) entries = await manager.entries(cdqid);
    expect(ranges(entries)).to.deep.equal([[1, 40, 1]]);
    expect(Buffer.compare((await reader.io.read(40, 1)).data, pattern(512, 9))).to.equal(0);
    expect((await pending).code).to.equal(0);
  });

  it('L15: changes of two namespaces are in one queue', async () => {
    await begin();
    t.target.addNamespace(t.subsystem, { nsid: 7, backend: new MemoryBackend({ blockSize: 512, blockCount: 1024 }) });
    const cdqid = await start();
    await manager.drain(cdqid);
    await write(3, 7);
    await write(3);
    await write(9, 7);
    t.target.addNamespace(t.subsystem, { nsid: 8, backend: new MemoryBackend({ blockSize: 512, blockCount: 1024 }) });
    await write(1, 8);
    expect(ranges(await manager.drain(cdqid))).to.deep.equal([
      [7, 3, 1],
      [1, 3, 1],
      [7, 9, 1],
      [8, 1, 1],
    ]);
  });

  it('L27: writes that race with the start are among the allocated blocks, or in the queue', async () => {
    await begin({ backend: new MemoryBackend({ blockSize: 512, blockCount: 65_536 }) });
    const { result0: cdqid } = await manager.create(cntlid, 256);
    for (let round = 0; round < 20; round++) {
      const blocks = Array.from({ length: 16 }, (_, i) => (round * 16 + i) * 16);
      const writes = blocks.slice(0, 8).map((block) => io.write(block, pattern(512, block)));
      const started = manager.track(cdqid, 1);
      writes.push(...blocks.slice(8).map((block) => io.write(block, pattern(512, block))));
      expect((await started).code).to.equal(0);
      const known = new Set<number>();
      const dwords = 1024;
      for (let from = 0, more = true; more; ) {
        const sqe = { opcode: 0x86, nsid: 1, cdw10: from, cdw12: dwords - 1, cdw13: 0x0200_0000 };
        const { data } = await manager.host.command(sqe, { readBytes: dwords * 4 });
        for (let i = 0; i < data.readUInt32LE(0); i++) {
          const slba = Number(data.readBigUInt64LE(8 + i * 16));
          from = slba + data.readUInt32LE(16 + i * 16) + 1;
          for (let block = slba; block < from; block++) known.add(block);
        }
        more = data[4] === 1;
      }
      await Promise.all(writes);
      for (const { slba, blocks: count } of await manager.drain(cdqid)) {
        for (let n = 0; n < count; n++) known.add(slba + n);
      }
      for (const block of blocks) expect(known.has(block), `round ${round}, block ${block}`).to.equal(true);
      expect((await manager.track(cdqid, 0)).code).to.equal(0);
      await manager.drain(cdqid);
    }
  });

  it('L28: Format NVM is a change of every block, in the queue of every controller that is logged, and in the bitmap', async () => {
    await begin({ backend: new MemoryBackend({ blockSize: 512, blockCount: 1024 }) });
    const cdqid = await start();
    const second = await t.association();
    const other = await start(64, second.admin.cntlid);
    await manager.changes(1, 1);
    await manager.drain(cdqid);
    await manager.drain(other);
    const formatted = await admin.command({ opcode: 0x80, nsid: 1, cdw10: 0 });
    expect(formatted.code).to.equal(0);
    const covered = (entries: readonly Entry[]): number => {
      for (const { esa, lbacir } of entries) expect(esa !== 0 || lbacir === 0).to.equal(true);
      return ranges(entries).reduce((sum, [, , blocks]) => sum + blocks!, 0);
    };
    expect(covered(await manager.drain(cdqid))).to.equal(1024);
    expect(covered(await manager.drain(other))).to.equal(1024);
    expect((await manager.changed(1)).runs).to.deep.equal([[0, 1024]]);
  });

  it('a resize while changes are followed: what is new counts as changed, what is gone is forgotten', async () => {
    await begin({ backend: new MemoryBackend({ blockSize: 512, blockCount: 1024 }) });
    const cdqid = await start();
    await manager.changes(1, 1);
    await manager.drain(cdqid);
    await write(1000);
    await t.target.resizeNamespace(t.subsystem, 1, 2048 * 512);
    await write(2040);
    expect((await manager.changed(1)).runs).to.deep.equal([
      [1000, 8],
      [1024, 1024],
    ]);
    expect(ranges(await manager.drain(cdqid))).to.deep.include([1, 2040, 1]);
  });

  it('blocks that are unreadable, cut off by a resize, are new when the namespace grows again', async () => {
    await begin({ backend: new MemoryBackend({ blockSize: 512, blockCount: 1024 }) });
    expect((await io.command({ opcode: 4, nsid: 1, cdw10: 900, cdw12: 3 })).code).to.equal(0);
    expect((await io.command({ opcode: 4, nsid: 1, cdw10: 100, cdw12: 0 })).code).to.equal(0);
    for (const blocks of [512, 1024]) await t.target.resizeNamespace(t.subsystem, 1, blocks * 512);
    expect((await io.read(900, 4)).code).to.equal(0);
    expect((await io.read(100, 1)).code).to.equal(0x281);
  });

  it('S11: Sanitize is refused on every controller while one is suspended', async () => {
    await begin({ subsystem: { allowSanitize: true } });
    const second = await t.association();
    expect((await manager.suspend(cntlid)).code).to.equal(0);
    for (const host of [second.admin, manager.host]) {
      expect((await host.command({ opcode: 0x84, cdw10: 2 })).code).to.equal(0x139);
    }
    expect((await manager.resume(cntlid)).code).to.equal(0);
    expect((await second.admin.command({ opcode: 0x84, cdw10: 2 })).code).to.equal(0);
  });

  it('a manager that is reset while a state is half loaded: the controller stays quiet until it is reset itself', async () => {
    await begin();
    const state = await manager.state(cntlid);
    expect((await manager.suspend(cntlid)).code).to.equal(0);
    expect((await manager.setState(cntlid, state.subarray(0, 64), { sequence: 1 })).code).to.equal(0);
    const waits = admin.identify(1);
    let answered = false;
    void waits.then(
      () => {
        answered = true;
      },
      () => {},
    );
    await manager.host.propertySet(0x14, 0);
    await manager.host.enable();
    await settle();
    expect(answered, 'halted').to.equal(false);
    expect((await manager.resume(cntlid)).code).to.equal(0x0c);
    expect((await manager.setState(cntlid, state)).code).to.equal(0x11f);
    expect((await manager.suspend(cntlid)).code, 'suspended anew').to.equal(0);
    expect((await manager.setState(cntlid, state)).code).to.equal(0);
    expect((await manager.resume(cntlid)).code).to.equal(0);
    expect((await waits).code).to.equal(0);
  });
});

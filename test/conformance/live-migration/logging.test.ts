/** Live migration: queues, feature 21h, logged changes, changed blocks. Cases of C01 to C24, F01 to F19, L01 to L28; checklist.test.ts has what is not here. */
import { expect } from 'chai';
import { type Entry, type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { pattern, type RawHost } from '../../support/raw-host.ts';
import type { TestTarget } from '../../support/test-target.ts';

const ranges = (entries: readonly Entry[]): number[][] =>
  entries
    .filter(({ lbacir }) => lbacir === 0)
    .map(({ nsid, slba, blocks, deallocated }) => [nsid, slba, blocks, +deallocated]);
const FULL = 7;

async function deallocate(io: RawHost, slba: number, blocks: number): Promise<void> {
  const data = Buffer.alloc(16);
  data.writeUInt32LE(blocks, 4);
  data.writeBigUInt64LE(BigInt(slba), 8);
  expect((await io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data })).code).to.equal(0);
}

describe('conformance: live migration, queues and logging', () => {
  let t: TestTarget;
  let manager: Manager;
  let admin: RawHost;
  let io: RawHost;
  let cntlid: number;
  beforeEach(async () => {
    t = await startManaged();
    manager = await managerOf(t);
    ({ admin, io } = await t.association());
    cntlid = admin.cntlid;
  });
  afterEach(() => t.close());
  const start = async (slots = 64): Promise<number> => {
    const created = await manager.create(cntlid, slots);
    expect(created.code, 'create').to.equal(0);
    expect((await manager.track(created.result0, 1)).code, 'start').to.equal(0);
    return created.result0;
  };
  const write = async (block: number, blocks: number, host = io): Promise<void> => {
    expect((await host.write(block, pattern(blocks * 512, block))).code).to.equal(0);
  };

  it('C01, C02, C17, C18, C22: a queue per controller, until it is deleted', async () => {
    const first = await manager.create(cntlid, 8);
    expect([first.code, first.result0 >>> 16]).to.deep.equal([0, 0]);
    expect((await manager.create(cntlid, 8)).code, 'C02').to.equal(2);
    expect((await manager.remove(first.result0)).code).to.equal(0);
    expect((await manager.remove(first.result0)).code, 'C18').to.equal(0x137);
    expect((await manager.create(cntlid, 8)).code, 'C22').to.equal(0);
  });

  it('C03, C11 to C14, C23: what cannot be created', async () => {
    expect((await manager.create(cntlid, 0, { dwords: 20 })).code, 'C03').to.equal(2);
    expect((await manager.create(cntlid, 0, { dwords: 0 })).code, 'C23').to.equal(2);
    expect((await manager.create(cntlid, 0, { dwords: 8 })).code, 'one entry').to.equal(2);
    expect((await manager.create(0x7777, 8)).code, 'C11').to.equal(0x11f);
    expect((await manager.create(manager.host.cntlid, 8)).code, 'C12').to.equal(0x11f);
    for (const type of [0, 1, 0xc1]) expect((await manager.create(cntlid, 8, { type })).code, 'C13').to.equal(2);
    expect((await manager.create(cntlid, 8, { sel: 2 })).code, 'C14').to.equal(2);
    expect((await manager.create(cntlid, 131_073)).code, 'too large').to.equal(0x138);
    expect((await manager.create(cntlid, 131_072)).code, 'the largest').to.equal(0);
  });

  it('C09: no more queues than MCUDMQ', async () => {
    for (let i = 0; i < 16; i++) expect((await manager.create((await t.admin()).cntlid, 8)).code, `${i}`).to.equal(0);
    expect((await manager.create(cntlid, 8)).code).to.equal(0x138);
  });

  it('C19 to C21, F02, F03: a queue belongs to its manager, and ends with its reset', async () => {
    const cdqid = await start();
    const other = await managerOf(t);
    expect((await other.remove(cdqid)).code, 'C19').to.equal(0x137);
    expect((await other.getHead(cdqid)).code, 'F03').to.equal(0x137);
    expect((await other.setHead(cdqid, 0)).code, 'F02').to.equal(0x137);
    expect((await other.create(cntlid, 8)).code, 'already logged').to.equal(2);
    await admin.propertySet(0x14, 0);
    expect((await manager.getHead(cdqid)).code, 'C21').to.equal(0);
    await manager.host.propertySet(0x14, 0);
    await manager.host.enable();
    expect((await manager.getHead(cdqid)).code, 'C20').to.equal(0x137);
  });

  it('F01, F04 to F10, F16: head and trigger', async () => {
    const cdqid = await start(8);
    await manager.drain(cdqid);
    const fresh = await manager.getHead(cdqid);
    expect([fresh.result0, fresh.data.readUInt32LE(0), fresh.data.readUInt32LE(4)]).to.deep.equal([cdqid, 1, 0]);
    expect((await manager.setHead(cdqid, 1)).code, 'F04').to.equal(0);
    expect((await manager.setHead(cdqid, 2)).code, 'F05').to.equal(2);
    for (const block of [0, 100, 200]) {
      await write(block, 1);
      await manager.entries(cdqid);
    }
    expect((await manager.setHead(cdqid, 5)).code, 'F08').to.equal(2);
    expect((await manager.setHead(cdqid, 2)).code, 'F06').to.equal(0);
    expect((await manager.getHead(cdqid)).data.readUInt32LE(0)).to.equal(2);
    expect((await manager.setHead(cdqid, 4)).code, 'F07').to.equal(0);
    expect((await manager.setHead(cdqid, 4, 8)).code, 'F09').to.equal(2);
    const ignored = { opcode: 9, cdw10: 0x21, cdw11: cdqid, cdw12: 4, cdw13: 0xffff_ffff };
    expect((await manager.host.command(ignored)).code, 'F10').to.equal(0);
    expect((await manager.host.command({ ...ignored, cdw10: 0x8000_0021 })).code, 'F16').to.equal(0x10d);
  });

  it('F11, F12, F14, F19: the trigger fires once, on the manager only', async () => {
    const cdqid = await start(8);
    await manager.drain(cdqid);
    await manager.setHead(cdqid, 1, 1);
    const event = manager.host.command({ opcode: 0x0c });
    const theirs = admin.command({ opcode: 0x0c });
    let told = false;
    void theirs.then(
      () => {
        told = true;
      },
      () => {},
    );
    await write(7, 1);
    const { result0, result1 } = await event;
    expect([result0, result1]).to.deep.equal([4, cdqid]);
    expect((await manager.getHead(cdqid)).result0, 'F12').to.equal(cdqid);
    await manager.drain(cdqid);
    await manager.setHead(cdqid, 2, 2);
    await write(9, 1);
    await manager.drain(cdqid); // F14: the event that waits is void
    const next = manager.host.command({ opcode: 0x0c });
    await manager.setHead(cdqid, 3, 3);
    await write(11, 1);
    expect((await next).result1).to.equal(cdqid);
    expect((await manager.getHead(cdqid)).result0).to.equal(cdqid);
    expect(told, 'F19').to.equal(false);
  });

  it('L01, L08, L10 to L13, L18 to L20, L26: each changing command, by its blocks; nothing else', async () => {
    const cdqid = await start();
    expect(
      (await manager.drain(cdqid)).map(({ esa, lbacir }) => [esa, lbacir]),
      'L01',
    ).to.deep.equal([[1, 2]]);
    const logged = async (): Promise<number[][]> => {
      const entries = await manager.drain(cdqid);
      expect(entries.every(({ esa }) => esa === 0)).to.equal(true);
      return ranges(entries);
    };
    await write(10, 8);
    expect(await logged(), 'write').to.deep.equal([[1, 10, 8, 0]]);
    await io.command({ opcode: 8, nsid: 1, cdw10: 10, cdw12: 3 });
    expect(await logged(), 'write zeroes').to.deep.equal([[1, 10, 4, 0]]);
    await deallocate(io, 8, 16);
    expect(await logged(), 'deallocate').to.deep.equal([[1, 8, 16, 1]]);
    await write(30, 1);
    await logged();
    await deallocate(io, 30, 1);
    expect(await logged(), 'a part of a granule stays').to.deep.equal([[1, 30, 1, 0]]);
    const source = Buffer.alloc(32);
    source.writeBigUInt64LE(10n, 8);
    source.writeUInt16LE(3, 16);
    expect((await io.command({ opcode: 0x19, nsid: 1, cdw10: 100 }, { data: source })).code).to.equal(0);
    expect(await logged(), 'copy').to.deep.equal([[1, 100, 4, 0]]);
    await io.command({ opcode: 4, nsid: 1, cdw10: 200, cdw12: 1 });
    expect(await logged(), 'write uncorrectable').to.deep.equal([[1, 200, 2, 0]]);
    const same = pattern(512, 10);
    await io.write(300, same);
    await logged();
    const [compared, written] = await Promise.all([
      io.command({ opcode: 5, flags: 0x41, nsid: 1, cdw10: 300 }, { data: same }),
      io.command({ opcode: 1, flags: 0x42, nsid: 1, cdw10: 300 }, { data: same }),
    ]);
    expect([compared.code, written.code]).to.deep.equal([0, 0]);
    expect(await logged(), 'compare and write').to.deep.equal([[1, 300, 1, 0]]);
    await io.read(10, 8);
    await io.command({ opcode: 0, nsid: 1 });
    await io.command({ opcode: 0x0c, nsid: 1, cdw10: 10 });
    await io.command({ opcode: 1, nsid: 1, cdw10: 0xffff_fff0 }, { data: same });
    expect(await logged(), 'L13, L26').to.deep.equal([]);
  });

  it('L14: only what this controller changes', async () => {
    const cdqid = await start();
    await manager.drain(cdqid);
    const second = await t.association();
    await write(5, 1, second.io);
    expect(await manager.drain(cdqid)).to.deep.equal([]);
    await write(6, 1);
    expect(ranges(await manager.drain(cdqid))).to.deep.equal([[1, 6, 1, 0]]);
  });

  it('L16, L17: neighbours merge until they are seen; later changes have an entry of their own', async () => {
    const cdqid = await start();
    await manager.drain(cdqid);
    await write(0, 8);
    await write(8, 8);
    expect(ranges(await manager.entries(cdqid))).to.deep.equal([[1, 0, 16, 0]]);
    await write(4, 1);
    expect(ranges(await manager.drain(cdqid))).to.deep.equal([
      [1, 0, 16, 0],
      [1, 4, 1, 0],
    ]);
  });

  it('L02, L03, L05 to L07, L21: start and stop', async () => {
    expect((await manager.track(5, 1)).code, 'L02').to.equal(0x137);
    const cdqid = await start();
    expect((await manager.track(cdqid, 1)).code, 'L03').to.equal(0x137);
    expect((await manager.track(cdqid, 2)).code, 'L07').to.equal(2);
    expect((await manager.suspend(cntlid)).code).to.equal(0);
    expect((await manager.track(cdqid, 1)).code, 'L05').to.equal(0x139);
    expect((await manager.track(cdqid, 0)).code, 'L06').to.equal(0x139);
    expect((await manager.resume(cntlid)).code).to.equal(0);
    expect((await manager.track(cdqid, 0)).code).to.equal(0);
    await write(1, 1);
    const entries = await manager.drain(cdqid);
    expect(entries.map(({ esa }) => esa)).to.deep.equal([1, 3, 1, 2]);
  });

  it('L22 to L25, F17: the entry that fills the queue is the last; phases over the wrap', async () => {
    const cdqid = await start(4);
    const event = manager.host.command({ opcode: 0x0c });
    for (const block of [0, 10, 20, 30]) await write(block, 1);
    const { result0, result1 } = await event;
    expect([result0, result1]).to.deep.equal([0x104, cdqid]);
    const entries = await manager.entries(cdqid);
    expect(entries.map(({ esa, phase }) => [esa, phase])).to.deep.equal([
      [1, 1],
      [0, 1],
      [FULL, 1],
    ]);
    expect(ranges(entries)).to.deep.equal([
      [1, 0, 1, 0],
      [1, 10, 1, 0],
    ]);
    expect((await manager.queueLog(cdqid, 64)).data[1]! & 4, 'FULL').to.equal(4);
    expect((await manager.track(cdqid, 1)).code, 'L23').to.equal(0x13b);
    await manager.drain(cdqid);
    expect((await manager.track(cdqid, 1)).code, 'L24').to.equal(0);
    await write(40, 1);
    expect((await manager.drain(cdqid)).map(({ esa, phase }) => [esa, phase])).to.deep.equal([
      [1, 1],
      [0, 0],
    ]);
  });

  it('log page C8h: reading consumes nothing; parts; no such queue; only with the UUID index', async () => {
    const cdqid = await start();
    await write(1, 1);
    const one = await manager.queueLog(cdqid, 96);
    expect([one.data[1]! & 3, one.data.readUInt32LE(16), one.data.readUInt16LE(4)]).to.deep.equal([3, 2, cntlid]);
    const rest = await manager.queueLog(cdqid, 32, 96);
    expect(rest.data.readUInt32LE(8), 'the second entry').to.equal(1);
    expect((await manager.queueLog(9)).code).to.equal(0x137);
    expect((await manager.queueLog(cdqid, 64, 4096)).code).to.equal(2);
    expect((await manager.host.logPage(0xc8, 64)).code, 'without the index').to.equal(2);
  });

  it('log page C9h: of whatever controller, kept until it is acknowledged', async () => {
    expect((await manager.changed(1)).tracking).to.equal(false);
    expect((await manager.changes(1, 1)).code).to.equal(0);
    const second = await t.association();
    await write(3, 1);
    await write(64, 16, second.io);
    const first = await manager.changed(1);
    expect(first.runs).to.deep.equal([
      [0, 8],
      [64, 16],
    ]);
    await write(128, 1);
    expect(await manager.changed(1), 'the same again').to.deep.equal(first);
    expect((await manager.changes(1, 2, first.epoch + 1)).code).to.equal(2);
    expect((await manager.changes(1, 2, first.epoch)).code).to.equal(0);
    const next = await manager.changed(1);
    expect(next.runs).to.deep.equal([[128, 8]]);
    expect((await manager.changes(1, 3)).code, 'given back').to.equal(0);
    await write(136, 1);
    expect((await manager.changed(1)).runs).to.deep.equal([[128, 16]]);
    expect((await manager.changes(1, 0)).code).to.equal(0);
    expect((await manager.changed(1)).tracking).to.equal(false);
    expect((await manager.changes(1, 9)).code).to.equal(2);
  });
});

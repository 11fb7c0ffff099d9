/** Asynchronous events and Abort: sheet of commands 10; checklist numbers in case names. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { NullBackend } from '../../src/backend/null.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { settle, TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const ALL = 0xffff_ffff;

describe('conformance: asynchronous events and Abort', () => {
  let t: TestTarget;
  let admin: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start();
    admin = await t.admin();
  });
  afterEach(() => t.close());

  const NAMESPACE_NOTICE = 0x0004_0002;
  const aer = (host = admin): Promise<Completion> => host.command({ opcode: 0x0c });
  function add(nsid: number): void {
    t.target.addNamespace(t.subsystem, { nsid, backend: new NullBackend({ blockSize: 512, blockCount: 8 }) });
  }
  async function pendingStill(promise: Promise<unknown>): Promise<boolean> {
    let settled = false;
    promise.then(
      () => {
        settled = true;
      },
      () => {},
    );
    await settle();
    return !settled;
  }
  const changed = async (rae = false): Promise<number[]> => {
    const { data } = await admin.logPage(4, 4096, { nsid: ALL, rae });
    const list: number[] = [];
    for (let at = 0; at < 4096 && data.readUInt32LE(at) !== 0; at += 4) list.push(data.readUInt32LE(at));
    return list;
  };

  it('33: more AERs than AERL + 1: SCT 1 SC 05h; the others stay', async () => {
    const limit = (await admin.identify(1)).data[259]! + 1;
    const all = Array.from({ length: limit }, () => aer());
    const over = await aer();
    expect([over.code, over.dnr]).to.deep.equal([0x105, true]);
    for (const one of all) expect(await pendingStill(one)).to.equal(true);
  });

  it('34: a namespace is added: DW0 00040002h; no second AER until LID 04h is read with RAE 0', async () => {
    await admin.setFeature(0x0b, 0x100);
    const first = aer();
    const second = aer();
    add(2);
    expect((await first).result0).to.equal(NAMESPACE_NOTICE);
    add(3);
    expect(await pendingStill(second)).to.equal(true);
    expect(await changed(true), 'RAE 1 keeps list and event').to.deep.equal([2, 3]);
    expect(await pendingStill(second)).to.equal(true);
    expect(await changed()).to.deep.equal([2, 3]);
    expect(await changed(), 'read once').to.deep.equal([]);
    expect(await pendingStill(second), 'the event of NSID 3 is void: its list was read').to.equal(true);
    await t.target.removeNamespace(t.subsystem, 2);
    expect((await second).result0).to.equal(NAMESPACE_NOTICE);
    expect(await changed()).to.deep.equal([2]);
  });

  it('an event without AER is kept, and several are one', async () => {
    await admin.setFeature(0x0b, 0x100);
    add(2);
    add(3);
    const first = aer();
    expect((await first).result0).to.equal(NAMESPACE_NOTICE);
    expect(await pendingStill(aer())).to.equal(true);
  });

  it('an event whose log page was read meanwhile is not sent', async () => {
    await admin.setFeature(0x0b, 0x100);
    add(2);
    expect(await changed()).to.deep.equal([2]);
    expect(await pendingStill(aer())).to.equal(true);
  });

  it('an event that is not enabled is not sent; the list is kept all the same', async () => {
    const one = aer();
    add(2);
    expect(await pendingStill(one)).to.equal(true);
    expect(await changed()).to.deep.equal([2]);
  });

  it('each controller has its own events', async () => {
    const other = await t.admin();
    await admin.setFeature(0x0b, 0x100);
    await other.setFeature(0x0b, 0x100);
    const mine = aer();
    const theirs = aer(other);
    add(2);
    expect([(await mine).result0, (await theirs).result0]).to.deep.equal([NAMESPACE_NOTICE, NAMESPACE_NOTICE]);
    await changed();
    const next = [aer(), aer(other)];
    add(3);
    expect((await next[0]!).result0).to.equal(NAMESPACE_NOTICE);
    expect(await pendingStill(next[1]!), 'it has not read its log').to.equal(true);
  });

  it('more than 1024 changes: a single FFFFFFFFh', async () => {
    await t.close();
    t = await TestTarget.start({ subsystem: { nsidMax: 4000 } });
    admin = await t.admin();
    for (let nsid = 2; nsid <= 1025; nsid++) add(nsid);
    expect((await changed(true)).length).to.equal(1024);
    add(1026);
    expect(await changed()).to.deep.equal([ALL]);
    add(1027);
    expect(await changed()).to.deep.equal([1027]);
  });

  it('a namespace that grows by writes raises nothing', async () => {
    await admin.setFeature(0x0b, 0x100);
    const one = aer();
    const io = await t.io(admin);
    await io.write(0, Buffer.alloc(4096, 1));
    expect(await pendingStill(one)).to.equal(true);
  });

  describe('LBA status information', () => {
    const LBA_STATUS_NOTICE = 0x000e_0502;
    let io: RawHost;
    beforeEach(async () => {
      io = await t.io(await t.admin()); // another host's
    });
    const spoil = async (block: number): Promise<void> => {
      expect((await io.command({ opcode: 4, nsid: 1, cdw10: block })).status).to.equal(0);
    };
    const readLog = (): Promise<unknown> => admin.logPage(0x0e, 64);

    it('blocks become unreadable: DW0 000E0502h; again only after LID 0Eh is read', async () => {
      await admin.setFeature(0x0b, 0x2000);
      const [first, second] = [aer(), aer()];
      await spoil(1);
      expect((await first).result0).to.equal(LBA_STATUS_NOTICE);
      await spoil(5);
      expect(await pendingStill(second)).to.equal(true);
      await readLog();
      expect(await pendingStill(second), 'the page told of both').to.equal(true);
      await spoil(9);
      expect((await second).result0).to.equal(LBA_STATUS_NOTICE);
    });

    it('not if the bit is not set, nor for a namespace of others, nor when blocks become readable', async () => {
      const one = aer();
      await spoil(1);
      expect(await pendingStill(one)).to.equal(true);
      await admin.setFeature(0x0b, 0x2000);
      expect((await io.write(1, Buffer.alloc(512))).status).to.equal(0);
      expect(await pendingStill(one)).to.equal(true);
    });

    it('15h: at most once in LSIRI; what came meanwhile is told then', async () => {
      await admin.setFeature(0x0b, 0x2000);
      await admin.setFeature(0x15, 20); // 2 s
      const [first, second, third] = [aer(), aer(), aer()];
      await spoil(1);
      expect((await first).result0).to.equal(LBA_STATUS_NOTICE);
      await readLog();
      await spoil(5);
      t.clock.advance(1990);
      expect(await pendingStill(second)).to.equal(true);
      t.clock.advance(10);
      expect((await second).result0).to.equal(LBA_STATUS_NOTICE);
      await readLog();
      t.clock.advance(2000);
      await spoil(9);
      expect((await third).result0, 'long enough after the last: at once').to.equal(LBA_STATUS_NOTICE);
    });
  });

  it('62: Abort of an unknown CID or SQID: success, DW0 bit 0 = 1', async () => {
    for (const cdw10 of [0x0500_0000, 0x0005_0000 | 9, ALL]) {
      const completion = await admin.command({ opcode: 8, cdw10 });
      expect([completion.status, completion.result0 & 1]).to.deep.equal([0, 1]);
    }
  });

  it('Abort of an AER: it ends with Command Abort Requested, DW0 0', async () => {
    const first = admin.command({ opcode: 0x0c, cid: 0x60 });
    const second = aer();
    await settle();
    const completion = await admin.command({ opcode: 8, cdw10: 0x0060_0000 });
    expect([completion.status, completion.result0]).to.deep.equal([0, 0]);
    expect((await first).code).to.equal(0x07);
    await admin.setFeature(0x0b, 0x100);
    add(2);
    expect((await second).result0).to.equal(NAMESPACE_NOTICE);
  });

  it('Abort of itself, and of a command that is done: not aborted', async () => {
    const itself = await admin.command({ opcode: 8, cid: 0x70, cdw10: 0x0070_0000 });
    expect([itself.status, itself.result0]).to.deep.equal([0, 1]);
    await admin.command({ opcode: 0x18, cid: 0x71 });
    expect((await admin.command({ opcode: 8, cdw10: 0x0071_0000 })).result0).to.equal(1);
  });

  it('Abort of a write that waits for its data: not aborted, the write goes on', async () => {
    const io = await t.io(admin);
    const data = Buffer.alloc(512, 9);
    const done = io.completion(0x55, { manual: true, data });
    await io.send(io.commandBytes({ opcode: 1, nsid: 1, cid: 0x55 }, { data, by: 'r2t' }));
    const r2t = await io.next();
    expect((await admin.command({ opcode: 8, cdw10: 1 | (0x55 << 16) })).result0).to.equal(1);
    await io.send(io.h2cData({ cccid: 0x55, ttag: r2t.ttag, offset: 0, last: true }, data));
    expect((await done).status).to.equal(0);
  });

  it('MemoryBackend namespaces report NUSE by what is written', async () => {
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(16)).to.equal(0n);
    const io = await t.io(admin);
    await io.write(0, Buffer.alloc(8192, 1));
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(16)).to.equal(16n);
    expect(t.backend).to.be.instanceOf(MemoryBackend);
  });

  it('Admin opcodes are unknown on an I/O queue', async () => {
    const io = await t.io(admin);
    expect((await io.command({ opcode: 0x18 })).code).to.equal(INVALID_OPCODE);
    expect((await io.command({ opcode: 0x06, cdw10: 1 }, { readBytes: 4096 })).code).to.equal(INVALID_OPCODE);
  });
});

/** Asymmetric Namespace Access: sheet of commands 14; checklist numbers in case names. */
import { expect } from 'chai';
import { NullBackend } from '../../src/backend/null.ts';
import { type AnaLog, AnaState, decodeAnaLog } from '../../src/wire/cold/log-ana.ts';
import { type Completion, RawHost } from '../support/raw-host.ts';
import { CopyBackend, SUBSYSTEM_NQN, settle, TestTarget } from '../support/test-target.ts';

const ALL = 0xffff_ffff;
const ANA_NOTICE = 0x000c_0302;
const NAMESPACE_NOTICE = 0x0004_0002;
const ANA_EVENT = 0x800;
const NAMESPACE_EVENT = 0x100;
/** SCT 3: persistent loss, inaccessible, transition. */
const STATUS: Record<number, number> = { 3: 0x302, 4: 0x301, 15: 0x303 };
const { Optimized, NonOptimized, Inaccessible, PersistentLoss, Change } = AnaState;
const ANATT_MS = 10_000;

describe('conformance: ANA', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  /** A controller of the same subsystem on port 2. */
  let otherAdmin: RawHost;
  let otherIo: RawHost;
  let backend: CopyBackend;

  beforeEach(async () => {
    backend = new CopyBackend({ volatileWriteCache: true });
    t = await TestTarget.start({ backend });
    await t.target.addPort({ portId: 2, address: '127.0.0.1', service: 0, subsystems: ['*'] });
    ({ admin, io } = await t.association());
    otherAdmin = await elsewhere({});
    await otherAdmin.enable();
    otherIo = await elsewhere({ cntlid: otherAdmin.cntlid, qid: 1, sqsize: 31 });
  });
  afterEach(() => t.close());

  async function onPort2(): Promise<RawHost> {
    const host = await RawHost.connect(t.target.port(2)!.service);
    t.hosts.push(host);
    await host.icReq();
    return host;
  }
  async function elsewhere(fields: { cntlid?: number; qid?: number; sqsize?: number }): Promise<RawHost> {
    const host = await onPort2();
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN, ...fields })).status).to.equal(0);
    return host;
  }

  const set = (state: number, portId = 1, anagrpid = 1): void => t.subsystem.ana.setState(anagrpid, portId, state);
  const aer = (host = admin): Promise<Completion> => host.command({ opcode: 0x0c });
  function add(nsid: number, anagrpid?: number): void {
    t.target.addNamespace(t.subsystem, {
      nsid,
      anagrpid,
      backend: new NullBackend({ blockSize: 512, blockCount: 64 }),
    });
  }
  async function pendingStill(promise: Promise<unknown>): Promise<boolean> {
    let settled = false;
    void promise.then(
      () => {
        settled = true;
      },
      () => {},
    );
    await settle();
    return !settled;
  }
  async function logBytes(host: RawHost, bytes: number, more: { rgo?: boolean; rae?: boolean; offset?: number } = {}) {
    const completion = await host.command(
      {
        opcode: 0x02,
        nsid: ALL,
        cdw10: 0x0c | (more.rgo ? 0x100 : 0) | (more.rae ? 0x8000 : 0) | ((bytes / 4 - 1) << 16),
        cdw12: more.offset ?? 0,
      },
      { readBytes: bytes },
    );
    expect(completion.status).to.equal(0);
    return completion.data;
  }
  const log = async (host = admin, more: { rgo?: boolean; rae?: boolean } = {}): Promise<AnaLog> =>
    decodeAnaLog(await logBytes(host, 8192, more));
  const states = async (host = admin): Promise<[number, number][]> =>
    (await log(host, { rae: true })).groups.map(({ grpid, state }) => [grpid, state]);

  it('Identify: CMIC, OAES, ANATT, ANACAP, ANAGRPMAX, NANAGRPID, MNAN; ANAGRPID of CNS 00h and 08h', async () => {
    const { data } = await admin.identify(1);
    expect(data[76]! & 0x08, 'CMIC bit 3').to.equal(0x08);
    expect(data.readUInt32LE(92) & ANA_EVENT, 'OAES bit 11').to.equal(ANA_EVENT);
    expect(data[342], 'ANATT').to.equal(10);
    expect(data[343], 'ANACAP: five states, ANAGRPID may change').to.equal(0x1f);
    const [groupsMax, groups] = [data.readUInt32LE(344), data.readUInt32LE(348)];
    expect(groups, 'NANAGRPID at most ANAGRPMAX').to.be.within(1, groupsMax);
    expect(data.readUInt32LE(540), 'MNAN').to.be.within(1, data.readUInt32LE(516));
    const logBytesMax = 16 + groups * 32 + data.readUInt32LE(540) * 4;
    expect(logBytesMax, 'the whole log in one command').to.be.at.most(4096 << data[77]!);
    add(2, 5);
    for (const [nsid, group] of [
      [1, 1],
      [2, 5],
    ] as const) {
      expect((await admin.identify(0, { nsid })).data.readUInt32LE(92)).to.equal(group);
      expect((await admin.identify(8, { nsid })).data.readUInt32LE(4)).to.equal(group);
    }
  });

  it('ANATT is what the subsystem was given', async () => {
    await t.close();
    t = await TestTarget.start({ subsystem: { anaTransitionSeconds: 3 } });
    admin = await t.admin();
    expect((await admin.identify(1)).data[342]).to.equal(3);
  });

  /** A write on `host` that was let in; its data is sent when `send` is called. */
  async function halfWritten(
    host: RawHost,
    fill: number,
  ): Promise<{ done: Promise<Completion>; send(): Promise<void> }> {
    const data = Buffer.alloc(16_384, fill);
    const cid = host.nextCid();
    const done = host.completion(cid, { by: 'r2t', manual: true, data });
    await host.send(host.commandBytes({ opcode: 1, nsid: 1, cid, cdw12: 31 }, { by: 'r2t', data }));
    const { name, ttag } = await host.next();
    expect(name).to.equal('R2T');
    return { done, send: () => host.send(host.h2cData({ cccid: cid, ttag, offset: 0, last: true }, data)) };
  }

  for (const [name, state] of Object.entries({ Inaccessible, PersistentLoss, Change })) {
    it(`${name}: a write that waits for its data is turned away, even if the state is another again by then; the other port's is not`, async () => {
      const [mine, theirs] = [await halfWritten(io, 0xaa), await halfWritten(otherIo, 0xbb)];
      set(state);
      if (state !== PersistentLoss) set(Optimized);
      await mine.send();
      const { code, dnr } = await mine.done;
      expect([code, dnr]).to.deep.equal([STATUS[state], false]);
      expect(backend.bytes.includes(0xaa), 'nothing was written').to.equal(false);
      await theirs.send();
      expect((await theirs.done).status).to.equal(0);
      expect(backend.bytes.subarray(0, 16_384).every((byte) => byte === 0xbb)).to.equal(true);
    });
  }

  it('a change on one port is no event, and no count, on the other', async () => {
    for (const host of [admin, otherAdmin]) await host.setFeature(0x0b, ANA_EVENT);
    const [mine, theirs] = [aer(), aer(otherAdmin)];
    const count = async (): Promise<bigint> =>
      decodeAnaLog((await otherAdmin.logPage(0x0c, 4096, { rae: true })).data).chgcnt;
    const before = await count();
    set(Inaccessible);
    expect((await mine).result0).to.equal(ANA_NOTICE);
    expect(await pendingStill(theirs)).to.equal(true);
    expect(await count()).to.equal(before);
  });

  it('a write that waits for its data is turned away when its namespace moves to an inaccessible group', async () => {
    set(Inaccessible, 1, 2);
    const write = await halfWritten(io, 0xaa);
    t.subsystem.setAnaGroup(1, 2);
    await write.send();
    expect((await write.done).code).to.equal(STATUS[Inaccessible]);
    expect(backend.bytes.includes(0xaa)).to.equal(false);
  });

  it('what the backend has runs to its end', async () => {
    backend.hold = true;
    const write = io.write(0, Buffer.alloc(512, 0xaa));
    await t.until(() => backend.held.length === 1);
    set(Inaccessible);
    backend.release();
    expect((await write).status).to.equal(0);
  });

  for (const [name, state] of Object.entries({ Inaccessible, PersistentLoss, Change })) {
    it(`67: ${name}: every I/O command on that port is refused with the path status, DNR clear; the other port serves`, async () => {
      set(state);
      const data = Buffer.alloc(512, 7);
      const range = Buffer.alloc(16);
      range.writeUInt32LE(1, 4);
      const commands: [string, Promise<Completion>][] = [
        ['Read', io.read(0, 1)],
        ['Write', io.write(0, data)],
        ['Write by R2T', io.write(0, data, { by: 'r2t' })],
        ['Flush', io.command({ opcode: 0, nsid: 1 })],
        ['Flush of all', io.command({ opcode: 0, nsid: ALL })],
        ['Write Zeroes', io.command({ opcode: 8, nsid: 1 })],
        ['Deallocate', io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range })],
        ['hints', io.command({ opcode: 9, nsid: 1, cdw11: 2 }, { data: range })],
        ['out of range', io.read(1 << 30, 1)],
      ];
      for (const [what, command] of commands) {
        const { code, dnr, data: none } = await command;
        expect([code, dnr, none.length], what).to.deep.equal([STATUS[state], false, 0]);
      }
      expect(backend.flushCount).to.equal(0);
      expect(backend.bytes.every((byte) => byte === 0)).to.equal(true);
      expect((await otherIo.write(0, data)).status).to.equal(0);
      expect((await otherIo.read(0, 1)).data.equals(data)).to.equal(true);
    });
  }

  it('67: Identify, log pages and Admin commands without NSID work as before', async () => {
    const before = await admin.identify(3, { nsid: 1 });
    set(Inaccessible);
    expect((await admin.identify(3, { nsid: 1 })).data.equals(before.data)).to.equal(true);
    expect((await admin.identify(2)).data.readUInt32LE(0), 'still active').to.equal(1);
    for (const lid of [0x01, 0x02, 0x04, 0x05]) expect((await admin.logPage(lid, 512)).status).to.equal(0);
    expect((await admin.command({ opcode: 0x18 })).status, 'Keep Alive').to.equal(0);
    expect((await admin.setFeature(0x0b, ANA_EVENT)).status).to.equal(0);
    expect((await admin.getFeature(0x0b)).result0).to.equal(ANA_EVENT);
  });

  it('non-optimized serves as optimized does', async () => {
    set(NonOptimized);
    expect((await io.write(0, Buffer.alloc(512, 3))).status).to.equal(0);
    expect((await io.command({ opcode: 0, nsid: ALL })).status).to.equal(0);
    expect(await states()).to.deep.equal([[1, NonOptimized]]);
    expect(await states(otherAdmin)).to.deep.equal([[1, Optimized]]);
  });

  it('NUSE and NVMCAP read 0 in inaccessible and persistent loss; NSZE and NCAP stay', async () => {
    const fields = async (host = admin): Promise<[bigint, bigint, bigint, bigint]> => {
      const { data } = await host.identify(0, { nsid: 1 });
      return [data.readBigUInt64LE(0), data.readBigUInt64LE(8), data.readBigUInt64LE(16), data.readBigUInt64LE(48)];
    };
    const full = await fields();
    expect(full[2] > 0n && full[3] > 0n).to.equal(true);
    for (const state of [NonOptimized, Change]) {
      set(state);
      expect(await fields()).to.deep.equal(full);
    }
    for (const state of [Inaccessible, PersistentLoss]) {
      set(state);
      expect(await fields()).to.deep.equal([full[0], full[1], 0n, 0n]);
    }
    expect(await fields(otherAdmin)).to.deep.equal(full);
  });

  it('96: Get Features 05h of an inaccessible namespace: the path status; other features are there', async () => {
    const get = (fid: number, nsid: number): Promise<Completion> => admin.command({ opcode: 0x0a, nsid, cdw10: fid });
    for (const state of [Inaccessible, Change, PersistentLoss]) {
      set(state);
      expect((await get(0x05, 1)).code).to.equal(STATUS[state]);
      expect((await get(0x04, 1)).status).to.equal(0);
      expect((await get(0x05, 0)).status).to.equal(0);
    }
  });

  it('96: Set Features for all namespaces fails while one cannot be reached; nothing can be set in persistent loss', async () => {
    add(2, 2);
    set(Inaccessible, 1, 2);
    expect((await admin.setFeature(0x05, 0, { nsid: ALL })).code).to.equal(0x302);
    expect((await admin.setFeature(0x05, 0, { nsid: 2 })).code).to.equal(0x302);
    expect((await otherAdmin.setFeature(0x05, 0, { nsid: ALL })).status).to.equal(0);
    set(PersistentLoss, 1, 2);
    expect((await admin.setFeature(0x04, 0x150, { nsid: 2 })).code).to.equal(0x301);
    expect((await admin.setFeature(0x04, 0x150)).status).to.equal(0);
  });

  it('the log: groups with attached namespaces, ascending, NSIDs ascending; RGO leaves the NSIDs out', async () => {
    add(9, 4);
    add(5, 2);
    add(3, 4);
    set(Inaccessible, 1, 4);
    set(NonOptimized, 1, 99); // no namespace
    const strip = ({ groups }: AnaLog): object[] => groups.map(({ grpid, state, nsids }) => [grpid, state, nsids]);
    expect(strip(await log())).to.deep.equal([
      [1, Optimized, [1]],
      [2, Optimized, [5]],
      [4, Inaccessible, [3, 9]],
    ]);
    expect(strip(await log(admin, { rgo: true }))).to.deep.equal([
      [1, Optimized, []],
      [2, Optimized, []],
      [4, Inaccessible, []],
    ]);
  });

  it('35: ANA change: DW0 000C0302h on that port alone, CHGCNT of page and group one more; again after the log is read', async () => {
    for (const host of [admin, otherAdmin]) await host.setFeature(0x0b, ANA_EVENT | NAMESPACE_EVENT);
    add(2, 2);
    await admin.logPage(4, 4096, { nsid: ALL });
    const before = await log();
    const [first, second, other] = [aer(), aer(), aer(otherAdmin)];
    expect((await other).result0, 'of the namespace added').to.equal(NAMESPACE_NOTICE);
    const otherNext = aer(otherAdmin);
    set(Inaccessible, 1, 2);
    expect((await first).result0).to.equal(ANA_NOTICE);
    set(Optimized, 1, 2);
    expect(await pendingStill(second), 'masked until the log is read').to.equal(true);
    const after = await log(admin, { rae: true });
    expect(after.chgcnt - before.chgcnt).to.equal(2n);
    expect(after.groups.map(({ chgcnt }, i) => chgcnt - before.groups[i]!.chgcnt)).to.deep.equal([0n, 2n]);
    expect(await pendingStill(second), 'RAE 1 keeps it').to.equal(true);
    await log();
    expect(await pendingStill(second), 'what waited was told by the log').to.equal(true);
    set(NonOptimized, 1, 2);
    expect((await second).result0).to.equal(ANA_NOTICE);
    expect(await pendingStill(otherNext)).to.equal(true);
    expect((await log(otherAdmin)).groups[1]!.state).to.equal(Optimized);
  });

  it('no notice that is not enabled, none for a group without namespaces, none for the state that it has', async () => {
    const one = aer();
    set(NonOptimized);
    expect(await pendingStill(one)).to.equal(true);
    await admin.setFeature(0x0b, ANA_EVENT);
    set(NonOptimized);
    set(Inaccessible, 1, 50);
    expect(await pendingStill(one)).to.equal(true);
    set(Optimized);
    expect((await one).result0).to.equal(ANA_NOTICE);
  });

  it('97: optimized, change, optimized in one turn: one ANA notice at least, no notice of namespaces', async () => {
    await admin.setFeature(0x0b, ANA_EVENT | NAMESPACE_EVENT);
    const [first, second] = [aer(), aer()];
    set(Change);
    set(Optimized);
    expect((await first).result0).to.equal(ANA_NOTICE);
    await log();
    expect(await pendingStill(second)).to.equal(true);
    expect((await admin.logPage(4, 4, { nsid: ALL })).data.readUInt32LE(0), 'changed namespaces').to.equal(0);
  });

  it('a transition that nobody ends fails after ANATT: the state before it, and a notice', async () => {
    await admin.setFeature(0x0b, ANA_EVENT);
    set(NonOptimized);
    await log();
    set(Change);
    const one = aer();
    expect(await pendingStill(one), 'entering change tells nothing').to.equal(true);
    expect((await io.read(0, 1)).code).to.equal(0x303);
    t.clock.advance(ANATT_MS - 1);
    expect(await states()).to.deep.equal([[1, Change]]);
    t.clock.advance(1);
    expect((await one).result0).to.equal(ANA_NOTICE);
    expect(await states()).to.deep.equal([[1, NonOptimized]]);
    expect((await io.read(0, 1)).status).to.equal(0);
  });

  it('a transition that ends in time leaves no timer', async () => {
    const timers = t.clock.timerCount;
    set(Change);
    set(Inaccessible);
    expect(t.clock.timerCount).to.equal(timers);
    t.clock.advance(ANATT_MS);
    expect(await states()).to.deep.equal([[1, Inaccessible]]);
  });

  it('persistent loss is final', async () => {
    set(PersistentLoss);
    for (const state of [Optimized, Change]) expect(() => set(state)).to.throw(/persistent loss, which is final/);
    expect(await states()).to.deep.equal([[1, PersistentLoss]]);
  });

  it('groups and states that cannot be are refused', () => {
    for (const group of [0, 129, 1.5]) expect(() => set(Inaccessible, 1, group)).to.throw(/allowed are 1 to 128/);
    expect(() => set(5)).to.throw(/ANA state 5/);
    expect(() => add(2, 129)).to.throw(/ANA group 129/);
    expect(t.subsystem.namespaces[2]).to.equal(undefined);
  });

  it('a namespace moves to another group: ANA notice, ANAGRPID and log follow, and so does what it may', async () => {
    await admin.setFeature(0x0b, ANA_EVENT | NAMESPACE_EVENT);
    set(Inaccessible, 1, 2);
    const [first, second] = [aer(), aer()];
    t.subsystem.setAnaGroup(1, 2);
    expect((await first).result0).to.equal(ANA_NOTICE);
    expect(await states()).to.deep.equal([[2, Inaccessible]]);
    expect((await admin.identify(0, { nsid: 1 })).data.readUInt32LE(92)).to.equal(2);
    expect((await io.read(0, 1)).code).to.equal(0x302);
    await log();
    expect(await pendingStill(second)).to.equal(true);
    t.subsystem.setAnaGroup(1, 1);
    expect((await second).result0).to.equal(ANA_NOTICE);
    expect((await io.read(0, 1)).status).to.equal(0);
  });

  it('CHGCNT counts namespaces that come and go, and starts at 0 with a Controller Level Reset', async () => {
    const counts = async (): Promise<[number, number]> => {
      const { chgcnt, groups } = await log();
      return [Number(chgcnt), Number(groups[0]!.chgcnt)];
    };
    expect(await counts()).to.deep.equal([0, 0]);
    add(2);
    expect(await counts()).to.deep.equal([1, 1]);
    await t.target.removeNamespace(t.subsystem, 2);
    expect(await counts()).to.deep.equal([2, 2]);
    set(NonOptimized);
    expect(await counts()).to.deep.equal([3, 3]);
    await admin.propertySet(0x14, 0);
    await admin.enable();
    expect(await counts()).to.deep.equal([0, 0]);
    expect(await states()).to.deep.equal([[1, NonOptimized]]);
  });

  it('a log of 1,024 namespaces is read in pieces, and in one', async () => {
    for (let nsid = 2; nsid <= 1024; nsid++) add(nsid, (nsid % 3) + 1);
    const size = 16 + 3 * 32 + 1024 * 4;
    const whole = await logBytes(admin, size);
    const { groups } = decodeAnaLog(whole);
    expect(groups.map(({ nsids }) => nsids.length).reduce((a, b) => a + b)).to.equal(1024);
    for (const { grpid, nsids } of groups) {
      expect(
        nsids.every((nsid, i) => (nsid === 1 || (nsid % 3) + 1 === grpid) && (i === 0 || nsid > nsids[i - 1]!)),
      ).to.equal(true);
    }
    for (const pieceBytes of [4, 60, 1024, 4096]) {
      const pieces: Buffer[] = [];
      for (let offset = 0; offset < size; offset += pieceBytes)
        pieces.push(await logBytes(admin, pieceBytes, { offset }));
      expect(Buffer.concat(pieces).subarray(0, size).equals(whole), `pieces of ${pieceBytes}`).to.equal(true);
    }
    const past = await admin.logPage(0x0c, 4, { nsid: ALL, offset: size + 4 });
    expect(past.code, 'past the end').to.equal(0x02);
  });

  it('a discovery controller has no ANA log', async () => {
    const discovery = await t.initialized();
    await discovery.connectQueue({ subnqn: 'nqn.2014-08.org.nvmexpress.discovery' });
    await discovery.enable();
    expect((await discovery.logPage(0x0c, 16)).code).to.equal(0x109);
  });

  it('an I/O queue by another port than its admin queue: Connect Invalid Parameters, CNTLID', async () => {
    const stray = await onPort2();
    const refused = await stray.connectQueue({ subnqn: SUBSYSTEM_NQN, cntlid: admin.cntlid, qid: 2, sqsize: 31 });
    expect([refused.code, refused.result0]).to.deep.equal([0x182, 0x0001_0010]);
  });

  it('a target that closes in the middle of a transition leaves no timer', async () => {
    set(Change);
    await t.close();
    expect(t.clock.timerCount).to.equal(0);
  });
});

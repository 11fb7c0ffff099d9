/** Live migration: everything that a host could notice moves with its controller's state, from one target to another. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { MemoryVolumePool } from '../../../src/backend/volume-pool.ts';
import { type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import type { RawHost } from '../../support/raw-host.ts';
import { hostidOf, ReservationHost } from '../../support/reservation-host.ts';
import { blocksOf, type RawBlock, stateOf } from '../../support/state-bytes.ts';
import { MemoryStateStore, type TestTarget } from '../../support/test-target.ts';

const HOSTID = hostidOf(5);

/** A target with namespaces 1 to 3 that keeps what has to last. */
async function start(state?: MemoryStateStore): Promise<TestTarget> {
  const volumes = new MemoryVolumePool({ capacityBytes: 64 << 20 }); // with it, hosts may attach and detach
  const t = await startManaged({ state: state ?? new MemoryStateStore(), empty: true, subsystem: { volumes } });
  for (const nsid of [1, 2, 3]) {
    t.target.addNamespace(t.subsystem, { nsid, backend: backendOf(nsid) });
  }
  return t;
}

/** Whole pages, for DULBE, in namespace 2. */
const backendOf = (nsid: number): MemoryBackend =>
  new MemoryBackend(nsid === 2 ? { blockSize: 4096, blockCount: 1024 } : { blockSize: 512, blockCount: 8192 });

const timestampBytes = (ms: number): Buffer => {
  const data = Buffer.alloc(8);
  data.writeUIntLE(ms, 0, 6);
  return data;
};

async function detach(admin: RawHost, nsid: number): Promise<void> {
  const data = Buffer.alloc(4096);
  data.writeUInt16LE(1, 0);
  data.writeUInt16LE(admin.cntlid, 2);
  expect((await admin.command({ opcode: 0x15, nsid, cdw10: 1 }, { data, by: 'r2t' })).code, 'detach').to.equal(0);
}

describe('conformance: live migration, what a state carries', () => {
  let source: TestTarget;
  let destination: TestTarget;
  let store: MemoryStateStore;
  let from: Manager;
  let to: Manager;
  let host: ReservationHost;
  /** The same host at the destination. */
  let moved: ReservationHost;
  beforeEach(async () => {
    moved = undefined as unknown as ReservationHost;
    store = new MemoryStateStore();
    source = await start();
    destination = await start(store);
    from = await managerOf(source);
    to = await managerOf(destination);
    host = await ReservationHost.connect(source, HOSTID);
  });
  afterEach(async () => {
    await source.close();
    await destination.close();
  });

  async function save(): Promise<Buffer> {
    expect((await from.suspend(host.admin.cntlid)).code).to.equal(0);
    return from.state(host.admin.cntlid);
  }
  async function load(state: Buffer): Promise<number> {
    moved ??= await ReservationHost.connect(destination, HOSTID);
    expect((await to.suspend(moved.admin.cntlid)).code).to.equal(0);
    return (await to.setState(moved.admin.cntlid, state)).code;
  }
  const resumed = async (): Promise<void> => {
    expect((await to.resume(moved.admin.cntlid)).code).to.equal(0);
  };

  /** Something of everything. */
  async function live(): Promise<void> {
    const { admin, io } = host;
    await detach(admin, 3);
    await admin.logPage(4, 4096);
    await admin.logPage(0x1c, 4096);
    expect((await host.register(0x1234n, { cdw10: (3 << 30) >>> 0 })).code, 'PTPL').to.equal(0);
    expect((await host.acquire(0x1234n, 3)).code).to.equal(0);
    const features = await Promise.all([
      admin.setFeature(0x0b, 0x80900),
      admin.setFeature(0x04, 333),
      admin.setFeature(0x05, 0x1_0000, { nsid: 2 }),
      admin.setFeature(0x84, 1, { nsid: 2 }),
      admin.setFeature(0x82, 0x08, { nsid: 2 }),
      admin.setFeature(0x0e, 0, { data: timestampBytes(1_000_000) }),
    ]);
    expect(features.map(({ code }) => code)).to.deep.equal([0, 0, 0, 0, 0, 0]);
    for (const cdw10 of [0x1_0000, 0x2_0000]) await admin.command({ opcode: 0x0a, cdw10: 0x55 | cdw10 });
    await io.command({ opcode: 1, nsid: 2, cdw10: 0, cdw12: 0 }, { data: Buffer.alloc(4096) });
    await io.read(0, 4);
    // one event is reported and not cleared, two wait
    const event = admin.command({ opcode: 0x0c });
    source.target.setNamespaceHosts(source.subsystem, 2, [`nqn.2026-01.test:host-${'55'.repeat(16)}`]);
    await source.target.resizeNamespace(source.subsystem, 2, 4096 * 512);
    await destination.target.resizeNamespace(destination.subsystem, 2, 4096 * 512);
    expect((await event).code).to.equal(0);
    source.subsystem.ana.setState(1, 1, 2);
    const other = await ReservationHost.connect(source, hostidOf(6));
    expect((await other.register(7n)).code).to.equal(0);
    expect((await other.acquire(7n, 3, 1, 0x1234n)).code, 'preempted').to.equal(0);
    expect((await host.register(0x55n)).code, 'anew').to.equal(0);
  }

  it('save, load at another target, save: the same bytes, whatever time passes', async () => {
    await live();
    const state = await save();
    source.clock.advance(5000);
    expect(Buffer.compare(await from.state(host.admin.cntlid), state), 'time stands still').to.equal(0);
    expect(await load(state)).to.equal(0);
    destination.clock.advance(7000);
    expect(Buffer.compare(await to.state(moved.admin.cntlid), state)).to.equal(0);
    const kinds = blocksOf(state).map(({ kind }) => kind);
    expect(kinds).to.deep.equal(Array.from({ length: 15 }, (_, i) => i + 1));
  });

  it('the host finds everything at the destination', async () => {
    await live();
    const log = (admin: RawHost, lid: number, bytes: number): Promise<Buffer> =>
      admin.logPage(lid, bytes, { rae: true }).then(({ data }) => data);
    const pages = [1, 4, 0x0c, 0x1c] as const;
    const before = await Promise.all(pages.map((lid) => log(host.admin, lid, 1024)));
    const report = await host.report();
    const state = await save();
    expect(await load(state)).to.equal(0);
    await resumed();
    const { admin, io } = moved;
    const after = await Promise.all(pages.map((lid) => log(admin, lid, 1024)));
    pages.forEach((lid, i) => {
      // the destination's group is optimized, the counts are the source's
      const [a, b] = [before[i]!, after[i]!].map((page) => Buffer.from(page)) as [Buffer, Buffer];
      if (lid === 0x0c) a[32] = b[32]!;
      expect(b.toString('hex'), `log page ${lid}`).to.equal(a.toString('hex'));
    });
    expect(after[0]!.readBigUInt64LE(0), 'errors').not.to.equal(0n);
    expect((await admin.identify(2)).data.readUInt32LE(8), 'namespace 3 is not attached').to.equal(0);
    expect((await admin.getFeature(4)).result0).to.equal(333);
    expect((await admin.getFeature(5, { nsid: 2 })).result0).to.equal(0x1_0000);
    expect((await admin.getFeature(0x84, { nsid: 2 })).result0).to.equal(1);
    expect((await admin.getFeature(0x82, { nsid: 2 })).result0).to.equal(8);
    const ours = (await moved.report()).registrants.find(({ hostid }) => hostid === '55'.repeat(16))!;
    expect(ours.rkey).to.equal(0x55n);
    expect((await moved.report()).gen).to.equal(report.gen);
    // an event of a type is not told before the page of the one before it was read
    const event = async (): Promise<number[]> => {
      const { result0 } = await admin.command({ opcode: 0x0c });
      return [result0 & 7, result0 >>> 16];
    };
    expect(await event()).to.deep.equal([6, 0x80]);
    await admin.logPage(4, 4096);
    expect(await event()).to.deep.equal([2, 0x1c]);
    await admin.logPage(0x1c, 4096);
    expect(await event()).to.deep.equal([2, 0x0c]);
    expect(await moved.notices(), 'it was preempted').to.deep.equal([1]);
    const smart = await admin.logPage(2, 512);
    expect(smart.data.readBigUInt64LE(64), 'host reads').to.equal(1n);
    expect((await io.read(0, 1)).code).to.equal(0);
  });

  it('what the host holds: it keeps others out at the destination, and lasts there', async () => {
    await host.register(0xabcdn, { cdw10: (3 << 30) >>> 0 });
    await host.acquire(0xabcdn, 2);
    expect(await load(await save())).to.equal(0);
    await resumed();
    const report = await moved.report();
    expect([report.rtype, report.ptpls, report.registrants[0]!.rcsts & 1]).to.deep.equal([2, 1, 1]);
    const stranger = await ReservationHost.connect(destination, hostidOf(9));
    expect((await stranger.io.read(0, 1)).code).to.equal(0x83);
    expect([...store.values.keys()].some((name) => name.startsWith('reservations-'))).to.equal(true);
  });

  it('a reservation that another host holds at the destination: refused whole', async () => {
    await host.register(1n);
    await host.acquire(1n, 1);
    await host.admin.setFeature(0x04, 311);
    const state = await save();
    const holder = await ReservationHost.connect(destination, hostidOf(9));
    await holder.register(2n);
    await holder.acquire(2n, 1);
    expect(await load(state)).to.equal(2);
    expect(destination.subsystem.controller(moved.admin.cntlid)!.features.has(4)).to.equal(false);
    expect((await holder.report()).registrants.length).to.equal(1);
    expect((await to.resume(moved.admin.cntlid)).code).to.equal(0x0c);
  });

  it('the store of the destination fails: an error, and nothing is left behind', async () => {
    await detach(host.admin, 3);
    await host.register(1n, { cdw10: (3 << 30) >>> 0 });
    await host.admin.setFeature(0x04, 311);
    const state = await save();
    moved = await ReservationHost.connect(destination, HOSTID);
    const before = (await to.suspend(moved.admin.cntlid)).code === 0 ? await to.state(moved.admin.cntlid) : undefined;
    const { save: good } = store;
    store.save = (name, value) =>
      name.startsWith('reservations-') ? Promise.reject(new Error('no space')) : good.call(store, name, value);
    expect((await to.setState(moved.admin.cntlid, state)).code).to.equal(6);
    store.save = good;
    const after = await to.state(moved.admin.cntlid);
    const relevant = (bytes: Buffer): RawBlock[] => blocksOf(bytes).filter(({ kind }) => [3, 12, 13].includes(kind));
    expect(relevant(after)).to.deep.equal(relevant(before!));
    expect((await to.setState(moved.admin.cntlid, state)).code, 'sent again').to.equal(0);
    await resumed();
    expect((await moved.admin.getFeature(4)).result0).to.equal(311);
  });

  it('without a state directory, reservations that persist are refused', async () => {
    await host.register(1n, { cdw10: (3 << 30) >>> 0 });
    const state = await save();
    await destination.close();
    destination = await startManaged();
    for (const nsid of [2, 3]) {
      destination.target.addNamespace(destination.subsystem, { nsid, backend: backendOf(nsid) });
    }
    to = await managerOf(destination);
    expect(await load(state)).to.equal(2);
  });

  it('a namespace of another size, or that is not there: refused', async () => {
    const state = await save();
    await destination.target.resizeNamespace(destination.subsystem, 2, 1 << 20);
    expect(await load(state)).to.equal(2);
    await destination.target.resizeNamespace(destination.subsystem, 2, 4 << 20);
    expect(await load(state)).to.equal(0);
    await destination.target.removeNamespace(destination.subsystem, 3);
    expect(await load(state)).to.equal(2);
  });

  it('of a newer minor version: longer blocks and kinds that may be skipped are taken, others refuse the whole', async () => {
    await live();
    const blocks = blocksOf(await save());
    const newer = blocks.map((block): RawBlock => {
      if (block.kind <= 8) {
        const grows = block.kind === 2 || block.kind === 7;
        return grows ? { ...block, version: 9, bytes: Buffer.concat([block.bytes, Buffer.alloc(24, 0x77)]) } : block;
      }
      if (block.kind === 15) return block;
      // entries with 8 bytes more
      const size = block.bytes.readUInt32LE(4);
      const entries = Array.from({ length: block.bytes.readUInt32LE(0) }, (_, i) =>
        Buffer.concat([block.bytes.subarray(8 + i * size, 8 + (i + 1) * size), Buffer.alloc(8, 0x99)]),
      );
      const head = Buffer.from(block.bytes.subarray(0, 8));
      head.writeUInt32LE(size + 8, 4);
      return { ...block, version: 9, bytes: Buffer.concat([head, ...entries]) };
    });
    const unknown = { kind: 900, version: 1, essential: false, bytes: Buffer.alloc(13, 1) };
    expect(await load(stateOf([...newer, unknown], { minor: 7 }))).to.equal(0);
    const taken = blocksOf(await to.state(moved.admin.cntlid));
    expect(taken).to.deep.equal(blocks);
    expect(await load(stateOf([...newer, { ...unknown, essential: true }], { minor: 7 }))).to.equal(2);
    expect(await load(stateOf(newer, { major: 2 }))).to.equal(2);
    expect(blocksOf(await to.state(moved.admin.cntlid))).to.deep.equal(blocks);
  });

  it('of an older one: what it lacks stays, unless it is essential', async () => {
    await host.admin.setFeature(4, 290);
    const blocks = blocksOf(await save());
    expect(await load(stateOf(blocks.filter(({ essential }) => essential)))).to.equal(0);
    for (const { kind } of blocks.filter(({ essential }) => essential)) {
      expect(await load(stateOf(blocks.filter((block) => block.kind !== kind))), `without ${kind}`).to.equal(2);
    }
    const short = blocks.map((block) =>
      block.kind === 2 ? { ...block, version: 1, bytes: block.bytes.subarray(0, 12) } : block,
    );
    expect(await load(stateOf(short)), 'version 1 of the settings').to.equal(0);
  });

  it('G33: a reset of a controller with a committed state ends its suspension; what persists is kept', async () => {
    await host.register(0x77n, { cdw10: (3 << 30) >>> 0 });
    await detach(host.admin, 3);
    await host.admin.setFeature(4, 290);
    expect(await load(await save())).to.equal(0);
    await moved.admin.propertySet(0x14, 0);
    expect((await to.resume(moved.admin.cntlid)).code).to.equal(0x13a);
    await moved.admin.enable();
    expect((await moved.admin.getFeature(4)).result0, 'a reset takes features').to.equal(0x157);
    expect((await moved.admin.identify(2)).data.readUInt32LE(8)).to.equal(0);
    const again = await ReservationHost.connect(destination, HOSTID);
    expect((await again.report()).registrants[0]!.rkey).to.equal(0x77n);
  });

  const seed = randomSeed();
  it(`whatever is wrong in a sealed state, nothing of it is applied (NVMEFERRY_SEED=${seed})`, async () => {
    await live();
    const random = new Random(seed);
    const state = await save();
    moved = await ReservationHost.connect(destination, HOSTID);
    await to.suspend(moved.admin.cntlid);
    let before = await to.state(moved.admin.cntlid);
    let refused = 0;
    for (let round = 0; round < 300; round++) {
      // sealed again: the checksum is right, so that every block has to stand for itself
      const blocks = blocksOf(state);
      const block = random.pick(blocks);
      if (random.oneIn(4)) block.bytes = block.bytes.subarray(0, random.below(block.bytes.length + 1));
      else if (block.bytes.length > 0) block.bytes[random.below(block.bytes.length)] = random.below(256);
      const { code } = await to.setState(moved.admin.cntlid, stateOf(blocks));
      expect(code, `round ${round}, block ${block.kind}`).to.be.oneOf([0, 2]);
      const after = await to.state(moved.admin.cntlid);
      if (code === 2) {
        refused++;
        expect(Buffer.compare(after, before), `round ${round}, block ${block.kind}: half applied`).to.equal(0);
      }
      before = after;
    }
    expect(refused).to.be.greaterThan(20);
    expect(destination.fatal).to.deep.equal([]);
  });
});

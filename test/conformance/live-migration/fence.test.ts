/** Feature CAh: a namespace is closed to its hosts, and opened again. docs/live-migration-over-tcp.md */
import { expect } from 'chai';
import { type AnaLog, decodeAnaLog } from '../../../src/wire/cold/log-ana.ts';
import { ControlledStateStore } from '../../support/controlled-state-store.ts';
import { MANAGER_NQN, type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import { type Completion, pattern, type RawHost } from '../../support/raw-host.ts';
import { CopyBackend, settle, type TestTarget } from '../../support/test-target.ts';

const INACCESSIBLE = 0x302;
const SEQUENCE = 0x00c;
const ANA_NOTICE = 0x000c_0302;
const GROUP_CLOSED = 129;
const FEATURES = [0xca, 0xcb, 0xcc, 0xcd, 0xce];
const BIG = 2n ** 63n + 5n;

describe('conformance: live migration, the fence of a namespace (feature CAh)', () => {
  let t: TestTarget;
  let manager: Manager;
  let managerIo: RawHost;
  let admin: RawHost;
  let io: RawHost;
  let backend: CopyBackend;
  const begin = async (options: Parameters<typeof startManaged>[0] = {}): Promise<void> => {
    backend = new CopyBackend();
    t = await startManaged({ backend, ...options });
    manager = await managerOf(t);
    managerIo = await t.io(manager.host, { hostnqn: MANAGER_NQN });
    ({ admin, io } = await t.association());
  };
  afterEach(() => t.close());

  const write = (host: RawHost, block = 0, fill = 1): Promise<Completion> =>
    host.command({ opcode: 1, nsid: 1, cdw10: block }, { data: Buffer.alloc(512, fill) });
  const read = (host: RawHost, block = 0): Promise<Completion> =>
    host.command({ opcode: 2, nsid: 1, cdw10: block }, { readBytes: 512 });
  const codes = async (...commands: Promise<Completion>[]): Promise<number[]> =>
    (await Promise.all(commands)).map(({ code }) => code);
  const groups = async (host: RawHost): Promise<[number, number][]> => {
    const { data } = await host.command({ opcode: 2, cdw10: 0x0c | (1023 << 16) }, { readBytes: 4096 });
    const log: AnaLog = decodeAnaLog(data);
    return log.groups.map(({ grpid, state }) => [grpid, state]);
  };
  const settledYet = async (promise: Promise<unknown>): Promise<boolean> => {
    let done = false;
    void promise.then(() => {
      done = true;
    });
    await settle();
    return done;
  };

  it('is refused to everybody but managers, and to those without the UUID index of the extension', async () => {
    await begin();
    for (const fid of FEATURES) {
      const nsid = fid === 0xcc || fid === 0xce ? 0 : 1;
      const fields = { nsid, cdw10: fid, cdw12: 1, cdw14: 1 };
      expect((await admin.command({ opcode: 9, ...fields })).code, `Set ${fid.toString(16)} by a host`).to.equal(2);
      expect((await admin.command({ opcode: 0x0a, ...fields })).code, `Get ${fid.toString(16)} by a host`).to.equal(2);
      const { code } = await manager.host.command({ opcode: 9, ...fields, cdw14: 0 });
      expect(code, `Set ${fid.toString(16)} without the index`).to.equal(2);
    }
    expect(
      (await manager.host.command({ opcode: 9, nsid: 1, cdw10: 0xca, cdw11: 2, cdw12: 1, cdw14: 1 })).code,
    ).to.equal(2);
    expect((await manager.setFence(0xffff_ffff, true, 1n)).code, 'one namespace').to.equal(2);
    expect(await manager.fence(1)).to.deep.equal({ closed: false, durable: false, epoch: 0n });
    // the feature effects log lists them for managers alone
    const effects = async (host: RawHost): Promise<number[]> => {
      const { data } = await host.command({ opcode: 2, cdw10: 0x12 | (1023 << 16) }, { readBytes: 4096 });
      return FEATURES.filter((fid) => (data.readUInt32LE(fid * 4) & 1) !== 0);
    };
    expect(await effects(manager.host)).to.deep.equal(FEATURES);
    expect(await effects(admin)).to.deep.equal([]);
  });

  it('closed: hosts get ANA Inaccessible for all I/O, managers read and write; opened: as before', async () => {
    await begin();
    expect(await codes(write(io, 0, 7))).to.deep.equal([0]);
    expect((await manager.setFence(1, true, BIG)).code).to.equal(0);
    expect(await manager.fence(1)).to.deep.equal({ closed: true, durable: false, epoch: BIG });
    const { code, dnr } = await write(io);
    expect([code, dnr]).to.deep.equal([INACCESSIBLE, false]);
    const others = [
      read(io),
      io.command({ opcode: 0, nsid: 1 }),
      io.command({ opcode: 0, nsid: 0xffff_ffff }),
      io.command({ opcode: 8, nsid: 1 }),
      io.command({ opcode: 0x0e, nsid: 1, cdw10: 15, cdw11: 1 }, { readBytes: 64 }),
    ];
    expect(await codes(...others)).to.deep.equal(others.map(() => INACCESSIBLE));
    expect((await admin.command({ opcode: 0x80, nsid: 1 })).code, 'Format').to.equal(INACCESSIBLE);
    expect((await read(managerIo)).data[0]).to.equal(7);
    expect(await codes(write(managerIo, 0, 9), managerIo.command({ opcode: 0, nsid: 1 }))).to.deep.equal([0, 0]);
    expect((await manager.setFence(1, false, BIG)).code, 'the epoch that closed it opens it').to.equal(0);
    expect((await read(io)).data[0]).to.equal(9);
    expect(await codes(write(io))).to.deep.equal([0]);
  });

  it('a controller that connects while it is closed finds it closed', async () => {
    await begin();
    await manager.setFence(1, true, 1n);
    const late = await t.association();
    expect((await read(late.io)).code).to.equal(INACCESSIBLE);
    expect(await groups(late.admin)).to.deep.equal([[GROUP_CLOSED, 3]]);
  });

  it('an older epoch is refused whatever it wants, the same one is taken again', async () => {
    await begin();
    expect((await manager.setFence(1, true, 5n)).code).to.equal(0);
    for (const closed of [false, true]) {
      const { code, dnr } = await manager.setFence(1, closed, 4n);
      expect([code, dnr]).to.deep.equal([SEQUENCE, true]);
    }
    expect(await manager.fence(1)).to.include({ closed: true, epoch: 5n });
    expect((await manager.setFence(1, true, 5n)).code).to.equal(0);
    expect((await manager.setFence(1, false, 5n)).code).to.equal(0);
    expect((await manager.setFence(1, false, 5n)).code).to.equal(0);
    // who was cut off
    expect((await manager.setFence(1, true, 4n)).code).to.equal(SEQUENCE);
    expect(await manager.fence(1)).to.include({ closed: false, epoch: 5n });
    // an epoch that only opens what is open counts as well
    expect((await manager.setFence(1, false, 9n)).code).to.equal(0);
    expect((await manager.setFence(1, true, 8n)).code).to.equal(SEQUENCE);
  });

  it('close returns when the backend has nothing of hosts; what waits for its data is refused', async () => {
    await begin();
    backend.hold = true;
    const held = write(io, 3, 0xaa);
    await t.until(() => backend.held.length === 1);
    // one whose data is not there yet
    const late = Buffer.alloc(16_384, 0xbb);
    const cid = io.nextCid();
    const waits = io.completion(cid, { by: 'r2t', manual: true, data: late });
    await io.send(io.commandBytes({ opcode: 1, nsid: 1, cid, cdw10: 100, cdw12: 31 }, { by: 'r2t', data: late }));
    const { name, ttag } = await io.next();
    expect(name).to.equal('R2T');
    // a manager's I/O does not hold it up
    const theirs = write(managerIo, 500, 0xcc);
    await t.until(() => backend.held.length === 2);
    const closed = manager.setFence(1, true, 1n);
    expect(await settledYet(closed), 'a write is in flight').to.equal(false);
    expect((await write(io, 4)).code, 'nothing new meanwhile').to.equal(INACCESSIBLE);
    backend.release(1);
    expect((await held).code, 'it was done').to.equal(0);
    t.clock.advance(10);
    expect((await closed).code).to.equal(0);
    backend.hold = false;
    await io.send(io.h2cData({ cccid: cid, ttag, offset: 0, last: true }, late));
    expect((await waits).code).to.equal(INACCESSIBLE);
    expect(backend.bytes.includes(0xbb), 'it never reached the backend').to.equal(false);
    backend.release();
    expect((await theirs).code).to.equal(0);
  });

  it('a close that waits for a backend that hangs can be undone', async () => {
    await begin();
    backend.hold = true;
    const held = write(io);
    await t.until(() => backend.held.length === 1);
    const closed = manager.setFence(1, true, 1n);
    expect(await settledYet(closed)).to.equal(false);
    expect((await manager.setFence(1, false, 2n)).code).to.equal(0);
    t.clock.advance(10);
    expect((await closed).code, 'it is not closed').to.equal(SEQUENCE);
    backend.hold = false;
    backend.release();
    expect((await held).code).to.equal(0);
  });

  it('what a host with writes in flight left behind is waited for as well', async () => {
    await begin();
    backend.hold = true;
    void write(io, 3, 0xaa).catch(() => {});
    await t.until(() => backend.held.length === 1);
    io.destroy();
    admin.destroy();
    await t.until(() => t.connectionCount === 2);
    const closed = manager.setFence(1, true, 1n);
    expect(await settledYet(closed)).to.equal(false);
    backend.release();
    t.clock.advance(10);
    expect((await closed).code).to.equal(0);
  });

  it('hosts see it in ANA group 129, inaccessible, and hear of both changes; managers in its own, and hear nothing', async () => {
    await begin();
    t.subsystem.setAnaGroup(1, 5);
    await admin.command({ opcode: 9, cdw10: 0x0b, cdw11: 0x900 });
    await manager.host.command({ opcode: 9, cdw10: 0x0b, cdw11: 0x900 });
    const { data } = await admin.identify(1);
    expect([data.readUInt32LE(344), data.readUInt32LE(348)], 'ANAGRPMAX, NANAGRPID').to.deep.equal([129, 129]);
    const anagrpid = async (host: RawHost, cns: number): Promise<number> =>
      (await host.identify(cns, { nsid: 1 })).data.readUInt32LE(cns === 8 ? 4 : 92);
    let event = admin.command({ opcode: 0x0c });
    const managers = manager.host.command({ opcode: 0x0c });
    expect(await groups(admin)).to.deep.equal([[5, 1]]);
    await manager.setFence(1, true, 1n);
    expect((await event).result0).to.equal(ANA_NOTICE);
    expect(await groups(admin)).to.deep.equal([[GROUP_CLOSED, 3]]);
    expect([await anagrpid(admin, 0), await anagrpid(admin, 8)]).to.deep.equal([GROUP_CLOSED, GROUP_CLOSED]);
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(0), 'NSZE stays').to.equal(8192n);
    expect(await groups(manager.host)).to.deep.equal([[5, 1]]);
    expect(await anagrpid(manager.host, 0)).to.equal(5);
    // its own group may change meanwhile: nothing that a host could see
    event = admin.command({ opcode: 0x0c });
    t.subsystem.ana.setState(5, 1, 2);
    t.subsystem.setAnaGroup(1, 6);
    expect(await settledYet(event)).to.equal(false);
    // managers did hear of that
    expect((await managers).result0).to.equal(ANA_NOTICE);
    expect((await manager.setFence(1, true, 2n)).code, 'closed as it is').to.equal(0);
    expect(await settledYet(event), 'nobody hears of that').to.equal(false);
    await manager.setFence(1, false, 2n);
    expect((await event).result0).to.equal(ANA_NOTICE);
    expect(await groups(admin)).to.deep.equal([[6, 1]]);
  });

  it('the state store keeps it: closed or open, and the epoch, over a restart', async () => {
    const state = new MemoryStateStore();
    await begin({ state });
    expect(await manager.fence(1)).to.include({ durable: true });
    await manager.setFence(1, true, BIG);
    await t.close();
    await begin({ state });
    expect(await manager.fence(1)).to.deep.equal({ closed: true, durable: true, epoch: BIG });
    expect((await read(io)).code).to.equal(INACCESSIBLE);
    expect((await manager.setFence(1, false, BIG - 1n)).code).to.equal(SEQUENCE);
    expect((await manager.setFence(1, false, BIG + 1n)).code).to.equal(0);
    await t.close();
    await begin({ state });
    expect(await manager.fence(1)).to.deep.equal({ closed: false, durable: true, epoch: BIG + 1n });
    expect((await read(io)).code).to.equal(0);
    // nobody manages it any more: a fence that is closed stays so
    await manager.setFence(1, true, BIG + 2n);
    await t.close();
    await begin({ state, subsystem: { migration: { managers: { hosts: ['nqn.2024-01.org.example:other'] } } } });
    expect((await read(io)).code).to.equal(INACCESSIBLE);
    expect((await read(managerIo)).code).to.equal(INACCESSIBLE);
  });

  it('hosts are turned away before the close is durable, and let in only after the opening is', async () => {
    const state = new ControlledStateStore();
    await begin({ state });
    state.hold = true;
    const closed = manager.setFence(1, true, 1n);
    await t.until(() => state.heldCount === 1);
    expect((await read(io)).code, 'at once').to.equal(INACCESSIBLE);
    expect(await settledYet(closed), 'not durable yet').to.equal(false);
    state.release();
    expect((await closed).code).to.equal(0);
    state.hold = true;
    const opened = manager.setFence(1, false, 2n);
    await t.until(() => state.heldCount === 1);
    expect((await read(io)).code, 'still closed').to.equal(INACCESSIBLE);
    state.release();
    expect((await opened).code).to.equal(0);
    expect((await read(io)).code).to.equal(0);
  });

  it('a store that fails: the stricter state stands, and the command says so', async () => {
    const state = new ControlledStateStore();
    await begin({ state });
    state.failure = new Error('no space');
    expect((await manager.setFence(1, true, 1n)).code).to.equal(0x006);
    expect((await read(io)).code).to.equal(INACCESSIBLE);
    state.failure = new Error('no space');
    expect((await manager.setFence(1, false, 2n)).code).to.equal(0x006);
    expect((await read(io)).code).to.equal(INACCESSIBLE);
    expect((await manager.setFence(1, true, 1n)).code, 'again').to.equal(0);
    expect((await manager.setFence(1, false, 2n)).code).to.equal(0);
    expect((await read(io)).code).to.equal(0);
  });

  it('a namespace may come closed, at epoch 0, until the store knows better', async () => {
    const state = new MemoryStateStore();
    await begin({ state, empty: true });
    const add = (): void => t.target.addNamespace(t.subsystem, { nsid: 1, backend, closed: true });
    add();
    expect(await manager.fence(1)).to.deep.equal({ closed: true, durable: true, epoch: 0n });
    expect(await codes(read(io), read(managerIo))).to.deep.equal([INACCESSIBLE, 0]);
    expect((await manager.setFence(1, false, 0n)).code).to.equal(0);
    expect(await codes(read(io))).to.deep.equal([0]);
    await t.close();
    await begin({ state, empty: true });
    add();
    expect(await manager.fence(1)).to.deep.equal({ closed: false, durable: true, epoch: 0n });
    await t.close();
    await begin({ subsystem: { migration: undefined }, empty: true }).catch(() => {});
    expect(add).to.throw('nobody manages migration');
  });

  it('a namespace that is taken out and configured anew is as closed as it was, without a store as well', async () => {
    await begin();
    await manager.setFence(1, true, 3n);
    await t.target.removeNamespace(t.subsystem, 1);
    t.target.addNamespace(t.subsystem, { nsid: 1, backend: new CopyBackend() });
    expect(await manager.fence(1)).to.deep.equal({ closed: true, durable: false, epoch: 3n });
    expect((await read(io)).code).to.equal(INACCESSIBLE);
    expect((await manager.setFence(1, false, 2n)).code).to.equal(SEQUENCE);
  });

  it('Sanitize and Format: not by hosts while it is closed, not closed while they run', async () => {
    const migration = { managers: { hosts: [MANAGER_NQN] } };
    await begin({ state: new MemoryStateStore(), subsystem: { allowSanitize: true, migration } });
    await manager.setFence(1, true, 1n);
    expect((await admin.command({ opcode: 0x84, cdw10: 2 })).code).to.equal(INACCESSIBLE);
    await manager.setFence(1, false, 1n);
    backend.hold = true;
    const formatted = admin.command({ opcode: 0x80, nsid: 1 });
    await t.until(() => backend.held.length > 0);
    expect((await manager.setFence(1, true, 2n)).code, 'Format in Progress').to.equal(0x084);
    backend.hold = false;
    backend.release();
    t.clock.advance(10);
    expect((await formatted).code).to.equal(0);
    expect((await manager.setFence(1, true, 2n)).code).to.equal(0);
    expect((await io.command({ opcode: 1, nsid: 1 }, { data: pattern(512, 1) })).code).to.equal(INACCESSIBLE);
  });
});

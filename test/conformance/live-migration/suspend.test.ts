/** Live migration: suspend, resume, state. Cases of S01 to S24 and G06 to G35; checklist.test.ts has what is not here. */
import { expect } from 'chai';
import { type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { pattern, type RawHost } from '../../support/raw-host.ts';
import { CopyBackend, type TestTarget } from '../../support/test-target.ts';

const IDENTIFY = { opcode: 6, cdw10: 1 };

/** Whether a promise has settled. */
function watch<T>(promise: Promise<T>): { readonly promise: Promise<T>; settled: boolean } {
  const seen = { promise, settled: false };
  const settle = (): void => {
    seen.settled = true;
  };
  promise.then(settle, settle);
  return seen;
}

describe('conformance: live migration, suspend and resume', () => {
  let t: TestTarget;
  let manager: Manager;
  let admin: RawHost;
  let io: RawHost;
  let cntlid: number;
  const begin = async (backend?: CopyBackend): Promise<void> => {
    t = await startManaged(backend === undefined ? {} : { backend });
    manager = await managerOf(t);
    ({ admin, io } = await t.association());
    cntlid = admin.cntlid;
  };
  afterEach(() => t.close());
  const isSuspended = async (): Promise<boolean> => ((await manager.getState(cntlid)).result0 & 1) === 1;
  const suspended = async (): Promise<void> => {
    expect((await manager.suspend(cntlid)).code).to.equal(0);
  };
  const resumed = async (): Promise<void> => {
    expect((await manager.resume(cntlid)).code).to.equal(0);
  };

  it('S01 to S04, S12, S20, S21, S24, G15: statuses', async () => {
    await begin();
    expect((await manager.resume(cntlid)).code, 'S12').to.equal(0x13a);
    expect((await manager.suspend(cntlid, { stype: 0 })).code, 'S03').to.equal(0);
    expect(await isSuspended()).to.equal(false);
    expect((await io.read(0, 1)).code).to.equal(0);
    expect((await manager.suspend(cntlid, { stype: 2 })).code, 'S04').to.equal(2);
    await suspended();
    expect(await isSuspended(), 'S01').to.equal(true);
    await suspended();
    expect((await manager.suspend(cntlid, { stype: 0 })).code).to.equal(0);
    for (const id of [0x7777, manager.host.cntlid]) {
      expect((await manager.suspend(id)).code, 'S20, S21').to.equal(0x11f);
      expect((await manager.resume(id)).code).to.equal(0x11f);
      expect((await manager.getState(id)).code, 'G15').to.equal(0x11f);
    }
    for (const cdw10 of [3, 0xff]) {
      expect((await manager.host.command({ opcode: 0x41, cdw10, cdw11: cntlid })).code, 'S24').to.equal(2);
    }
    expect((await manager.host.command({ opcode: 0x42, cdw10: 1 })).code).to.equal(2);
  });

  it('S05: every command that was fetched completes first, R2T included; S06: those that come later, after Resume', async () => {
    const backend = new CopyBackend();
    await begin(backend);
    backend.hold = true;
    const reads = Array.from({ length: 8 }, (_, i) => watch(io.read(i, 1)));
    const owed = watch(io.write(64, pattern(4096, 1), { by: 'r2t' }));
    await t.until(() => backend.held.length === 9);
    const suspension = watch(manager.suspend(cntlid));
    // the manager's next answer comes after its Suspend was taken up
    expect(await isSuspended()).to.equal(false);
    expect(suspension.settled).to.equal(false);
    const later = [
      watch(io.read(20, 1)),
      watch(io.write(21, pattern(512, 2))),
      watch(io.write(22, pattern(4096, 3), { by: 'r2t' })),
      watch(io.command({ opcode: 0xee, nsid: 1 })),
    ];
    backend.hold = false;
    backend.release();
    expect((await suspension.promise).code).to.equal(0);
    for (const { promise } of [...reads, owed]) expect((await promise).code).to.equal(0);
    expect(await isSuspended()).to.equal(true);
    expect(later.map(({ settled }) => settled)).to.deep.equal([false, false, false, false]);
    expect(backend.bytes.subarray(21 * 512, 22 * 512).every((byte) => byte === 0)).to.equal(true);
    await resumed();
    const done = await Promise.all(later.map(({ promise }) => promise));
    expect(done.map(({ code }) => code)).to.deep.equal([0, 0, 0, 1]);
    expect(Buffer.compare(backend.bytes.subarray(21 * 512, 22 * 512), pattern(512, 2))).to.equal(0);
    expect(Buffer.compare(backend.bytes.subarray(22 * 512, 30 * 512), pattern(4096, 3))).to.equal(0);
  });

  it('S05: data that the host still owes by R2T is waited for', async () => {
    await begin();
    const owed = watch(
      io.command({ opcode: 1, nsid: 1, cdw12: 7 }, { data: pattern(4096, 1), by: 'r2t', manual: true }),
    );
    const r2t = await io.next();
    const suspension = watch(manager.suspend(cntlid));
    expect(await isSuspended()).to.equal(false);
    expect(suspension.settled).to.equal(false);
    io.send(io.h2cData({ cccid: r2t.cccid, ttag: r2t.ttag, offset: 0, last: true }, pattern(4096, 1)));
    expect((await owed.promise).code).to.equal(0);
    expect((await suspension.promise).code).to.equal(0);
  });

  it('S07, S08, S09, S13: admin commands wait, AERs stay, properties and Keep Alive work, then all goes on', async () => {
    await begin();
    const event = watch(admin.command({ opcode: 0x0c }));
    await admin.setFeature(0x0b, 0x100);
    await suspended();
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new CopyBackend() });
    const waits = watch(admin.command(IDENTIFY, { readBytes: 4096 }));
    expect(await admin.csts()).to.equal(1);
    expect((await admin.command({ opcode: 0x18 })).code).to.equal(0);
    expect([event.settled, waits.settled]).to.deep.equal([false, false]);
    await resumed();
    expect((await waits.promise).code).to.equal(0);
    expect((await event.promise).result0 & 0xff).to.equal(2);
    expect((await io.read(0, 1)).code).to.equal(0);
  });

  it('keep alive stands still while suspended, and runs again after', async () => {
    await begin();
    const held = await t.admin({ katoMs: 1000 });
    expect((await manager.suspend(held.cntlid)).code).to.equal(0);
    t.clock.advance(60_000);
    expect(t.subsystem.controller(held.cntlid)).not.to.equal(undefined);
    expect((await manager.resume(held.cntlid)).code).to.equal(0);
    t.clock.advance(2500);
    expect(t.subsystem.controller(held.cntlid)).to.equal(undefined);
  });

  it('S14, S15: a reset of either ends the suspension; nothing that waited is executed by a controller that was reset', async () => {
    await begin();
    await suspended();
    const waits = watch(admin.command(IDENTIFY, { readBytes: 4096 }));
    await admin.propertySet(0x14, 0);
    expect((await manager.resume(cntlid)).code, 'S14').to.equal(0x13a);
    await admin.enable();
    expect(waits.settled).to.equal(false);
    expect((await admin.command(IDENTIFY, { readBytes: 4096 })).code).to.equal(0);
    await suspended();
    const goesOn = admin.command(IDENTIFY, { readBytes: 4096 });
    await manager.host.propertySet(0x14, 0);
    await manager.host.enable();
    expect((await manager.resume(cntlid)).code, 'S15').to.equal(0x13a);
    expect((await goesOn).code).to.equal(0);
    void waits.promise.catch(() => {});
  });

  it('a manager or a controller that is gone leaves nothing suspended', async () => {
    await begin();
    await suspended();
    const waits = io.read(0, 1);
    manager.host.destroy();
    expect((await waits).code).to.equal(0);
    manager = await managerOf(t);
    await suspended();
    void io.read(0, 1).catch(() => {});
    admin.destroy();
    await t.until(() => t.subsystem.controller(cntlid) === undefined);
    expect((await manager.resume(cntlid)).code).to.equal(0x11f);
  });

  it('S16 to S19, S23: the log has its end and goes on; DUDMQ; other controllers', async () => {
    await begin();
    const { result0: cdqid } = await manager.create(cntlid, 16);
    await manager.track(cdqid, 1);
    await io.write(1, pattern(512, 1));
    await suspended();
    expect(
      (await manager.drain(cdqid)).map(({ esa }) => esa),
      'S16',
    ).to.deep.equal([1, 0, 3]);
    const second = await t.association();
    expect((await second.io.read(1, 1)).code, 'S23').to.equal(0);
    await resumed();
    await io.write(2, pattern(512, 1));
    expect(
      (await manager.drain(cdqid)).map(({ esa }) => esa),
      'S17',
    ).to.deep.equal([1, 0]);
    expect((await manager.suspend(cntlid, { dudmq: true })).code, 'S18').to.equal(0);
    expect((await manager.getHead(cdqid)).code).to.equal(0x137);
    expect((await manager.suspend(cntlid, { dudmq: true })).code, 'S19').to.equal(0);
  });
});

describe('conformance: live migration, controller state', () => {
  let t: TestTarget;
  let manager: Manager;
  let admin: RawHost;
  let cntlid: number;
  beforeEach(async () => {
    t = await startManaged();
    manager = await managerOf(t);
    admin = await t.admin();
    cntlid = admin.cntlid;
  });
  afterEach(() => t.close());

  it('G06 to G14: what is returned, and from where', async () => {
    const none = await manager.getState(cntlid, { csuuidi: 0 });
    expect(none.code).to.equal(0);
    expect(
      none.data.subarray(0, 48).every((byte) => byte === 0),
      'G06',
    ).to.equal(true);
    expect((await manager.getState(cntlid, { csvi: 2 })).code, 'G07').to.equal(2);
    expect((await manager.getState(cntlid, { csuuidi: 2 })).code, 'G08').to.equal(2);
    expect((await manager.getState(cntlid, { offset: 2 })).code, 'G09').to.equal(2);
    const running = await manager.getState(cntlid, { csvi: 1 });
    expect([running.result0, running.data[2], running.data.readUInt32LE(16)], 'G12, G14').to.deep.equal([0, 0, 2]);
    await manager.suspend(cntlid);
    const whole = await manager.state(cntlid);
    expect(whole[2]).to.equal(1);
    expect((await manager.getState(cntlid, { offset: whole.length + 4 })).code, 'G10').to.equal(2);
    expect((await manager.getState(cntlid, { offset: whole.length })).code).to.equal(0);
    const head = await manager.getState(cntlid, { bytes: 48 });
    const body = await manager.getState(cntlid, { offset: 48, bytes: whole.length - 48 });
    expect(Buffer.compare(Buffer.concat([head.data, body.data]), whole), 'G13').to.equal(0);
    expect([head.result0, body.result0]).to.deep.equal([1, 1]);
  });

  it('save, load into another controller, save: the same bytes; its features have arrived', async () => {
    await admin.setFeature(0x0b, 0x100);
    await admin.setFeature(0x04, 320);
    await manager.suspend(cntlid);
    const state = await manager.state(cntlid);
    const other = await t.admin();
    await manager.suspend(other.cntlid);
    expect((await manager.setState(other.cntlid, state)).code).to.equal(0);
    expect(Buffer.compare(await manager.state(other.cntlid), state)).to.equal(0);
    expect((await manager.resume(other.cntlid)).code).to.equal(0);
    expect((await other.getFeature(0x0b)).result0).to.equal(0x100);
    expect((await other.getFeature(0x04)).result0).to.equal(320);
  });

  it('G17, G18, G22, G35: in parts, from the beginning again, of two controllers at once', async () => {
    await admin.setFeature(0x04, 333);
    const other = await t.admin();
    for (const id of [cntlid, other.cntlid]) await manager.suspend(id);
    const state = await manager.state(cntlid);
    const parts = [state.subarray(0, 40), state.subarray(40, 100), state.subarray(100)];
    const send = (id: number, sequence: number, part: Buffer, offset: number): Promise<number> =>
      manager.setState(id, part, { sequence, offset }).then(({ code }) => code);
    expect(await send(other.cntlid, 1, Buffer.alloc(64, 0xff), 0)).to.equal(0);
    expect(await send(other.cntlid, 1, parts[0]!, 0), 'G22').to.equal(0);
    expect(await send(cntlid, 1, parts[0]!, 0), 'G35').to.equal(0);
    expect(await send(other.cntlid, 0, parts[1]!, 40)).to.equal(0);
    expect(await send(cntlid, 0, parts[1]!, 40)).to.equal(0);
    expect(await send(other.cntlid, 0, parts[2]!, 100)).to.equal(0);
    expect((await manager.resume(other.cntlid)).code, 'G21').to.equal(0x0c);
    expect(await send(other.cntlid, 2, Buffer.alloc(0), 0), 'G18').to.equal(0);
    expect(await send(cntlid, 2, parts[2]!, 100)).to.equal(0);
    for (const id of [cntlid, other.cntlid]) expect((await manager.resume(id)).code).to.equal(0);
    expect((await other.getFeature(0x04)).result0).to.equal(333);
  });

  it('G19 to G21, G24 to G29, G31, G32, G34: what is refused leaves everything as it was', async () => {
    const state = await manager.state(cntlid);
    expect((await manager.setState(cntlid, state)).code, 'G29').to.equal(0x11f);
    await manager.suspend(cntlid);
    const code = async (...args: Parameters<Manager['setState']>): Promise<number> =>
      (await manager.setState(...args)).code;
    expect(await code(cntlid, state, { sequence: 0 }), 'G19').to.equal(0x0c);
    expect(await code(cntlid, state, { sequence: 2 }), 'G20').to.equal(0x0c);
    expect(await code(cntlid, state, { csuuidi: 0 }), 'G26').to.equal(2);
    expect(await code(cntlid, state, { csvi: 2 }), 'G27').to.equal(2);
    expect(await code(cntlid, state, { csuuidi: 2 }), 'G27').to.equal(2);
    expect(await code(cntlid, state, { offset: 2 }), 'G28').to.equal(2);
    for (const sequence of [0, 1, 3]) expect(await code(cntlid, Buffer.alloc(0), { sequence }), 'G34').to.equal(2);
    expect((await manager.resume(cntlid)).code, 'nothing was received').to.equal(0);
    await manager.suspend(cntlid);
    expect(await code(cntlid, state, { csuuidi: 0, csvi: 1 }), 'G25').to.equal(2);
    const nvme = (await manager.getState(cntlid, { csvi: 1, csuuidi: 0, bytes: 56 })).data;
    expect(await code(cntlid, nvme, { csvi: 0 }), 'G24').to.equal(2);
    expect(await code(cntlid, state.subarray(0, state.length - 4)), 'G31').to.equal(2);
    expect((await manager.resume(cntlid)).code, 'G21').to.equal(0x0c);
    expect(await code(cntlid, state), 'G32').to.equal(0);
    expect((await manager.resume(cntlid)).code).to.equal(0);
  });

  it('the state of another host is refused', async () => {
    const other = await t.admin({ hostnqn: 'nqn.2024-01.org.example:another' });
    await manager.suspend(other.cntlid);
    expect((await manager.setState(other.cntlid, await manager.state(cntlid))).code).to.equal(2);
  });

  const seed = randomSeed();
  it(`a damaged state is refused whole (NVMEFERRY_SEED=${seed})`, async () => {
    const random = new Random(seed);
    await admin.setFeature(0x04, 300);
    await manager.suspend(cntlid);
    const state = await manager.state(cntlid);
    const other = await t.admin();
    await manager.suspend(other.cntlid);
    const before = await manager.state(other.cntlid);
    for (let round = 0; round < 100; round++) {
      const damaged = Buffer.from(state);
      // byte 2 bit 0 only says whether the source was suspended; reserved bytes of the header mean nothing
      const at = 16 + random.below(state.length - 16);
      damaged[at] = damaged[at]! ^ (1 << random.below(8));
      expect((await manager.setState(other.cntlid, damaged)).code, `byte ${at}`).to.equal(2);
      expect(Buffer.compare(await manager.state(other.cntlid), before), `byte ${at}`).to.equal(0);
    }
    expect(t.fatal).to.deep.equal([]);
  });
});

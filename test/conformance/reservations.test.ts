/** Reservations: sheet of commands 12; checklist numbers in case names. */
import { expect } from 'chai';
import { ControlledStateStore } from '../support/controlled-state-store.ts';
import type { Completion } from '../support/raw-host.ts';
import { hostidOf, RESERVATION_CONFLICT, ReservationHost } from '../support/reservation-host.ts';
import { CopyBackend, settle, TestTarget, type TestTargetOptions } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INTERNAL_ERROR = 0x06;
const INVALID_NAMESPACE = 0x0b;
const HOST_ID_INCONSISTENT = 0x18;
const PREEMPT_ABORTED = 0x1b;
const HOST_ID_NOT_INITIALIZED = 0x27;
const ALL = 0xffff_ffff;
const [A, B, C] = [0xaan, 0xbbn, 0xccn];

describe('conformance: reservations', () => {
  let t: TestTarget;
  let a: ReservationHost;
  let b: ReservationHost;
  let c: ReservationHost;

  async function start(options: TestTargetOptions = {}): Promise<void> {
    t = await TestTarget.start(options);
    a = await ReservationHost.connect(t, hostidOf(0xa));
    b = await ReservationHost.connect(t, hostidOf(0xb));
    c = await ReservationHost.connect(t, hostidOf(0xc));
  }
  beforeEach(() => start());
  afterEach(() => t.close());

  async function ok(...commands: Promise<Completion>[]): Promise<void> {
    for (const command of commands) expect((await command).status).to.equal(0);
  }
  async function conflict(...commands: Promise<Completion>[]): Promise<void> {
    for (const command of commands) {
      const { code, dnr } = await command;
      expect([code, dnr]).to.deep.equal([RESERVATION_CONFLICT, true]);
    }
  }
  /** A holds `type`, B is registered, C is a stranger. */
  async function held(type: number): Promise<void> {
    await ok(a.register(A));
    await ok(b.register(B));
    await ok(a.acquire(A, type));
  }

  it('is advertised: ONCS bit 5, RHII, RESCAP in CNS 00h and 08h, log page 80h, features 82h and 83h', async () => {
    const controller = (await a.admin.identify(1)).data;
    expect(controller.readUInt16LE(520) & 0x20, 'ONCS').to.equal(0x20);
    expect(controller.readUInt32LE(96) & 0x4_0000, 'CTRATT').to.equal(0x4_0000);
    expect((await a.admin.identify(0, { nsid: 1 })).data.readUInt8(31), 'RESCAP').to.equal(0xfe);
    expect((await a.admin.identify(8, { nsid: 1 })).data.readUInt8(2), 'RESCAP').to.equal(0xfe);
    const pages = (await a.admin.logPage(0, 1024)).data;
    expect(pages.readUInt32LE(0x80 * 4) & 1).to.equal(1);
    const features = (await a.admin.logPage(0x12, 1024)).data;
    for (const fid of [0x82, 0x83]) expect(features.readUInt32LE(fid * 4), `FID ${fid}`).to.equal(1 | (1 << 20));
  });

  it('53: acquire, release, clear, preempt and unregister by a non-registrant, or with a wrong key: conflict', async () => {
    await ok(a.register(A));
    await conflict(
      b.acquire(A, 1),
      b.release(A, 1),
      b.clear(A),
      b.acquire(A, 1, 1, A),
      b.unregister(A),
      b.replace(A, B),
    );
    await conflict(
      a.acquire(B, 1),
      a.release(B, 1),
      a.clear(B),
      a.acquire(B, 1, 1, A),
      a.unregister(B),
      a.replace(B, A),
    );
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 1, gen: 1 });
  });

  it('registers: another key is a conflict, the same one is not; replace; IEKEY replaces whatever was there', async () => {
    await ok(a.register(A), a.register(A));
    await conflict(a.register(B));
    await ok(a.replace(A, B));
    await conflict(a.replace(A, C));
    await ok(a.replace(0n, C, true));
    await ok(b.replace(0n, B, true));
    await ok(c.register(0n));
    const { registrants, gen } = await a.report();
    expect(gen).to.equal(6);
    expect(registrants.map(({ rkey }) => rkey)).to.deep.equal([C, B, 0n]);
    await ok(a.unregister(0n, 1 | 8));
    await ok(b.unregister(B));
    await conflict(a.unregister(0n, 1 | 8));
    expect((await a.report()).registrants.map(({ rkey }) => rkey)).to.deep.equal([0n]);
  });

  /** What host C, B and A may do: read, write, flush, write zeroes, deallocate, hints. */
  async function allowed(host: ReservationHost): Promise<string> {
    const range = Buffer.alloc(16);
    range.writeUInt32LE(1, 4);
    const commands: [string, Promise<Completion>][] = [
      ['r', host.io.read(0, 1)],
      ['w', host.io.write(0, Buffer.alloc(512))],
      ['f', host.io.command({ opcode: 0, nsid: 1 })],
      ['z', host.io.command({ opcode: 8, nsid: 1 })],
      ['d', host.io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range })],
      ['h', host.io.command({ opcode: 9, nsid: 1, cdw11: 1 }, { data: range })],
    ];
    let letters = '';
    for (const [letter, command] of commands) {
      const { code } = await command;
      expect(code).to.be.oneOf([0, RESERVATION_CONFLICT]);
      if (code === 0) letters += letter;
    }
    return letters;
  }
  const everything = 'rwfzdh';
  const matrix: [string, number, registrant: string, stranger: string][] = [
    ['54: Write Exclusive', 1, 'r', 'r'],
    ['54: Exclusive Access', 2, '', ''],
    ['55: Write Exclusive - Registrants Only', 3, everything, 'r'],
    ['Exclusive Access - Registrants Only', 4, everything, ''],
    ['Write Exclusive - All Registrants', 5, everything, 'r'],
    ['Exclusive Access - All Registrants', 6, everything, ''],
  ];
  for (const [name, type, registrant, stranger] of matrix) {
    it(`${name}: who may do what; nobody else acquires it; reports and admin commands go on`, async () => {
      await held(type);
      expect(await allowed(a), 'holder').to.equal(everything);
      expect(await allowed(b), 'registrant').to.equal(registrant);
      expect(await allowed(c), 'stranger').to.equal(stranger);
      await conflict(c.acquire(C, type));
      await conflict(a.acquire(A, (type % 6) + 1));
      await conflict(b.acquire(B, (type % 6) + 1));
      await ok(a.acquire(A, type));
      if (type >= 5)
        await ok(b.acquire(B, type)); // it holds it already
      else await conflict(b.acquire(B, type));
      const { rtype, registrants } = await c.report();
      expect(rtype).to.equal(type);
      expect(registrants.map(({ rcsts }) => rcsts)).to.deep.equal(type >= 5 ? [1, 1] : [1, 0]);
      expect((await c.admin.identify(0, { nsid: 1 })).status).to.equal(0);
      await ok(c.register(C));
      expect(await allowed(c), 'a stranger no more').to.equal(registrant);
      await ok(a.release(A, type));
      expect(await allowed(c), 'nothing is held').to.equal(everything);
    });
  }

  it('Flush of all namespaces: conflict if one of them is a conflict', async () => {
    await held(1);
    await conflict(b.io.command({ opcode: 0, nsid: ALL }));
    await ok(a.io.command({ opcode: 0, nsid: ALL }));
  });

  it('a write that was let in is not stopped by a reservation acquired while its data is on the way', async () => {
    await ok(a.register(A));
    const data = Buffer.alloc(16384, 7);
    const done = b.io.completion(9, { data, manual: true });
    await b.io.send(b.io.commandBytes({ opcode: 1, nsid: 1, cid: 9, cdw12: 31 }, { data, by: 'r2t' }));
    const { ttag } = await b.io.next();
    await ok(a.acquire(A, 2));
    await b.io.send(b.io.h2cData({ cccid: 9, ttag, offset: 0, last: true }, data));
    await ok(done);
  });

  it('56: preempt with key 0: Invalid Field for types 1 to 4; with types 5 and 6 everybody else goes', async () => {
    for (const type of [1, 2, 3, 4]) {
      await held(type);
      expect((await b.acquire(B, 1, 1, 0n)).code, `type ${type}`).to.equal(INVALID_FIELD);
      await ok(a.clear(A));
    }
    for (const type of [5, 6]) {
      await held(type);
      await ok(b.acquire(B, 1, 1, 0n));
      const { rtype, registrants } = await a.report();
      expect([rtype, registrants.map(({ rkey }) => rkey)], `type ${type}`).to.deep.equal([1, [B]]);
      await ok(b.clear(B));
    }
  });

  it('preempt by key: the holder, some registrants, none, without a reservation, with the own key', async () => {
    await held(1);
    await ok(c.register(B)); // a key may be used by several hosts
    await conflict(a.acquire(A, 1, 1, 0x999n));
    await ok(a.acquire(A, 1, 1, B)); // B and C are registrants only
    expect(await a.report()).to.deep.include({ rtype: 1, regctl: 1 });
    await ok(b.register(B));
    await ok(c.register(A));
    await ok(b.acquire(B, 4, 1, A)); // the holder, and C with the same key
    const taken = await a.report();
    expect([taken.rtype, taken.registrants.map(({ rkey }) => rkey)]).to.deep.equal([4, [B]]);
    await ok(b.acquire(B, 2, 1, B)); // itself: keeps its registration, gets the other type
    expect(await a.report()).to.deep.include({ rtype: 2, regctl: 1 });
    await ok(b.release(B, 2));
    await ok(a.register(A));
    await ok(b.acquire(B, 3, 1, A)); // nothing is held: registrations only
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 1 });
    await conflict(b.acquire(B, 3, 1, A));
    await ok(b.acquire(B, 3, 1, B)); // the issuer's own, as that of anybody with this key
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 0 });
  });

  it('58: release with another type: Invalid Field at byte 41; by a registrant that does not hold it, or of nothing: success', async () => {
    await held(3);
    const { code, more } = await a.release(A, 4);
    expect([code, more]).to.deep.equal([INVALID_FIELD, true]);
    expect((await a.admin.logPage(1, 64)).data.readUInt16LE(14), 'error location').to.equal(41);
    await ok(b.release(B, 3), b.release(B, 4));
    expect(await a.report()).to.deep.include({ rtype: 3 });
    await ok(a.release(A, 3), a.release(A, 3));
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 2 });
  });

  it('release of an all-registrants type by any of them; the last of them to unregister ends it', async () => {
    await held(5);
    await ok(b.release(B, 5));
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 2 });
    await ok(b.acquire(B, 6), b.unregister(B));
    expect(await a.report()).to.deep.include({ rtype: 6, regctl: 1 });
    await ok(a.unregister(A));
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 0 });
  });

  it('the holder of types 1 to 4 unregisters: it is released', async () => {
    for (const type of [1, 2, 3, 4]) {
      await held(type);
      await ok(a.unregister(A));
      expect(await a.report()).to.deep.include({ rtype: 0, regctl: 1 });
      await ok(b.unregister(B));
    }
  });

  it('fields out of range: Invalid Field, and where', async () => {
    await ok(a.register(A));
    const cases: [string, Promise<Completion>, location: number][] = [
      ['RREGA 3', a.register(B, { cdw10: 3 }), 40],
      ['CPTPL 1', a.register(B, { cdw10: 1 << 30 }), 43 | (6 << 8)],
      ['RACQA 3', a.acquire(A, 1, 3), 40],
      ['IEKEY in Acquire', a.acquire(A, 1, 0, 0n, 8), 40 | (3 << 8)],
      ['RTYPE 0', a.acquire(A, 0), 41],
      ['RTYPE 7', a.acquire(A, 7), 41],
      ['RRELA 2', a.release(A, 1, 2), 40],
      ['IEKEY in Release', a.release(A, 1, 8), 40 | (3 << 8)],
    ];
    for (const [name, command, location] of cases) {
      const { code, more, dnr } = await command;
      expect([code, more, dnr], name).to.deep.equal([INVALID_FIELD, true, true]);
      const page = (await a.admin.logPage(1, 4096)).data;
      const locations = Array.from({ length: 64 }, (_, i) => page.readUInt16LE(i * 64 + 14));
      expect(locations, name).to.include(location);
    }
    a.nsid = 2;
    expect((await a.register(A)).code, 'inactive NSID').to.equal(INVALID_FIELD);
    a.nsid = ALL;
    expect((await a.register(A)).code).to.equal(INVALID_NAMESPACE);
  });

  it('59: Report with 64-bit host identifiers: Host Identifier Inconsistent Format', async () => {
    expect((await a.reportBytes(64, 0)).code).to.equal(HOST_ID_INCONSISTENT);
  });

  it('Report: cut short where the host asks for less, zeroes where for more; an entry per controller', async () => {
    await held(2);
    const again = await ReservationHost.connect(t, hostidOf(0xb));
    const whole = (await a.reportBytes(4096)).data;
    expect(whole.readUInt16LE(5)).to.equal(3);
    expect(whole.subarray(64 * 4).every((byte) => byte === 0)).to.equal(true);
    for (const bytes of [4, 12, 64, 96, 128, 192, 256]) {
      const { data } = await a.reportBytes(bytes);
      expect(data.toString('hex'), `${bytes} bytes`).to.equal(whole.subarray(0, bytes).toString('hex'));
    }
    const { registrants } = await a.report();
    expect(registrants).to.deep.equal([
      { cntlid: a.admin.cntlid, rcsts: 1, rkey: A, hostid: 'aa'.repeat(16) },
      { cntlid: b.admin.cntlid, rcsts: 0, rkey: B, hostid: 'bb'.repeat(16) },
      { cntlid: again.admin.cntlid, rcsts: 0, rkey: B, hostid: 'bb'.repeat(16) },
    ]);
    b.admin.destroy();
    again.admin.destroy();
    await t.until(() => [...t.subsystem.controllers].length === 2);
    expect((await a.report()).registrants[1]).to.deep.include({ cntlid: 0xffff, rkey: B });
    expect((await a.reportBytes(2 << 20)).code, 'above MDTS').to.equal(INVALID_FIELD);
  });

  it('60: it survives a controller reset of the holder, and the end of its association', async () => {
    await held(1);
    await a.admin.propertySet(0x14, 0);
    await a.admin.enable();
    await conflict(b.io.write(0, Buffer.alloc(512)));
    a.admin.destroy();
    await t.until(() => [...t.subsystem.controllers].length === 2);
    await conflict(b.io.write(0, Buffer.alloc(512)));
    const back = await ReservationHost.connect(t, hostidOf(0xa));
    await ok(back.io.write(0, Buffer.alloc(512)), back.release(A, 1));
  });

  it('61: two controllers with one Host Identifier share the registration', async () => {
    const twin = await ReservationHost.connect(t, hostidOf(0xa));
    await held(2);
    await ok(twin.io.write(0, Buffer.alloc(512)), twin.register(A), twin.release(A, 2), twin.unregister(A));
    await conflict(a.acquire(A, 1));
  });

  it('a host without an identifier: Host Identifier Not Initialized; its I/O is that of a stranger', async () => {
    const nobody = await ReservationHost.connect(t, new Uint8Array(16));
    await held(3);
    for (const command of [nobody.register(A), nobody.acquire(A, 1), nobody.release(A, 1), nobody.reportBytes(64)]) {
      expect((await command).code).to.equal(HOST_ID_NOT_INITIALIZED);
    }
    await conflict(nobody.io.write(0, Buffer.alloc(512)));
  });

  it('namespaces have reservations of their own; resizing keeps them, removing drops them', async () => {
    await held(2);
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new CopyBackend() });
    await ok(b.io.command({ opcode: 2, nsid: 2 }, { readBytes: 512 }));
    t.subsystem.namespaceResized(1);
    await conflict(b.io.read(0, 1));
    await t.target.removeNamespace(t.subsystem, 1);
    t.target.addNamespace(t.subsystem, { nsid: 1, backend: new CopyBackend() });
    await ok(b.io.read(0, 1));
    expect(await a.report()).to.deep.include({ rtype: 0, regctl: 0, gen: 0 });
  });

  describe('notifications', () => {
    const RESERVATION_EVENT = 0x0080_0006;

    it('57: registration preempted, reservation released, reservation preempted: to whom', async () => {
      await held(3);
      await ok(c.register(C));
      await ok(b.acquire(B, 4, 1, A)); // A goes; the type changes for C
      expect([await a.notices(), await b.notices(), await c.notices()]).to.deep.equal([[1], [], [2]]);
      await ok(a.register(A));
      await ok(b.release(B, 4)); // types 3 to 6 only
      expect([await a.notices(), await b.notices(), await c.notices()]).to.deep.equal([[2], [], [2]]);
      await ok(b.acquire(B, 1), b.release(B, 1), b.acquire(B, 3), b.unregister(B));
      expect([await a.notices(), await b.notices(), await c.notices()]).to.deep.equal([[2], [], [2]]);
      await ok(a.clear(A));
      expect([await a.notices(), await b.notices(), await c.notices()]).to.deep.equal([[], [], [3]]);
      await held(5);
      await ok(c.register(C), c.acquire(C, 2, 1, 0n));
      expect([await a.notices(), await b.notices(), await c.notices()]).to.deep.equal([[1], [1], []]);
    });

    it('every controller of a host hears of it', async () => {
      const twin = await ReservationHost.connect(t, hostidOf(0xb));
      await held(1);
      await ok(a.acquire(A, 1, 1, B));
      expect([await b.notices(), await twin.notices()]).to.deep.equal([[1], [1]]);
    });

    it('log page 80h: oldest first, one each time, with what is left; empty: zeroes; reset starts again', async () => {
      await ok(b.register(B));
      for (let i = 0; i < 3; i++) {
        await ok(a.register(A));
        await ok(b.acquire(B, 1, 1, A));
      }
      expect(await a.notice(true)).to.deep.equal([1, 1, 2, 1]);
      expect(await a.notice()).to.deep.equal([2, 1, 1, 1]);
      expect(await a.notice()).to.deep.equal([3, 1, 0, 1]);
      expect(await a.notice()).to.deep.equal([0, 0, 0, 0]);
      await ok(a.register(A));
      await ok(b.acquire(B, 1, 1, A));
      await a.admin.propertySet(0x14, 0);
      await a.admin.enable();
      expect(await a.notice()).to.deep.equal([0, 0, 0, 0]);
    });

    it('a host that never reads: the newest 256 are kept, the count tells the gap, 255 is the most that is told', async () => {
      await ok(b.register(B));
      for (let i = 0; i < 260; i++) {
        await ok(a.register(A));
        await ok(b.acquire(B, 1, 1, A));
      }
      expect(await a.notice()).to.deep.equal([5, 1, 255, 1]);
      expect(await a.notice()).to.deep.equal([6, 1, 254, 1]);
    });

    it('AER type 6: one until the page is read, again while more pages wait', async () => {
      const first = a.admin.command({ opcode: 0x0c });
      await ok(b.register(B));
      await ok(a.register(A));
      await ok(b.acquire(B, 1, 1, A));
      expect((await first).result0).to.equal(RESERVATION_EVENT);
      let second: Completion | undefined;
      void a.admin.command({ opcode: 0x0c }).then((completion) => {
        second = completion;
      });
      await ok(a.register(A));
      await ok(b.acquire(B, 1, 1, A));
      await settle();
      expect(second, 'masked until the page is read').to.equal(undefined);
      await a.notice(true);
      await settle();
      expect(second, 'RAE 1 leaves it masked').to.equal(undefined);
      await ok(a.register(A));
      await ok(b.acquire(B, 1, 1, A));
      await a.notice();
      await settle();
      expect(second?.result0, 'a page is left').to.equal(RESERVATION_EVENT);
    });

    it('82h: masks by type and namespace for this controller alone; unknown bits: Invalid Field', async () => {
      await ok(a.admin.setFeature(0x82, 0x02, { nsid: 1 }));
      expect((await a.admin.getFeature(0x82, { nsid: 1 })).result0).to.equal(2);
      expect((await b.admin.getFeature(0x82, { nsid: 1 })).result0).to.equal(0);
      await ok(b.register(B));
      await ok(a.register(A));
      await ok(b.acquire(B, 1, 1, A));
      expect(await a.notices()).to.deep.equal([]);
      await ok(a.register(A));
      await ok(b.clear(B));
      expect(await a.notices()).to.deep.equal([3]);
      await ok(a.admin.setFeature(0x82, 0x0e, { nsid: ALL }));
      expect((await a.admin.getFeature(0x82, { nsid: 1 })).result0).to.equal(0x0e);
      for (const mask of [1, 0x10, ALL]) {
        expect((await a.admin.setFeature(0x82, mask, { nsid: 1 })).code).to.equal(INVALID_FIELD);
      }
      expect((await a.admin.getFeature(0x82, { nsid: ALL })).code).to.equal(INVALID_FIELD);
      expect((await a.admin.getFeature(0x82, { nsid: 5 })).code).to.equal(INVALID_FIELD);
      expect((await a.admin.getFeature(0x82, { nsid: 0 })).code).to.equal(INVALID_NAMESPACE);
      expect((await a.admin.getFeature(0x82, { nsid: 1, sel: 3 })).result0).to.equal(6);
      await a.admin.propertySet(0x14, 0);
      await a.admin.enable();
      expect((await a.admin.getFeature(0x82, { nsid: 1 })).result0, 'after a reset').to.equal(0);
    });
  });

  describe('preempt and abort', () => {
    let backend: CopyBackend;
    beforeEach(async () => {
      await t.close();
      backend = new CopyBackend();
      await start({ backend });
    });

    it('57: what the victims have outstanding ends with 1Bh, before the command itself; nobody else notices', async () => {
      await ok(a.register(A));
      await ok(b.register(B));
      await ok(c.register(C));
      await ok(a.acquire(A, 3));
      const order: string[] = [];
      const ended = (name: string, command: Promise<Completion>): Promise<Completion> =>
        command.finally(() => order.push(name));
      backend.hold = true;
      const victims = [ended('write', a.io.write(0, Buffer.alloc(512))), ended('read', a.io.read(0, 1))];
      const bystander = ended('other', c.io.read(0, 1));
      await t.until(() => backend.held.length === 3);
      const taking = ended('preempt', b.acquire(B, 3, 2, A));
      await settle();
      expect(order, 'the backend still has them').to.deep.equal([]);
      await conflict(a.io.write(8, Buffer.alloc(512)));
      backend.release();
      for (const victim of victims) {
        const { code, dnr } = await victim;
        expect([code, dnr]).to.deep.equal([PREEMPT_ABORTED, false]);
      }
      await ok(taking, bystander);
      expect(order.indexOf('preempt')).to.be.above(order.indexOf('write')).and.above(order.indexOf('read'));
      expect(await a.notices()).to.deep.equal([1]);
    });

    it('a write whose data is still owed never reaches the backend', async () => {
      await held(3);
      const data = Buffer.alloc(16384, 0x77);
      const done = a.io.completion(9, { data, manual: true });
      await a.io.send(a.io.commandBytes({ opcode: 1, nsid: 1, cid: 9, cdw12: 31 }, { data, by: 'r2t' }));
      const { ttag } = await a.io.next();
      const taking = b.acquire(B, 3, 2, A);
      await settle();
      await a.io.send(a.io.h2cData({ cccid: 9, ttag, offset: 0, last: true }, data));
      expect((await done).code).to.equal(PREEMPT_ABORTED);
      await ok(taking);
      expect(backend.bytes.every((byte) => byte === 0)).to.equal(true);
      await ok(a.register(A), a.io.write(0, Buffer.alloc(512)));
    });

    it('nor does it where the backend is done in the same turn', async () => {
      await t.close();
      await start(); // in memory
      await held(3);
      const data = Buffer.alloc(16384, 0x77);
      const done = a.io.completion(9, { data, manual: true });
      await a.io.send(a.io.commandBytes({ opcode: 1, nsid: 1, cid: 9, cdw12: 31 }, { data, by: 'r2t' }));
      const { ttag } = await a.io.next();
      const taking = b.acquire(B, 3, 2, A);
      await settle();
      await a.io.send(a.io.h2cData({ cccid: 9, ttag, offset: 0, last: true }, data));
      expect((await done).code).to.equal(PREEMPT_ABORTED);
      await ok(taking);
      expect((await b.io.read(0, 32)).data.includes(0x77)).to.equal(false);
    });

    it('a victim that never sends its data cannot hold it up: after two seconds its connection is closed', async () => {
      await held(3);
      const data = Buffer.alloc(16384, 0x77);
      const done = a.io.completion(9, { data, manual: true });
      await a.io.send(a.io.commandBytes({ opcode: 1, nsid: 1, cid: 9, cdw12: 31 }, { data, by: 'r2t' }));
      await a.io.next();
      let taken = false;
      const taking = b.acquire(B, 3, 2, A).finally(() => {
        taken = true;
      });
      await settle();
      expect(taken).to.equal(false);
      t.clock.advance(2000);
      await ok(taking);
      await a.io.untilEnded();
      await done.then(
        () => expect.fail('the command must not complete'),
        () => undefined,
      );
      expect(backend.bytes.every((byte) => byte === 0)).to.equal(true);
    });

    it('a victim that vanishes while the backend has its command: completes when the backend gave it back', async () => {
      await held(3);
      backend.hold = true;
      void a.io.write(0, Buffer.alloc(512));
      await t.until(() => backend.held.length === 1);
      const taking = b.acquire(B, 3, 2, A);
      a.io.destroy();
      await settle();
      backend.release();
      await ok(taking);
    });

    it('a victim that had vanished before, with a command in the backend: that is waited for, too', async () => {
      await held(3);
      backend.hold = true;
      void a.io.write(0, Buffer.alloc(512, 1)).catch(() => {});
      await t.until(() => backend.held.length === 1);
      a.admin.destroy();
      a.io.destroy();
      await t.until(() => [...t.subsystem.controllers].length === 2);
      let taken = false;
      const taking = b.acquire(B, 3, 2, A).finally(() => {
        taken = true;
      });
      await settle();
      expect(taken, 'its write may still reach the medium').to.equal(false);
      backend.release();
      await ok(taking);
    });

    it('two at once over the same victim: both wait for it', async () => {
      await ok(a.register(A));
      await ok(b.register(B));
      await ok(c.register(C));
      await ok(a.acquire(A, 3));
      backend.hold = true;
      const victim = a.io.read(0, 1);
      await t.until(() => backend.held.length === 1);
      const first = b.acquire(B, 3, 2, A);
      await settle();
      await ok(a.register(A));
      const second = c.acquire(C, 3, 2, A);
      await settle();
      backend.release();
      expect((await victim).code).to.equal(PREEMPT_ABORTED);
      await ok(first, second);
    });

    it('with nothing to abort it is a preempt', async () => {
      await held(1);
      await ok(b.acquire(B, 2, 2, A));
      expect(await a.report()).to.deep.include({ rtype: 2, regctl: 1 });
    });
  });

  describe('persistence through power loss', () => {
    let store: ControlledStateStore;
    const PERSIST = 0xc000_0000;
    const FORGET = 0x8000_0000;

    it('without a state store: not advertised, and refused', async () => {
      expect((await a.register(A, { cdw10: PERSIST })).code).to.equal(INVALID_FIELD);
      expect((await a.admin.setFeature(0x83, 1, { nsid: 1 })).code).to.equal(INVALID_FIELD);
      expect((await a.admin.setFeature(0x83, 1, { nsid: ALL })).code).to.equal(INVALID_FIELD);
      await ok(a.admin.setFeature(0x83, 0, { nsid: 1 }), a.register(A, { cdw10: FORGET }));
      expect((await a.admin.getFeature(0x83, { nsid: 1 })).result0).to.equal(0);
    });

    describe('with a state store', () => {
      beforeEach(async () => {
        await t.close();
        store = new ControlledStateStore();
        await start({ state: store });
      });

      /** The process dies; what was kept is all there is. */
      async function powerLoss(): Promise<void> {
        await t.close();
        await start({ state: store });
      }

      it('is advertised; only a namespace that persists is kept', async () => {
        expect((await a.admin.identify(0, { nsid: 1 })).data.readUInt8(31)).to.equal(0xff);
        await held(1);
        expect(store.kept.size).to.equal(0);
        await powerLoss();
        expect(await a.report()).to.deep.include({ rtype: 0, regctl: 0, ptpls: 0 });
      });

      it('CPTPL set: registrants, holder and GEN are there after a loss of power', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        await ok(b.register(B));
        await ok(a.acquire(A, 4));
        const before = await a.report();
        expect(before).to.deep.include({ ptpls: 1, gen: 2, rtype: 4 });
        await powerLoss();
        expect(await a.report()).to.deep.equal(before);
        await conflict(c.io.read(0, 1));
        await ok(b.io.write(0, Buffer.alloc(512)));
        await ok(a.release(A, 4));
        await powerLoss();
        expect(await a.report()).to.deep.include({ rtype: 0, regctl: 2 });
      });

      it('CPTPL clear, or feature 83h: nothing is kept any more', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        expect((await a.admin.getFeature(0x83, { nsid: 1 })).result0).to.equal(1);
        await ok(a.replace(A, B), a.register(B, { cdw10: FORGET }));
        expect(store.kept.size).to.equal(0);
        await ok(a.admin.setFeature(0x83, 1, { nsid: ALL }));
        expect(store.kept.size).to.equal(1);
        await ok(a.admin.setFeature(0x83, 0, { nsid: 1 }));
        expect(store.kept.size).to.equal(0);
        expect(await a.report()).to.deep.include({ ptpls: 0, regctl: 1 });
        expect((await a.admin.setFeature(0x83, 2, { nsid: 1 })).code).to.equal(INVALID_FIELD);
      });

      it('a command is answered, and has its effect, when it is durable; the ones behind it wait', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        store.hold = true;
        let done = 0;
        const count = (): void => {
          done++;
        };
        const acquiring = a.acquire(A, 2).finally(count);
        const registering = b.register(B).finally(count);
        await settle();
        expect(done).to.equal(0);
        await ok(c.io.read(0, 1)); // not yet
        store.release();
        await ok(acquiring, registering);
        await conflict(c.io.read(0, 1));
      });

      it('the store fails: Internal Error, and nothing has changed', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        store.failure = new Error('disk full');
        expect((await a.acquire(A, 2)).code).to.equal(INTERNAL_ERROR);
        await ok(c.io.read(0, 1));
        await ok(a.acquire(A, 2));
        await conflict(c.io.read(0, 1));
        store.failure = new Error('disk full');
        expect((await a.admin.setFeature(0x83, 0, { nsid: 1 })).code).to.equal(INTERNAL_ERROR);
        expect((await a.admin.getFeature(0x83, { nsid: 1 })).result0).to.equal(1);
      });

      it('a removed namespace takes its reservations with it', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        await t.target.removeNamespace(t.subsystem, 1);
        expect(store.kept.size).to.equal(0);
      });

      it('a host that leaves before its command is durable leaves nothing behind', async () => {
        await ok(a.register(A, { cdw10: PERSIST }));
        store.hold = true;
        void b.register(B);
        await t.until(() => store.heldCount === 1);
        b.admin.destroy();
        b.io.destroy();
        await t.until(() => [...t.subsystem.controllers].length === 2);
        store.release();
        await settle();
        expect(await a.report()).to.deep.include({ regctl: 2 });
      });
    });
  });
});

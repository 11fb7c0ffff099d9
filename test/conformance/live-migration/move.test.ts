/** Features CBh (reservations), CCh (peers in the discovery log) and CDh (write limit). docs/live-migration-over-tcp.md */
import { expect } from 'chai';
import { decodeDiscoveryLog } from '../../../src/wire/cold/discovery-log.ts';
import { MANAGER_NQN, type Manager, managerOf, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import type { Completion, RawHost } from '../../support/raw-host.ts';
import { hostidOf, ReservationHost } from '../../support/reservation-host.ts';
import { CopyBackend, DISCOVERY_NQN, SUBSYSTEM_NQN, settle, type TestTarget } from '../../support/test-target.ts';

const SEQUENCE = 0x00c;
const INVALID_FIELD = 0x002;
const CONFLICT = 0x083;
const INACCESSIBLE = 0x302;
const ABORTED = 0x007;

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  void promise.then(
    () => {
      done = true;
    },
    () => {
      done = true;
    },
  );
  await settle();
  return !done;
}

describe('conformance: live migration, reservations go along (feature CBh)', () => {
  let a: TestTarget;
  let b: TestTarget;
  const states = [new MemoryStateStore(), new MemoryStateStore()];
  beforeEach(async () => {
    states[0] = new MemoryStateStore();
    states[1] = new MemoryStateStore();
    a = await startManaged({ state: states[0] });
    b = await startManaged({ state: states[1] });
  });
  afterEach(async () => {
    await a.close();
    await b.close();
  });

  const managed = async (t: TestTarget): Promise<{ manager: Manager; io: RawHost }> => {
    const manager = await managerOf(t);
    return { manager, io: await t.io(manager.host, { hostnqn: MANAGER_NQN }) };
  };
  const report = async (io: RawHost): Promise<Buffer> => {
    const { data, code } = await io.command({ opcode: 0x0e, nsid: 1, cdw10: 1023, cdw11: 1 }, { readBytes: 4096 });
    expect(code).to.equal(0);
    return data.subarray(0, 64 + data.readUInt16LE(5) * 64);
  };
  const write = (io: RawHost): Promise<Completion> => io.command({ opcode: 1, nsid: 1 }, { data: Buffer.alloc(512) });
  const read = (io: RawHost): Promise<Completion> => io.command({ opcode: 2, nsid: 1 }, { readBytes: 512 });

  for (let type = 1; type <= 6; type++) {
    it(`type ${type}: registrants, keys, holder, GEN and PTPL are the same at the other target, and after its restart`, async () => {
      const [first, second] = [
        await ReservationHost.connect(a, hostidOf(1)),
        await ReservationHost.connect(a, hostidOf(2)),
      ];
      // a registrant with two controllers, one that is not connected any more, and one that holds it
      await ReservationHost.connect(a, hostidOf(1));
      const gone = await ReservationHost.connect(a, hostidOf(3));
      const PTPL = 3 << 30;
      for (const [host, key] of [
        [first, 0x11n],
        [second, 0x22n],
        [gone, 2n ** 64n - 1n],
      ] as const) {
        expect((await host.register(key, { cdw10: PTPL >>> 0 })).code).to.equal(0);
      }
      expect((await second.acquire(0x22n, type)).code).to.equal(0);
      gone.admin.destroy();
      gone.io.destroy();
      const before = await first.report();

      const source = await managed(a);
      // whoever moves it reads, whatever is reserved, and does not write
      expect((await read(source.io)).code).to.equal(0);
      expect((await write(source.io)).code).to.equal(CONFLICT);
      await source.manager.setFence(1, true, 7n);
      const status = await report(source.io);

      const destination = await managed(b);
      expect((await destination.manager.setReservations(1, status, 7n)).code, 'it is open').to.equal(SEQUENCE);
      await destination.manager.setFence(1, true, 7n);
      expect((await destination.manager.setReservations(1, status, 6n)).code, 'an older epoch').to.equal(SEQUENCE);
      expect((await destination.manager.setReservations(1, status, 7n)).code).to.equal(0);
      expect((await write(destination.io)).code, 'the copy goes on').to.equal(0);
      await destination.manager.setFence(1, false, 7n);

      const check = async (): Promise<void> => {
        const here = await ReservationHost.connect(b, hostidOf(2));
        const after = await here.report();
        expect([after.gen, after.rtype, after.ptpls]).to.deep.equal([before.gen, type, 1]);
        const keysOf = (one: typeof before): string[] =>
          [...new Set(one.registrants.map(({ hostid, rkey, rcsts }) => `${hostid} ${rkey} ${rcsts}`))].sort();
        expect(keysOf(after)).to.deep.equal(keysOf(before));
        expect((await write(here.io)).code, 'the holder writes').to.equal(0);
        const stranger = await ReservationHost.connect(b, hostidOf(9));
        expect((await write(stranger.io)).code).to.equal(CONFLICT);
        expect((await read(stranger.io)).code).to.equal(type % 2 === 0 ? CONFLICT : 0);
      };
      await check();
      await b.close();
      b = await startManaged({ state: states[1]! });
      await check();
    });
  }

  it('nobody registered: what there was is gone, also from the store', async () => {
    const host = await ReservationHost.connect(b, hostidOf(1));
    await host.register(5n, { cdw10: (3 << 30) >>> 0 });
    const { manager } = await managed(b);
    await manager.setFence(1, true, 1n);
    expect([...states[1]!.values.keys()].filter((name) => name.startsWith('reservations'))).to.have.length(1);
    expect((await manager.setReservations(1, new Uint8Array(0), 1n)).code).to.equal(0);
    await manager.setFence(1, false, 1n);
    expect(await host.report()).to.include({ gen: 0, rtype: 0, regctl: 0, ptpls: 0 });
    expect([...states[1]!.values.keys()].filter((name) => name.startsWith('reservations'))).to.have.length(0);
  });

  it('what is malformed is refused, and changes nothing', async () => {
    const host = await ReservationHost.connect(b, hostidOf(1));
    await host.register(5n);
    await host.acquire(5n, 1);
    const { manager, io } = await managed(b);
    await manager.setFence(1, true, 1n);
    const right = await report(io);
    const wrong = (change: (bytes: Buffer) => void): Buffer => {
      const bytes = Buffer.from(right);
      change(bytes);
      return bytes;
    };
    const cases: [string, Uint8Array][] = [
      ['cut short', right.subarray(0, 64)],
      ['not even a header', right.subarray(0, 8)],
      ['an unknown type', wrong((bytes) => bytes.writeUInt8(7, 4))],
      ['held by nobody', wrong((bytes) => bytes.writeUInt8(0, 66))],
      ['held, but without type', wrong((bytes) => bytes.writeUInt8(0, 4))],
      ['more registrants than it has', wrong((bytes) => bytes.writeUInt16LE(2, 5))],
    ];
    for (const [what, bytes] of cases) {
      expect((await manager.setReservations(1, bytes, 1n)).code, what).to.equal(INVALID_FIELD);
    }
    expect((await manager.setReservations(1, new Uint8Array(0), 1n, 6)).code, 'not whole dwords').to.equal(
      INVALID_FIELD,
    );
    expect((await manager.setReservations(1, new Uint8Array(0), 1n, (1 << 20) + 4)).code).to.equal(INVALID_FIELD);
    expect((await report(io)).equals(right)).to.equal(true);
    expect((await manager.host.command({ opcode: 0x0a, nsid: 1, cdw10: 0xcb, cdw14: 1 })).code, 'Get').to.equal(2);
  });

  it('what persists is refused where nothing is kept', async () => {
    const host = await ReservationHost.connect(a, hostidOf(1));
    await host.register(5n, { cdw10: (3 << 30) >>> 0 });
    const source = await managed(a);
    await source.manager.setFence(1, true, 1n);
    const status = await report(source.io);
    await b.close();
    b = await startManaged();
    const { manager } = await managed(b);
    await manager.setFence(1, true, 1n);
    expect((await manager.setReservations(1, status, 1n)).code).to.equal(INVALID_FIELD);
  });

  it('a store that fails: Internal Error, and the reservations are as before', async () => {
    const host = await ReservationHost.connect(a, hostidOf(1));
    await host.register(5n, { cdw10: (3 << 30) >>> 0 });
    const { manager, io } = await managed(a);
    await manager.setFence(1, true, 1n);
    const before = await report(io);
    states[0]!.failure = new Error('no space');
    expect((await manager.setReservations(1, new Uint8Array(0), 1n)).code).to.equal(0x006);
    states[0]!.failure = undefined;
    expect((await report(io)).equals(before)).to.equal(true);
  });
});

describe('conformance: live migration, peers in the discovery log (feature CCh)', () => {
  let t: TestTarget;
  let manager: Manager;
  const state = new MemoryStateStore();
  const begin = async (): Promise<void> => {
    t = await startManaged({ state });
    manager = await managerOf(t);
  };
  beforeEach(async () => {
    state.values.clear();
    state.failure = undefined;
    await begin();
  });
  afterEach(() => t.close());

  interface Fields {
    readonly trtype?: number;
    readonly adrfam?: number;
    readonly subtype?: number;
    readonly service?: string;
    readonly subnqn?: string;
    readonly address?: string;
  }
  function entryOf(fields: Fields = {}): Buffer {
    const {
      trtype = 3,
      adrfam = 1,
      subtype = 2,
      service = '4420',
      subnqn = SUBSYSTEM_NQN,
      address = '192.0.2.7',
    } = fields;
    const bytes = Buffer.alloc(1024);
    bytes.set([trtype, adrfam, subtype, 0x06], 0);
    bytes.writeUInt16LE(77, 4);
    bytes.writeUInt16LE(0xffff, 6);
    bytes.writeUInt16LE(32, 8);
    bytes.write(service.padEnd(32, ' '), 32, 'latin1');
    bytes.write(subnqn, 256, 'utf8');
    bytes.write(address.padEnd(256, ' '), 512, 'latin1');
    return bytes;
  }
  async function discover(hostnqn?: string): Promise<RawHost> {
    const host = await t.initialized();
    const fields = { subnqn: DISCOVERY_NQN, katoMs: 60_000, ...(hostnqn === undefined ? {} : { hostnqn }) };
    expect((await host.connectQueue(fields)).status).to.equal(0);
    await host.enable();
    return host;
  }
  async function listed(host: RawHost): Promise<{ genctr: bigint; places: string[] }> {
    const { genctr, entries } = decodeDiscoveryLog((await host.logPage(0x70, 32 << 10)).data);
    const places = entries
      .filter(({ subtype }) => subtype === 2)
      .map((one) => `${one.traddr}:${one.trsvcid} ${one.portid}`);
    return { genctr, places: places.slice(1) };
  }

  it('is listed beside our own ports; GENCTR moves, and who listens hears of it; taken back: gone', async () => {
    const host = await discover();
    const before = await listed(host);
    expect(before.places).to.deep.equal([]);
    let event = host.command({ opcode: 0x0c });
    expect((await manager.peer(entryOf(), true)).code).to.equal(0);
    expect((await event).result0).to.equal(0x0070_f002);
    const after = await listed(host);
    expect(after.places).to.deep.equal(['192.0.2.7:4420 77']);
    expect(after.genctr > before.genctr).to.equal(true);
    // as it came, but for what discovery says itself
    const { data } = await host.logPage(0x70, 4 * 1024);
    expect(data.subarray(3072).equals(entryOf())).to.equal(true);
    expect((await manager.peer(entryOf(), true)).code, 'again: once').to.equal(0);
    expect((await listed(host)).genctr, 'nothing has changed').to.equal(after.genctr);
    expect((await manager.peer(entryOf({ service: '4421' }), true)).code).to.equal(0);
    expect((await manager.peer(entryOf({ adrfam: 2, address: '2001:db8::7' }), true)).code).to.equal(0);
    expect((await listed(host)).places).to.have.length(3);
    event = host.command({ opcode: 0x0c });
    expect((await manager.peer(entryOf(), false)).code).to.equal(0);
    expect((await event).result0).to.equal(0x0070_f002);
    expect((await manager.peer(entryOf(), false)).code, 'it is gone').to.equal(0);
    expect((await listed(host)).places).to.deep.equal(['192.0.2.7:4421 77', '2001:db8::7:4420 77']);
  });

  it('survives a restart, and shows to nobody for whom the subsystem is closed', async () => {
    await manager.peer(entryOf(), true);
    await t.close();
    await begin();
    const host = await discover();
    expect((await listed(host)).places).to.deep.equal(['192.0.2.7:4420 77']);
    t.target.setHosts(t.subsystem, false, ['nqn.2024-01.org.example:friend']);
    const stranger = decodeDiscoveryLog((await host.logPage(0x70, 32 << 10)).data);
    expect(stranger.entries.filter(({ subtype }) => subtype === 2)).to.deep.equal([]);
    const friend = await discover('nqn.2024-01.org.example:friend');
    expect((await listed(friend)).places).to.deep.equal(['192.0.2.7:4420 77']);
  });

  it('what hosts could not use is refused: other transports, other subsystems, no address, too many', async () => {
    const cases: Fields[] = [
      { trtype: 1 },
      { adrfam: 3 },
      { adrfam: 2 },
      { subtype: 3 },
      { service: '0' },
      { service: '70000' },
      { service: 'nvme' },
      { subnqn: 'nqn.2024-01.org.example:other' },
      { address: 'target.example.org' },
      { address: '' },
    ];
    for (const fields of cases) {
      expect((await manager.peer(entryOf(fields), true)).code, JSON.stringify(fields)).to.equal(INVALID_FIELD);
    }
    for (let i = 1; i <= 16; i++) expect((await manager.peer(entryOf({ service: `${i}` }), true)).code).to.equal(0);
    expect((await manager.peer(entryOf({ service: '17' }), true)).code).to.equal(0x138);
    expect((await manager.peer(entryOf({ service: '16' }), true)).code, 'there already').to.equal(0);
    const two = { opcode: 9, cdw10: 0xcc, cdw11: 2, cdw14: 1 };
    expect((await manager.host.command(two, { data: entryOf(), by: 'r2t' })).code).to.equal(INVALID_FIELD);
  });

  it('a store that fails: Internal Error, nothing is announced', async () => {
    const host = await discover();
    const { genctr } = await listed(host);
    state.failure = new Error('no space');
    expect((await manager.peer(entryOf(), true)).code).to.equal(0x006);
    expect(await listed(host)).to.deep.equal({ genctr, places: [] });
  });
});

describe('conformance: live migration, write limit (feature CDh)', () => {
  let t: TestTarget;
  let manager: Manager;
  let managerIo: RawHost;
  let admin: RawHost;
  let io: RawHost;
  let backend: CopyBackend;
  beforeEach(async () => {
    backend = new CopyBackend();
    t = await startManaged({ backend });
    manager = await managerOf(t);
    managerIo = await t.io(manager.host, { hostnqn: MANAGER_NQN });
    ({ admin, io } = await t.association());
  });
  afterEach(() => t.close());

  const write = (block: number, kib = 4, host = io): Promise<Completion> =>
    host.command(
      { opcode: 1, nsid: 1, cdw10: block, cdw12: kib * 2 - 1 },
      { data: Buffer.alloc(kib * 1024, block + 1) },
    );
  const limited = async (): Promise<number> => {
    const { code, result0 } = await manager.host.command({ opcode: 0x0a, nsid: 1, cdw10: 0xcd, cdw14: 1 });
    expect(code).to.equal(0);
    return result0;
  };
  /** A limit under which `count` writes wait. */
  const waiting = async (count: number): Promise<Promise<Completion>[]> => {
    expect((await manager.limit(1, 1)).code).to.equal(0);
    expect((await write(0)).code, 'the first one empties the bucket').to.equal(0);
    const writes = Array.from({ length: count }, (_, i) => write(100 + i * 8));
    await t.until(() => t.subsystem.namespaces[1]!.writeLimit!.waitingCount === count);
    return writes;
  };
  const codesOf = async (writes: Promise<Completion>[]): Promise<number[]> =>
    (await Promise.all(writes)).map(({ code }) => code);

  it('hosts write so many bytes a second, in order, and no write fails; reads and managers are free', async () => {
    expect(await limited()).to.equal(0);
    expect((await manager.limit(1, 40)).code).to.equal(0);
    expect(await limited()).to.equal(40);
    const order: number[] = [];
    const writes = Array.from({ length: 12 }, async (_, i) => {
      expect((await write(i * 8)).code).to.equal(0);
      order.push(i);
    });
    await t.until(() => t.subsystem.namespaces[1]!.writeLimit!.waitingCount === 11);
    expect((await io.command({ opcode: 2, nsid: 1 }, { readBytes: 512 })).code).to.equal(0);
    expect((await write(500, 4, managerIo)).code).to.equal(0);
    expect((await io.command({ opcode: 0, nsid: 1 })).code, 'Flush').to.equal(0);
    await settle();
    for (let seconds = 0; seconds < 1; seconds++) {
      t.clock.advance(510);
      await settle();
      expect(order.length, '20 KiB and one').to.be.within(5, 7);
    }
    t.clock.advance(2000);
    await Promise.all(writes);
    expect(order).to.deep.equal([...order].sort((x, y) => x - y));
    expect((await manager.limit(1, 0)).code).to.equal(0);
    expect(await codesOf(Array.from({ length: 20 }, (_, i) => write(i * 8, 8)))).to.deep.equal(Array(20).fill(0));
    expect(t.clock.timerCount).to.be.below(20);
  });

  it('Copy counts as the write that it is', async () => {
    const [held] = await waiting(1);
    const descriptor = Buffer.alloc(32);
    const copied = io.command({ opcode: 0x19, nsid: 1, cdw10: 1000 }, { data: descriptor });
    expect(await isPending(copied)).to.equal(true);
    await manager.limit(1, 0);
    expect((await copied).code).to.equal(0);
    expect((await held!).code).to.equal(0);
  });

  it('no write waits longer than 5 s', async () => {
    const writes = await waiting(20);
    t.clock.advance(4990);
    expect(await isPending(writes.at(-1)!)).to.equal(true);
    t.clock.advance(20);
    expect(await codesOf(writes)).to.deep.equal(Array(20).fill(0));
  });

  it('ends with its manager, and lets go what waits', async () => {
    const writes = await waiting(3);
    manager.host.destroy();
    expect(await codesOf(writes)).to.deep.equal([0, 0, 0]);
    manager = await managerOf(t);
    expect(await limited()).to.equal(0);
  });

  it("is one manager's at a time", async () => {
    await manager.limit(1, 10);
    const other = await managerOf(t);
    expect((await other.limit(1, 20)).code).to.equal(SEQUENCE);
    expect((await other.limit(1, 0)).code).to.equal(SEQUENCE);
    expect((await manager.limit(1, 20)).code).to.equal(0);
    expect(await limited()).to.equal(20);
  });

  it('a suspension lets what waits go, and is complete', async () => {
    const writes = await waiting(3);
    expect((await manager.suspend(admin.cntlid)).code).to.equal(0);
    expect(await codesOf(writes)).to.deep.equal([0, 0, 0]);
  });

  it('Abort takes back what waits', async () => {
    await manager.limit(1, 1);
    await write(0);
    const cid = io.nextCid();
    const aborted = io.command({ opcode: 1, nsid: 1, cdw10: 99, cid }, { data: Buffer.alloc(512, 0xaa) });
    await t.until(() => t.subsystem.namespaces[1]!.writeLimit!.waitingCount === 1);
    const { result0 } = await admin.command({ opcode: 8, cdw10: (1 | (cid << 16)) >>> 0 });
    expect(result0 & 1, 'aborted').to.equal(0);
    expect((await aborted).code).to.equal(ABORTED);
    t.clock.advance(10_000);
    await settle();
    expect(backend.bytes.includes(0xaa)).to.equal(false);
  });

  it('a fence that closes refuses what waits; so does another ANA state, and a reservation', async () => {
    let writes = await waiting(2);
    const closed = manager.setFence(1, true, 1n);
    expect(await codesOf(writes)).to.deep.equal([INACCESSIBLE, INACCESSIBLE]);
    t.clock.advance(10);
    expect((await closed).code).to.equal(0);
    await manager.setFence(1, false, 1n);
    t.clock.advance(10_000);
    writes = await waiting(2);
    t.subsystem.ana.setState(1, 1, 3);
    expect(await codesOf(writes)).to.deep.equal([INACCESSIBLE, INACCESSIBLE]);
    t.subsystem.ana.setState(1, 1, 1);
    t.clock.advance(10_000);
    writes = await waiting(2);
    const holder = await ReservationHost.connect(t, hostidOf(5));
    await holder.register(1n);
    expect((await holder.acquire(1n, 1)).code).to.equal(0);
    t.clock.advance(5000);
    expect(await codesOf(writes)).to.deep.equal([CONFLICT, CONFLICT]);
  });

  it('Format does not wait for what waits', async () => {
    const writes = await waiting(2);
    const formatted = admin.command({ opcode: 0x80, nsid: 1 });
    expect(await codesOf(writes)).to.deep.equal([0x084, 0x084]);
    await t.until(() => t.clock.timerCount > 0);
    while (await isPending(formatted)) t.clock.advance(5);
    expect((await formatted).code).to.equal(0);
  });

  it('a host that goes, or resets, with writes that wait leaves nothing behind', async () => {
    for (const end of ['connection', 'reset', 'I/O connection'] as const) {
      t.clock.advance(10_000);
      const writes = await waiting(3);
      for (const one of writes) void one.catch(() => {});
      if (end === 'connection') {
        admin.destroy();
        io.destroy();
      } else if (end === 'reset') await admin.propertySet(0x14, 0);
      else io.destroy();
      await t.until(() => t.subsystem.namespaces[1]!.writeLimit!.waitingCount === 0);
      await t.until(() => [...t.subsystem.lingering()].length === 0);
      ({ admin, io } = await t.association());
    }
    t.clock.advance(10_000);
    const [one] = await waiting(1);
    await manager.limit(1, 0);
    expect((await one!).code).to.equal(0);
  });
});

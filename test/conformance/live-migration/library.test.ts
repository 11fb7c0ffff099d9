/** The library's methods for a move across fabrics, on two targets of ours: what they say arrives, what they are told comes back as types. */
import { expect } from 'chai';
import { HostController, NvmeStatusError } from '../../../src/initiator.ts';
import { LiveMigration } from '../../../src/migration.ts';
import { decodeDiscoveryLog } from '../../../src/wire/cold/discovery-log.ts';
import { MANAGER_NQN, startManaged } from '../../support/manager.ts';
import { MemoryStateStore } from '../../support/memory-state-store.ts';
import { hostidOf, ReservationHost } from '../../support/reservation-host.ts';
import { DISCOVERY_NQN, SUBSYSTEM_NQN, type TestTarget } from '../../support/test-target.ts';

const EPOCH = (7n << 40n) + 9n;

describe('conformance: live migration, a move by the library', () => {
  let a: TestTarget;
  let b: TestTarget;
  const hosts: HostController[] = [];
  beforeEach(async () => {
    a = await startManaged({ state: new MemoryStateStore() });
    b = await startManaged({ state: new MemoryStateStore() });
  });
  afterEach(async () => {
    for (const host of hosts.splice(0)) await host.close();
    await a.close();
    await b.close();
  });

  async function managerOf(t: TestTarget, hostnqn = MANAGER_NQN): Promise<LiveMigration> {
    const address = { address: '127.0.0.1', port: t.port.service };
    const host = await HostController.connect({ ...address, subnqn: SUBSYSTEM_NQN, hostnqn, ioQueues: 1 });
    hosts.push(host);
    return new LiveMigration(host);
  }
  async function statusOf(work: Promise<unknown>): Promise<number> {
    try {
      await work;
    } catch (error) {
      if (error instanceof NvmeStatusError) return error.status & 0x7ff;
      throw error;
    }
    return 0;
  }

  it('fence and setFence', async () => {
    const manager = await managerOf(a);
    expect(await manager.fence(1)).to.deep.equal({ isOpen: true, epoch: 0n, isDurable: true });
    await manager.setFence(1, false, EPOCH);
    expect(await manager.fence(1)).to.deep.equal({ isOpen: false, epoch: EPOCH, isDurable: true });
    expect(await statusOf(manager.setFence(1, true, EPOCH - 1n))).to.equal(0x00c);
    await manager.setFence(1, true, EPOCH);
    expect((await manager.fence(1)).isOpen).to.equal(true);
    const stranger = await managerOf(a, 'nqn.2024-01.org.example:stranger');
    await stranger.fence(1).then(
      () => expect.fail('a stranger'),
      (error: { code: string }) => expect(error.code).to.match(/^NVMEOF_ERR_(UNSUPPORTED|STATUS)/),
    );
  });

  it('setReservations takes what reservationReport gives', async () => {
    const holder = await ReservationHost.connect(a, hostidOf(1));
    await holder.register(0xabn, { cdw10: (3 << 30) >>> 0 });
    await holder.acquire(0xabn, 2);
    const source = await managerOf(a);
    const destination = await managerOf(b);
    await source.setFence(1, false, EPOCH);
    const report = await (await source.controller.namespace(1)).reservationReport({ extended: true });
    await destination.setFence(1, false, EPOCH);
    expect(await statusOf(destination.setReservations(1, report.bytes, EPOCH - 1n))).to.equal(0x00c);
    await destination.setReservations(1, report.bytes, EPOCH);
    const there = await (await destination.controller.namespace(1)).reservationReport({ extended: true });
    expect(there).to.include({ gen: 1, rtype: 2, ptpls: 1, regctl: 1 });
    expect(there.registrants[0]).to.include({ rcsts: 1, rkey: 0xabn });
    await destination.setReservations(1, undefined, EPOCH);
    expect(await (await destination.controller.namespace(1)).reservationReport({ extended: true })).to.include({
      regctl: 0,
    });
  });

  it('announcePeer, limitWrites, resetController', async () => {
    const manager = await managerOf(a);
    const peer = { traddr: '2001:db8::1', trsvcid: '4421', subnqn: SUBSYSTEM_NQN };
    await manager.announcePeer(peer, true);
    const listed = async (): Promise<string[]> => {
      const host = await a.initialized();
      await host.connectQueue({ subnqn: DISCOVERY_NQN });
      await host.enable();
      const { entries } = decodeDiscoveryLog((await host.logPage(0x70, 8192)).data);
      return entries
        .filter((one) => one.adrfam === 2)
        .map((one) => `${one.traddr} ${one.trsvcid} ${one.cntlid} ${one.subtype}`);
    };
    expect(await listed()).to.deep.equal(['2001:db8::1 4421 65535 2']);
    await manager.announcePeer(peer, false);
    expect(await listed()).to.deep.equal([]);
    expect(await statusOf(manager.announcePeer({ ...peer, subnqn: 'nqn.2024-01.org.example:x' }, true))).to.equal(2);

    const limit = (): number | undefined => a.subsystem.namespaces[1]!.writeLimit?.bytesPerSecond;
    await manager.limitWrites(1, 1025);
    expect(limit()).to.equal(2048);
    await manager.limitWrites(1, 0.5);
    expect(limit()).to.equal(1024);
    await manager.limitWrites(1, undefined);
    expect(limit()).to.equal(undefined);

    const { admin } = await a.association();
    expect(await statusOf(manager.resetController(admin.cntlid)), 'not suspended').to.equal(0x13a);
    await manager.suspend(admin.cntlid);
    await manager.resetController(admin.cntlid);
    expect((await admin.propertyGet(0x1c)).result0 & 1, 'CSTS.RDY').to.equal(0);
  });
});

/** Discovery client: reading the log in pieces, generation counter, referrals, changes. */
import { expect } from 'chai';
import {
  DiscoveryController,
  type DiscoveryVisit,
  discover,
  discoverReferrals,
  entryAddress,
} from '../../../src/initiator/discovery.ts';
import type { DiscoveryLogEntry } from '../../../src/wire/cold/discovery-log.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { type HostPdu, pdu, ScriptedController, ScriptedTarget } from '../../support/scripted-target.ts';
import { advance, rejection, settle, until } from './support.ts';

interface Entry {
  subtype?: number;
  port: number | string;
  subnqn?: string;
}

/** A log page as bytes, made by hand. */
function logPage(genctr: number, entries: readonly Entry[]): Buffer {
  const page = Buffer.alloc(1024 * (entries.length + 1));
  page.writeBigUInt64LE(BigInt(genctr), 0);
  page.writeBigUInt64LE(BigInt(entries.length), 8);
  for (const [i, entry] of entries.entries()) {
    const at = 1024 * (i + 1);
    page[at] = 3;
    page[at + 1] = 1;
    page[at + 2] = entry.subtype ?? 2;
    page.writeUInt16LE(i, at + 4);
    page.writeUInt16LE(0xffff, at + 6);
    page.write(String(entry.port).padEnd(32), at + 32);
    page.write(entry.subnqn ?? `nqn.2024-01.test:sub${i}`, at + 256);
    page.write('127.0.0.1'.padEnd(256), at + 512);
  }
  return page;
}

describe('discovery', () => {
  const targets: ScriptedTarget[] = [];
  let clock: ManualClock;
  let commands: { lpo: number; bytes: number; rae: boolean; nsid: number }[];

  beforeEach(() => {
    clock = new ManualClock();
    commands = [];
  });
  afterEach(async () => {
    for (const target of targets.splice(0)) await target.close();
    expect(clock.timerCount).to.equal(0);
  });

  /** A Discovery controller that serves what `page` returns at each command. */
  async function serve(
    page: (command: number) => Buffer,
    shape: object = {},
  ): Promise<{ target: ScriptedTarget; peer: ScriptedController }> {
    const target = await ScriptedTarget.listen();
    targets.push(target);
    const peer = new ScriptedController(target, { cntrltype: 2, ...shape });
    let count = 0;
    peer.override = (command: HostPdu, connection) => {
      if (command.opcode !== 2) return false;
      const lpo = command.cdw(12);
      commands.push({ lpo, bytes: command.sglLength, rae: (command.cdw(10) & 0x8000) !== 0, nsid: command.nsid });
      const answer = Buffer.alloc(command.sglLength);
      page(count++).copy(answer, 0, lpo, lpo + command.sglLength);
      connection.send(pdu.c2hData(command.cid, answer), pdu.capsuleResp(command.cid));
      return true;
    };
    return { target, peer };
  }
  const at = (target: ScriptedTarget): { address: string; port: number; clock: ManualClock } => ({
    address: '127.0.0.1',
    port: target.port,
    clock,
  });

  it('reads the log as nvme-cli does: header, entries in 4 KiB pieces, header again', async () => {
    const entries = Array.from({ length: 6 }, (_, i) => ({ port: 5000 + i }));
    const { target, peer } = await serve(() => logPage(7, entries));
    const log = await discover(at(target));
    expect(log.genctr).to.equal(7n);
    expect(log.entries.map(({ trsvcid, subnqn, traddr }) => `${subnqn} ${traddr} ${trsvcid}`)).to.deep.equal(
      entries.map(({ port }, i) => `nqn.2024-01.test:sub${i} 127.0.0.1 ${port}`),
    );
    expect(commands).to.deep.equal([
      { lpo: 0, bytes: 20, rae: false, nsid: 0 },
      { lpo: 1024, bytes: 4096, rae: true, nsid: 0 },
      { lpo: 5120, bytes: 2048, rae: false, nsid: 0 },
      { lpo: 0, bytes: 20, rae: false, nsid: 0 },
    ]);
    // no I/O queue, no event: KATO 0 is not a persistent connection
    expect(peer.seen.filter((name) => name.startsWith('Connect'))).to.deep.equal(['Connect 0']);
    expect(peer.seen).not.to.include('Admin 0c');
    expect(peer.shn).to.equal(1);
    await until(() => target.connections.every(({ ended }) => ended), 'all closed');
  });

  it('an empty log is read with one command', async () => {
    const { target } = await serve(() => logPage(1, []));
    expect((await discover(at(target))).entries).to.deep.equal([]);
    expect(commands.length).to.equal(1);
  });

  it('starts again when the generation counter moved meanwhile', async () => {
    const { target } = await serve((n) => (n < 2 ? logPage(1, [{ port: 1 }]) : logPage(2, [{ port: 2 }, { port: 3 }])));
    const log = await discover(at(target));
    expect([log.genctr, log.entries.map(({ trsvcid }) => trsvcid)]).to.deep.equal([2n, ['2', '3']]);
    expect(commands.length).to.equal(6);
  });

  it('gives up on a log that never holds still', async () => {
    const { target } = await serve((n) => logPage(n, [{ port: 1 }]));
    expect((await rejection(discover(at(target)))).code).to.equal('NVMEOF_ERR_UNSTABLE');
    expect(commands.length).to.equal(30);
    await until(() => target.connections.every(({ ended }) => ended), 'all closed');
  });

  it('starts again on Discover Restart, passes other errors on', async () => {
    const { target, peer } = await serve(() => logPage(1, [{ port: 1 }]));
    const serveLog = peer.override!;
    let refusals = 0;
    peer.override = (command, connection, qid) => {
      if (command.opcode !== 2 || command.cdw(12) === 0 || refusals === 2) return serveLog(command, connection, qid);
      connection.send(pdu.capsuleResp(command.cid, { status: ++refusals === 1 ? 0x190 : 0x4002 }));
      return true;
    };
    expect((await rejection(discover(at(target)))).status).to.equal(0x4002);
    expect((await discover(at(target))).entries.length).to.equal(1);
  });

  it('refuses a log that claims too much', async () => {
    const page = logPage(1, []);
    page.writeBigUInt64LE(1n << 40n, 8);
    const { target } = await serve(() => page);
    expect((await rejection(discover(at(target)))).message).to.contain('claims 1099511627776 entries');
  });

  it('follows referrals, each once, and goes on when one fails', async () => {
    const ports: number[] = [];
    const dead = await ScriptedTarget.listen();
    await dead.close();
    const second = await serve(() => logPage(2, [{ subtype: 1, port: ports[0]! }, { port: 4420 }]));
    const first = await serve(() =>
      logPage(1, [
        { subtype: 1, port: second.target.port },
        { subtype: 1, port: dead.port },
        { subtype: 3, port: ports[0]! },
      ]),
    );
    ports.push(first.target.port);
    const visits: DiscoveryVisit[] = [];
    for await (const visit of discoverReferrals(at(first.target))) visits.push(visit);
    expect(visits.map(({ port, depth, log }) => [port, depth, log?.genctr])).to.deep.equal([
      [first.target.port, 0, 1n],
      [second.target.port, 1, 2n],
      [dead.port, 1, undefined],
    ]);
    expect(visits[2]?.error?.message).to.contain('refused the connection');
  });

  it('throws when the first Discovery controller cannot be reached', async () => {
    const dead = await ScriptedTarget.listen();
    await dead.close();
    expect((await rejection(discoverReferrals(at(dead)).next())).code).to.equal('ECONNREFUSED');
  });

  it('a persistent connection reads the log again at each change, and after a reconnection', async () => {
    let page = logPage(1, [{ port: 1 }]);
    const { target, peer } = await serve(() => page, { oaes: 0x80000000 });
    const discovery = await DiscoveryController.connectPersistent({ ...at(target), reconnectDelayMs: 1000 });
    const seen: bigint[] = [];
    discovery.on('change', ({ genctr }) => seen.push(genctr));
    try {
      await until(() => peer.aers.length > 0, 'AER');
      page = logPage(2, [{ port: 2 }]);
      peer.event(0x0070f002);
      await until(() => seen.length === 1, 'the change');
      peer.event(0x00040002);
      await settle(10);
      page = logPage(3, [{ port: 2 }]);
      target.connections[0]!.destroy();
      await until(() => discovery.controller.state === 'connecting', 'the loss');
      await advance(clock, 1100, 100);
      await until(() => seen.length === 2, 'the change after the reconnection');
      expect(seen).to.deep.equal([2n, 3n]);
    } finally {
      await discovery.close();
    }
  });

  it('takes ports that are decimal numbers only', () => {
    const entry = (trsvcid: string, traddr = '10.0.0.1'): DiscoveryLogEntry =>
      ({ trsvcid, traddr }) as DiscoveryLogEntry;
    expect(entryAddress(entry('4420'))).to.deep.equal({ address: '10.0.0.1', port: 4420 });
    for (const bad of ['', '0', '65536', '0x1144', 'none', '44 20'])
      expect(entryAddress(entry(bad))).to.equal(undefined);
    expect(entryAddress(entry('4420', ''))).to.equal(undefined);
  });
});

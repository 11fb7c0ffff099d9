/** A host whose NQN is connected already, on the wire: what Connect answers, and what becomes of the controllers that were there. */
import { expect } from 'chai';
import type { DuplicateHostPolicy } from '../../src/target/duplicate-hosts.ts';
import { type Completion, RawHost } from '../support/raw-host.ts';
import { SUBSYSTEM_NQN, settle, TestTarget } from '../support/test-target.ts';

const CONNECT_INVALID_HOST = 0x184;
/** DW0 of the refusal: IATTR 1 (in the data), IPO 512 (HOSTNQN). */
const AT_HOSTNQN = 0x0001_0200;
const OTHER_ID = new Uint8Array(16).fill(0xee);
const OTHER_NQN = 'nqn.2026-01.test:another-host';

describe('conformance: hosts that connect twice', () => {
  let t: TestTarget;
  let first: RawHost;
  let firstIo: RawHost;
  afterEach(() => t.close());

  async function start(duplicateHosts?: DuplicateHostPolicy): Promise<void> {
    t = await TestTarget.start({ subsystem: { duplicateHosts } });
    ({ admin: first, io: firstIo } = await t.association());
  }
  /** Connect of one more admin queue. */
  async function connect(
    fields: { hostid?: Uint8Array; hostnqn?: string } = {},
  ): Promise<Completion & { host: RawHost }> {
    const host = await t.initialized();
    return Object.assign(await host.connectQueue({ subnqn: SUBSYSTEM_NQN, ...fields }), { host });
  }
  const works = async (io: RawHost): Promise<void> => {
    expect((await io.read(0, 1)).status).to.equal(0);
  };

  it('by default each gets a controller of its own', async () => {
    await start();
    for (const fields of [{}, { hostid: OTHER_ID }]) expect((await connect(fields)).status).to.equal(0);
    expect([...t.subsystem.controllers].length).to.equal(3);
    await works(firstIo);
  });

  it('refuse, same identifier: Connect Invalid Host, DNR, naming HOSTNQN; the first goes on; other hosts may come', async () => {
    await start({ sameHostid: 'refuse' });
    const { code, dnr, result0 } = await connect();
    expect([code, dnr, result0]).to.deep.equal([CONNECT_INVALID_HOST, true, AT_HOSTNQN]);
    expect([...t.subsystem.controllers].length).to.equal(1);
    await works(firstIo);
    expect((await connect({ hostid: OTHER_ID })).status, 'another identifier is another policy').to.equal(0);
    expect((await connect({ hostnqn: OTHER_NQN })).status).to.equal(0);
  });

  it('refuse, another identifier: likewise', async () => {
    await start({ otherHostid: 'refuse' });
    expect((await connect({ hostid: OTHER_ID })).code).to.equal(CONNECT_INVALID_HOST);
    expect((await connect()).status, 'the same identifier is another policy').to.equal(0);
    await works(firstIo);
  });

  it('once the first has gone, the host may connect again', async () => {
    await start({ sameHostid: 'refuse' });
    first.destroy();
    await t.until(() => [...t.subsystem.controllers].length === 0);
    expect((await connect()).status).to.equal(0);
  });

  it('replace: the first is closed, with all its queues, and the new one works', async () => {
    await start({ sameHostid: 'replace' });
    const { status, host, result0 } = await connect();
    expect(status).to.equal(0);
    await first.untilEnded();
    await firstIo.untilEnded();
    expect([...t.subsystem.controllers].map(({ cntlid }) => cntlid)).to.deep.equal([result0 & 0xffff]);
    await host.enable();
    await works(await t.io(Object.assign(host, { cntlid: result0 & 0xffff })));
  });

  it('through another port it is another path, and stays', async () => {
    await start({ sameHostid: 'replace' });
    await t.target.addPort({ portId: 2, address: '127.0.0.1', service: 0, subsystems: ['*'] });
    const host = await RawHost.connect(t.target.port(2)!.service);
    t.hosts.push(host);
    await host.icReq();
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
    await settle();
    expect([...t.subsystem.controllers].length).to.equal(2);
    await works(firstIo);
  });
});

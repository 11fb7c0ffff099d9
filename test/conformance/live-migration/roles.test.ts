/** Live migration: who has it, what is advertised. Cases of I01 to I17, C15, S22; checklist.test.ts has what is not here. */
import { expect } from 'chai';
import { MIGRATION_EXTENSION_UUID } from '../../../src/spec/migration.ts';
import { Manager, managerOf, startManaged } from '../../support/manager.ts';
import type { RawHost } from '../../support/raw-host.ts';
import { DISCOVERY_NQN, TestTarget } from '../../support/test-target.ts';

const OPCODES = [0x3d, 0x41, 0x42, 0x45];

const effectsOf = async (host: RawHost): Promise<boolean[]> => {
  const { data } = await host.logPage(5, 4096);
  return [...OPCODES, 0x3e].map((opcode) => (data.readUInt32LE(opcode * 4) & 1) === 1);
};

describe('conformance: live migration, roles', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  it('I01, I03 to I06: the manager says HMLMS and its limits; memory tracking, which it has not, has none', async () => {
    t = await startManaged();
    const { host } = await managerOf(t);
    const { data } = await host.identify(1);
    expect(data.readUInt16LE(256) & 0x800, 'HMLMS').to.equal(0x800);
    expect(data.readUInt32LE(272), 'HMPRE').to.equal(0);
    expect([...data.subarray(570, 576)], 'CMMRTD to MAXMRTG').to.deep.equal([0, 0, 0, 0, 0, 0]);
    expect(data[576], 'TRATTR').to.equal(2);
    const own = data.readUInt16LE(578);
    expect(own, 'MCUDMQ').to.be.at.least(1);
    expect(data.readUInt16LE(580), 'MNSUDMQ').to.be.at.least(own);
    expect(data.subarray(582, 768).every((byte) => byte === 0)).to.equal(true);
  });

  it('I09, I10: CNS 20h, whatever else the command says', async () => {
    t = await startManaged();
    const { host } = await managerOf(t);
    const { data } = await host.identify(0x20);
    expect([data[0], data[1], data.readUInt16LE(2)]).to.deep.equal([1, 1, 0]);
    expect(
      data.subarray(4, 20).some((byte) => byte !== 0),
      'the format UUID',
    ).to.equal(true);
    expect(data.subarray(20).every((byte) => byte === 0)).to.equal(true);
    const again = await host.command(
      { opcode: 6, nsid: 7, cdw10: 0x0005_0020, cdw11: 0x0500_0000 },
      { readBytes: 4096 },
    );
    expect(Buffer.compare(again.data, data)).to.equal(0);
    const uuids = (await host.identify(0x17)).data;
    expect(Buffer.compare(uuids.subarray(48, 64), MIGRATION_EXTENSION_UUID)).to.equal(0);
  });

  it('I11 to I13, C15, S22: the other controllers have nothing of it', async () => {
    t = await startManaged();
    const { host } = await managerOf(t);
    const other = await t.admin();
    expect(await effectsOf(host)).to.deep.equal([true, true, true, true, false]);
    expect(await effectsOf(other)).to.deep.equal([false, false, false, false, false]);
    expect((await other.identify(1)).data.readUInt16LE(256) & 0x800).to.equal(0);
    expect((await other.identify(1)).data[576]).to.equal(0);
    expect((await other.identify(0x20)).code).to.equal(2);
    for (const opcode of OPCODES) expect((await other.command({ opcode })).code, `${opcode}`).to.equal(1);
    for (const lid of [0xc8, 0xc9]) expect((await other.logPage(lid, 64, { cdw14: 1 })).code).to.equal(0x109);
    expect((await other.getFeature(0x21, { readBytes: 512 })).code).to.equal(2);
    expect((await new Manager(host).track(0, 1, 1)).code, 'Track Memory').to.equal(2);
    expect((await host.command({ opcode: 0x3e })).code, 'Track Receive').to.equal(1);
  });

  it('without managers nothing of it is served; a port can make managers', async () => {
    t = await TestTarget.start();
    expect(await effectsOf(await t.admin())).to.deep.equal([false, false, false, false, false]);
    await t.close();
    t = await TestTarget.start({ subsystem: { migration: { managers: { ports: [1] } } } });
    expect(await effectsOf(await t.admin())).to.deep.equal([true, true, true, true, false]);
  });

  it('I17: discovery controllers have nothing of it', async () => {
    t = await startManaged();
    const host = await t.initialized();
    expect((await host.connectQueue({ subnqn: DISCOVERY_NQN })).status).to.equal(0);
    await host.enable();
    for (const opcode of [...OPCODES, 0x3e]) expect((await host.command({ opcode })).code).to.equal(1);
  });
});

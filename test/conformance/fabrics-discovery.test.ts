/** Discovery service: sheet of commands 8.2 (LID 70h) and 15; checklist 30 to 32 and 36. */
import { expect } from 'chai';
import { decodeDiscoveryLog } from '../../src/wire/cold/discovery-log.ts';
import { type Completion, type ConnectFields, RawHost } from '../support/raw-host.ts';
import { DISCOVERY_NQN, SUBSYSTEM_NQN, settle, TestTarget, UNIQUE_DISCOVERY_NQN } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const DISCOVERY_CHANGE = 0x0070_f002;
const OTHER = 'nqn.2024-01.org.example:other';
const FRIEND = 'nqn.2024-01.org.example:friend';

describe('conformance: discovery', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  async function discover(fields: ConnectFields = {}): Promise<RawHost> {
    const host = await t.initialized();
    expect((await host.connectQueue({ subnqn: DISCOVERY_NQN, ...fields })).status).to.equal(0);
    await host.enable();
    return host;
  }
  async function page(host: RawHost): Promise<ReturnType<typeof decodeDiscoveryLog>> {
    const header = (await host.logPage(0x70, 1024)).data;
    const bytes = 1024 + Number(header.readBigUInt64LE(8)) * 1024;
    return decodeDiscoveryLog((await host.logPage(0x70, bytes)).data);
  }
  const nqns = async (host: RawHost): Promise<string[]> =>
    (await page(host)).entries.filter((entry) => entry.subtype === 2).map((entry) => entry.subnqn);
  const generation = async (host: RawHost): Promise<bigint> => (await host.logPage(0x70, 20)).data.readBigUInt64LE(0);

  it('lists itself and the subsystems with where to connect', async () => {
    const host = await discover();
    const { entries, recfmt, genctr } = await page(host);
    expect(recfmt).to.equal(0);
    expect(genctr > 0n).to.equal(true);
    expect(entries.map((entry) => [entry.subtype, entry.subnqn])).to.deep.equal([
      [3, UNIQUE_DISCOVERY_NQN],
      [2, SUBSYSTEM_NQN],
    ]);
    for (const entry of entries) {
      expect([entry.trtype, entry.adrfam, entry.portid]).to.deep.equal([3, 1, 1]);
      expect([entry.traddr, entry.trsvcid]).to.deep.equal(['127.0.0.1', String(t.port.service)]);
      expect(entry.cntlid, 'CNTLID: dynamic').to.equal(0xffff);
      expect(entry.asqsz, 'ASQSZ').to.be.at.least(32);
      expect(entry.sectype).to.equal(0);
      expect(entry.treq & 4, 'TREQ: flow control may be disabled').to.equal(4);
    }
    expect(entries[0]!.eflags & 2, 'EPCSD on SUBTYPE 3').to.equal(2);
    expect(entries[1]!.eflags & 2, 'EPCSD never on SUBTYPE 2').to.equal(0);
  });

  it('the address and service fields are padded as hosts read them', async () => {
    const host = await discover();
    const entry = (await host.logPage(0x70, 2048)).data.subarray(1024);
    expect(entry.toString('latin1', 32, 64)).to.match(new RegExp(`^${t.port.service}[ \\0]*$`));
    expect(entry.toString('latin1', 512, 768)).to.match(/^127\.0\.0\.1[ \0]*$/);
  });

  it('30: 20 bytes, then the entries in pieces, then the header: one GENCTR, the same bytes', async () => {
    for (let i = 0; i < 10; i++) t.target.addSubsystem({ nqn: `${OTHER}${i}`, allowAnyHost: true });
    const host = await discover();
    const header = (await host.logPage(0x70, 20)).data;
    const count = Number(header.readBigUInt64LE(8));
    expect(count).to.equal(12);
    const whole = (await host.logPage(0x70, 1024 + count * 1024)).data;
    const pieces: Buffer[] = [];
    for (let offset = 0; offset < whole.length; offset += 1500) {
      const bytes = Math.min(1500, whole.length - offset);
      pieces.push((await host.logPage(0x70, bytes, { offset })).data);
    }
    expect(Buffer.concat(pieces).equals(whole)).to.equal(true);
    expect((await host.logPage(0x70, 20)).data.equals(header)).to.equal(true);
  });

  it('reading past the last entry gives zeroes, an LPO past the end Invalid Field', async () => {
    const host = await discover();
    const { data } = await host.logPage(0x70, 4096);
    expect(data.subarray(3 * 1024).every((byte) => byte === 0)).to.equal(true);
    expect((await host.logPage(0x70, 1024, { offset: 4096 })).code).to.equal(INVALID_FIELD);
    expect((await host.logPage(0x70, 1024, { offset: 1026 })).code).to.equal(INVALID_FIELD);
  });

  it('31: LID 70h on an I/O controller is refused; other pages on the discovery controller too', async () => {
    const admin = await t.admin();
    expect((await admin.logPage(0x70, 1024)).code).to.equal(0x109);
    const host = await discover();
    for (const lid of [2, 3, 4, 0x0c, 0x71]) expect((await host.logPage(lid, 512)).code).to.equal(0x109);
    const supported = (await host.logPage(0, 1024)).data;
    for (let lid = 0; lid < 256; lid++) {
      const served = (await host.logPage(lid, 64)).status === 0;
      expect((supported.readUInt32LE(lid * 4) & 1) === 1, `LID ${lid}`).to.equal(served);
    }
  });

  it('32: GENCTR rises with each change of subsystems, ports, allow-lists, exposure and referrals', async () => {
    const host = await discover();
    let before = await generation(host);
    const expectRise = async (what: string): Promise<void> => {
      const now = await generation(host);
      expect(now > before, what).to.equal(true);
      before = now;
    };
    expect(await generation(host), 'nothing changed').to.equal(before);
    const other = t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
    await expectRise('subsystem added');
    t.target.setHosts(other, false, [FRIEND]);
    await expectRise('allow-list');
    const second = await t.target.addPort({ portId: 2, address: '127.0.0.1', service: 0, subsystems: [] });
    await expectRise('port added');
    t.target.setPortSubsystems(second, ['*']);
    await expectRise('exposure');
    t.target.setReferrals([{ portId: 9, address: '192.0.2.1', service: 8009 }]);
    await expectRise('referral');
    await t.target.removePort(2);
    await expectRise('port removed');
    await t.target.removeSubsystem(OTHER);
    await expectRise('subsystem removed');
    expect(await generation(host)).to.equal(before);
  });

  it('a host sees only what it may connect to', async () => {
    t.target.addSubsystem({ nqn: OTHER, allowAnyHost: false, hosts: [FRIEND] });
    expect(await nqns(await discover())).to.deep.equal([SUBSYSTEM_NQN]);
    expect(await nqns(await discover({ hostnqn: FRIEND }))).to.deep.equal([SUBSYSTEM_NQN, OTHER]);
    t.target.setHosts(t.subsystem, false, []);
    expect(await nqns(await discover())).to.deep.equal([]);
  });

  it('a subsystem on two ports has two entries, each with its own address; SUBTYPE 3 is the port asked', async () => {
    const second = await t.target.addPort({ portId: 2, address: '127.0.0.2', service: 0, subsystems: [SUBSYSTEM_NQN] });
    const { entries } = await page(await discover());
    expect(entries.map((entry) => [entry.subtype, entry.portid, entry.traddr, entry.trsvcid])).to.deep.equal([
      [3, 1, '127.0.0.1', String(t.port.service)],
      [2, 1, '127.0.0.1', String(t.port.service)],
      [2, 2, '127.0.0.2', String(second.service)],
    ]);
  });

  it('an IPv6 port has ADRFAM 2', async function () {
    try {
      await t.target.addPort({ portId: 2, address: '::1', service: 0, subsystems: ['*'] });
    } catch {
      this.skip(); // no IPv6 here
    }
    const { entries } = await page(await discover());
    expect(entries.at(-1)).to.include({ adrfam: 2, traddr: '::1' });
  });

  it('referrals are SUBTYPE 1, by default to the well-known NQN', async () => {
    t.target.setReferrals([
      { portId: 7, address: '192.0.2.1', service: 8009 },
      { portId: 8, address: '2001:db8::1', service: 8010, nqn: 'nqn.2024-01.org.example:discovery' },
    ]);
    const { entries } = await page(await discover());
    const referrals = entries.filter((entry) => entry.subtype === 1);
    expect(
      referrals.map((entry) => [entry.portid, entry.adrfam, entry.traddr, entry.trsvcid, entry.subnqn]),
    ).to.deep.equal([
      [7, 1, '192.0.2.1', '8009', DISCOVERY_NQN],
      [8, 2, '2001:db8::1', '8010', 'nqn.2024-01.org.example:discovery'],
    ]);
  });

  it('a static subsystem is listed with CNTLID FFFEh', async () => {
    t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true, controllerModel: 'static' });
    const entry = (await page(await discover())).entries.find((one) => one.subnqn === OTHER);
    expect(entry?.cntlid).to.equal(0xfffe);
  });

  it('Identify: a discovery controller without namespaces and I/O queues', async () => {
    const host = await discover();
    const { data } = await host.identify(1);
    expect(data[111], 'CNTRLTYPE').to.equal(2);
    expect(data.toString('latin1', 768, 1024).split('\0')[0], 'SUBNQN').to.equal(UNIQUE_DISCOVERY_NQN);
    expect(data.readUInt16LE(78), 'CNTLID').to.equal(host.cntlid);
    expect(data.readUInt32LE(92), 'OAES bit 31').to.equal(0x8000_0000);
    expect(data.readUInt16LE(514), 'MAXCMD').to.be.greaterThan(0);
    expect(data.readUInt32LE(536) & 3, 'SGLS').to.not.equal(0);
    expect(data.readUInt16LE(320), 'KAS').to.be.greaterThan(0);
    expect(data[1806], 'DCTYPE').to.equal(1);
    expect(data.readUInt16LE(1804), 'OFCS: no Disconnect').to.equal(0);
    for (const cns of [0x00, 0x02, 0x03, 0x08]) {
      expect((await host.identify(cns, { nsid: 1 })).code, `CNS ${cns}`).to.equal(INVALID_FIELD);
    }
  });

  it('features: only 0Bh and 0Fh', async () => {
    const host = await discover();
    for (let fid = 0; fid < 256; fid++) {
      const completion = await host.getFeature(fid);
      expect(completion.status === 0, `FID ${fid}`).to.equal(fid === 0x0b || fid === 0x0f);
    }
    expect((await host.setFeature(0x0b, 0x100)).code).to.equal(INVALID_FIELD);
  });

  it('opcodes: those of an I/O queue do not exist; the mandatory ones do', async () => {
    const host = await discover();
    for (const opcode of [0x01, 0x05, 0x0d, 0x10, 0x21, 0x80]) {
      expect((await host.command({ opcode })).code, `opcode ${opcode}`).to.equal(INVALID_OPCODE);
    }
    expect((await host.command({ opcode: 0x18 })).status).to.equal(0);
  });

  it('EN works with and without the entry sizes of I/O queues', async () => {
    const host = await t.initialized();
    await host.connectQueue({ subnqn: DISCOVERY_NQN });
    await host.propertySet(0x14, 1);
    expect((await host.csts()) & 3).to.equal(1);
  });

  describe('change events', () => {
    const aer = (host: RawHost): Promise<Completion> => host.command({ opcode: 0x0c });

    it('36: a persistent connection (KATO != 0) gets DW0 0070F002h without asking', async () => {
      const host = await discover({ katoMs: 30_000 });
      expect((await host.getFeature(0x0b)).result0).to.equal(0x8000_0000);
      const first = aer(host);
      const second = aer(host);
      await settle();
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      expect((await first).result0).to.equal(DISCOVERY_CHANGE);
      await t.target.removeSubsystem(OTHER);
      let early = false;
      second.then(
        () => {
          early = true;
        },
        () => {},
      );
      await settle();
      expect(early, 'masked until the log is read').to.equal(false);
      await page(host);
      t.target.setReferrals([{ portId: 9, address: '192.0.2.1', service: 8009 }]);
      expect((await second).result0).to.equal(DISCOVERY_CHANGE);
    });

    it('the event comes again after a reset of the controller', async () => {
      const host = await discover({ katoMs: 30_000 });
      await host.propertySet(0x14, 0);
      await host.enable();
      const one = aer(host);
      await settle();
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      expect((await one).result0).to.equal(DISCOVERY_CHANGE);
    });

    it('a connection with KATO 0 gets none unless it sets the bit', async () => {
      const host = await discover();
      const one = aer(host);
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      let early = false;
      one.then(
        () => {
          early = true;
        },
        () => {},
      );
      await settle();
      expect(early).to.equal(false);
      expect((await host.setFeature(0x0b, 0x8000_0000)).status).to.equal(0);
      await t.target.removeSubsystem(OTHER);
      expect((await one).result0).to.equal(DISCOVERY_CHANGE);
    });
  });

  it('the unique NQN and the well-known one reach the same discovery subsystem, each with a controller of its own', async () => {
    const one = await discover();
    const other = await discover({ subnqn: UNIQUE_DISCOVERY_NQN });
    expect(other.cntlid).to.not.equal(one.cntlid);
    expect((await other.logPage(0x70, 3072)).data.equals((await one.logPage(0x70, 3072)).data)).to.equal(true);
    expect((await other.identify(1)).data.toString('latin1', 768, 1024).split('\0')[0]).to.equal(UNIQUE_DISCOVERY_NQN);
    expect(() => t.target.addSubsystem({ nqn: UNIQUE_DISCOVERY_NQN })).to.throw(/exists already/);
  });

  it('30: several hundred entries as nvme-cli reads them (20 bytes, 4 KiB from LPO 1024, 20 bytes) and as SPDK does (4 KiB from 0)', async () => {
    const count = 500;
    for (let i = 2; i < count; i++) t.target.addSubsystem({ nqn: `${OTHER}${i}`, allowAnyHost: true });
    const host = await discover();
    const header = (await host.logPage(0x70, 20)).data;
    expect(Number(header.readBigUInt64LE(8))).to.equal(count);
    const entries: Buffer[] = [];
    for (let offset = 1024; offset < 1024 + count * 1024; offset += 4096) {
      const bytes = Math.min(4096, 1024 + count * 1024 - offset);
      const rae = offset + bytes < 1024 + count * 1024;
      entries.push((await host.logPage(0x70, bytes, { offset, rae })).data);
    }
    expect((await host.logPage(0x70, 20)).data.equals(header)).to.equal(true);
    const bySpdk: Buffer[] = [];
    for (let offset = 0; offset < 1024 + count * 1024; offset += 4096) {
      bySpdk.push((await host.logPage(0x70, 4096, { offset })).data);
    }
    const pieces = Buffer.concat(entries);
    expect(
      Buffer.concat(bySpdk)
        .subarray(1024, 1024 + pieces.length)
        .equals(pieces),
    ).to.equal(true);
    const names = Array.from({ length: count }, (_, i) => pieces.toString('latin1', i * 1024 + 256).split('\0', 1)[0]);
    expect(new Set(names).size).to.equal(count);
    expect(names[count - 1]).to.equal(`${OTHER}${count - 1}`);
  });

  it('30: a change between two pieces shows in GENCTR', async () => {
    const host = await discover();
    const before = await generation(host);
    await host.logPage(0x70, 1024, { offset: 1024 });
    t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
    expect(await generation(host)).to.equal(before + 1n);
  });

  describe('options of the log (LSP)', () => {
    const EXTENDED = 1;
    const PORT_LOCAL = 2;
    const ALL = 4;
    const places = async (host: RawHost, lsp: number): Promise<[number, number, string][]> => {
      const { data } = await host.logPage(0x70, 16 * 1024, { lsp });
      expect(data[18], 'DLPF').to.equal(lsp);
      return decodeDiscoveryLog(data).entries.map((entry) => [entry.subtype, entry.portid, entry.subnqn]);
    };

    it('the Supported Log Pages name exactly those that are served; any other LSP bit is Invalid Field', async () => {
      const host = await discover();
      const supported = (await host.logPage(0, 1024)).data.readUInt32LE(0x70 * 4);
      expect(supported).to.equal(0x0003_0001);
      for (let bit = 0; bit < 7; bit++) {
        const { status, code } = await host.logPage(0x70, 1024, { lsp: 1 << bit });
        expect(status === 0, `LSP bit ${bit}`).to.equal((supported >>> (16 + bit)) % 2 === 1);
        if (status === 0) continue;
        expect(code).to.equal(INVALID_FIELD);
        const entry = (await host.logPage(1, 64)).data;
        expect([entry[14], entry[15]], 'error location').to.deep.equal([41, bit]);
      }
    });

    it('PLEO: only what is reached at the address that was asked, and referrals', async () => {
      await t.target.addPort({ portId: 2, address: '127.0.0.2', service: 0, subsystems: ['*'] });
      await t.target.addPort({ portId: 3, address: '127.0.0.1', service: 0, subsystems: ['*'] });
      t.target.setReferrals([{ portId: 9, address: '192.0.2.1', service: 8009 }]);
      const host = await discover();
      const ports = async (lsp: number): Promise<number[]> => (await places(host, lsp)).map(([, portid]) => portid);
      expect(await ports(0)).to.deep.equal([1, 1, 2, 3, 9]);
      expect(await ports(PORT_LOCAL)).to.deep.equal([1, 1, 3, 9]);
    });

    it('EXTDLPE: entries with their length; TDLPL is the length of the page', async () => {
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: true });
      const host = await discover();
      const basic = (await host.logPage(0x70, 4096)).data;
      const { data } = await host.logPage(0x70, 4096 + 24, { lsp: EXTENDED });
      expect(data.readUInt32LE(20), 'TDLPL').to.equal(1024 + 3 * 1032);
      for (let i = 0; i < 3; i++) {
        const entry = data.subarray(1024 + i * 1032, 1024 + (i + 1) * 1032);
        expect(entry.subarray(0, 1024).equals(basic.subarray(1024 + i * 1024, 2048 + i * 1024)), `entry ${i}`).to.equal(
          true,
        );
        expect(entry.readUInt32LE(1024), 'TEL').to.equal(1032);
        expect(entry.readUInt32LE(1028), 'NUMEXAT').to.equal(0);
      }
      expect((await host.logPage(0x70, 4, { lsp: EXTENDED, offset: 1024 + 3 * 1032 + 4 })).code).to.equal(
        INVALID_FIELD,
      );
    });

    it('ALLSUBE: only for hosts named for it, then also what is closed to them', async () => {
      t.target.addSubsystem({ nqn: OTHER, allowAnyHost: false, hosts: [] });
      t.target.setDiscoveryAllSubsystemsFor([FRIEND]);
      const stranger = await discover();
      expect((await stranger.logPage(0x70, 1024, { lsp: ALL })).code).to.equal(INVALID_FIELD);
      const friend = await discover({ hostnqn: FRIEND });
      expect((await friend.logPage(0, 1024)).data.readUInt32LE(0x70 * 4)).to.equal(0x0007_0001);
      expect(await nqns(friend)).to.deep.equal([SUBSYSTEM_NQN]);
      expect((await places(friend, ALL)).map(([, , nqn]) => nqn)).to.deep.equal([
        UNIQUE_DISCOVERY_NQN,
        SUBSYSTEM_NQN,
        OTHER,
      ]);
    });
  });

  describe('listeners', () => {
    it('a subsystem that keeps to some ports is neither listed nor reached at others; changes are announced', async () => {
      const second = await t.target.addPort({ portId: 2, address: '127.0.0.2', service: 0, subsystems: ['*'] });
      const host = await discover({ katoMs: 30_000 });
      const listed = async (): Promise<number[]> =>
        (await page(host)).entries.filter((entry) => entry.subtype === 2).map((entry) => entry.portid);
      expect(await listed()).to.deep.equal([1, 2]);
      const event = host.command({ opcode: 0x0c });
      await settle();
      t.target.setSubsystemPorts(t.subsystem, [second.portId]);
      expect((await event).result0).to.equal(DISCOVERY_CHANGE);
      expect(await listed()).to.deep.equal([2]);
      const refused = await (await t.initialized()).connectQueue({ subnqn: SUBSYSTEM_NQN });
      expect(refused.code).to.equal(0x182);
      t.target.setSubsystemPorts(t.subsystem, undefined);
      expect(await listed()).to.deep.equal([1, 2]);
      expect((await (await t.initialized()).connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
    });

    it('a port that is not advertised is not listed, but still connects', async () => {
      const second = await t.target.addPort({ portId: 2, address: '127.0.0.2', service: 0, subsystems: ['*'] });
      t.target.setPortAdvertisement(t.port, 'off');
      const { entries } = await page(await discover());
      expect(entries.map((entry) => [entry.subtype, entry.portid])).to.deep.equal([
        [3, 1],
        [2, second.portId],
      ]);
      expect((await (await t.initialized()).connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
    });

    it('a port behind NAT is listed by the address and service that are advertised', async () => {
      t.target.setPortAdvertisement(t.port, { address: '203.0.113.5', service: 14420 });
      const { entries } = await page(await discover());
      expect(entries.map((entry) => [entry.traddr, entry.trsvcid])).to.deep.equal([
        ['203.0.113.5', '14420'],
        ['203.0.113.5', '14420'],
      ]);
      t.target.setPortAdvertisement(t.port, { address: '2001:db8::5' });
      const moved = (await page(await discover())).entries;
      expect(moved.map((entry) => [entry.adrfam, entry.traddr, entry.trsvcid])).to.deep.equal([
        [2, '2001:db8::5', String(t.port.service)],
        [2, '2001:db8::5', String(t.port.service)],
      ]);
    });

    it('a port on a wildcard address is listed by the address that the host used', async () => {
      const any = await t.target.addPort({ portId: 2, address: '0.0.0.0', service: 0, subsystems: ['*'] });
      const host = await RawHost.connect(any.service, '127.0.0.3');
      t.hosts.push(host);
      await host.icReq();
      expect((await host.connectQueue({ subnqn: DISCOVERY_NQN })).status).to.equal(0);
      await host.enable();
      const { entries } = await page(host);
      expect(entries.map((entry) => [entry.subtype, entry.traddr, entry.trsvcid])).to.deep.equal([
        [3, '127.0.0.3', String(any.service)],
        [2, '127.0.0.1', String(t.port.service)],
        [2, '127.0.0.3', String(any.service)],
      ]);
    });
  });

  it('discovery on a port that exposes no subsystem works, and I/O there does not', async () => {
    await t.close();
    t = await TestTarget.start({ port: { subsystems: [] } });
    expect(await nqns(await discover())).to.deep.equal([]);
    const host = await t.initialized();
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN })).code).to.equal(0x182);
  });
});

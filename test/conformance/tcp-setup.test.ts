/** NVMe/TCP 1.0 connection set-up, target side: checklist 17.1. Case numbers are the checklist's. */
import { expect } from 'chai';
import { connectData, connectSqe, icReqPdu, sqeBytes } from '../support/raw-host.ts';
import { SUBSYSTEM_NQN, settle, TestTarget } from '../support/test-target.ts';

const Fes = { HeaderField: 1, Sequence: 2, Unsupported: 6 };

describe('conformance: NVMe/TCP 17.1 connection set-up (target)', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  it('1: a valid ICReq gets an ICResp of 128 bytes with PFV 0, CPDA <= 31 and a usable MAXH2CDATA', async () => {
    const host = await t.connect();
    const response = await host.icReq();
    expect(response.plen).to.equal(128);
    expect(response.header.readUInt16LE(8), 'PFV').to.equal(0);
    expect(response.header.readUInt8(10), 'CPDA').to.equal(0);
    expect(response.header.readUInt32LE(12), 'MAXH2CDATA').to.equal(1 << 20);
    expect(
      response.header.subarray(16).every((byte) => byte === 0),
      'reserved',
    ).to.equal(true);
  });

  for (const dgst of [0, 1, 2, 3]) {
    it(`${dgst === 0 ? 2 : 3}: DGST ${dgst} in ICReq is what ICResp enables`, async () => {
      const host = await t.connect();
      expect((await host.icReq({ dgst })).header.readUInt8(11)).to.equal(dgst);
    });
  }

  it('3: a digest that the port does not offer is declined, never enabled without request', async () => {
    await t.close();
    t = await TestTarget.start({ tcp: { headerDigest: false } });
    const host = await t.connect();
    expect((await host.icReq({ dgst: 3 })).header.readUInt8(11)).to.equal(2);
  });

  const refused: [string, Parameters<typeof icReqPdu>[0], number, number, number][] = [
    ['4: PFV 1', { pfv: 1 }, Fes.Unsupported, 8, 128],
    ['5: HLEN 64', { hlen: 64 }, Fes.HeaderField, 2, 64],
    ['5: HLEN 129', { hlen: 129 }, Fes.HeaderField, 2, 128],
    ['6: PLEN 132', { plen: 132 }, Fes.HeaderField, 4, 128],
    ['6: PLEN 127', { plen: 127 }, Fes.HeaderField, 4, 128],
    ['7: HPDA 32', { hpda: 32 }, Fes.HeaderField, 10, 128],
    ['7: HPDA 255', { hpda: 255 }, Fes.HeaderField, 10, 128],
    ['kickstart discovery (section 16)', { flags: 1 }, Fes.Unsupported, 1, 128],
  ];
  for (const [name, fields, fes, fei, headerBytes] of refused) {
    it(`${name} in ICReq is fatal: FES ${fes}, FEI ${fei}`, async () => {
      const host = await t.connect();
      const request = icReqPdu(fields);
      await host.send(request);
      await host.expectTermReq({ fes, fei, header: request.subarray(0, headerBytes) });
      await host.expectClosed();
    });
  }

  it('8: HPDA 31 is accepted and C2H data starts at byte 128', async () => {
    const admin = await t.admin({ icReq: { hpda: 31 } });
    const completion = await admin.identify(1);
    expect(completion.c2hData[0]!.pdo).to.equal(128);
    expect(completion.data.readUInt16LE(78), 'CNTLID').to.equal(admin.cntlid);
  });

  for (const hpda of [1, 5, 6, 7, 30]) {
    it(`8: HPDA ${hpda} pads with both digests on`, async () => {
      const admin = await t.admin({ icReq: { hpda, dgst: 3 } });
      const completion = await admin.identify(1);
      expect(completion.c2hData[0]!.pdo % ((hpda + 1) * 4)).to.equal(0);
      expect(completion.data.length).to.equal(4096);
    });
  }

  it('9: MAXR2T FFFFFFFFh is accepted', async () => {
    const { io } = await t.association({ icReq: { maxr2t: 0xffff_ffff } });
    expect((await io.write(0, Buffer.alloc(65536, 1), { by: 'r2t' })).status).to.equal(0);
  });

  it('10: reserved bytes and flags of ICReq are ignored', async () => {
    const host = await t.connect();
    await host.icReq({ reserved: 0xff, flags: 0xfe, dgst: 0xfc });
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
  });

  it('11: CapsuleCmd before ICReq is a sequence error', async () => {
    const host = await t.connect();
    const capsule = host.capsule(sqeBytes({ opcode: 6 }));
    await host.send(capsule);
    await host.expectTermReq({ fes: Fes.Sequence, fei: 0, header: capsule });
    await host.expectClosed();
  });

  it('12: H2CData before ICReq is a sequence error', async () => {
    const host = await t.connect();
    const data = host.h2cData({ cccid: 0, ttag: 0, offset: 0 }, Buffer.alloc(4));
    await host.send(data);
    await host.expectTermReq({ fes: Fes.Sequence, fei: 0, header: data.subarray(0, 24) });
    await host.expectClosed();
  });

  it('13: a second ICReq is a sequence error', async () => {
    const host = await t.initialized();
    const request = icReqPdu();
    await host.send(request);
    await host.expectTermReq({ fes: Fes.Sequence, fei: 0, header: request });
    await host.expectClosed();
  });

  it('13: a second ICReq on a live admin queue is a sequence error, and ends the association', async () => {
    const { admin, io } = await t.association();
    const request = icReqPdu();
    await admin.send(request);
    await admin.expectTermReq({ fes: Fes.Sequence, fei: 0, header: request });
    admin.destroy();
    await io.expectClosed();
  });

  it('14: one byte per segment, from ICReq to a write and a read with digests', async () => {
    const host = await t.connect();
    host.segmentBytes = () => 1;
    await host.icReq({ dgst: 3 });
    expect((await host.connectQueue({ subnqn: SUBSYSTEM_NQN })).status).to.equal(0);
    await host.enable();
    const io = await t.connect();
    io.segmentBytes = () => 1;
    await io.icReq({ dgst: 3 });
    const connected = await io.connectQueue({ subnqn: SUBSYSTEM_NQN, cntlid: host.cntlid, qid: 1 });
    expect(connected.status).to.equal(0);
    const data = Buffer.alloc(512, 0x5a);
    expect((await io.write(3, data)).status).to.equal(0);
    expect((await io.write(4, data, { by: 'r2t', pieceBytes: 256 })).status).to.equal(0);
    expect((await io.read(3, 2)).data.equals(Buffer.concat([data, data]))).to.equal(true);
  });

  it('15: ICReq and the Connect capsule in one segment are both processed', async () => {
    const host = await t.connect();
    const capsule = host.capsule(connectSqe({}, 5, 'capsule'), connectData({ subnqn: SUBSYSTEM_NQN }));
    const done = host.completion(5);
    await host.send(icReqPdu(), capsule);
    await host.acceptIcResp();
    expect((await done).status).to.equal(0);
  });

  it('16: who sends nothing is closed after the set-up time, not before', async () => {
    const host = await t.connect();
    await t.until(() => t.connectionCount === 1);
    t.clock.advance(29_999);
    await settle();
    expect(host.ended).to.equal(false);
    t.clock.advance(1);
    await host.expectClosed();
  });

  it('16: who sends no Connect is closed after the set-up time', async () => {
    const host = await t.initialized();
    t.clock.advance(30_000);
    await host.expectClosed();
    expect(t.closed).to.deep.equal(['no Connect within the set-up time']);
  });

  it('16: a Connect that failed does not stop the set-up time; one that succeeded does', async () => {
    const failed = await t.initialized();
    expect((await failed.connectQueue({ subnqn: 'nqn.2024-01.org.example:none' })).code).to.equal(0x182);
    const good = await t.admin();
    t.clock.advance(31_000);
    await failed.expectClosed();
    expect((await good.csts()) & 1).to.equal(1);
  });

  it('17: 4 bytes and FIN free the connection', async () => {
    const host = await t.connect();
    await t.until(() => t.connectionCount === 1);
    await host.send(icReqPdu().subarray(0, 4));
    host.socket.end();
    await host.expectClosed();
    await t.until(() => t.connectionCount === 0);
    expect(t.clock.timerCount, 'timers left').to.equal(0);
  });

  for (const cut of [1, 7, 8, 9, 127]) {
    it(`17: RST after ${cut} bytes frees the connection`, async () => {
      const host = await t.connect();
      await t.until(() => t.connectionCount === 1);
      await host.send(icReqPdu().subarray(0, cut));
      await settle(3);
      host.socket.resetAndDestroy();
      await t.until(() => t.connectionCount === 0);
      expect(t.clock.timerCount).to.equal(0);
    });
  }
});

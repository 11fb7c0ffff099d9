/** NVMe/TCP 1.0 data transfer, target side: checklist 17.5 and 17.6. Case numbers are the checklist's. */
import { expect } from 'chai';
import { type PduOptions, pattern, type RawHost, type ReceivedPdu, sqeBytes } from '../support/raw-host.ts';
import { settle, TestTarget } from '../support/test-target.ts';

const Fes = { HeaderField: 1, Sequence: 2, OutOfRange: 4, LimitExceeded: 5 };
const MIB = 1 << 20;

describe('conformance: NVMe/TCP 17.5 controller-to-host data (target)', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  for (const cattr of [0, 4]) {
    it(`68: a 1 MiB read is contiguous, LAST_PDU once, all of it: flow control ${cattr === 0 ? 'on' : 'off'}`, async () => {
      t = await TestTarget.start();
      const { io } = await t.association({ cattr });
      const data = pattern(MIB, 4);
      expect((await io.write(64, data, { by: 'r2t' })).status).to.equal(0);
      const read = await io.read(64, MIB / 512);
      expect(read.data.equals(data)).to.equal(true);
      expect(read.c2hData.filter((one) => one.isLast).length).to.equal(1);
      expect(read.sqhd === undefined, 'ended by SUCCESS').to.equal(cattr === 4);
    });
  }

  it('69: with flow control SUCCESS is never used, on neither queue', async () => {
    t = await TestTarget.start();
    const { admin, io } = await t.association({ cattr: 0 });
    for (let i = 0; i < 20; i++) expect((await io.read(i, 1)).c2hData[0]!.isSuccess).to.equal(false);
    expect((await admin.identify(1)).c2hData[0]!.isSuccess).to.equal(false);
  });

  it('70: without flow control, a command that returns DW0 gets a CapsuleResp', async () => {
    t = await TestTarget.start();
    const admin = await t.admin({ cattr: 4 });
    expect((await admin.identify(1)).sqhd, 'SUCCESS').to.equal(undefined);
    const completion = await admin.getFeature(0x07);
    expect(completion.result0).to.not.equal(0);
    expect(completion.sqhd).to.equal(0);
  });

  it('the answers of reads that come together: every CapsuleResp behind its data, SQHD in order', async () => {
    t = await TestTarget.start();
    const { io } = await t.association({ cattr: 0 });
    const data = pattern(40 * 4096, 7);
    expect((await io.write(0, data, { by: 'r2t' })).status).to.equal(0);
    const cids = Array.from({ length: 40 }, (_, i) => 0x100 + i);
    const done = cids.map((cid) => io.completion(cid, { manual: true }));
    const before = (await io.read(0, 1)).sqhd!;
    const read = (cid: number, i: number): Buffer =>
      io.capsule(sqeBytes({ opcode: 2, nsid: 1, cid, cdw10: i * 8, cdw12: 7, sgl: { id: 0x5a, length: 4096 } }));
    await io.send(...cids.map(read));
    const answers = await Promise.all(done);
    for (const [i, answer] of answers.entries()) {
      expect(answer.status).to.equal(0);
      expect(answer.data.equals(data.subarray(i * 4096, (i + 1) * 4096)), `read ${i}`).to.equal(true);
      expect(answer.sqhd).to.equal((before + 1 + i) % 128);
    }
  });

  it('71: a failing read sends no data', async () => {
    t = await TestTarget.start();
    const { io } = await t.association({ cattr: 4 });
    const read = await io.read(0x7fff_fff0, 4);
    expect(read.code).to.equal(0x80);
    expect(read.c2hData.length).to.equal(0);
  });
});

describe('conformance: large H2CData (target)', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  for (const dgst of [0, 1, 2, 3]) {
    it(`arrive whole wherever they are cut, and what follows is understood: DGST ${dgst}`, async () => {
      t = await TestTarget.start();
      const { io } = await t.association({ icReq: { dgst } });
      const BYTES = 256 << 10;
      const header = 24 + (dgst & 1) * 4;
      const whole = header + BYTES + (dgst & 2) * 2;
      // within the header, at its end, one byte on, within data, at its end, within the digest, at the end, within the next capsule
      for (const cut of [1, 23, header, header + 1, header + 100_000, header + BYTES, whole - 1, whole, whole + 9]) {
        const data = pattern(BYTES, cut);
        const cid = 0x200;
        const done = io.completion(cid, { manual: true });
        const sgl = { id: 0x5a, length: BYTES };
        await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid, cdw12: BYTES / 512 - 1, sgl })));
        const r2t = await io.next();
        expect(r2t.name).to.equal('R2T');
        const last = { cccid: cid, ttag: r2t.ttag, offset: 0, last: true };
        const flush = io.completion(0x201, { manual: true });
        const bytes = Buffer.concat([io.h2cData(last, data), io.capsule(sqeBytes({ opcode: 0, nsid: 1, cid: 0x201 }))]);
        await io.send(bytes.subarray(0, cut));
        await settle();
        await io.send(bytes.subarray(cut));
        expect((await done).status, `cut at ${cut}`).to.equal(0);
        expect((await flush).status).to.equal(0);
        const read = await io.read(0, BYTES / 512);
        expect(read.data.equals(data), `cut at ${cut}`).to.equal(true);
      }
      expect(t.target.pool.usedBytes, 'buffers').to.equal(0);
    });
  }

  it('a data digest that does not match fails the command, not the connection', async () => {
    t = await TestTarget.start();
    const { io } = await t.association({ icReq: { dgst: 2 } });
    const BYTES = 128 << 10;
    const done = io.completion(0x300, { manual: true });
    const sgl = { id: 0x5a, length: BYTES };
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: 0x300, cdw12: BYTES / 512 - 1, sgl })));
    const r2t = await io.next();
    const bytes = io.h2cData({ cccid: 0x300, ttag: r2t.ttag, offset: 0, last: true }, pattern(BYTES, 1));
    bytes[60_000]! ^= 1;
    await io.send(bytes);
    expect((await done).code).to.equal(0x22);
    expect((await io.read(0, 8)).status).to.equal(0);
  });
});

describe('conformance: NVMe/TCP 17.6 host-to-controller data (target)', () => {
  let t: TestTarget;
  let io: RawHost;
  const MAX = 4096;
  const CID = 0x1234;

  beforeEach(async () => {
    t = await TestTarget.start({ tcp: { maxH2cDataBytes: MAX } });
    ({ io } = await t.association());
  });
  afterEach(() => t.close());

  /** Asks for a write of `bytes` and returns its R2T. */
  async function solicit(bytes: number, cid = CID): Promise<ReceivedPdu> {
    void io.completion(cid, { manual: true });
    const cdw12 = bytes / 512 - 1;
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid, cdw12, sgl: { id: 0x5a, length: bytes } })));
    const r2t = await io.next();
    expect([r2t.name, r2t.cccid, r2t.offset, r2t.length]).to.deep.equal(['R2T', cid, 0, bytes]);
    expect(r2t.header.readUInt32LE(20), 'reserved').to.equal(0);
    return r2t;
  }

  interface Fields {
    cccid?: number;
    ttag?: number;
    offset?: number;
    length?: number;
    last?: boolean;
  }
  /** Sends H2CData for `r2t` and expects the TermReq that names it; nothing may be stored and nothing stay allocated. */
  async function expectFatal(
    r2t: ReceivedPdu | undefined,
    fields: Fields,
    dataBytes: number,
    expected: { fes: number; fei: number },
    options: PduOptions = {},
  ): Promise<void> {
    const all = { cccid: CID, ttag: r2t?.ttag ?? 0, offset: 0, ...fields };
    const bytes = io.h2cData(all, Buffer.alloc(dataBytes, 0xee), options);
    await io.send(bytes);
    await io.expectTermReq({ ...expected, header: bytes.subarray(0, 24) });
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    expect(t.backend.allocatedBytes?.(), 'stored').to.equal(0);
    expect(t.target.pool.usedBytes, 'buffers').to.equal(0);
  }

  it('81: a 1 MiB write is solicited contiguously from 0, one R2T at a time', async () => {
    const data = pattern(MIB, 6);
    const completion = await io.write(0, data, { by: 'r2t' });
    expect(completion.status).to.equal(0);
    let next = 0;
    for (const r2t of completion.r2ts) {
      expect(r2t.offset).to.equal(next);
      next += r2t.length;
    }
    expect(next).to.equal(MIB);
    expect((await io.read(0, MIB / 512)).data.equals(data)).to.equal(true);
  });

  it('81: with MAXR2T 0, an R2T is answered before the next is sent', async () => {
    const data = pattern(65536, 6);
    const done = io.completion(CID, { manual: true });
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: CID, cdw12: 127, sgl: { id: 0x5a, length: 65536 } })));
    for (let sent = 0; sent < data.length; ) {
      const r2t = await io.next();
      await settle();
      expect(io.unread, 'R2Ts beside the outstanding one').to.equal(0);
      for (const end = r2t.offset + r2t.length; sent < end; sent += MAX) {
        const fields = { cccid: CID, ttag: r2t.ttag, offset: sent, last: sent + MAX === end };
        await io.send(io.h2cData(fields, data.subarray(sent, sent + MAX)));
      }
    }
    expect((await done).status).to.equal(0);
  });

  it('several H2CData answer one R2T, in any sizes up to MAXH2CDATA', async () => {
    for (const pieceBytes of [4, 508, 512, 1024, 4092, 4096]) {
      const data = pattern(16384, pieceBytes);
      expect((await io.write(0, data, { by: 'r2t', pieceBytes })).status).to.equal(0);
      expect((await io.read(0, 32)).data.equals(data), `pieces of ${pieceBytes}`).to.equal(true);
    }
  });

  it('data of several commands may interleave', async () => {
    const first = await solicit(8192, 1);
    const second = await solicit(8192, 2);
    const one = io.completion(1);
    const two = io.completion(2);
    const h2c = (cid: number, r2t: ReceivedPdu, offset: number): Buffer =>
      io.h2cData({ cccid: cid, ttag: r2t.ttag, offset, last: offset === 4096 }, Buffer.alloc(4096, cid));
    await io.send(h2c(2, second, 0), h2c(1, first, 0), h2c(2, second, 4096), h2c(1, first, 4096));
    expect([(await one).status, (await two).status]).to.deep.equal([0, 0]);
  });

  it('82: unknown TTAG: FES 1, FEI 10', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { ttag: r2t.ttag ^ 1 }, 512, { fes: Fes.HeaderField, fei: 10 });
  });

  for (const ttag of [128, 4096, 0xffff]) {
    it(`82: TTAG ${ttag}, beyond every slot: FES 1, FEI 10`, async () => {
      const r2t = await solicit(512);
      await expectFatal(r2t, { ttag }, 512, { fes: Fes.HeaderField, fei: 10 });
    });
  }

  it('83: the right TTAG with another CCCID: FES 1, FEI 8', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { cccid: CID + 1 }, 512, { fes: Fes.HeaderField, fei: 8 });
  });

  it('84: DATAO skips: FES 2', async () => {
    const r2t = await solicit(4096);
    await expectFatal(r2t, { offset: 512 }, 512, { fes: Fes.Sequence, fei: 0 });
  });

  it('85: DATAO overlaps what was received: FES 2', async () => {
    const r2t = await solicit(4096);
    await io.send(io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0 }, Buffer.alloc(1024)));
    await expectFatal(r2t, { offset: 512 }, 1024, { fes: Fes.Sequence, fei: 0 });
  });

  it('86: data past R2TO + R2TL: FES 4', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { offset: 0 }, 516, { fes: Fes.OutOfRange, fei: 0 });
  });

  it('86: DATAO past R2TO + R2TL: FES 4', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { offset: 0xffff_fffc }, 512, { fes: Fes.OutOfRange, fei: 0 });
  });

  it('87: DATAL over MAXH2CDATA: FES 5', async () => {
    const r2t = await solicit(65536);
    await expectFatal(r2t, {}, MAX + 4, { fes: Fes.LimitExceeded, fei: 0 });
  });

  it('88: H2CData without any R2T: FES 1, FEI 10', async () => {
    await expectFatal(undefined, {}, 512, { fes: Fes.HeaderField, fei: 10 });
  });

  it('89: H2CData after LAST_PDU of a command that is done: fatal', async () => {
    const r2t = await solicit(512);
    const done = io.completion(CID);
    await io.send(io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(512)));
    await done;
    const bytes = io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(512));
    await io.send(bytes);
    const received = await io.next();
    expect(received.name).to.equal('C2HTermReq');
    // the tag is free again: "unknown" and "out of sequence" both say so
    expect([`${received.fes}/${received.fei}`]).to.be.deep.oneOf([['2/0'], ['1/10']]);
  });

  it('90: DATAL 0: FES 1, FEI 16', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { length: 0 }, 0, { fes: Fes.HeaderField, fei: 16 });
  });

  it('91: DATAL no multiple of 4: FES 1, FEI 16', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, {}, 510, { fes: Fes.HeaderField, fei: 16 });
  });

  it('91: DATAO no multiple of 4: FES 1, FEI 12', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { offset: 2 }, 508, { fes: Fes.HeaderField, fei: 12 });
  });

  for (const length of [508, 516]) {
    it(`92: DATAL ${length} with 512 bytes in the PDU: FES 1, FEI 4`, async () => {
      const r2t = await solicit(4096);
      await expectFatal(r2t, { length }, 512, { fes: Fes.HeaderField, fei: 4 });
    });
  }

  it('92: a PDU without data whose DATAL says 512: FES 1, FEI 4', async () => {
    const r2t = await solicit(512);
    await expectFatal(r2t, { length: 512 }, 0, { fes: Fes.HeaderField, fei: 4 });
  });

  it('table 9.1 row 30: LAST_PDU before the last byte of the R2T: FES 2', async () => {
    const r2t = await solicit(4096);
    await expectFatal(r2t, { offset: 0, last: true }, 1024, { fes: Fes.Sequence, fei: 0 });
  });

  it('table 9.1 row 29: a second PDU after LAST_PDU of a write that the backend still runs: FES 2', async () => {
    const { CopyBackend } = await import('../support/test-target.ts');
    await t.close();
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    ({ io } = await t.association());
    const r2t = await solicit(512);
    await io.send(io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(512)));
    await t.until(() => backend.held.length === 1);
    const bytes = io.h2cData({ cccid: CID, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(512));
    await io.send(bytes);
    await io.expectTermReq({ fes: Fes.Sequence, fei: 0, header: bytes.subarray(0, 24) });
    backend.release();
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    expect(t.target.pool.usedBytes).to.equal(0);
  });
});

/** NVMe/TCP 1.0 header rules, target side: checklist 17.2. Case numbers are the checklist's. */
import { expect } from 'chai';
import { type RawHost, sqeBytes } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const HEADER_FIELD = 1;
const READ_SQE = sqeBytes({ opcode: 2, cid: 1, nsid: 1, sgl: { id: 0x5a, length: 512 } });
const writeSqe = (length: number): Buffer =>
  sqeBytes({ opcode: 1, cid: 1, nsid: 1, cdw12: length / 512 - 1, sgl: { id: 0x01, length } });

describe('conformance: NVMe/TCP 17.2 header rules (target)', () => {
  let t: TestTarget;
  let io: RawHost;

  async function start(cpda = 0, dgst = 0): Promise<void> {
    t = await TestTarget.start({ tcp: { cpda } });
    ({ io } = await t.association({ icReq: { dgst } }));
  }
  afterEach(() => t.close());

  for (const type of [0x08, 0x0a, 0x0b, 0x10, 0x7f, 0xff]) {
    it(`28: type ${type.toString(16)}h is fatal: FES 1, FEI 0`, async () => {
      await start();
      const bytes = io.capsule(READ_SQE, undefined, { type });
      await io.send(bytes);
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 0, header: bytes });
      await io.expectClosed();
    });
  }

  for (const [type, hlen] of [
    [0x01, 128],
    [0x03, 24],
    [0x05, 24],
    [0x07, 24],
    [0x09, 24],
  ] as const) {
    it(`29: type ${type.toString(16)}h (controller to host) is fatal: FES 1, FEI 0`, async () => {
      await start();
      const bytes = Buffer.alloc(hlen);
      bytes.set([type, 0, hlen, 0, hlen]);
      await io.send(bytes);
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 0, header: bytes });
      await io.expectClosed();
    });
  }

  for (const hlen of [0, 8, 71, 73, 128, 255]) {
    it(`30: CapsuleCmd with HLEN ${hlen} is fatal: FES 1, FEI 2`, async () => {
      await start();
      const bytes = io.capsule(READ_SQE, undefined, { hlen });
      await io.send(bytes);
      // the copied header is as long as HLEN claims, of what was received
      const header = bytes.subarray(0, Math.min(Math.max(hlen, 8), bytes.length));
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 2, header });
      await io.expectClosed();
    });
  }

  for (const plen of [0, 8, 71]) {
    it(`31: CapsuleCmd with PLEN ${plen} is fatal: FES 1, FEI 4`, async () => {
      await start();
      const bytes = io.capsule(READ_SQE, undefined, { plen });
      await io.send(bytes);
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 4, header: bytes });
      await io.expectClosed();
    });
  }

  it('31: with header digest, PLEN 72 leaves no room for it: FES 1, FEI 4', async () => {
    await start(0, 1);
    const bytes = io.capsule(READ_SQE, undefined, { plen: 72 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 4, header: bytes.subarray(0, 72) });
  });

  for (const [name, pdo, fei] of [
    ['with a valid PDO', 72, 4],
    ['without PDO', 0, 3],
  ] as const) {
    it(`32: CapsuleCmd with PLEN 2^32-1 ${name} is fatal at once and takes no memory`, async () => {
      await start();
      const before = process.memoryUsage().arrayBuffers;
      const bytes = io.capsule(writeSqe(512), undefined, { plen: 0xffff_ffff, pdo });
      await io.send(bytes);
      await io.expectTermReq({ fes: HEADER_FIELD, fei, header: bytes });
      expect(process.memoryUsage().arrayBuffers - before).to.be.below(4 << 20);
      expect(t.target.pool.usedBytes).to.equal(0);
    });
  }

  it('32: H2CData with PLEN 2^32-1 is fatal at once', async () => {
    await start();
    const bytes = io.h2cData({ cccid: 0, ttag: 0, offset: 0 }, Buffer.alloc(0), { plen: 0xffff_ffff, pdo: 24 });
    await io.send(bytes);
    await io.expectTermReq({ fes: 5, fei: 0, header: bytes });
    expect(t.target.pool.usedBytes).to.equal(0);
  });

  it('33: H2CData with HLEN 28 is fatal: FES 1, FEI 2', async () => {
    await start();
    const bytes = io.h2cData({ cccid: 0, ttag: 0, offset: 0 }, Buffer.alloc(512), { hlen: 28 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 2, header: bytes.subarray(0, 28) });
    await io.expectClosed();
  });

  it('34: with CPDA 3, capsule data at PDO 72 is fatal: FES 1, FEI 3', async () => {
    await start(3);
    const bytes = io.capsule(writeSqe(512), Buffer.alloc(512), { alignBytes: 4 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 3, header: bytes.subarray(0, 72) });
    await io.expectClosed();
  });

  it('34: with CPDA 3, capsule data at PDO 80 is accepted', async () => {
    await start(3);
    expect(io.controllerAlignBytes).to.equal(16);
    expect((await io.write(0, Buffer.alloc(512, 7))).status).to.equal(0);
  });

  for (const pdo of [0, 24, 68]) {
    it(`35: PDO ${pdo}, inside the header, with data is fatal: FES 1, FEI 3`, async () => {
      await start();
      const bytes = io.capsule(writeSqe(512), Buffer.alloc(512), { pdo });
      await io.send(bytes);
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 3, header: bytes.subarray(0, 72) });
      await io.expectClosed();
    });
  }

  it('35: with header digest, PDO 72 lies inside the digest: FES 1, FEI 3', async () => {
    await start(0, 1);
    const bytes = io.capsule(writeSqe(512), Buffer.alloc(512), { pdo: 72 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 3, header: bytes.subarray(0, 72) });
  });

  it('36: PDO beyond PLEN is fatal: FES 1, FEI 3', async () => {
    await start();
    const bytes = io.capsule(writeSqe(512), undefined, { pdo: 200, plen: 100 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 3, header: bytes });
    await io.expectClosed();
  });

  it('36: PDO equal to PLEN leaves no data: FES 1, FEI 4', async () => {
    await start();
    const bytes = io.capsule(writeSqe(512), undefined, { pdo: 76, plen: 76 });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 4, header: bytes });
  });

  for (const cpda of [3, 31]) {
    it(`37: garbage in PAD with CPDA ${cpda} is ignored, digests are right`, async () => {
      await start(cpda, 3);
      const data = Buffer.alloc(1024, 0x33);
      const cid = io.nextCid();
      const sqe = sqeBytes({ opcode: 1, cid, nsid: 1, cdw12: 1, sgl: { id: 0x01, length: 1024 } });
      const done = io.completion(cid);
      await io.send(io.capsule(sqe, data, { pad: 0xa5 }));
      expect((await done).status).to.equal(0);
      // and by R2T
      const second = io.completion(99, { manual: true });
      await io.send(
        io.capsule(sqeBytes({ opcode: 1, cid: 99, nsid: 1, cdw10: 2, cdw12: 1, sgl: { id: 0x5a, length: 1024 } })),
      );
      const r2t = await io.next();
      const fields = { cccid: 99, ttag: r2t.ttag, offset: 0, last: true };
      await io.send(io.h2cData(fields, data, { pad: 0xa5 }));
      expect((await second).status).to.equal(0);
      expect((await io.read(0, 4)).data.equals(Buffer.concat([data, data]))).to.equal(true);
    });
  }

  it('38: reserved FLAGS bits are ignored', async () => {
    await start();
    const cid = io.nextCid();
    const done = io.completion(cid);
    await io.send(io.capsule(sqeBytes({ opcode: 0, cid, nsid: 1 }), undefined, { flags: 0xfc }));
    expect((await done).status).to.equal(0);
  });

  it('38: reserved FLAGS bits of H2CData are ignored, and so is a missing LAST_PDU', async () => {
    await start();
    const done = io.completion(5, { manual: true });
    await io.send(io.capsule(sqeBytes({ opcode: 1, cid: 5, nsid: 1, sgl: { id: 0x5a, length: 512 } })));
    const r2t = await io.next();
    await io.send(io.h2cData({ cccid: 5, ttag: r2t.ttag, offset: 0 }, Buffer.alloc(512), { flags: 0xf8 }));
    expect((await done).status).to.equal(0);
  });
});

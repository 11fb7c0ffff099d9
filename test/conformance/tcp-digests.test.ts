/** NVMe/TCP 1.0 digests, target side: checklist 17.3. Case numbers are the checklist's. */
import { expect } from 'chai';
import { type Completion, pattern, type RawHost, referenceCrc32c, sqeBytes } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const HEADER_FIELD = 1;
const HEADER_DIGEST_ERROR = 3;
const TRANSIENT_TRANSPORT_ERROR = 0x22;

describe('conformance: NVMe/TCP 17.3 digests (target)', () => {
  let t: TestTarget;
  let io: RawHost;
  async function start(dgst: number): Promise<void> {
    t = await TestTarget.start();
    ({ io } = await t.association({ icReq: { dgst } }));
  }
  afterEach(() => t.close());

  /** A write whose data digest is wrong, in the capsule. */
  async function badWrite(block: number, data: Uint8Array): Promise<Completion> {
    const cid = io.nextCid();
    const done = io.completion(cid);
    const cdw12 = data.length / 512 - 1;
    const sqe = sqeBytes({ opcode: 1, cid, nsid: 1, cdw10: block, cdw12, sgl: { id: 1, length: data.length } });
    await io.send(io.capsule(sqe, data, { dataDigestError: 0x100 }));
    return done;
  }

  for (const dgst of [1, 3]) {
    it(`41, 48: DGST ${dgst}: a wrong HDGST is fatal: FES 3, FEI what was received, no digest on the TermReq`, async () => {
      await start(dgst);
      const bytes = io.capsule(sqeBytes({ opcode: 0, cid: 1, nsid: 1 }), undefined, { headerDigestError: 0x8000_0001 });
      await io.send(bytes);
      const header = bytes.subarray(0, 72);
      const received = (referenceCrc32c(header) ^ 0x8000_0001) >>> 0;
      // expectTermReq checks PLEN = 24 + 72 and FLAGS = 0
      await io.expectTermReq({ fes: HEADER_DIGEST_ERROR, fei: received, header });
      await io.expectClosed();
    });
  }

  it('41: a wrong HDGST on H2CData is fatal and nothing is stored', async () => {
    await start(1);
    void io.completion(5, { manual: true });
    await io.send(io.capsule(sqeBytes({ opcode: 1, cid: 5, nsid: 1, sgl: { id: 0x5a, length: 512 } })));
    const r2t = await io.next();
    const fields = { cccid: 5, ttag: r2t.ttag, offset: 0, last: true };
    const bytes = io.h2cData(fields, Buffer.alloc(512, 1), { headerDigestError: 1 });
    await io.send(bytes);
    const header = bytes.subarray(0, 24);
    await io.expectTermReq({ fes: HEADER_DIGEST_ERROR, fei: (referenceCrc32c(header) ^ 1) >>> 0, header });
    expect(t.backend.allocatedBytes?.()).to.equal(0);
  });

  it('42: header digest on, HDGSTF clear is fatal: FES 1, FEI 1', async () => {
    await start(1);
    const bytes = io.capsule(sqeBytes({ opcode: 0, cid: 1, nsid: 1 }), undefined, { headerDigest: false });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 1, header: bytes });
    await io.expectClosed();
  });

  it('43: header digest off, HDGSTF set is fatal: FES 1, FEI 1', async () => {
    await start(0);
    const bytes = io.capsule(sqeBytes({ opcode: 0, cid: 1, nsid: 1 }), undefined, { headerDigest: true });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 1, header: bytes.subarray(0, 72) });
    await io.expectClosed();
  });

  it('table 9.1 row 16: data digest on, DDGSTF clear on a capsule with data is fatal: FES 1, FEI 1', async () => {
    await start(2);
    const sqe = sqeBytes({ opcode: 1, cid: 1, nsid: 1, sgl: { id: 1, length: 512 } });
    const bytes = io.capsule(sqe, Buffer.alloc(512), { dataDigest: false });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 1, header: bytes.subarray(0, 72) });
  });

  it('data digest off, DDGSTF set on a capsule with data is fatal: FES 1, FEI 1', async () => {
    await start(0);
    const sqe = sqeBytes({ opcode: 1, cid: 1, nsid: 1, sgl: { id: 1, length: 512 } });
    const bytes = io.capsule(sqe, Buffer.alloc(512), { dataDigest: true });
    await io.send(bytes);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 1, header: bytes.subarray(0, 72) });
  });

  for (const dgst of [2, 3]) {
    it(`44, 47: DGST ${dgst}: a wrong DDGST on an in-capsule write gives 22h without DNR, stores nothing, and the queue works on`, async () => {
      await start(dgst);
      const old = pattern(4096, 1);
      expect((await io.write(8, old)).status).to.equal(0);
      const failed = await badWrite(8, pattern(4096, 2));
      expect(failed.status).to.equal(TRANSIENT_TRANSPORT_ERROR);
      expect((await io.read(8, 8)).data.equals(old)).to.equal(true);
      expect((await io.write(8, pattern(4096, 3))).status).to.equal(0);
      expect((await io.read(8, 8)).data.equals(pattern(4096, 3))).to.equal(true);
    });
  }

  it('44: the same when the capsule comes in pieces', async () => {
    await start(3);
    const cid = io.nextCid();
    const done = io.completion(cid);
    const sqe = sqeBytes({ opcode: 1, cid, nsid: 1, sgl: { id: 1, length: 512 } });
    await io.sendSliced(io.capsule(sqe, pattern(512, 1), { dataDigestError: 1 }), () => 100);
    expect((await done).status).to.equal(TRANSIENT_TRANSPORT_ERROR);
    expect(t.backend.allocatedBytes?.()).to.equal(0);
    expect((await io.read(0, 1)).data.every((byte) => byte === 0)).to.equal(true);
  });

  for (const bad of [0, 1, 3]) {
    it(`45, 47: of four H2CData number ${bad} has a wrong DDGST: the rest is drained, 22h, nothing stored, connection alive`, async () => {
      await start(3);
      const data = pattern(4096, 5);
      const done = io.completion(7, { manual: true });
      await io.send(io.capsule(sqeBytes({ opcode: 1, cid: 7, nsid: 1, cdw12: 7, sgl: { id: 0x5a, length: 4096 } })));
      const r2t = await io.next();
      for (let i = 0; i < 4; i++) {
        const fields = { cccid: 7, ttag: r2t.ttag, offset: i * 1024, last: i === 3 };
        const part = data.subarray(i * 1024, (i + 1) * 1024);
        await io.send(io.h2cData(fields, part, { dataDigestError: i === bad ? 0xffff_ffff : 0 }));
      }
      expect((await done).status).to.equal(TRANSIENT_TRANSPORT_ERROR);
      expect(t.backend.allocatedBytes?.()).to.equal(0);
      expect((await io.write(0, data, { by: 'r2t', pieceBytes: 512 })).status).to.equal(0);
      expect((await io.read(0, 8)).data.equals(data)).to.equal(true);
    });
  }

  it('46: data digest on, a capsule without data has DDGSTF 0', async () => {
    await start(3);
    expect((await io.command({ opcode: 0, nsid: 1 })).status).to.equal(0);
  });

  it('44: a wrong DDGST does not hide that the command itself is wrong, and vice versa', async () => {
    await start(3);
    const cid = io.nextCid();
    const done = io.completion(cid);
    const sqe = sqeBytes({ opcode: 1, cid, nsid: 99, sgl: { id: 1, length: 512 } });
    await io.send(io.capsule(sqe, pattern(512, 1), { dataDigestError: 1 }));
    expect((await done).code).to.be.oneOf([0x02, TRANSIENT_TRANSPORT_ERROR]);
    expect((await io.command({ opcode: 0, nsid: 1 })).status).to.equal(0);
  });

  for (const hpda of [0, 7, 31]) {
    for (const cpda of [0, 7, 31]) {
      it(`53: digests cover DATA only: HPDA ${hpda}, CPDA ${cpda}`, async () => {
        t = await TestTarget.start({ tcp: { cpda } });
        ({ io } = await t.association({ icReq: { dgst: 3, hpda } }));
        const data = pattern(8192, 9);
        expect((await io.write(0, data.subarray(0, 4096))).status).to.equal(0);
        expect((await io.write(8, data.subarray(4096), { by: 'r2t', pieceBytes: 1024 })).status).to.equal(0);
        expect((await io.read(0, 16)).data.equals(data)).to.equal(true);
      });
    }
  }
});

/** NVMe/TCP 1.0 capsules and SGLs, target side: checklist 17.4. Case numbers are the checklist's. */
import { expect } from 'chai';
import {
  type Completion,
  connectData,
  connectSqe,
  pattern,
  type RawHost,
  type SqeFields,
  sqeBytes,
} from '../support/raw-host.ts';
import { SUBSYSTEM_NQN, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const SGL_LENGTH_INVALID = 0x0f;
const SGL_TYPE_INVALID = 0x11;
const SGL_OFFSET_INVALID = 0x16;
const HEADER_FIELD = 1;

describe('conformance: NVMe/TCP 17.4 capsules and SGLs (target)', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  beforeEach(async () => {
    t = await TestTarget.start();
    ({ admin, io } = await t.association());
  });
  afterEach(() => t.close());

  async function run(host: RawHost, fields: SqeFields, data?: Uint8Array): Promise<Completion> {
    const cid = host.nextCid();
    const done = host.completion(cid);
    await host.send(host.capsule(sqeBytes({ ...fields, cid }), data));
    return done;
  }
  /** The queue still reads commands where they start. */
  async function expectInSync(host: RawHost = io): Promise<void> {
    const data = pattern(512, 77);
    if (host === io) {
      expect((await io.write(100, data)).status).to.equal(0);
      expect((await io.read(100, 1)).data.equals(data)).to.equal(true);
    } else expect((await host.identify(1)).status).to.equal(0);
  }

  it('54: 8192 bytes in the capsule are accepted on the admin queue', async () => {
    const completion = await run(
      admin,
      { opcode: 9, cdw10: 0x0e, sgl: { id: 1, length: 8192 } },
      Buffer.concat([Buffer.from([1, 2, 3, 4, 5, 6, 0, 0]), Buffer.alloc(8184)]),
    );
    expect(completion.status).to.equal(0);
    const stamp = await admin.getFeature(0x0e, { readBytes: 8 });
    expect([...stamp.data.subarray(0, 6)]).to.deep.equal([1, 2, 3, 4, 5, 6]);
  });

  it('54: 8196 bytes on the admin queue: Data SGL Length Invalid, the stream stays in sync', async () => {
    const fields = { opcode: 9, cdw10: 0x0e, sgl: { id: 1, length: 8196 } };
    expect((await run(admin, fields, Buffer.alloc(8196))).code).to.equal(SGL_LENGTH_INVALID);
    await expectInSync(admin);
  });

  it('55: Connect with its data by R2T', async () => {
    const host = await t.initialized();
    const completion = await host.connectQueue({ subnqn: SUBSYSTEM_NQN, by: 'r2t' });
    expect(completion.status).to.equal(0);
    expect(completion.r2ts.map((r2t) => [r2t.offset, r2t.length])).to.deep.equal([[0, 1024]]);
    await host.enable();
  });

  for (const inCapsuleBytes of [4096, 8192, 16384]) {
    it(`56: exactly ${inCapsuleBytes} in-capsule bytes are accepted, one dword more is an error in sync`, async () => {
      await t.close();
      t = await TestTarget.start({ tcp: { inCapsuleBytes } });
      ({ admin, io } = await t.association());
      const identify = (await admin.identify(1)).data;
      expect(identify.readUInt32LE(1792) * 16 - 64, 'IOCCSZ').to.equal(inCapsuleBytes);
      const data = pattern(inCapsuleBytes, 3);
      expect((await io.write(0, data)).status).to.equal(0);
      expect((await io.read(0, inCapsuleBytes / 512)).data.equals(data)).to.equal(true);
      const cdw12 = inCapsuleBytes / 512 - 1;
      const more = { opcode: 1, nsid: 1, cdw12, sgl: { id: 1, length: inCapsuleBytes + 4 } };
      const failed = await run(io, more, Buffer.alloc(inCapsuleBytes + 4, 0xee));
      expect(failed.code).to.be.oneOf([SGL_LENGTH_INVALID, SGL_OFFSET_INVALID]);
      expect((await io.read(0, inCapsuleBytes / 512)).data.equals(data), 'data untouched').to.equal(true);
      await expectInSync();
    });
  }

  it('56: an in-capsule write far over the limit is drained as well', async () => {
    const length = 256 << 10;
    const fields = { opcode: 1, nsid: 1, cdw12: length / 512 - 1, sgl: { id: 1, length } };
    expect((await run(io, fields, Buffer.alloc(length))).code).to.equal(SGL_LENGTH_INVALID);
    expect(t.target.pool.usedBytes, 'nothing is held for it').to.equal(0);
    await expectInSync();
  });

  it('57: SGLID 00h with a length is SGL Descriptor Type Invalid', async () => {
    const completion = await run(io, { opcode: 2, nsid: 1, sgl: { id: 0x00, length: 512 } });
    expect(completion.code).to.equal(SGL_TYPE_INVALID);
    expect(completion.data.length).to.equal(0);
    await expectInSync();
  });

  for (const id of [0x40, 0x4f, 0x20, 0x30, 0x10, 0x02, 0x0a, 0x50, 0x51, 0xff]) {
    it(`58: SGLID ${id.toString(16)}h is SGL Descriptor Type Invalid, with and without in-capsule data`, async () => {
      const read = await run(io, { opcode: 2, nsid: 1, sgl: { id, length: 512 } });
      expect(read.code).to.equal(SGL_TYPE_INVALID);
      const write = await run(io, { opcode: 1, nsid: 1, sgl: { id, length: 512 } }, Buffer.alloc(512));
      expect(write.code).to.equal(SGL_TYPE_INVALID);
      expect(t.backend.allocatedBytes?.()).to.equal(0);
      await expectInSync();
    });
  }

  for (const address of [4, 64]) {
    it(`59: in-capsule SGL with address ${address} is SGL Offset Invalid, in sync`, async () => {
      const fields = { opcode: 1, nsid: 1, sgl: { id: 1, length: 512, address } };
      expect((await run(io, fields, Buffer.alloc(512))).code).to.equal(SGL_OFFSET_INVALID);
      await expectInSync();
    });
  }

  it('60: SGLID 01h on a Read is refused without data', async () => {
    const withoutData = await run(io, { opcode: 2, nsid: 1, sgl: { id: 1, length: 0 } });
    expect(withoutData.code).to.be.oneOf([INVALID_FIELD, SGL_TYPE_INVALID, SGL_LENGTH_INVALID]);
    const withData = await run(io, { opcode: 2, nsid: 1, sgl: { id: 1, length: 512 } }, Buffer.alloc(512));
    expect(withData.code).to.equal(INVALID_FIELD);
    expect(withData.data.length).to.equal(0);
    await expectInSync();
  });

  for (const [sgl, bytes] of [
    [512, 1024],
    [1024, 512],
    [512, 516],
  ] as const) {
    it(`61, 67: SGL length ${sgl} and ${bytes} bytes in the capsule is fatal: FES 1, FEI 4`, async () => {
      const capsule = io.capsule(
        sqeBytes({ opcode: 1, nsid: 1, cid: 1, sgl: { id: 1, length: sgl } }),
        Buffer.alloc(bytes),
      );
      await io.send(capsule);
      await io.expectTermReq({ fes: HEADER_FIELD, fei: 4, header: capsule.subarray(0, 72) });
      await io.expectClosed();
      expect(t.target.pool.usedBytes).to.equal(0);
    });
  }

  it('67: bytes after a capsule whose SGL is 5Ah are fatal: FES 1, FEI 4', async () => {
    const sqe = sqeBytes({ opcode: 2, nsid: 1, cid: 1, sgl: { id: 0x5a, length: 512 } });
    const capsule = io.capsule(sqe, Buffer.alloc(4));
    await io.send(capsule);
    await io.expectTermReq({ fes: HEADER_FIELD, fei: 4, header: capsule.subarray(0, 72) });
  });

  it('62: SGL length 5Ah shorter than NLB is Data SGL Length Invalid, without R2T and without data', async () => {
    const read = await run(io, { opcode: 2, nsid: 1, cdw12: 7, sgl: { id: 0x5a, length: 2048 } });
    expect([read.code, read.data.length]).to.deep.equal([SGL_LENGTH_INVALID, 0]);
    const write = await run(io, { opcode: 1, nsid: 1, cdw12: 7, sgl: { id: 0x5a, length: 2048 } });
    expect([write.code, write.r2ts.length]).to.deep.equal([SGL_LENGTH_INVALID, 0]);
    const capsule = { opcode: 1, nsid: 1, cdw12: 7, sgl: { id: 1, length: 2048 } };
    expect((await run(io, capsule, Buffer.alloc(2048))).code).to.equal(SGL_LENGTH_INVALID);
    await expectInSync();
  });

  it('63: SGL length 8192 on Identify gives 4096 bytes', async () => {
    const completion = await run(admin, { opcode: 6, cdw10: 1, sgl: { id: 0x5a, length: 8192 } });
    expect([completion.status, completion.data.length]).to.deep.equal([0, 4096]);
  });

  it('63: longer SGLs are accepted, as SGLS bit 18 says', async () => {
    expect((await admin.identify(1)).data.readUInt32LE(536) & 0x4_0000, 'SGLS bit 18').to.not.equal(0);
    const data = pattern(1024, 1);
    const capsule = { opcode: 1, nsid: 1, cdw12: 0, sgl: { id: 1, length: 1024 } };
    expect((await run(io, capsule, data)).status).to.equal(0);
    const solicited = io.completion(900, { data });
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: 900, cdw10: 4, sgl: { id: 0x5a, length: 1024 } })));
    expect((await solicited).r2ts.map((r2t) => r2t.length)).to.deep.equal([512]);
    const stored = (await io.read(0, 8)).data;
    const zeroes = Buffer.alloc(1536);
    const first = data.subarray(0, 512);
    expect(stored.equals(Buffer.concat([first, zeroes, first, zeroes]))).to.equal(true);
  });

  for (const [name, sgl] of [
    ['5Ah', { id: 0x5a, length: 0 }],
    ['01h', { id: 0x01, length: 0 }],
    ['00h', { id: 0x00, length: 0 }],
  ] as const) {
    it(`64: no-data commands with SGLID ${name} and length 0`, async () => {
      expect((await run(io, { opcode: 0, nsid: 1, sgl })).status).to.equal(0);
      expect((await run(admin, { opcode: 0x18, sgl })).status).to.equal(0);
      expect((await run(admin, { opcode: 0x7f, fctype: 4, cdw11: 8, sgl })).result0).to.equal(0x20100);
    });
  }

  it('65: PSDT 00b on a command with data is Invalid Field', async () => {
    const read = await run(io, { opcode: 2, flags: 0, nsid: 1, sgl: { id: 0x5a, length: 512 } });
    expect([read.code, read.dnr, read.data.length]).to.deep.equal([INVALID_FIELD, true, 0]);
    const write = await run(io, { opcode: 1, flags: 0, nsid: 1, sgl: { id: 0x5a, length: 512 } });
    expect([write.code, write.r2ts.length]).to.deep.equal([INVALID_FIELD, 0]);
  });

  it('65: PSDT 00b where no data moves is accepted, 11b is not', async () => {
    expect((await run(io, { opcode: 0, flags: 0, nsid: 1 })).status).to.equal(0);
    expect((await run(io, { opcode: 0, flags: 0xc0, nsid: 1 })).code).to.equal(INVALID_FIELD);
  });

  it('65: FUSE on commands that are never fused: Invalid Field, and its data is drained', async () => {
    for (const [opcode, fuse] of [
      [1, 1],
      [1, 3],
      [2, 1],
      [2, 2],
      [5, 2],
    ] as const) {
      const fields = { opcode, flags: 0x40 | fuse, nsid: 1, sgl: { id: 1, length: 512 } };
      expect((await run(io, fields, Buffer.alloc(512))).code, `opcode ${opcode} FUSE ${fuse}`).to.equal(INVALID_FIELD);
    }
    await expectInSync();
  });

  it('66: PSDT 10b on Connect is accepted', async () => {
    const host = await t.initialized();
    const sqe = connectSqe({}, 3, 'capsule');
    sqe[1] = 0x80;
    const done = host.completion(3);
    await host.send(host.capsule(sqe, connectData({ subnqn: SUBSYSTEM_NQN })));
    expect((await done).status).to.equal(0);
  });

  it('PSDT 10b on Property Get and on Read is accepted', async () => {
    expect((await run(admin, { opcode: 0x7f, flags: 0x80, fctype: 4, cdw11: 8 })).status).to.equal(0);
    const read = await run(io, { opcode: 2, flags: 0x80, nsid: 1, sgl: { id: 0x5a, length: 512 } });
    expect([read.status, read.data.length]).to.deep.equal([0, 512]);
  });
});

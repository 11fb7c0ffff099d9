/** Verify, Compare and Copy on a backend that has them itself: it gets the range, and what the target knows better stays the target's. */
import { expect } from 'chai';
import type { BlockIo, DeviceCopy } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { pattern } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const UNRECOVERED_READ = 0x281;
const LBA_OUT_OF_RANGE = 0x80;
const COMPARE_FAILURE = 0x285;

class Verifying extends MemoryBackend {
  readonly verified: [number, number][] = [];
  readonly compared: Buffer[] = [];
  status = 0;

  constructor() {
    super({ blockSize: 512, blockCount: 64 });
  }
  compare(io: BlockIo): void {
    io.retain();
    this.compared.push(Buffer.concat(io.segments.slice(0, io.segmentCount)));
    setImmediate(() => io.complete(this.status));
  }
  verify(io: BlockIo): void {
    this.verified.push([io.offsetBytes, io.lengthBytes]);
    setImmediate(() => io.complete(this.status));
  }
}

describe('conformance: Verify by the device', () => {
  it('the range, its status, and blocks made uncorrectable', async () => {
    const backend = new Verifying();
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const verify = (slba: number, blocks: number): Promise<{ status: number; code: number }> =>
        io.command({ opcode: 0x0c, nsid: 1, cdw10: slba, cdw12: blocks - 1 });
      expect((await verify(3, 5)).status).to.equal(0);
      expect(backend.verified).to.deep.equal([[3 * 512, 5 * 512]]);
      backend.status = UNRECOVERED_READ;
      expect((await verify(0, 64)).code).to.equal(UNRECOVERED_READ);
      backend.status = 0;
      expect((await verify(60, 5)).code).to.equal(LBA_OUT_OF_RANGE);
      // Write Uncorrectable is kept by the target: the device would read these blocks
      expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 0 })).status).to.equal(0);
      expect((await verify(7, 3)).code).to.equal(UNRECOVERED_READ);
      expect((await verify(0, 8)).status).to.equal(0);
      expect(backend.verified).to.have.length(3);
    } finally {
      await t.close();
    }
  });

  it('Compare: the data, its status, and blocks made uncorrectable', async () => {
    const backend = new Verifying();
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const compare = (slba: number, data: Uint8Array): Promise<{ status: number; code: number }> =>
        io.command({ opcode: 0x05, nsid: 1, cdw10: slba, cdw12: data.length / 512 - 1 }, { data });
      const data = pattern(1024, 5);
      expect((await compare(3, data)).status).to.equal(0);
      expect(backend.compared.map((found) => found.equals(data))).to.deep.equal([true]);
      backend.status = COMPARE_FAILURE;
      expect((await compare(3, data)).code).to.equal(COMPARE_FAILURE);
      backend.status = 0;
      expect((await compare(63, data)).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 0 })).status).to.equal(0);
      expect((await compare(7, data)).code).to.equal(UNRECOVERED_READ);
      expect(backend.compared).to.have.length(2);
    } finally {
      await t.close();
    }
  });
});

class Copying extends MemoryBackend {
  readonly copyLimits = { mssrl: 8, mcl: 20, msrc: 2 };
  readonly copied: { to: number; from: number[][]; fua: boolean }[] = [];
  status = 0;
  completeCount = 0;

  constructor() {
    super({ blockSize: 512, blockCount: 64 });
  }
  copy(io: BlockIo, copy: DeviceCopy): void {
    const from = copy.sources.map(({ offsetBytes, lengthBytes }) => [offsetBytes / 512, lengthBytes / 512]);
    this.copied.push({ to: io.offsetBytes / 512, from, fua: io.fua });
    copy.completeCount = this.completeCount;
    setImmediate(() => io.complete(this.status));
  }
}

describe('conformance: Copy by the device', () => {
  const SIZE_LIMIT = 0x183;
  let t: TestTarget;
  let backend: Copying;
  let io: Awaited<ReturnType<TestTarget['association']>>['io'];
  let admin: Awaited<ReturnType<TestTarget['association']>>['admin'];

  beforeEach(async () => {
    backend = new Copying();
    t = await TestTarget.start({ backend });
    ({ admin, io } = await t.association());
  });
  afterEach(() => t.close());

  const copy = (
    to: number,
    sources: readonly (readonly number[])[],
    more: { fua?: boolean; format?: number } = {},
  ): Promise<{ status: number; code: number; result0: number }> => {
    const data = Buffer.alloc(sources.length * 32);
    sources.forEach(([first, blocks, nsid = 1], i) => {
      if (more.format === 2) data.writeUInt32LE(nsid, i * 32);
      data.writeBigUInt64LE(BigInt(first!), i * 32 + 8);
      data.writeUInt16LE(blocks! - 1, i * 32 + 16);
    });
    const cdw12 = (sources.length - 1) | ((more.format ?? 0) << 8) | (more.fua === true ? 0x4000_0000 : 0);
    return io.command({ opcode: 0x19, nsid: 1, cdw10: to, cdw12 }, { data });
  };

  it('its limits are those of the namespace; what is within them is one Copy of it', async () => {
    const { data } = await admin.identify(0, { nsid: 1 });
    expect([data.readUInt16LE(74), data.readUInt32LE(76), data[80]]).to.deep.equal([8, 20, 2]);
    const sources = [
      [3, 8],
      [40, 8],
      [0, 4],
    ];
    expect((await copy(20, sources, { fua: true })).status).to.equal(0);
    expect(backend.copied).to.deep.equal([{ to: 20, from: sources, fua: true }]);
    expect((await copy(20, [[3, 9]])).code, 'MSSRL').to.equal(SIZE_LIMIT);
    expect((await copy(20, [...sources.slice(0, 2), [0, 5]])).code, 'MCL').to.equal(SIZE_LIMIT);
    expect(
      (
        await copy(
          20,
          [...sources, [0, 1]].map(([first]) => [first!, 1]),
        )
      ).code,
      'MSRC',
    ).to.equal(SIZE_LIMIT);
    expect((await copy(60, [[3, 5]])).code).to.equal(LBA_OUT_OF_RANGE);
    expect(backend.copied).to.have.length(1);
  });

  it('a failure is its status, with the first source that was not copied', async () => {
    backend.status = UNRECOVERED_READ;
    backend.completeCount = 1;
    const done = await copy(20, [
      [0, 1],
      [5, 1],
    ]);
    expect([done.code, done.result0]).to.deep.equal([UNRECOVERED_READ, 1]);
  });

  it('is read and written by the target where blocks are unreadable that the device would read, or a source is elsewhere', async () => {
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }) });
    const behavior = Buffer.alloc(512);
    behavior.writeUInt16LE(0x04, 4);
    expect((await admin.setFeature(0x16, 0, { data: behavior })).status).to.equal(0);
    const content = pattern(512, 9);
    expect((await io.command({ opcode: 0x01, nsid: 2, cdw10: 7 }, { data: content })).status).to.equal(0);
    expect((await copy(30, [[7, 1, 2]], { format: 2 })).status).to.equal(0);
    expect(backend.copied).to.have.length(0);
    const read = await io.command({ opcode: 0x02, nsid: 1, cdw10: 30 }, { readBytes: 512 });
    expect(Buffer.compare(read.data, content)).to.equal(0);
    expect((await copy(30, [[7, 1, 1]], { format: 2 })).status, 'of the namespace itself').to.equal(0);
    expect(backend.copied).to.have.length(1);
    expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 0 })).status).to.equal(0);
    expect((await copy(20, [[7, 3]])).code).to.equal(UNRECOVERED_READ);
    expect(backend.copied).to.have.length(1);
  });

  it('what it copied counts as changed', async () => {
    const tracked = t.subsystem.namespaces[1]!;
    const marked: number[][] = [];
    tracked.changes = { bitmap: { mark: (slba: number, blocks: number) => marked.push([slba, blocks]) } } as never;
    tracked.setTracked([]);
    await copy(20, [
      [0, 3],
      [9, 2],
    ]);
    expect(marked).to.deep.equal([[20, 5]]);
    tracked.changes = undefined;
    tracked.setTracked([]);
  });
});

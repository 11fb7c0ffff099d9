/** Write Uncorrectable, Get LBA Status, Write Zeroes with NSZ, DULBE: sheet of commands 11.2, 11.4; checklist 51, 52, 80, 81, 84, 89. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, MemoryStateStore, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const LBA_OUT_OF_RANGE = 0x80;
const WRITE_FAULT = 0x280;
const UNRECOVERED = 0x281;
const DEALLOCATED = 0x287;
const DEAC = 0x0200_0000;
const NSZ = 0x0080_0000;
const DULBE = 0x1_0000;
const WRITE_UNCORRECTABLE = 4;

const uncorrectable = (io: RawHost, block: number, blocks: number): Promise<Completion> =>
  io.command({ opcode: WRITE_UNCORRECTABLE, nsid: 1, cdw10: block, cdw12: blocks - 1 });
const verify = (io: RawHost, block: number, blocks: number): Promise<Completion> =>
  io.command({ opcode: 0x0c, nsid: 1, cdw10: block, cdw12: blocks - 1 });
const compare = (io: RawHost, block: number, data: Uint8Array): Promise<Completion> =>
  io.command({ opcode: 5, nsid: 1, cdw10: block, cdw12: data.length / 512 - 1 }, { data });

/** `[first block, blocks, status]` of each descriptor, and CMPC. */
async function lbaStatus(
  admin: RawHost,
  fields: { slba?: number; blocks?: number; action?: number; dwords?: number; nsid?: number } = {},
): Promise<{ code: number; ranges: number[][]; cmpc: number; data: Buffer }> {
  const dwords = fields.dwords ?? 1024;
  const done = await admin.command(
    {
      opcode: 0x86,
      nsid: fields.nsid ?? 1,
      cdw10: fields.slba ?? 0,
      cdw12: dwords - 1,
      cdw13: (fields.blocks ?? 0) | ((fields.action ?? 0x11) << 24),
    },
    { readBytes: dwords * 4 },
  );
  const { data } = done;
  if (done.code !== 0) return { code: done.code, ranges: [], cmpc: 0, data };
  const count = data.readUInt32LE(0);
  const ranges = Array.from({ length: count }, (_, i) => [
    Number(data.readBigUInt64LE(8 + i * 16)),
    data.readUInt32LE(16 + i * 16) + 1,
    data[21 + i * 16]! & 7,
  ]);
  return { code: 0, ranges, cmpc: data[4]!, data };
}

for (const kind of ['memory', 'copying'] as const) {
  describe(`conformance: Write Uncorrectable, ${kind} backend`, () => {
    let t: TestTarget;
    let admin: RawHost;
    let io: RawHost;
    beforeEach(async () => {
      const backend = kind === 'memory' ? new MemoryBackend({ blockSize: 512, blockCount: 8192 }) : new CopyBackend();
      t = await TestTarget.start({ backend });
      ({ admin, io } = await t.association());
    });
    afterEach(async () => {
      await t.close();
      expect(t.target.pool.usedBytes).to.equal(0);
    });

    it('51: later reads are 2/81h without data, the blocks beside are fine; a write clears what it covers', async () => {
      const data = pattern(16 * 512, 1);
      await io.write(0, data.subarray(0, 4096));
      await io.write(8, data.subarray(4096));
      expect((await uncorrectable(io, 4, 3)).status).to.equal(0);
      for (const [block, blocks] of [
        [4, 1],
        [6, 1],
        [0, 5],
        [6, 10],
        [0, 16],
      ] as const) {
        const failed = await io.read(block, blocks);
        expect([failed.code, failed.data.length], `${block}+${blocks}`).to.deep.equal([UNRECOVERED, 0]);
      }
      expect((await io.read(0, 4)).data.equals(data.subarray(0, 2048))).to.equal(true);
      expect((await io.read(7, 9)).data.equals(data.subarray(7 * 512))).to.equal(true);
      expect((await io.write(5, pattern(512, 2))).status).to.equal(0);
      expect((await io.read(5, 1)).data.equals(pattern(512, 2))).to.equal(true);
      expect([(await io.read(4, 1)).code, (await io.read(6, 1)).code]).to.deep.equal([UNRECOVERED, UNRECOVERED]);
      expect((await io.write(4, data.subarray(0, 2048))).status).to.equal(0);
      expect((await io.read(0, 16)).status).to.equal(0);
    });

    it('52: Verify, Compare and Copy of such a block fail without data; what is beside passes', async () => {
      expect((await uncorrectable(io, 100, 1)).status).to.equal(0);
      const verified = await verify(io, 0, 8192);
      expect([verified.code, verified.data.length]).to.deep.equal([UNRECOVERED, 0]);
      expect((await verify(io, 0, 100)).status).to.equal(0);
      expect((await verify(io, 101, 50)).status).to.equal(0);
      expect((await compare(io, 99, Buffer.alloc(1024))).code).to.equal(UNRECOVERED);
      expect((await compare(io, 99, Buffer.alloc(512))).status).to.equal(0);
    });

    it('Write Zeroes, deallocation and Copy onto such blocks clear them; a write that fails does not', async () => {
      await io.write(0, pattern(4096, 3));
      const again = async (): Promise<void> => {
        expect((await uncorrectable(io, 2, 2)).status).to.equal(0);
        expect((await io.read(2, 2)).code).to.equal(UNRECOVERED);
      };
      await again();
      await io.command({ opcode: 8, nsid: 1, cdw10: 2, cdw12: 1 });
      expect((await io.read(2, 2)).data.every((byte) => byte === 0)).to.equal(true);
      await again();
      const range = Buffer.alloc(16);
      range.writeUInt32LE(2, 4);
      range.writeUInt32LE(2, 8);
      await io.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range });
      expect((await io.read(2, 2)).data.every((byte) => byte === 0)).to.equal(true);
      await again();
      const source = Buffer.alloc(32);
      source.writeUInt32LE(6, 8);
      source.writeUInt16LE(1, 16);
      expect((await io.command({ opcode: 0x19, nsid: 1, cdw10: 2 }, { data: source })).status).to.equal(0);
      expect((await io.read(2, 2)).data.equals((await io.read(6, 2)).data)).to.equal(true);
      await again();
      const { backend } = t;
      const write = backend.write.bind(backend);
      backend.write = (request): void => request.complete(WRITE_FAULT);
      expect((await io.write(2, pattern(1024, 4))).code).to.equal(WRITE_FAULT);
      backend.write = write;
      expect((await io.read(2, 2)).code, 'still').to.equal(UNRECOVERED);
    });

    it('a fused pair onto such a block: Compare 2/81h, Write 09h', async () => {
      await uncorrectable(io, 0, 1);
      const done = [
        io.command({ opcode: 5, flags: 0x41, nsid: 1 }, { data: Buffer.alloc(512) }),
        io.command({ opcode: 1, flags: 0x42, nsid: 1 }, { data: Buffer.alloc(512) }),
      ];
      expect((await Promise.all(done)).map(({ code }) => code)).to.deep.equal([UNRECOVERED, 0x09]);
    });

    it('80: past the end: LBA Out of Range; 8,192 blocks at once are not too many (WUSL 0, ONCS bit 1)', async () => {
      expect((await uncorrectable(io, 8191, 2)).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await uncorrectable(io, 0, 8192)).status).to.equal(0);
      expect((await io.read(8191, 1)).code).to.equal(UNRECOVERED);
      const limits = (await admin.identify(6)).data;
      expect(
        limits.subarray(0, 18).every((byte) => byte === 0),
        'VSL, WZSL, WUSL, DMRL, DMRSL, DMSL, WZDSL',
      ).to.equal(true);
      const oncs = (await admin.identify(1)).data.readUInt16LE(520);
      expect(oncs & 0x8e, 'ONCS: WU, DSM, WZ, Verify without limits').to.equal(0x8e);
    });

    it('its memory is bounded: beyond 4,096 separate ranges it is refused, and nothing is marked by it', async () => {
      const many = t.subsystem.namespaces[1]!.uncorrectable;
      for (let block = 0; block < 4096 * 2; block += 2) expect((await uncorrectable(io, block, 1)).status).to.equal(0);
      expect((await uncorrectable(io, 1, 1)).code).to.equal(WRITE_FAULT);
      expect((await io.read(1, 1)).status).to.equal(0);
      expect(many.blockCount).to.equal(4096);
    });

    it('89: Get LBA Status: RL 0 is all the rest, ranges are merged and cut to what was asked, CMPC tells', async () => {
      expect((await lbaStatus(admin)).ranges).to.deep.equal([]);
      for (const [block, blocks] of [
        [10, 5],
        [15, 5],
        [100, 1],
        [8191, 1],
      ] as const) {
        await uncorrectable(io, block, blocks);
      }
      const all = await lbaStatus(admin);
      expect(all.ranges).to.deep.equal([
        [10, 10, 3],
        [100, 1, 3],
        [8191, 1, 3],
      ]);
      expect(all.cmpc).to.equal(2);
      expect((await lbaStatus(admin, { action: 0x10 })).ranges).to.deep.equal(all.ranges);
      expect((await lbaStatus(admin, { slba: 12, blocks: 3 })).ranges).to.deep.equal([[12, 3, 3]]);
      expect((await lbaStatus(admin, { slba: 20, blocks: 80 })).ranges).to.deep.equal([]);
      const short = await lbaStatus(admin, { dwords: 6 });
      expect([short.cmpc, short.ranges]).to.deep.equal([1, [[10, 10, 3]]]);
      const header = await lbaStatus(admin, { dwords: 2 });
      expect([header.cmpc, header.ranges]).to.deep.equal([1, []]);
    });

    it('Get LBA Status: what it does not know: Invalid Field; namespaces; the end', async () => {
      expect((await admin.identify(1)).data.readUInt16LE(256) & 0x200, 'OACS').to.equal(0x200);
      expect((await admin.identify(6)).data.readUInt16LE(18), 'AOCS').to.equal(1);
      for (const action of [0, 1, 3, 0x12, 0xff]) {
        expect((await lbaStatus(admin, { action })).code, `ATYPE ${action}`).to.equal(INVALID_FIELD);
      }
      expect((await lbaStatus(admin, { nsid: 2 })).code).to.equal(INVALID_FIELD);
      for (const nsid of [0, 0xffff_ffff, 5000]) {
        expect((await lbaStatus(admin, { nsid })).code).to.equal(INVALID_NAMESPACE);
      }
      expect((await lbaStatus(admin, { slba: 8192 })).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await lbaStatus(admin, { slba: 8000, blocks: 193 })).code).to.equal(LBA_OUT_OF_RANGE);
    });

    it('LID 0Eh names the namespaces, counts the blocks, stands still from RAE 1 to RAE 0; feature 15h', async () => {
      const page = async (rae: boolean): Promise<number[]> => {
        const { data } = await admin.logPage(0x0e, 64, { rae });
        return [0, 4, 8, 16, 20, 24].map((at) => data.readUInt32LE(at));
      };
      expect((await page(false)).slice(0, 3)).to.deep.equal([16, 0, 0]);
      await uncorrectable(io, 7, 3);
      expect(await page(true)).to.deep.equal([32, 1, 3, 1, 0xffff_ffff, 0x11]);
      await uncorrectable(io, 17, 3);
      expect((await page(true))[2], 'frozen').to.equal(3);
      expect((await page(false))[2], 'frozen').to.equal(3);
      expect((await page(false))[2]).to.equal(6);
      expect((await admin.setFeature(0x15, 0x1234)).result0).to.equal(0x1234);
      expect((await admin.getFeature(0x15)).result0).to.equal(0x1234);
    });

    it('two controllers see the same', async () => {
      const other = await t.association();
      await uncorrectable(io, 0, 1);
      expect((await other.io.read(0, 1)).code).to.equal(UNRECOVERED);
      await other.io.write(0, pattern(512, 1));
      expect((await io.read(0, 1)).data.equals(pattern(512, 1))).to.equal(true);
    });
  });
}

describe('conformance: Write Uncorrectable over a restart', () => {
  const start = (state: MemoryStateStore, backend: CopyBackend): Promise<TestTarget> =>
    TestTarget.start({ state, backend });

  it('is kept with the blocks; a rewrite is kept, too', async () => {
    const state = new MemoryStateStore();
    const first = await start(state, new CopyBackend());
    const { io } = await first.association();
    await uncorrectable(io, 3, 4);
    await io.write(5, pattern(512, 1));
    await first.close();
    const second = await start(state, new CopyBackend());
    try {
      const { admin, io: again } = await second.association();
      expect((await lbaStatus(admin)).ranges).to.deep.equal([
        [3, 2, 3],
        [6, 1, 3],
      ]);
      expect((await again.read(3, 1)).code).to.equal(UNRECOVERED);
      await again.write(3, pattern(2048, 2));
      expect(state.values.size, 'nothing left to keep').to.equal(0);
    } finally {
      await second.close();
    }
  });

  it('is not said to be done when it cannot be kept', async () => {
    const state = new MemoryStateStore();
    const t = await start(state, new CopyBackend());
    try {
      const { io } = await t.association();
      state.failing = true;
      expect((await uncorrectable(io, 3, 1)).code).to.equal(WRITE_FAULT);
    } finally {
      await t.close();
    }
  });

  it('memory keeps nothing: it comes back empty', async () => {
    const state = new MemoryStateStore();
    const t = await TestTarget.start({ state });
    const { io } = await t.association();
    await uncorrectable(io, 3, 1);
    await t.close();
    expect(state.values.size).to.equal(0);
  });
});

describe('conformance: Write Zeroes of a namespace, DULBE', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  const BLOCKS = 32768;
  beforeEach(async () => {
    t = await TestTarget.start({ backend: new MemoryBackend({ blockSize: 4096, blockCount: BLOCKS }) });
    ({ admin, io } = await t.association());
  });
  afterEach(() => t.close());
  const read = (block: number, blocks = 1): Promise<Completion> => io.read(block, blocks, { blockBytes: 4096 });
  const write = (block: number, blocks = 1): Promise<Completion> =>
    io.write(block, pattern(4096 * blocks, block + 1), { blockBytes: 4096 });

  it('81: NSZ with DEAC zeroes all of it, whatever SLBA and NLB say, and says so in DW0 bit 0', async () => {
    expect((await admin.identify(1)).data.readUInt16LE(520) & 0x1000, 'ONCS: namespace zeroes').to.equal(0x1000);
    for (const block of [0, 7, 20000, BLOCKS - 1]) await write(block);
    const fields = { opcode: 8, nsid: 1, cdw10: 0xffff_ffff, cdw11: 5, cdw12: NSZ | DEAC | 3 };
    const done = await io.command(fields);
    expect([done.status, done.result0]).to.deep.equal([0, 1]);
    for (const block of [0, 7, 20000, BLOCKS - 1]) {
      expect(
        (await read(block)).data.every((byte) => byte === 0),
        `block ${block}`,
      ).to.equal(true);
    }
    expect((await admin.identify(0, { nsid: 1 })).data.readBigUInt64LE(16), 'NUSE').to.equal(0n);
  });

  it('81: NSZ without DEAC: Invalid Field, nothing zeroed; DEAC without NSZ: DW0 0', async () => {
    await write(0);
    expect((await io.command({ opcode: 8, nsid: 1, cdw12: NSZ })).code).to.equal(INVALID_FIELD);
    expect((await read(0)).data.equals(pattern(4096, 1))).to.equal(true);
    const done = await io.command({ opcode: 8, nsid: 1, cdw12: DEAC });
    expect([done.status, done.result0]).to.deep.equal([0, 0]);
  });

  it('81: NSZ where deallocated blocks do not read zero: Invalid Field', async () => {
    const backend = new CopyBackend();
    Object.defineProperty(backend, 'readsZeroAfterDeallocate', { value: false });
    t.target.addNamespace(t.subsystem, { nsid: 2, backend });
    expect((await io.command({ opcode: 8, nsid: 2, cdw12: NSZ | DEAC })).code).to.equal(INVALID_FIELD);
  });

  it('84: DULBE on: Read, Compare, Verify, Copy of a deallocated block are 2/87h; off: zeroes', async () => {
    expect((await admin.identify(0, { nsid: 1 })).data[24]! & 4, 'NSFEAT').to.equal(4);
    await write(8, 2);
    await write(40, 2);
    expect((await read(10)).data.every((byte) => byte === 0)).to.equal(true);
    expect((await admin.setFeature(5, DULBE, { nsid: 1 })).status).to.equal(0);
    expect((await admin.command({ opcode: 0x0a, nsid: 1, cdw10: 5 })).result0).to.equal(DULBE);
    expect((await read(8, 2)).status).to.equal(0);
    for (const [block, blocks] of [
      [10, 1],
      [9, 2],
      [7, 2],
      [8, 34],
    ] as const) {
      expect((await read(block, blocks)).code, `${block}+${blocks}`).to.equal(DEALLOCATED);
    }
    const range = { nsid: 1, cdw10: 9, cdw12: 1 };
    expect((await io.command({ ...range, opcode: 0x0c })).code).to.equal(DEALLOCATED);
    expect((await io.command({ ...range, opcode: 5 }, { data: Buffer.alloc(8192) })).code).to.equal(DEALLOCATED);
    const source = Buffer.alloc(32);
    source.writeUInt32LE(9, 8);
    source.writeUInt16LE(1, 16);
    const copied = await io.command({ opcode: 0x19, nsid: 1, cdw10: 100 }, { data: source });
    expect(copied.code).to.equal(DEALLOCATED);
    // zeroes that were written are allocated; deallocated again they are not
    await io.command({ opcode: 8, nsid: 1, cdw10: 10 });
    expect((await read(9, 2)).status).to.equal(0);
    await io.command({ opcode: 8, nsid: 1, cdw10: 10, cdw12: DEAC });
    expect((await read(10)).code).to.equal(DEALLOCATED);
    expect((await admin.setFeature(5, 0, { nsid: 1 })).status).to.equal(0);
    expect((await read(10)).data.every((byte) => byte === 0)).to.equal(true);
  });

  it('84: DULBE is of one controller and one namespace, and ends with a reset', async () => {
    const other = await t.association();
    await admin.setFeature(5, DULBE, { nsid: 0xffff_ffff });
    expect((await read(3)).code).to.equal(DEALLOCATED);
    expect((await other.io.read(3, 1, { blockBytes: 4096 })).status, 'another controller').to.equal(0);
    await admin.propertySet(0x14, 0);
    await admin.enable();
    io = await t.io(admin);
    expect((await read(3)).status).to.equal(0);
  });

  it('84: DULBE where blocks share pages: not advertised, Invalid Field; TLER is kept', async () => {
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }) });
    expect((await admin.identify(0, { nsid: 2 })).data[24]! & 4).to.equal(0);
    expect((await admin.setFeature(5, DULBE, { nsid: 2 })).code).to.equal(INVALID_FIELD);
    expect((await admin.setFeature(5, 0x20_0000, { nsid: 1 })).code).to.equal(INVALID_FIELD);
    expect((await admin.setFeature(5, 77, { nsid: 2 })).status).to.equal(0);
    expect((await admin.getFeature(5)).result0).to.equal(77);
  });

  it('NAWUN and NABSN: what memory sees as a whole; DLFEAT stays', async () => {
    const { data } = await admin.identify(0, { nsid: 1 });
    expect([data.readUInt16LE(34), data.readUInt16LE(36), data.readUInt16LE(38), data.readUInt16LE(40)]).to.deep.equal(
      [31, 0, 31, 31],
      'NAWUN, NAWUPF, NACWU, NABSN',
    );
    expect(data[33]! & 0x0f, 'DLFEAT').to.equal(9);
  });
});

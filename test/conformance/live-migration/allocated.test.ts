/** Get LBA Status, ATYPE 02h: allocated blocks. Cases A01 to A13 of docs/live-migration.md. */
import { expect } from 'chai';
import type { BlockBackend } from '../../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { NullBackend } from '../../../src/backend/null.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { pattern, type RawHost } from '../../support/raw-host.ts';
import { CopyBackend, TestTarget } from '../../support/test-target.ts';

const ALLOCATED = 2;
const GRANULE = 8;
const GROUP_BLOCKS = (16 << 20) / 512;

interface Answer {
  readonly code: number;
  readonly cmpc: number;
  /** First block, blocks. */
  readonly runs: [number, number][];
}

async function allocated(
  admin: RawHost,
  fields: { slba?: number; blocks?: number; dwords?: number; nsid?: number; action?: number } = {},
): Promise<Answer> {
  const { slba = 0, blocks = 0, dwords = 1024, nsid = 1, action = ALLOCATED } = fields;
  const cdw13 = ((action << 24) | blocks) >>> 0;
  const sqe = { opcode: 0x86, nsid, cdw10: slba, cdw12: dwords - 1, cdw13 };
  const { code, data } = await admin.command(sqe, { readBytes: dwords * 4 });
  if (code !== 0) return { code, cmpc: 0, runs: [] };
  const runs = Array.from({ length: data.readUInt32LE(0) }, (_, i): [number, number] => {
    expect(data[21 + i * 16], 'LBARS').to.equal(2);
    return [Number(data.readBigUInt64LE(8 + i * 16)), data.readUInt32LE(16 + i * 16) + 1];
  });
  return { code, cmpc: data[4]!, runs };
}

const deallocate = async (io: RawHost, slba: number, blocks: number): Promise<void> => {
  const data = Buffer.alloc(16);
  data.writeUInt32LE(blocks, 4);
  data.writeBigUInt64LE(BigInt(slba), 8);
  expect((await io.command({ opcode: 9, nsid: 1, cdw10: 0, cdw11: 4 }, { data })).code).to.equal(0);
};
/** In pieces that fit a capsule. */
const write = async (io: RawHost, slba: number, blocks: number): Promise<void> => {
  for (let at = slba; at < slba + blocks; at += 16) {
    const count = Math.min(16, slba + blocks - at);
    const sqe = { opcode: 1, nsid: 1, cdw10: at, cdw12: count - 1 };
    expect((await io.command(sqe, { data: pattern(count * 512, at) })).code).to.equal(0);
  }
};

describe('conformance: allocated blocks (ATYPE 02h)', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  afterEach(() => t.close());
  const start = async (backend: BlockBackend): Promise<void> => {
    t = await TestTarget.start({ backend });
    ({ admin, io } = await t.association());
  };
  const memory = (blockCount = 8192): Promise<void> => start(new MemoryBackend({ blockSize: 512, blockCount }));

  it('A01: an empty namespace has none, and the list is complete', async () => {
    await memory();
    expect(await allocated(admin)).to.deep.equal({ code: 0, cmpc: 2, runs: [] });
  });

  it('A02, A03, A04: a granule counts as a whole until all of it is deallocated', async () => {
    await memory();
    await write(io, 3 * GRANULE + 5, 1);
    expect((await allocated(admin)).runs).to.deep.equal([[3 * GRANULE, GRANULE]]);
    await deallocate(io, 3 * GRANULE, GRANULE - 1);
    expect((await allocated(admin)).runs).to.deep.equal([[3 * GRANULE, GRANULE]]);
    await deallocate(io, 3 * GRANULE, GRANULE);
    expect((await allocated(admin)).runs).to.deep.equal([]);
  });

  it('A05, A06: what is reported is clipped to what was asked for', async () => {
    await memory();
    await write(io, 16, 32);
    expect((await allocated(admin, { slba: 19 })).runs).to.deep.equal([[19, 29]]);
    expect((await allocated(admin, { slba: 3, blocks: 18 })).runs).to.deep.equal([[16, 5]]);
    expect((await allocated(admin, { slba: 20, blocks: 1 })).runs).to.deep.equal([[20, 1]]);
    expect((await allocated(admin, { slba: 48, blocks: 8 })).runs).to.deep.equal([]);
  });

  it('A07: an incomplete list says so and goes on where it ended', async () => {
    await memory();
    await write(io, 0, 8);
    await write(io, 24, 8);
    expect(await allocated(admin, { dwords: 6 })).to.deep.equal({ code: 0, cmpc: 1, runs: [[0, 8]] });
    expect(await allocated(admin, { slba: 8, dwords: 6 })).to.deep.equal({ code: 0, cmpc: 2, runs: [[24, 8]] });
  });

  it('A08: neighbours are one run, across everything the backend divides its memory into', async () => {
    await memory(3 * GROUP_BLOCKS);
    await write(io, GROUP_BLOCKS - 16, 16);
    await write(io, GROUP_BLOCKS, 16);
    await write(io, 3 * GROUP_BLOCKS - 8, 8);
    expect((await allocated(admin)).runs).to.deep.equal([
      [GROUP_BLOCKS - 16, 32],
      [3 * GROUP_BLOCKS - 8, 8],
    ]);
  });

  it('A10, A11, A13: other actions, all namespaces, blocks beyond the end', async () => {
    await memory();
    expect((await allocated(admin, { action: 3 })).code).to.equal(0x02);
    expect((await allocated(admin, { nsid: 0xffffffff })).code).to.equal(0x0b);
    expect((await allocated(admin, { slba: 8192 })).code).to.equal(0x80);
  });

  it('I15: RALBAS in AOCS, TLBAAG of the namespace', async () => {
    await memory();
    const identify = async (cdw10: number): Promise<Buffer> =>
      (await admin.command({ opcode: 6, nsid: cdw10 === 5 ? 1 : 0, cdw10 }, { readBytes: 4096 })).data;
    expect((await identify(6)).readUInt16LE(18) & 1).to.equal(1);
    expect((await identify(5)).readUInt32LE(292)).to.equal(GRANULE);
  });

  it('a backend that does not know reports everything; one that keeps nothing, nothing', async () => {
    await start(new CopyBackend());
    const blocks = t.backend.blockCount;
    expect(await allocated(admin)).to.deep.equal({ code: 0, cmpc: 2, runs: [[0, blocks]] });
    await t.close();
    await start(new NullBackend({ blockSize: 512, blockCount: 8192 }));
    await write(io, 0, 8);
    expect((await allocated(admin)).runs).to.deep.equal([]);
  });

  const seed = randomSeed();
  it(`matches a model of the granules (NVMEFERRY_SEED=${seed})`, async () => {
    const random = new Random(seed);
    await memory(GROUP_BLOCKS + 4096);
    const granules = (GROUP_BLOCKS + 4096) / GRANULE;
    const model = new Uint8Array(granules);
    for (let round = 0; round < 30; round++) {
      const blocks = 1 + random.below(64);
      const slba = Math.max(0, GROUP_BLOCKS - 512 + random.below(1024) - blocks);
      const remove = random.below(3) === 0;
      if (remove) await deallocate(io, slba, blocks);
      else await write(io, slba, blocks);
      const first = remove ? Math.ceil(slba / GRANULE) : Math.floor(slba / GRANULE);
      const end = remove ? Math.floor((slba + blocks) / GRANULE) : Math.ceil((slba + blocks) / GRANULE);
      if (first < end) model.fill(remove ? 0 : 1, first, end);
      const said = new Uint8Array(granules);
      for (let from = 0, more = true; more; ) {
        const { runs, cmpc } = await allocated(admin, { slba: from, dwords: 2 + 4 * (1 + random.below(4)) });
        for (const [start, count] of runs) said.fill(1, start / GRANULE, (start + count) / GRANULE);
        more = cmpc === 1;
        if (more) from = runs.at(-1)![0] + runs.at(-1)![1];
      }
      expect(Buffer.compare(said, model), `round ${round}`).to.equal(0);
    }
  });
});

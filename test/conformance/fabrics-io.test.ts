/** I/O commands of the NVM command set: sheet of commands 11; checklist 40 to 44, 47, 48, 63, 75, 99. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const SGL_LENGTH_INVALID = 0x0f;
const WRITE_PROTECTED = 0x20;
const LBA_OUT_OF_RANGE = 0x80;
const ALL = 0xffff_ffff;
const DEAC = 0x0200_0000;
const FUA = 0x4000_0000;

for (const blockBytes of [512, 4096]) {
  describe(`conformance: I/O commands, blocks of ${blockBytes} bytes`, () => {
    let t: TestTarget;
    let io: RawHost;
    const BLOCKS = (64 << 20) / blockBytes;
    beforeEach(async () => {
      t = await TestTarget.start({ backend: new MemoryBackend({ blockSize: blockBytes, blockCount: BLOCKS }) });
      ({ io } = await t.association());
    });
    afterEach(() => t.close());
    const read = (block: number, blocks: number): Promise<Completion> => io.read(block, blocks, { blockBytes });
    const write = (block: number, data: Uint8Array, by: 'capsule' | 'r2t' = 'r2t'): Promise<Completion> =>
      io.write(block, data, { blockBytes, by });

    it('what was never written reads zero, what was written reads back, in every length up to MDTS', async () => {
      expect((await read(5, 3)).data.every((byte) => byte === 0)).to.equal(true);
      for (const blocks of [1, 2, 7, 8, 32, 33, (1 << 20) / blockBytes]) {
        const data = pattern(blocks * blockBytes, blocks);
        expect((await write(3, data)).status).to.equal(0);
        expect((await read(3, blocks)).data.equals(data), `${blocks} blocks`).to.equal(true);
      }
    });

    it('40: past the end: LBA Out of Range, no data, nothing written; the last block works', async () => {
      for (const [block, blocks] of [
        [BLOCKS, 1],
        [BLOCKS - 1, 2],
        [ALL, 1],
      ] as const) {
        const failed = await read(block, blocks);
        expect([failed.code, failed.dnr, failed.data.length]).to.deep.equal([LBA_OUT_OF_RANGE, true, 0]);
        const refused = await write(block, Buffer.alloc(blocks * blockBytes, 1));
        expect([refused.code, refused.r2ts.length]).to.deep.equal([LBA_OUT_OF_RANGE, 0]);
      }
      expect((await write(BLOCKS - 1, Buffer.alloc(blockBytes, 1))).status).to.equal(0);
      expect((await read(BLOCKS - 1, 1)).status).to.equal(0);
    });

    it('75: SLBA 2^64-1 and others near 2^32 and 2^53: LBA Out of Range, no wrap', async () => {
      for (const [low, high] of [
        [ALL, ALL],
        [0, ALL],
        [0, 1],
        [0, 0x0020_0000],
        [ALL, 0x001f_ffff],
        [0, 0x8000_0000],
      ] as const) {
        const fields = { nsid: 1, cdw10: low, cdw11: high };
        for (const opcode of [1, 2, 8]) {
          const completion = await io.command({ opcode, ...fields }, { readBytes: blockBytes });
          expect(completion.code, `opcode ${opcode}`).to.equal(LBA_OUT_OF_RANGE);
        }
      }
    });

    it('41: NLB over MDTS: Invalid Field; MDTS itself works', async () => {
      const most = (1 << 20) / blockBytes;
      const over = await io.read(0, most + 1, { blockBytes });
      expect([over.code, over.data.length]).to.deep.equal([INVALID_FIELD, 0]);
      const refused = await write(0, Buffer.alloc((1 << 20) + blockBytes));
      expect([refused.code, refused.r2ts.length]).to.deep.equal([INVALID_FIELD, 0]);
      expect((await read(0, most)).data.length).to.equal(1 << 20);
    });

    it('42: an SGL too short: Data SGL Length Invalid, nothing written', async () => {
      const fields = { opcode: 1, nsid: 1, cdw12: 1 };
      const completion = await io.command(fields, { data: Buffer.alloc(blockBytes, 1) });
      expect(completion.code).to.equal(SGL_LENGTH_INVALID);
      expect((await read(0, 2)).data.every((byte) => byte === 0)).to.equal(true);
    });

    it('48: DSM deallocates several ranges: they read as DLFEAT says, the rest stays', async () => {
      const data = pattern(64 * blockBytes, 1);
      await write(0, data);
      const ranges = Buffer.alloc(48);
      ranges.writeUInt32LE(8, 4); // blocks 8 to 15
      ranges.writeBigUInt64LE(8n, 8);
      ranges.writeUInt32LE(0, 20); // nothing
      ranges.writeUInt32LE(1, 36); // block 33
      ranges.writeBigUInt64LE(33n, 40);
      const done = await io.command({ opcode: 9, nsid: 1, cdw10: 2, cdw11: 4 }, { data: ranges });
      expect(done.status).to.equal(0);
      data.fill(0, 8 * blockBytes, 16 * blockBytes);
      data.fill(0, 33 * blockBytes, 34 * blockBytes);
      expect((await read(0, 64)).data.equals(data)).to.equal(true);
    });

    it('48: DSM by R2T, with 256 ranges', async () => {
      const data = pattern(256 * blockBytes, 2).subarray(0, Math.min(256 * blockBytes, 1 << 20));
      await write(0, data);
      const ranges = Buffer.alloc(4096);
      for (let i = 0; i < 256; i++) {
        ranges.writeUInt32LE(1, i * 16 + 4);
        ranges.writeBigUInt64LE(BigInt(i * 2), i * 16 + 8);
      }
      const done = await io.command({ opcode: 9, nsid: 1, cdw10: 255, cdw11: 4 }, { data: ranges, by: 'r2t' });
      expect(done.status).to.equal(0);
      for (let at = 0; at < data.length; at += 2 * blockBytes) data.fill(0, at, at + blockBytes);
      expect((await read(0, data.length / blockBytes)).data.equals(data)).to.equal(true);
    });

    it('DSM: a range past the end: LBA Out of Range, nothing deallocated; without AD: nothing happens', async () => {
      const data = pattern(8 * blockBytes, 3);
      await write(0, data);
      const ranges = Buffer.alloc(32);
      ranges.writeUInt32LE(8, 4);
      ranges.writeUInt32LE(2, 20);
      ranges.writeBigUInt64LE(BigInt(BLOCKS - 1), 24);
      const fields = { opcode: 9, nsid: 1, cdw10: 1 };
      expect((await io.command({ ...fields, cdw11: 4 }, { data: ranges })).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await io.command({ opcode: 9, nsid: 1, cdw11: 3 }, { data: ranges.subarray(0, 16) })).status).to.equal(0);
      expect((await read(0, 8)).data.equals(data)).to.equal(true);
    });

    it('DSM: data shorter than NR says: Data SGL Length Invalid', async () => {
      const fields = { opcode: 9, nsid: 1, cdw10: 1, cdw11: 4 };
      expect((await io.command(fields, { data: Buffer.alloc(16) })).code).to.equal(SGL_LENGTH_INVALID);
    });

    for (const [name, cdw12] of [
      ['', 0],
      [' with DEAC', DEAC],
      [' with FUA', FUA],
    ] as const) {
      it(`Write Zeroes${name}: the blocks read zero, their neighbours stay`, async () => {
        const data = pattern(64 * blockBytes, 4);
        await write(0, data);
        const completion = await io.command({ opcode: 8, nsid: 1, cdw10: 3, cdw12: 40 | cdw12 });
        expect(completion.status).to.equal(0);
        data.fill(0, 3 * blockBytes, 44 * blockBytes);
        expect((await read(0, 64)).data.equals(data)).to.equal(true);
      });
    }

    it('47: Write Zeroes over MDTS is no error (ONCS bit 3), up to 65,536 blocks', async () => {
      const blocks = Math.min(65536, BLOCKS);
      await write(blocks - 8, Buffer.alloc(8 * blockBytes, 1));
      expect((await io.command({ opcode: 8, nsid: 1, cdw12: blocks - 1 })).status).to.equal(0);
      expect((await read(blocks - 8, 8)).data.every((byte) => byte === 0)).to.equal(true);
    });

    it('Write Zeroes with checks of protection information: Invalid Field', async () => {
      expect((await io.command({ opcode: 8, nsid: 1, cdw12: 0x1000_0000 })).code).to.equal(INVALID_FIELD);
    });
  });
}

describe('conformance: I/O commands and namespaces', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  it('43: an NSID without namespace: Invalid Field DNR; 0, beyond NN, FFFFFFFFh: Invalid Namespace or Format DNR', async () => {
    t = await TestTarget.start();
    const { io } = await t.association();
    for (const opcode of [0, 1, 2, 8, 9]) {
      for (const [nsid, code] of [
        [2, INVALID_FIELD],
        [1024, INVALID_FIELD],
        [0, INVALID_NAMESPACE],
        [1025, INVALID_NAMESPACE],
        [0xffff_fffe, INVALID_NAMESPACE],
        ...(opcode === 0 ? [] : [[ALL, INVALID_NAMESPACE] as const]),
      ] as const) {
        const completion = await io.command({ opcode, nsid }, { readBytes: 512 });
        expect([completion.code, completion.dnr], `opcode ${opcode}, NSID ${nsid}`).to.deep.equal([code, true]);
      }
    }
  });

  it('43: a namespace that is removed: the next command fails, what runs ends', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    backend.hold = true;
    const running = io.read(0, 8);
    await t.until(() => backend.held.length === 1);
    const removal = t.target.removeNamespace(t.subsystem, 1);
    expect((await io.read(0, 8)).code).to.equal(INVALID_FIELD);
    backend.release();
    await removal;
    expect((await running).status).to.equal(0);
  });

  it('44, 99: Flush of one namespace, and of all by FFFFFFFFh', async () => {
    const first = new CopyBackend();
    const second = new CopyBackend();
    t = await TestTarget.start({ backend: first });
    t.target.addNamespace(t.subsystem, { nsid: 5, backend: second });
    const { io } = await t.association();
    expect((await io.command({ opcode: 0, nsid: 5 })).status).to.equal(0);
    expect([first.flushCount, second.flushCount]).to.deep.equal([0, 1]);
    expect((await io.command({ opcode: 0, nsid: ALL })).status).to.equal(0);
    expect([first.flushCount, second.flushCount]).to.deep.equal([1, 2]);
    // the answer comes only when the last one is flushed
    second.hold = true;
    let done = false;
    const all = io.command({ opcode: 0, nsid: ALL }).then((completion) => {
      done = true;
      return completion;
    });
    await t.until(() => second.held.length === 1);
    expect(done).to.equal(false);
    second.release();
    expect((await all).status).to.equal(0);
  });

  it('63: every I/O opcode that the effects log does not name is Invalid Opcode, every one it names is not', async () => {
    t = await TestTarget.start();
    const { admin, io } = await t.association();
    const effects = (await admin.logPage(5, 4096)).data;
    for (let opcode = 0; opcode < 256; opcode++) {
      const supported = (effects.readUInt32LE(1024 + opcode * 4) & 1) === 1;
      const completion = await io.command({ opcode, nsid: 0xffff_fff0 }, { readBytes: 512 });
      expect(completion.code !== INVALID_OPCODE, `opcode ${opcode.toString(16)}h`).to.equal(supported);
    }
  });

  it('a read-only namespace: 20h on everything that changes it', async () => {
    t = await TestTarget.start();
    t.target.addNamespace(t.subsystem, {
      nsid: 2,
      backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }),
      readOnly: true,
    });
    const { io } = await t.association();
    const range = Buffer.alloc(16);
    for (const [fields, data] of [
      [{ opcode: 1, nsid: 2 }, Buffer.alloc(512)],
      [{ opcode: 8, nsid: 2 }, undefined],
      [{ opcode: 9, nsid: 2, cdw11: 4 }, range],
    ] as const) {
      const completion = await io.command(fields, data === undefined ? {} : { data });
      expect([completion.code, completion.dnr], `opcode ${fields.opcode}`).to.deep.equal([WRITE_PROTECTED, true]);
    }
    expect((await io.command({ opcode: 2, nsid: 2 }, { readBytes: 512 })).status).to.equal(0);
    expect((await io.command({ opcode: 0, nsid: 2 })).status).to.equal(0);
  });

  it('a backend that fails: its status arrives, without data', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    backend.read = (request): void => request.complete(0x281);
    const failed = await io.read(0, 8);
    expect([failed.code, failed.data.length]).to.deep.equal([0x281, 0]);
    backend.read = (request): void => {
      request.lend(pattern(4096, 1)); // it went wrong after a part
      request.complete(0x281);
    };
    const late = await io.read(0, 8);
    expect([late.code, late.data.length]).to.deep.equal([0x281, 0]);
    backend.write = (request): void => request.complete(0x280);
    expect((await io.write(0, Buffer.alloc(4096))).code).to.equal(0x280);
    expect((await io.write(0, Buffer.alloc(4096), { by: 'r2t' })).code).to.equal(0x280);
  });

  it('a backend that keeps in-capsule data: the bytes are those of the command, whatever came later', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    backend.hold = true;
    const contents = Array.from({ length: 32 }, (_, i) => pattern(4096, i));
    const all = contents.map((data, i) => io.write(i * 8, data));
    await t.until(() => backend.held.length === 32);
    backend.hold = false;
    backend.release();
    for (const done of await Promise.all(all)) expect(done.status).to.equal(0);
    for (const [i, data] of contents.entries()) {
      expect((await io.read(i * 8, 8)).data.equals(data), `write ${i}`).to.equal(true);
    }
    expect(t.target.pool.usedBytes).to.equal(0);
  });

  it('two controllers of two hosts see one another', async () => {
    t = await TestTarget.start();
    const one = await t.association();
    const two = await t.association();
    const data = pattern(4096, 12);
    await one.io.write(0, data);
    expect((await two.io.read(0, 8)).data.equals(data)).to.equal(true);
  });
});

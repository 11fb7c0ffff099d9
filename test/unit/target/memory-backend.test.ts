/** What MemoryBackend costs. What every backend must do is in the compliance suite. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { TestBlockIo } from '../../support/backend-compliance.ts';
import { needNative } from '../../support/native.ts';
import { pattern } from '../../support/raw-host.ts';

const GIB = 2 ** 30;
const MIB = 2 ** 20;

function run(operation: (io: TestBlockIo) => void, options: ConstructorParameters<typeof TestBlockIo>[0]): TestBlockIo {
  const io = new TestBlockIo(options);
  operation(io);
  expect(io.status).to.equal(0);
  return io;
}

describe('MemoryBackend: sparse', () => {
  for (const blockSize of [512, 4096]) {
    it(`64 GiB of address space cost little; a read costs nothing: blocks of ${blockSize}`, () => {
      const before = process.memoryUsage();
      const backend = new MemoryBackend({ blockSize, blockCount: (64 * GIB) / blockSize });
      for (let at = 0; at < 64; at++) {
        const io = run((one) => backend.read(one), { offset: at * GIB, length: 4096 });
        expect(io.data.every((byte) => byte === 0)).to.equal(true);
      }
      const after = process.memoryUsage();
      expect(after.arrayBuffers - before.arrayBuffers).to.be.below(MIB);
      expect(after.heapUsed - before.heapUsed).to.be.below(4 * MIB);
      expect(backend.allocatedBytes()).to.equal(0);
    });
  }

  it('what is written far apart is found again and costs what its neighbourhood takes, deallocation gives it back', () => {
    const backend = new MemoryBackend({ blockSize: 4096, blockCount: (64 * GIB) / 4096 });
    const places = [0, 3 * GIB - 4096, 17 * GIB, 40 * GIB + 65_536, 64 * GIB - 4096];
    const before = process.memoryUsage.rss();
    for (const [i, offset] of places.entries()) {
      run((io) => backend.write(io), { offset, data: [pattern(4096, i)] });
    }
    // 16 MiB of address space each, of which what was touched is committed: a huge page at most
    expect(process.memoryUsage.rss() - before).to.be.below(places.length * 3 * MIB);
    expect(backend.allocatedBytes()).to.equal(places.length * 4096);
    for (const [i, offset] of places.entries()) {
      const { data } = run((io) => backend.read(io), { offset, length: 4096 });
      expect(Buffer.from(data).equals(pattern(4096, i))).to.equal(true);
    }
    for (const offset of places) run((io) => backend.deallocate(io), { offset, length: 4096 });
    expect(backend.allocatedBytes()).to.equal(0);
    for (const offset of places) {
      const { data } = run((io) => backend.read(io), { offset, length: 4096 });
      expect(data.every((byte) => byte === 0)).to.equal(true);
    }
  });

  it('zeroing or deallocating what was never written costs nothing', () => {
    const backend = new MemoryBackend({ blockSize: 512, blockCount: (64 * GIB) / 512 });
    const before = process.memoryUsage().arrayBuffers;
    run((io) => backend.deallocate(io), { offset: 0, length: 32 * GIB });
    run((io) => backend.writeZeroes(io, true), { offset: GIB, length: 32 * GIB });
    expect(process.memoryUsage().arrayBuffers - before).to.be.below(MIB);
    expect(backend.allocatedBytes()).to.equal(0);
  });

  it('transfers over every boundary of its slabs and groups agree with a flat model', () => {
    const size = 48 * MIB;
    const backend = new MemoryBackend({ blockSize: 512, blockCount: size / 512 });
    const model = Buffer.alloc(size);
    for (const boundary of [128 << 10, 256 << 10, 16 * MIB, 32 * MIB]) {
      for (const [before, length] of [
        [512, 1024],
        [4096, 8192],
        [1024, 300 << 10],
        [131_072, 262_144],
      ] as const) {
        const offset = boundary - before;
        const data = pattern(length, boundary + length);
        run((io) => backend.write(io), { offset, data: [data.subarray(0, 512), data.subarray(512)] });
        model.set(data, offset);
        run((io) => backend.deallocate(io), { offset: offset + 512, length: 512 });
        model.fill(0, offset + 512, offset + 1024);
        const from = Math.max(0, offset - 4096);
        const around = run((io) => backend.read(io), { offset: from, length: offset + length + 4096 - from });
        const wanted = model.subarray(from, offset + length + 4096);
        expect(Buffer.from(around.data).equals(wanted), `${before} before ${boundary}`).to.equal(true);
      }
    }
  });
});

describe('MemoryBackend: memory of the system', () => {
  const MEASURED = 128 * MIB;
  const rss = (): number => process.memoryUsage.rss();

  it('takes back what is deallocated, page by page, and not before', function () {
    needNative(this);
    const backend = new MemoryBackend({ blockSize: 4096, blockCount: MEASURED / 4096 });
    const data = [pattern(MIB, 3)];
    const before = rss();
    for (let offset = 0; offset < MEASURED; offset += MIB) run((io) => backend.write(io), { offset, data });
    const full = rss();
    expect(full - before, 'written').to.be.greaterThan(MEASURED / 2);
    // all but the last page of each MiB: no group is empty afterwards
    for (let offset = 0; offset < MEASURED; offset += MIB) {
      run((io) => backend.deallocate(io), { offset, length: MIB - 4096 });
    }
    expect(full - rss(), 'given back').to.be.greaterThan(MEASURED / 2);
    expect(backend.allocatedBytes()).to.equal((MEASURED / MIB) * 4096);
    const { data: last } = run((io) => backend.read(io), { offset: MIB - 8192, length: 8192 });
    expect(last.subarray(0, 4096).every((byte) => byte === 0)).to.equal(true);
    expect(Buffer.from(last.subarray(4096)).equals(data[0]!.subarray(MIB - 4096))).to.equal(true);
  });

  it('keeps its content while it moves into huge pages', async () => {
    const backend = new MemoryBackend({ blockSize: 4096, blockCount: (8 * MIB) / 4096 });
    const data = pattern(8 * MIB, 4);
    for (let offset = 0; offset < 8 * MIB; offset += 65_536) {
      run((io) => backend.write(io), { offset, data: [data.subarray(offset, offset + 65_536)] });
    }
    for (let turn = 0; turn < 50; turn++) {
      const offset = turn * 4096;
      data.fill(turn, offset, offset + 4096);
      run((io) => backend.write(io), { offset, data: [data.subarray(offset, offset + 4096)] });
      await new Promise((resolve) => setImmediate(resolve));
    }
    const all = run((io) => backend.read(io), { offset: 0, length: 8 * MIB });
    expect(Buffer.from(all.data).equals(data)).to.equal(true);
  });
});

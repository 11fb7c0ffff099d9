/** What MemoryBackend costs, and what it does with memory that is still being sent. What every backend must do is in the compliance suite. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { pin, unpin } from '../../../src/util/pin.ts';
import { TestBlockIo } from '../../support/backend-compliance.ts';
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
    const before = process.memoryUsage().arrayBuffers;
    for (const [i, offset] of places.entries()) {
      run((io) => backend.write(io), { offset, data: [pattern(4096, i)] });
    }
    expect(process.memoryUsage().arrayBuffers - before).to.be.below(places.length * MIB);
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

describe('MemoryBackend: pinned memory', () => {
  const OLD = pattern(256 << 10, 1);
  let backend: MemoryBackend;
  let lent: Uint8Array[];
  beforeEach(() => {
    backend = new MemoryBackend({ blockSize: 512, blockCount: MIB / 512 });
    run((io) => backend.write(io), { offset: 0, data: [OLD] });
    ({ lent } = run((io) => backend.read(io), { offset: 4096, length: 200 << 10 }));
    for (const view of lent) pin(view.buffer);
  });
  afterEach(() => {
    for (const view of lent) unpin(view.buffer);
  });
  const expectLentUnchanged = (): void => {
    expect(Buffer.concat(lent).equals(OLD.subarray(4096, 4096 + (200 << 10)))).to.equal(true);
  };
  const current = (offset: number, length: number): Buffer =>
    Buffer.from(run((io) => backend.read(io), { offset, length }).data);

  it('a write goes elsewhere: who was lent the memory keeps it, who reads sees the new bytes', () => {
    const fresh = pattern(8192, 2);
    run((io) => backend.write(io), { offset: 2048, data: [fresh] });
    expectLentUnchanged();
    expect(current(2048, 8192).equals(fresh)).to.equal(true);
    expect(current(0, 2048).equals(OLD.subarray(0, 2048))).to.equal(true);
    expect(current(10_240, 4096).equals(OLD.subarray(10_240, 14_336))).to.equal(true);
    // page reads after the copy, too
    expect(current(4096, 4096).equals(fresh.subarray(2048, 6144))).to.equal(true);
  });

  for (const [name, clear] of [
    ['Write Zeroes', (io: TestBlockIo): void => backend.writeZeroes(io, false)],
    ['Write Zeroes with deallocation', (io: TestBlockIo): void => backend.writeZeroes(io, true)],
    ['deallocation', (io: TestBlockIo): void => backend.deallocate(io)],
  ] as const) {
    it(`${name} leaves what was lent, of parts and of everything`, () => {
      run(clear, { offset: 8192, length: 1024 });
      expectLentUnchanged();
      expect(current(8192, 1024).every((byte) => byte === 0)).to.equal(true);
      run(clear, { offset: 0, length: 256 << 10 });
      expectLentUnchanged();
      expect(current(0, 256 << 10).every((byte) => byte === 0)).to.equal(true);
    });
  }

  it('once unpinned, writes go to the memory itself again', () => {
    for (const view of lent) unpin(view.buffer);
    run((io) => backend.write(io), { offset: 4096, data: [Buffer.alloc(4096, 0x11)] });
    expect(lent[0]![0], 'in place').to.equal(0x11);
    for (const view of lent) pin(view.buffer);
  });
});

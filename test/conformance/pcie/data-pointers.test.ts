/** PRPs and SGLs of every small geometry, against a plain model of memory. Base 2.1 sections 4.3.1, 4.3.2. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { IoOpcode } from '../../../src/spec/opcode.ts';
import { Status } from '../../../src/spec/status.ts';
import type { GuestCommand } from '../../../src/vm/guest.ts';
import { withSeeds } from '../../support/random.ts';
import { TestVm } from '../../support/vm.ts';

const PAGE = 4096;
const BLOCK = 512;
const code = (status: number): number => status & 0x7ff;

/** A piece of guest memory, or of nothing (bit bucket). */
interface Piece {
  readonly address: number;
  readonly length: number;
  readonly bucket?: boolean;
}

class Bench {
  readonly vm: TestVm;
  readonly backend = new MemoryBackend({ blockSize: BLOCK, blockCount: 4096 });

  private constructor(ramBytes: number) {
    this.vm = new TestVm({ backend: this.backend, guest: { runsItself: false, ramBytes } });
  }

  static async start(configuration = 0x0046_0001, ramBytes = 512 << 10): Promise<Bench> {
    const bench = new Bench(ramBytes);
    const { guest } = bench.vm;
    guest.enable(32, configuration);
    const made = guest.createQueue(1, 64);
    for (let i = 0; i < 8; i++) {
      guest.run();
      await Promise.resolve();
      await new Promise(setImmediate);
    }
    await made;
    return bench;
  }

  /** One command, run to its end in this call. */
  run(command: GuestCommand): number {
    const { guest } = this.vm;
    let status = -1;
    guest.put(guest.queues[1]!, command, (cqe, at) => {
      status = cqe.getUint16(at + 14, true) >>> 1;
    });
    guest.ring(guest.queues[1]!);
    guest.run();
    expect(status, 'it ends in the same turn').to.not.equal(-1);
    return status;
  }

  io(opcode: number, slba: number, blocks: number, pointers: Partial<GuestCommand>): number {
    return this.run({ opcode, nsid: 1, cdw10: slba, cdw12: blocks - 1, ...pointers });
  }

  /** What the pieces hold, one after the other. */
  gather(pieces: readonly Piece[]): Uint8Array {
    return Buffer.concat(
      pieces.map(({ address, length, bucket }) =>
        bucket ? new Uint8Array(length) : this.vm.guest.ram.slice(address, length),
      ),
    );
  }

  scatter(pieces: readonly Piece[], data: Uint8Array): void {
    let offset = 0;
    for (const { address, length, bucket } of pieces) {
      if (!bucket) this.vm.guest.ram.write(address, data.subarray(offset, offset + length));
      offset += length;
    }
  }
}

const data = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => ((i * 2654435761 + seed * 40503) >>> 13) & 0xff);

/** Writes by `pointers`, reads back by the same into memory that was spoilt; nothing else of the guest's memory may change. */
function check(
  bench: Bench,
  pieces: readonly Piece[],
  pointers: Partial<GuestCommand>,
  seed: number,
  what: string,
): void {
  const { guest } = bench.vm;
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const blocks = length / BLOCK;
  const content = data(length, seed);
  bench.scatter(pieces, content);
  expect(bench.io(IoOpcode.Write, 8, blocks, pointers), `${what}: write`).to.equal(0);
  for (const { address, length: bytes, bucket } of pieces) if (!bucket) guest.ram.fill(address, bytes, 0xee);
  const before = Buffer.from(guest.ram.bytes);
  expect(bench.io(IoOpcode.Read, 8, blocks, pointers), `${what}: read`).to.equal(0);
  const got = Buffer.from(bench.gather(pieces));
  // what a bit bucket takes of a read is gone
  let at = 0;
  for (const { length: bytes, bucket } of pieces) {
    if (bucket) content.fill(0, at, at + bytes);
    at += bytes;
  }
  if (Buffer.compare(got, content) !== 0) expect.fail(`${what}: the bytes differ`);
  // outside of the pieces (and of the queues) nothing was touched
  const after = Buffer.from(guest.ram.bytes);
  const queue = guest.queues[1]!;
  const free = [
    ...pieces.filter(({ bucket }) => !bucket),
    { address: queue.cqAddress, length: PAGE },
    { address: queue.sqAddress, length: PAGE },
  ];
  for (const { address, length: bytes } of free) {
    before.fill(0, guest.ram.at(address), guest.ram.at(address) + bytes);
    after.fill(0, guest.ram.at(address), guest.ram.at(address) + bytes);
  }
  if (Buffer.compare(before, after) !== 0) expect.fail(`${what}: memory outside of the data was written`);
}

describe('conformance: PCIe data pointers', () => {
  let bench: Bench;
  afterEach(() => bench.vm.close());

  it('PRPs: every dword offset of the first page in steps, lengths that end on, before and behind every page', async () => {
    bench = await Bench.start();
    const { ram } = bench.vm.guest;
    // pages far apart and in disorder, so that none follows another
    const arena = ram.allocate(64 * PAGE);
    const page = (i: number): number => arena + ((i * 7 + 3) % 64) * PAGE;
    const list = ram.allocate(4 * PAGE);
    const offsets = [0, 4, 8, 508, 512, 1024, 2044, 2048, 3584, 4088, 4092];
    let seed = 1;
    for (const offset of offsets) {
      for (const blocks of [1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 40]) {
        const length = blocks * BLOCK;
        const pieces: Piece[] = [];
        for (let left = length, i = 0; left > 0; i++) {
          const start = i === 0 ? offset : 0;
          const take = Math.min(left, PAGE - start);
          pieces.push({ address: page(i) + start, length: take });
          left -= take;
        }
        // the list begins anywhere in its page, also so near its end that it goes on in the next
        for (const listOffset of pieces.length > 2 ? [0, 8, PAGE - 8, PAGE - 16, PAGE - 24] : [0]) {
          const prp2 = pieces.length === 1 ? 0 : pieces.length === 2 ? pieces[1]!.address : list + listOffset;
          if (pieces.length > 2) writeList(bench, list + listOffset, list + 2 * PAGE, pieces.slice(1));
          const what = `offset ${offset}, ${blocks} blocks, list at ${listOffset}`;
          check(bench, pieces, { prp1: pieces[0]!.address, prp2 }, seed++, what);
        }
      }
    }
  });

  it('PRPs: pages of 8 and 64 KiB (CC.MPS)', async () => {
    for (const exponent of [1, 4]) {
      bench = await Bench.start(0x0046_0001 | (exponent << 7), 4 << 20);
      const bytes = PAGE << exponent;
      const { ram } = bench.vm.guest;
      const arena = Math.ceil(ram.allocate(20 * bytes) / bytes) * bytes;
      const list = Math.ceil(ram.allocate(2 * bytes) / bytes) * bytes;
      const pieces = [
        { address: arena + 5 * bytes + bytes - 1024, length: 1024 },
        { address: arena + 2 * bytes, length: bytes },
        { address: arena + 9 * bytes, length: 512 },
      ];
      ram.writeU64(list, pieces[1]!.address);
      ram.writeU64(list + 8, pieces[2]!.address);
      check(bench, pieces, { prp1: pieces[0]!.address, prp2: list }, exponent, `MPS ${exponent}`);
      if (exponent === 1) await bench.vm.close();
    }
  });

  it('PRPs: offsets that must be 0 are PRP Offset Invalid; lists and pages that are not there are Data Transfer Errors', async () => {
    bench = await Bench.start();
    const { ram } = bench.vm.guest;
    const at = ram.allocate(8 * PAGE);
    const outside = ram.base + ram.lengthBytes;
    const read = (prp1: number, prp2: number, blocks = 8): number =>
      code(bench.io(IoOpcode.Read, 0, blocks, { prp1, prp2 }));
    expect(read(at + 1, 0)).to.equal(Status.PrpOffsetInvalid);
    expect(read(at + 2, 0)).to.equal(Status.PrpOffsetInvalid);
    expect(read(at + 512, at + PAGE + 4)).to.equal(Status.PrpOffsetInvalid);
    expect(read(at, at + 4, 24), 'a list at no multiple of 8').to.equal(Status.PrpOffsetInvalid);
    ram.writeU64(at, at + PAGE);
    ram.writeU64(at + 8, at + 2 * PAGE + 512);
    expect(read(at, at, 24), 'an entry with an offset').to.equal(Status.PrpOffsetInvalid);
    expect(read(outside, 0)).to.equal(Status.DataTransferError);
    expect(read(outside - 512, outside), 'the second page').to.equal(Status.DataTransferError);
    expect(read(at, outside, 24), 'the list').to.equal(Status.DataTransferError);
    ram.writeU64(at + 8, outside);
    expect(read(at, at, 24), 'an entry').to.equal(Status.DataTransferError);
    expect(read(2 ** 52, 0)).to.equal(Status.DataTransferError);
    expect(code(bench.io(IoOpcode.Write, 0, 8, { prp1: outside, prp2: 0 }))).to.equal(Status.DataTransferError);
    expect(bench.vm.fatal).to.deep.equal([]);
  });

  it('SGLs: every cut of 4 blocks in up to three data blocks at odd addresses, in one segment and in a chain', async () => {
    bench = await Bench.start();
    const { ram } = bench.vm.guest;
    const arena = ram.allocate(32 * PAGE);
    const list = ram.allocate(4 * PAGE);
    const length = 4 * BLOCK;
    const cuts = [0, 1, 3, 511, 512, 513, 1000, 2047, 2048];
    let seed = 1;
    for (const first of cuts) {
      for (const second of cuts.filter((cut) => cut >= first)) {
        const pieces = [
          { address: arena + 4093, length: first },
          { address: arena + 3 * PAGE + 1, length: second - first },
          { address: arena + 9 * PAGE - 7, length: length - second },
        ];
        for (const perSegment of [1, 2, 3]) {
          const head = writeSgl(bench, list, pieces, perSegment);
          const what = `cuts ${first}, ${second}, ${perSegment} a segment`;
          check(bench, pieces, { flags: 0x40, ...head }, seed++, what);
        }
      }
    }
    check(
      bench,
      [{ address: arena + 3, length }],
      { flags: 0x40, prp1: arena + 3, prp2: length, sglType: 0 },
      1,
      'one block',
    );
    check(
      bench,
      [{ address: arena + 3, length }],
      { flags: 0x80, prp1: arena + 3, prp2: length + 99, sglType: 0 },
      1,
      'longer',
    );
  });

  it('SGLs: a bit bucket swallows its part of a read, and counts for nothing in a write', async () => {
    bench = await Bench.start();
    const { ram } = bench.vm.guest;
    const arena = ram.allocate(4 * PAGE);
    const list = ram.allocate(PAGE);
    const content = data(2 * BLOCK, 5);
    ram.write(arena, content);
    expect(bench.io(IoOpcode.Write, 0, 2, { flags: 0x40, prp1: arena, prp2: 2 * BLOCK, sglType: 0 })).to.equal(0);
    const pieces = [
      { address: arena, length: 300 },
      { address: 0, length: 400, bucket: true },
      { address: arena + PAGE, length: 324 },
    ];
    ram.fill(arena, 4 * PAGE, 0xee);
    const head = writeSgl(bench, list, pieces, 3);
    expect(bench.io(IoOpcode.Read, 0, 2, { flags: 0x40, ...head })).to.equal(0);
    expect(ram.slice(arena, 301)).to.deep.equal(Uint8Array.from([...content.subarray(0, 300), 0xee]));
    expect(ram.slice(arena + PAGE, 325)).to.deep.equal(Uint8Array.from([...content.subarray(700), 0xee]));
    expect(code(bench.io(IoOpcode.Write, 0, 2, { flags: 0x40, ...head })), 'too short').to.equal(
      Status.DataSglLengthInvalid,
    );
  });

  it('SGLs: what is malformed has its status', async () => {
    bench = await Bench.start();
    const { ram } = bench.vm.guest;
    const at = ram.allocate(4 * PAGE);
    const list = ram.allocate(PAGE);
    const read = (prp1: number, prp2: number, sglType: number, flags = 0x40): number =>
      code(bench.io(IoOpcode.Read, 0, 8, { flags, prp1, prp2, sglType }));
    expect(read(at, 4095, 0), 'too short').to.equal(Status.DataSglLengthInvalid);
    expect(read(at, 0, 0), 'nothing').to.equal(Status.DataSglLengthInvalid);
    for (const type of [0x40, 0x50, 0x01, 0xf0, 0x0a])
      expect(read(at, 4096, type)).to.equal(Status.SglDescriptorTypeInvalid);
    expect(read(list, 0, 0x30)).to.equal(Status.InvalidSglSegment);
    expect(read(list, 24, 0x30)).to.equal(Status.InvalidSglSegment);
    expect(read(ram.base + ram.lengthBytes - 8, 16, 0x30)).to.equal(Status.DataTransferError);
    // a last segment that names another
    descriptor(bench, list, at, 16, 0x20);
    expect(read(list, 16, 0x30)).to.equal(Status.InvalidSglSegment);
    // a segment without a successor
    descriptor(bench, list, at, 512, 0x00);
    expect(read(list, 16, 0x20)).to.equal(Status.InvalidSglSegment);
    // a segment that names itself for ever
    descriptor(bench, list, list, 16, 0x20);
    expect(read(list, 16, 0x20)).to.equal(Status.InvalidSglCount);
    expect(read(at, 4096, 0, 0xc0), 'PSDT 11b').to.equal(Status.InvalidField);
    expect(bench.vm.fatal).to.deep.equal([]);
  });

  it('SGLs at random: hundreds of pieces of any length, in segments of any length', async () => {
    bench = await Bench.start(0x0046_0001, 4 << 20);
    const { ram } = bench.vm.guest;
    const arena = ram.allocate(512 * PAGE);
    const list = ram.allocate(64 * PAGE);
    withSeeds(20, (random) => {
      const pieces: Piece[] = [];
      let left = (1 + random.below(256)) * BLOCK;
      let address = arena;
      while (left > 0) {
        const length = Math.min(left, random.oneIn(4) ? random.below(9) : 1 + random.below(3000));
        address += random.below(100);
        pieces.push({ address, length });
        address += length;
        left -= length;
      }
      const head = writeSgl(bench, list, pieces, 1 + random.below(60));
      check(bench, pieces, { flags: 0x40, ...head }, random.below(99), `${pieces.length} pieces`);
    });
  });
});

/** A PRP list from `at` on, whose last slot of the page names `next` if entries are left. */
function writeList(bench: Bench, at: number, next: number, pieces: readonly Piece[]): void {
  const { ram } = bench.vm.guest;
  let slot = at;
  pieces.forEach(({ address }, i) => {
    if ((slot + 8) % PAGE === 0 && i < pieces.length - 1) {
      ram.writeU64(slot, next);
      slot = next;
    }
    ram.writeU64(slot, address);
    slot += 8;
  });
}

function descriptor(bench: Bench, at: number, address: number, length: number, type: number): void {
  const { ram } = bench.vm.guest;
  ram.writeU64(at, address);
  ram.view.setUint32(ram.at(at) + 8, length, true);
  ram.view.setUint32(ram.at(at) + 12, type * 2 ** 24, true);
}

/** Descriptors in segments with `perSegment` pieces each. @returns what the command says */
function writeSgl(bench: Bench, list: number, pieces: readonly Piece[], perSegment: number): Partial<GuestCommand> {
  const segments: Piece[][] = [];
  for (let i = 0; i < pieces.length; i += perSegment) segments.push(pieces.slice(i, i + perSegment));
  let at = list;
  segments.forEach((segment, s) => {
    for (const { address, length, bucket } of segment) {
      descriptor(bench, at, address, length, bucket ? 0x10 : 0);
      at += 16;
    }
    const next = segments[s + 1];
    if (next === undefined) return;
    const isLast = s + 2 === segments.length;
    descriptor(bench, at, at + 16, (next.length + (isLast ? 0 : 1)) * 16, isLast ? 0x30 : 0x20);
    at += 16;
  });
  const isOnly = segments.length === 1;
  return { prp1: list, prp2: (segments[0]!.length + (isOnly ? 0 : 1)) * 16, sglType: isOnly ? 0x30 : 0x20 };
}

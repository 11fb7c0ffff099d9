/** Data pointers by exhaustive enumeration, against plain models: which pieces of memory a command means. The data themselves: test/conformance/pcie. */
import { expect } from 'chai';
import { DataPointer, NOWHERE, type PointerOwner } from '../../../../src/transport/pcie/data-pointer.ts';
import { GuestMemory } from '../../../../src/transport/pcie/guest-memory.ts';

const PAGE = 4096;
const BASE = 2 ** 32;
const RAM_BYTES = 96 * PAGE;
/** Data pages in an order in which none follows another; lists stand behind them. */
const dataPage = (i: number): number => BASE + ((i * 7 + 3) % 64) * PAGE;
const LISTS = BASE + 64 * PAGE;

class Bench {
  readonly ram = new DataView(new SharedArrayBuffer(RAM_BYTES));
  readonly memory = new GuestMemory();
  readonly pointer: DataPointer = new DataPointer(this.memory);
  readonly sqe = new DataView(new ArrayBuffer(64));
  readonly owner: { -readonly [K in keyof PointerOwner]: PointerOwner[K] };

  constructor() {
    this.memory.isMaster = true;
    this.memory.map({ iova: BASE, lengthBytes: RAM_BYTES, buffer: this.ram.buffer });
    this.owner = {
      sqe: this.sqe,
      sqeBase: 0,
      transferBytes: 0,
      direction: 2,
      fail: (status) => status,
    };
  }

  /** PRP1 and PRP2, or the SGL descriptor. */
  set(first: number, second: number, sglType?: number): void {
    this.#address(this.sqe, 24, first);
    this.sqe.setUint8(1, sglType === undefined ? 0 : 0x40);
    if (sglType === undefined) this.#address(this.sqe, 32, second);
    else {
      this.sqe.setUint32(32, second, true);
      this.sqe.setUint32(36, sglType * 2 ** 24, true);
    }
  }

  #address(view: DataView, at: number, address: number): void {
    view.setUint32(at, address >>> 0, true);
    view.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
  }

  entry(at: number, address: number): void {
    this.#address(this.ram, at - BASE, address);
  }

  descriptor(at: number, address: number, length: number, type: number): void {
    this.entry(at, address);
    this.ram.setUint32(at - BASE + 8, length, true);
    this.ram.setUint32(at - BASE + 12, type * 2 ** 24, true);
  }

  resolve(transferBytes: number): number {
    this.owner.transferBytes = transferBytes;
    return this.pointer.resolve(this.owner);
  }

  /** Throws a message where the pieces are not those of the model; `expect` a million times would be most of the test. */
  check(expected: readonly (readonly [address: number, length: number])[], what: () => string): void {
    const { count, addresses, lengths } = this.pointer;
    let same = count === expected.length;
    for (let i = 0; same && i < count; i++) same = addresses[i] === expected[i]![0] && lengths[i] === expected[i]![1];
    if (same) return;
    const found = Array.from({ length: count }, (_, i) => [addresses[i]!, lengths[i]!]);
    expect(found, what()).to.deep.equal(expected);
  }
}

describe('DataPointer, by enumeration', function () {
  this.timeout(60_000);

  it('PRPs: every dword offset in the first page, every length in dwords up to two pages', () => {
    const bench = new Bench();
    const pieces: [number, number][] = [];
    for (let offset = 0; offset < PAGE; offset += 4) {
      bench.set(dataPage(0) + offset, dataPage(1));
      for (let length = 4; length <= 2 * PAGE - offset; length += 4) {
        const first = Math.min(length, PAGE - offset);
        pieces.length = 0;
        pieces.push([dataPage(0) + offset, first]);
        if (length > first) pieces.push([dataPage(1), length - first]);
        const status = bench.resolve(length);
        if (status !== 0) expect.fail(`offset ${offset}, ${length} bytes: status ${status}`);
        bench.check(pieces, () => `offset ${offset}, ${length} bytes`);
      }
    }
  });

  it('PRP lists: every slot of a page as the first of the list, every length in pages up to nine, first pages cut at their edges', () => {
    const bench = new Bench();
    for (let slot = 0; slot < PAGE / 8; slot++) {
      for (const offset of [0, 4, 512, 2048, PAGE - 512, PAGE - 4]) {
        for (let pages = 3; pages <= 9; pages++) {
          for (const last of [4, 512, PAGE - 4, PAGE]) {
            const pieces: [number, number][] = [[dataPage(0) + offset, PAGE - offset]];
            for (let i = 1; i < pages; i++) pieces.push([dataPage(i), i === pages - 1 ? last : PAGE]);
            let at = LISTS + slot * 8;
            for (let i = 1; i < pages; i++) {
              // the last slot of a page names the next page of the list, unless the list ends there
              if ((at + 8) % PAGE === 0 && i < pages - 1) {
                bench.entry(at, LISTS + 5 * PAGE);
                at = LISTS + 5 * PAGE;
              }
              bench.entry(at, dataPage(i));
              at += 8;
            }
            bench.set(dataPage(0) + offset, LISTS + slot * 8);
            const length = pieces.reduce((sum, [, bytes]) => sum + bytes, 0);
            const what = (): string => `slot ${slot}, offset ${offset}, ${pages} pages, ${last} bytes in the last`;
            const status = bench.resolve(length);
            if (status !== 0) expect.fail(`${what()}: status ${status}`);
            bench.check(pieces, what);
          }
        }
      }
    }
  });

  it('every offset of PRP1, PRP2 and a list that is not allowed', () => {
    const bench = new Bench();
    const PRP_OFFSET_INVALID = 0x13;
    for (let offset = 0; offset < PAGE; offset++) {
      bench.set(dataPage(0) + offset, dataPage(1));
      const first = bench.resolve(4) & 0x7ff;
      if (first !== ((offset & 3) === 0 ? 0 : PRP_OFFSET_INVALID)) expect.fail(`PRP1 at ${offset}: ${first}`);
      bench.set(dataPage(0), dataPage(1) + offset);
      const second = bench.resolve(2 * PAGE) & 0x7ff;
      if (second !== (offset === 0 ? 0 : PRP_OFFSET_INVALID)) expect.fail(`PRP2 at ${offset}: ${second}`);
      for (let i = 0; i < 2; i++) bench.entry(LISTS + i * 8, dataPage(1 + i));
      bench.entry(LISTS + 8, dataPage(2) + offset);
      bench.set(dataPage(0), LISTS);
      const inList = bench.resolve(3 * PAGE) & 0x7ff;
      if (inList !== (offset === 0 ? 0 : PRP_OFFSET_INVALID)) expect.fail(`an entry at ${offset}: ${inList}`);
      bench.set(dataPage(0), LISTS + PAGE + offset);
      const list = bench.resolve(3 * PAGE) & 0x7ff;
      if ((list === PRP_OFFSET_INVALID) !== ((offset & 7) !== 0)) expect.fail(`a list at ${offset}: ${list}`);
    }
  });

  it('SGLs: every way to cut 2 KiB into up to five descriptors of edge lengths, in segments of every shape', () => {
    const bench = new Bench();
    const total = 2048;
    const lengths = [0, 1, 3, 511, 512, 1024];
    const types = { data: 0x00, bucket: 0x10 } as const;
    const shapes: number[][] = [[5], [1, 4], [2, 3], [4, 1], [1, 1, 3], [2, 2, 1], [1, 1, 1, 1, 1]];
    const walk = (chosen: number[]): void => {
      if (chosen.length === 4) {
        const sum = chosen.reduce((a, b) => a + b, 0);
        if (sum < total) run([...chosen, total - sum]);
        return;
      }
      for (const length of lengths) walk([...chosen, length]);
    };
    const run = (parts: readonly number[]): void => {
      for (const shape of shapes) {
        for (const bucket of [-1, 1, 3]) {
          const pieces: [number, number][] = [];
          let part = 0;
          let at = LISTS;
          shape.forEach((count, s) => {
            for (let i = 0; i < count; i++, part++) {
              const isBucket = part === bucket;
              const address = dataPage(part) + part * 5;
              bench.descriptor(at, address, parts[part]!, isBucket ? types.bucket : types.data);
              if (parts[part]! > 0) pieces.push([isBucket ? NOWHERE : address, parts[part]!]);
              at += 16;
            }
            const next = shape[s + 1];
            if (next === undefined) return;
            const isLast = s + 2 === shape.length;
            // segments are apart from each other
            const to = LISTS + (s + 1) * PAGE + 48;
            bench.descriptor(at, to, (next + (isLast ? 0 : 1)) * 16, isLast ? 0x30 : 0x20);
            at = to;
          });
          const isOnly = shape.length === 1;
          bench.set(LISTS, (shape[0]! + (isOnly ? 0 : 1)) * 16, isOnly ? 0x30 : 0x20);
          const what = (): string => `${parts.join(' + ')}, segments of ${shape.join(', ')}, bucket ${bucket}`;
          const status = bench.resolve(total);
          if (status !== 0) expect.fail(`${what()}: status ${status}`);
          bench.check(pieces, what);
        }
      }
    };
    walk([]);
  });
});

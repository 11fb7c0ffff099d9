/** What every BlockBackend must do, run against each of them. */
import { expect } from 'chai';
import type { BlockBackend, BlockIo } from '../../src/backend/block-backend.ts';
import type { Arena } from '../../src/util/arena.ts';

export type BackendOperation = 'read' | 'write' | 'flush' | 'writeZeroes' | 'zeroesNoDeallocate' | 'deallocate';

/** A BlockIo that checks how the backend treats it: one completion, exactly the bytes asked for, no use of memory that is not its own. */
export class TestBlockIo implements BlockIo {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly fua: boolean;
  segments: Uint8Array[];
  segmentCount: number;
  /** What the backend lent. */
  readonly lent: Uint8Array[] = [];
  /** Resolves with the status. */
  readonly done: Promise<number>;
  status: number | undefined;
  /** The answer of a read, copied at completion. */
  data: Uint8Array = new Uint8Array(0);
  /** Runs within `complete`. */
  onComplete: (() => void) | undefined;
  #resolve!: (status: number) => void;
  #reject!: (error: Error) => void;
  #provided: Uint8Array | undefined;
  #transient: Uint8Array[] = [];

  constructor(options: { offset?: number; length?: number; fua?: boolean; data?: Uint8Array[] }) {
    const data = options.data ?? [];
    this.offsetBytes = options.offset ?? 0;
    this.lengthBytes = options.length ?? data.reduce((sum, piece) => sum + piece.length, 0);
    this.fua = options.fua ?? false;
    // as a receive buffer: gone when `write` returns, unless retained; and the array is longer than what counts
    this.#transient = data.map((piece) => Uint8Array.from(piece));
    this.segments = [...this.#transient, Uint8Array.from([0xee]), Uint8Array.from([0xee])];
    this.segmentCount = data.length;
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  retain(): void {
    this.segments = this.segments.map((piece) => Uint8Array.from(piece));
  }

  /** The transport reuses its receive buffer. */
  transientGone(): void {
    for (const piece of this.#transient) piece.fill(0xdb);
  }

  lend(view: Uint8Array): void {
    if (this.status !== undefined) this.#reject(new Error('lend after complete'));
    this.lent.push(view);
  }

  lendAt(arena: Arena, offsetBytes: number, lengthBytes: number): void {
    expect(offsetBytes + lengthBytes, 'end in the arena').to.be.at.most(arena.bytes.length);
    this.lend(arena.bytes.subarray(offsetBytes, offsetBytes + lengthBytes));
  }

  provide(): Uint8Array {
    if (this.#provided !== undefined) this.#reject(new Error('provide called twice'));
    this.#provided = new Uint8Array(this.lengthBytes).fill(0xa5);
    return this.#provided;
  }

  complete(status: number): void {
    if (this.status !== undefined) {
      this.#reject(new Error('completed twice'));
      return;
    }
    this.status = status;
    this.data = this.#provided === undefined ? concat(this.lent) : Uint8Array.from(this.#provided);
    this.onComplete?.();
    this.#resolve(status);
  }
}

export function submit(backend: BlockBackend, operation: BackendOperation, io: TestBlockIo): Promise<number> {
  switch (operation) {
    case 'read':
      backend.read(io);
      break;
    case 'write':
      backend.write(io);
      break;
    case 'flush':
      backend.flush(io);
      break;
    case 'writeZeroes':
      backend.writeZeroes(io, true);
      break;
    case 'zeroesNoDeallocate':
      backend.writeZeroes(io, false);
      break;
    default:
      backend.deallocate(io);
  }
  io.transientGone();
  return io.done;
}

export function concat(pieces: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    whole.set(piece, offset);
    offset += piece.length;
  }
  return whole;
}

/** mulberry32: the same numbers for the same seed. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function testSeed(): number {
  const given = process.env.NVMEFERRY_SEED;
  return given === undefined ? Math.floor(Math.random() * 0x100000000) : Number(given);
}

/** Bytes that differ from block to block and from call to call, never zero. */
export function pattern(length: number, salt: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = ((i * 31 + (i >>> 9) * 7 + salt * 101) % 255) + 1;
  return bytes;
}

function equalBytes(found: Uint8Array, wanted: Uint8Array, what: string): void {
  if (Buffer.compare(found, wanted) === 0) return;
  expect(found.length, `${what}: length`).to.equal(wanted.length);
  const at = found.findIndex((byte, index) => byte !== wanted[index]);
  expect.fail(`${what}: byte ${at} is ${found[at]}, should be ${wanted[at]}`);
}

export interface ComplianceOptions {
  /** An empty backend of this geometry. */
  open(geometry: { blockSize: number; blockCount: number }): Promise<BlockBackend>;
  /** False for the null backend: everything reads zero. Default true. */
  keepsData?: boolean;
  /** Runs after each test, once the backend is closed. */
  cleanUp?(): Promise<void>;
}

/** Blocks of the test backend: more than a few slabs, and not a round number. */
const BYTES = 3 * 1024 * 1024;

export function describeBackendCompliance(name: string, options: ComplianceOptions): void {
  for (const blockSize of [512, 4096]) {
    describe(`${name}: BlockBackend with ${blockSize}-byte blocks`, () => {
      const blockCount = BYTES / blockSize + 5;
      const size = blockCount * blockSize;
      const keepsData = options.keepsData ?? true;
      let backend: BlockBackend;
      let model: Uint8Array;

      beforeEach(async () => {
        backend = await options.open({ blockSize, blockCount });
        model = new Uint8Array(size);
      });
      afterEach(async () => {
        await backend.close();
        await options.cleanUp?.();
      });

      async function write(block: number, data: Uint8Array[], fua = false): Promise<void> {
        const io = new TestBlockIo({ offset: block * blockSize, data, fua });
        expect(await submit(backend, 'write', io), `write at block ${block}`).to.equal(0);
        if (keepsData) model.set(concat(data), block * blockSize);
      }

      async function check(block: number, count: number, fua = false): Promise<void> {
        const io = new TestBlockIo({ offset: block * blockSize, length: count * blockSize, fua });
        expect(await submit(backend, 'read', io), `read at block ${block}`).to.equal(0);
        equalBytes(
          io.data,
          model.subarray(block * blockSize, (block + count) * blockSize),
          `${count} blocks at ${block}`,
        );
        if (backend.lendsMemory !== true) expect(io.lent, 'lent, though lendsMemory is not set').to.have.length(0);
      }

      async function clear(operation: BackendOperation, block: number, count: number): Promise<void> {
        const io = new TestBlockIo({ offset: block * blockSize, length: count * blockSize });
        expect(await submit(backend, operation, io), `${operation} at block ${block}`).to.equal(0);
        if (operation !== 'deallocate' || backend.readsZeroAfterDeallocate) {
          model.fill(0, block * blockSize, (block + count) * blockSize);
        }
      }

      const blocks = (count: number, salt: number): Uint8Array => pattern(count * blockSize, salt);

      it('has the geometry asked for', () => {
        expect(backend.blockSize).to.equal(blockSize);
        expect(backend.blockCount).to.equal(blockCount);
      });

      it('reads zeroes where nothing was written', async () => {
        await check(0, 1);
        await check(blockCount - 1, 1);
        await check(0, 700);
      });

      it('writes and reads the first and the last block', async () => {
        await write(0, [blocks(1, 1)]);
        await write(blockCount - 1, [blocks(1, 2)]);
        await check(0, 2);
        await check(blockCount - 2, 2);
      });

      it('writes blocks that straddle pages and leaves their neighbours', async () => {
        await write(0, [blocks(40, 1)]);
        await write(3, [blocks(9, 2)]);
        await check(0, 40);
        await check(2, 3);
        await check(11, 2);
      });

      it('moves more than a megabyte at once', async () => {
        const count = 1024 * 1024 + 3 * blockSize;
        await write(7, [pattern(count, 5)]);
        await check(7, count / blockSize);
        await check(0, blockCount);
      });

      it('takes a write in many uneven segments', async () => {
        const whole = blocks(150, 3);
        const pieces: Uint8Array[] = [];
        for (let offset = 0, i = 0; offset < whole.length; i++) {
          const length = Math.min([1, 511, 4096, 7, 65_537, 64, 129][i % 7]!, whole.length - offset);
          pieces.push(whole.subarray(offset, offset + length));
          offset += length;
        }
        await write(1, pieces);
        await check(0, 152);
        const small: Uint8Array[] = [];
        for (let offset = 0; offset < 8 * blockSize; offset += 8) small.push(whole.subarray(offset, offset + 8));
        await write(200, small);
        await check(199, 10);
      });

      it('does FUA writes and reads, and flush', async () => {
        await write(5, [blocks(4, 8)], true);
        await check(5, 4, true);
        await write(6, [blocks(1, 9)]);
        expect(await submit(backend, 'flush', new TestBlockIo({}))).to.equal(0);
        await check(5, 4);
      });

      for (const operation of ['writeZeroes', 'zeroesNoDeallocate', 'deallocate'] as const) {
        it(`${operation}: clears its range and nothing else`, async () => {
          await write(0, [pattern(size, 6)]);
          for (const [block, count] of [
            [0, 1],
            [blockCount - 1, 1],
            [9, 3],
            [37, 300],
            [blockCount - 200, 130],
          ] as const) {
            await clear(operation, block, count);
            await check(Math.max(block - 1, 0), Math.min(count + 2, blockCount - Math.max(block - 1, 0)));
          }
          await check(0, blockCount);
          await clear(operation, 0, blockCount);
          await check(0, blockCount);
          await write(11, [blocks(2, 7)]);
          await check(10, 4);
        });
      }

      it('agrees with a plain array over random operations', async function () {
        this.timeout(20_000);
        const seed = testSeed();
        const random = seededRandom(seed);
        try {
          for (let step = 0; step < 150; step++) {
            const count = 1 + Math.floor(random() ** 3 * 300);
            const block = Math.floor(random() * (blockCount - count + 1));
            const kind = random();
            if (kind < 0.5) await write(block, [blocks(count, step)], random() < 0.1);
            else if (kind < 0.6) await clear('writeZeroes', block, count);
            else if (kind < 0.7) await clear('zeroesNoDeallocate', block, count);
            else if (kind < 0.75) await clear('deallocate', block, count);
            else await check(block, count);
          }
          await check(0, blockCount);
        } catch (error) {
          throw new Error(`NVMEFERRY_SEED=${seed}: ${(error as Error).message}`, { cause: error });
        }
      });

      it('takes many operations at once', async () => {
        const each = 4;
        const total = 150;
        await Promise.all(Array.from({ length: total }, (_, i) => write(i * each, [blocks(each, i)], i % 9 === 0)));
        await Promise.all([
          ...Array.from({ length: total }, (_, i) => check(i * each, each)),
          submit(backend, 'flush', new TestBlockIo({})),
          submit(backend, 'flush', new TestBlockIo({})),
        ]);
        await Promise.all(
          Array.from({ length: total }, (_, i) =>
            i % 3 === 0 ? clear('writeZeroes', i * each, 2) : check(i * each, each),
          ),
        );
        await check(0, total * each);
      });

      it('takes a new operation from within a completion', async () => {
        await write(0, [blocks(2, 4)]);
        const second = new TestBlockIo({ offset: blockSize, length: blockSize });
        const first = new TestBlockIo({ offset: 0, length: blockSize });
        first.onComplete = () => {
          void submit(backend, 'read', second);
        };
        expect(await submit(backend, 'read', first)).to.equal(0);
        expect(await second.done).to.equal(0);
        equalBytes(first.data, model.subarray(0, blockSize), 'first');
        equalBytes(second.data, model.subarray(blockSize, 2 * blockSize), 'second');
      });

      it('grows: the new blocks read zero, the old ones stay', async () => {
        await write(blockCount - 2, [blocks(2, 13)]);
        const added = 1200;
        await backend.grow!(blockCount + added);
        expect(backend.blockCount).to.equal(blockCount + added);
        model = concat([model, new Uint8Array(added * blockSize)]);
        await check(blockCount - 2, 2 + added);
        await write(blockCount - 1, [blocks(3, 14)]);
        await write(blockCount + added - 1, [blocks(1, 15)]);
        await check(blockCount - 2, 2 + added);
      });

      it('completes what is in flight before close resolves; closes once', async () => {
        const ios = Array.from(
          { length: 100 },
          (_, i) => new TestBlockIo({ offset: i * blockSize, data: [blocks(1, i)], fua: i % 10 === 0 }),
        );
        for (const io of ios) void submit(backend, 'write', io);
        const zeroes = new TestBlockIo({ offset: 200 * blockSize, length: 200 * blockSize });
        void submit(backend, 'writeZeroes', zeroes);
        const flush = new TestBlockIo({});
        void submit(backend, 'flush', flush);
        const closed = backend.close();
        const again = backend.close();
        await closed;
        for (const io of [...ios, zeroes, flush]) expect(io.status).to.equal(0);
        await again;
      });
    });
  }
}

/**
 * Valid command streams cut at random places, against a model of the namespace. The seed is printed; NVMEFERRY_TEST_SEED gives another one,
 * NVMEFERRY_TEST_ROUNDS more rounds.
 */
import { expect } from 'chai';
import type { BlockBackend } from '../../src/backend/block-backend.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const SEED = Number(process.env.NVMEFERRY_TEST_SEED ?? 20_241_101);
const ROUNDS = Number(process.env.NVMEFERRY_TEST_ROUNDS ?? 1);
const BLOCK_BYTES = 512;
const BLOCKS = 2048;
const COMMANDS = 300;

/** Mulberry32. */
function randomSource(seed: number): (below: number) => number {
  let a = seed >>> 0;
  return (below) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

interface Planned {
  readonly bytes: Buffer;
  /** Checked when its wave is done. */
  readonly check: () => Promise<void>;
}

/**
 * Commands come in waves: within one, no two touch the same block (NVMe orders nothing within a wave), so the model knows every answer.
 */
class Workload {
  readonly #random: (below: number) => number;
  readonly #model: Buffer = Buffer.alloc(BLOCKS * BLOCK_BYTES);
  readonly #io: RawHost;
  readonly #busy = new Uint8Array(BLOCKS);
  #cid = 0;

  constructor(random: (below: number) => number, io: RawHost) {
    this.#random = random;
    this.#io = io;
  }

  wave(count: number): Planned[] {
    this.#busy.fill(0);
    return Array.from({ length: count }, () => this.#command()).filter((planned) => planned !== undefined);
  }

  #command(): Planned | undefined {
    const random = this.#random;
    const blocks = 1 + random([1, 8, 16, 64, 128][random(5)]!);
    const block = random(BLOCKS - blocks);
    if (this.#busy.subarray(block, block + blocks).some((busy) => busy === 1)) return undefined;
    this.#busy.fill(1, block, block + blocks);
    const cid = this.#cid;
    this.#cid = (cid + 1) & 0xffff;
    const place = { nsid: 1, cid, cdw10: block, cdw12: blocks - 1 };
    const bytes = blocks * BLOCK_BYTES;
    const stored = this.#model.subarray(block * BLOCK_BYTES, block * BLOCK_BYTES + bytes);
    switch (random(8)) {
      case 0:
      case 1:
      case 2: {
        const data = pattern(bytes, random(1 << 30));
        const by = bytes <= 8192 && random(3) > 0 ? ('capsule' as const) : ('r2t' as const);
        const pieceBytes = 4 * (1 + random(4096));
        stored.set(data);
        return this.#planned({ opcode: 1, ...place }, { data, by, pieceBytes });
      }
      case 3: {
        stored.fill(0);
        return this.#planned({ opcode: 8, ...place }, {});
      }
      case 4: {
        const range = Buffer.alloc(16);
        range.writeUInt32LE(blocks, 4);
        range.writeUInt32LE(block, 8);
        stored.fill(0);
        const by = random(2) === 0 ? ('capsule' as const) : ('r2t' as const);
        return this.#planned({ opcode: 9, nsid: 1, cid, cdw11: 4 }, { data: range, by });
      }
      case 5:
        return this.#planned({ opcode: 0, nsid: 1, cid }, {});
      default: {
        const expected = Buffer.from(stored);
        return this.#planned({ opcode: 2, ...place }, { readBytes: bytes }, (completion) => {
          expect(completion.data.equals(expected), `data of ${blocks} blocks at ${block}`).to.equal(true);
        });
      }
    }
  }

  #planned(
    fields: Parameters<RawHost['commandBytes']>[0],
    options: NonNullable<Parameters<RawHost['commandBytes']>[1]>,
    verify: (completion: Completion) => void = () => {},
  ): Planned {
    const done = this.#io.completion(fields.cid, options);
    return {
      bytes: this.#io.commandBytes(fields, options),
      check: async () => {
        const completion = await done;
        expect(completion.status, `status of opcode ${fields.opcode}, CID ${fields.cid}`).to.equal(0);
        verify(completion);
      },
    };
  }

  async verifyAll(): Promise<void> {
    for (let block = 0; block < BLOCKS; block += 256) {
      const { data } = await this.#io.read(block, 256, { cid: 0xffff - block / 256 });
      const expected = this.#model.subarray(block * BLOCK_BYTES, (block + 256) * BLOCK_BYTES);
      expect(data.equals(expected), `blocks from ${block}`).to.equal(true);
    }
  }
}

describe('conformance: random streams in random segments', () => {
  before(() => {
    console.log(`    seed ${SEED}, rounds ${ROUNDS}`);
  });
  let t: TestTarget;
  afterEach(() => t.close());

  const backends: [string, () => BlockBackend][] = [
    ['memory', () => new MemoryBackend({ blockSize: BLOCK_BYTES, blockCount: BLOCKS })],
    ['a backend that copies and is late', () => new CopyBackend({ blockCount: BLOCKS })],
  ];
  for (const [name, makeBackend] of backends) {
    for (const { dgst, hpda, cpda } of [
      { dgst: 0, hpda: 0, cpda: 0 },
      { dgst: 1, hpda: 0, cpda: 0 },
      { dgst: 2, hpda: 31, cpda: 0 },
      { dgst: 3, hpda: 0, cpda: 0 },
      { dgst: 3, hpda: 6, cpda: 31 },
    ]) {
      it(`${name}, DGST ${dgst}, HPDA ${hpda}, CPDA ${cpda}`, async function () {
        this.timeout(5000 * (1 + ROUNDS));
        for (let round = 0; round < ROUNDS; round++) {
          const random = randomSource(SEED + round * 1_000_003 + dgst * 101 + hpda * 7 + cpda);
          t = await TestTarget.start({
            backend: makeBackend(),
            tcp: { cpda, maxH2cDataBytes: 4096 * (1 + random(8)), bufferBytesMax: 65_536 * (1 + random(3)) },
          });
          const cattr = random(2) * 4;
          const { admin, io } = await t.association({ icReq: { dgst, hpda }, cattr });
          const workload = new Workload(random, io);
          for (let sent = 0; sent < COMMANDS; ) {
            const wave = workload.wave(1 + random(24));
            sent += wave.length;
            // several PDUs at a time, cut anywhere; the answers to R2Ts go between the groups, cut as well
            const largest = [40, 3000, 20_000, 100_000][random(4)]!;
            io.segmentBytes = () => 1 + random(largest);
            for (let at = 0; at < wave.length; ) {
              const group = wave.slice(at, at + 1 + random(8));
              at += group.length;
              const bytes = Buffer.concat(group.map((planned) => planned.bytes));
              if (bytes.length > largest * 200) io.segmentBytes = () => 1 + random(bytes.length >>> 4);
              void io.send(bytes);
              if (random(4) === 0) await settle(random(10));
            }
            if (random(6) === 0) expect((await admin.identify(1)).status).to.equal(0);
            for (const planned of wave) await planned.check();
          }
          io.segmentBytes = undefined;
          await workload.verifyAll();
          await settle();
          expect(io.unread, 'PDUs too many').to.equal(0);
          expect(t.target.pool.usedBytes, 'buffers').to.equal(0);
          expect(t.fatal).to.deep.equal([]);
          if (round + 1 < ROUNDS) await t.close();
        }
      });
    }
  }
});

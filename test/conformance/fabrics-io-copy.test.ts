/** Copy: sheet of commands 11.3; checklist 49, 85 to 88. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const WRITE_PROTECTED = 0x20;
const LBA_OUT_OF_RANGE = 0x80;
const SIZE_LIMIT = 0x183;
const INCOMPATIBLE = 0x185;
const FAST_COPY_NOT_POSSIBLE = 0x186;
const OVERLAPPING = 0x187;
const FAST_COPY_ONLY = 0x8000;
const CDFE_FORMAT_2 = 0x04;
const CDFE_FORMAT_3 = 0x08;

interface Source {
  readonly block: number;
  readonly blocks: number;
  readonly nsid?: number;
  readonly options?: number;
}

/** Formats 0 and 2 have 32 bytes each, 1 and 3 have 40, in which the tags are of no use here. */
function descriptors(sources: readonly Source[], format = 0): Buffer {
  const bytes = (format & 1) === 0 ? 32 : 40;
  const data = Buffer.alloc(sources.length * bytes, 0xee);
  sources.forEach(({ block, blocks, nsid = 0, options = 0 }, i) => {
    data.fill(0, i * bytes, i * bytes + 24);
    data.writeUInt32LE(nsid, i * bytes);
    data.writeBigUInt64LE(BigInt(block), i * bytes + 8);
    data.writeUInt16LE(blocks - 1, i * bytes + 16);
    data.writeUInt16LE(options, i * bytes + 22);
  });
  return data;
}

function copy(
  io: RawHost,
  to: number,
  sources: readonly Source[],
  more: { nsid?: number; format?: number; by?: 'capsule' | 'r2t'; data?: Buffer } = {},
): Promise<Completion> {
  const cdw12 = (sources.length - 1) | ((more.format ?? 0) << 8);
  const fields = { opcode: 0x19, nsid: more.nsid ?? 1, cdw10: to, cdw12 };
  return io.command(fields, { data: more.data ?? descriptors(sources, more.format), by: more.by ?? 'capsule' });
}

async function enableFormat2(admin: RawHost, cdfe = CDFE_FORMAT_2): Promise<void> {
  const data = Buffer.alloc(512);
  data.writeUInt16LE(cdfe, 4);
  expect((await admin.setFeature(0x16, 0, { data })).status).to.equal(0);
}

for (const kind of ['memory', 'copying'] as const) {
  describe(`conformance: Copy, ${kind} backend`, () => {
    const BLOCKS = 131072;
    let t: TestTarget;
    let admin: RawHost;
    let io: RawHost;
    beforeEach(async () => {
      const make = (): CopyBackend | MemoryBackend =>
        kind === 'memory'
          ? new MemoryBackend({ blockSize: 512, blockCount: BLOCKS })
          : new CopyBackend({ blockCount: BLOCKS });
      t = await TestTarget.start({ backend: make() });
      t.target.addNamespace(t.subsystem, { nsid: 2, backend: make() });
      ({ admin, io } = await t.association());
    });
    afterEach(async () => {
      await t.close();
      expect(t.target.pool.usedBytes).to.equal(0);
    });
    const write = async (block: number, data: Buffer, nsid = 1): Promise<void> => {
      const fields = { opcode: 1, nsid, cdw10: block, cdw12: data.length / 512 - 1 };
      expect((await io.command(fields, { data, by: 'r2t' })).status).to.equal(0);
    };
    const read = async (block: number, blocks: number, nsid = 1): Promise<Buffer> =>
      (await io.read(block, blocks, { nsid })).data;

    it('is advertised with its limits: ONCS, OCFS 0 to 3, MSSRL, MCL, MSRC', async () => {
      const controller = (await admin.identify(1)).data;
      expect(controller.readUInt16LE(520) & 0x300, 'ONCS: Copy, single atomicity').to.equal(0x300);
      expect(controller.readUInt16LE(534), 'OCFS').to.equal(0xf);
      const namespace = (await admin.identify(0, { nsid: 1 })).data;
      expect([namespace.readUInt16LE(74), namespace.readUInt32LE(76), namespace[80]]).to.deep.equal([8192, 32768, 127]);
    });

    for (const by of ['capsule', 'r2t'] as const) {
      it(`ranges are put together in their order (${by})`, async () => {
        const data = pattern(300 * 512, 1);
        await write(0, data);
        const sources = [
          { block: 100, blocks: 3 },
          { block: 7, blocks: 1 },
          { block: 200, blocks: 100 },
          { block: 100, blocks: 1 },
        ];
        const done = await copy(io, 1000, sources, { by });
        expect([done.status, done.result0, done.data.length]).to.deep.equal([0, 0, 0]);
        const expected = sources.map(({ block, blocks }) => data.subarray(block * 512, (block + blocks) * 512));
        expect((await read(1000, 105)).equals(Buffer.concat(expected))).to.equal(true);
        expect(
          (await read(1105, 1)).every((byte) => byte === 0),
          'nothing after it',
        ).to.equal(true);
        expect(
          (await read(999, 1)).every((byte) => byte === 0),
          'nothing before it',
        ).to.equal(true);
      });
    }

    it('128 ranges; MCL itself, in parts', async () => {
      const data = pattern(1 << 20, 2);
      for (let i = 0; i < 16; i++) {
        data.writeUInt32LE(i, 0);
        await write(i * 2048, data);
      }
      const each = Array.from({ length: 128 }, (_, i) => ({ block: (127 - i) * 256, blocks: 256 }));
      expect((await copy(io, 40000, each)).status).to.equal(0);
      for (const i of [0, 1, 63, 127]) {
        const found = await read(40000 + i * 256, 256);
        expect(found.equals(await read((127 - i) * 256, 256)), `range ${i}`).to.equal(true);
      }
    });

    it('49: more than MSRC, MSSRL or MCL: 1/83h, DW0 0, nothing written', async () => {
      await write(0, pattern(512, 3));
      const over = [
        Array.from({ length: 129 }, () => ({ block: 0, blocks: 1 })),
        [
          { block: 0, blocks: 1 },
          { block: 0, blocks: 8193 },
        ],
        Array.from({ length: 5 }, () => ({ block: 0, blocks: 8192 })),
      ];
      for (const sources of over) {
        const done = await copy(io, 50000, sources);
        expect([done.code, done.dnr, done.result0]).to.deep.equal([SIZE_LIMIT, true, 0]);
      }
      expect((await read(50000, 1)).every((byte) => byte === 0)).to.equal(true);
    });

    it('49: formats that are not in OCFS; formats 2 and 3 without their bit of CDFE, and after a reset: Invalid Field', async () => {
      const source = [{ block: 0, blocks: 1, nsid: 1 }];
      const refused = async (...formats: number[]): Promise<void> => {
        for (const format of formats) {
          const done = await copy(io, 100, source, { format, data: Buffer.alloc(40) });
          expect([done.code, done.dnr], `format ${format}`).to.deep.equal([INVALID_FIELD, true]);
        }
      };
      await refused(2, 3, 4, 15);
      await enableFormat2(admin);
      expect((await copy(io, 100, source, { format: 2 })).status).to.equal(0);
      await refused(3);
      await enableFormat2(admin, CDFE_FORMAT_3);
      expect((await copy(io, 100, source, { format: 3 })).status).to.equal(0);
      await refused(2);
      await admin.propertySet(0x14, 0);
      await admin.enable();
      io = await t.io(admin);
      await refused(2, 3);
    });

    it('16h: CDFE of formats that are not served, LBAFEE, reserved values: Invalid Field; what is set is read back', async () => {
      for (const [at, value] of [
        [0, 2],
        [2, 1],
        [3, 1],
        [4, 0x10],
        [5, 0x80],
      ] as const) {
        const data = Buffer.alloc(512);
        data[at] = value;
        expect((await admin.setFeature(0x16, 0, { data })).code, `byte ${at}`).to.equal(INVALID_FIELD);
      }
      await enableFormat2(admin);
      expect((await admin.getFeature(0x16, { readBytes: 512 })).data.readUInt16LE(4)).to.equal(CDFE_FORMAT_2);
      expect((await admin.getFeature(0x16, { sel: 1, readBytes: 512 })).data.readUInt16LE(4)).to.equal(0);
    });

    for (const format of [2, 3])
      it(`format ${format} copies between namespaces`, async () => {
        await enableFormat2(admin, 1 << format);
        const one = pattern(64 * 512, 4);
        const two = pattern(64 * 512, 5);
        await write(0, one, 1);
        await write(0, two, 2);
        const sources = [
          { block: 8, blocks: 2, nsid: 2 },
          { block: 3, blocks: 1, nsid: 1 },
          { block: 60, blocks: 4, nsid: 2 },
        ];
        expect((await copy(io, 2000, sources, { format, nsid: 2 })).status).to.equal(0);
        const expected = [two.subarray(4096, 5120), one.subarray(1536, 2048), two.subarray(60 * 512)];
        expect((await read(2000, 7, 2)).equals(Buffer.concat(expected))).to.equal(true);
      });

    it('86: SNSID 0, FFFFFFFFh, beyond NN: Invalid Namespace; inactive: Invalid Field', async () => {
      await enableFormat2(admin);
      for (const [nsid, code] of [
        [0, INVALID_NAMESPACE],
        [0xffff_ffff, INVALID_NAMESPACE],
        [5000, INVALID_NAMESPACE],
        [3, INVALID_FIELD],
      ] as const) {
        const done = await copy(io, 100, [{ block: 0, blocks: 1, nsid }], { format: 2 });
        expect([done.code, done.result0], `SNSID ${nsid}`).to.deep.equal([code, 0]);
      }
      // formats 0 and 1 have neither SNSID nor SOPT: the fields are reserved
      const reserved = [{ block: 0, blocks: 1, nsid: 77, options: FAST_COPY_ONLY }];
      for (const format of [0, 1]) expect((await copy(io, 100, reserved, { format })).status).to.equal(0);
    });

    it('87: another block size: 1/85h, DW0 names the range; what comes before it is copied', async () => {
      await enableFormat2(admin);
      t.target.addNamespace(t.subsystem, { nsid: 3, backend: new MemoryBackend({ blockSize: 4096, blockCount: 64 }) });
      const data = pattern(1024, 6);
      await write(0, data);
      const sources = [
        { block: 0, blocks: 2, nsid: 1 },
        { block: 0, blocks: 1, nsid: 3 },
        { block: 0, blocks: 1, nsid: 1 },
      ];
      const done = await copy(io, 300, sources, { format: 2 });
      expect([done.code, done.result0]).to.deep.equal([INCOMPATIBLE, 1]);
      expect((await read(300, 2)).equals(data)).to.equal(true);
    });

    it('88: failing in range 2 of 4: DW0 2', async () => {
      const data = pattern(2048, 7);
      await write(0, data);
      const good = { block: 0, blocks: 1 };
      const done = await copy(io, 400, [good, good, { block: BLOCKS, blocks: 1 }, good]);
      expect([done.code, done.result0]).to.deep.equal([LBA_OUT_OF_RANGE, 2]);
    });

    it('88: a source that cannot be read: its status, DW0 names the range', async () => {
      await write(0, pattern(4096, 8));
      expect((await io.command({ opcode: 4, nsid: 1, cdw10: 5, cdw12: 0 })).status).to.equal(0);
      const done = await copy(io, 400, [
        { block: 0, blocks: 2 },
        { block: 4, blocks: 2 },
      ]);
      expect(done.code).to.equal(0x281);
      expect(done.result0).to.be.oneOf([0, 1]);
    });

    it('past the end of the destination: LBA Out of Range, nothing written', async () => {
      await write(0, pattern(1024, 9));
      const done = await copy(io, BLOCKS - 1, [{ block: 0, blocks: 2 }]);
      expect([done.code, done.result0]).to.deep.equal([LBA_OUT_OF_RANGE, 0]);
      expect((await read(BLOCKS - 1, 1)).every((byte) => byte === 0)).to.equal(true);
    });

    it('85: format 2, a source in the destination: 1/87h, nothing written; beside it, or in another namespace: success', async () => {
      await enableFormat2(admin);
      const data = pattern(32 * 512, 10);
      await write(0, data);
      const apart = { block: 20, blocks: 2, nsid: 1 };
      for (const block of [6, 8, 10, 11]) {
        const done = await copy(io, 8, [apart, { block, blocks: 4, nsid: 1 }], { format: 2 });
        expect([done.code, done.result0], `block ${block}`).to.deep.equal([OVERLAPPING, 0]);
      }
      expect((await read(0, 32)).equals(data), 'unchanged').to.equal(true);
      expect((await copy(io, 8, [{ block: 4, blocks: 4, nsid: 1 }], { format: 2 })).status).to.equal(0);
      expect((await copy(io, 8, [{ block: 8, blocks: 4, nsid: 2 }], { format: 2 })).status).to.equal(0);
    });

    for (const [name, from, to] of [
      ['upwards', 0, 5],
      ['downwards', 5, 0],
      ['upwards by more than a part', 0, 3000],
      ['onto itself', 9, 9],
    ] as const) {
      it(`85: format 0, a range moved within itself, ${name}: as if read before it is written`, async () => {
        const blocks = 8192;
        const data = pattern(1 << 20, 11);
        for (let i = 0; i < 5; i++) {
          for (let at = 0; at < data.length; at += 512) data.writeUInt32LE(i * 2048 + at / 512, at);
          await write(from + i * 2048, data);
        }
        expect((await copy(io, to, [{ block: from, blocks }])).status).to.equal(0);
        for (let i = 0; i < 4; i++) {
          const found = await read(to + i * 2048, 2048);
          for (const at of [0, 1, 1000, 2047]) expect(found.readUInt32LE(at * 512)).to.equal(i * 2048 + at);
        }
      });
    }

    it('FCO: Fast Copy Not Possible', async () => {
      await enableFormat2(admin);
      const done = await copy(io, 100, [{ block: 0, blocks: 1, nsid: 2, options: FAST_COPY_ONLY }], { format: 2 });
      expect([done.code, done.dnr]).to.deep.equal([FAST_COPY_NOT_POSSIBLE, true]);
    });

    it('to a write protected namespace: 20h; from one: success', async () => {
      await enableFormat2(admin);
      expect((await admin.setFeature(0x84, 1, { nsid: 2 })).code).to.be.oneOf([0, INVALID_FIELD]);
      if (kind === 'copying') return; // protection would not outlast the process
      const sources = [{ block: 0, blocks: 1, nsid: 1 }];
      expect((await copy(io, 0, sources, { format: 2, nsid: 2 })).code).to.equal(WRITE_PROTECTED);
      expect((await copy(io, 0, [{ block: 0, blocks: 1, nsid: 2 }], { format: 2 })).status).to.equal(0);
    });
  });
}

describe('conformance: Copy, resources and order', () => {
  it('many long copies at once take turns: bounded memory, every one right', async () => {
    const backend = new CopyBackend({ blockCount: 65536 });
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const data = pattern(2 << 20, 1);
      backend.bytes.set(data);
      let most = 0;
      const readOf = backend.read.bind(backend);
      backend.read = (request): void => {
        most = Math.max(most, t.target.pool.usedBytes);
        readOf(request);
      };
      const all = Array.from({ length: 64 }, (_, i) => copy(io, 8192 + i, [{ block: i, blocks: 4096 }], { by: 'r2t' }));
      for (const done of await Promise.all(all)) expect(done.status).to.equal(0);
      expect(most).to.be.at.most((16 << 20) + 64 * 4096);
    } finally {
      await t.close();
    }
  });

  it('a copy whose host is gone stops between its parts, and gives everything back', async () => {
    const backend = new CopyBackend({ blockCount: 65536 });
    const t = await TestTarget.start({ backend });
    try {
      backend.bytes.fill(7, 0, 4 << 20);
      const { admin, io, controller } = await t.association();
      backend.hold = true;
      void copy(io, 16384, [{ block: 0, blocks: 8192 }]).catch(() => {});
      await t.until(() => backend.held.length === 1);
      io.destroy();
      admin.destroy();
      await t.until(() => t.subsystem.controller(controller.cntlid) === undefined);
      backend.hold = false;
      backend.release();
      await t.until(() => t.target.pool.usedBytes === 0);
      expect(
        backend.bytes.subarray(16384 * 512).every((byte) => byte === 0),
        'nothing written',
      ).to.equal(true);
    } finally {
      await t.close();
    }
  });

  it('a namespace that is removed under a copy ends it', async () => {
    const t = await TestTarget.start({ backend: new MemoryBackend({ blockSize: 512, blockCount: 65536 }) });
    try {
      const { io } = await t.association();
      const running = copy(
        io,
        32768,
        Array.from({ length: 4 }, (_, i) => ({ block: i * 8192, blocks: 8192 })),
      );
      await t.until(() => t.subsystem.namespaces[1]!.writtenBytes > 0);
      await t.target.removeNamespace(t.subsystem, 1);
      expect((await running).code).to.equal(INVALID_FIELD);
    } finally {
      await t.close();
    }
  });
});

// ---- property: copies against a plain model ------------------------------------------------------------------------------------------

const SEED = Number(process.env.NVMEFERRY_SEED ?? 20241126);

function randomOf(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe(`conformance: Copy against a plain model (seed ${SEED})`, () => {
  for (const kind of ['memory', 'copying'] as const) {
    it(`copies of random ranges in and between two namespaces (${kind})`, async () => {
      const BLOCKS = 512;
      const random = randomOf(SEED);
      const make = (): CopyBackend | MemoryBackend =>
        kind === 'memory'
          ? new MemoryBackend({ blockSize: 512, blockCount: BLOCKS })
          : new CopyBackend({ blockCount: BLOCKS });
      const t = await TestTarget.start({ backend: make() });
      t.target.addNamespace(t.subsystem, { nsid: 2, backend: make() });
      try {
        const { admin, io } = await t.association();
        await enableFormat2(admin, CDFE_FORMAT_2 | CDFE_FORMAT_3);
        let next = 1;
        /** What each block holds: a number that was written there first. */
        const model: number[][] = [[], [], []];
        const fill = async (nsid: number): Promise<void> => {
          const data = Buffer.alloc(BLOCKS * 512);
          for (let i = 0; i < BLOCKS; i++) {
            model[nsid]![i] = next;
            data.writeUInt32LE(next++, i * 512);
          }
          const fields = { opcode: 1, nsid, cdw12: BLOCKS - 1 };
          expect((await io.command(fields, { data, by: 'r2t' })).status).to.equal(0);
        };
        await fill(1);
        await fill(2);
        for (let round = 0; round < 150; round++) {
          const nsid = 1 + random(2);
          const format = random(4);
          const sources: Source[] = Array.from({ length: 1 + random(4) }, () => {
            const blocks = 1 + random(60);
            return { block: random(BLOCKS - blocks), blocks, nsid: format < 2 ? nsid : 1 + random(2) };
          });
          const total = sources.reduce((sum, { blocks }) => sum + blocks, 0);
          const to = random(BLOCKS - total);
          const overlapping = sources.some(
            (one) => one.nsid === nsid && one.block < to + total && to < one.block + one.blocks,
          );
          const done = await copy(io, to, sources, { nsid, format });
          const what = `round ${round}: format ${format} to ${nsid}/${to} from ${JSON.stringify(sources)}`;
          const before = model.map((blocks) => [...blocks]);
          if (format >= 2 && overlapping) {
            expect(done.code, what).to.equal(OVERLAPPING);
          } else {
            expect(done.status, what).to.equal(0);
            let at = to;
            for (const { block, blocks, nsid: from } of sources) {
              for (let i = 0; i < blocks; i++) model[nsid]![at++] = before[from!]![block + i]!;
            }
          }
          for (const which of [1, 2]) {
            const found = (await io.read(0, BLOCKS, { nsid: which })).data;
            // within MCL and one part, even overlapping sources are all read before anything is written
            for (let i = 0; i < BLOCKS; i++) {
              if (found.readUInt32LE(i * 512) !== model[which]![i]) {
                expect(found.readUInt32LE(i * 512), `${what}: namespace ${which} block ${i}`).to.equal(
                  model[which]![i],
                );
              }
            }
          }
        }
      } finally {
        await t.close();
      }
    });
  }
});

describe('conformance: FUA', () => {
  it('of Write, Copy, and the Write of a fused pair reaches the backend; without it, none does', async () => {
    const backend = new CopyBackend();
    const t = await TestTarget.start({ backend });
    try {
      const { io } = await t.association();
      const FUA = 0x4000_0000;
      const block = Buffer.alloc(512);
      for (const [cdw12, expected] of [
        [0, [0, 0, 0]],
        [FUA, [1, 2, 3]],
      ] as const) {
        const counts: number[] = [];
        expect((await io.command({ opcode: 1, nsid: 1, cdw12 }, { data: block })).status).to.equal(0);
        counts.push(backend.fuaCount);
        const source = descriptors([{ block: 0, blocks: 1 }]);
        expect((await io.command({ opcode: 0x19, nsid: 1, cdw10: 9, cdw12 }, { data: source })).status).to.equal(0);
        counts.push(backend.fuaCount);
        const pair = [
          io.command({ opcode: 5, flags: 0x41, nsid: 1, cdw12: 0 }, { data: block }),
          io.command({ opcode: 1, flags: 0x42, nsid: 1, cdw12 }, { data: block }),
        ];
        for (const { status } of await Promise.all(pair)) expect(status).to.equal(0);
        counts.push(backend.fuaCount);
        expect(counts).to.deep.equal(expected);
      }
    } finally {
      await t.close();
    }
  });
});

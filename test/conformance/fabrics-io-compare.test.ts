/** Compare, Compare and Write, Verify: sheet of commands 11.2; checklist 45, 46, 52, 76 to 79. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const ABORT_REQUESTED = 0x07;
const FAILED_FUSED = 0x09;
const MISSING_FUSED = 0x0a;
const WRITE_PROTECTED = 0x20;
const LBA_OUT_OF_RANGE = 0x80;
const WRITE_FAULT = 0x280;
const COMPARE_FAILURE = 0x285;
const FIRST = 0x41;
const SECOND = 0x42;
const PRACT = 0x2000_0000;

type By = 'capsule' | 'r2t';

/** Compare. */
function compare(io: RawHost, block: number, data: Uint8Array, by: By = 'capsule'): Promise<Completion> {
  const fields = { opcode: 5, nsid: 1, cdw10: block, cdw12: data.length / 512 - 1 };
  return io.command(fields, { data, by });
}

/** A fused pair, both capsules in one go. */
function pair(
  io: RawHost,
  block: number,
  expected: Uint8Array,
  data: Uint8Array,
  by: By = 'capsule',
): [Promise<Completion>, Promise<Completion>] {
  const fields = { nsid: 1, cdw10: block, cdw12: data.length / 512 - 1 };
  return [
    io.command({ ...fields, opcode: 5, flags: FIRST }, { data: expected, by }),
    io.command({ ...fields, opcode: 1, flags: SECOND }, { data, by }),
  ];
}

const codes = async (promises: Promise<Completion>[]): Promise<number[]> =>
  (await Promise.all(promises)).map(({ code }) => code);

for (const kind of ['memory', 'copying'] as const) {
  describe(`conformance: Compare and Verify, ${kind} backend`, () => {
    let t: TestTarget;
    let io: RawHost;
    beforeEach(async () => {
      const backend = kind === 'memory' ? new MemoryBackend({ blockSize: 512, blockCount: 8192 }) : new CopyBackend();
      t = await TestTarget.start({ backend });
      ({ io } = await t.association());
    });
    afterEach(async () => {
      await t.close();
      expect(t.target.pool.usedBytes, 'buffers').to.equal(0);
      expect(t.target.pool.work.usedBytes, 'work memory').to.equal(0);
    });

    it('45: what is equal passes, one bit anywhere is a Compare Failure; nothing is changed', async () => {
      const data = pattern(64 * 512, 1);
      await io.write(3, data, { by: 'r2t' });
      for (const by of ['capsule', 'r2t'] as const) {
        expect((await compare(io, 3, data.subarray(0, 4096), by)).status).to.equal(0);
        for (const at of [0, 511, 2048, 4095]) {
          const wrong = Buffer.from(data.subarray(0, 4096));
          wrong[at]! ^= 0x10;
          const failed = await compare(io, 3, wrong, by);
          expect([failed.code, failed.data.length], `byte ${at}`).to.deep.equal([COMPARE_FAILURE, 0]);
        }
      }
      expect((await io.read(3, 64)).data.equals(data)).to.equal(true);
    });

    it('45: up to MDTS, over the pieces in which it is read', async () => {
      const data = pattern(1 << 20, 2);
      await io.write(0, data, { by: 'r2t' });
      expect((await compare(io, 0, data, 'r2t')).status).to.equal(0);
      for (const at of [0, (128 << 10) - 1, 128 << 10, (1 << 20) - 1]) {
        const wrong = Buffer.from(data);
        wrong[at]! ^= 1;
        expect((await compare(io, 0, wrong, 'r2t')).code, `byte ${at}`).to.equal(COMPARE_FAILURE);
      }
    });

    it('Compare: past the end, over MDTS, with PRACT', async () => {
      expect((await compare(io, 8191, Buffer.alloc(1024))).code).to.equal(LBA_OUT_OF_RANGE);
      const over = await io.command({ opcode: 5, nsid: 1, cdw12: 2048 }, { data: Buffer.alloc(4096), by: 'r2t' });
      expect([over.code, over.r2ts.length]).to.deep.equal([INVALID_FIELD, 0]);
      const fields = { opcode: 5, nsid: 1, cdw12: PRACT };
      expect((await io.command(fields, { data: Buffer.alloc(512) })).code).to.equal(INVALID_FIELD);
    });

    it('Verify: no data; past the end; 79: PRACT 1 is Invalid Field; 65,536 blocks are not too many (VSL 0)', async () => {
      const verified = await io.command({ opcode: 0x0c, nsid: 1, cdw12: 8191 });
      expect([verified.status, verified.data.length]).to.deep.equal([0, 0]);
      expect((await io.command({ opcode: 0x0c, nsid: 1, cdw12: 8192 })).code).to.equal(LBA_OUT_OF_RANGE);
      expect((await io.command({ opcode: 0x0c, nsid: 1, cdw12: PRACT })).code).to.equal(INVALID_FIELD);
    });

    it('Verify counts as data units read, as Compare does', async () => {
      const namespace = t.subsystem.namespaces[1]!;
      await io.command({ opcode: 0x0c, nsid: 1, cdw12: 99 });
      await compare(io, 0, Buffer.alloc(512));
      expect([namespace.readBytes, namespace.readCommands]).to.deep.equal([101 * 512, 2]);
    });

    for (const by of ['capsule', 'r2t'] as const) {
      it(`46: a fused pair whose comparison holds writes; one that fails does not: 2/85h and 09h (${by})`, async () => {
        const before = pattern(1024, 1);
        const after = pattern(1024, 2);
        await io.write(7, before);
        expect(await codes(pair(io, 7, before, after, by))).to.deep.equal([0, 0]);
        expect((await io.read(7, 2)).data.equals(after)).to.equal(true);
        expect(await codes(pair(io, 7, before, pattern(1024, 3), by))).to.deep.equal([COMPARE_FAILURE, FAILED_FUSED]);
        expect((await io.read(7, 2)).data.equals(after), 'unchanged').to.equal(true);
      });
    }

    it('46: capsules and R2Ts mixed in a pair', async () => {
      const fields = { nsid: 1, cdw10: 9, cdw12: 0 };
      for (const [first, second, content] of [
        ['capsule', 'r2t', 1],
        ['r2t', 'capsule', 2],
      ] as const) {
        const old = Buffer.from((await io.read(9, 1)).data);
        const data = pattern(512, content);
        const done = [
          io.command({ ...fields, opcode: 5, flags: FIRST }, { data: old, by: first }),
          io.command({ ...fields, opcode: 1, flags: SECOND }, { data, by: second }),
        ];
        expect(await codes(done)).to.deep.equal([0, 0]);
        expect((await io.read(9, 1)).data.equals(data)).to.equal(true);
      }
    });

    it('78: a pair of MDTS size', async () => {
      const before = pattern(1 << 20, 5);
      await io.write(0, before, { by: 'r2t' });
      const after = pattern(1 << 20, 6);
      expect(await codes(pair(io, 0, before, after, 'r2t'))).to.deep.equal([0, 0]);
      expect((await io.read(0, 2048)).data.equals(after)).to.equal(true);
    });

    it('46: the second is missing: another command, a first, a second of another kind follow', async () => {
      const zero = Buffer.alloc(512);
      const first = { opcode: 5, flags: FIRST, nsid: 1 };
      const lone = [io.command(first, { data: zero }), io.write(20, pattern(512, 9))];
      expect(await codes(lone)).to.deep.equal([MISSING_FUSED, 0]);
      const firstTwice = [io.command(first, { data: zero }), ...pair(io, 0, zero, zero)];
      expect(await codes(firstTwice)).to.deep.equal([MISSING_FUSED, 0, 0]);
      const wrongKind = [
        io.command(first, { data: zero }),
        io.command({ opcode: 8, flags: SECOND, nsid: 1, cdw10: 30 }),
      ];
      expect(await codes(wrongKind)).to.deep.equal([MISSING_FUSED, INVALID_FIELD]);
      const byR2t = [io.command(first, { data: zero, by: 'r2t' }), io.read(0, 1)];
      expect(await codes(byR2t)).to.deep.equal([MISSING_FUSED, 0]);
      expect((await io.read(20, 1)).data.equals(pattern(512, 9)), 'the write between').to.equal(true);
    });

    it('46: a second without a first is 0Ah and writes nothing', async () => {
      for (const by of ['capsule', 'r2t'] as const) {
        const lone = await io.command({ opcode: 1, flags: SECOND, nsid: 1 }, { data: pattern(512, 1), by });
        expect(lone.code).to.equal(MISSING_FUSED);
      }
      expect((await io.read(0, 1)).data.every((byte) => byte === 0)).to.equal(true);
    });

    it('46: a first that is wrong itself: its own status, its second 09h', async () => {
      const zero = Buffer.alloc(512);
      const done = [
        io.command({ opcode: 5, flags: FIRST, nsid: 1, cdw10: 8192 }, { data: zero }),
        io.command({ opcode: 1, flags: SECOND, nsid: 1, cdw10: 8192 }, { data: zero }),
      ];
      expect(await codes(done)).to.deep.equal([LBA_OUT_OF_RANGE, FAILED_FUSED]);
    });

    it('76: different ranges, blocks or namespaces: Invalid Field on both, nothing written', async () => {
      t.target.addNamespace(t.subsystem, { nsid: 2, backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }) });
      for (const [fields, bytes] of [
        [{ nsid: 1, cdw10: 1 }, 512],
        [{ nsid: 1, cdw12: 1 }, 1024],
        [{ nsid: 2 }, 512],
      ] as const) {
        for (const by of ['capsule', 'r2t'] as const) {
          const done = [
            io.command({ opcode: 5, flags: FIRST, nsid: 1 }, { data: Buffer.alloc(512), by }),
            io.command({ opcode: 1, flags: SECOND, ...fields }, { data: pattern(bytes, 1), by }),
          ];
          expect(await codes(done), `${JSON.stringify(fields)} ${by}`).to.deep.equal([INVALID_FIELD, INVALID_FIELD]);
        }
      }
      expect((await io.read(0, 8)).data.every((byte) => byte === 0)).to.equal(true);
    });

    it('a pair split over two segments, with the second late', async () => {
      const fields = { nsid: 1, cdw10: 40, cdw12: 0 };
      const first = io.command({ ...fields, opcode: 5, flags: FIRST }, { data: Buffer.alloc(512) });
      await settle();
      const second = io.command({ ...fields, opcode: 1, flags: SECOND }, { data: pattern(512, 3) });
      expect(await codes([first, second])).to.deep.equal([0, 0]);
    });
  });
}

describe('conformance: Compare and Write, order and faults', () => {
  let t: TestTarget;
  let backend: CopyBackend;
  let admin: RawHost;
  let io: RawHost;
  const zero = Buffer.alloc(512);
  beforeEach(async () => {
    backend = new CopyBackend();
    t = await TestTarget.start({ backend });
    ({ admin, io } = await t.association());
  });
  afterEach(async () => {
    await t.close();
    expect(t.target.pool.usedBytes).to.equal(0);
  });

  it('is advertised: ONCS, FUSES; ACWU and NACWU name what is kept', async () => {
    const controller = (await admin.identify(1)).data;
    expect(controller.readUInt16LE(520) & 0x181, 'ONCS: Compare, Verify, Copy').to.equal(0x181);
    expect(controller.readUInt16LE(522), 'FUSES').to.equal(1);
    expect([controller.readUInt16LE(526), controller.readUInt16LE(528), controller.readUInt16LE(532)]).to.deep.equal(
      [0, 0, 0],
      'AWUN, AWUPF, ACWU',
    );
    const namespace = (await admin.identify(0, { nsid: 1 })).data;
    expect(namespace[24]! & 2, 'NSFEAT: namespace atomics').to.equal(2);
    expect([34, 36, 38, 40].map((at) => namespace.readUInt16LE(at))).to.deep.equal(
      [0, 0, 2047, 0],
      'NAWUN, NAWUPF, NACWU, NABSN',
    );
  });

  it('77: Compare ok, Write fails: Compare success, Write its own error', async () => {
    backend.write = (request): void => request.complete(WRITE_FAULT);
    expect(await codes(pair(io, 0, zero, pattern(512, 1)))).to.deep.equal([0, WRITE_FAULT]);
  });

  it('77: a Write that is refused at once does not change what the Compare answers', async () => {
    t.target.addNamespace(t.subsystem, {
      nsid: 2,
      backend: new MemoryBackend({ blockSize: 512, blockCount: 64 }),
      readOnly: true,
    });
    for (const [expected, code] of [
      [zero, 0],
      [pattern(512, 1), COMPARE_FAILURE],
    ] as const) {
      for (const by of ['capsule', 'r2t'] as const) {
        const done = [
          io.command({ opcode: 5, flags: FIRST, nsid: 2 }, { data: expected, by }),
          io.command({ opcode: 1, flags: SECOND, nsid: 2 }, { data: zero, by }),
        ];
        expect(await codes(done)).to.deep.equal([code, WRITE_PROTECTED]);
      }
    }
  });

  it('a read error under the Compare: its status, the Write 09h', async () => {
    backend.read = (request): void => request.complete(0x281);
    expect(await codes(pair(io, 0, zero, zero))).to.deep.equal([0x281, FAILED_FUSED]);
  });

  it('the Compare completes first', async () => {
    const order: string[] = [];
    const [first, second] = pair(io, 0, zero, zero);
    await Promise.all([first.then(() => order.push('compare')), second.then(() => order.push('write'))]);
    expect(order).to.deep.equal(['compare', 'write']);
  });

  it('while a pair runs, overlapping reads and writes wait, in order, and others do not', async () => {
    const other = await t.association();
    await io.write(0, pattern(1024, 1));
    backend.hold = true;
    const both = pair(io, 0, pattern(512, 1), pattern(512, 2));
    await t.until(() => backend.held.length === 1); // its comparison
    const overlapping = other.io.write(0, pattern(1024, 3));
    const read = other.io.read(0, 2);
    const apart = other.io.read(1, 1);
    await t.until(() => backend.held.length === 2);
    await settle();
    expect(backend.held.length, 'only the read beside').to.equal(2);
    backend.release();
    expect((await apart).data.equals(pattern(1024, 1).subarray(512))).to.equal(true);
    await t.until(() => backend.held.length === 1); // the pair's write
    backend.release();
    expect(await codes(both)).to.deep.equal([0, 0]);
    backend.hold = false;
    await t.until(() => backend.held.length > 0);
    backend.release();
    expect((await overlapping).status).to.equal(0);
    // it came after the write: all of it, or all of what the pair left
    const seen = (await read).data;
    const after = pattern(1024, 3);
    const between = Buffer.concat([pattern(512, 2), pattern(1024, 1).subarray(512)]);
    expect(seen.equals(after) || seen.equals(between)).to.equal(true);
  });

  it('a pair waits for writes that are in flight, and sees what they wrote', async () => {
    const other = await t.association();
    backend.hold = true;
    const write = other.io.write(0, pattern(512, 4));
    await t.until(() => backend.held.length === 1);
    const both = pair(io, 0, pattern(512, 4), pattern(512, 5));
    await settle();
    expect(backend.held.length, 'the comparison waits').to.equal(1);
    backend.hold = false;
    backend.release();
    expect((await write).status).to.equal(0);
    expect(await codes(both)).to.deep.equal([0, 0]);
  });

  it('a host that leaves between first and second, or while its pair waits: all is given back, nothing written', async () => {
    const lone = await t.association();
    void lone.io.command({ opcode: 5, flags: FIRST, nsid: 1 }, { data: zero }).catch(() => {});
    await settle();
    lone.io.destroy();
    backend.hold = true;
    const blocking = io.write(0, pattern(512, 6));
    await t.until(() => backend.held.length === 1);
    const gone = await t.association();
    for (const half of pair(gone.io, 0, pattern(512, 6), pattern(512, 7))) half.catch(() => {});
    await t.until(() => t.subsystem.namespaces[1]!.waitingCount === 1);
    gone.io.destroy();
    gone.admin.destroy();
    await t.until(() => t.subsystem.controller(gone.controller.cntlid) === undefined);
    backend.hold = false;
    backend.release();
    expect((await blocking).status).to.equal(0);
    await t.until(() => t.subsystem.namespaces[1]!.waitingCount === 0);
    expect((await io.read(0, 1)).data.equals(pattern(512, 6))).to.equal(true);
  });

  it('Abort of a first that waits for its second: both end, 07h and 09h', async () => {
    const first = io.command({ opcode: 5, flags: FIRST, nsid: 1, cid: 0x66 }, { data: zero });
    await settle();
    expect((await admin.command({ opcode: 8, cdw10: 1 | (0x66 << 16) })).result0).to.equal(0);
    expect((await first).code).to.equal(ABORT_REQUESTED);
    const second = await io.command({ opcode: 1, flags: SECOND, nsid: 1 }, { data: pattern(512, 1) });
    expect(second.code).to.equal(FAILED_FUSED);
    expect((await io.read(0, 1)).data.equals(zero)).to.equal(true);
  });

  it('a pair larger than what the connection may buffer goes through all the same', async () => {
    await t.close();
    backend = new CopyBackend();
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax: 64 << 10 } });
    ({ admin, io } = await t.association());
    const before = Buffer.alloc(48 << 10);
    const after = pattern(48 << 10, 1);
    const all = [0, 1, 2].flatMap((i) => pair(io, i * 96, before, after, 'r2t'));
    expect(await codes(all)).to.deep.equal([0, 0, 0, 0, 0, 0]);
  });
});

describe('conformance: Compare and Write, many hosts', () => {
  for (const kind of ['memory', 'copying'] as const) {
    it(`a counter that hosts on queues of their own raise by Compare and Write loses nothing (${kind})`, async () => {
      const backend = kind === 'memory' ? new MemoryBackend({ blockSize: 512, blockCount: 64 }) : new CopyBackend();
      const t = await TestTarget.start({ backend });
      try {
        const HOSTS = 6;
        const RAISES = 10;
        const block = (value: number): Buffer => {
          const data = Buffer.alloc(512, value & 0xff);
          data.writeUInt32LE(value, 0);
          return data;
        };
        await (await t.association()).io.write(5, block(0));
        let retries = 0;
        const raise = async (io: RawHost, by: By): Promise<void> => {
          for (let done = 0; done < RAISES; ) {
            const { data } = await io.read(5, 1);
            const value = data.readUInt32LE(0);
            expect(data.equals(block(value)), 'a block is never mixed').to.equal(true);
            const [compared, written] = await codes(pair(io, 5, block(value), block(value + 1), by));
            if (compared === 0) {
              expect(written).to.equal(0);
              done++;
            } else {
              expect([compared, written]).to.deep.equal([COMPARE_FAILURE, FAILED_FUSED]);
              retries++;
            }
          }
        };
        const hosts = await Promise.all(Array.from({ length: HOSTS }, () => t.association()));
        const queues: RawHost[] = [];
        for (const { admin, io } of hosts) queues.push(io, await t.io(admin, { qid: 2 }));
        await Promise.all(queues.map((io, i) => raise(io, i % 2 === 0 ? 'capsule' : 'r2t')));
        const { data } = await hosts[0]!.io.read(5, 1);
        expect(data.readUInt32LE(0)).to.equal(HOSTS * 2 * RAISES);
        expect(retries, 'they did meet').to.be.greaterThan(0);
      } finally {
        await t.close();
      }
    });
  }
});

/** Format NVM and changes of size: sheet of commands 10.5; checklist numbers in case names. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FaultBackend } from '../../src/backend/fault.ts';
import { openFileBackend } from '../../src/backend/file-open.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { formatsWith } from '../../src/target/namespace.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { MemoryStateStore } from '../support/memory-state-store.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const INVALID_FIELD = 0x02;
const INVALID_NAMESPACE = 0x0b;
const WRITE_PROTECTED = 0x20;
const LBA_OUT_OF_RANGE = 0x80;
const FORMAT_IN_PROGRESS = 0x84;
const INVALID_FORMAT = 0x10a;
const WRITE_FAULT = 0x280;
const ALL = 0xffff_ffff;

const format = (host: RawHost, nsid: number, cdw10: number): Promise<Completion> =>
  host.command({ opcode: 0x80, nsid, cdw10 });

describe('conformance: Format NVM', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  async function start(options: Parameters<typeof TestTarget.start>[0] = {}): Promise<void> {
    t = await TestTarget.start(options);
    admin = await t.admin();
    io = await t.io(admin);
  }
  afterEach(() => t.close());

  async function geometry(nsid = 1): Promise<{ blocks: number; blockBytes: number }> {
    const { data } = await admin.identify(0, { nsid });
    return { blocks: Number(data.readBigUInt64LE(0)), blockBytes: 1 << data[130 + 4 * (data[26]! & 0xf)]! };
  }

  it('is told by OACS, FNA and effects', async () => {
    await start();
    const { data } = await admin.identify(1);
    expect([data.readUInt16LE(256) & 2, data[524]], 'FNA: no FFFFFFFFh, no cryptographic erase').to.deep.equal([2, 8]);
    const effects = (await admin.logPage(5, 4096)).data.readUInt32LE(4 * 0x80);
    expect(effects, 'CSUPP, LBCC, NCC, CSE').to.equal(0x1_0007);
  });

  it('512 to 4096 and back: geometry, data gone, I/O in the new blocks, an event', async () => {
    await start({ backend: new MemoryBackend({ blockSize: 512, blockCount: 1000 }) });
    await io.write(3, Buffer.alloc(1024, 0xee));
    await admin.setFeature(0x0b, 0x100);
    const told = admin.command({ opcode: 0x0c });
    expect((await format(admin, 1, 1)).status).to.equal(0);
    expect((await told).result0).to.equal(0x0004_0002);
    expect(await geometry(), 'what fills no block is left over').to.deep.equal({ blocks: 125, blockBytes: 4096 });
    const first = await io.read(0, 1, { blockBytes: 4096 });
    expect(first.data.every((byte) => byte === 0)).to.equal(true);
    const data = Buffer.alloc(4096, 0x77);
    expect((await io.write(124, data, { blockBytes: 4096 })).status).to.equal(0);
    expect((await io.read(124, 1, { blockBytes: 4096 })).data.equals(data)).to.equal(true);
    expect((await io.read(125, 1, { blockBytes: 4096 })).code).to.equal(LBA_OUT_OF_RANGE);
    expect((await format(admin, 1, 0)).status).to.equal(0);
    expect(await geometry()).to.deep.equal({ blocks: 1000, blockBytes: 512 });
    expect((await io.read(992, 8)).data.every((byte) => byte === 0)).to.equal(true);
  });

  it('user data erase (SES 1) keeps the format and takes the data', async () => {
    await start();
    await io.write(0, Buffer.alloc(512, 1));
    expect((await format(admin, 1, 1 << 9)).status).to.equal(0);
    expect((await io.read(0, 1)).data.every((byte) => byte === 0)).to.equal(true);
    expect((await geometry()).blockBytes).to.equal(512);
  });

  for (const [what, nsid, cdw10, code] of [
    ['64: an LBA format past NLBAF', 1, 2, INVALID_FORMAT],
    ['64: an LBA format by its upper bits', 1, 1 << 12, INVALID_FORMAT],
    ['protection information', 1, 1 << 5, INVALID_FORMAT],
    ['cryptographic erase', 1, 2 << 9, INVALID_FIELD],
    ['SES 7', 1, 7 << 9, INVALID_FIELD],
    ['FFFFFFFFh', ALL, 0, INVALID_FIELD],
    ['NSID 0', 0, 0, INVALID_NAMESPACE],
    ['an NSID past NN', 2000, 0, INVALID_NAMESPACE],
    ['an NSID that is not active', 9, 0, INVALID_FIELD],
  ] as const) {
    it(`${what}: ${code.toString(16)}h, data kept`, async () => {
      await start();
      await io.write(0, Buffer.alloc(512, 0x3c));
      const completion = await format(admin, nsid, cdw10);
      expect([completion.code, completion.dnr]).to.deep.equal([code, true]);
      expect((await io.read(0, 1)).data[0]).to.equal(0x3c);
    });
  }

  it('a read-only namespace: Namespace is Write Protected', async () => {
    await start({ empty: true });
    t.target.addNamespace(t.subsystem, {
      nsid: 1,
      readOnly: true,
      backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }),
    });
    expect((await format(admin, 1, 0)).code).to.equal(WRITE_PROTECTED);
  });

  it('a backend that cannot change its blocks has one format', async () => {
    await start({ backend: new CopyBackend() });
    expect((await admin.identify(0, { nsid: 1 })).data[25], 'NLBAF').to.equal(0);
    expect((await format(admin, 1, 1)).code).to.equal(INVALID_FORMAT);
    expect((await format(admin, 1, 0)).status).to.equal(0);
  });

  it('meanwhile: Format In Progress (84h, may be retried) for I/O and for another Format; Identify works', async () => {
    const backend = new CopyBackend();
    await start({ backend });
    const other = await t.admin();
    backend.hold = true;
    const formatting = format(admin, 1, 0);
    await t.until(() => backend.held.length === 1);
    for (const refused of [await io.read(0, 1), await io.write(0, Buffer.alloc(512)), await format(other, 1, 0)]) {
      expect([refused.code, refused.dnr]).to.deep.equal([FORMAT_IN_PROGRESS, false]);
    }
    expect((await io.command({ opcode: 0, nsid: 1 })).code, 'Flush').to.equal(FORMAT_IN_PROGRESS);
    expect((await geometry()).blocks).to.equal(8192);
    backend.hold = false;
    backend.release();
    expect((await formatting).status).to.equal(0);
    expect((await io.read(0, 1)).status).to.equal(0);
  });

  it('waits for what the backend has, and turns away what still waits for data', async () => {
    const clock = new ManualClock();
    const backend = new CopyBackend();
    await start({ backend, clock });
    backend.hold = true;
    const before = io.write(0, Buffer.alloc(512, 0xaa));
    await t.until(() => backend.held.length === 1);
    const cid = io.nextCid();
    const late = io.completion(cid, { by: 'r2t', manual: true, data: Buffer.alloc(512, 0xbb) });
    await io.send(
      io.commandBytes({ opcode: 1, nsid: 1, cdw10: 8, cdw12: 0, cid }, { by: 'r2t', data: Buffer.alloc(512) }),
    );
    const r2t = await io.next();
    expect(r2t.name).to.equal('R2T');
    const formatting = format(admin, 1, 0);
    await settle();
    expect(backend.held.length, 'the erase has not begun').to.equal(1);
    backend.release();
    expect((await before).status).to.equal(0);
    clock.advance(5);
    await t.until(() => backend.held.length === 1);
    await io.send(io.h2cData({ cccid: cid, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(512, 0xbb)));
    expect((await late).code, 'the data comes too late').to.equal(FORMAT_IN_PROGRESS);
    backend.hold = false;
    backend.release();
    expect((await formatting).status).to.equal(0);
    expect((await io.read(0, 1)).data.every((byte) => byte === 0)).to.equal(true);
    expect((await io.read(8, 1)).data.every((byte) => byte === 0)).to.equal(true);
  });

  it('waits for writes of a host that is gone already', async () => {
    const clock = new ManualClock();
    const backend = new CopyBackend();
    await start({ backend, clock });
    const gone = await t.admin();
    const goneIo = await t.io(gone);
    backend.hold = true;
    void goneIo.write(4, Buffer.alloc(512, 0xdd)).catch(() => {});
    await t.until(() => backend.held.length === 1);
    gone.destroy();
    goneIo.destroy();
    await t.until(() => t.connectionCount === 2);
    const formatting = format(admin, 1, 0);
    await settle();
    expect(backend.held.length, 'the erase has not begun').to.equal(1);
    backend.hold = false;
    backend.release();
    clock.advance(5);
    expect((await formatting).status).to.equal(0);
    expect((await io.read(4, 1)).data.every((byte) => byte === 0)).to.equal(true);
  });

  it('a backend that fails: its status, the old format, and I/O goes on', async () => {
    const clock = new ManualClock();
    const backend = new FaultBackend(new MemoryBackend({ blockSize: 512, blockCount: 4096 }), { clock });
    await start({ backend, clock });
    backend.addRule({ operation: 'writeZeroes', status: WRITE_FAULT });
    expect((await format(admin, 1, 1)).code).to.equal(WRITE_FAULT);
    expect((await geometry()).blockBytes).to.equal(512);
    expect((await io.write(0, Buffer.alloc(512))).status).to.equal(0);
  });

  it('a block size that cannot be saved is not changed', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'format-'));
    try {
      const state = new MemoryStateStore();
      const backend = await openFileBackend({ path: join(folder, 'disk'), blockSize: 512, sizeBytes: 1 << 20 });
      await start({ empty: true, state });
      t.target.addNamespace(t.subsystem, { nsid: 1, backend, formatBlockSizes: formatsWith(512) });
      state.failure = new Error('disk full');
      expect((await format(admin, 1, 1)).code).to.equal(0x06);
      expect((await geometry()).blockBytes).to.equal(512);
      state.failure = undefined;
      expect((await format(admin, 1, 1)).status).to.equal(0);
      expect(t.subsystem.manager.blockSizeOf(1, 512), 'at the next start').to.equal(4096);
      expect(t.subsystem.manager.blockSizeOf(1, 4096), 'configured anew').to.equal(4096);
    } finally {
      await t.close();
      rmSync(folder, { recursive: true });
    }
  });

  describe('size', () => {
    it('grows and shrinks under a connected host, who is told; what is past the end is out of range', async () => {
      await start({ backend: new MemoryBackend({ blockSize: 512, blockCount: 4096 }) });
      await admin.setFeature(0x0b, 0x100);
      await io.write(4000, Buffer.alloc(512, 0x99));
      const grown = admin.command({ opcode: 0x0c });
      await t.target.resizeNamespace(t.subsystem, 1, 8192 * 512);
      expect((await grown).result0).to.equal(0x0004_0002);
      expect((await geometry()).blocks).to.equal(8192);
      expect((await io.read(8191, 1)).data.every((byte) => byte === 0)).to.equal(true);
      await admin.logPage(4, 4096);
      const shrunk = admin.command({ opcode: 0x0c });
      await t.target.resizeNamespace(t.subsystem, 1, 2048 * 512);
      expect((await shrunk).result0).to.equal(0x0004_0002);
      expect((await geometry()).blocks).to.equal(2048);
      expect((await io.read(4000, 1)).code).to.equal(LBA_OUT_OF_RANGE);
      await t.target.resizeNamespace(t.subsystem, 1, 4096 * 512);
      expect((await io.read(4000, 1)).data[0], 'what was given up is gone').to.equal(0);
    });

    it('a shrink waits for a write that reaches past the new end', async () => {
      const clock = new ManualClock();
      const memory = new MemoryBackend({ blockSize: 512, blockCount: 4096 });
      const backend = new FaultBackend(memory, { clock });
      await start({ backend, clock });
      backend.addRule({ operation: 'write', hold: true });
      const late = io.write(4000, Buffer.alloc(512, 0x99));
      await t.until(() => backend.heldCount === 1);
      const shrinking = t.target.resizeNamespace(t.subsystem, 1, 2048 * 512);
      await settle();
      expect(memory.blockCount).to.equal(4096);
      backend.release();
      expect((await late).status).to.equal(0);
      clock.advance(5);
      await shrinking;
      expect([memory.blockCount, memory.allocatedBytes()]).to.deep.equal([2048, 0]);
    });
  });
});

/** Sanitize: sheet of commands 10.6, log page 81h; checklist numbers in case names. */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FaultBackend } from '../../src/backend/fault.ts';
import { openFileBackend } from '../../src/backend/file-open.ts';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { ManualClock } from '../support/manual-clock.ts';
import { MemoryStateStore } from '../support/memory-state-store.ts';
import type { Completion, RawHost } from '../support/raw-host.ts';
import { TestTarget } from '../support/test-target.ts';

const INVALID_OPCODE = 0x01;
const INVALID_FIELD = 0x02;
const SANITIZE_FAILED = 0x1c;
const SANITIZE_IN_PROGRESS = 0x1d;
const WRITE_PROTECTED = 0x20;
const INVALID_LOG_PAGE = 0x109;
const WRITE_FAULT = 0x280;
const Action = { Exit: 1, Block: 2, Overwrite: 3, Crypto: 4 } as const;
const AUSE = 0x08;
const NDAS = 0x200;
const OIPBP = 0x100;
const MIB = 1 << 20;

describe('conformance: Sanitize', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  async function start(options: Parameters<typeof TestTarget.start>[0] = {}): Promise<void> {
    t = await TestTarget.start({ ...options, subsystem: { allowSanitize: true, ...options.subsystem } });
    admin = await t.admin();
    io = await t.io(admin);
  }
  afterEach(() => t.close());

  const sanitize = (cdw10: number, cdw11 = 0): Promise<Completion> => admin.command({ opcode: 0x84, cdw10, cdw11 });
  async function log(): Promise<{ sprog: number; status: number; passes: number; erased: boolean; scdw10: number }> {
    const { data, status } = await admin.logPage(0x81, 512);
    expect(status).to.equal(0);
    const sstat = data.readUInt16LE(2);
    return {
      sprog: data.readUInt16LE(0),
      status: sstat & 7,
      passes: (sstat >> 3) & 0x1f,
      erased: (sstat & 0x100) !== 0,
      scdw10: data.readUInt32LE(4),
    };
  }
  const ended = (): Promise<void> => t.until(() => (t.subsystem.sanitizer.sstat & 7) !== 2);
  const COMPLETED = 1;
  const IN_PROGRESS = 2;
  const FAILED = 3;

  it('is not there unless the operator allows it', async () => {
    await start({ subsystem: { allowSanitize: false } });
    expect((await sanitize(Action.Block)).code).to.equal(INVALID_OPCODE);
    expect((await admin.identify(1)).data.readUInt32LE(328), 'SANICAP').to.equal(0);
    expect((await admin.logPage(0x81, 512)).code).to.equal(INVALID_LOG_PAGE);
    expect((await admin.logPage(5, 4096)).data.readUInt32LE(4 * 0x84)).to.equal(0);
  });

  it('is not there where a host sees less than it would erase, or where a crash could leave it half done', async () => {
    await start();
    expect((await admin.identify(1)).data.readUInt32LE(328) >>> 0, 'SANICAP').to.equal(0x6000_0006);
    t.target.addNamespace(t.subsystem, {
      nsid: 2,
      hosts: ['nqn.2024-01.org.example:other'],
      backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }),
    });
    expect((await sanitize(Action.Block)).code).to.equal(INVALID_OPCODE);
    await t.target.removeNamespace(t.subsystem, 2);
    const folder = mkdtempSync(join(tmpdir(), 'sanitize-'));
    try {
      const backend = await openFileBackend({ path: join(folder, 'disk'), blockSize: 512, sizeBytes: MIB });
      t.target.addNamespace(t.subsystem, { nsid: 2, backend });
      expect((await sanitize(Action.Block)).code, 'a file, and no state store').to.equal(INVALID_OPCODE);
    } finally {
      await t.close();
      rmSync(folder, { recursive: true });
    }
  });

  for (const [what, cdw10] of [
    ['no action', 0],
    ['cryptographic erase', Action.Crypto],
    ['exit of media verification', 5],
    ['no deallocation (SANICAP.NDI)', Action.Block | NDAS],
    ['media verification', Action.Block | 0x400],
  ] as const) {
    it(`${what}: Invalid Field, nothing erased`, async () => {
      await start();
      await io.write(0, Buffer.alloc(512, 5));
      expect((await sanitize(cdw10)).code).to.equal(INVALID_FIELD);
      expect((await io.read(0, 1)).data[0]).to.equal(5);
      expect((await log()).status).to.equal(0);
    });
  }

  it('block erase takes the data of every namespace; log page, event, Global Data Erased until the next write', async () => {
    await start();
    const second = new MemoryBackend({ blockSize: 4096, blockCount: 1024 });
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: second });
    await io.write(1000, Buffer.alloc(8192, 0xcc));
    await io.command({ opcode: 1, nsid: 2, cdw10: 9, cdw12: 0 }, { data: Buffer.alloc(4096, 0xcd) });
    const told = admin.command({ opcode: 0x0c });
    expect(await log()).to.deep.equal({ sprog: 0xffff, status: 0, passes: 0, erased: false, scdw10: 0 });
    expect((await sanitize(Action.Block)).status).to.equal(0);
    expect((await told).result0, 'type 6, info 1, LID 81h').to.equal(0x0081_0106);
    expect(await log()).to.deep.equal({
      sprog: 0xffff,
      status: COMPLETED,
      passes: 0,
      erased: true,
      scdw10: Action.Block,
    });
    expect((await io.read(1000, 16)).data.every((byte) => byte === 0)).to.equal(true);
    expect((await io.read(9, 1, { nsid: 2, blockBytes: 4096 })).data.every((byte) => byte === 0)).to.equal(true);
    expect(second.allocatedBytes(), 'memory given back').to.equal(0);
    await io.write(0, Buffer.alloc(512));
    expect((await log()).erased).to.equal(false);
  });

  it('65: meanwhile I/O, Format, Sanitize and namespace management get 1Dh; Identify and logs work', async () => {
    const clock = new ManualClock();
    const backend = new FaultBackend(new MemoryBackend({ blockSize: 512, blockCount: 4096 }), { clock });
    await start({ backend, clock });
    const held = backend.addRule({ operation: 'writeZeroes', hold: true });
    expect((await sanitize(Action.Block)).status, 'answered at once').to.equal(0);
    await t.until(() => backend.heldCount === 1);
    for (const refused of [
      await io.read(0, 1),
      await io.write(0, Buffer.alloc(512)),
      await io.command({ opcode: 8, nsid: 1, cdw12: 0 }),
      await admin.command({ opcode: 0x80, nsid: 1 }),
      await sanitize(Action.Block),
      await sanitize(Action.Exit),
    ]) {
      expect([refused.code, refused.dnr]).to.deep.equal([SANITIZE_IN_PROGRESS, false]);
    }
    expect((await admin.identify(0, { nsid: 1 })).status).to.equal(0);
    expect((await admin.command({ opcode: 0x18 })).status, 'Keep Alive').to.equal(0);
    expect(await log()).to.include({ status: IN_PROGRESS, sprog: 0 });
    const late = await t.io(await t.admin());
    expect((await late.read(0, 1)).code, 'a host that comes now').to.equal(SANITIZE_IN_PROGRESS);
    held.remove();
    backend.release();
    await ended();
    expect((await late.read(0, 1)).status).to.equal(0);
  });

  it('overwrite: passes, inverted in between, on every block; then deallocated', async () => {
    const clock = new ManualClock();
    const memory = new MemoryBackend({ blockSize: 512, blockCount: 4096 });
    const backend = new FaultBackend(memory, { clock });
    await start({ backend, clock });
    const seen: string[] = [];
    const { write } = backend;
    backend.write = (request): void => {
      seen.push(Buffer.from(request.segments[0]!.subarray(0, 4)).toString('hex'));
      write.call(backend, request);
    };
    expect((await sanitize(Action.Overwrite | (3 << 4) | OIPBP, 0x1122_3344)).status).to.equal(0);
    await ended();
    expect(seen, '2 MiB in pieces of 1 MiB, three times').to.deep.equal([
      '44332211',
      '44332211',
      'bbccddee',
      'bbccddee',
      '44332211',
      '44332211',
    ]);
    expect(await log()).to.include({ status: COMPLETED, passes: 3, erased: true });
    expect([memory.allocatedBytes(), (await io.read(77, 1)).data[0]]).to.deep.equal([0, 0]);
  });

  it('a write-protected namespace: Namespace is Write Protected, nothing erased', async () => {
    await start();
    await io.write(0, Buffer.alloc(512, 5));
    t.target.addNamespace(t.subsystem, {
      nsid: 2,
      readOnly: true,
      backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }),
    });
    expect((await sanitize(Action.Block)).code).to.equal(WRITE_PROTECTED);
    expect((await io.read(0, 1)).data[0]).to.equal(5);
  });

  describe('failure mode', () => {
    async function fail(cdw10: number): Promise<FaultBackend> {
      const clock = new ManualClock();
      const backend = new FaultBackend(new MemoryBackend({ blockSize: 512, blockCount: 4096 }), { clock });
      await start({ backend, clock });
      backend.addRule({ operation: 'writeZeroes', status: WRITE_FAULT, times: 1 });
      const told = admin.command({ opcode: 0x0c });
      expect((await sanitize(cdw10)).status).to.equal(0);
      expect((await told).result0).to.equal(0x0081_0106);
      expect(await log()).to.include({ status: FAILED, erased: false, sprog: 0xffff });
      const refused = await io.read(0, 1);
      expect([refused.code, refused.dnr]).to.deep.equal([SANITIZE_FAILED, true]);
      return backend;
    }

    it('restricted: only another restricted operation ends it', async () => {
      await fail(Action.Block);
      expect((await sanitize(Action.Exit)).code).to.equal(SANITIZE_FAILED);
      expect((await sanitize(Action.Block | AUSE)).code).to.equal(SANITIZE_FAILED);
      expect((await admin.command({ opcode: 0x80, nsid: 1 })).code, 'Format').to.equal(SANITIZE_FAILED);
      expect((await sanitize(Action.Block)).status).to.equal(0);
      await ended();
      expect((await log()).status).to.equal(COMPLETED);
      expect((await io.read(0, 1)).status).to.equal(0);
    });

    it('unrestricted: the host may leave it', async () => {
      await fail(Action.Block | AUSE);
      expect((await sanitize(Action.Exit)).status).to.equal(0);
      expect((await io.read(0, 1)).status).to.equal(0);
      expect((await log()).status, 'it failed all the same').to.equal(FAILED);
    });
  });

  describe('on files', () => {
    let folder: string;
    let state: MemoryStateStore;
    beforeEach(() => {
      folder = mkdtempSync(join(tmpdir(), 'sanitize-'));
      state = new MemoryStateStore();
    });
    afterEach(async () => {
      await t.close();
      rmSync(folder, { recursive: true });
    });
    const path = (): string => join(folder, 'disk');
    async function onFile(clock = new ManualClock()): Promise<FaultBackend> {
      const file = await openFileBackend({ path: path(), blockSize: 512, sizeBytes: 4 * MIB });
      const backend = new FaultBackend(file, { clock });
      await start({ backend, clock, state });
      return backend;
    }

    it('block erase gives the blocks back to the file system, overwrite writes them first', async () => {
      await onFile();
      await io.write(0, Buffer.alloc(8192, 0xfe));
      expect(readFileSync(path()).includes(Buffer.alloc(16, 0xfe))).to.equal(true);
      await sanitize(Action.Overwrite | (1 << 4), 0xabab_abab);
      await ended();
      expect((await log()).status).to.equal(COMPLETED);
      expect(readFileSync(path()).every((byte) => byte === 0)).to.equal(true);
      expect(statSync(path()).blocks * 512).to.be.lessThan(MIB);
    });

    it('an operation that the end of the process interrupts starts over before any host gets I/O', async () => {
      const backend = await onFile();
      await io.write(0, Buffer.alloc(8192, 0xfe));
      backend.addRule({ operation: 'writeZeroes', hold: true });
      await sanitize(Action.Block);
      await t.until(() => backend.heldCount === 1);
      const saved = new Map(state.values);
      // as after kill -9: the file as it was, and what was saved by then
      const before = readFileSync(path());
      const closing = t.close();
      backend.release();
      await closing;
      state.values.clear();
      for (const [name, value] of saved) state.values.set(name, value);
      expect(before.includes(Buffer.alloc(16, 0xfe))).to.equal(true);
      const again = await onFile();
      again.addRule({ operation: 'writeZeroes', hold: true });
      expect((await io.read(0, 1)).code, 'from the start').to.equal(SANITIZE_IN_PROGRESS);
      t.subsystem.sanitizer.resume();
      await t.until(() => again.heldCount === 1);
      again.clearRules();
      again.release();
      await ended();
      expect((await io.read(0, 16)).data.every((byte) => byte === 0)).to.equal(true);
      expect((await log()).status).to.equal(COMPLETED);
    });

    it('a state that cannot be saved: Internal Error, nothing erased', async () => {
      await onFile();
      await io.write(0, Buffer.alloc(512, 0xfe));
      state.failure = new Error('disk full');
      expect((await sanitize(Action.Block)).code).to.equal(0x06);
      expect((await io.read(0, 1)).data[0]).to.equal(0xfe);
    });
  });
});

import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { mkdtemp, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { BlockBackend } from '../../../src/backend/block-backend.ts';
import type { FileCalls } from '../../../src/backend/file.ts';
import { type OpenFileDeps, openFileBackend } from '../../../src/backend/file-open.ts';
import { openBackend } from '../../../src/backend/open.ts';
import { DNR, MediaStatus, Status } from '../../../src/spec/status.ts';
import { ConfigError } from '../../../src/util/error.ts';
import { type BackendOperation, pattern, submit, TestBlockIo } from '../../support/backend-compliance.ts';

const MIB = 1024 * 1024;

/** node:fs, with each call recorded and, if a hook says so, answered otherwise. */
class TestCalls implements FileCalls {
  readonly log: string[] = [];
  /** Limits one transfer. */
  bytesMax = Number.POSITIVE_INFINITY;
  /** Fails the calls of a name. */
  readonly errors = new Map<string, string>();
  /** Syncs wait for `go`. */
  holdSyncs = false;
  readonly heldSyncs: (() => void)[] = [];
  running = 0;
  runningMax = 0;

  #enter(name: string, fail: (error: NodeJS.ErrnoException) => void): boolean {
    this.log.push(name);
    this.running++;
    this.runningMax = Math.max(this.runningMax, this.running);
    const code = this.errors.get(name);
    if (code === undefined) return true;
    setImmediate(() => {
      this.running--;
      fail(Object.assign(new Error(`${code}: made up`), { code }));
    });
    return false;
  }
  #leave<A extends unknown[]>(done: (...values: A) => void): (...values: A) => void {
    return (...values) => {
      this.running--;
      done(...values);
    };
  }
  read: FileCalls['read'] = (fd, buffer, offset, length, position, done) => {
    if (!this.#enter('read', (error) => done(error, 0))) return;
    fs.read(fd, buffer, offset, Math.min(length, this.bytesMax), position, this.#leave(done));
  };
  write: FileCalls['write'] = (fd, buffer, offset, length, position, done) => {
    if (!this.#enter('write', (error) => done(error, 0))) return;
    fs.write(fd, buffer, offset, Math.min(length, this.bytesMax), position, this.#leave(done));
  };
  writev: FileCalls['writev'] = (fd, buffers, position, done) => {
    if (!this.#enter('writev', (error) => done(error, 0))) return;
    let left = this.bytesMax;
    const some: Uint8Array[] = [];
    for (const buffer of buffers) {
      if (left <= 0) break;
      some.push(buffer.subarray(0, Math.min(buffer.length, left)));
      left -= buffer.length;
    }
    fs.writev(fd, some, position, this.#leave(done));
  };
  fdatasync: FileCalls['fdatasync'] = (fd, done) => {
    if (!this.#enter('fdatasync', (error) => done(error))) return;
    const go = (): void => fs.fdatasync(fd, this.#leave(done));
    if (this.holdSyncs) this.heldSyncs.push(go);
    else go();
  };
}

describe('FileBackend', () => {
  let directory: string;
  let path: string;
  const opened: BlockBackend[] = [];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-file-'));
    path = join(directory, 'disk.img');
  });
  afterEach(async () => {
    for (const backend of opened.splice(0)) await backend.close().catch(() => {});
    await rm(directory, { recursive: true });
  });

  async function open(
    options: { blockSize?: number; sizeBytes?: number | undefined; readOnly?: boolean } = {},
    deps: OpenFileDeps = {},
  ): Promise<BlockBackend> {
    const { blockSize = 4096, sizeBytes = 4 * MIB } = options;
    const keep = 'sizeBytes' in options && options.sizeBytes === undefined;
    const backend = await openFileBackend(
      { path, blockSize, sizeBytes: keep ? undefined : sizeBytes, readOnly: options.readOnly },
      deps,
    );
    opened.push(backend);
    return backend;
  }

  async function run(
    backend: BlockBackend,
    operation: BackendOperation,
    options: ConstructorParameters<typeof TestBlockIo>[0] = {},
  ): Promise<number> {
    return submit(backend, operation, new TestBlockIo(options));
  }

  async function refusal(promise: Promise<unknown>): Promise<string> {
    try {
      await promise;
    } catch (error) {
      expect(error).to.be.instanceOf(ConfigError);
      const { message } = error as Error;
      expect(message).to.not.contain('\n');
      expect(message).to.contain(directory);
      return message;
    }
    return expect.fail('should have been refused');
  }

  describe('open', () => {
    it('makes a sparse file for its owner only, of the size asked for', async () => {
      const backend = await open({ sizeBytes: 1024 * MIB });
      const { size, blocks, mode } = await stat(path);
      expect([size, mode & 0o777]).to.deep.equal([1024 * MIB, 0o600]);
      expect(blocks * 512).to.be.lessThan(MIB);
      expect(backend.blockCount).to.equal(262_144);
      expect(backend.volatileWriteCache).to.equal(true);
    });

    it('takes the size of an existing file, and keeps its bytes', async () => {
      const bytes = pattern(3 * 4096, 1);
      await writeFile(path, bytes);
      const backend = await open({ sizeBytes: undefined });
      expect(backend.blockCount).to.equal(3);
      const io = new TestBlockIo({ length: 3 * 4096 });
      await submit(backend, 'read', io);
      expect(Buffer.from(io.data).equals(bytes)).to.equal(true);
    });

    it('grows a smaller file, keeping its bytes', async () => {
      await writeFile(path, pattern(4096, 1));
      const backend = await open({ sizeBytes: 8192 });
      expect(backend.blockCount).to.equal(2);
      const io = new TestBlockIo({ length: 8192 });
      await submit(backend, 'read', io);
      expect(Buffer.from(io.data.subarray(0, 4096)).equals(pattern(4096, 1))).to.equal(true);
      expect(io.data.subarray(4096).every((byte) => byte === 0)).to.equal(true);
    });

    it('refuses to cut a larger file, and does not touch it', async () => {
      await writeFile(path, pattern(8192, 1));
      expect(await refusal(open({ sizeBytes: 4096 }))).to.match(/has 8192 bytes, size says 4096; give no size/);
      expect((await stat(path)).size).to.equal(8192);
    });

    it('refuses what cannot be served, with the remedy', async () => {
      expect(await refusal(open({ sizeBytes: undefined }))).to.match(/no such file; create it, or give a size/);
      await writeFile(path, new Uint8Array(5000));
      expect(await refusal(open({ sizeBytes: undefined }))).to.match(
        /5000 bytes are not a multiple of .* 4096; use size 8192/,
      );
      await truncate(path, 0);
      expect(await refusal(open({ sizeBytes: undefined }))).to.match(/is empty; give a size/);
      path = directory;
      expect(await refusal(open({ sizeBytes: undefined }))).to.match(/is a directory/);
      expect(await refusal(open({ sizeBytes: undefined, readOnly: true }))).to.match(/is a directory/);
      path = join(directory, 'no', 'disk.img');
      expect(await refusal(open())).to.match(/no such directory .*; create it first/);
    });

    it('refuses a device', async () => {
      path = join(directory, 'device');
      await symlink('/dev/null', path);
      expect(await refusal(open({ sizeBytes: undefined }))).to.match(/is not a regular file/);
    });

    it('names missing permission', async function () {
      if (process.getuid?.() === 0) this.skip();
      await writeFile(path, new Uint8Array(4096), { mode: 0o400 });
      expect(await refusal(open())).to.match(/no permission; .*read-only/);
    });

    it('leaves no file behind when making it fails', async () => {
      expect(await refusal(open({ sizeBytes: 2 ** 52 }))).to.match(/more than its file system allows|no room|EINVAL/);
      expect(fs.existsSync(path)).to.equal(false);
    });

    it('refuses a file that is served already; not once that one is closed', async function () {
      if (spawnSync('flock', ['--version']).error !== undefined) this.skip();
      const first = await open();
      expect(await refusal(open())).to.match(/is in use by another nvmeferry/);
      expect(await refusal(open({ readOnly: true }))).to.match(/is in use/);
      await first.close();
      await open({ readOnly: true });
      await open({ readOnly: true });
      expect(await refusal(open())).to.match(/is in use/);
    }).timeout(10_000);

    it('openBackend opens each type', async () => {
      const file = await openBackend({ type: 'file', path, blockSize: 4096, sizeBytes: MIB });
      const memory = await openBackend({ type: 'memory', blockSize: 512, sizeBytes: MIB });
      const nothing = await openBackend({ type: 'null', blockSize: 4096, sizeBytes: MIB });
      opened.push(file, memory, nothing);
      expect([file.kind, memory.kind, nothing.kind]).to.deep.equal(['file', 'memory', 'null']);
      expect([file.blockCount, memory.blockCount, nothing.blockCount]).to.deep.equal([256, 2048, 256]);
    });
  });

  it('grow changes the file; without room, the old size stands', async () => {
    const backend = await open();
    await backend.grow!(2048);
    expect((await stat(path)).size).to.equal(8 * MIB);
    const failure = await backend.grow!(2 ** 40).then(
      () => undefined,
      (error: Error) => error,
    );
    expect(failure).to.have.property('code', 'NVMEOF_ERR_BACKEND');
    expect(backend.blockCount).to.equal(2048);
    expect((await stat(path)).size).to.equal(8 * MIB);
  });

  describe('holes', () => {
    /** True if this machine can punch holes here. */
    async function canPunch(backend: BlockBackend): Promise<boolean> {
      return backend.readsZeroAfterDeallocate;
    }
    const allocated = (): number => fs.statSync(path).blocks * 512;

    for (const operation of ['deallocate', 'writeZeroes'] as const) {
      it(`${operation} gives the room back`, async function () {
        const backend = await open();
        if (!(await canPunch(backend))) this.skip();
        await run(backend, 'write', { data: [pattern(4 * MIB, 1)] });
        await run(backend, 'flush');
        const before = allocated();
        expect(before).to.be.at.least(4 * MIB);
        expect(backend.allocatedBytes?.()).to.equal(before);
        expect(await run(backend, operation, { offset: MIB, length: 2 * MIB })).to.equal(0);
        expect(before - allocated()).to.be.within(2 * MIB - 65_536, 2 * MIB);
        expect((await stat(path)).size).to.equal(4 * MIB);
      });
    }

    it('without DEAC, zeroes keep their room', async () => {
      const backend = await open();
      await run(backend, 'write', { data: [pattern(4 * MIB, 1)] });
      await run(backend, 'flush');
      expect(await run(backend, 'zeroesNoDeallocate', { offset: MIB, length: 2 * MIB })).to.equal(0);
      await run(backend, 'flush');
      expect(allocated()).to.be.at.least(4 * MIB);
    });

    it('takes many ranges at once, apart and adjacent', async function () {
      const backend = await open();
      if (!(await canPunch(backend))) this.skip();
      await run(backend, 'write', { data: [pattern(4 * MIB, 1)] });
      const ranges = Array.from({ length: 150 }, (_, i) => ({ offset: (i < 100 ? i : i * 2) * 8192, length: 8192 }));
      const statuses = await Promise.all(ranges.map((range) => run(backend, 'deallocate', range)));
      expect(statuses.every((status) => status === 0)).to.equal(true);
      const io = new TestBlockIo({ length: 4 * MIB });
      await submit(backend, 'read', io);
      const wanted = pattern(4 * MIB, 1);
      for (const { offset, length } of ranges) wanted.fill(0, offset, offset + length);
      expect(Buffer.compare(io.data, wanted)).to.equal(0);
    });

    it('says so when it cannot punch, and keeps the data', async () => {
      const backend = await open({}, { holePunch: false });
      expect(backend.readsZeroAfterDeallocate).to.equal(false);
      await run(backend, 'write', { data: [pattern(4096, 1)] });
      expect(await run(backend, 'deallocate', { length: 4096 })).to.equal(0);
      const io = new TestBlockIo({ length: 4096 });
      await submit(backend, 'read', io);
      expect(Buffer.compare(io.data, pattern(4096, 1))).to.equal(0);
    });
  });

  describe('durability', () => {
    let calls: TestCalls;
    let backend: BlockBackend;
    const warnings: string[] = [];
    const data = { data: [pattern(4096, 1)] };

    beforeEach(async () => {
      calls = new TestCalls();
      warnings.length = 0;
      backend = await open({}, { calls, onWarning: (message) => warnings.push(message) });
      // the first sync covers what an earlier process may have left
      await run(backend, 'flush');
      calls.log.length = 0;
    });

    const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

    it('the first flush syncs though nothing was written here: a killed target may have left unsynced writes', async () => {
      await backend.close();
      calls.log.length = 0;
      backend = await open({}, { calls });
      await run(backend, 'flush');
      expect(calls.log).to.deep.equal(['fdatasync']);
    });

    it('a plain write does not sync; FUA and flush do, after the write', async () => {
      await run(backend, 'write', data);
      expect(calls.log).to.deep.equal(['write']);
      await run(backend, 'flush');
      expect(calls.log).to.deep.equal(['write', 'fdatasync']);
      await run(backend, 'write', { ...data, fua: true });
      expect(calls.log.slice(2)).to.deep.equal(['write', 'fdatasync']);
      await run(backend, 'zeroesNoDeallocate', { length: 4096, fua: true });
      expect(calls.log.slice(4)).to.deep.equal(['write', 'fdatasync']);
    });

    it('a FUA read syncs what is not durable, before it reads', async () => {
      await run(backend, 'write', data);
      await run(backend, 'read', { length: 4096, fua: true });
      expect(calls.log).to.deep.equal(['write', 'fdatasync', 'read']);
      await run(backend, 'read', { length: 4096, fua: true });
      expect(calls.log.slice(3)).to.deep.equal(['read']);
    });

    it('a flush with nothing to make durable needs no sync', async () => {
      await run(backend, 'flush');
      expect(calls.log).to.deep.equal([]);
    });

    it('flushes of one moment share a sync; one that follows a later write gets its own', async () => {
      calls.holdSyncs = true;
      await run(backend, 'write', data);
      const first = new TestBlockIo({});
      void submit(backend, 'flush', first);
      // completes while the first sync runs: that sync may have begun too early for it
      await run(backend, 'write', { ...data, offset: 4096 });
      const later = [new TestBlockIo({}), new TestBlockIo({}), new TestBlockIo({})];
      for (const io of later) void submit(backend, 'flush', io);
      await turn();
      expect(calls.heldSyncs).to.have.length(1);
      calls.heldSyncs.shift()!();
      expect(await first.done).to.equal(0);
      await turn();
      expect(later.map((io) => io.status)).to.deep.equal([undefined, undefined, undefined]);
      expect(calls.heldSyncs, 'one sync for the three').to.have.length(1);
      calls.heldSyncs.shift()!();
      expect(await Promise.all(later.map((io) => io.done))).to.deep.equal([0, 0, 0]);
      calls.holdSyncs = false;
    });

    it('a flush does not wait for writes that are not complete, and does not cover them', async () => {
      calls.holdSyncs = true;
      await run(backend, 'write', data);
      const early = new TestBlockIo({});
      void submit(backend, 'flush', early);
      const fua = new TestBlockIo({ ...data, fua: true });
      void submit(backend, 'write', fua);
      await turn();
      calls.heldSyncs.shift()!();
      expect(await early.done).to.equal(0);
      await turn();
      expect(fua.status, 'FUA write answered by a sync that began before it was written').to.equal(undefined);
      calls.heldSyncs.shift()!();
      expect(await fua.done).to.equal(0);
      calls.holdSyncs = false;
    });

    it('after a failed sync no flush and no FUA write succeeds any more', async () => {
      await run(backend, 'write', data);
      calls.errors.set('fdatasync', 'EIO');
      const both = [run(backend, 'flush'), run(backend, 'write', { ...data, fua: true })];
      expect(await Promise.all(both)).to.deep.equal([MediaStatus.WriteFault, MediaStatus.WriteFault]);
      calls.errors.clear();
      expect(await run(backend, 'flush')).to.equal(MediaStatus.WriteFault);
      expect(await run(backend, 'write', { ...data, fua: true })).to.equal(MediaStatus.WriteFault);
      expect(await run(backend, 'read', { length: 4096 })).to.equal(0);
      expect(warnings).to.have.length(1);
      expect(warnings[0]).to.match(/may be lost .*EIO/);
      const failure = await backend.close().then(
        () => undefined,
        (error: Error) => error,
      );
      expect(failure).to.have.property('code', 'NVMEOF_ERR_BACKEND');
    });

    it('close syncs', async () => {
      await run(backend, 'write', data);
      await backend.close();
      expect(calls.log).to.deep.equal(['write', 'fdatasync']);
    });
  });

  describe('system calls', () => {
    it('goes on after short transfers', async () => {
      const calls = new TestCalls();
      const backend = await open({ blockSize: 512 }, { calls });
      calls.bytesMax = 1000;
      const whole = pattern(10 * 512, 3);
      const pieces = [
        whole.subarray(0, 300),
        whole.subarray(300, 2900),
        whole.subarray(2900, 3000),
        whole.subarray(3000),
      ];
      expect(await run(backend, 'write', { offset: 512, data: pieces })).to.equal(0);
      const io = new TestBlockIo({ offset: 512, length: 10 * 512 });
      expect(await submit(backend, 'read', io)).to.equal(0);
      expect(Buffer.compare(io.data, whole)).to.equal(0);
      expect(await run(backend, 'zeroesNoDeallocate', { offset: 1024, length: 4096 })).to.equal(0);
      const cleared = new TestBlockIo({ offset: 512, length: 10 * 512 });
      await submit(backend, 'read', cleared);
      expect(Buffer.compare(cleared.data, Uint8Array.from(whole).fill(0, 512, 512 + 4096))).to.equal(0);
    });

    it('maps errors to status', async () => {
      const calls = new TestCalls();
      const backend = await open({}, { calls });
      const write = { data: [pattern(4096, 1)] };
      for (const [code, status] of [
        ['ENOSPC', Status.CapacityExceeded | DNR],
        ['EDQUOT', Status.CapacityExceeded | DNR],
        ['EIO', MediaStatus.WriteFault],
        ['EROFS', Status.NamespaceWriteProtected],
      ] as const) {
        calls.errors.set('write', code).set('writev', code);
        expect(await run(backend, 'write', write), code).to.equal(status);
        expect(await run(backend, 'write', { data: [pattern(2048, 1), pattern(2048, 2)] }), code).to.equal(status);
        expect(await run(backend, 'zeroesNoDeallocate', { length: 4096 }), code).to.equal(status);
      }
      calls.errors.set('read', 'EIO');
      expect(await run(backend, 'read', { length: 4096 })).to.equal(MediaStatus.UnrecoveredReadError);
      calls.errors.clear();
      expect(await run(backend, 'write', write)).to.equal(0);
    });

    it('a file cut short under it is a read error, not a hang', async () => {
      const backend = await open();
      await truncate(path, 6000);
      expect(await run(backend, 'read', { length: 8192 })).to.equal(MediaStatus.UnrecoveredReadError);
      expect(await run(backend, 'read', { length: 4096 })).to.equal(0);
    });

    it('bounds the calls at once, and starts the rest in order', async () => {
      const calls = new TestCalls();
      const backend = await open({}, { calls });
      const order: number[] = [];
      const all = Array.from({ length: 500 }, (_, i) => {
        const io = new TestBlockIo({ offset: (i % 1024) * 4096, length: 4096 });
        io.onComplete = () => order.push(i);
        return submit(backend, 'read', io);
      });
      await Promise.all(all);
      expect(calls.runningMax).to.be.at.most(64);
      // the thread pool may swap neighbours; the last ones cannot overtake the first ones
      expect(order.slice(0, 250).every((i) => i < 400)).to.equal(true);
    });

    it('after close, commands fail at once', async () => {
      const backend = await open();
      await backend.close();
      expect(await run(backend, 'read', { length: 4096 })).to.equal(Status.NamespaceNotReady);
      expect(await run(backend, 'flush')).to.equal(Status.NamespaceNotReady);
    });

    it('read-only: changes are refused, reads and flush work', async () => {
      await writeFile(path, pattern(8192, 1));
      const backend = await open({ sizeBytes: undefined, readOnly: true });
      for (const operation of ['write', 'writeZeroes', 'deallocate'] as const) {
        expect(await run(backend, operation, { data: [pattern(4096, 2)] })).to.equal(Status.NamespaceWriteProtected);
      }
      expect(await run(backend, 'read', { length: 8192 })).to.equal(0);
      expect(await run(backend, 'flush')).to.equal(0);
    });
  });
});

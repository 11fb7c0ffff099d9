/** The file backend through the native I/O engine: both of its ways, with and without the page cache, and what only the engine does. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { FileBackend } from '../../../src/backend/file.ts';
import { openFileBackend } from '../../../src/backend/file-open.ts';
import { threadEngines } from '../../../src/native/thread-engine.ts';
import { describeBackendCompliance, pattern, submit, TestBlockIo } from '../../support/backend-compliance.ts';
import { ENGINE_MODES, needNative, openEngine } from '../../support/native.ts';

/** Not the folder for temporary files: that may be one in memory, which has no direct I/O. */
const onDisk = (): Promise<string> => {
  fs.mkdirSync('.cache', { recursive: true });
  return mkdtemp(join(process.cwd(), '.cache', 'direct-'));
};
const MIB = 1 << 20;

const TMPFS_MAGIC = 0x0102_1994;
const SHARED_MEMORY = '/dev/shm';
const hasSharedMemory = fs.existsSync(SHARED_MEMORY) && fs.statfsSync(SHARED_MEMORY).type === TMPFS_MAGIC;
const inMemory = (): Promise<string> => mkdtemp(join(SHARED_MEMORY, 'nvmeferry-file-'));

const PLACES = [
  { place: '', folder: (): Promise<string> => mkdtemp(join(tmpdir(), 'nvmeferry-file-')), direct: false },
  { place: ', past the page cache', folder: onDisk, direct: true },
  ...(hasSharedMemory ? [{ place: ', in memory', folder: inMemory, direct: false }] : []),
];

for (const engine of ENGINE_MODES) {
  for (const { place, folder, direct } of PLACES) {
    describe(`File backend by ${engine}${place}`, () => {
      before(function () {
        openEngine(this as unknown as Mocha.Context, { mode: engine, depth: 4 }).close();
      });
      let directory: string;
      describeBackendCompliance(`file by ${engine}${place}`, {
        open: async ({ blockSize, blockCount }) => {
          directory = await folder();
          return openFileBackend(
            { path: join(directory, 'disk.img'), blockSize, sizeBytes: blockSize * blockCount, direct },
            { engine },
          );
        },
        cleanUp: async () => {
          await rm(directory, { recursive: true });
          expect(threadEngines(), 'engines left open').to.have.length(0);
        },
      });
    });
  }

  describe(`File backend by ${engine}: what the engine adds`, () => {
    let directory: string;
    let backend: FileBackend;

    beforeEach(async function () {
      openEngine(this as unknown as Mocha.Context, { mode: engine, depth: 4 }).close();
      directory = await onDisk();
      backend = await openFileBackend(
        { path: join(directory, 'disk.img'), blockSize: 4096, sizeBytes: 16 * MIB },
        { engine },
      );
    });
    afterEach(async () => {
      await backend?.close();
      if (directory !== undefined) await rm(directory, { recursive: true });
    });

    it('a batch of commands is one call into the kernel', async function () {
      if (engine !== 'io_uring') this.skip();
      const [shared] = threadEngines();
      const before = shared!.enterCount;
      await Promise.all(
        Array.from({ length: 32 }, (_, i) =>
          submit(backend, 'write', new TestBlockIo({ offset: i * 4096, data: [pattern(4096, i)] })),
        ),
      );
      expect(shared!.enterCount - before).to.equal(1);
    });

    it('reads and writes a file in memory itself, and leaves all else to the kernel', async function () {
      if (!hasSharedMemory) this.skip();
      const [shared] = threadEngines();
      const other = await inMemory();
      const memory = await openFileBackend(
        { path: join(other, 'disk.img'), blockSize: 4096, sizeBytes: 16 * MIB },
        { engine },
      );
      try {
        const counts = (): number[] => [shared!.inlineJobCount, shared!.enterCount + shared!.threadJobCount];
        const before = counts();
        const data = Array.from({ length: 32 }, (_, i) => pattern(4096, i));
        await Promise.all(
          data.map((each, i) => submit(memory, 'write', new TestBlockIo({ offset: i * 4096, data: [each] }))),
        );
        const read = new TestBlockIo({ length: 32 * 4096 });
        await submit(memory, 'read', read);
        expect(Buffer.compare(read.data, Buffer.concat(data))).to.equal(0);
        expect(counts()).to.deep.equal([before[0]! + 33, before[1]]);
        await submit(memory, 'flush', new TestBlockIo({}));
        expect(counts()[1], 'a sync').to.be.greaterThan(before[1]!);
      } finally {
        await memory.close();
        await rm(other, { recursive: true });
      }
      const before = shared!.inlineJobCount;
      await submit(backend, 'write', new TestBlockIo({ data: [pattern(4096, 1)] }));
      expect(shared!.inlineJobCount, 'a file on a disk').to.equal(before);
    });

    it('knows where data are, in whole units, and joins what touches', async () => {
      const runs = (from: number, end: number): [number, number][] => {
        const found: [number, number][] = [];
        for (let at = from; ; ) {
          const run = backend.nextAllocated!(at, end);
          if (run === undefined) return found;
          found.push([run.startBytes, run.endBytes]);
          at = run.endBytes;
        }
      };
      expect(backend.allocationUnitBytes).to.equal(4096);
      expect(runs(0, 16 * MIB)).to.deep.equal([]);
      await submit(backend, 'write', new TestBlockIo({ offset: MIB, data: [pattern(65_536, 1)] }));
      await submit(backend, 'write', new TestBlockIo({ offset: 5 * MIB, data: [pattern(65_536, 2)] }));
      const both: [number, number][] = [
        [MIB, MIB + 65_536],
        [5 * MIB, 5 * MIB + 65_536],
      ];
      expect(runs(0, 16 * MIB)).to.deep.equal(both);
      expect(runs(MIB + 4096, 5 * MIB + 4096)).to.deep.equal([
        [MIB + 4096, MIB + 65_536],
        [5 * MIB, 5 * MIB + 4096],
      ]);
      await submit(backend, 'deallocate', new TestBlockIo({ offset: MIB, length: 65_536 }));
      expect(runs(0, 16 * MIB)).to.deep.equal(both.slice(1));
    });

    it('without DEAC, zeroes keep their room; with it, they give it back', async () => {
      await submit(backend, 'write', new TestBlockIo({ data: [pattern(MIB, 1)] }));
      const before = backend.allocatedBytes()!;
      await submit(backend, 'zeroesNoDeallocate', new TestBlockIo({ length: MIB }));
      expect(backend.allocatedBytes()).to.equal(before);
      await submit(backend, 'writeZeroes', new TestBlockIo({ length: MIB }));
      expect(backend.allocatedBytes()).to.be.lessThan(before);
    });
  });
}

describe('File backend on the engine: refusals and faults', () => {
  it('a full file system is Capacity Exceeded, and what was there stays', function () {
    needNative(this as unknown as Mocha.Context);
    if (process.getuid?.() !== 0) this.skip();
    const source = new URL('../../../src/', import.meta.url).href;
    const script = `
      const { openFileBackend } = await import('${source}backend/file-open.js');
      for (const engine of ['auto', 'thread-pool']) {
        const path = '/mnt/' + engine;
        const backend = await openFileBackend({ path, blockSize: 4096, sizeBytes: 8 << 20 }, { engine });
        const statuses = new Set();
        await Promise.all(Array.from({ length: 128 }, (_, i) => new Promise((resolve) => backend.write({
          offsetBytes: i * 65536, lengthBytes: 65536, fua: false, segments: [new Uint8Array(65536).fill(i + 1)], segmentCount: 1,
          retain() {}, complete(status) { statuses.add(status); resolve(); } }))));
        const first = new Uint8Array(4096);
        const read = await new Promise((resolve) => backend.read({ offsetBytes: 0, lengthBytes: 4096, fua: false,
          provide: () => first, complete: resolve }));
        console.log([...statuses].sort((a, b) => a - b).join(), read, first[0]);
        await backend.close();
        (await import('node:fs')).rmSync(path);
      }`;
    const mounted = `mount -t tmpfs -o size=2m none /mnt && exec "${process.execPath}" --input-type=module -e "$0"`;
    const run = spawnSync('unshare', ['-m', 'sh', '-c', mounted, script]);
    if (/unshare|mount:/.test(run.stderr.toString())) this.skip();
    // Capacity Exceeded with Do Not Retry
    expect(run.stdout.toString(), run.stderr.toString()).to.equal(`0,${0x4081} 0 1\n`.repeat(2));
  });

  it('no descriptors left: the file that has none is refused with the remedy, those that are open work on, and one that closes makes room', function () {
    needNative(this as unknown as Mocha.Context);
    const source = new URL('../../../src/', import.meta.url).href;
    const directory = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-file-'));
    const script = `
      const { openFileBackend } = await import('${source}backend/file-open.js');
      const open = (name, engine) => openFileBackend({ path: '${directory}/' + name, blockSize: 4096, sizeBytes: 8192 }, { engine });
      const io = (resolve, segment) => ({ offsetBytes: 0, lengthBytes: 4096, fua: true, segments: [segment], segmentCount: 1,
        retain() {}, provide: () => segment, complete: resolve });
      for (const engine of ['auto', 'thread-pool', 'node']) {
        const opened = [];
        let error;
        while (error === undefined) {
          await open(engine + opened.length, engine).then((backend) => opened.push(backend), (caught) => { error = caught; });
        }
        console.log(error.code, error.message.replace(/^.*: (?=too)/, ''));
        const statuses = new Set();
        for (const [i, backend] of opened.entries()) {
          statuses.add(await new Promise((resolve) => backend.write(io(resolve, new Uint8Array(4096).fill(i + 1)))));
          const back = new Uint8Array(4096);
          statuses.add(await new Promise((resolve) => backend.read(io(resolve, back))));
          if (back[0] !== i + 1) statuses.add('other data');
        }
        console.log(...statuses);
        // a new file takes one for its folder as well, and helpers take some
        for (let i = 0; i < 4; i++) await opened.pop().close();
        opened.push(await open(engine + 'again', engine));
        for (const backend of opened) await backend.close();
      }`;
    try {
      const limited = `ulimit -n 48 && exec "${process.execPath}" --input-type=module -e "$0"`;
      const run = spawnSync('sh', ['-c', limited, script], { timeout: 25_000 });
      const said = 'NVMEOF_ERR_CONFIG too many open files; raise the limit (ulimit -n)\n0\n';
      expect(run.stdout.toString(), run.stderr.toString()).to.equal(said.repeat(3));
    } finally {
      fs.rmSync(directory, { recursive: true });
    }
  });

  it('direct I/O where there is none, or blocks too small for it, is refused with the remedy', async function () {
    needNative(this as unknown as Mocha.Context);
    let message = '';
    const path = '/proc/self/nvmeferry'; // no direct I/O, and no files either
    await openFileBackend({ path, blockSize: 512, sizeBytes: 4096, direct: true }).catch((error: Error) => {
      message = error.message;
    });
    expect(message).to.match(/\/proc\/self\/nvmeferry: /);
    const directory = await onDisk();
    try {
      await openFileBackend(
        { path: join(directory, 'f'), blockSize: 4096, sizeBytes: 8192, direct: true },
        { engine: 'node' },
      ).catch((error: Error) => {
        message = error.message;
      });
      expect(message).to.match(/direct I\/O needs an I\/O engine; choose auto, io_uring or thread-pool/);
      expect(fs.readdirSync(directory), 'left behind').to.deep.equal([]);
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('a block device that is in use is refused, and named', async function () {
    needNative(this as unknown as Mocha.Context);
    if (process.getuid?.() !== 0 || !fs.existsSync('/dev/vda')) this.skip();
    let message = '';
    await openFileBackend({ path: '/dev/vda', blockSize: 512 }).catch((error: Error) => {
      message = error.message;
    });
    if (message.includes('no permission')) this.skip();
    expect(message).to.match(
      /^\/dev\/vda: (vda.* is mounted on .*|is in use by something else on this machine); end that first/,
    );
  });
});

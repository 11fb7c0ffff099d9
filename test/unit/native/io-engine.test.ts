import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { FakeBinding } from '../../../src/native/fake-binding.ts';
import { type IoDone, IoEngine, NvmeCall } from '../../../src/native/io-engine.ts';
import { ENTRY_WORDS, EntryWord, FallocateMode, Operation, RWF_DSYNC } from '../../../src/native/operation-layout.ts';
import { pattern } from '../../support/backend-compliance.ts';
import { ENGINE_MODES, needNative, openEngine, until } from '../../support/native.ts';

interface Answer {
  readonly code: string | undefined;
  readonly result: number;
}

/** One operation as a promise. */
function ask(start: (done: IoDone) => void): Promise<Answer> {
  return new Promise((resolve) => start((error, result) => resolve({ code: error?.code, result })));
}

async function gc(): Promise<void> {
  setFlagsFromString('--expose_gc');
  const collect = runInNewContext('gc') as () => void;
  for (let i = 0; i < 4; i++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

for (const mode of ENGINE_MODES) {
  describe(`IoEngine by ${mode}`, () => {
    let engine: IoEngine;
    let folder: string;
    let path: string;
    let fd: number;

    beforeEach(function () {
      engine = openEngine(this as unknown as Mocha.Context, { mode, depth: 64 });
      folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-engine-'));
      path = join(folder, 'data');
      fd = fs.openSync(path, 'w+');
    });
    afterEach(() => {
      engine?.close();
      if (fd !== undefined) fs.closeSync(fd);
      if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
    });

    it('says what it is', () => {
      expect(engine.mode).to.equal(mode);
      expect(engine.refusal).to.equal(undefined);
    });

    it('writes and reads: one buffer, part of one, several, and past 4 GiB', async () => {
      const far = 5 * 1024 ** 3 + 512;
      const data = pattern(10_000, 1);
      expect(await ask((done) => engine.write(fd, data, 1000, 8000, 4096, 0, done))).to.deep.include({ result: 8000 });
      const pieces = [data.subarray(0, 7), data.subarray(7, 4000), data.subarray(4000, 4001), data.subarray(4001)];
      const tail = await ask((done) => engine.writev(fd, pieces, 5, 9995, far, RWF_DSYNC, done));
      expect(tail).to.deep.equal({ code: undefined, result: 9995 });
      const found = new Uint8Array(9000);
      expect((await ask((done) => engine.read(fd, found, 500, 8000, 4096, done))).result).to.equal(8000);
      expect(Buffer.compare(found.subarray(500, 8500), data.subarray(1000, 9000))).to.equal(0);
      expect(found[499]! + found[8500]!, 'outside its part').to.equal(0);
      const into = [new Uint8Array(100), new Uint8Array(9895)];
      expect((await ask((done) => engine.readv(fd, into, 0, 9995, far, done))).result).to.equal(9995);
      expect(Buffer.compare(Buffer.concat(into), data.subarray(5))).to.equal(0);
      expect(fs.fstatSync(fd).size).to.equal(far + 9995);
    });

    it('asks the kernel once per turn, whatever the number of operations', async () => {
      const total = 60;
      fs.ftruncateSync(fd, total * 512);
      const before = engine.enterCount;
      const reads = Array.from({ length: total }, (_, i) =>
        ask((done) => engine.read(fd, new Uint8Array(512), 0, 512, i * 512, done)),
      );
      expect(engine.pendingCount).to.equal(total);
      await Promise.all(reads);
      expect(engine.enterCount - before).to.equal(mode === 'io_uring' ? 1 : 0);
      expect(engine.threadJobCount).to.equal(mode === 'io_uring' ? 0 : total);
      expect(engine.completedCount).to.equal(total);
      expect(engine.pendingCount).to.equal(0);
    });

    it('performs reads and writes itself where told, each with its own result, until told otherwise', async () => {
      engine.performInline(fd);
      const enters = engine.enterCount;
      const data = pattern(4096, 1);
      const found = new Uint8Array(8192);
      const answers = [
        await ask((done) => engine.write(fd, data, 0, 4096, 512, RWF_DSYNC, done)),
        ...(await Promise.all([
          ask((done) => engine.read(fd, found, 0, 8192, 512, done)),
          ask((done) => engine.readv(fd, [new Uint8Array(100), new Uint8Array(28)], 0, 128, 1000, done)),
          ask((done) => engine.read(fd, found, 1, 8192, 512, done)), // longer than the view
        ])),
      ];
      expect(answers.map(({ code, result }) => code ?? result)).to.deep.equal([4096, 4096, 128, 'EINVAL']);
      expect(Buffer.compare(found.subarray(0, 4096), data)).to.equal(0);
      expect([engine.inlineJobCount, engine.enterCount - enters, engine.threadJobCount]).to.deep.equal([3, 0, 0]);
      expect((await ask((done) => engine.fdatasync(fd, done))).code).to.equal(undefined);
      engine.unregisterFile(fd);
      await ask((done) => engine.read(fd, found, 0, 8192, 512, done));
      expect(engine.inlineJobCount, 'a sync, and a read of what may be another file').to.equal(3);
      expect(engine.pendingCount).to.equal(0);
    });

    it('takes far more operations than it has slots, and keeps them apart', async () => {
      const small = openEngine(undefined as never, { mode, depth: 4 });
      try {
        const total = 500;
        await Promise.all(
          Array.from({ length: total }, (_, i) =>
            ask((done) => small.write(fd, pattern(512, i), 0, 512, i * 512, 0, done)),
          ),
        );
        const buffers = Array.from({ length: total }, () => new Uint8Array(512));
        const answers = await Promise.all(
          buffers.map((buffer, i) => ask((done) => small.read(fd, buffer, 0, 512, i * 512, done))),
        );
        expect(answers.every((answer) => answer.result === 512)).to.equal(true);
        for (const [i, buffer] of buffers.entries())
          expect(Buffer.compare(buffer, pattern(512, i)), `${i}`).to.equal(0);
        expect(small.pendingCount).to.equal(0);
      } finally {
        small.close();
      }
    });

    it('reads short at the end of the file, and nothing past it', async () => {
      fs.writeSync(fd, pattern(700, 1));
      expect((await ask((done) => engine.read(fd, new Uint8Array(1024), 0, 1024, 512, done))).result).to.equal(188);
      expect((await ask((done) => engine.read(fd, new Uint8Array(1024), 0, 1024, 4096, done))).result).to.equal(0);
    });

    it('gives every failure its errno', async () => {
      const readOnly = fs.openSync(path, 'r');
      const full = fs.openSync('/dev/full', 'w');
      const page = new Uint8Array(512);
      try {
        const answers = await Promise.all([
          ask((done) => engine.read(9999, page, 0, 512, 0, done)),
          ask((done) => engine.write(readOnly, page, 0, 512, 0, 0, done)),
          ask((done) => engine.write(full, page, 0, 512, 0, 0, done)),
          ask((done) => engine.fallocate(fd, FallocateMode.PunchHole, 0, 512, done)), // without KEEP_SIZE
          ask((done) => engine.discard(fd, false, 0, 512, done)),
          ask((done) => engine.read(fd, page, 1, 512, 0, done)), // longer than the view
          ask((done) => engine.read(fd, page, 600, 1, 0, done)),
          ask((done) => engine.writev(fd, [page, page], 0, 1025, 0, 0, done)),
        ]);
        expect(answers.map((answer) => answer.code)).to.deep.equal([
          'EBADF',
          'EBADF',
          'ENOSPC',
          'ENOTSUP', // the name that libuv has for it
          'ENOTTY',
          'EINVAL',
          'EINVAL',
          'EINVAL',
        ]);
      } finally {
        fs.closeSync(readOnly);
        fs.closeSync(full);
      }
    });

    it('punches holes, zeroes, syncs', async () => {
      const data = pattern(1 << 20, 3);
      await ask((done) => engine.write(fd, data, 0, data.length, 0, 0, done));
      expect((await ask((done) => engine.fdatasync(fd, done))).code).to.equal(undefined);
      expect((await ask((done) => engine.fsync(fd, done))).code).to.equal(undefined);
      const before = fs.fstatSync(fd).blocks;
      const hole = FallocateMode.PunchHole | FallocateMode.KeepSize;
      expect((await ask((done) => engine.fallocate(fd, hole, 65_536, 524_288, done))).code).to.equal(undefined);
      data.fill(0, 65_536, 65_536 + 524_288);
      expect(Buffer.compare(fs.readFileSync(path), data)).to.equal(0);
      expect(fs.fstatSync(fd).blocks).to.be.lessThan(before);
    });

    it('uses registered files and buffers, and forgets them when told', async () => {
      engine.registerFile(fd);
      const slab = new ArrayBuffer(8192);
      engine.registerBuffer(new ArrayBuffer(64));
      const index = engine.registerBuffer(slab);
      expect(index).to.equal(1);
      new Uint8Array(slab).set(pattern(4096, 7), 1024);
      expect((await ask((done) => engine.transferFixed(true, fd, index, 1024, 4096, 512, 0, done))).result).to.equal(
        4096,
      );
      expect((await ask((done) => engine.transferFixed(false, fd, index, 4608, 3584, 512, 0, done))).result).to.equal(
        3584,
      );
      expect(Buffer.compare(new Uint8Array(slab, 4608), pattern(3584, 7))).to.equal(0);
      const outside = await ask((done) => engine.transferFixed(false, fd, index, 8000, 193, 0, 0, done));
      expect(outside.code, 'past the end of the buffer').to.equal('EINVAL');
      engine.unregisterBuffer(index);
      const gone = await ask((done) => engine.transferFixed(false, fd, index, 0, 512, 0, 0, done));
      expect(gone.code, 'no buffer there').to.equal('EINVAL');
      // the number of the descriptor comes again: it must not mean the old file
      engine.unregisterFile(fd);
      fs.closeSync(fd);
      fd = fs.openSync(join(folder, 'other'), 'w+');
      fs.writeSync(fd, 'another file');
      const read = new Uint8Array(12);
      await ask((done) => engine.read(fd, read, 0, 12, 0, done));
      expect(Buffer.from(read).toString()).to.equal('another file');
    });

    it('knows which memory is in use', async () => {
      const buffer = new Uint8Array(512);
      const done = ask((finished) => engine.write(fd, buffer, 0, 512, 0, 0, finished));
      expect(engine.uses(buffer.buffer)).to.equal(true);
      expect(engine.uses(new ArrayBuffer(1))).to.equal(false);
      await done;
      expect(engine.uses(buffer.buffer)).to.equal(false);
    });

    it('an error thrown by a callback is an uncaught exception, and the engine goes on', async () => {
      const listeners = process.listeners('uncaughtException');
      process.removeAllListeners('uncaughtException');
      const seen = new Promise<Error>((resolve) => process.once('uncaughtException', resolve));
      try {
        engine.nop(() => {
          throw new Error('from the callback');
        });
        expect((await seen).message).to.equal('from the callback');
      } finally {
        for (const listener of listeners) process.on('uncaughtException', listener);
      }
      expect((await ask((done) => engine.nop(done))).code).to.equal(undefined);
    });

    it('refuses work after close', () => {
      engine.close();
      engine.close();
      expect(() => engine.nop(() => {})).to.throw(/closed/);
    });

    it('keeps buffers of operations in flight through garbage collection', async function () {
      this.timeout(60_000);
      fs.ftruncateSync(fd, 1 << 20);
      const sums: number[] = [];
      for (let i = 0; i < 200; i++) {
        const data = pattern(4096, i);
        // nothing but the engine knows `data` from here on
        engine.write(fd, data, 0, 4096, i * 4096, 0, (_error, result) => sums.push(result));
        if (i % 50 === 0) await gc();
      }
      await gc();
      await until(() => sums.length === 200);
      const found = fs.readFileSync(path);
      for (let i = 0; i < 200; i++) {
        expect(Buffer.compare(found.subarray(i * 4096, (i + 1) * 4096), pattern(4096, i)), `block ${i}`).to.equal(0);
      }
    });
  });
}

describe('IoEngine by io_uring: operations that do not end', () => {
  it('pins the buffer of a read that waits, and lets it go afterwards', async function () {
    const engine = openEngine(this as unknown as Mocha.Context, { mode: 'io_uring', depth: 8 });
    const binding = needNative(this as unknown as Mocha.Context);
    const fd = binding.eventfdCreate(0);
    // fs would make the descriptor blocking or not as it likes: an eventfd is non-blocking, so poll through the ring by a pipe instead
    const pair = binding.unixPair() as [number, number];
    let weak: WeakRef<Uint8Array> | undefined;
    let bytes: Uint8Array | undefined;
    let result: number | undefined;
    const start = (): void => {
      const buffer = new Uint8Array(64);
      weak = new WeakRef(buffer);
      engine.read(pair[0], buffer, 0, 64, 0, (_error, got) => {
        result = got;
        bytes = weak?.deref()?.slice();
      });
    };
    start();
    await new Promise((resolve) => setImmediate(resolve));
    await gc();
    expect(weak?.deref()?.length ?? 0, 'collected while the kernel may write to it').to.equal(64);
    binding.sendMessage(pair[1], Buffer.from('hello'), 0, 5, undefined);
    await until(() => result !== undefined);
    if (result! > 0) expect(Buffer.from(bytes!.subarray(0, 5)).toString()).to.equal('hello');
    engine.close();
    for (const each of [fd, ...pair]) fs.closeSync(each);
  });
});

describe('IoEngine by io_uring: wake-ups', () => {
  it('none for what completes at submission, one for what completes later', async function () {
    // before 6.0 wake-ups cannot be held back safely
    if (Number.parseInt(release(), 10) < 6) this.skip();
    const engine = openEngine(this as unknown as Mocha.Context, { mode: 'io_uring', depth: 8 });
    const folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-engine-'));
    const path = join(folder, 'fifo');
    expect(spawnSync('mkfifo', [path]).status).to.equal(0);
    const fifo = fs.openSync(path, 'r+');
    try {
      const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
      for (let i = 0; i < 5; i++) {
        await Promise.all(Array.from({ length: 6 }, () => ask((done) => engine.nop(done))));
        await turn();
        await turn();
      }
      expect(engine.enterCount).to.equal(5);
      expect(engine.wakeUpCount).to.equal(0);
      const page = new Uint8Array(512);
      const later = ask((done) => engine.read(fifo, page, 0, 512, 0, done));
      await turn();
      expect(engine.pendingCount, 'a read that waits').to.equal(1);
      fs.writeSync(fifo, 'later');
      expect((await later).result).to.equal(5);
      expect(engine.wakeUpCount).to.equal(1);
    } finally {
      engine.close();
      fs.closeSync(fifo);
      fs.rmSync(folder, { recursive: true });
    }
  });
});

describe('IoEngine over a fake binding', () => {
  it('packs what it is asked for', async () => {
    const fake = new FakeBinding(() => ({ result: 0x2002, result0: 7, result1: -1 }));
    const engine = new IoEngine(fake.binding, { depth: 4 });
    const call = new NvmeCall();
    call.opcode = 0x0d;
    call.flags = 0x40;
    call.nsid = 0xffff_ffff;
    call.cdw10To15.set([1, 2, 0xffff_fff0, 4, 5, 6]);
    call.timeoutMs = 77;
    call.metadata = new Uint8Array(8);
    const data = new Uint8Array(4096);
    const answer = await new Promise<number[]>((resolve) =>
      engine.nvme(42, false, call, data, 1, 4096, false, (error, ...rest) =>
        resolve([error === null ? 0 : 1, ...rest]),
      ),
    );
    expect(answer).to.deep.equal([0, 0x2002, 7, -1]);
    expect(fake.operations).to.have.length(1);
    const [operation] = fake.operations;
    expect(operation).to.deep.include({ op: Operation.NvmeIo, fd: 42, nsid: 0xffff_ffff, length: 4096, opcode: 0x0d });
    expect(operation!.cdw10To15).to.deep.equal([1, 2, 0xffff_fff0, 4, 5, 6]);
    expect(operation!.data).to.equal(data);
    expect(operation!.metadata).to.equal(call.metadata);
    engine.close();
  });

  it('holds back what has no slot until one is free, in order', async () => {
    const fake = new FakeBinding(() => undefined);
    const engine = new IoEngine(fake.binding, { depth: 2 });
    const finished: number[] = [];
    for (let i = 0; i < 5; i++) engine.read(i, new Uint8Array(1), 0, 1, i, () => finished.push(i));
    await new Promise((resolve) => setImmediate(resolve));
    expect(fake.operations.map((operation) => operation.fd)).to.deep.equal([0, 1]);
    expect(engine.pendingCount).to.equal(5);
    for (let i = 0; i < 5; i++) {
      fake.release({ result: 1 });
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(finished).to.deep.equal([0, 1, 2, 3, 4]);
    expect(fake.operations.map((operation) => operation.offset)).to.deep.equal([0, 1, 2, 3, 4]);
    engine.close();
  });
});

describe('the addon itself', () => {
  it('refuses a slot that is out of range or in use, and touches nothing', function () {
    const binding = needNative(this as unknown as Mocha.Context);
    const engine = new binding.Engine({ depth: 2, threads: 1, ring: false }, new Array<unknown>(4), () => {});
    const entries = new Int32Array(engine.submissions);
    entries[EntryWord.Slot] = 2;
    expect(() => engine.submit(1)).to.throw(RangeError);
    expect(() => engine.submit(3)).to.throw(RangeError);
    entries[EntryWord.Slot] = 0;
    entries[ENTRY_WORDS + EntryWord.Slot] = 0;
    expect(() => engine.submit(2)).to.throw(RangeError);
    engine.close();
    expect(() => engine.submit(1)).to.throw(/closed/);
    expect(() => new binding.Engine({ depth: 0, threads: 1, ring: false }, [], () => {})).to.throw(RangeError);
    expect(() => new (binding.Engine as unknown as new (depth: number) => unknown)(1)).to.throw(TypeError);
  });

  it('takes 0 for a descriptor', function () {
    needNative(this as unknown as Mocha.Context);
    const file = join(tmpdir(), `nvmeferry-zero-${process.pid}`);
    fs.writeFileSync(file, 'descriptor zero');
    const fd = fs.openSync(file, 'r');
    const module = fileURLToPath(new URL('../../../src/native/', import.meta.url));
    const script = `
      const { IoEngine } = await import(${JSON.stringify(`${module}io-engine.js`)});
      const { nativeBinding } = await import(${JSON.stringify(`${module}load.js`)});
      for (const mode of ['auto', 'thread-pool']) {
        const engine = new IoEngine(nativeBinding(), { mode, depth: 4 });
        const b = new Uint8Array(15);
        engine.registerFile(0);
        await new Promise((r) => engine.read(0, b, 0, 15, 0, (e, n) => { console.log(e?.code ?? Buffer.from(b).toString()); r(); }));
        engine.unregisterFile(0);
        engine.close();
      }`;
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], { stdio: [fd, 'pipe', 'inherit'] });
    fs.closeSync(fd);
    fs.rmSync(file);
    expect(run.stdout.toString()).to.equal('descriptor zero\ndescriptor zero\n');
  });
});

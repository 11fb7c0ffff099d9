import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { EventFd } from '../../../src/native/event-fd.ts';
import { FdSocket, type FdSocketHandlers, FdSocketServer, socketPair } from '../../../src/native/fd-socket.ts';
import { requireNative } from '../../../src/native/load.ts';
import { createMemfd, MappedMemory } from '../../../src/native/mapped-memory.ts';
import { leaseThreadEngine } from '../../../src/native/thread-engine.ts';
import { pattern } from '../../support/backend-compliance.ts';
import { freeHugePages } from '../../support/huge-pages.ts';
import { needNative, until } from '../../support/native.ts';

const PAGE = 4096;

describe('mapped memory', () => {
  let fd: number;
  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    fd = createMemfd({ name: 'test', lengthBytes: 8 * PAGE });
  });
  afterEach(() => {
    if (fd !== undefined) fs.closeSync(fd);
  });

  it('is the same memory from both sides, from an offset on', async () => {
    await using memory = MappedMemory.map({ fd, offsetBytes: 2 * PAGE, lengthBytes: 3 * PAGE });
    const view = new Uint8Array(memory.buffer);
    expect(view).to.have.length(3 * PAGE);
    view[5] = 42;
    const found = Buffer.alloc(1);
    fs.readSync(fd, found, 0, 1, 2 * PAGE + 5);
    expect(found[0]).to.equal(42);
    fs.writeSync(fd, Buffer.from([43]), 0, 1, 2 * PAGE + 6);
    expect(view[6]).to.equal(43);
    // closed descriptor, living mapping
    await using second = MappedMemory.map({ fd, lengthBytes: 8 * PAGE });
    expect(new Uint8Array(second.buffer)[2 * PAGE + 5]).to.equal(42);
  });

  it('is detached when unmapped, so that old views reach nothing', async () => {
    const before = requireNative('x').mappingCount();
    const memory = MappedMemory.map({ fd, lengthBytes: PAGE });
    const view = new Uint8Array(memory.buffer);
    view[0] = 1;
    expect(requireNative('x').mappingCount()).to.equal(before + 1);
    await memory.unmap();
    await memory.unmap();
    memory.unmapNow();
    expect(memory.isMapped).to.equal(false);
    expect(memory.buffer.byteLength).to.equal(0);
    expect(view.length).to.equal(0);
    view[0] = 9;
    expect(view[0]).to.equal(undefined);
    expect(requireNative('x').mappingCount()).to.equal(before);
    expect(() => memory.retain()).to.throw(/after it was unmapped/);
  });

  it('refuses to go, and waits, while it is retained or used by I/O', async () => {
    const memory = MappedMemory.map({ fd, lengthBytes: PAGE });
    const view = new Uint8Array(memory.buffer);
    memory.retain();
    expect(() => memory.unmapNow()).to.throw(/in use/);
    let unmapped = false;
    const done = memory.unmap().then(() => {
      unmapped = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(unmapped).to.equal(false);
    const lease = leaseThreadEngine('thread-pool')!;
    let io = false;
    lease.engine.read(fd, view, 0, PAGE, 0, () => {
      io = true;
      expect(view.length, 'unmapped under I/O').to.equal(PAGE);
    });
    memory.release();
    await done;
    expect(io, 'unmapped before its I/O was done').to.equal(true);
    lease.release();
  });

  it('goes with the last reference if nobody unmaps it', async () => {
    const before = requireNative('x').mappingCount();
    (() => {
      for (let i = 0; i < 10; i++) new Uint8Array(MappedMemory.map({ fd, lengthBytes: PAGE }).buffer)[0] = i;
    })();
    setFlagsFromString('--expose_gc');
    const collect = runInNewContext('gc') as () => void;
    await until(() => {
      collect();
      return requireNative('x').mappingCount() === before;
    });
  });

  it('keeps stores to a read-only mapping to itself', async () => {
    fs.writeSync(fd, Buffer.from([7]), 0, 1, 0);
    await using memory = MappedMemory.map({ fd, lengthBytes: PAGE, readOnly: true });
    const view = new Uint8Array(memory.buffer);
    expect(view[0]).to.equal(7);
    view[0] = 8;
    const found = Buffer.alloc(1);
    fs.readSync(fd, found, 0, 1, 0);
    expect(found[0]).to.equal(7);
  });

  it('is anonymous without a descriptor, page aligned, with huge pages if asked', async () => {
    await using memory = MappedMemory.map({ lengthBytes: 4 << 20, hugePages: true });
    const view = new Uint8Array(memory.buffer);
    expect(requireNative('x').alignmentOf(view)).to.equal(0);
    expect(view[(4 << 20) - 1]).to.equal(0);
  });

  it('on the pool of huge pages where the system has any free; else it says that there is no memory, and nothing stays', () => {
    const hugeBytes = 2 << 20;
    const free = freeHugePages();
    const before = requireNative('x').mappingCount();
    const fd = createMemfd({ name: 'huge', lengthBytes: hugeBytes, hugePageBytes: hugeBytes });
    try {
      if (free === 0) {
        expect(() => MappedMemory.map({ fd, lengthBytes: hugeBytes })).to.throw(/ENOMEM/);
      } else {
        const memory = MappedMemory.map({ fd, lengthBytes: hugeBytes });
        new Uint8Array(memory.buffer).fill(0x5a);
        expect(fs.readFileSync('/proc/self/smaps', 'latin1')).to.match(/memfd:huge[\s\S]*?KernelPageSize: +2048 kB/);
        expect(() => MappedMemory.map({ fd, offsetBytes: 4096, lengthBytes: 4096 })).to.throw(/EINVAL/);
        void memory.unmap();
      }
      expect(requireNative('x').mappingCount()).to.equal(before);
    } finally {
      fs.closeSync(fd);
    }
  });

  it('does not map what is not there, and names it', () => {
    const cases: [() => unknown, RegExp][] = [
      [() => MappedMemory.map({ fd, lengthBytes: 9 * PAGE }), /ENXIO/],
      [() => MappedMemory.map({ fd, offsetBytes: 8 * PAGE, lengthBytes: PAGE }), /ENXIO/],
      [() => MappedMemory.map({ fd, offsetBytes: 1, lengthBytes: PAGE }), /EINVAL/],
      [() => MappedMemory.map({ fd, lengthBytes: 0 }), /EINVAL/],
      [() => MappedMemory.map({ fd: 9999, lengthBytes: PAGE }), /EBADF/],
      [() => fs.ftruncateSync(fd, PAGE), /EPERM/], // sealed
    ];
    for (const [attempt, message] of cases) expect(attempt).to.throw(message);
    expect(requireNative('x').unmapMemory(new ArrayBuffer(8))).to.equal(-22);
  });
});

describe('eventfd', () => {
  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
  });

  it('counts signals, and tells a watcher', async () => {
    const event = new EventFd();
    expect(event.take()).to.equal(0);
    event.signal();
    event.signal();
    expect(event.take()).to.equal(2);
    expect(event.take()).to.equal(0);
    const counts: number[] = [];
    event.watch((count) => counts.push(count));
    event.signal();
    await until(() => counts.length === 1);
    event.signal();
    event.signal();
    await until(() => counts.length === 2);
    expect(counts).to.deep.equal([1, 2]);
    event.close();
    event.close();
    expect(() => event.signal()).to.throw(/EBADF/);
  });
});

/** Everything that comes, as bytes, and each set of descriptors with the position of the read that brought it. */
class Collector implements FdSocketHandlers {
  socket!: FdSocket;
  bytes = Buffer.alloc(0);
  readonly fds: { readonly from: number; readonly to: number; readonly fds: readonly number[] }[] = [];
  ended = false;
  error: Error | undefined;
  closed = false;
  drained = 0;
  paused = false;

  onReadable(): void {
    const buffer = Buffer.alloc(65_536);
    while (!this.paused) {
      const got = this.socket.read(buffer, 0, buffer.length);
      if (got === undefined) return;
      if (got.bytes === 0) {
        this.ended = true;
        this.socket.close();
        return;
      }
      const from = this.bytes.length;
      this.bytes = Buffer.concat([this.bytes, buffer.subarray(0, got.bytes)]);
      if (got.fds.length > 0) this.fds.push({ from, to: this.bytes.length, fds: got.fds });
    }
  }
  onClose(error: Error | undefined): void {
    this.closed = true;
    this.error = error;
  }
  onDrain(): void {
    this.drained++;
  }
}

function connected(options?: { fdsMax?: number; bufferBytesMax?: number }): [Collector, Collector] {
  const [left, right] = [new Collector(), new Collector()];
  const pair = socketPair();
  left.socket = new FdSocket(pair[0], left, options);
  right.socket = new FdSocket(pair[1], right, options);
  return [left, right];
}

describe('a socket that carries descriptors', () => {
  let folder: string;
  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-fds-'));
  });
  afterEach(() => {
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  it('delivers descriptors with the bytes they were sent with, in order', async () => {
    const [left, right] = connected();
    const files = Array.from({ length: 6 }, (_, i) => {
      fs.writeFileSync(join(folder, `${i}`), `file ${i}`);
      return fs.openSync(join(folder, `${i}`), 'r');
    });
    const starts: number[] = [];
    let at = 0;
    for (let i = 0; i < 6; i++) {
      const plain = pattern(1000 * i + 1, i);
      left.socket.write(plain);
      at += plain.length;
      starts.push(at);
      const bytes = pattern(100 + i, i + 50);
      left.socket.write(bytes, [files[i]!], { closeFds: true });
      at += bytes.length;
    }
    await until(() => right.bytes.length === at);
    expect(right.fds).to.have.length(6);
    right.fds.forEach(({ from, to, fds }, i) => {
      expect(fds).to.have.length(1);
      expect(starts[i]! >= from && starts[i]! < to, `descriptor ${i} came with bytes ${from} to ${to}`).to.equal(true);
      expect(fs.readFileSync(fds[0]!).toString()).to.equal(`file ${i}`);
      fs.closeSync(fds[0]!);
    });
    for (const file of files) expect(() => fs.fstatSync(file), 'the sent one is closed').to.throw(/EBADF/);
    left.socket.close();
    await until(() => right.ended);
    expect(right.closed).to.equal(true);
    expect(right.error).to.equal(undefined);
  });

  it('a reader that asks for the header alone gets the descriptors of that message with it', () => {
    const binding = requireNative('x');
    const [a, b] = socketPair();
    binding.sendMessage(a, Buffer.from('HEAD1body1'), 0, 10, undefined);
    const event = new EventFd();
    binding.sendMessage(a, Buffer.from('HEAD2body2'), 0, 10, Int32Array.of(event.fd, event.fd));
    const fds = new Int32Array(9);
    const buffer = Buffer.alloc(64);
    expect(binding.receiveMessage(b, buffer, 0, 10, fds)).to.equal(10);
    expect(fds[0]).to.equal(0);
    expect(binding.receiveMessage(b, buffer, 0, 5, fds)).to.equal(5);
    expect(buffer.toString('latin1', 0, 5)).to.equal('HEAD2');
    expect(fds[0]).to.equal(2);
    const received = new EventFd(fds[1]!);
    received.signal();
    expect(event.take()).to.equal(1);
    received.close();
    fs.closeSync(fds[2]!);
    expect(binding.receiveMessage(b, buffer, 0, 64, fds)).to.equal(5);
    expect(fds[0]).to.equal(0);
    event.close();
    fs.closeSync(a);
    fs.closeSync(b);
  });

  it('holds back what the peer does not take, and says when to go on', async () => {
    const [left, right] = connected({ bufferBytesMax: 1 << 20 });
    right.paused = true;
    const piece = pattern(1 << 18, 1);
    let sent = 0;
    let more = true;
    while (more) {
      more = left.socket.write(piece);
      sent += piece.length;
    }
    expect(left.socket.queuedBytes).to.be.at.least(1 << 20);
    left.socket.end();
    right.paused = false;
    right.onReadable();
    await until(() => right.ended);
    expect(right.bytes.length).to.equal(sent);
    expect(left.drained).to.equal(1);
    expect(left.socket.queuedBytes).to.equal(0);
    left.socket.close();
  });

  it('refuses more descriptors than agreed, and leaks none of them', async () => {
    const [left, right] = connected({ fdsMax: 2 });
    const event = new EventFd();
    const before = fs.readdirSync('/proc/self/fd').length;
    let failure: Error | undefined;
    right.onReadable = () => {
      try {
        right.socket.read(Buffer.alloc(8), 0, 8);
      } catch (error) {
        failure = error as Error;
      }
    };
    left.socket.write(Buffer.from('x'), [event.fd, event.fd, event.fd, event.fd]);
    await until(() => failure !== undefined);
    expect(failure!.message).to.match(/more than 2 descriptors/);
    expect(right.closed).to.equal(true);
    expect(fs.readdirSync('/proc/self/fd').length).to.equal(before - 1);
    left.socket.close();
    event.close();
  });

  it('listens and connects by path; a wrong path names itself', async () => {
    const path = join(folder, 'socket');
    const accepted = new Collector();
    const server = new FdSocketServer(
      path,
      (fd) => {
        accepted.socket = new FdSocket(fd, accepted);
      },
      () => {},
    );
    expect(
      () =>
        new FdSocketServer(
          path,
          () => {},
          () => {},
        ),
    ).to.throw(/EADDRINUSE/);
    const client = new Collector();
    client.socket = FdSocket.connect(path, client);
    client.socket.write(Buffer.from('hello'));
    await until(() => accepted.bytes.length === 5);
    client.socket.close();
    await until(() => accepted.closed);
    server.close();
    expect(fs.existsSync(path)).to.equal(false);
    expect(() => FdSocket.connect(path, client)).to.throw(/socket: connect failed with ENOENT/);
    expect(() => FdSocket.connect(join(folder, 'x'.repeat(200)), client)).to.throw(/ENAMETOOLONG/);
  });

  it('reports a broken connection once', async () => {
    const [left, right] = connected();
    right.socket.close();
    let refused: unknown;
    left.onReadable = () => {};
    left.socket.write(Buffer.from('x'));
    await until(() => left.closed);
    expect((left.error as { errno?: string }).errno).to.equal('EPIPE');
    try {
      left.socket.write(Buffer.from('x'));
    } catch (error) {
      refused = error;
    }
    expect((refused as Error).message).to.match(/closed/);
  });

  it('a process with no descriptor to spare gets EMFILE, not silence', () => {
    const native = new URL('../../../src/native/load.js', import.meta.url).href;
    const script = `
      import fs from 'node:fs';
      const b = (await import('${native}')).nativeBinding();
      const [x, y] = b.unixPair();
      const open = [];
      try { for (;;) open.push(fs.openSync('/dev/null')); } catch {}
      const sent = b.sendMessage(x, Buffer.from('m'), 0, 1, Int32Array.of(1, 2));
      console.log(sent, b.receiveMessage(y, Buffer.alloc(4), 0, 4, new Int32Array(5)), b.eventfdCreate(0), b.memfdCreate('m', 4096, 0));
      try { new b.Engine({ depth: 4, threads: 1, ring: true }, [], () => {}); } catch (error) { console.log(error.errno); }
      for (const fd of open) fs.closeSync(fd);`;
    const run = spawnSync('sh', ['-c', `ulimit -n 64; exec "${process.execPath}" --input-type=module -e "$0"`, script]);
    expect(run.stdout.toString(), run.stderr.toString()).to.equal('1 -24 -24 -24\n-24\n');
  });
});

/** A host that does not read: bounded memory, nothing that waits is changed, nothing is answered twice. Checklist 17.7, 111, and DESIGN section 3. */
import { expect } from 'chai';
import { MemoryBackend } from '../../src/backend/memory.ts';
import { type Completion, pattern, type RawHost, sqeBytes } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const MIB = 1 << 20;
const BLOCKS_PER_MIB = MIB / 512;

describe('conformance: NVMe/TCP slow readers (target)', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  /** Commands in one segment; returns their completions. */
  function sendAll(host: RawHost, commands: { bytes: Buffer; cid: number }[]): Promise<Completion>[] {
    const done = commands.map(({ cid }) => host.completion(cid));
    host.socket.write(Buffer.concat(commands.map(({ bytes }) => bytes)));
    return done;
  }
  function read(host: RawHost, cid: number, block: number, blocks: number): { bytes: Buffer; cid: number } {
    const fields = { opcode: 2, nsid: 1, cid, cdw10: block, cdw12: blocks - 1 };
    return { cid, bytes: host.commandBytes(fields, { readBytes: blocks * 512 }) };
  }
  function write(host: RawHost, cid: number, block: number, data: Uint8Array): { bytes: Buffer; cid: number } {
    const fields = { opcode: 1, nsid: 1, cid, cdw10: block, cdw12: data.length / 512 - 1 };
    return { cid, bytes: host.commandBytes(fields, { data }) };
  }
  const blocked = (): boolean => [...t.port.connections].some((connection) => connection.counters.blockedWrites > 0);

  for (const dgst of [0, 3]) {
    it(`24 reads of 1 MiB from memory to a host that reads late: each answered once, right, DGST ${dgst}`, async () => {
      t = await TestTarget.start();
      const { io } = await t.association({ icReq: { dgst } });
      const contents = [pattern(MIB, 1), pattern(MIB, 2), pattern(MIB, 3), pattern(MIB, 4)];
      for (const [i, data] of contents.entries()) {
        expect((await io.write(i * BLOCKS_PER_MIB, data, { by: 'r2t' })).status).to.equal(0);
      }
      for (let round = 0; round < 2; round++) {
        io.socket.pause();
        const commands = Array.from({ length: 24 }, (_, i) =>
          read(io, 1000 + i, (i % 4) * BLOCKS_PER_MIB, BLOCKS_PER_MIB),
        );
        const done = sendAll(io, commands);
        await t.until(blocked);
        await settle();
        const { pool } = t.target;
        expect(pool.usedBytes, 'copies of what waits are counted').to.be.within(1, 8 * MIB);
        expect(pool.transfers.usedBytes).to.equal(pool.usedBytes);
        io.socket.resume();
        for (const [i, completion] of (await Promise.all(done)).entries()) {
          expect(completion.data.equals(contents[i % 4]!), `read ${i}`).to.equal(true);
        }
        await t.until(() => pool.usedBytes === 0);
        expect(pool.transfers.usedBytes).to.equal(0);
      }
      await settle();
      expect(io.unread, 'PDUs too many').to.equal(0);
      expect(t.fatal).to.deep.equal([]);
    });
  }

  it('a host that goes while it does not read leaves no buffer behind', async () => {
    t = await TestTarget.start();
    const { io } = await t.association();
    expect((await io.write(0, pattern(MIB, 1), { by: 'r2t' })).status).to.equal(0);
    io.socket.pause();
    for (const { bytes } of Array.from({ length: 24 }, (_, i) => read(io, i, 0, BLOCKS_PER_MIB)))
      io.socket.write(bytes);
    await t.until(blocked);
    await settle();
    expect(t.target.pool.usedBytes).to.be.greaterThan(0);
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    await t.until(() => t.target.pool.usedBytes === 0);
    expect(t.target.pool.transfers.usedBytes).to.equal(0);
  });

  it('in-capsule writes behind reads that cannot be sent are executed and answered', async () => {
    t = await TestTarget.start();
    const { admin, io } = await t.association();
    io.socket.pause();
    const data = pattern(512, 9);
    const commands = Array.from({ length: 40 }, (_, i) =>
      i % 2 === 0 ? read(io, i, 0, BLOCKS_PER_MIB) : write(io, i, 4096 + i, data),
    );
    const done = sendAll(io, commands);
    await t.until(blocked);
    io.socket.resume();
    for (const completion of await Promise.all(done)) expect(completion.status).to.equal(0);
    expect(t.fatal).to.deep.equal([]);
    for (let i = 1; i < 40; i += 2) expect((await io.read(4096 + i, 1)).data.equals(data)).to.equal(true);
    expect((await admin.csts()) & 2, 'CSTS.CFS').to.equal(0);
  });

  it('111: while the host does not read, commands are not read either: memory stays within the bound', async () => {
    const backend = new CopyBackend({ blockCount: BLOCKS_PER_MIB });
    const bufferBytesMax = 4 * MIB;
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax } });
    const { io } = await t.association({ sqsize: 63 });
    io.socket.pause();
    let most = 0;
    // as many as the queue holds, of 512 KiB each: 32 MiB of answers
    const done = sendAll(
      io,
      Array.from({ length: 64 }, (_, i) => read(io, i, 0, 1024)),
    );
    for (let i = 0; i < 300; i++) {
      most = Math.max(most, t.target.pool.usedBytes);
      await settle(1);
    }
    expect(blocked()).to.equal(true);
    expect(most).to.be.within(1, bufferBytesMax);
    io.socket.resume();
    for (const completion of await Promise.all(done)) expect(completion.data.length).to.equal(512 * 1024);
    expect(t.target.pool.usedBytes).to.equal(0);
  }).timeout(30_000);

  it('111: a command that comes while the answers are stuck is not even read', async () => {
    t = await TestTarget.start();
    const { io } = await t.association();
    io.socket.pause();
    const reads = sendAll(
      io,
      Array.from({ length: 24 }, (_, i) => read(io, i, 0, BLOCKS_PER_MIB)),
    );
    await t.until(blocked);
    await settle();
    const [written] = sendAll(io, [write(io, 100, 4096, pattern(512, 1))]);
    await settle(50);
    expect(t.backend.allocatedBytes?.(), 'written').to.equal(0);
    io.socket.resume();
    await Promise.all(reads);
    expect((await written!).status).to.equal(0);
    expect(t.backend.allocatedBytes?.()).to.equal(4096);
  });

  it('111: keep alive expires while a host reads nothing: everything is freed', async () => {
    const backend = new CopyBackend({ blockCount: BLOCKS_PER_MIB });
    t = await TestTarget.start({ backend });
    const admin = await t.admin({ katoMs: 5000 });
    const io = await t.io(admin);
    io.socket.pause();
    sendAll(
      io,
      Array.from({ length: 24 }, (_, i) => read(io, i, 0, BLOCKS_PER_MIB)),
    );
    await t.until(blocked);
    expect(t.target.pool.usedBytes).to.be.greaterThan(0);
    t.clock.advance(5000); // the commands above count as traffic
    await settle();
    expect(t.connectionCount).to.equal(2);
    t.clock.advance(5000);
    await t.until(() => t.connectionCount === 0);
    expect(t.target.pool.usedBytes).to.equal(0);
    expect(t.closed).to.include('keep alive timer expired');
    expect([...t.subsystem.controllers].length).to.equal(0);
    expect(t.clock.timerCount).to.equal(0);
  });

  for (const dgst of [0, 3]) {
    it(`memory lent to a blocked socket keeps its content under later writes, zeroes and deallocation: DGST ${dgst}`, async () => {
      t = await TestTarget.start({ backend: new MemoryBackend({ blockSize: 512, blockCount: 64 * BLOCKS_PER_MIB }) });
      const { admin, io } = await t.association({ icReq: { dgst } });
      const writer = await t.io(admin, { qid: 2 });
      const old = pattern(MIB, 21);
      expect((await io.write(0, old, { by: 'r2t' })).status).to.equal(0);
      io.socket.pause();
      // the batch that is stuck is copied: fill the socket with reads of this very memory
      const stuck = sendAll(
        io,
        Array.from({ length: 24 }, (_, i) => read(io, 500 + i, 0, BLOCKS_PER_MIB)),
      );
      await t.until(blocked);
      await settle();
      const fresh = pattern(4096, 22);
      expect((await writer.write(0, fresh)).status).to.equal(0);
      expect((await writer.command({ opcode: 8, nsid: 1, cdw10: 512, cdw12: 255 })).status).to.equal(0);
      const range = Buffer.alloc(16);
      range.writeUInt32LE(256, 4);
      range.writeUInt32LE(1024, 8);
      expect((await writer.command({ opcode: 9, nsid: 1, cdw11: 4 }, { data: range })).status).to.equal(0);
      // a reader elsewhere sees the new data at once
      expect((await writer.read(0, 8)).data.equals(fresh)).to.equal(true);
      const current = (await writer.read(0, BLOCKS_PER_MIB)).data;
      io.socket.resume();
      const all = await Promise.all(stuck);
      let olds = 0;
      for (const completion of all) {
        expect(completion.status).to.equal(0);
        // what was in the socket has the old bytes, what was formatted later the new ones; nothing in between within a piece
        if (completion.data.equals(old)) olds++;
        else expect(completion.data.equals(current), 'old or new, not torn').to.equal(true);
      }
      expect(olds, 'answers that were stuck').to.be.greaterThan(0);
      expect((await io.read(0, BLOCKS_PER_MIB)).data.equals(current)).to.equal(true);
    });
  }

  it('a CID may be reused, and a slot refilled, as soon as the host has the answer', async () => {
    const backend = new CopyBackend({ blockCount: BLOCKS_PER_MIB });
    backend.bytes.set(pattern(backend.bytes.length, 5));
    t = await TestTarget.start({ backend });
    const { io } = await t.association({ sqsize: 15 });
    // 16 of 512 KiB fill queue and socket; each answer that arrives is followed at once by the same CID again
    backend.hold = true;
    io.socket.pause();
    let left = 64;
    const again = async (cid: number): Promise<void> => {
      while (left-- > 0) {
        const completion = await io.command({ opcode: 2, nsid: 1, cid, cdw12: 1023 }, { readBytes: 512 * 1024 });
        expect(completion.status, `status of CID ${cid}`).to.equal(0);
        expect(completion.data.equals(backend.bytes.subarray(0, 512 * 1024))).to.equal(true);
      }
    };
    const all = Promise.all(Array.from({ length: 16 }, (_, cid) => again(cid)));
    await t.until(() => backend.held.length === 16);
    backend.hold = false;
    backend.release(); // all complete outside of a read: one batch, which the socket cannot take
    await t.until(blocked);
    await settle();
    io.socket.resume();
    await all;
    expect(t.fatal).to.deep.equal([]);
    await settle();
    expect(t.target.pool.usedBytes).to.equal(0);
  }).timeout(20_000);

  it('a write that waited for buffers is solicited when reads give theirs back', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax: 16384 } });
    const { io } = await t.association();
    backend.hold = true;
    const reads = [io.read(0, 16), io.read(16, 16)];
    await t.until(() => backend.held.length === 2);
    const data = pattern(16384, 8);
    const written = io.write(64, data, { by: 'r2t' });
    await settle();
    backend.release();
    for (const done of await Promise.all(reads)) expect(done.status).to.equal(0);
    backend.hold = false;
    backend.release();
    expect((await written).status).to.equal(0);
    expect((await io.read(64, 32)).data.equals(data)).to.equal(true);
  });

  it('commands beyond the buffer bound are served in order, none is forgotten', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax: 8192 } });
    const { io } = await t.association();
    const all: Promise<Completion>[] = [];
    for (let i = 0; i < 100; i++) {
      if (i % 2 === 0) all.push(io.write(i * 16, pattern(8192, i), { by: 'r2t', pieceBytes: 1024 }));
      else all.push(io.read((i - 1) * 16, 16));
    }
    for (const done of await Promise.all(all)) expect(done.status).to.equal(0);
    for (let i = 0; i < 100; i += 2) {
      expect((await io.read(i * 16, 16)).data.equals(pattern(8192, i)), `write ${i}`).to.equal(true);
    }
    await settle();
    expect(t.target.pool.usedBytes).to.equal(0);
  });

  it('Abort takes back a command that waits for buffers', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax: 8192 } });
    const { admin, io } = await t.association();
    backend.hold = true;
    const first = io.command({ opcode: 2, nsid: 1, cid: 1, cdw12: 15 }, { readBytes: 8192 });
    await t.until(() => backend.held.length === 1);
    const second = io.command({ opcode: 2, nsid: 1, cid: 2, cdw12: 15 }, { readBytes: 8192 });
    await settle();
    expect((await admin.command({ opcode: 8, cdw10: 1 | (2 << 16) })).result0, 'aborted').to.equal(0);
    expect((await second).code).to.equal(0x07);
    expect((await admin.command({ opcode: 8, cdw10: 1 | (1 << 16) })).result0, 'with the backend').to.equal(1);
    backend.release();
    expect((await first).status).to.equal(0);
    await settle();
    expect(t.target.pool.usedBytes).to.equal(0);
  });

  it('a bug in a backend ends the association of its connection, not the program', async () => {
    const backend = new CopyBackend();
    t = await TestTarget.start({ backend, tcp: { bufferBytesMax: 4096 } });
    const { admin, io } = await t.association();
    const other = await t.admin();
    backend.hold = true;
    void io.read(0, 8);
    await t.until(() => backend.held.length === 1);
    void io.read(0, 8); // waits for buffers: it will start outside of a read from the socket
    await settle();
    backend.bug = new Error('a bug');
    backend.release();
    await io.untilEnded();
    await admin.untilEnded();
    expect(t.fatal.map(String)).to.deep.equal(['Error: a bug']);
    expect((await other.csts()) & 1).to.equal(1);
  });

  it('an answer to a fatal PDU reaches a host that reads late', async () => {
    t = await TestTarget.start();
    const { io } = await t.association();
    io.socket.pause();
    const bad = io.capsule(sqeBytes({ opcode: 0, nsid: 1 }), undefined, { type: 0x08 });
    const reads = Array.from({ length: 24 }, (_, i) => read(io, i, 0, BLOCKS_PER_MIB));
    for (const { cid } of reads) void io.completion(cid);
    io.socket.write(Buffer.concat([...reads.map(({ bytes }) => bytes), bad]));
    await t.until(blocked);
    await settle();
    io.socket.resume();
    await io.untilEnded();
    await io.expectTermReq({ fes: 1, fei: 0, header: bad });
    io.destroy();
    await t.until(() => t.connectionCount === 1);
  });
});

/** NVMe/TCP 1.0 termination and limits, target side: checklist 17.7. Case numbers are the checklist's. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { pattern, type RawHost, sqeBytes } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const TERM_TIMEOUT_MS = 30_000;

function termReq(plen: number, bytes: number): Buffer {
  const pdu = Buffer.alloc(bytes);
  pdu.set([0x02, 0, 24, 0]);
  pdu.writeUInt32LE(plen, 4);
  pdu.writeUInt16LE(2, 8);
  return pdu;
}

describe('conformance: NVMe/TCP 17.7 termination and limits (target)', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  for (const [number, plen, bytes] of [
    [101, 24, 24],
    [101, 152, 152],
    [102, 153, 153],
    [103, 23, 24],
    [103, 0, 24],
    [102, 0xffff_ffff, 24],
  ] as const) {
    it(`${number}: H2CTermReq with PLEN ${plen} closes without a TermReq back`, async () => {
      const { admin, io } = await t.association();
      await io.send(termReq(plen, bytes));
      await io.expectClosed();
      await admin.send(termReq(plen, bytes));
      await admin.expectClosed();
      await t.until(() => t.connectionCount === 0);
    });
  }

  it('101: H2CTermReq before ICReq closes without an answer', async () => {
    const host = await t.connect();
    await host.send(termReq(24, 24));
    await host.expectClosed();
  });

  /** Breaks a rule and reads the TermReq. */
  async function terminate(host: RawHost): Promise<void> {
    const bytes = host.capsule(sqeBytes({ opcode: 0, nsid: 1 }), undefined, { type: 0x08 });
    await host.send(bytes);
    await host.expectTermReq({ fes: 1, fei: 0, header: bytes });
  }

  it('104: after C2HTermReq every input is ignored', async () => {
    const { io } = await t.association();
    const data = pattern(512, 1);
    const write = io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: 9, sgl: { id: 1, length: 512 } }), data);
    const bad = io.capsule(sqeBytes({ opcode: 0, nsid: 1 }), undefined, { type: 0x08 });
    // in the same segment, and in later ones
    await io.send(bad, write, bad);
    await io.expectTermReq({ fes: 1, fei: 0, header: bad });
    await io.send(write);
    await settle();
    await io.send(bad);
    await settle();
    await io.expectClosed();
    expect(t.backend.allocatedBytes?.(), 'the write was not executed').to.equal(0);
  });

  it('104: what was answered before the fatal PDU still goes out, TermReq last', async () => {
    const { io } = await t.association();
    const flush = io.completion(1);
    const bad = io.capsule(sqeBytes({ opcode: 0, nsid: 1 }), undefined, { type: 0x08 });
    await io.send(io.capsule(sqeBytes({ opcode: 0, nsid: 1, cid: 1 })), bad);
    expect((await flush).status).to.equal(0);
    await io.expectTermReq({ fes: 1, fei: 0, header: bad });
    await io.expectClosed();
  });

  it('104: a host that stays is closed 30 s after C2HTermReq, not before', async () => {
    const { io } = await t.association();
    await terminate(io);
    t.clock.advance(TERM_TIMEOUT_MS - 1);
    await settle();
    expect(t.connectionCount).to.equal(2);
    t.clock.advance(1);
    await t.until(() => t.connectionCount === 1);
    expect(t.closed[0]).to.match(/C2HTermReq FES 0x1 FEI 0x0/);
  });

  it('104: a host that closes after C2HTermReq frees the connection at once', async () => {
    const { io } = await t.association();
    await terminate(io);
    io.socket.end();
    await t.until(() => t.connectionCount === 1);
    // the setup timers of both connections and the term timer are gone
    t.clock.advance(TERM_TIMEOUT_MS);
    expect(t.connectionCount).to.equal(1);
  });

  it('104: commands that run at the fatal error end without an answer and free their buffers', async () => {
    await t.close();
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    for (let i = 0; i < 4; i++) void io.read(i, 8);
    await t.until(() => backend.held.length === 4);
    const bad = io.capsule(sqeBytes({ opcode: 0, nsid: 1 }), undefined, { type: 0x08 });
    await io.send(bad);
    await io.expectTermReq({ fes: 1, fei: 0, header: bad });
    backend.release();
    await settle();
    expect(t.target.pool.usedBytes).to.equal(0);
    await io.expectClosed();
  });

  it('105: the TermReq holds exactly the header, whatever follows it in the segment', async () => {
    const { io } = await t.association();
    const sqe = sqeBytes({ opcode: 1, nsid: 1, cid: 1, sgl: { id: 1, length: 512 } });
    const bytes = io.capsule(sqe, pattern(512, 1), { pdo: 0 });
    await io.send(bytes, bytes);
    await io.expectTermReq({ fes: 1, fei: 3, header: bytes.subarray(0, 72) });
  });

  it('105: a header in pieces: the TermReq holds its beginning, PLEN matches', async () => {
    const { io } = await t.association();
    const bytes = io.capsule(sqeBytes({ opcode: 1 }), undefined, { hlen: 73 });
    await io.sendSliced(bytes, () => 3);
    const received = await io.next();
    expect([received.fes, received.fei]).to.deep.equal([1, 2]);
    expect(received.plen).to.equal(24 + received.data.length);
    expect(received.data.length).to.be.within(8, 73);
    expect(received.data.equals(bytes.subarray(0, received.data.length))).to.equal(true);
  });

  it('107: more commands than the queue holds: CFS, every connection of the controller closes', async () => {
    await t.close();
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    const { admin, io, controller } = await t.association({ sqsize: 3 });
    for (let i = 0; i < 4; i++) void io.read(i, 1);
    await t.until(() => backend.held.length === 4);
    expect(io.ended).to.equal(false);
    void io.read(4, 1);
    await io.untilEnded();
    await admin.expectClosed();
    expect(controller.csts & 2, 'CSTS.CFS').to.equal(2);
    expect(t.fatal.map(String)).to.deep.equal(['Error: more than 4 commands outstanding on queue 1']);
    backend.release();
    await t.until(() => t.connectionCount === 0);
    expect(t.target.pool.usedBytes).to.equal(0);
    expect([...t.subsystem.controllers].length).to.equal(0);
  });

  it('107: as many as the queue holds are served, again and again', async () => {
    const { io } = await t.association({ sqsize: 3 });
    for (let round = 0; round < 50; round++) {
      const reads = [0, 1, 2, 3].map((i) => io.read(i, 8));
      for (const read of await Promise.all(reads)) expect(read.status).to.equal(0);
    }
  });

  it('108: two commands with one CID: Command ID Conflict for the second, the first is served', async () => {
    await t.close();
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    void io.command({ opcode: 2, nsid: 1, cid: 5 }, { readBytes: 512 });
    await t.until(() => backend.held.length === 1);
    const second = io.command({ opcode: 0, nsid: 1, cid: 5 });
    expect((await second).code).to.equal(0x03);
    const first = io.completion(5);
    backend.release();
    expect([(await first).status, (await first).data.length]).to.deep.equal([0, 512]);
    // and the CID is free again
    backend.hold = false;
    expect((await io.command({ opcode: 0, nsid: 1, cid: 5 })).status).to.equal(0);
  });

  it('108: a write that reuses the CID of one with an R2T outstanding, with in-capsule data', async () => {
    const { io } = await t.association();
    void io.completion(5, { manual: true });
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: 5, sgl: { id: 0x5a, length: 512 } })));
    const r2t = await io.next();
    const second = io.command({ opcode: 1, nsid: 1, cid: 5, cdw10: 8 }, { data: Buffer.alloc(512, 2) });
    expect((await second).code).to.equal(0x03);
    const first = io.completion(5);
    const fields = { cccid: 5, ttag: r2t.ttag, offset: 0, last: true };
    await io.send(io.h2cData(fields, Buffer.alloc(512, 1)));
    expect((await first).status).to.equal(0);
    expect((await io.read(0, 1)).data[0]).to.equal(1);
    expect((await io.read(8, 1)).data[0]).to.equal(0);
  });

  for (const how of ['end', 'resetAndDestroy'] as const) {
    it(`109: the admin connection is lost (${how}): every I/O connection closes, the controller is gone`, async () => {
      const admin = await t.admin();
      const queues = [await t.io(admin, { qid: 1 }), await t.io(admin, { qid: 2 }), await t.io(admin, { qid: 3 })];
      const other = await t.admin();
      admin.socket[how]();
      for (const queue of queues) await queue.expectClosed();
      await t.until(() => t.connectionCount === 1);
      expect(t.subsystem.controller(admin.cntlid)).to.equal(undefined);
      expect((await other.csts()) & 1, 'the other association').to.equal(1);
    });
  }

  it('110 (deviation): an I/O connection alone does not end the association; its queue can be connected again', async () => {
    const { admin, io } = await t.association();
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    expect((await admin.csts()) & 3).to.equal(1);
    const again = await t.io(admin);
    expect((await again.read(0, 1)).status).to.equal(0);
  });

  it('110: an I/O connection lost in the middle of a write and of a read frees everything', async () => {
    await t.close();
    const backend = new CopyBackend();
    backend.hold = true;
    t = await TestTarget.start({ backend });
    const { io } = await t.association();
    void io.read(0, 8);
    void io.completion(77, { manual: true });
    await io.send(io.capsule(sqeBytes({ opcode: 1, nsid: 1, cid: 77, cdw12: 7, sgl: { id: 0x5a, length: 4096 } })));
    const r2t = await io.next();
    const h2c = io.h2cData({ cccid: 77, ttag: r2t.ttag, offset: 0, last: true }, Buffer.alloc(4096));
    await io.send(h2c.subarray(0, 1000));
    await settle();
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    backend.release();
    expect(t.target.pool.usedBytes).to.equal(0);
    expect(t.fatal).to.deep.equal([]);
  });

  it('112: 10,000 connections aborted around ICReq leave nothing', async function () {
    this.timeout(60_000);
    const rounds = 10_000;
    const partial = termReq(24, 24);
    const heapBefore = heapUsed();
    for (let done = 0; done < rounds; done += 50) {
      const hosts = await Promise.all(Array.from({ length: 50 }, () => t.connect()));
      hosts.forEach((host, i) => {
        if (i % 3 === 0) host.socket.resetAndDestroy();
        else if (i % 3 === 1) {
          host.socket.write(partial.subarray(0, 4));
          host.socket.destroy();
        } else host.socket.end();
      });
      await Promise.all(hosts.map((host) => host.untilEnded()));
      t.hosts.length = 0;
    }
    await t.until(() => t.connectionCount === 0);
    expect(t.closed.length).to.equal(rounds);
    expect(t.clock.timerCount, 'timers').to.equal(0);
    expect(t.target.pool.usedBytes).to.equal(0);
    t.closed.length = 0;
    await settle();
    expect(heapUsed() - heapBefore, 'heap growth').to.be.below(8 << 20);
    expect((await (await t.admin()).csts()) & 1).to.equal(1);
  });
});

/** After a full collection. */
function heapUsed(): number {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return process.memoryUsage().heapUsed;
}

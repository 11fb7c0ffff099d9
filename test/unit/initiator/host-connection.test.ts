/** Connection set-up, headers and digests as the host must judge them: nvme-tcp checklist 19-27, 39, 40, 49-51, 106; table rules 51-61, 77-80. */
import { expect } from 'chai';
import { HostConnection } from '../../../src/transport/tcp/host-connection.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { pdu, referenceCrc32c, ScriptedTarget } from '../../support/scripted-target.ts';
import { Bench, pattern, rejection, settle, until } from './support.ts';

describe('HostConnection set-up', () => {
  let target: ScriptedTarget;
  const clock = new ManualClock();

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
  });
  afterEach(async () => {
    await target.close();
  });

  const connect = (extra: object = {}): Promise<HostConnection> =>
    HostConnection.connect({ address: '127.0.0.1', port: target.port, slotCount: 4, clock, ...extra });

  /** Answers ICReq with `answer`; @returns the host's error, and its TermReq if it sent one */
  async function refused(
    answer: Buffer,
    extra: object = {},
  ): Promise<{ error: Error & { code?: string }; term: { fes: number; fei: number; data: Buffer } | undefined }> {
    const failing = rejection(connect(extra));
    const peer = await target.accept();
    await peer.nextOf(0);
    peer.send(answer);
    const error = await failing;
    await settle(10);
    const term = peer.pendingCount > 0 ? await peer.nextOf(2) : undefined;
    peer.destroy();
    return { error, term };
  }

  it('sends a 128-byte ICReq with HPDA 0, MAXR2T 0 and the digests asked for, and nothing before ICResp', async () => {
    const connecting = connect({ headerDigest: true, dataDigest: true });
    const peer = await target.accept();
    const request = await peer.nextOf(0);
    expect([request.hlen, request.plen, request.bytes.length]).to.deep.equal([128, 128, 128]);
    expect(request.bytes.subarray(8, 16).toString('hex')).to.equal('0000000300000000');
    await settle(10);
    expect(peer.pendingCount).to.equal(0);
    peer.send(pdu.icResp({ dgst: 3 }));
    await (await connecting).close();
  });

  it('20: ICResp CPDA 32 is fatal: 01h, FEI 10, with the ICResp as data', async () => {
    const answer = pdu.icResp({ cpda: 32 });
    const { term, error } = await refused(answer);
    expect([term?.fes, term?.fei]).to.deep.equal([1, 10]);
    expect(term?.data.equals(answer)).to.equal(true);
    expect(error.code).to.equal('NVMEOF_ERR_PROTOCOL');
  });

  it('21: ICResp PFV 1 is fatal: 01h, FEI 8', async () => {
    const { term } = await refused(pdu.icResp({ pfv: 1 }));
    expect([term?.fes, term?.fei]).to.deep.equal([1, 8]);
  });

  for (const [asked, enabled] of [
    [{}, 1],
    [{}, 2],
    [{ headerDigest: true }, 3],
  ] as const) {
    it(`22: ICResp that enables digest ${enabled} unasked is fatal: 01h, FEI 11`, async () => {
      const { term } = await refused(pdu.icResp({ dgst: enabled }), asked);
      expect([term?.fes, term?.fei]).to.deep.equal([1, 11]);
    });
  }

  it('56: a declined digest refuses the connection and says which', async () => {
    const { error, term } = await refused(pdu.icResp({ dgst: 1 }), { headerDigest: true, dataDigest: true });
    expect(error.code).to.equal('NVMEOF_ERR_DIGEST_DECLINED');
    expect(error.message).to.contain('data digest');
    expect(term).to.equal(undefined);
  });

  for (const maxh2cdata of [0, 4092, 4095, 4097, 0xffffffff]) {
    it(`23: ICResp MAXH2CDATA ${maxh2cdata} is fatal: 01h, FEI 12`, async () => {
      const { term } = await refused(pdu.icResp({ maxh2cdata }));
      expect([term?.fes, term?.fei]).to.deep.equal([1, 12]);
    });
  }

  it('24: ICResp PLEN 127 is fatal: 01h, FEI 4', async () => {
    const { term } = await refused(pdu.icResp({ plen: 127 }));
    expect([term?.fes, term?.fei]).to.deep.equal([1, 4]);
  });

  it('52: ICResp HLEN 64 is fatal: 01h, FEI 2', async () => {
    const { term } = await refused(pdu.icResp({ hlen: 64 }));
    expect([term?.fes, term?.fei]).to.deep.equal([1, 2]);
  });

  it('51: another PDU instead of ICResp is fatal: 02h', async () => {
    const { term } = await refused(pdu.capsuleResp(0));
    expect([term?.fes, term?.fei]).to.deep.equal([2, 0]);
  });

  it('25: C2HTermReq instead of ICResp closes, reports FES and FEI, and is not answered', async () => {
    const { error, term } = await refused(pdu.c2hTermReq(6, 10));
    expect(error.code).to.equal('NVMEOF_ERR_PEER_TERMINATED');
    expect(error.message).to.contain('FES 6, FEI 10');
    expect(term).to.equal(undefined);
  });

  it('26: no ICResp within the time closes the connection', async () => {
    const own = new ManualClock();
    const failing = rejection(connect({ clock: own, icTimeoutMs: 500 }));
    const peer = await target.accept();
    await peer.nextOf(0);
    own.advance(499);
    await settle();
    expect(peer.ended).to.equal(false);
    own.advance(1);
    expect((await failing).code).to.equal('NVMEOF_ERR_TIMEOUT');
    await peer.closed();
    expect(own.timerCount).to.equal(0);
  });

  it('27: ICResp one byte per segment is accepted', async () => {
    const connecting = connect();
    const peer = await target.accept();
    await peer.nextOf(0);
    await peer.trickle(pdu.icResp({ maxh2cdata: 8192 }));
    const connection = await connecting;
    expect(connection.maxH2cData).to.equal(8192);
    await connection.close();
  });

  it('closes when the peer closes before ICResp', async () => {
    const failing = rejection(connect());
    const peer = await target.accept();
    await peer.nextOf(0);
    peer.destroy();
    expect((await failing).code).to.be.oneOf(['NVMEOF_ERR_CONNECTION_LOST', 'ECONNRESET']);
  });

  it('names the address and the remedy when nobody listens', async () => {
    const { port } = target;
    const gone = await ScriptedTarget.listen();
    await gone.close();
    const error = await rejection(
      HostConnection.connect({ address: '127.0.0.1', port: gone.port, slotCount: 1, clock }),
    );
    expect(error.code).to.equal('ECONNREFUSED');
    expect(error.message).to.equal(`127.0.0.1:${gone.port} refused the connection; check that a target listens there`);
    expect(port).not.to.equal(gone.port);
  });

  it('stops connecting when its signal is given', async () => {
    const abort = new AbortController();
    const failing = rejection(connect({ signal: abort.signal }));
    const peer = await target.accept();
    abort.abort();
    expect((await failing).code).to.equal('NVMEOF_ERR_ABORTED');
    await peer.closed();
  });

  it('58: a second ICResp is fatal: 02h', async () => {
    const bench = await Bench.open();
    bench.peer.send(pdu.icResp());
    expect((await bench.termReq()).fes).to.equal(2);
    await bench.close();
  });
});

describe('HostConnection headers', () => {
  let bench: Bench;
  afterEach(() => bench.close());

  for (const type of [0x00, 0x02, 0x04, 0x06, 0x08, 0x0a, 0x0b, 0xff]) {
    it(`59: PDU type ${type.toString(16)}h is fatal: 01h, FEI 0`, async () => {
      bench = await Bench.open();
      const bytes = pdu.capsuleResp(0);
      bytes[0] = type;
      bench.peer.send(bytes);
      const term = await bench.termReq();
      expect([term.fes, term.fei]).to.deep.equal([1, 0]);
      expect(term.data[0]).to.equal(type);
    });
  }

  it('39: CapsuleResp PLEN 25 is fatal: 01h, FEI 4, and the TermReq carries the 24-byte header', async () => {
    bench = await Bench.open();
    const { cid } = await bench.flush();
    const answer = pdu.capsuleResp(cid, { plen: 25 });
    bench.peer.send(answer);
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 4]);
    expect(term.bytes.length).to.equal(48);
    expect(term.data.equals(answer)).to.equal(true);
    expect(bench.completions).to.deep.equal([]);
  });

  it('40: R2T HLEN 20 is fatal: 01h, FEI 2, judged before the rest of the PDU has come', async () => {
    bench = await Bench.open();
    const { cid } = await bench.write(pattern(16384));
    bench.peer.send(pdu.r2t(cid, { hlen: 20 }).subarray(0, 8));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 2]);
    expect(term.data.length).to.equal(8);
  });

  it('60: C2HData HLEN 28 is fatal: 01h, FEI 2', async () => {
    bench = await Bench.open();
    const { cid } = await bench.read(512);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { hlen: 28 }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 2]);
  });

  for (const [name, pdo, plen] of [
    ['before the end of the header', 20, 536],
    ['not a multiple of 4', 26, 538],
    ['behind PLEN', 200, 100],
  ] as const) {
    it(`C2HData PDO ${name} is fatal: 01h, FEI 3`, async () => {
      bench = await Bench.open();
      const { cid } = await bench.read(512);
      const bytes = pdu.c2hData(cid, pattern(512));
      bytes[3] = pdo;
      bytes.writeUInt32LE(plen, 4);
      bench.peer.send(bytes);
      const term = await bench.termReq();
      expect([term.fes, term.fei]).to.deep.equal([1, 3]);
    });
  }

  it('C2HData whose DATAL disagrees with PLEN is fatal: 01h, FEI 4', async () => {
    bench = await Bench.open();
    const { cid, buffer } = await bench.read(1024);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { length: 1024 }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 4]);
    expect(buffer.every((byte) => byte === 0xaa)).to.equal(true);
  });

  it('C2HData with PLEN 2^32 - 1 is fatal without waiting for it', async () => {
    bench = await Bench.open();
    const { cid } = await bench.read(512);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { plen: 0xffffffff, length: 0xffffffff - 24 }));
    const term = await bench.termReq();
    expect(term.fes).to.equal(4);
  });

  it('reserved FLAGS bits are ignored', async () => {
    bench = await Bench.open();
    const { cid } = await bench.flush();
    bench.peer.send(pdu.capsuleResp(cid, { flags: 0xf0, dw0: 7 }));
    await bench.completed(1);
    expect(bench.completions[0]).to.deep.equal({ status: 0, result: 7, context: 'flush' });
  });

  it('19: ICResp CPDA 7 pads capsule and H2CData to 32 bytes, digests leave the pad out', async () => {
    bench = await Bench.open({ headerDigest: true, dataDigest: true }, { cpda: 7 });
    const small = pattern(512);
    bench.queuePair.submitWrite(1, 0, 1, small, bench.onDone, 0);
    const capsule = await bench.peer.nextOf(4);
    expect([capsule.pdo, capsule.plen]).to.deep.equal([96, 96 + 512 + 4]);
    expect(capsule.bytes.readUInt32LE(72)).to.equal(referenceCrc32c(capsule.bytes.subarray(0, 72)));
    expect(capsule.bytes.subarray(76, 96).every((byte) => byte === 0)).to.equal(true);
    expect(capsule.data.equals(small)).to.equal(true);
    expect(capsule.bytes.readUInt32LE(capsule.plen - 4)).to.equal(referenceCrc32c(small));
    const large = pattern(16384, 3);
    const { cid } = await bench.write(large);
    bench.peer.send(pdu.r2t(cid, { length: 16384, hdgst: true }));
    const data = await bench.peer.nextOf(6);
    expect(data.pdo).to.equal(32);
    expect(data.bytes.readUInt32LE(24)).to.equal(referenceCrc32c(data.bytes.subarray(0, 24)));
    expect(data.bytes.readUInt32LE(data.plen - 4)).to.equal(referenceCrc32c(large));
  });

  it('HPDA 31 asks for C2HData padded to 128 bytes and takes it, whatever the pad holds', async () => {
    bench = await Bench.open({ hpda: 31, dataDigest: true });
    const { cid, buffer } = await bench.read(512);
    const data = pattern(512);
    await bench.peer.trickle(pdu.c2hData(cid, data, { pdo: 128, ddgst: true, padByte: 0xee }));
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(Buffer.compare(buffer, data)).to.equal(0);
    const second = await bench.read(512);
    bench.peer.send(pdu.c2hData(second.cid, data, { pdo: 64, ddgst: true }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 3]);
  });
});

describe('HostConnection digests', () => {
  let bench: Bench;
  afterEach(() => bench.close());

  it('puts both digests on capsules with data, the header digest alone on others', async () => {
    bench = await Bench.open({ headerDigest: true, dataDigest: true });
    bench.queuePair.submitFlush(1, bench.onDone, 0);
    const flush = await bench.peer.nextOf(4);
    expect([flush.flags, flush.plen, flush.pdo]).to.deep.equal([1, 76, 0]);
    expect(flush.bytes.readUInt32LE(72)).to.equal(referenceCrc32c(flush.bytes.subarray(0, 72)));
    const data = pattern(4096);
    bench.queuePair.submitWrite(1, 0, 8, data, bench.onDone, 0);
    const write = await bench.peer.nextOf(4);
    expect([write.flags, write.plen, write.pdo]).to.deep.equal([3, 76 + 4096 + 4, 76]);
    expect(write.bytes.readUInt32LE(write.plen - 4)).to.equal(referenceCrc32c(data));
  });

  it('49: C2HData with a bad DDGST fails its command once it completes; the next one works', async () => {
    bench = await Bench.open({ dataDigest: true });
    const bad = await bench.read(512, 'bad');
    bench.peer.send(pdu.c2hData(bad.cid, pattern(512), { ddgst: true, badDigest: true }));
    await settle(10);
    expect(bench.completions).to.deep.equal([]);
    bench.peer.send(pdu.capsuleResp(bad.cid));
    await bench.completed(1);
    expect(bench.completions[0]).to.deep.equal({ status: 0x22, result: 0, context: 'bad' });
    const good = await bench.read(512, 'good');
    bench.peer.send(pdu.c2hData(good.cid, pattern(512), { ddgst: true }), pdu.capsuleResp(good.cid));
    await bench.completed(2);
    expect(bench.completions[1]?.status).to.equal(0);
    expect(Buffer.compare(good.buffer, pattern(512))).to.equal(0);
    expect(bench.lost).to.equal(undefined);
  });

  it('50: C2HData with a bad DDGST and SUCCESS fails its command', async () => {
    bench = await Bench.open({ dataDigest: true });
    const { cid } = await bench.read(512);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { ddgst: true, badDigest: true, success: true }));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x22);
    expect(bench.lost).to.equal(undefined);
  });

  it('a bad DDGST in the first of two C2HData is not forgotten', async () => {
    bench = await Bench.open({ dataDigest: true });
    const { cid } = await bench.read(1024);
    const data = pattern(1024);
    bench.peer.send(
      pdu.c2hData(cid, data.subarray(0, 512), { ddgst: true, badDigest: true, last: false }),
      pdu.c2hData(cid, data.subarray(512), { ddgst: true, offset: 512, success: true }),
    );
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x22);
  });

  it('an error status is not replaced by the digest error', async () => {
    bench = await Bench.open({ dataDigest: true });
    const { cid } = await bench.read(512);
    bench.peer.send(
      pdu.c2hData(cid, pattern(512), { ddgst: true, badDigest: true }),
      pdu.capsuleResp(cid, { status: 0x281 }),
    );
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x281);
  });

  it('51: a wrong HDGST on CapsuleResp is fatal: 03h, FEI the digest received, no digest on the TermReq', async () => {
    bench = await Bench.open({ headerDigest: true });
    const { cid } = await bench.flush();
    const answer = pdu.capsuleResp(cid, { hdgst: true });
    answer.writeUInt32LE(0xdeadbeef, 24);
    bench.peer.send(answer);
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([3, 0xdeadbeef]);
    expect(term.bytes[1]).to.equal(0);
    expect(term.bytes.length).to.equal(48);
    expect(bench.completions).to.deep.equal([]);
  });

  it('a flipped bit in a C2HData header is caught before its data is taken', async () => {
    bench = await Bench.open({ headerDigest: true });
    const { cid, buffer } = await bench.read(512);
    const bytes = pdu.c2hData(cid, pattern(512), { hdgst: true });
    bytes[12] = 1;
    bench.peer.send(bytes);
    expect((await bench.termReq()).fes).to.equal(3);
    expect(buffer.every((byte) => byte === 0xaa)).to.equal(true);
  });

  it('HDGSTF that does not match the negotiation is fatal: 01h, FEI 1, either way', async () => {
    bench = await Bench.open({ headerDigest: true });
    bench.peer.send(pdu.capsuleResp((await bench.flush()).cid, { hdgst: true, flags: 0 }));
    let term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 1]);
    await bench.close();
    bench = await Bench.open();
    bench.peer.send(pdu.capsuleResp((await bench.flush()).cid, { flags: 1 }));
    term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 1]);
  });

  it('DDGSTF that does not match the negotiation is fatal: 01h, FEI 1, either way', async () => {
    bench = await Bench.open({ dataDigest: true });
    bench.peer.send(pdu.c2hData((await bench.read(512)).cid, pattern(512)));
    let term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 1]);
    await bench.close();
    bench = await Bench.open();
    bench.peer.send(pdu.c2hData((await bench.read(512)).cid, pattern(512), { ddgst: true }));
    term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 1]);
  });

  it('digests across segments of one byte', async () => {
    bench = await Bench.open({ headerDigest: true, dataDigest: true });
    const { cid, buffer } = await bench.read(512);
    await bench.peer.trickle(pdu.c2hData(cid, pattern(512), { hdgst: true, ddgst: true }));
    await bench.peer.trickle(pdu.capsuleResp(cid, { hdgst: true }));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0);
    expect(Buffer.compare(buffer, pattern(512))).to.equal(0);
  });
});

describe('HostConnection end', () => {
  let bench: Bench;
  afterEach(() => bench.close());

  it('106: C2HTermReq closes the connection and is not answered; commands in flight are a path loss', async () => {
    bench = await Bench.open();
    await bench.read(512);
    bench.peer.send(pdu.c2hTermReq(1, 8));
    await bench.peer.closed();
    expect(bench.lost?.code).to.equal('NVMEOF_ERR_PEER_TERMINATED');
    expect(bench.peer.pendingCount).to.equal(0);
    expect(bench.connection.peerTerm).to.deep.equal({ fes: 1, fei: 8 });
    bench.queuePair.endActive(() => false);
    expect(bench.completions).to.deep.equal([{ status: 0x370, result: 0, context: 'read' }]);
  });

  for (const plen of [23, 153, 0xffffffff]) {
    it(`79: C2HTermReq with PLEN ${plen} closes at once, its content ignored`, async () => {
      bench = await Bench.open();
      bench.peer.send(pdu.c2hTermReq(1, 8, { plen }));
      await bench.peer.closed();
      expect(bench.lost?.code).to.equal('NVMEOF_ERR_PROTOCOL');
      expect(bench.connection.peerTerm).to.equal(undefined);
      expect(bench.peer.pendingCount).to.equal(0);
    });
  }

  it('after its own TermReq it ignores all input and closes after 30 s, or when the peer does', async () => {
    bench = await Bench.open();
    const { cid } = await bench.flush();
    bench.peer.send(pdu.r2t(cid), pdu.capsuleResp(cid));
    await bench.termReq();
    bench.peer.send(pdu.capsuleResp(cid));
    await settle(10);
    expect(bench.completions).to.deep.equal([]);
    bench.clock.advance(29_999);
    await settle();
    expect(bench.peer.ended).to.equal(false);
    bench.clock.advance(1);
    await bench.peer.closed();
    expect(bench.clock.timerCount).to.equal(0);
    await bench.close();

    bench = await Bench.open();
    bench.peer.send(pdu.r2t(77));
    await bench.termReq();
    bench.peer.socket.end();
    await bench.connection.closed;
    expect(bench.clock.timerCount).to.equal(0);
  });

  it('close() is idempotent, reports no loss, and leaves no timer', async () => {
    bench = await Bench.open();
    await bench.flush();
    await Promise.all([bench.connection.close(), bench.connection.close()]);
    await bench.peer.closed();
    expect(bench.lost).to.equal(undefined);
    expect(bench.clock.timerCount).to.equal(0);
  });

  it('reports the loss when the peer closes in the middle of a PDU', async () => {
    bench = await Bench.open();
    const { cid } = await bench.read(4096);
    bench.peer.send(pdu.c2hData(cid, pattern(4096)).subarray(0, 1000));
    await settle(10);
    bench.peer.destroy();
    await until(() => bench.lost !== undefined, 'the loss is reported');
    expect(bench.lost?.code).to.be.oneOf(['NVMEOF_ERR_CONNECTION_LOST', 'ECONNRESET']);
  });
});

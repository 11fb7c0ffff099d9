/** Data in both directions as the host must judge it: nvme-tcp checklist 72-80, 93-100; table rules 62-76. */
import { expect } from 'chai';
import { Random, randomSeed } from '../../support/random.ts';
import { pdu } from '../../support/scripted-target.ts';
import { Bench, pattern, settle, until } from './support.ts';

const untouched = (buffer: Uint8Array): boolean => buffer.every((byte) => byte === 0xaa);

describe('C2HData', () => {
  let bench: Bench;
  beforeEach(async () => {
    bench = await Bench.open();
  });
  afterEach(() => bench.close());

  it('72: for an unknown CID is fatal: 01h, FEI 8', async () => {
    const { buffer } = await bench.read(512);
    bench.peer.send(pdu.c2hData(5, pattern(512)));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 8]);
    expect(untouched(buffer)).to.equal(true);
  });

  it('72: for the CID of a former use of the slot is fatal', async () => {
    const first = await bench.read(512);
    bench.peer.send(pdu.c2hData(first.cid, pattern(512)), pdu.capsuleResp(first.cid));
    await bench.completed(1);
    const second = await bench.read(512);
    expect(second.cid).not.to.equal(first.cid);
    expect(second.cid & 7).to.equal(first.cid & 7);
    bench.peer.send(pdu.c2hData(first.cid, pattern(512, 9)));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 8]);
    expect(untouched(second.buffer)).to.equal(true);
  });

  it('73: with a gap in DATAO is fatal: 02h', async () => {
    const { cid, buffer } = await bench.read(4096);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { offset: 512, last: false }));
    expect((await bench.termReq()).fes).to.equal(2);
    expect(untouched(buffer)).to.equal(true);
  });

  it('73: that repeats a range is fatal: 02h', async () => {
    const { cid } = await bench.read(4096);
    const part = pdu.c2hData(cid, pattern(512), { last: false });
    bench.peer.send(part, part);
    expect((await bench.termReq()).fes).to.equal(2);
  });

  it('74: beyond the buffer is fatal: 04h, and nothing is written', async () => {
    const { cid, buffer } = await bench.read(512);
    bench.peer.send(pdu.c2hData(cid, pattern(1024)));
    expect((await bench.termReq()).fes).to.equal(4);
    expect(untouched(buffer)).to.equal(true);
  });

  it('75: SUCCESS without LAST is fatal: 01h, FEI 1', async () => {
    const { cid } = await bench.read(512);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { last: false, success: true }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 1]);
    expect(bench.completions).to.deep.equal([]);
  });

  it('76: for a write is fatal: 02h', async () => {
    const { cid } = await bench.write(pattern(512));
    bench.peer.send(pdu.c2hData(cid, pattern(512, 2)));
    expect((await bench.termReq()).fes).to.equal(2);
  });

  it('76: for a Flush is fatal: 02h', async () => {
    const { cid } = await bench.flush();
    bench.peer.send(pdu.c2hData(cid, pattern(512)));
    expect((await bench.termReq()).fes).to.equal(2);
  });

  it('77: after LAST is fatal: 02h', async () => {
    const { cid } = await bench.read(1024);
    bench.peer.send(pdu.c2hData(cid, pattern(512)), pdu.c2hData(cid, pattern(512), { offset: 512 }));
    expect((await bench.termReq()).fes).to.equal(2);
  });

  it('78: LAST with less than asked for, then success, is an error; no stale byte is left', async () => {
    const { cid, buffer } = await bench.read(1024);
    bench.peer.send(pdu.c2hData(cid, pattern(512)), pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x04);
    expect(Buffer.compare(buffer.subarray(0, 512), pattern(512))).to.equal(0);
    expect(buffer.subarray(512).every((byte) => byte === 0)).to.equal(true);
  });

  it('78: LAST and SUCCESS with less than asked for is an error', async () => {
    const { cid } = await bench.read(1024);
    bench.peer.send(pdu.c2hData(cid, pattern(512), { success: true }));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x04);
  });

  it('a short answer is success where it is allowed, and its length is told', async () => {
    const buffer = new Uint8Array(1024).fill(0xaa);
    const sqe = new DataView(new ArrayBuffer(64));
    sqe.setUint8(0, 2);
    let transferred = -1;
    const done = (status: number, result: number, context: unknown): void => {
      transferred = bench.queuePair.transferred;
      bench.onDone(status, result, context);
    };
    bench.queuePair.submitRaw(sqe, 0, 2, buffer, done, 'log', true);
    const { cid } = await bench.peer.nextOf(4);
    bench.peer.send(pdu.c2hData(cid, pattern(512)), pdu.capsuleResp(cid));
    await bench.completed(1);
    expect([bench.completions[0]?.status, transferred]).to.deep.equal([0, 512]);
    expect(buffer.subarray(512).every((byte) => byte === 0)).to.equal(true);
  });

  it('79: two commands interleaved, each in four pieces, cut anywhere', async () => {
    const first = await bench.read(4096, 1);
    const second = await bench.read(4096, 2);
    const a = pattern(4096, 1);
    const b = pattern(4096, 2);
    const parts: Buffer[] = [];
    for (let offset = 0; offset < 4096; offset += 1024) {
      const last = offset === 3072;
      parts.push(pdu.c2hData(first.cid, a.subarray(offset, offset + 1024), { offset, last }));
      parts.push(pdu.c2hData(second.cid, b.subarray(offset, offset + 1024), { offset, last, success: last }));
    }
    parts.push(pdu.capsuleResp(first.cid, { dw0: 5 }));
    const stream = Buffer.concat(parts);
    for (let at = 0; at < stream.length; at += 997) {
      bench.peer.send(stream.subarray(at, at + 997));
      await settle(1);
    }
    await bench.completed(2);
    expect(bench.completions).to.deep.equal([
      { status: 0, result: 0, context: 2 },
      { status: 0, result: 5, context: 1 },
    ]);
    expect(Buffer.compare(first.buffer, a)).to.equal(0);
    expect(Buffer.compare(second.buffer, b)).to.equal(0);
  });

  it('every place to cut a stream of PDUs in two gives the same result', async () => {
    const data = pattern(64);
    for (let cut = 1; cut < 24 + 64 + 24; cut++) {
      const buffer = new Uint8Array(64);
      const sqe = new DataView(new ArrayBuffer(64));
      bench.queuePair.submitRaw(sqe, 0, 2, buffer, bench.onDone, cut);
      const { cid } = await bench.peer.nextOf(4);
      const stream = Buffer.concat([pdu.c2hData(cid, data), pdu.capsuleResp(cid, { dw0: cut })]);
      bench.peer.socket.write(stream.subarray(0, cut));
      await settle(1);
      bench.peer.socket.write(stream.subarray(cut));
      await bench.completed(cut);
      expect(bench.completions[cut - 1]).to.deep.equal({ status: 0, result: cut, context: cut });
      expect(Buffer.compare(buffer, data)).to.equal(0);
    }
  });

  it('80: success without any C2HData for a read is an error, and no stale byte is left', async () => {
    const { cid, buffer } = await bench.read(512);
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x04);
    expect(buffer.every((byte) => byte === 0)).to.equal(true);
  });

  it('a failed read passes its status on', async () => {
    const { cid } = await bench.read(512);
    bench.peer.send(pdu.capsuleResp(cid, { status: 0x4281, dw0: 9 }));
    await bench.completed(1);
    expect(bench.completions[0]).to.deep.equal({ status: 0x4281, result: 9, context: 'read' });
  });

  it('76: CapsuleResp for an unknown CID is fatal: 01h, FEI 20', async () => {
    await bench.flush();
    bench.peer.send(pdu.capsuleResp(6));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 20]);
  });

  it('a second completion of one command is fatal', async () => {
    const { cid } = await bench.flush();
    bench.peer.send(pdu.capsuleResp(cid), pdu.capsuleResp(cid));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 20]);
    expect(bench.completions.length).to.equal(1);
  });

  it('a payload far larger than the receive buffer arrives whole', async () => {
    const bytes = 2 << 20;
    const { cid, buffer } = await bench.read(bytes);
    const data = pattern(bytes);
    bench.peer.send(pdu.c2hData(cid, data), pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(Buffer.compare(buffer, data)).to.equal(0);
  });
});

for (const hasDigests of [false, true]) {
  const seed = randomSeed();
  describe(`large C2HData in segments of any size${hasDigests ? ', with digests' : ''}, NVMEFERRY_SEED=${seed}`, () => {
    let bench: Bench;
    beforeEach(async () => {
      bench = await Bench.open({ headerDigest: hasDigests, dataDigest: hasDigests });
    });
    afterEach(() => bench.close());
    const flags = { hdgst: hasDigests, ddgst: hasDigests };

    /** Two reads, each in PDUs of many sizes, next to each other on the wire. */
    async function transfer(random: Random, spoil: boolean): Promise<void> {
      const reads = [await bench.read(65_536, 1), await bench.read(65_536, 2)];
      const parts: Buffer[] = [];
      for (const { cid } of reads) {
        const data = pattern(65_536, cid & 0xff);
        for (let offset = 0; offset < data.length; ) {
          const length = Math.min(data.length - offset, 512 * (1 + random.below(60)));
          const last = offset + length === data.length;
          parts.push(pdu.c2hData(cid, data.subarray(offset, offset + length), { ...flags, offset, last }));
          offset += length;
        }
        parts.push(pdu.capsuleResp(cid, { hdgst: hasDigests }));
      }
      const stream = Buffer.concat(parts);
      // in the first read's data
      if (spoil) stream[200]! ^= 1;
      const before = bench.completions.length;
      for (let at = 0; at < stream.length; ) {
        const bytes = 1 + random.below(random.oneIn(3) ? 100 : 20_000);
        bench.peer.send(stream.subarray(at, at + bytes));
        await settle(1);
        at += bytes;
      }
      await bench.completed(before + 2);
      for (const [i, { cid, buffer }] of reads.entries()) {
        const isSpoiled = spoil && i === 0;
        expect(bench.completions[before + i]?.status !== 0, `read ${i + 1} failed`).to.equal(isSpoiled);
        if (!isSpoiled) expect(Buffer.compare(buffer, pattern(65_536, cid & 0xff))).to.equal(0);
      }
    }

    it('each byte arrives in its place', async () => {
      const random = new Random(seed);
      for (let i = 0; i < 20; i++) await transfer(random, false);
    });

    if (hasDigests) {
      it('what was changed on the way fails its read, and no other', async () => {
        const random = new Random(seed);
        for (let i = 0; i < 10; i++) await transfer(random, i % 2 === 0);
      });
    }
  });
}

describe('R2T and H2CData', () => {
  let bench: Bench;
  beforeEach(async () => {
    bench = await Bench.open({}, { maxh2cdata: 8192 }, 4096);
  });
  afterEach(() => bench.close());

  it('data within the limit goes in the capsule with SGL 01h, more waits for R2T with SGL 5Ah', async () => {
    bench.queuePair.submitWrite(1, 0, 8, pattern(4096), bench.onDone, 0);
    const small = await bench.peer.nextOf(4);
    expect([small.sglId, small.sglLength, small.pdo, small.plen]).to.deep.equal([0x01, 4096, 72, 72 + 4096]);
    expect(small.data.equals(pattern(4096))).to.equal(true);
    bench.queuePair.submitWrite(1, 0, 9, pattern(4608), bench.onDone, 0);
    const large = await bench.peer.nextOf(4);
    expect([large.sglId, large.sglLength, large.pdo, large.plen]).to.deep.equal([0x5a, 4608, 0, 72]);
    await settle(10);
    expect(bench.peer.pendingCount).to.equal(0);
  });

  it('93: an R2T above MAXH2CDATA is answered by several H2CData, only the last with LAST', async () => {
    const data = pattern(20480);
    const { cid } = await bench.write(data);
    bench.peer.send(pdu.r2t(cid, { ttag: 0xbeef, length: 20480 }));
    const got = [await bench.peer.nextOf(6), await bench.peer.nextOf(6), await bench.peer.nextOf(6)];
    expect(got.map((one) => [one.dataOffset, one.dataLength, one.flags, one.ttag, one.cid])).to.deep.equal([
      [0, 8192, 0, 0xbeef, cid],
      [8192, 8192, 0, 0xbeef, cid],
      [16384, 4096, 4, 0xbeef, cid],
    ]);
    expect(Buffer.concat(got.map((one) => one.data)).equals(data)).to.equal(true);
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0);
  });

  it('an R2T within MAXH2CDATA is answered by exactly one H2CData', async () => {
    const data = pattern(8192);
    const { cid } = await bench.write(data);
    bench.peer.send(pdu.r2t(cid, { length: 8192 }));
    const only = await bench.peer.nextOf(6);
    expect([only.dataLength, only.flags]).to.deep.equal([8192, 4]);
    await settle(10);
    expect(bench.peer.pendingCount).to.equal(0);
  });

  it('several R2Ts one after another cover a write', async () => {
    const data = pattern(12288);
    const { cid } = await bench.write(data);
    const got: Buffer[] = [];
    for (const [i, offset] of [0, 4096, 8192].entries()) {
      bench.peer.send(pdu.r2t(cid, { ttag: i, offset, length: 4096 }));
      const one = await bench.peer.nextOf(6);
      expect([one.ttag, one.dataOffset, one.flags]).to.deep.equal([i, offset, 4]);
      got.push(one.data);
    }
    expect(Buffer.concat(got).equals(data)).to.equal(true);
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0);
  });

  it('94: an R2T for a finished command is fatal: 01h, FEI 8', async () => {
    const { cid } = await bench.write(pattern(8192));
    bench.peer.send(pdu.capsuleResp(cid, { status: 0x281 }), pdu.r2t(cid, { length: 8192 }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 8]);
  });

  it('95: an R2T beyond the buffer is fatal: 04h', async () => {
    const { cid } = await bench.write(pattern(8192));
    bench.peer.send(pdu.r2t(cid, { length: 8196 }));
    expect((await bench.termReq()).fes).to.equal(4);
  });

  it('96: R2T number MAXR2T + 2 is fatal: 05h, with MAXR2T 0', async () => {
    const { cid } = await bench.write(pattern(16384));
    bench.peer.send(pdu.r2t(cid, { length: 4096 }), pdu.r2t(cid, { offset: 4096, length: 4096 }));
    expect((await bench.termReq()).fes).to.equal(5);
  });

  it('96: with MAXR2T 2 three are answered in order, a fourth is fatal', async () => {
    await bench.close();
    bench = await Bench.open({ maxR2t: 2 }, {}, 4096);
    const data = pattern(16384);
    const r2t = (cid: number, i: number): Buffer => pdu.r2t(cid, { ttag: i, offset: i * 4096, length: 4096 });
    const { cid } = await bench.write(data);
    bench.peer.send(r2t(cid, 0), r2t(cid, 1), r2t(cid, 2));
    const got = [await bench.peer.nextOf(6), await bench.peer.nextOf(6), await bench.peer.nextOf(6)];
    expect(got.map((one) => one.ttag)).to.deep.equal([0, 1, 2]);
    expect(Buffer.concat(got.map((one) => one.data)).equals(Buffer.from(data.subarray(0, 12288)))).to.equal(true);
    const second = await bench.write(data);
    bench.peer.send(r2t(second.cid, 0), r2t(second.cid, 1), r2t(second.cid, 2), r2t(second.cid, 3));
    expect((await bench.termReq()).fes).to.equal(5);
  });

  it('97: R2TL 0 is fatal: 01h, FEI 16', async () => {
    const { cid } = await bench.write(pattern(8192));
    bench.peer.send(pdu.r2t(cid, { length: 0 }));
    const term = await bench.termReq();
    expect([term.fes, term.fei]).to.deep.equal([1, 16]);
  });

  it('98: a gap between R2Ts is fatal: 02h', async () => {
    const { cid } = await bench.write(pattern(16384));
    bench.peer.send(pdu.r2t(cid, { offset: 4096, length: 4096 }));
    expect((await bench.termReq()).fes).to.equal(2);
  });

  it('75: an R2T for a write in capsule, a read or a Flush is fatal: 02h', async () => {
    for (const submit of ['write', 'read', 'flush'] as const) {
      await bench.close();
      bench = await Bench.open();
      const { cid } = await (submit === 'write'
        ? bench.write(pattern(512))
        : submit === 'read'
          ? bench.read(512)
          : bench.flush());
      bench.peer.send(pdu.r2t(cid, { length: 512 }));
      expect((await bench.termReq()).fes, submit).to.equal(2);
    }
  });

  it('99: R2Ts of different commands are answered each for itself', async () => {
    const a = pattern(8192, 1);
    const b = pattern(8192, 2);
    const first = await bench.write(a, 'a');
    const second = await bench.write(b, 'b');
    bench.peer.send(pdu.r2t(second.cid, { ttag: 2, length: 8192 }), pdu.r2t(first.cid, { ttag: 1, length: 8192 }));
    const got = [await bench.peer.nextOf(6), await bench.peer.nextOf(6)];
    for (const one of got) {
      expect(one.cid).to.equal(one.ttag === 1 ? first.cid : second.cid);
      expect(one.data.equals(one.ttag === 1 ? a : b)).to.equal(true);
    }
  });

  // an early error is allowed; an early success only a broken controller sends, and it must not be shown what the caller does next
  for (const status of [0x281, 0])
    it(`100: status ${status} that overtakes the data: the caller gets its buffer back only when nothing refers to it`, async () => {
      await bench.close();
      bench = await Bench.open({}, { maxh2cdata: 32 << 20 }, 4096);
      const data = pattern(24 << 20);
      const { cid } = await bench.write(data);
      bench.peer.socket.pause();
      bench.peer.socket.write(pdu.r2t(cid, { length: data.length }));
      await settle(20);
      bench.peer.socket.write(pdu.capsuleResp(cid, { status }));
      await new Promise((resolve) => setTimeout(resolve, 50));
      // far more than the sockets hold is still unsent
      expect(bench.completions).to.deep.equal([]);
      bench.peer.socket.resume();
      await bench.completed(1);
      expect(bench.completions[0]?.status).to.equal(status);
      const sent = await bench.peer.nextOf(6);
      expect(sent.data.equals(data)).to.equal(true);
      expect(bench.lost).to.equal(undefined);
      const next = await bench.flush('next');
      bench.peer.send(pdu.capsuleResp(next.cid));
      await bench.completed(2);
    });

  it('100: R2Ts that wait when the error comes are not answered, and the slot gets another CID', async () => {
    const one = await Bench.open({ slotCount: 1 }, {}, 4096);
    try {
      const first = await one.write(pattern(8192));
      one.peer.send(pdu.r2t(first.cid, { length: 8192 }), pdu.capsuleResp(first.cid, { status: 0x281 }));
      await one.completed(1);
      const second = await one.flush();
      expect(second.cid).not.to.equal(first.cid);
      one.peer.send(pdu.capsuleResp(second.cid));
      await one.completed(2);
      expect(one.lost).to.equal(undefined);
    } finally {
      await one.close();
    }
  });

  it('success before all data was asked for is an error', async () => {
    const { cid } = await bench.write(pattern(16384));
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.completions[0]?.status).to.equal(0x04);
  });

  it('a peer that does not read stops the host without loss: everything arrives once it reads', async () => {
    await bench.close();
    bench = await Bench.open({ slotCount: 64 }, { maxh2cdata: 1 << 20 }, 65536);
    bench.peer.socket.pause();
    const data = Array.from({ length: 64 }, (_, i) => pattern(65536, i));
    for (const [i, buffer] of data.entries()) {
      bench.queuePair.submitWrite(1, i, 128, buffer, bench.onDone, i);
      if (i % 8 === 0) await settle(1);
    }
    await settle(20);
    bench.peer.socket.resume();
    for (const buffer of data) {
      const capsule = await bench.peer.nextOf(4);
      expect(capsule.cdw(10)).to.equal(data.indexOf(buffer));
      expect(capsule.data.equals(buffer)).to.equal(true);
      bench.peer.send(pdu.capsuleResp(capsule.cid));
    }
    await bench.completed(64);
    expect(bench.completions.every(({ status }) => status === 0)).to.equal(true);
  });
});

describe('HostQueuePair', () => {
  let bench: Bench;
  beforeEach(async () => {
    bench = await Bench.open({ slotCount: 4 });
  });
  afterEach(() => bench.close());

  it('writes the SQE of a read byte for byte', async () => {
    bench.queuePair.submitRead(0x11223344, 0x1_2345_6789_abcd, 8, new Uint8Array(4096), bench.onDone, 0);
    const { sqe, cid } = await bench.peer.nextOf(4);
    const cidBytes = Buffer.from([cid & 0xff, cid >> 8]).toString('hex');
    expect(sqe.toString('hex')).to.equal(
      `0240${cidBytes}44332211${'00'.repeat(16)}` +
        `0000000000000000001000000000005a` +
        `cdab8967452301000700000000000000${'00'.repeat(8)}`,
    );
  });

  it('sets FUA, DEAC and zeroes what a former command left in the slot', async () => {
    const one = await Bench.open({ slotCount: 1 });
    try {
      one.queuePair.submitWrite(1, 77, 1, pattern(512), one.onDone, 0, true);
      const write = await one.peer.nextOf(4);
      expect([write.opcode, write.cdw(10), write.cdw(12)]).to.deep.equal([1, 77, 0x40000000]);
      one.peer.send(pdu.capsuleResp(write.cid));
      await one.completed(1);
      one.queuePair.submitWriteZeroes(1, 5, 65536, true, one.onDone, 0);
      const zeroes = await one.peer.nextOf(4);
      expect([zeroes.opcode, zeroes.cdw(10), zeroes.cdw(12)]).to.deep.equal([8, 5, 0x0200ffff]);
      expect([zeroes.sglId, zeroes.sglLength]).to.deep.equal([0x5a, 0]);
      one.peer.send(pdu.capsuleResp(zeroes.cid));
      await one.completed(2);
      const flush = await one.flush();
      expect(flush.cid).not.to.equal(zeroes.cid);
      const sqe = one.peer.pdus[one.peer.pdus.length - 1]!.sqe;
      expect(sqe.subarray(40).every((byte) => byte === 0)).to.equal(true);
    } finally {
      await one.close();
    }
  });

  it('takes as many commands as it has slots, and says no to the next', async () => {
    for (let i = 0; i < 4; i++) expect(bench.queuePair.submitFlush(1, bench.onDone, i)).to.equal(true);
    expect(bench.queuePair.submitFlush(1, bench.onDone, 4)).to.equal(false);
    expect([bench.queuePair.freeCount, bench.queuePair.activeCount]).to.deep.equal([0, 4]);
    const { cid } = await bench.peer.nextOf(4);
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.queuePair.submitFlush(1, bench.onDone, 4)).to.equal(true);
    expect(bench.slotFreeCount).to.equal(0);
  });

  it('tells its owner of a free slot only when someone waits', async () => {
    bench.queuePair.ownerWaits = true;
    const { cid } = await bench.flush();
    bench.peer.send(pdu.capsuleResp(cid));
    await bench.completed(1);
    expect(bench.slotFreeCount).to.equal(1);
  });

  it('sends all commands of a turn in one write', async () => {
    for (let i = 0; i < 4; i++) bench.queuePair.submitFlush(1, bench.onDone, i);
    for (let i = 0; i < 4; i++) await bench.peer.nextOf(4);
    expect(bench.peer.chunks).to.deep.equal([128, 4 * 72]);
  });

  it('sends what callbacks submit in one write at the end of the receive', async () => {
    const again = (status: number, result: number, context: unknown): void => {
      bench.onDone(status, result, context);
      bench.queuePair.submitFlush(1, bench.onDone, 'again');
    };
    for (let i = 0; i < 4; i++) bench.queuePair.submitFlush(1, again, i);
    const cids = [];
    for (let i = 0; i < 4; i++) cids.push((await bench.peer.nextOf(4)).cid);
    bench.peer.send(...cids.map((cid) => pdu.capsuleResp(cid)));
    for (let i = 0; i < 4; i++) await bench.peer.nextOf(4);
    expect(bench.peer.chunks).to.deep.equal([128, 288, 288]);
  });

  it('uses 15 CIDs per slot in turn, never FFFFh', async () => {
    const one = await Bench.open({ slotCount: 1 });
    try {
      const cids: number[] = [];
      for (let i = 1; i <= 30; i++) {
        const { cid } = await one.flush();
        cids.push(cid);
        one.peer.send(pdu.capsuleResp(cid));
        await one.completed(i);
      }
      expect(new Set(cids.slice(0, 15)).size).to.equal(15);
      expect(cids.slice(15)).to.deep.equal(cids.slice(0, 15));
      expect(cids).not.to.include(0xffff);
    } finally {
      await one.close();
    }
  });

  it('reports a time-out once per command, after as many ticks as given', async () => {
    await bench.flush();
    bench.queuePair.scan(3);
    await bench.flush();
    bench.queuePair.scan(3);
    expect(bench.timedOut).to.deep.equal([]);
    bench.queuePair.scan(3);
    expect(bench.timedOut).to.deep.equal([0]);
    bench.queuePair.scan(3);
    bench.queuePair.scan(3);
    expect(bench.timedOut).to.deep.equal([0, 1]);
  });

  it('a callback that throws ends this connection, and the error is not swallowed', async () => {
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    const caught = new Promise<Error>((resolve) => process.once('uncaughtException', resolve));
    bench.queuePair.submitFlush(
      1,
      () => {
        throw new Error('Bug in a callback');
      },
      0,
    );
    const { cid } = await bench.peer.nextOf(4);
    bench.peer.send(pdu.capsuleResp(cid));
    expect((await caught).message).to.equal('Bug in a callback');
    for (const listener of listeners) process.on('uncaughtException', listener);
    await until(() => bench.lost !== undefined, 'the loss is reported');
    expect(bench.lost?.code).to.equal('NVMEOF_ERR_INTERNAL');
  });

  it('may be closed from within a completion callback', async () => {
    const { cid } = await bench.flush();
    const second = await bench.flush();
    let closed = false;
    const done = (): void => {
      closed = true;
      void bench.queuePair.close();
    };
    bench.queuePair.submitFlush(1, done, 0);
    const third = await bench.peer.nextOf(4);
    bench.peer.send(pdu.capsuleResp(third.cid), pdu.capsuleResp(cid), pdu.capsuleResp(second.cid));
    await bench.peer.closed();
    expect([closed, bench.completions.length]).to.deep.equal([true, 0]);
    expect(bench.queuePair.submitFlush(1, bench.onDone, 0)).to.equal(false);
  });
});

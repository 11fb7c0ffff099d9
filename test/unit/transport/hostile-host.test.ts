/** What hostile hosts did to the target's connection, one by one: found by the fuzzers and by review, each once a bug. */
import { expect } from 'chai';
import { FuzzTarget, SLOW_NSID, STAMPED_NSID, WRITABLE_NSID } from '../../fuzz/support/fuzz-target.ts';
import { CC_ENABLE, connectData, connectSqe, pattern } from '../../support/raw-pdu.ts';
import { SUBSYSTEM_NQN } from '../../support/test-target.ts';

describe('target connection under hostile hosts', () => {
  let target: FuzzTarget;
  afterEach(() => target.close());

  it('data that comes before its R2T was sent ends the connection, and is not executed', async () => {
    target = await FuzzTarget.start();
    const { cntlid } = await target.admin();
    const host = await target.io(cntlid);
    const read = (): Buffer => host.commandBytes({ opcode: 2, nsid: STAMPED_NSID, cdw12: 2047 }, { length: 1 << 20 });
    const write = host.commandBytes({ opcode: 1, nsid: WRITABLE_NSID, cdw12: 7, cid: 0x777 }, { length: 4096 });
    // the kernel takes nothing: with the second read the answers no longer fit into one batch, and the R2T has to wait
    host.end.peer.capacity = 0;
    // the slots of a new queue are given in a known order (0, 2, 3...), and the first read has given its own back: TTAGs are easily guessed
    const data = host.h2cData({ cid: 0x777, ttag: 2, offset: 0, last: true }, pattern(4096, 1));
    host.send(Buffer.concat([read(), read(), write, data]));
    await target.quiet();
    host.end.peer.capacity = Number.POSITIVE_INFINITY;
    await target.drain();
    expect(host.term, 'C2HTermReq').to.deep.equal({ fes: 1, fei: 10 });
    expect(target.test.fatal).to.deep.equal([]);
    await target.expectBase();
  });

  it('a controller that was shut down is removed two minutes later, though its host never disconnects', async () => {
    target = await FuzzTarget.start();
    const { host } = await target.admin({ katoMs: 10_000 });
    const shutdown = host.commandBytes({ opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: CC_ENABLE | (1 << 14) });
    expect((await target.answer(host, shutdown)).status).to.equal(0);
    target.test.clock.advance(119_000);
    await target.quiet();
    expect(target.isOpen(host), 'open after 119 s').to.equal(true);
    target.test.clock.advance(2_000);
    await target.quiet();
    expect(target.isOpen(host), 'open after 121 s').to.equal(false);
    await target.expectBase();
  });

  it('a thousand parked reads that fail at once do not exhaust the stack', async () => {
    target = await FuzzTarget.start({ tcp: { bufferBytesMax: 4096 } });
    const { cntlid } = await target.admin();
    const host = await target.io(cntlid, { sqsize: 1023 });
    target.slow.hold = true;
    const read = (): Buffer => host.commandBytes({ opcode: 2, nsid: SLOW_NSID, cdw12: 7 }, { length: 4096 });
    host.send(Buffer.concat(Array.from({ length: 1020 }, read)));
    await target.quiet();
    target.slow.read = (io) => io.complete(0x281);
    await target.drain();
    expect(host.outstandingCount).to.equal(0);
    await target.expectBase();
  });

  for (const qid of [0, 1]) {
    it(`of two Connects under way on one connection the second fails, also on queue ${qid}`, async () => {
      target = await FuzzTarget.start();
      const { cntlid } = await target.admin();
      const host = target.connect();
      await target.initialize(host);
      const fields = { subnqn: SUBSYSTEM_NQN, qid, cntlid: qid === 0 ? 0xffff : cntlid };
      for (const cid of [1, 2]) host.send(host.capsule(connectSqe(fields, cid, 'r2t')));
      await target.quiet();
      const commands = [1, 2].map((cid) => host.outstanding.get(cid)![0]!);
      for (const { cid, ttag } of host.r2ts.splice(0)) {
        host.send(host.h2cData({ cid, ttag, offset: 0, last: true }, connectData(fields)));
      }
      await target.quiet();
      expect(commands.map(({ completion }) => completion?.status)).to.deep.equal([0, 0x400c]);
      await target.expectBase();
    });
  }
});

/**
 * Commands that take several operations, and whose queue goes while a slow backend has one of them: what its host sends next, over another
 * queue, is not overwritten. The operation that is under way has its range for itself, and none comes after it.
 */
import { expect } from 'chai';
import { FaultBackend } from '../../../src/backend/fault.ts';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { connectCommandSet } from '../../../src/target/commands/connect.ts';
import { Subsystem } from '../../../src/target/subsystem.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { type ConnectFields, connectData, connectSqe, type SqeFields, sqeBytes } from '../../support/raw-host.ts';
import { HeldBackend } from '../../support/vm.ts';
import { type LoopCompletion, LoopTransport } from './loop-transport.ts';

const NQN = 'nqn.2024-01.org.example:loop';
const BLOCK = 512;
const SLOW = 1;
const QUICK = 2;
const ABORTED_SQ_DELETION = 0x08;
/** Blocks of 1 MiB, what a Copy takes at once. */
const PART = (1 << 20) / BLOCK;
const turn = (): Promise<unknown> => new Promise(setImmediate);

describe('target/outlived commands', () => {
  let subsystem: Subsystem;
  let slow: HeldBackend;
  let quick: MemoryBackend;
  let cid = 0;

  beforeEach(() => {
    subsystem = new Subsystem(
      { nqn: NQN, allowAnyHost: true },
      false,
      {
        connected: () => {},
        closed: () => {},
        fatal: (_controller, error) => {
          throw error;
        },
        stateNotSaved: () => 0,
        discoveryPage: () => new Uint8Array(0),
        discoveryOptions: () => 0,
      },
      new ManualClock(),
    );
    slow = new HeldBackend();
    quick = new MemoryBackend({ blockSize: BLOCK, blockCount: 4096 });
    subsystem.addNamespace({ nsid: SLOW, backend: slow });
    subsystem.addNamespace({ nsid: QUICK, backend: quick });
  });

  function open(): LoopTransport {
    const found = (nqn: string): Subsystem | undefined => (nqn === NQN ? subsystem : undefined);
    return new LoopTransport(
      connectCommandSet({ portId: 1, queueEntriesMax: 128, inCapsuleBytes: 0, subsystem: found }),
    );
  }
  const connect = (transport: LoopTransport, fields: ConnectFields = {}): LoopCompletion =>
    transport.run(connectSqe(fields, cid++, 'r2t'), connectData({ subnqn: NQN, ...fields }))!;
  const begin = (io: LoopTransport, fields: SqeFields, data?: Uint8Array): LoopCompletion | undefined =>
    io.run(sqeBytes({ cid: cid++, nsid: SLOW, ...fields }), data);

  /** A host's I/O queue. */
  function host(): LoopTransport {
    const admin = open();
    const cntlid = connect(admin).result0;
    begin(admin, { nsid: 0, opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: 0x460001 });
    // formats of Copy that name other namespaces
    const behavior = new Uint8Array(512);
    behavior[4] = 0x04;
    expect(begin(admin, { nsid: 0, opcode: 0x09, cdw10: 0x16 }, behavior)!.status).to.equal(0);
    const io = open();
    expect(connect(io, { qid: 1, cntlid, sqsize: 31 }).status).to.equal(0);
    return io;
  }

  const filled = (blocks: number, value: number): Uint8Array => new Uint8Array(blocks * BLOCK).fill(value);
  const write = (io: LoopTransport, block: number, data: Uint8Array, nsid = SLOW): LoopCompletion | undefined =>
    begin(io, { opcode: 0x01, nsid, cdw10: block, cdw12: data.length / BLOCK - 1 }, data);
  /** From the slow namespace. */
  function copy(io: LoopTransport, from: number, blocks: number, to: number, nsid = SLOW): void {
    const source = Buffer.alloc(32);
    source.writeUInt32LE(SLOW, 0);
    source.writeBigUInt64LE(BigInt(from), 8);
    source.writeUInt16LE(blocks - 1, 16);
    begin(io, { opcode: 0x19, nsid, cdw10: to, cdw12: 0x200 }, source);
  }
  const fill = (block: number, blocks: number, value: number): unknown =>
    slow.data.fill(value, block * BLOCK, (block + blocks) * BLOCK);
  const found = (block: number): number => slow.data[block * BLOCK]!;

  it('Copy that writes: what overlaps it waits, nothing else does', () => {
    fill(10, 4, 1);
    const [old, next] = [host(), host()];
    copy(old, 10, 4, 20);
    slow.release(); // it is read
    expect(slow.begun).to.equal(2);
    old.close('gone');
    write(next, 22, filled(1, 2));
    write(next, 24, filled(1, 3));
    expect(slow.begun, 'the one beside it').to.equal(3);
    slow.held.reverse(); // as a disk may
    slow.release();
    expect(next.completions.length, 'of the one beside it').to.be.greaterThan(0);
    slow.release();
    expect([19, 20, 21, 22, 23, 24].map(found)).to.deep.equal([0, 1, 1, 2, 1, 3]);
    // and nobody waits for it any more
    write(next, 20, filled(1, 4));
    slow.release();
    expect(found(20)).to.equal(4);
    expect([old, next].map(({ pool }) => pool.usedBytes)).to.deep.equal([0, 0]);
  });

  it('Copy that reads: it writes no more, not even where nothing waits', () => {
    fill(10, 4, 1);
    for (const nsid of [SLOW, QUICK]) {
      const [old, next] = [host(), host()];
      copy(old, 10, 4, 20, nsid);
      old.close('gone');
      write(next, 21, filled(1, 2), nsid);
      slow.held.reverse();
      slow.release();
      slow.release();
      expect(begin(next, { opcode: 0x02, nsid: QUICK, cdw10: 20, cdw12: 3 })!.data[BLOCK]).to.equal(
        nsid === QUICK ? 2 : 0,
      );
      expect(slow.held, 'nothing comes after it').to.deep.equal([]);
      expect(old.queuePair.outstanding).to.equal(0);
      expect(old.pool.usedBytes).to.equal(0);
    }
    expect([20, 21, 22].map(found)).to.deep.equal([0, 2, 0]);
  });

  it('Copy in parts: none begins any more', async () => {
    fill(4 * PART, 2 * PART, 1);
    const [old, next] = [host(), host()];
    copy(old, 4 * PART, 2 * PART, 0);
    slow.release();
    old.close('gone');
    write(next, PART, filled(1, 2)); // in its second part, which is not claimed
    slow.held.reverse();
    slow.release();
    await turn();
    expect(slow.held).to.deep.equal([]);
    expect([0, PART - 1, PART, PART + 1].map(found)).to.deep.equal([1, 1, 2, 0]);
    expect(old.queuePair.outstanding).to.equal(0);
  });

  it('Copy that waits for a limit of writes does not wait for it', () => {
    fill(10, 4, 1);
    const [old, next] = [host(), host()];
    subsystem.namespaces[SLOW]!.limitWrites(1024, new ManualClock());
    copy(old, 10, 4, 20);
    write(old, 0, filled(8, 1)); // takes all that may be written at once
    slow.release();
    expect([slow.held.length, old.queuePair.outstanding]).to.deep.equal([0, 1]);
    old.close('gone');
    expect(old.queuePair.outstanding).to.equal(0);
    expect(subsystem.namespaces[SLOW]!.writeLimit!.waitingCount).to.equal(0);
    expect(found(20)).to.equal(0);
    next.close('gone');
  });

  it('Dataset Management: the range that is under way is claimed, the ranges behind it are left', () => {
    const faulty = new FaultBackend(new MemoryBackend({ blockSize: BLOCK, blockCount: 4096 }), {
      clock: new ManualClock(),
      rules: [{ operation: 'deallocate', hold: true }],
    });
    subsystem.addNamespace({ nsid: 3, backend: faulty });
    const [old, next] = [host(), host()];
    for (const block of [0, 8]) write(old, block, filled(8, 1), 3);
    const ranges = Buffer.alloc(32);
    for (const [i, block] of [0, 8].entries()) {
      ranges.writeUInt32LE(8, i * 16 + 4);
      ranges.writeBigUInt64LE(BigInt(block), i * 16 + 8);
    }
    begin(old, { opcode: 0x09, nsid: 3, cdw10: 1, cdw11: 0x4 }, ranges);
    old.close('gone');
    expect(write(next, 0, filled(1, 2), 3), 'waits').to.equal(undefined);
    expect(write(next, 8, filled(1, 3), 3)!.status).to.equal(0);
    faulty.release();
    const read = (block: number): number => begin(next, { opcode: 0x02, nsid: 3, cdw10: block, cdw12: 0 })!.data[0]!;
    expect([0, 1, 8, 9].map(read)).to.deep.equal([2, 0, 3, 1]);
    expect(old.queuePair.outstanding).to.equal(0);
  });

  it('Compare and Write that compares: it writes no more, and lets in who waits', () => {
    const [old, next] = [host(), host()];
    begin(old, { opcode: 0x05, flags: 0x41, cdw10: 20, cdw12: 0 }, filled(1, 0));
    begin(old, { opcode: 0x01, flags: 0x42, cdw10: 20, cdw12: 0 }, filled(1, 1));
    expect(slow.begun).to.equal(1);
    old.close('gone');
    write(next, 20, filled(1, 2));
    expect(slow.begun, 'waits').to.equal(1);
    slow.release();
    slow.release();
    expect(found(20)).to.equal(2);
    expect(old.completions.map(({ status }) => status & 0xff)).to.include(ABORTED_SQ_DELETION);
    expect(old.queuePair.outstanding).to.equal(0);
  });
});

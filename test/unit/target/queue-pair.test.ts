import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { connectCommandSet } from '../../../src/target/commands/connect.ts';
import { Subsystem } from '../../../src/target/subsystem.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import {
  type ConnectFields,
  connectData,
  connectSqe,
  pattern,
  type SqeFields,
  sqeBytes,
} from '../../support/raw-host.ts';
import { type LoopCompletion, LoopTransport } from './loop-transport.ts';

const NQN = 'nqn.2024-01.org.example:loop';

describe('QueuePair over a transport without sockets', () => {
  let clock: ManualClock;
  let subsystem: Subsystem;
  let events: string[];
  beforeEach(() => {
    clock = new ManualClock();
    events = [];
    subsystem = new Subsystem(
      { nqn: NQN, allowAnyHost: true },
      false,
      {
        connected: (controller) => events.push(`connected ${controller.cntlid}`),
        closed: (controller, reason) => events.push(`closed ${controller.cntlid}: ${reason}`),
        fatal: (_controller, error) => events.push(`fatal: ${String(error)}`),
        stateNotSaved: () => 0,
        discoveryPage: () => new Uint8Array(0),
        discoveryOptions: () => 0,
      },
      clock,
    );
    subsystem.addNamespace({ nsid: 1, backend: new MemoryBackend({ blockSize: 512, blockCount: 4096 }) });
  });

  function open(): LoopTransport {
    return new LoopTransport(
      connectCommandSet({
        portId: 1,
        queueEntriesMax: 128,
        inCapsuleBytes: 0,
        subsystem: (nqn) => (nqn === NQN ? subsystem : undefined),
      }),
    );
  }
  let cid = 0;
  function command(transport: LoopTransport, fields: SqeFields, data?: Uint8Array): LoopCompletion {
    const completion = transport.run(sqeBytes({ cid: cid++, ...fields }), data);
    expect(completion, 'completed at once').to.not.equal(undefined);
    return completion!;
  }
  function connect(transport: LoopTransport, fields: ConnectFields = {}): LoopCompletion {
    return transport.run(connectSqe(fields, cid++, 'r2t'), connectData({ subnqn: NQN, ...fields }))!;
  }
  function association(depth = 32): { admin: LoopTransport; io: LoopTransport; cntlid: number } {
    const admin = open();
    const cntlid = connect(admin).result0;
    command(admin, { opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: 0x460001 });
    const io = open();
    expect(connect(io, { qid: 1, cntlid, sqsize: depth - 1 }).status).to.equal(0);
    return { admin, io, cntlid };
  }

  it('connects, enables, identifies, writes and reads', () => {
    const { admin, io, cntlid } = association();
    expect([admin.isConnected, io.isConnected]).to.deep.equal([true, true]);
    expect(events).to.deep.equal([`connected ${cntlid}`]);
    const identify = command(admin, { opcode: 6, cdw10: 1, sgl: { id: 0x5a, length: 4096 } });
    expect(identify.data.readUInt16LE(78)).to.equal(cntlid);
    const data = pattern(65_536, 1);
    expect(command(io, { opcode: 1, nsid: 1, cdw10: 5, cdw12: 127 }, data).status).to.equal(0);
    expect(command(io, { opcode: 2, nsid: 1, cdw10: 5, cdw12: 127 }).data.equals(data)).to.equal(true);
    expect(command(io, { opcode: 0, nsid: 1 }).status).to.equal(0);
    expect(io.pool.usedBytes, 'buffers').to.equal(0);
  });

  it('a failed Connect says where, and leaves the pair unconnected', () => {
    const transport = open();
    const refused = connect(transport, { subnqn: 'nqn.2024-01.org.example:none' });
    expect([refused.status & 0x7ff, refused.result0]).to.deep.equal([0x182, 0x10100]);
    expect(transport.isConnected).to.equal(false);
    expect(connect(transport).status).to.equal(0);
  });

  it('gives out as many requests as the queue has entries, and knows them by CID', () => {
    const { io } = association(8);
    const { queuePair } = io;
    const requests = Array.from({ length: 8 }, () => queuePair.acquire());
    expect(requests.every((request) => request?.inUse)).to.equal(true);
    expect(new Set(requests.map((request) => request!.slot)).size).to.equal(8);
    expect(queuePair.acquire()).to.equal(undefined);
    expect(queuePair.outstanding).to.equal(8);
    for (const [i, request] of requests.entries()) {
      request!.sqe.setUint16(request!.sqeBase + 2, 100 + i, true);
      request!.sqe.setUint8(request!.sqeBase, 0);
      request!.sqe.setUint8(request!.sqeBase + 1, 0x40);
      queuePair.prepare(request!);
    }
    expect(queuePair.find(103)).to.equal(requests[3]);
    expect(queuePair.find(99)).to.equal(undefined);
    queuePair.release(requests[3]!);
    expect(queuePair.find(103)).to.equal(undefined);
    expect(queuePair.acquire()).to.equal(requests[3]);
    expect(queuePair.acquire()).to.equal(undefined);
  });

  it('slots are as good as new after each use: nothing of one command reaches the next', () => {
    const { admin, io } = association(2);
    for (let i = 0; i < 50; i++) {
      expect(command(io, { opcode: 2, nsid: 1, cdw12: 7 }).data.length).to.equal(4096);
      const failed = command(io, { opcode: 2, nsid: 9 });
      expect([failed.status & 0x7ff, failed.data.length]).to.deep.equal([0x02, 0]);
      expect(command(io, { opcode: 0, nsid: 1 })).to.include({ status: 0, result0: 0, result1: 0 });
      const value = command(admin, { opcode: 0x7f, fctype: 4, cdw10: 1, cdw11: 0 });
      expect(value.result1).to.not.equal(0);
      expect(command(admin, { opcode: 0x18 })).to.include({ status: 0, result0: 0, result1: 0 });
    }
  });

  it('the admin queue closes: so does every I/O queue, and the controller is gone', () => {
    const { admin, io, cntlid } = association();
    admin.close('unplugged');
    expect(io.closedBecause).to.equal('unplugged');
    expect(events.at(-1)).to.equal(`closed ${cntlid}: unplugged`);
    expect(subsystem.controller(cntlid)).to.equal(undefined);
    expect(clock.timerCount).to.equal(0);
  });

  it('keep alive works without sockets', () => {
    const admin = open();
    connect(admin, { katoMs: 1000 });
    command(admin, { opcode: 0x7f, fctype: 0, cdw11: 0x14, cdw12: 0x460001 });
    command(admin, { opcode: 0x18 });
    clock.advance(1000);
    expect(admin.closedBecause).to.equal(undefined);
    clock.advance(999);
    expect(admin.closedBecause).to.equal(undefined);
    clock.advance(1);
    expect(admin.closedBecause).to.equal('keep alive timer expired');
  });

  it('an AER stays with the core until there is an event', () => {
    const { admin } = association();
    command(admin, { opcode: 9, cdw10: 0x0b, cdw11: 0x100 });
    expect(admin.run(sqeBytes({ opcode: 0x0c, cid: 999 }))).to.equal(undefined);
    subsystem.addNamespace({ nsid: 2, backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }) });
    expect(admin.completions.at(-1)).to.include({ cid: 999, status: 0, result0: 0x0004_0002 });
  });

  it('a command identifier in use is refused, and the first command is not touched', () => {
    const { admin } = association();
    admin.run(sqeBytes({ opcode: 0x0c, cid: 999 }));
    const second = command(admin, { opcode: 0x18, cid: 999 });
    expect(second.status & 0x7ff).to.equal(0x03);
    expect(admin.queuePair.find(999)?.opcode).to.equal(0x0c);
  });

  it('10,000 commands keep every counter where it was', () => {
    const { io } = association(4);
    const data = pattern(4096, 2);
    for (let i = 0; i < 5000; i++) {
      expect(
        command(io, { opcode: 1, nsid: 1, cid: i & 0xffff, cdw10: (i % 500) * 8, cdw12: 7 }, data).status,
      ).to.equal(0);
      expect(command(io, { opcode: 2, nsid: 1, cid: i & 0xffff, cdw10: (i % 500) * 8, cdw12: 7 }).data[9]).to.equal(
        data[9],
      );
      io.completions.length = 0;
    }
    expect([io.queuePair.outstanding, io.pool.usedBytes]).to.deep.equal([0, 0]);
  });
});

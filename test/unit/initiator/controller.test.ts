/** HostController: set-up, commands, time-outs, loss and reconnection, against a scripted controller and a clock that stands still. */
import { expect } from 'chai';
import { HostController, type HostControllerState } from '../../../src/initiator/controller.ts';
import type { HostOptions } from '../../../src/initiator/options.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import {
  type HostPdu,
  pdu,
  type ScriptedConnection,
  ScriptedController,
  ScriptedTarget,
} from '../../support/scripted-target.ts';
import { advance, pattern, rejection, settle, until } from './support.ts';

const SUBNQN = 'nqn.2024-01.test:sub';
const HOSTNQN = 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff';

describe('HostController', () => {
  let target: ScriptedTarget;
  let peer: ScriptedController;
  let clock: ManualClock;
  let controller: HostController | undefined;

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    peer = new ScriptedController(target);
    clock = new ManualClock();
    controller = undefined;
  });
  afterEach(async () => {
    await controller?.close();
    await target.close();
    expect(clock.timerCount, 'timers left').to.equal(0);
  });

  const options = (extra: Partial<HostOptions> = {}): HostOptions => ({
    address: '127.0.0.1',
    port: target.port,
    subnqn: SUBNQN,
    hostnqn: HOSTNQN,
    clock,
    katoMs: 0,
    ...extra,
  });
  async function connect(extra: Partial<HostOptions> = {}): Promise<HostController> {
    controller = await HostController.connect(options(extra));
    return controller;
  }
  /** Answers nothing to I/O commands; they are collected. */
  function holdIo(): { command: HostPdu; connection: ScriptedConnection }[] {
    const held: { command: HostPdu; connection: ScriptedConnection }[] = [];
    peer.override = (command, connection, qid) => {
      if (qid === 0 || command.opcode === 0x7f) return false;
      held.push({ command, connection });
      return true;
    };
    return held;
  }
  const allClosed = (): boolean => target.connections.every((connection) => connection.ended);

  describe('connect', () => {
    it('sends the commands of a Linux host, in order', async () => {
      peer.shape = { oaes: 0x80000900, ioQueues: 8 };
      await connect({ ioQueues: 2 });
      await settle();
      expect(peer.seen).to.deep.equal([
        'Connect 0',
        'PropertyGet 00',
        'PropertyGet 08',
        'PropertyGet 14',
        'PropertySet 14',
        'PropertyGet 1c',
        'Admin 06',
        'Admin 09',
        'Connect 1',
        'Connect 2',
        'Admin 09',
        'Admin 0c',
        'Admin 0c',
        'Admin 0c',
        'Admin 0c',
      ]);
      expect(peer.cc).to.equal(0x00460001);
      expect(controller?.state).to.equal('live');
    });

    it('fills in Connect of the admin and the I/O queues', async () => {
      const connects: HostPdu[] = [];
      peer.shape = { cntlid: 0x1234 };
      peer.override = (command) => {
        if (command.opcode === 0x7f && command.fctype === 1) connects.push(command);
        return false;
      };
      await connect({
        katoMs: 7000,
        disableSqFlow: true,
        queueSize: 64,
        hostid: '01020304-0506-0708-090a-0b0c0d0e0f10',
      });
      const [admin, io] = connects as [HostPdu, HostPdu];
      // RECFMT, QID, SQSIZE, CATTR, KATO
      expect(admin.sqe.subarray(40, 52).toString('hex')).to.equal('000000001f000400581b0000');
      expect(io.sqe.subarray(40, 52).toString('hex')).to.equal('000001003f00040000000000');
      for (const [command, cntlid] of [
        [admin, 0xffff],
        [io, 0x1234],
      ] as const) {
        expect(command.sglId).to.equal(1);
        expect(command.data.length).to.equal(1024);
        expect(command.data.subarray(0, 16).toString('hex')).to.equal('0102030405060708090a0b0c0d0e0f10');
        expect(command.data.readUInt16LE(16)).to.equal(cntlid);
        expect(command.data.toString('utf8', 256, 256 + SUBNQN.length + 1)).to.equal(`${SUBNQN}\0`);
        expect(command.data.toString('utf8', 512, 512 + HOSTNQN.length + 1)).to.equal(`${HOSTNQN}\0`);
      }
    });

    it('takes HOSTID from a UUID NQN when none is given', async () => {
      let hostid = '';
      peer.override = (command) => {
        if (command.fctype === 1 && command.opcode === 0x7f) hostid = command.data.subarray(0, 16).toString('hex');
        return false;
      };
      await connect();
      expect(hostid).to.equal('00112233445566778899aabbccddeeff');
    });

    it('disables a static controller that is still enabled first', async () => {
      const values: number[] = [];
      peer.override = (command, connection) => {
        if (command.opcode === 0x7f && command.fctype === 1) {
          peer.qids.set(connection, command.sqe.readUInt16LE(42));
          if (peer.qids.get(connection) === 0) peer.cc = 0x460001;
          connection.send(pdu.capsuleResp(command.cid, { dw0: 1 }));
          return true;
        }
        if (command.opcode === 0x7f && command.fctype === 0) values.push(command.cdw(12));
        return false;
      };
      await connect();
      expect(values).to.deep.equal([0x460000, 0x460001]);
    });

    it('is content with fewer queues and smaller ones than asked for', async () => {
      peer.shape = { ioQueues: 2, cap: (4n << 24n) | (1n << 37n) | 15n };
      const { association } = await connect({ ioQueues: 5, queueSize: 128 });
      expect(association?.ioQueuePairs.map((queuePair) => queuePair.freeCount)).to.deep.equal([15, 15]);
    });

    it('says which host is refused', async () => {
      peer.override = (command, connection) => {
        connection.send(pdu.capsuleResp(command.cid, { status: 0x4184 }));
        return true;
      };
      const error = await rejection(connect());
      expect(error.code).to.equal('NVMEOF_ERR_STATUS');
      expect(error.status).to.equal(0x4184);
      expect(error.message).to.contain(HOSTNQN).and.to.contain('Connect Invalid Host');
      await until(allClosed, 'all connections closed');
    });

    for (const [dw0, words] of [
      [0x10100, 'the subsystem NQN (no such subsystem?) is refused'],
      [0x10200, 'the host NQN is refused'],
      [0x0002c, 'the queue size is refused'],
      [0x00070, 'SQE byte 112 is refused'],
    ] as const) {
      it(`explains Connect Invalid Parameters with DW0 ${dw0.toString(16)}h`, async () => {
        peer.override = (command, connection) => {
          connection.send(pdu.capsuleResp(command.cid, { status: 0x4182, dw0 }));
          return true;
        };
        expect((await rejection(connect())).message).to.contain(words);
      });
    }

    it('says that authentication is required', async () => {
      peer.override = (command, connection) => {
        connection.send(pdu.capsuleResp(command.cid, { dw0: 0x20001 }));
        return true;
      };
      expect((await rejection(connect())).code).to.equal('NVMEOF_ERR_AUTH_REQUIRED');
      await until(allClosed, 'all connections closed');
    });

    it('gives up when the controller does not become ready in CAP.TO', async () => {
      peer.override = (command, connection) => {
        if (command.opcode !== 0x7f || command.fctype !== 4 || command.cdw(11) !== 0x1c) return false;
        connection.send(pdu.capsuleResp(command.cid));
        return true;
      };
      const failing = rejection(connect());
      let done = false;
      void failing.then(() => {
        done = true;
      });
      for (let i = 0; i < 400 && !done; i++) await advance(clock, 10, 10);
      const error = await failing;
      expect(error.code).to.equal('NVMEOF_ERR_TIMEOUT');
      expect(error.message).to.contain('within 2000 ms');
      await until(allClosed, 'all connections closed');
    });

    it('gives up at once on CSTS.CFS', async () => {
      peer.override = (command, connection) => {
        if (command.opcode !== 0x7f || command.fctype !== 4 || command.cdw(11) !== 0x1c) return false;
        connection.send(pdu.capsuleResp(command.cid, { dw0: 2 }));
        return true;
      };
      expect((await rejection(connect())).code).to.equal('NVMEOF_ERR_CONTROLLER_FATAL');
    });

    for (const [name, shape, words] of [
      ['IOCCSZ 3', { ioccsz: 3 }, 'IOCCSZ is 3'],
      ['another CNTLID', {}, 'CNTLID 9 differs from 1'],
    ] as const) {
      it(`refuses a controller that identifies itself with ${name}`, async () => {
        peer.shape = shape;
        const original = peer.identify.bind(peer);
        peer.identify = (cns, nsid) => {
          const bytes = original(cns, nsid);
          if (name === 'another CNTLID') bytes.writeUInt16LE(9, 78);
          return bytes;
        };
        const error = await rejection(connect());
        expect(error.code).to.equal('NVMEOF_ERR_PROTOCOL');
        expect(error.message).to.contain(words);
      });
    }

    it('leaves nothing open when an I/O queue is refused', async () => {
      peer.override = (command, connection) => {
        if (command.opcode !== 0x7f || command.fctype !== 1 || command.sqe.readUInt16LE(42) !== 2) return false;
        connection.send(pdu.capsuleResp(command.cid, { status: 0x182, dw0: 0x2a }));
        return true;
      };
      const error = await rejection(connect({ ioQueues: 3 }));
      expect(error.message).to.contain('I/O queue 2').and.to.contain('the queue identifier');
      await until(allClosed, 'all connections closed');
      expect(target.connections.length).to.equal(4);
    });

    it('ends with the reason of its signal', async () => {
      const abort = new AbortController();
      peer.override = (command) => command.opcode === 6;
      const failing = rejection(connect({ signal: abort.signal }));
      await until(() => peer.seen.includes('Admin 06'), 'Identify is sent');
      abort.abort(new Error('Enough'));
      expect((await failing).message).to.equal('Enough');
      await until(allClosed, 'all connections closed');
    });

    it('reports the loss, not the command that failed for it', async () => {
      peer.override = (command, connection) => {
        if (command.opcode !== 6) return false;
        connection.send(pdu.c2hTermReq(1, 2));
        return true;
      };
      expect((await rejection(connect())).code).to.equal('NVMEOF_ERR_PEER_TERMINATED');
    });

    it('checks its options, naming the one at fault', async () => {
      const error = await rejection(connect({ queueSize: 1 }));
      expect(error.message).to.equal('Option queueSize is 1, allowed are integers from 2 to 32768');
      expect((await rejection(connect({ subnqn: 'x' }))).code).to.equal('NVMEOF_ERR_CONFIG');
      expect((await rejection(connect({ hostid: '1234' }))).message).to.contain('UUID');
    });
  });

  describe('namespace', () => {
    it('reads and writes, split at MDTS, each part in its place', async () => {
      peer.shape = { mdts: 1 };
      const disk = Buffer.alloc(64 * 512);
      const lengths: number[] = [];
      peer.override = (command, connection, qid) => {
        if (qid === 0 || command.opcode === 0x7f) return false;
        const at = command.cdw(10) * 512;
        lengths.push(command.sglLength);
        if (command.opcode === 1) command.data.copy(disk, at);
        const data = disk.subarray(at, at + command.sglLength);
        if (command.opcode === 2) connection.send(pdu.c2hData(command.cid, data));
        connection.send(pdu.capsuleResp(command.cid));
        return true;
      };
      const namespace = await (await connect()).namespace(1);
      expect([namespace.blockSize, namespace.blockCount, namespace.maxTransferBlocks]).to.deep.equal([
        512,
        1 << 20,
        16,
      ]);
      const data = pattern(40 * 512);
      await namespace.write(3, data);
      expect(lengths).to.deep.equal([8192, 8192, 4096]);
      expect(disk.subarray(3 * 512, 43 * 512).equals(data)).to.equal(true);
      expect(Buffer.compare(await namespace.read(3, 40), data)).to.equal(0);
    });

    it('more calls than slots all complete, in the order they were made', async () => {
      const order: number[] = [];
      peer.override = (command, _, qid) => {
        if (qid !== 0 && command.opcode === 2) order.push(command.cdw(10));
        return false;
      };
      const namespace = await (await connect({ queueSize: 4 })).namespace(1);
      await Promise.all(Array.from({ length: 50 }, (_, i) => namespace.read(i, 1)));
      expect(order).to.deep.equal(Array.from({ length: 50 }, (_, i) => i));
      expect(controller?.io.waitingCount).to.equal(0);
    });

    it('what a completion callback submits goes behind what waits', async () => {
      const order: number[] = [];
      peer.override = (command, _, qid) => {
        if (qid !== 0 && command.opcode === 2) order.push(command.cdw(10));
        return false;
      };
      await connect({ queueSize: 2 });
      const { io } = controller!;
      const buffer = new Uint8Array(512);
      let left = 4;
      const done = (): void => {
        left--;
      };
      io.submitRead(
        1,
        0,
        1,
        buffer,
        () => {
          done();
          io.submitRead(1, 9, 1, buffer, done, undefined);
        },
        undefined,
      );
      io.submitRead(1, 1, 1, buffer, done, undefined);
      io.submitRead(1, 2, 1, buffer, done, undefined);
      await until(() => left === 0, 'all complete');
      expect(order).to.deep.equal([0, 1, 2, 9]);
    });

    it('uses all queue pairs', async () => {
      const namespace = await (await connect({ ioQueues: 3 })).namespace(1);
      await Promise.all(Array.from({ length: 9 }, (_, i) => namespace.read(i, 1)));
      expect(controller?.association?.ioQueuePairs.map((queuePair) => queuePair.completedCount)).to.deep.equal([
        4, 4, 4,
      ]);
    });

    it('flush, write zeroes and deallocate in their forms', async () => {
      const seen: string[] = [];
      peer.override = (command, _, qid) => {
        if (qid !== 0 && command.opcode !== 0x7f) {
          const words = [10, 11, 12].map((n) => command.cdw(n).toString(16)).join(' ');
          seen.push(`${command.opcode} ${command.nsid} ${words} ${command.data.toString('hex')}`);
        }
        return false;
      };
      const namespace = await (await connect()).namespace(1);
      await namespace.flush();
      await namespace.writeZeroes(10, 65537, { deallocate: true });
      await namespace.deallocate(0x1_0000_0002, 5);
      expect(seen).to.deep.equal([
        '0 1 0 0 0 ',
        '8 1 a 0 200ffff ',
        '8 1 1000a 0 2000000 ',
        `9 1 0 4 0 ${'00000000'}05000000${'0200000001000000'}`,
      ]);
    });

    it('a failed part fails the call, naming command, place and status', async () => {
      peer.override = (command, connection, qid) => {
        if (qid === 0 || command.opcode !== 2) return false;
        connection.send(pdu.capsuleResp(command.cid, { status: 0x4281 }));
        return true;
      };
      const namespace = await (await connect()).namespace(1);
      const error = await rejection(namespace.read(5, 2));
      expect(error.message).to.equal('Read of namespace 1, block 5 (2) failed: Unrecovered Read Error (0x4281)');
    });

    it('refuses lengths that are no whole blocks', async () => {
      const namespace = await (await connect()).namespace(1);
      expect((await rejection(namespace.write(0, new Uint8Array(100)))).code).to.equal('NVMEOF_ERR_ARGUMENT');
      expect((await rejection(namespace.read(-1, 1))).code).to.equal('NVMEOF_ERR_ARGUMENT');
    });

    it('says that a namespace is not active', async () => {
      expect((await rejection((await connect()).namespace(2))).code).to.equal('NVMEOF_ERR_NO_NAMESPACE');
    });

    it('lists active namespaces over more than one list', async () => {
      peer.identify = (cns, nsid) => {
        const bytes = Buffer.alloc(4096);
        if (cns === 1) return ScriptedController.prototype.identify.call(peer, cns, nsid);
        const count = nsid === 0 ? 1024 : 3;
        for (let i = 0; i < count; i++) bytes.writeUInt32LE(nsid + 2 * (i + 1), i * 4);
        return bytes;
      };
      const all = await (await connect()).activeNamespaces();
      expect([all.length, all[0], all[1023], all[1024], all[1026]]).to.deep.equal([1027, 2, 2048, 2050, 2054]);
    });

    it('a signal that is given already stops the call before anything is sent', async () => {
      const namespace = await (await connect()).namespace(1);
      const before = peer.seen.length;
      const error = await rejection(namespace.read(0, 1, { signal: AbortSignal.abort(new Error('No')) }));
      expect(error.message).to.equal('No');
      await settle();
      expect(peer.seen.length).to.equal(before);
    });

    it('a signal aborts what is in flight, drops what waits, and rejects only when the buffer is free', async () => {
      const namespace = await (await connect({ queueSize: 2 })).namespace(1);
      const held = holdIo();
      const abort = new AbortController();
      const first = rejection(namespace.read(0, 1, { signal: abort.signal }));
      const second = rejection(namespace.read(1, 1, { signal: abort.signal }));
      await until(() => held.length === 1, 'the first read is sent');
      let rejected = false;
      void first.then(() => {
        rejected = true;
      });
      const aborts: number[] = [];
      const hold = peer.override;
      peer.override = (command, connection, qid) => {
        if (qid === 0 && command.opcode === 8) aborts.push(command.cdw(10));
        return hold?.(command, connection, qid) === true;
      };
      abort.abort(new Error('Stop'));
      expect((await second).message).to.equal('Stop');
      await until(() => aborts.length === 1, 'Abort is sent');
      const { command, connection } = held[0]!;
      expect(aborts[0]).to.equal((1 | (command.cid << 16)) >>> 0);
      await settle(10);
      expect(rejected).to.equal(false);
      connection.send(pdu.capsuleResp(command.cid, { status: 7 }));
      expect((await first).message).to.equal('Stop');
      expect(controller?.state).to.equal('live');
    });
  });

  describe('passthrough', () => {
    it('returns status and both result dwords of an Admin command', async () => {
      await connect();
      peer.override = (command, connection) => {
        if (command.opcode !== 0xc2) return false;
        expect([command.nsid, command.cdw(2), command.cdw(3), command.cdw(15)]).to.deep.equal([7, 2, 3, 15]);
        connection.send(
          pdu.c2hData(command.cid, pattern(8)),
          pdu.capsuleResp(command.cid, { dw0: 0xfffffffe, dw1: 5 }),
        );
        return true;
      };
      const result = await controller!.adminPassthru({
        opcode: 0xc2,
        nsid: 7,
        cdw2: 2,
        cdw3: 3,
        cdw15: 15,
        readBytes: 16,
      });
      expect([result.status, result.result, result.resultHigh]).to.deep.equal([0, 0xfffffffe, 5]);
      expect(Buffer.compare(result.data, pattern(8))).to.equal(0);
    });

    it('sends data with an Admin command in the capsule up to 8192 bytes', async () => {
      await connect();
      const seen: HostPdu[] = [];
      peer.override = (command) => {
        seen.push(command);
        return false;
      };
      await controller!.adminPassthru({ opcode: 0xc1, data: pattern(8192) });
      expect([seen[0]?.sglId, seen[0]?.data.equals(pattern(8192))]).to.deep.equal([1, true]);
    });

    it('more Admin commands than slots all complete', async () => {
      await connect();
      const results = await Promise.all(Array.from({ length: 100 }, () => controller!.adminPassthru({ opcode: 0xc0 })));
      expect(results.every(({ status }) => status === 0)).to.equal(true);
    });

    it('fails at once when the connection is lost, and is not sent again', async () => {
      await connect();
      peer.override = (command) => command.opcode === 0xc0 || command.opcode === 0xd0;
      const admin = rejection(controller!.adminPassthru({ opcode: 0xc0 }));
      const io = rejection(controller!.ioPassthru({ opcode: 0xd0, nsid: 1 }));
      await until(() => peer.seen.includes('Admin c0') && peer.seen.includes('Io d0'), 'both are sent');
      peer.queue(1)[0]!.destroy();
      expect((await admin).code).to.equal('NVMEOF_ERR_PATH');
      expect((await io).code).to.equal('NVMEOF_ERR_OUTCOME_UNKNOWN');
      expect((await rejection(controller!.adminPassthru({ opcode: 0xc0 }))).code).to.equal('NVMEOF_ERR_PATH');
      expect((await rejection(controller!.ioPassthru({ opcode: 0xd0 }))).code).to.equal('NVMEOF_ERR_PATH');
    });

    it('cuts long log pages and keeps the event until the last piece', async () => {
      await connect();
      const seen: number[][] = [];
      peer.override = (command) => {
        if (command.opcode === 2) seen.push([command.cdw(10), command.cdw(11), command.cdw(12), command.sglLength]);
        return false;
      };
      const page = await controller!.getLogPage({ lid: 0x70, bytes: 9216, offset: 1024 });
      expect(page.length).to.equal(9216);
      expect(seen.map((words) => words.map((word) => word.toString(16)))).to.deep.equal([
        ['3ff8070', '0', '400', '1000'],
        ['3ff8070', '0', '1400', '1000'],
        ['ff0070', '0', '2400', '400'],
      ]);
    });
  });

  describe('time-outs', () => {
    it('aborts a command that takes too long; if the Abort ends it, nothing else happens', async () => {
      const namespace = await (await connect({ ioTimeoutMs: 8000, ioQueues: 2 })).namespace(1);
      const held = holdIo();
      const hold = peer.override!;
      const aborts: number[] = [];
      peer.override = (command, connection, qid) => {
        if (qid !== 0 || command.opcode !== 8) return hold(command, connection, qid);
        aborts.push(command.cdw(10));
        const { command: victim, connection: io } = held[0]!;
        io.send(pdu.capsuleResp(victim.cid, { status: 7 }));
        connection.send(pdu.capsuleResp(command.cid));
        return true;
      };
      const failing = rejection(namespace.read(0, 1));
      await until(() => held.length === 1, 'the read is sent');
      await advance(clock, 7000, 500);
      expect(aborts).to.deep.equal([]);
      await advance(clock, 2000, 500);
      const qid = peer.qids.get(held[0]!.connection)!;
      expect(aborts).to.deep.equal([(qid | (held[0]!.command.cid << 16)) >>> 0]);
      expect((await failing).message).to.contain('Command Abort Requested');
      await advance(clock, 20_000, 1000);
      expect([controller?.state, controller?.reconnectCount]).to.deep.equal(['live', 0]);
    });

    it('resets the controller if the Abort does not help, and sends the command again', async () => {
      const namespace = await (await connect({ ioTimeoutMs: 8000, abortTimeoutMs: 2000 })).namespace(1);
      const states: HostControllerState[] = [];
      controller!.on('state', (state) => states.push(state));
      const held = holdIo();
      const reading = namespace.read(4, 1);
      await until(() => held.length === 1, 'the read is sent');
      await advance(clock, 9000, 500);
      await until(() => peer.seen.includes('Admin 08'), 'Abort is sent');
      expect(controller?.state).to.equal('live');
      peer.override = undefined;
      await advance(clock, 2000, 500);
      await advance(clock, 10_000, 500);
      expect(Buffer.compare(await reading, new Uint8Array(512))).to.equal(0);
      expect(states).to.deep.equal(['resetting', 'connecting', 'live']);
      expect([controller?.reconnectCount, controller?.io.replayedCount]).to.deep.equal([1, 1]);
    });

    it('a command in the slot of an aborted one is not mistaken for it', async () => {
      const namespace = await (await connect({ ioTimeoutMs: 8000, abortTimeoutMs: 6000, queueSize: 2 })).namespace(1);
      const held = holdIo();
      const first = rejection(namespace.read(0, 1));
      await until(() => held.length === 1, 'the read is sent');
      await advance(clock, 9000, 500);
      await until(() => peer.seen.includes('Admin 08'), 'Abort is sent');
      held[0]!.connection.send(pdu.capsuleResp(held[0]!.command.cid, { status: 7 }));
      await first;
      const second = namespace.read(1, 1);
      await until(() => held.length === 2, 'the second read is sent');
      await advance(clock, 6500, 500);
      expect([controller?.state, controller?.reconnectCount]).to.deep.equal(['live', 0]);
      // and it has a time-out of its own
      await advance(clock, 3000, 500);
      expect(peer.seen.filter((name) => name === 'Admin 08').length).to.equal(2);
      const { command, connection } = held[1]!;
      connection.send(pdu.c2hData(command.cid, new Uint8Array(512)), pdu.capsuleResp(command.cid));
      await second;
    });

    it('resets the controller when an Admin command is not answered', async () => {
      await connect({ adminTimeoutMs: 4000 });
      let lost = '';
      controller!.on('lost', (error) => {
        lost = error.code;
      });
      peer.override = (command) => command.opcode === 0xc0;
      const failing = rejection(controller!.adminPassthru({ opcode: 0xc0 }));
      await until(() => peer.seen.includes('Admin c0'), 'it is sent');
      await advance(clock, 6000, 500);
      expect((await failing).code).to.equal('NVMEOF_ERR_PATH');
      expect(lost).to.equal('NVMEOF_ERR_TIMEOUT');
    });

    it('outstanding AERs never time out', async () => {
      peer.shape = { oaes: 0x100 };
      await connect({ adminTimeoutMs: 4000 });
      await advance(clock, 60_000, 2000);
      expect([controller?.state, controller?.reconnectCount]).to.deep.equal(['live', 0]);
    });

    it('a connect that hangs is ended by the Admin time-out', async () => {
      peer.override = (command) => command.opcode === 6;
      const failing = rejection(connect({ adminTimeoutMs: 4000 }));
      await until(() => peer.seen.includes('Admin 06'), 'Identify is sent');
      await advance(clock, 6000, 500);
      expect((await failing).code).to.equal('NVMEOF_ERR_TIMEOUT');
      await until(allClosed, 'all connections closed');
    });
  });

  describe('keep alive', () => {
    const keepAlives = (): number => peer.seen.filter((name) => name === 'Admin 18').length;

    it('is sent every KATO/2 when command based, whatever the traffic', async () => {
      const namespace = await (await connect({ katoMs: 4000 })).namespace(1);
      for (let i = 0; i < 10; i++) {
        await namespace.read(0, 1);
        await advance(clock, 1000, 500);
      }
      expect(keepAlives()).to.equal(5);
    });

    it('is left out while traffic completes when the controller counts traffic', async () => {
      peer.shape = { ctratt: 0x40 };
      const namespace = await (await connect({ katoMs: 4000 })).namespace(1);
      for (let i = 0; i < 10; i++) {
        await namespace.read(0, 1);
        await advance(clock, 1000, 500);
      }
      expect(keepAlives()).to.equal(0);
      // one period without traffic sends one; its own completion counts as traffic in the next
      await advance(clock, 8000, 500);
      expect(keepAlives()).to.equal(4);
    });

    it('unanswered for KATO it means the controller is lost', async () => {
      await connect({ katoMs: 4000 });
      let lost = '';
      controller!.on('lost', (error) => {
        lost = error.message;
      });
      peer.override = (command) => command.opcode === 0x18;
      await advance(clock, 5500, 500);
      expect(lost).to.equal('');
      await advance(clock, 1000, 500);
      expect(lost).to.contain('did not answer Keep Alive within 4000 ms');
    });

    it('is not sent with KATO 0', async () => {
      await connect({ katoMs: 0 });
      await advance(clock, 60_000, 1000);
      expect(keepAlives()).to.equal(0);
    });
  });

  describe('loss and reconnection', () => {
    it('sends reads, writes, flushes, write zeroes and deallocates again, with the same data', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000 })).namespace(1);
      clock.advance(5000);
      const held = holdIo();
      const data = pattern(4096);
      const calls = Promise.all([
        namespace.read(7, 1),
        namespace.write(8, data),
        namespace.flush(),
        namespace.writeZeroes(9, 1),
        namespace.deallocate(10, 1),
      ]);
      await until(() => held.length === 5, 'all are sent');
      const again: HostPdu[] = [];
      peer.override = (command, _, qid) => {
        if (qid !== 0 && command.opcode !== 0x7f) again.push(command);
        return false;
      };
      peer.queue(1)[0]!.destroy();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      await advance(clock, 1100, 10);
      await calls;
      // what changes nothing at once, the rest when the first copies cannot be executed any more
      const order = [0, 2, 1, 3, 4].map((i) => held[i]!.command);
      expect(again.map(({ opcode }) => opcode)).to.deep.equal(order.map(({ opcode }) => opcode));
      expect(again.map(({ sqe }) => sqe.subarray(4).toString('hex'))).to.deep.equal(
        order.map(({ sqe }) => sqe.subarray(4).toString('hex')),
      );
      expect(again[2]!.data.equals(data)).to.equal(true);
      await settle(20);
      // nothing of the old association is left
      expect(target.connections.filter((connection) => !connection.ended).length).to.equal(2);
    });

    /** A read and a write are out, the association ends as `lose` says, and I/O is answered from then on. @returns opcodes that come then */
    async function loseUnderIo(extra: Partial<HostOptions>, lose: () => void): Promise<[number[], Promise<unknown>]> {
      const namespace = await (await connect({ reconnectDelayMs: 1000, ...extra })).namespace(1);
      clock.advance(5000);
      const held = holdIo();
      const calls = Promise.all([namespace.read(0, 1), namespace.write(0, pattern(512))]);
      await until(() => held.length === 2, 'both are sent');
      const again: number[] = [];
      peer.override = (command, _, qid) => {
        if (qid !== 0 && command.opcode !== 0x7f) again.push(command.opcode);
        return false;
      };
      lose();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      return [again, calls];
    }
    const cut = (): void => peer.queue(1)[0]!.destroy();

    it('a write waits for the end of its first copy: CQT, if the controller ended the connection', async () => {
      peer.shape = { cqt: 3000 };
      const [again, calls] = await loseUnderIo({}, cut);
      await advance(clock, 2990, 10);
      expect([controller?.state, again, controller?.io.waitingCount]).to.deep.equal(['live', [2], 1]);
      await advance(clock, 20, 10);
      await calls;
      expect(again).to.deep.equal([2, 1]);
      expect(controller?.io.replayedCount).to.equal(2);
    });

    it('keep alive time-out and CQT, if the controller may not know: twice the time-out where it counts traffic', async () => {
      for (const [ctratt, afterMs] of [
        [0, 5000],
        [0x40, 9000],
      ] as const) {
        peer.shape = { cqt: 1000, ctratt };
        const [again, calls] = await loseUnderIo({ katoMs: 4000 }, () => controller!.reset());
        await advance(clock, afterMs - 10, 10);
        expect(again, `CTRATT ${ctratt}`).to.deep.equal([2]);
        await advance(clock, 20, 10);
        await calls;
        expect(again).to.deep.equal([2, 1]);
        await controller!.close();
      }
    });

    it('a write that never reached the socket does not wait', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000 })).namespace(1);
      clock.advance(5000);
      const writing = namespace.write(0, pattern(512));
      controller!.reset(); // in the same turn: nothing was sent yet
      await advance(clock, 500, 50);
      await writing;
      expect(controller?.io.replayedCount).to.equal(1);
    });

    it('at once with quiesceMs 0', async () => {
      const [again, calls] = await loseUnderIo({ quiesceMs: 0 }, cut);
      await advance(clock, 20, 10);
      await calls;
      expect(again).to.deep.equal([2, 1]);
    });

    it('a write that waits longer for the connection than for the end of its first copy goes out with it', async () => {
      const [again, calls] = await loseUnderIo({ reconnectDelayMs: 4000 }, cut);
      const count = peer.override!;
      peer.override = (command, connection, qid) => {
        if (clock.nowMs() >= 7000) return count(command, connection, qid);
        connection.destroy();
        return true;
      };
      await advance(clock, 3900, 100);
      expect([controller?.state, again, controller?.io.waitingCount]).to.deep.equal(['connecting', [], 2]);
      await advance(clock, 3000, 100);
      await calls;
      expect([...again].sort()).to.deep.equal([1, 2]);
    });

    it('a write that is given up meanwhile may have been executed, a read or what was never sent may not', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 10_000, fastIoFailTimeoutMs: 500 })).namespace(1);
      const held = holdIo();
      const sent = rejection(namespace.write(0, pattern(512)));
      const read = rejection(namespace.read(0, 1));
      await until(() => held.length === 2, 'both are sent');
      cut();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      const unsent = rejection(namespace.write(8, pattern(512)));
      await advance(clock, 600, 100);
      expect((await sent).code).to.equal('NVMEOF_ERR_OUTCOME_UNKNOWN');
      expect((await read).code).to.equal('NVMEOF_ERR_PATH');
      expect((await unsent).code).to.equal('NVMEOF_ERR_PATH');
    });

    it('a cancelled write ends when its first copy can no longer be executed, without being repeated', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000 })).namespace(1);
      clock.advance(5000);
      const held = holdIo();
      const abort = new AbortController();
      let ended = false;
      const writing = rejection(namespace.write(0, pattern(512), { signal: abort.signal })).then((error) => {
        ended = true;
        return error;
      });
      await until(() => held.length === 1, 'it is sent');
      cut();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      abort.abort(new Error('enough'));
      await advance(clock, 900, 100);
      expect([controller?.state, ended]).to.deep.equal(['live', false]);
      await advance(clock, 200, 100);
      expect((await writing).message).to.equal('enough');
      expect(held.length).to.equal(1);
    });

    it('the loss of the admin connection ends the I/O connections too, and the other way round', async () => {
      for (const qid of [0, 1]) {
        await connect({ ioQueues: 2 });
        const all = target.connections.slice(-3);
        peer.queue(qid).at(-1)!.destroy();
        await until(() => all.every((connection) => connection.ended), 'all three are closed');
        await controller!.close();
      }
    });

    it('tries at once, then every reconnectDelay, and reports each failure', async () => {
      await connect({ reconnectDelayMs: 2000, ctrlLossTimeoutMs: 60_000 });
      const states: HostControllerState[] = [];
      const attempts: [number, number][] = [];
      controller!.on('state', (state) => states.push(state));
      controller!.on('reconnectFailed', (_, attempt) => attempts.push([attempt, clock.nowMs()]));
      await advance(clock, 10_000, 1000);
      peer.override = (_, connection) => {
        connection.destroy();
        return true;
      };
      peer.queue(0)[0]!.destroy();
      await until(() => states.length === 2, 'the loss is noticed');
      await advance(clock, 1, 1);
      await until(() => attempts.length === 1, 'first attempt');
      await advance(clock, 1999, 1999);
      expect(attempts.length).to.equal(1);
      await advance(clock, 1, 1);
      await until(() => attempts.length === 2, 'second attempt');
      peer.override = undefined;
      await advance(clock, 2000, 2000);
      await until(() => controller?.state === 'live', 'live again');
      expect(attempts).to.deep.equal([
        [1, 10_001],
        [2, 12_001],
      ]);
      expect(states).to.deep.equal(['resetting', 'connecting', 'live']);
    });

    it('does not hurry when the connection does not hold', async () => {
      await connect({ reconnectDelayMs: 2000 });
      await advance(clock, 500);
      peer.queue(0)[0]!.destroy();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      await advance(clock, 1900, 100);
      expect(target.connections.length).to.equal(2);
      await advance(clock, 200, 100);
      await until(() => controller?.state === 'live', 'live again');
    });

    it('fastIoFail: what waits fails, what comes fails at once, until the controller is back', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 10_000, fastIoFailTimeoutMs: 3000 })).namespace(1);
      holdIo();
      const inFlight = rejection(namespace.read(0, 1));
      await until(() => peer.seen.includes('Io 02'), 'the read is sent');
      peer.queue(1)[0]!.destroy();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      const waiting = rejection(namespace.write(0, new Uint8Array(512)));
      await advance(clock, 2900, 100);
      expect(controller?.io.waitingCount).to.equal(2);
      await advance(clock, 200, 100);
      for (const error of [await inFlight, await waiting, await rejection(namespace.read(0, 1))]) {
        expect(error.code).to.equal('NVMEOF_ERR_PATH');
        expect(error.name).to.equal('TransportError');
      }
      peer.override = undefined;
      await advance(clock, 7000, 500);
      await until(() => controller?.state === 'live', 'live again');
      expect((await namespace.read(0, 1)).length).to.equal(512);
    });

    for (const backAfterMs of [1000, 5000]) {
      it(`fastIoFail of 3 s has no effect once the controller is back, after ${backAfterMs} ms`, async () => {
        const times = { reconnectDelayMs: backAfterMs, fastIoFailTimeoutMs: 3000, queueSize: 2 };
        const namespace = await (await connect(times)).namespace(1);
        peer.queue(1)[0]!.destroy();
        await until(() => controller?.state === 'connecting', 'the loss is noticed');
        await advance(clock, backAfterMs + 100, 100);
        await until(() => controller?.state === 'live', 'live again');
        await advance(clock, 3000, 100);
        const reads = await Promise.all(Array.from({ length: 10 }, (_, i) => namespace.read(i, 1)));
        expect(reads.length).to.equal(10);
      });
    }

    it('ctrlLoss: gives up, fails what waits, and is dead', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000, ctrlLossTimeoutMs: 5000 })).namespace(1);
      const states: HostControllerState[] = [];
      controller!.on('state', (state) => states.push(state));
      peer.override = (_, connection) => {
        connection.destroy();
        return true;
      };
      peer.queue(0)[0]!.destroy();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      const waiting = rejection(namespace.read(0, 1));
      await advance(clock, 5100, 100);
      expect((await waiting).code).to.equal('NVMEOF_ERR_PATH');
      expect(states).to.deep.equal(['resetting', 'connecting', 'deleting', 'dead']);
      const connections = target.connections.length;
      await advance(clock, 20_000, 1000);
      expect(target.connections.length).to.equal(connections);
      expect((await rejection(namespace.read(0, 1))).code).to.equal('NVMEOF_ERR_PATH');
    });

    for (const stopOnDnr of [false, true]) {
      it(`a Connect refused with DNR ${stopOnDnr ? 'ends the attempts with' : 'is tried again without'} stopOnDnr`, async () => {
        await connect({ reconnectDelayMs: 1000, stopOnDnr });
        peer.override = (command, connection) => {
          connection.send(pdu.capsuleResp(command.cid, { status: 0x4182, dw0: 0x10100 }));
          return true;
        };
        const failures: string[] = [];
        controller!.on('reconnectFailed', (error) => failures.push(error.message));
        peer.queue(0)[0]!.destroy();
        await until(() => controller?.state === 'connecting', 'the loss is noticed');
        await advance(clock, 1000, 500);
        await until(() => failures.length === 1, 'it is refused');
        expect(failures[0]).to.contain('no such subsystem?');
        peer.override = undefined;
        await advance(clock, 1100, 100);
        await until(() => controller?.state === (stopOnDnr ? 'dead' : 'live'), 'the outcome');
      });
    }

    it('reset() makes the association again', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000 })).namespace(1);
      controller!.reset();
      await advance(clock, 1100, 100);
      await until(() => controller?.state === 'live', 'live again');
      await namespace.read(0, 1);
      expect(controller?.reconnectCount).to.equal(1);
    });

    it('a namespace that grew while away has its new size afterwards', async () => {
      const namespace = await (await connect({ reconnectDelayMs: 1000 })).namespace(1);
      peer.shape = { nsze: 2 << 20 };
      controller!.reset();
      await advance(clock, 1100, 100);
      await until(() => namespace.blockCount === 2 << 20, 'the new size');
    });
  });

  describe('close', () => {
    it('closes the I/O queues, shuts the controller down, waits for it, closes', async () => {
      await connect({ ioQueues: 2 });
      let ioOpenAtShutdown = -1;
      peer.override = (command) => {
        if (command.opcode === 0x7f && command.fctype === 0) {
          ioOpenAtShutdown = [1, 2].filter((qid) => !peer.queue(qid)[0]!.ended).length;
        }
        return false;
      };
      peer.seen.length = 0;
      const states: HostControllerState[] = [];
      controller!.on('state', (state) => states.push(state));
      await Promise.all([controller!.close(), controller!.close()]);
      expect(peer.seen).to.deep.equal(['PropertyGet 14', 'PropertySet 14', 'PropertyGet 1c']);
      expect([peer.cc, ioOpenAtShutdown]).to.deep.equal([0x464001, 0]);
      expect(states).to.deep.equal(['deleting', 'dead']);
      await until(allClosed, 'all connections closed');
    });

    it('fails what is in flight and what comes later', async () => {
      const namespace = await (await connect({ queueSize: 2 })).namespace(1);
      const held = holdIo();
      const inFlight = rejection(namespace.read(0, 1));
      const waiting = rejection(namespace.read(1, 1));
      await until(() => held.length === 1, 'the read is sent');
      await controller!.close();
      expect((await inFlight).code).to.equal('NVMEOF_ERR_CLOSED');
      expect((await waiting).code).to.equal('NVMEOF_ERR_CLOSED');
      expect((await rejection(namespace.read(0, 1))).code).to.equal('NVMEOF_ERR_PATH');
      expect((await rejection(controller!.adminPassthru({ opcode: 0xc0 }))).code).to.equal('NVMEOF_ERR_PATH');
    });

    it('does not wait for ever for a controller that does not answer', async () => {
      await connect();
      peer.override = () => true;
      const closing = controller!.close();
      let closed = false;
      void closing.then(() => {
        closed = true;
      });
      for (let i = 0; i < 200 && !closed; i++) await advance(clock, 500, 500);
      expect(closed).to.equal(true);
      await until(allClosed, 'all connections closed');
    });

    it('ends a reconnection in progress', async () => {
      await connect({ reconnectDelayMs: 1000 });
      peer.override = (command) => command.opcode === 6;
      peer.queue(0)[0]!.destroy();
      await until(() => controller?.state === 'connecting', 'the loss is noticed');
      peer.seen.length = 0;
      await advance(clock, 1100, 100);
      await until(() => peer.seen.includes('Admin 06'), 'it connects again');
      await controller!.close();
      await until(allClosed, 'all connections closed');
      expect(controller?.state).to.equal('dead');
    });

    it('works with await using', async () => {
      {
        await using own = await HostController.connect(options());
        expect(own.state).to.equal('live');
        controller = own;
      }
      await until(allClosed, 'all connections closed');
      expect(controller.state).to.equal('dead');
    });
  });

  describe('events', () => {
    it('delivers asynchronous events and asks again', async () => {
      peer.shape = { oaes: 0x900 };
      await connect();
      await until(() => peer.aers.length === 4, 'four AERs');
      const iterator = controller!.events();
      const first = iterator.next();
      peer.event(0x000c0302, 0xdeadbeef);
      expect(await first).to.deep.equal({
        done: false,
        value: { type: 2, info: 3, lid: 0x0c, parameter: 0xdeadbeef },
      });
      await until(() => peer.aers.length === 4, 'four AERs again');
      const end = iterator.next();
      await controller!.close();
      expect((await end).done).to.equal(true);
      expect(controller!.listenerCount('asyncEvent')).to.equal(0);
    });

    it('asks for no more AERs than AERL + 1', async () => {
      peer.shape = { oaes: 0x100, aerl: 0 };
      await connect();
      await settle(10);
      expect(peer.aers.length).to.equal(1);
    });

    it('on a namespace change it reads the list, which clears the event, and refreshes what it knows', async () => {
      peer.shape = { oaes: 0x100 };
      const namespace = await (await connect()).namespace(1);
      let log: number[] = [];
      peer.override = (command, connection) => {
        if (command.opcode !== 2) return false;
        log = [command.cdw(10), command.nsid];
        const list = Buffer.alloc(4096);
        list.writeUInt32LE(1, 0);
        list.writeUInt32LE(9, 4);
        connection.send(pdu.c2hData(command.cid, list), pdu.capsuleResp(command.cid));
        return true;
      };
      peer.shape = { ...peer.shape, nsze: 4096 };
      const changed = new Promise<readonly number[] | undefined>((resolve) => {
        controller!.on('namespacesChanged', resolve);
      });
      peer.event(0x00040002);
      expect(await changed).to.deep.equal([1, 9]);
      expect(log).to.deep.equal([0x03ff0004, 0xffffffff]);
      expect(namespace.blockCount).to.equal(4096);
    });

    it('a namespace that went is no longer active', async () => {
      peer.shape = { oaes: 0x100 };
      const namespace = await (await connect()).namespace(1);
      peer.shape = { ...peer.shape, nsze: 0 };
      peer.override = (command, connection) => {
        if (command.opcode !== 2) return false;
        connection.send(pdu.capsuleResp(command.cid, { status: 0x4002 }));
        return true;
      };
      peer.event(0x00040002);
      await until(() => !namespace.active, 'it is gone');
    });

    for (const [name, dw0, failFast, lids] of [
      ['an ANA change on a controller of its own', 0x000c_0302, false, [0x0c]],
      ['an ANA change where another follows it', 0x000c_0302, true, []],
      ['a firmware activation', 0x0003_0102, false, [0x03]],
      ['the end of a Sanitize', 0x0081_0106, false, [0x81]],
      ['a temperature, which only the user can have asked for', 0x0002_0101, false, []],
    ] as const) {
      it(`${name}: ${lids.length > 0 ? 'its log page is read, or no other event of the type would come' : 'left alone'}`, async () => {
        peer.shape = { oaes: 0xb00 };
        await connect({ failFast });
        const read: number[] = [];
        peer.override = (command, _, qid) => {
          if (qid === 0 && command.opcode === 0x02) read.push(command.cdw(10) & 0xff, command.cdw(10) & 0x8000);
          return false;
        };
        await until(() => peer.aers.length > 0, 'an AER');
        expect(peer.event(dw0)).to.equal(true);
        await settle(10);
        expect(read).to.deep.equal(lids.flatMap((lid) => [lid, 0]));
      });
    }

    it('events end with their signal', async () => {
      await connect();
      const abort = new AbortController();
      const end = controller!.events({ signal: abort.signal }).next();
      abort.abort();
      expect((await end).done).to.equal(true);
    });
  });
});

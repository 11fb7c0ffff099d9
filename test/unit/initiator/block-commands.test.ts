/** Compare, Compare and Write, Verify, Write Uncorrectable, Copy, Get LBA Status of the host, against our target and against a scripted one. */
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { HostController } from '../../../src/initiator/controller.ts';
import type { HostNamespace } from '../../../src/initiator/namespace.ts';
import type { HostOptions } from '../../../src/initiator/options.ts';
import { type HostPdu, pdu, ScriptedController, ScriptedTarget } from '../../support/scripted-target.ts';
import { CopyBackend, MemoryStateStore, SUBSYSTEM_NQN, TestTarget } from '../../support/test-target.ts';
import { pattern, rejection, until } from './support.ts';

const COMPARE_FAILURE = 0x285;
const UNRECOVERED = 0x281;
const code = (error: { status?: number }): number => (error.status ?? 0) & 0x7ff;

describe('initiator: block commands on our target', () => {
  let t: TestTarget;
  let controller: HostController;
  let namespace: HostNamespace;
  const BLOCKS = 131072;

  beforeEach(async () => {
    const backend = new MemoryBackend({ blockSize: 512, blockCount: BLOCKS });
    t = await TestTarget.start({ backend, state: new MemoryStateStore() });
    t.target.addNamespace(t.subsystem, { nsid: 2, backend: new CopyBackend({ blockCount: BLOCKS }) });
    controller = await connect();
    namespace = await controller.namespace(1);
  });
  afterEach(async () => {
    await controller.close();
    await t.close();
  });
  const connect = (more: Partial<HostOptions> = {}): Promise<HostController> =>
    HostController.connect({
      address: '127.0.0.1',
      port: t.port.service,
      subnqn: SUBSYSTEM_NQN,
      hostnqn: 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff',
      ioQueues: 1,
      reconnectDelayMs: 10,
      ...more,
    });

  it('compare: equal, different anywhere, over several commands', async () => {
    const data = pattern(3 << 20, 1);
    await namespace.write(5, data);
    await namespace.compare(5, data);
    data[(2 << 20) + 7]! ^= 1;
    expect(code(await rejection(namespace.compare(5, data)))).to.equal(COMPARE_FAILURE);
    expect((await rejection(namespace.compare(0, new Uint8Array(100)))).code).to.equal('NVMEOF_ERR_ARGUMENT');
  });

  it('compareAndWrite: true and written, false and untouched', async () => {
    const before = pattern(2048, 1);
    const after = pattern(2048, 2);
    await namespace.write(9, before);
    expect(await namespace.compareAndWrite(9, before, after)).to.equal(true);
    expect(Buffer.compare(await namespace.read(9, 4), after)).to.equal(0);
    expect(await namespace.compareAndWrite(9, before, pattern(2048, 3))).to.equal(false);
    expect(Buffer.compare(await namespace.read(9, 4), after)).to.equal(0);
    const large = new Uint8Array(1 << 20);
    expect(await namespace.compareAndWrite(4096, large, pattern(1 << 20, 4)), 'by R2T').to.equal(true);
  });

  it('compareAndWrite: lengths that differ, more than one command takes', async () => {
    for (const [one, other] of [
      [512, 1024],
      [2 << 20, 2 << 20],
    ] as const) {
      const error = await rejection(namespace.compareAndWrite(0, new Uint8Array(one), new Uint8Array(other)));
      expect(error.code).to.equal('NVMEOF_ERR_ARGUMENT');
    }
  });

  it('compareAndWrite: what is wrong with either half is thrown', async () => {
    const zero = new Uint8Array(512);
    expect(code(await rejection(namespace.compareAndWrite(BLOCKS, zero, zero)))).to.equal(0x80);
    await namespace.writeUncorrectable(3, 1);
    expect(code(await rejection(namespace.compareAndWrite(3, zero, zero)))).to.equal(UNRECOVERED);
    await controller.setFeature(0x84, { nsid: 1, cdw11: 1 });
    expect(code(await rejection(namespace.compareAndWrite(0, zero, zero)))).to.equal(0x20);
  });

  it('pairs stay neighbours while slots are short, among other commands: a counter loses nothing', async () => {
    const narrow = await connect({ queueSize: 3, ioQueues: 2 });
    try {
      const shared = await narrow.namespace(1);
      const block = (value: number): Uint8Array => {
        const data = new Uint8Array(512);
        new DataView(data.buffer).setUint32(0, value, true);
        return data;
      };
      const raise = async (): Promise<void> => {
        for (let done = 0; done < 10; ) {
          const value = new DataView((await shared.read(0, 1)).buffer).getUint32(0, true);
          if (await shared.compareAndWrite(0, block(value), block(value + 1))) done++;
        }
      };
      const noise = async (): Promise<void> => {
        for (let i = 0; i < 50; i++) await shared.write(100 + i, block(i));
      };
      await Promise.all([...Array.from({ length: 8 }, raise), ...Array.from({ length: 4 }, noise)]);
      expect(new DataView((await namespace.read(0, 1)).buffer).getUint32(0, true)).to.equal(80);
    } finally {
      await narrow.close();
    }
  });

  it('compareAndWrite on a queue of one command: says so at once', async () => {
    const tiny = await connect({ queueSize: 2 });
    try {
      const zero = new Uint8Array(512);
      const error = await rejection((await tiny.namespace(1)).compareAndWrite(0, zero, zero));
      expect([error.code, error.message]).to.deep.equal([
        'NVMEOF_ERR_ARGUMENT',
        'Compare and Write of namespace 1, block 0 (1) takes two queue entries; give a queue size of at least 3',
      ]);
    } finally {
      await tiny.close();
    }
  });

  it('writeUncorrectable, verify, getLbaStatus', async () => {
    await namespace.verify(0, BLOCKS);
    await namespace.writeUncorrectable(10, 70_000);
    expect(code(await rejection(namespace.read(500, 1)))).to.equal(UNRECOVERED);
    expect(code(await rejection(namespace.verify(0, BLOCKS)))).to.equal(UNRECOVERED);
    await namespace.write(20, pattern(1024));
    expect(await namespace.getLbaStatus()).to.deep.equal({
      completion: 2,
      ranges: [
        { slba: 10, blockCount: 10, status: 3 },
        { slba: 22, blockCount: 69_988, status: 3 },
      ],
    });
    expect((await namespace.getLbaStatus({ rangesMax: 1 })).completion).to.equal(1);
    expect((await namespace.getLbaStatus({ slba: 15, blockCount: 2 })).ranges).to.deep.equal([
      { slba: 15, blockCount: 2, status: 3 },
    ]);
    expect((await rejection(namespace.getLbaStatus({ blockCount: 65536 }))).code).to.equal('NVMEOF_ERR_ARGUMENT');
  });

  it('zeroNamespace', async () => {
    await namespace.write(77, pattern(4096));
    await namespace.zeroNamespace();
    expect((await namespace.read(77, 8)).every((byte) => byte === 0)).to.equal(true);
  });

  it('copy: ranges longer than MSSRL, more than MCL in all, in order', async () => {
    const data = pattern(20 << 20, 3);
    await namespace.write(0, data);
    await namespace.copy(70_000, [
      { slba: 0, blockCount: 40_000 },
      { slba: 7, blockCount: 3 },
    ]);
    expect(Buffer.compare(await namespace.read(70_000, 40_000), data.subarray(0, 40_000 * 512))).to.equal(0);
    expect(Buffer.compare(await namespace.read(110_000, 3), data.subarray(7 * 512, 10 * 512))).to.equal(0);
  });

  it('copy between namespaces enables format 2, and again after a reconnection', async () => {
    const other = await controller.namespace(2);
    const data = pattern(8192, 4);
    await namespace.write(0, data);
    await other.copy(50, [{ nsid: 1, slba: 0, blockCount: 16 }]);
    expect(Buffer.compare(await other.read(50, 16), data)).to.equal(0);
    const live = (): boolean => controller.state === 'live' && controller.reconnectCount === 1;
    controller.reset();
    await until(live, 'reconnected');
    await other.copy(100, [{ nsid: 1, slba: 0, blockCount: 16 }]);
    expect(Buffer.compare(await other.read(100, 16), data)).to.equal(0);
  });

  it('copy by each descriptor format; 3 does not take 2 away', async () => {
    const other = await controller.namespace(2);
    const data = pattern(8192, 9);
    await namespace.write(0, data);
    for (const format of [2, 3, 2] as const) {
      const at = 100 + format * 100;
      await other.copy(
        at,
        [
          { nsid: 1, slba: 8, blockCount: 8 },
          { nsid: 1, slba: 0, blockCount: 8 },
        ],
        { format },
      );
      const expected = Buffer.concat([data.subarray(4096), data.subarray(0, 4096)]);
      expect(Buffer.compare(await other.read(at, 16), expected), `format ${format}`).to.equal(0);
    }
    for (const format of [0, 1] as const) {
      await namespace.copy(100 + format * 100, [{ slba: 0, blockCount: 16 }], { format });
      expect(Buffer.compare(await namespace.read(100 + format * 100, 16), data), `format ${format}`).to.equal(0);
    }
  });

  it('copy: a source that fails is named', async () => {
    const error = await rejection(
      namespace.copy(1000, [
        { slba: 0, blockCount: 10_000 },
        { slba: BLOCKS - 1, blockCount: 2 },
      ]),
    );
    expect(code(error)).to.equal(0x80);
    expect(error.message).to.match(/^Copy to namespace 1, block 1000 from source 1 \(block 131071, 2\) failed: /);
  });

  it('copy: onto its own sources only within one command; no sources; formats', async () => {
    await namespace.copy(4, [{ slba: 0, blockCount: 8192 }]);
    const over = await rejection(namespace.copy(4, [{ slba: 0, blockCount: 40_000 }]));
    expect([over.code, /onto its own sources takes 2 commands/.test(over.message)]).to.deep.equal([
      'NVMEOF_ERR_ARGUMENT',
      true,
    ]);
    expect((await rejection(namespace.copy(4, []))).code).to.equal('NVMEOF_ERR_ARGUMENT');
    const wrong = namespace.copy(4, [{ slba: 0, blockCount: 1, nsid: 2 }], { format: 0 });
    expect((await rejection(wrong)).code).to.equal('NVMEOF_ERR_ARGUMENT');
    expect(code(await rejection(namespace.copy(4, [{ slba: 2, blockCount: 8 }], { format: 2 })))).to.equal(0x187);
  });
});

describe('initiator: fused pairs and losses', () => {
  let target: ScriptedTarget;
  let peer: ScriptedController;
  let controller: HostController;
  let held: HostPdu[];
  const zero = new Uint8Array(512);

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    peer = new ScriptedController(target);
    held = [];
    controller = await HostController.connect({
      address: '127.0.0.1',
      port: target.port,
      subnqn: 'nqn.2024-01.test:sub',
      hostnqn: 'nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff',
      ioQueues: 1,
      katoMs: 0,
      reconnectDelayMs: 10,
    });
    peer.override = (command, _connection, qid) => {
      if (qid === 0 || command.opcode === 0x7f) return false;
      held.push(command);
      return true;
    };
  });
  afterEach(async () => {
    await controller.close();
    await target.close();
  });

  it('the pair is FUSE 01b and 10b, neighbours, the same range', async () => {
    const namespace = await controller.namespace(1);
    const done = namespace.compareAndWrite(0x1_0000_0002, zero, pattern(512), { fua: true });
    await until(() => held.length === 2, 'both commands');
    const seen = held.map((command) => [
      command.opcode,
      command.sqe[1],
      command.nsid,
      command.cdw(10),
      command.cdw(11),
      command.cdw(12),
    ]);
    expect(seen).to.deep.equal([
      [5, 0x41, 1, 2, 1, 0],
      [1, 0x42, 1, 2, 1, 0x4000_0000],
    ]);
    const [connection] = peer.queue(1);
    for (const { cid } of held) connection!.send(pdu.capsuleResp(cid));
    expect(await done).to.equal(true);
  });

  it('a connection lost before the answer: not known, not sent again; a plain compare is sent again', async () => {
    const namespace = await controller.namespace(1);
    const pair = namespace.compareAndWrite(0, zero, zero);
    const plain = namespace.compare(8, zero);
    await until(() => held.length === 3, 'three commands');
    held = [];
    peer.queue(1)[0]!.destroy();
    const error = await rejection(pair);
    expect(error.code).to.equal('NVMEOF_ERR_OUTCOME_UNKNOWN');
    expect(error.message).to.match(/whether it was executed is not known$/);
    await until(() => held.length === 1, 'the compare again');
    expect([held[0]!.opcode, held[0]!.sqe[1]! & 3]).to.deep.equal([5, 0]);
    peer.queue(1).at(-1)!.send(pdu.capsuleResp(held[0]!.cid));
    await plain;
  });

  it('a comparison that failed before the loss is known', async () => {
    const namespace = await controller.namespace(1);
    const pair = namespace.compareAndWrite(0, zero, zero);
    await until(() => held.length === 2, 'both');
    const [connection] = peer.queue(1);
    connection!.send(pdu.capsuleResp(held[0]!.cid, { status: COMPARE_FAILURE }));
    await new Promise((resolve) => setImmediate(resolve));
    connection!.send(pdu.capsuleResp(held[1]!.cid, { status: 0x09 }));
    expect(await pair).to.equal(false);
  });

  it('a signal: what waits is taken back, what is out is aborted, both halves', async () => {
    const namespace = await controller.namespace(1);
    const abort = new AbortController();
    const pair = namespace.compareAndWrite(0, zero, zero, { signal: abort.signal });
    await until(() => held.length === 2, 'both');
    abort.abort(new Error('enough'));
    await until(() => peer.seen.filter((name) => name === 'Admin 08').length === 2, 'two Aborts');
    const [connection] = peer.queue(1);
    for (const { cid } of held) connection!.send(pdu.capsuleResp(cid, { status: 0x07 }));
    expect((await rejection(pair)).message).to.equal('enough');
  });
});

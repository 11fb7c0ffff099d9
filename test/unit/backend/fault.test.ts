import { expect } from 'chai';
import { FaultBackend, type FaultRule } from '../../../src/backend/fault.ts';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import { MediaStatus, Status } from '../../../src/spec/status.ts';
import { pattern, submit, TestBlockIo } from '../../support/backend-compliance.ts';
import { ManualClock } from '../../support/manual-clock.ts';

describe('FaultBackend', () => {
  let clock: ManualClock;
  let inner: MemoryBackend;
  let backend: FaultBackend;

  function setUp(...rules: FaultRule[]): void {
    clock = new ManualClock();
    inner = new MemoryBackend({ blockSize: 512, blockCount: 64 });
    backend = new FaultBackend(inner, { clock, rules });
  }
  const readIo = (block: number, count = 1): TestBlockIo =>
    new TestBlockIo({ offset: block * 512, length: count * 512 });
  const writeIo = (block: number, salt = 1): TestBlockIo =>
    new TestBlockIo({ offset: block * 512, data: [pattern(512, salt)] });
  async function innerBlock(block: number): Promise<Uint8Array> {
    const io = readIo(block);
    await submit(inner, 'read', io);
    return io.data;
  }

  it('fails what the rule names, and only that', async () => {
    setUp({ operation: 'read', firstBlock: 10, lastBlock: 12, status: MediaStatus.UnrecoveredReadError });
    expect(await submit(backend, 'read', readIo(10))).to.equal(MediaStatus.UnrecoveredReadError);
    expect(await submit(backend, 'read', readIo(8, 3)), 'last block of the range').to.equal(
      MediaStatus.UnrecoveredReadError,
    );
    expect(await submit(backend, 'read', readIo(12, 5))).to.equal(MediaStatus.UnrecoveredReadError);
    expect(await submit(backend, 'read', readIo(8, 2))).to.equal(Status.Success);
    expect(await submit(backend, 'read', readIo(13))).to.equal(Status.Success);
    expect(await submit(backend, 'write', writeIo(10))).to.equal(Status.Success);
    expect(await submit(backend, 'flush', new TestBlockIo({}))).to.equal(Status.Success);
  });

  it('does not execute what it fails `before`, executes what it fails `after`', async () => {
    setUp({ operation: 'write', status: MediaStatus.WriteFault, times: 1 });
    await submit(backend, 'write', writeIo(1));
    expect(await innerBlock(1)).to.deep.equal(new Uint8Array(512));
    backend.addRule({ operation: 'write', status: MediaStatus.WriteFault, when: 'after' });
    expect(await submit(backend, 'write', writeIo(1))).to.equal(MediaStatus.WriteFault);
    expect(await innerBlock(1)).to.deep.equal(pattern(512, 1));
  });

  it('skips, then takes effect so many times', async () => {
    setUp({ operation: 'flush', status: Status.InternalError, skip: 2, times: 2 });
    const seen: number[] = [];
    for (let i = 0; i < 6; i++) seen.push(await submit(backend, 'flush', new TestBlockIo({})));
    expect(seen).to.deep.equal([0, 0, 6, 6, 0, 0]);
  });

  it('delays by the injected clock, and keeps a write`s data', async () => {
    setUp({ operation: 'write', delayMs: 100 });
    const io = writeIo(3);
    const done = submit(backend, 'write', io);
    clock.advance(99);
    expect(io.status).to.equal(undefined);
    expect(await innerBlock(3)).to.deep.equal(new Uint8Array(512));
    expect(backend.heldCount).to.equal(1);
    clock.advance(1);
    expect(await done).to.equal(0);
    expect(await innerBlock(3)).to.deep.equal(pattern(512, 1));
    expect(backend.heldCount).to.equal(0);
  });

  it('a late answer of an executed read is what was there when it was executed', async () => {
    setUp();
    await submit(backend, 'write', writeIo(0, 1));
    backend.addRule({ operation: 'read', delayMs: 10, when: 'after' });
    const io = readIo(0);
    void submit(backend, 'read', io);
    await submit(backend, 'write', writeIo(0, 2));
    clock.advance(10);
    expect(io.status).to.equal(0);
    expect(io.data).to.deep.equal(pattern(512, 1));
  });

  it('holds until released, in order', async () => {
    setUp({ operation: 'write', hold: true });
    const order: number[] = [];
    const ios = [writeIo(1), writeIo(1, 2), writeIo(2)];
    for (const [index, io] of ios.entries()) {
      io.onComplete = () => order.push(index);
      void submit(backend, 'write', io);
    }
    clock.advance(1_000_000);
    expect(order).to.deep.equal([]);
    backend.release();
    expect(order).to.deep.equal([0, 1, 2]);
    expect(await innerBlock(1)).to.deep.equal(pattern(512, 2));
  });

  it('is random only through what is injected', async () => {
    const values = [0.4, 0.6, 0.49];
    inner = new MemoryBackend({ blockSize: 512, blockCount: 64 });
    backend = new FaultBackend(inner, {
      clock: new ManualClock(),
      random: () => values.shift()!,
      rules: [{ status: Status.InternalError, probability: 0.5 }],
    });
    const seen: number[] = [];
    for (let i = 0; i < 3; i++) seen.push(await submit(backend, 'read', readIo(0)));
    expect(seen).to.deep.equal([6, 0, 6]);
  });

  it('counts matches, and a removed rule has no effect', async () => {
    setUp();
    const handle = backend.addRule({ operation: 'read', status: Status.InternalError });
    await submit(backend, 'read', readIo(0));
    expect(handle.matchCount).to.equal(1);
    handle.remove();
    expect(await submit(backend, 'read', readIo(0))).to.equal(0);
    expect(handle.matchCount).to.equal(1);
  });

  it('lets everything go on close', async () => {
    setUp({ operation: 'write', hold: true }, { operation: 'read', delayMs: 1e6, when: 'after' });
    const held = writeIo(0);
    const late = readIo(0);
    void submit(backend, 'write', held);
    void submit(backend, 'read', late);
    await backend.close();
    expect([held.status, late.status]).to.deep.equal([0, 0]);
    expect(clock.timerCount).to.equal(0);
  });
});

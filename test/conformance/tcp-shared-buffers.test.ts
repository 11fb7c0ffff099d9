/** Buffers that all connections share: hosts that owe their data cannot fill the memory, and cannot stop the others. Checklist 17.7, 111. */
import { expect } from 'chai';
import { type Completion, pattern, type RawHost } from '../support/raw-host.ts';
import { CopyBackend, settle, TestTarget } from '../support/test-target.ts';

const BYTES = 16_384;
const BLOCKS = BYTES / 512;

/** A write that the target has solicited; its data goes out with `send`. */
interface Owed {
  readonly done: Promise<Completion>;
  send(): Promise<void>;
}

describe('conformance: NVMe/TCP buffers of all connections (target)', () => {
  let t: TestTarget;
  afterEach(() => t.close());

  const used = (): number => t.target.pool.transfers.usedBytes;
  async function start(transferBytesMax: number): Promise<void> {
    t = await TestTarget.start({ backend: new CopyBackend(), transferBytesMax, tcp: { bufferBytesMax: 1 << 20 } });
  }
  async function host(): Promise<RawHost> {
    return (await t.association()).io;
  }
  /** Sends a write without its data. */
  async function announce(
    io: RawHost,
    block: number,
  ): Promise<{ cid: number; done: Promise<Completion>; data: Buffer }> {
    const data = pattern(BYTES, block);
    const cid = io.nextCid();
    const done = io.completion(cid, { data, by: 'r2t', manual: true });
    await io.send(io.commandBytes({ opcode: 1, nsid: 1, cid, cdw10: block, cdw12: BLOCKS - 1 }, { data, by: 'r2t' }));
    return { cid, done, data };
  }
  /** Waits for the next R2T, which must be for that write. */
  async function solicited(
    io: RawHost,
    write: { cid: number; done: Promise<Completion>; data: Buffer },
  ): Promise<Owed> {
    const { name, cccid, ttag } = await io.next();
    expect([name, cccid]).to.deep.equal(['R2T', write.cid]);
    const send = (): Promise<void> => io.send(io.h2cData({ cccid, ttag, offset: 0, last: true }, write.data));
    return { done: write.done, send };
  }
  async function owe(io: RawHost, count: number): Promise<Owed[]> {
    const owed: Owed[] = [];
    for (let i = 0; i < count; i++) owed.push(await solicited(io, await announce(io, i * BLOCKS)));
    return owed;
  }
  async function finish(owed: readonly Owed[]): Promise<void> {
    for (const one of owed) {
      await one.send();
      expect((await one.done).status).to.equal(0);
    }
  }

  it('stalled senders that hold all there is: another host goes on, one command after the other', async () => {
    await start(4 * BYTES);
    const owed = await owe(await host(), 4);
    expect(used()).to.equal(4 * BYTES);
    const other = await host();
    const writes = Array.from({ length: 20 }, (_, i) =>
      other.write(1000 + i * BLOCKS, pattern(BYTES, i), { by: 'r2t' }),
    );
    for (const { status } of await Promise.all(writes)) expect(status).to.equal(0);
    const reads = await Promise.all(writes.map((_, i) => other.read(1000 + i * BLOCKS, BLOCKS)));
    for (const [i, { data }] of reads.entries()) expect(data.equals(pattern(BYTES, i)), `write ${i}`).to.equal(true);
    expect(used()).to.equal(4 * BYTES);
    await finish(owed);
    expect(used()).to.equal(0);
  });

  it('what is given back goes to who waits', async () => {
    await start(4 * BYTES);
    const [first, ...others] = await owe(await host(), 4);
    const io = await host();
    const one = await solicited(io, await announce(io, 1000));
    const waiting = await announce(io, 2000);
    await settle();
    expect(io.unread, 'no R2T: there is no room').to.equal(0);
    await finish([first!]);
    await settle();
    expect(io.unread, 'one of five is done: four are what there is').to.equal(0);
    await finish([others[0]!]);
    await finish([await solicited(io, waiting), one, ...others.slice(1)]);
    expect(used()).to.equal(0);
  });

  for (const [how, end] of [
    ['its connection is lost', (io: RawHost): void => io.destroy()],
    ['its controller is closed', (): void => [...t.subsystem.controllers][0]!.close('by the test')],
  ] as const) {
    it(`what a stalled sender held is free when ${how}`, async () => {
      await start(4 * BYTES);
      const stalled = await host();
      await owe(stalled, 4);
      const io = await host();
      const one = await solicited(io, await announce(io, 1000));
      const waiting = await announce(io, 2000);
      end(stalled);
      await finish([await solicited(io, waiting), one]);
      expect(used()).to.equal(0);
    });
  }

  it('what the backend still has when its connection is lost is given back once', async () => {
    await start(4 * BYTES);
    const backend = t.backend as CopyBackend;
    backend.hold = true;
    const io = await host();
    const writes = [io.write(0, pattern(BYTES, 1), { by: 'r2t' }), io.write(64, pattern(BYTES, 2), { by: 'r2t' })];
    for (const one of writes) one.catch(() => {}); // they end with the connection
    await t.until(() => backend.held.length === 2);
    io.destroy();
    await t.until(() => t.connectionCount === 1);
    backend.release();
    await settle();
    expect(used()).to.equal(0);
  });

  it('a connection that ends while it waits is forgotten', async () => {
    await start(2 * BYTES);
    const owed = await owe(await host(), 2);
    const io = await host();
    await solicited(io, await announce(io, 1000));
    await announce(io, 2000);
    await settle();
    io.destroy();
    await t.until(() => t.connectionCount === 3); // two admin queues and the I/O queue of the first
    await finish(owed);
    await settle();
    expect(used()).to.equal(0);
  });

  it('many hosts on few buffers: all is served, and nothing is left', async () => {
    await start(3 * BYTES);
    const hosts = await Promise.all(Array.from({ length: 8 }, () => host()));
    const all = hosts.flatMap((io, h) =>
      Array.from({ length: 16 }, (_, i) => {
        const block = (h * 16 + i) * BLOCKS;
        return i % 3 === 2
          ? io.read(block - BLOCKS, BLOCKS)
          : io.write(block, pattern(BYTES, block), { by: 'r2t', pieceBytes: 4096 });
      }),
    );
    for (const { status } of await Promise.all(all)) expect(status).to.equal(0);
    for (const [h, io] of hosts.entries()) {
      const block = h * 16 * BLOCKS;
      expect((await io.read(block, BLOCKS)).data.equals(pattern(BYTES, block)), `host ${h}`).to.equal(true);
    }
    await settle();
    expect([used(), t.target.pool.usedBytes]).to.deep.equal([0, 0]);
  });
});

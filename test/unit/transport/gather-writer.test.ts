import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { MemoryArena } from '../../../src/native/arena.ts';
import { GatherWriter } from '../../../src/transport/tcp/gather-writer.ts';
import { Batch, GATHER_MAX } from '../../../src/transport/tcp/thread-buffers.ts';
import { needNative } from '../../support/native.ts';
import { pattern } from '../../support/raw-host.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

describe('GatherWriter', () => {
  const pairs: SocketPair[] = [];
  const senders: Socket[] = [];
  async function open(
    useAddon = true,
  ): Promise<{ writer: GatherWriter; events: string[]; client: Socket; socket: Socket }> {
    const pair = await socketPair();
    pairs.push(pair);
    senders.push(pair.accepted);
    pair.accepted.on('error', () => {});
    const events: string[] = [];
    const writer = new GatherWriter(
      pair.accepted,
      () => events.push('drained'),
      (error) => events.push(`error ${(error as NodeJS.ErrnoException).code}`),
      useAddon,
    );
    return { writer, events, client: pair.client, socket: pair.accepted };
  }
  afterEach(async () => {
    for (const sender of senders.splice(0)) sender.destroy();
    for (const pair of pairs.splice(0)) await pair.close();
  });
  /** Reads `bytes` bytes. */
  async function receive(client: Socket, bytes: number): Promise<Buffer> {
    const chunks: Buffer[] = [];
    let length = 0;
    while (length < bytes) {
      const chunk = client.read() as Buffer | null;
      if (chunk === null) await nextTurn();
      else {
        chunks.push(chunk);
        length += chunk.length;
      }
    }
    return Buffer.concat(chunks);
  }

  for (const count of [1, 2, 3, 64, GATHER_MAX]) {
    it(`sends ${count} buffers in order, and says at once that the kernel has them`, async () => {
      const { writer, events, client } = await open();
      for (let round = 0; round < 3; round++) {
        const buffers = Array.from({ length: count }, (_, i) => pattern(1 + (i % 37), i + round));
        // the array may be longer than what counts
        const expected = Buffer.concat(buffers);
        expect(writer.write([...buffers, Buffer.from('never')], count)).to.equal(true);
        expect(writer.busy).to.equal(false);
        expect((await receive(client, expected.length)).equals(expected)).to.equal(true);
      }
      expect(events, 'nothing was late').to.deep.equal([]);
    });
  }

  /** Fills the socket until the kernel takes no more. */
  function block(writer: GatherWriter, buffers: Uint8Array[]): number {
    for (let writes = 1; ; writes++) if (!writer.write(buffers, buffers.length)) return writes;
  }

  for (const count of [1, 5]) {
    it(`is busy with ${count} buffers that the kernel could not take, and reports once when it has them`, async () => {
      const { writer, events, client } = await open();
      const buffers = Array.from({ length: count }, (_, i) => pattern((4 << 20) / count, i));
      const writes = block(writer, buffers);
      expect(writer.busy).to.equal(true);
      await nextTurn();
      expect(events).to.deep.equal([]);
      const one = Buffer.concat(buffers);
      const got = await receive(client, writes * one.length);
      for (let i = 0; i < writes; i++) {
        expect(got.subarray(i * one.length, (i + 1) * one.length).equals(one)).to.equal(true);
      }
      while (events.length === 0) await nextTurn();
      expect(events).to.deep.equal(['drained']);
      expect(writer.busy).to.equal(false);
      expect(writer.write([pattern(10, 1), pattern(10, 2)], 2)).to.equal(true);
      expect(events).to.deep.equal(['drained']);
    });
  }

  it('one blocked writer does not disturb another that sends as many buffers', async () => {
    const slow = await open();
    const fast = await open();
    const large = Array.from({ length: 7 }, (_, i) => pattern(1 << 20, i));
    const writes = block(slow.writer, large);
    for (let round = 0; round < 5; round++) {
      const small = Array.from({ length: 7 }, (_, i) => pattern(100, i + round));
      expect(fast.writer.write(small, 7)).to.equal(true);
      expect((await receive(fast.client, 700)).equals(Buffer.concat(small))).to.equal(true);
    }
    const one = Buffer.concat(large);
    const got = await receive(slow.client, writes * one.length);
    expect(got.subarray(-one.length).equals(one)).to.equal(true);
    while (slow.events.length === 0) await nextTurn();
  });

  it('a connection that is reset while busy: one error, not busy any more', async () => {
    const { writer, events, client } = await open();
    block(writer, [pattern(1 << 20, 1), pattern(1 << 20, 2)]);
    client.resetAndDestroy();
    while (events.length === 0) await nextTurn();
    expect(events.length).to.equal(1);
    expect(events[0]).to.match(/^error (ECONNRESET|EPIPE|ECANCELED)$/);
    expect(writer.busy).to.equal(false);
  });

  it('writing to a socket that was destroyed reports an error', async () => {
    const { writer, events, socket } = await open();
    socket.destroy();
    writer.write([pattern(10, 1), pattern(10, 2)], 2);
    await nextTurn();
    expect(events.length).to.equal(1);
    expect(writer.busy).to.equal(false);
  });

  for (const useAddon of [true, false]) {
    describe(`batches, ${useAddon ? 'by the addon' : 'by node:net alone'}`, () => {
      before(function () {
        if (useAddon) needNative(this);
      });
      const newBatch = (): Batch =>
        useAddon ? new Batch() : new Batch({ bytes: new Uint8Array(new ArrayBuffer(65_536)), id: 0 });
      function header(batch: Batch, bytes: Uint8Array): void {
        batch.bytes.set(bytes, batch.reserve(bytes.length));
        batch.endRun();
      }
      /** A payload of the arena, or of a copy where there are no places. */
      function place(batch: Batch, arena: MemoryArena, offset: number, length: number): void {
        if (useAddon) batch.addPlace(arena, offset, length);
        else batch.add(arena.bytes.slice(offset, offset + length), length);
      }

      it('sends headers, views and places in order', async () => {
        const { writer, client, events } = await open(useAddon);
        expect(writer.sendsByPlace).to.equal(useAddon);
        const arena = new MemoryArena(1 << 20);
        arena.bytes.set(pattern(1 << 20, 5));
        const batch = newBatch();
        for (let round = 0; round < 3; round++) {
          const expected: Uint8Array[] = [];
          for (let i = 0; i < 100; i++) {
            header(batch, pattern(24, i));
            place(batch, arena, i * 1000 + round, 512);
            batch.add(pattern(60, i), 60);
            expected.push(pattern(24, i), arena.bytes.slice(i * 1000 + round, i * 1000 + round + 512), pattern(60, i));
          }
          expect(writer.writeBatch(batch)).to.equal(true);
          batch.clear();
          const all = Buffer.concat(expected);
          expect((await receive(client, all.length)).equals(all)).to.equal(true);
        }
        expect(writer.writtenBytes).to.equal(3 * 100 * 596);
        expect(events).to.deep.equal([]);
      });

      it('what the kernel does not take at once arrives as it was, whatever becomes of the arena', async () => {
        const { writer, client, events } = await open(useAddon);
        const arena = new MemoryArena(4 << 20);
        const expected: Uint8Array[] = [];
        for (let round = 0; ; round++) {
          arena.bytes.set(pattern(4 << 20, round));
          const batch = newBatch();
          for (let i = 0; i < 64; i++) {
            header(batch, pattern(24, i + round));
            place(batch, arena, i << 16, 1 << 16);
            batch.add(pattern(100, round), 100);
            expected.push(pattern(24, i + round), arena.bytes.slice(i << 16, (i + 1) << 16), pattern(100, round));
          }
          const all = writer.writeBatch(batch);
          arena.bytes.fill(0xee);
          if (!all) break;
        }
        const all = Buffer.concat(expected);
        expect((await receive(client, all.length)).equals(all)).to.equal(true);
        while (events.length === 0) await nextTurn();
        expect(events).to.deep.equal(['drained']);
        expect(writer.writtenBytes).to.equal(all.length);
      });

      it('a socket that is gone reports one error, and its descriptor is not written to', async () => {
        const { writer, events, socket } = await open(useAddon);
        socket.destroy();
        const batch = newBatch();
        header(batch, pattern(24, 1));
        batch.add(pattern(100, 1), 100);
        writer.writeBatch(batch);
        await nextTurn();
        expect(events.length).to.equal(1);
        expect(writer.busy).to.equal(false);
        expect(writer.writtenBytes).to.equal(124);
      });
    });
  }

  it('a place outside of its arena is refused, and nothing is sent', async function () {
    const native = needNative(this);
    const arena = new MemoryArena(4096);
    for (const [id, offset, length] of [
      [arena.id, 4096, 1],
      [arena.id, 0, 4097],
      [arena.id, 0xffff_ffff, 2],
      [9999, 0, 1],
    ] as const) {
      expect(native.streamWrite(1, Uint32Array.of(id, offset, length), 1, [])).to.equal(-22);
    }
    expect(native.streamWrite(1, Uint32Array.of(0, 0, 0), 1, [])).to.equal(-22);
    expect(native.streamWrite(1, Uint32Array.of(arena.id, 0, 1), 2, [])).to.equal(-22);
  });
});

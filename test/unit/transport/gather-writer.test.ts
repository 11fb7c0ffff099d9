import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { GATHER_MAX, GatherWriter } from '../../../src/transport/tcp/gather-writer.ts';
import { pattern } from '../../support/raw-host.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

describe('GatherWriter', () => {
  const pairs: SocketPair[] = [];
  const senders: Socket[] = [];
  async function open(): Promise<{ writer: GatherWriter; events: string[]; client: Socket; socket: Socket }> {
    const pair = await socketPair();
    pairs.push(pair);
    senders.push(pair.accepted);
    pair.accepted.on('error', () => {});
    const events: string[] = [];
    const writer = new GatherWriter(
      pair.accepted,
      () => events.push('drained'),
      (error) => events.push(`error ${(error as NodeJS.ErrnoException).code}`),
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
});

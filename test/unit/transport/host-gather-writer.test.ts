import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { MemoryArena } from '../../../src/native/arena.ts';
import { HostGatherWriter } from '../../../src/transport/tcp/host-gather-writer.ts';
import { Batch } from '../../../src/transport/tcp/thread-buffers.ts';
import { needNative } from '../../support/native.ts';
import { Random, randomSeed } from '../../support/random.ts';
import { pattern } from '../../support/raw-host.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

const seed = randomSeed();
for (const useAddon of [true, false]) {
  describe(`HostGatherWriter, ${useAddon ? 'by the addon' : 'by node:net alone'}, NVMEFERRY_SEED=${seed}`, () => {
    const pairs: SocketPair[] = [];
    before(function () {
      if (useAddon) needNative(this);
    });
    async function open(): Promise<{ writer: HostGatherWriter; events: string[]; client: Socket; socket: Socket }> {
      const pair = await socketPair();
      pairs.push(pair);
      pair.accepted.on('error', () => {});
      const events: string[] = [];
      const writer = new HostGatherWriter(
        pair.accepted,
        () => events.push('drained'),
        (error) => events.push(`error ${(error as NodeJS.ErrnoException).code}`),
        useAddon,
      );
      return { writer, events, client: pair.client, socket: pair.accepted };
    }
    afterEach(async () => {
      for (const pair of pairs.splice(0)) {
        pair.accepted.destroy();
        await pair.close();
      }
    });
    const newBatch = (): Batch =>
      useAddon ? new Batch() : new Batch({ bytes: new Uint8Array(new ArrayBuffer(65_536)), id: 0 });
    /** Headers and payloads of many sizes. @returns what it holds */
    function fill(batch: Batch, random: Random): Buffer {
      const expected: Uint8Array[] = [];
      for (let i = 0; i < 64; i++) {
        const header = pattern(1 + random.below(90), random.below(256));
        batch.bytes.set(header, batch.reserve(header.length));
        expected.push(header);
        if (random.oneIn(5)) continue; // two headers are one piece
        batch.endRun();
        const payload = pattern(1 + random.below(60_000), random.below(256));
        batch.add(payload, payload.length);
        expected.push(payload);
      }
      batch.endRun();
      return Buffer.concat(expected);
    }
    async function untilBusy(writer: HostGatherWriter, random: Random): Promise<{ batch: Batch; sent: Buffer }> {
      const sent: Buffer[] = [];
      for (;;) {
        const batch = newBatch();
        sent.push(fill(batch, random));
        if (!writer.writeBatch(batch)) return { batch, sent: Buffer.concat(sent) };
      }
    }

    it('what a full socket does not take at once arrives whole and in order, and drains once', async () => {
      const random = new Random(seed);
      const { writer, events, client } = await open();
      const { batch, sent } = await untilBusy(writer, random);
      expect(writer.busy).to.equal(true);
      await nextTurn();
      expect(events).to.deep.equal([]);
      const got: Buffer[] = [];
      let length = 0;
      while (length < sent.length) {
        // small sips: the socket is full many times over
        const chunk = (client.read(1 + random.below(100_000)) ?? client.read()) as Buffer | null;
        if (chunk === null) await nextTurn();
        else length += chunk.length;
        if (chunk !== null) got.push(chunk);
      }
      expect(Buffer.concat(got).equals(sent)).to.equal(true);
      while (events.length === 0) await nextTurn();
      expect(events).to.deep.equal(['drained']);
      expect(writer.busy).to.equal(false);
      batch.clear();
      const next = fill(batch, random).length;
      writer.writeBatch(batch);
      for (length = 0; length < next; ) {
        const chunk = client.read() as Buffer | null;
        if (chunk === null) await nextTurn();
        else length += chunk.length;
      }
      expect(length, 'nothing is sent twice').to.equal(next);
    });

    it('a connection that is reset while busy: one error, not busy any more', async () => {
      const random = new Random(seed);
      const { writer, events, client } = await open();
      await untilBusy(writer, random);
      client.resetAndDestroy();
      while (events.length === 0) await nextTurn();
      await nextTurn();
      expect(events.length).to.equal(1);
      expect(events[0]).to.match(/^error (ECONNRESET|EPIPE|ECANCELED)$/);
      expect(writer.busy).to.equal(false);
    });

    it('a socket that is destroyed while busy: told once, and nothing more is written', async () => {
      const random = new Random(seed);
      const { writer, events, socket } = await open();
      const { batch } = await untilBusy(writer, random);
      const left = batch.bufferCount;
      socket.destroy();
      while (events.length === 0) await nextTurn();
      await nextTurn();
      expect(events.length).to.equal(1);
      expect(writer.busy).to.equal(false);
      expect(batch.bufferCount).to.equal(left);
    });

    it('a socket that is gone reports one error', async () => {
      const random = new Random(seed);
      const { writer, events, socket } = await open();
      socket.destroy();
      const batch = newBatch();
      fill(batch, random);
      writer.writeBatch(batch);
      await nextTurn();
      expect(events.length).to.equal(1);
      expect(writer.busy).to.equal(false);
    });
  });
}

describe('HostGatherWriter', () => {
  it('an arena that may change is nothing that could wait', function () {
    needNative(this);
    const arena = new MemoryArena(4096);
    const batch = new Batch();
    batch.addPlace(arena, 0, 100);
    expect(() => batch.takeFirst(50)).to.throw('A piece of an arena cannot wait');
  });
});

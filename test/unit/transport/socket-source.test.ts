import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { RECEIVE_HOME, receiveBytes, receiveTail } from '../../../src/transport/tcp/receive-buffer.ts';
import { socketPump } from '../../../src/transport/tcp/socket-pump.ts';
import { type ReceivePlan, SocketSource, type SourceOwner } from '../../../src/transport/tcp/socket-source.ts';
import { needNative } from '../../support/native.ts';
import { pattern } from '../../support/raw-host.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

/** Takes what comes, by either way, at most `room` bytes at once. */
class Taker implements SourceOwner, ReceivePlan {
  readonly source: SocketSource;
  readonly start = RECEIVE_HOME;
  room = 1 << 16;
  view: Uint8Array | undefined;
  viewOffset = 0;
  viewLength = 0;
  received: Buffer = Buffer.alloc(0);
  calls = 0;
  ended = '';
  /** Stop after each read. */
  stops = false;
  onCall: () => void = () => {};

  constructor(socket: Socket, useAddon: boolean) {
    this.source = new SocketSource(socket, this, useAddon);
    this.source.socket.on('error', (error) => this.#end(error.message));
    this.source.socket.on('end', () => this.#end('the host closed the connection'));
  }

  #end(reason: string): void {
    if (this.ended === '') this.ended = reason;
  }

  nextBuffer(): Uint8Array {
    return receiveTail(RECEIVE_HOME);
  }

  #take(length: number): void {
    this.calls++;
    const direct = Math.min(length, this.viewLength);
    if (direct > 0) this.#add(this.view!.slice(this.viewOffset, this.viewOffset + direct));
    this.#add(receiveBytes.slice(RECEIVE_HOME, RECEIVE_HOME + length - direct));
    this.onCall();
  }

  #add(bytes: Uint8Array): void {
    this.received = Buffer.concat([this.received, bytes]);
  }

  onBytes(length: number): boolean {
    this.#take(length);
    return !this.stops;
  }

  /** What the pump said at each call. */
  readonly alone: boolean[] = [];

  readable(alone: boolean): void {
    this.alone.push(alone);
    const length = this.source.receive(this);
    if (length < 0) {
      this.#end(this.source.endError?.message ?? 'the host closed the connection');
      this.source.stop();
    } else if (length > 0) this.#take(length);
    if (this.stops) this.source.pause();
  }
}

for (const useAddon of [true, false]) {
  describe(`SocketSource, ${useAddon ? 'read by the addon' : 'read by node:net'}`, () => {
    const pairs: SocketPair[] = [];
    const takers: Taker[] = [];
    before(function () {
      if (useAddon) needNative(this);
    });
    afterEach(async () => {
      for (const taker of takers.splice(0)) {
        taker.source.stop();
        taker.source.socket.destroy();
      }
      for (const pair of pairs.splice(0)) await pair.close();
      if (useAddon) expect(socketPump()!.size, 'sockets still watched').to.equal(0);
    });
    async function open(): Promise<{ taker: Taker; client: Socket }> {
      const pair = await socketPair();
      pairs.push(pair);
      const taker = new Taker(pair.accepted, useAddon);
      takers.push(taker);
      expect(taker.source.pumped).to.equal(useAddon);
      return { taker, client: pair.client };
    }
    async function turns(count: number): Promise<void> {
      for (let i = 0; i < count; i++) await nextTurn();
    }

    it('gives nothing before it is started, then every byte in order', async () => {
      const { taker, client } = await open();
      const data = pattern(300_000, 1);
      client.write(data);
      await turns(10);
      expect(taker.calls).to.equal(0);
      taker.source.start();
      while (taker.received.length < data.length) await nextTurn();
      expect(taker.received.equals(data)).to.equal(true);
      expect(taker.ended).to.equal('');
    });

    it('holds bytes back while it is told to, and loses none', async () => {
      const { taker, client } = await open();
      const data = pattern(200_000, 2);
      taker.stops = true;
      taker.source.start();
      client.write(data);
      for (let rounds = 0; taker.received.length < data.length; rounds++) {
        expect(rounds).to.be.below(1000);
        const before = taker.calls;
        while (taker.calls === before) await nextTurn();
        const after = taker.calls;
        await turns(5);
        expect(taker.calls, 'reads while it is stopped').to.equal(after);
        taker.source.resume();
      }
      expect(taker.received.equals(data)).to.equal(true);
    });

    if (useAddon) {
      it('tells whether others have bytes as well', async () => {
        const one = await open();
        const two = await open();
        one.client.write('a');
        two.client.write('b');
        one.taker.source.start();
        two.taker.source.start();
        // (both were there before the first look)
        while (one.taker.received.length + two.taker.received.length < 2) await nextTurn();
        expect([...one.taker.alone, ...two.taker.alone]).to.deep.equal([false, false]);
        one.client.write('c');
        while (one.taker.received.length < 2) await nextTurn();
        expect(one.taker.alone).to.deep.equal([false, true]);
      });
    }

    it("tells the peer's end once, behind its last bytes", async () => {
      const { taker, client } = await open();
      taker.source.start();
      client.end('last');
      while (taker.ended === '') await nextTurn();
      expect(taker.received.toString()).to.equal('last');
      expect(taker.ended).to.equal('the host closed the connection');
    });

    it('tells that the connection was reset', async () => {
      const { taker, client } = await open();
      taker.source.start();
      client.resetAndDestroy();
      while (taker.ended === '') await nextTurn();
      expect(taker.ended).to.equal('read ECONNRESET');
    });

    it('nothing comes after stop, whoever has the descriptor then', async () => {
      const first = await open();
      first.taker.source.start();
      first.client.write('one');
      while (first.taker.calls === 0) await nextTurn();
      first.taker.source.stop();
      first.taker.source.stop();
      first.taker.source.socket.destroy();
      await turns(3);
      const second = await open(); // most likely with the same descriptor
      second.taker.source.start();
      first.taker.source.stop();
      second.client.write('two');
      while (second.taker.calls === 0) await nextTurn();
      expect(second.taker.received.toString()).to.equal('two');
      expect(first.taker.received.toString()).to.equal('one');
    });

    it('one may close another in its own turn, or itself', async () => {
      const all = await Promise.all(Array.from({ length: 5 }, open));
      for (const { taker } of all) {
        // whoever is first ends all, so that the others, which have bytes too, must not be asked
        taker.onCall = () => {
          for (const other of all) {
            other.taker.source.stop();
            other.taker.source.socket.destroy();
          }
        };
      }
      for (const { client } of all) client.write('bytes');
      await turns(10);
      for (const { taker } of all) taker.source.start();
      const calls = (): number => all.reduce((sum, { taker }) => sum + taker.calls, 0);
      while (calls() === 0) await nextTurn();
      await turns(10);
      expect(calls()).to.equal(1);
    });

    it('serves three hundred at once, more than are told in one turn', async () => {
      const all = [];
      for (let i = 0; i < 300; i++) all.push(await open());
      for (const [i, { client }] of all.entries()) client.write(`from ${i}`);
      for (const { taker } of all) taker.source.start();
      for (const [i, { taker }] of all.entries()) {
        while (taker.received.toString() !== `from ${i}`) await nextTurn();
      }
    });
  });
}

describe('SocketSource, by the addon alone', () => {
  before(function () {
    needNative(this);
  });

  it('fills the view first, then the receive buffer, and neither beyond what it was told', async () => {
    const pair = await socketPair();
    const taker = new Taker(pair.accepted, true);
    try {
      const data = pattern(10_000, 3);
      const view = new Uint8Array(9000).fill(0xee);
      taker.view = view;
      taker.viewOffset = 1000;
      taker.viewLength = 6000;
      taker.room = 500;
      receiveBytes.fill(0xdd, RECEIVE_HOME, RECEIVE_HOME + 1000);
      pair.client.write(data);
      let queued = false;
      taker.onCall = () => {
        queued = true;
        taker.source.pause();
      };
      // all of it is there before the first read
      await new Promise<void>((resolve) => pair.client.write('', () => resolve()));
      for (let i = 0; i < 20; i++) await nextTurn();
      taker.source.start();
      while (!queued) await nextTurn();
      expect(taker.received.equals(data.subarray(0, 6500))).to.equal(true);
      expect([...view.subarray(0, 1000), ...view.subarray(7000)].every((byte) => byte === 0xee)).to.equal(true);
      expect(receiveBytes.subarray(RECEIVE_HOME + 500, RECEIVE_HOME + 1000).every((byte) => byte === 0xdd)).to.equal(
        true,
      );
    } finally {
      taker.source.stop();
      taker.source.socket.destroy();
      await pair.close();
    }
  });

  it('a socket that node:net has already read from stays with node:net', async () => {
    const pair = await socketPair();
    try {
      pair.client.write('early');
      pair.accepted.resume();
      await new Promise<void>((resolve) => pair.accepted.once('data', () => resolve()));
      pair.accepted.pause();
      const taker = new Taker(pair.accepted, true);
      expect(taker.source.pumped).to.equal(false);
      taker.source.socket.destroy();
    } finally {
      await pair.close();
    }
  });

  it('refuses places outside of the view or the arena', function () {
    const binding = needNative(this);
    const view = new Uint8Array(100);
    const [memory, id] = binding.arenaMap(4096) as [ArrayBuffer, number];
    const read = (offset: number, length: number, viewOffset: number, viewLength: number): number =>
      binding.streamRead(-1, id, offset, length, view, viewOffset, viewLength);
    const EINVAL = -22;
    const EBADF = -9;
    expect(read(0, 4096, 0, 100)).to.equal(EBADF);
    expect(read(0, 4097, 0, 0)).to.equal(EINVAL);
    expect(read(4096, 1, 0, 0)).to.equal(EINVAL);
    expect(read(0, 0, 0, 100)).to.equal(EINVAL);
    expect(read(0, 1, 0, 101)).to.equal(EINVAL);
    expect(read(0, 1, 101, 1)).to.equal(EINVAL);
    expect(read(0, 1, 4_294_967_295, 2)).to.equal(EINVAL);
    expect(binding.streamRead(-1, id + 1000, 0, 1, undefined, 0, 0)).to.equal(EINVAL);
    expect(binding.streamRead(-1, id, 0, 1, undefined, 0, 1)).to.equal(EINVAL);
    expect(memory.byteLength, 'it is kept until here').to.equal(4096);
  });
});

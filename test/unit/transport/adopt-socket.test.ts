import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from 'chai';
import { adoptSocket } from '../../../src/transport/tcp/adopt-socket.ts';
import { pattern } from '../../support/raw-host.ts';
import { type SocketPair, socketPair } from './socket-pair.ts';

for (const allowHandleMove of [true, false]) {
  describe(`adoptSocket, ${allowHandleMove ? "into a socket with the caller's buffer" : "with 'data' events"}`, () => {
    let pair: SocketPair;
    let socket: Socket;
    let received: Buffer;
    let most: number;
    let accept: (length: number) => boolean;
    const buffer = new Uint8Array(4096);

    beforeEach(async () => {
      pair = await socketPair();
      received = Buffer.alloc(0);
      most = 0;
      accept = () => true;
      socket = adoptSocket(
        pair.accepted,
        () => buffer,
        (length) => {
          most = Math.max(most, length);
          received = Buffer.concat([received, buffer.subarray(0, length)]);
          return accept(length);
        },
        allowHandleMove,
      );
      socket.on('error', () => {});
    });
    afterEach(async () => {
      socket.destroy();
      await pair.close();
    });

    it(allowHandleMove ? 'moves the handle into another socket' : 'leaves the socket as it is', () => {
      expect(socket === pair.accepted).to.equal(!allowHandleMove);
    });

    it('gives nothing before resume, then every byte through the buffer, at most its size at once', async () => {
      const data = pattern(100_000, 1);
      pair.client.write(data);
      for (let i = 0; i < 10; i++) await nextTurn();
      expect(received.length).to.equal(0);
      socket.resume();
      while (received.length < data.length) await nextTurn();
      expect(received.equals(data)).to.equal(true);
      expect(most).to.be.within(1, buffer.length);
    });

    it('false stops reading until resume, and nothing is lost', async () => {
      const data = pattern(300_000, 2);
      let calls = 0;
      accept = () => {
        calls++;
        return false;
      };
      socket.resume();
      pair.client.write(data);
      for (let rounds = 0; received.length < data.length; rounds++) {
        expect(rounds).to.be.below(1000);
        const before = calls;
        while (calls === before) await nextTurn();
        const after = calls;
        for (let i = 0; i < 5; i++) await nextTurn();
        expect(calls, 'reads while stopped').to.equal(after);
        socket.resume();
      }
      expect(received.equals(data)).to.equal(true);
    });

    it('sends', async () => {
      const data = pattern(5000, 3);
      socket.resume();
      socket.write(data);
      let got = Buffer.alloc(0);
      pair.client.on('data', (chunk: Buffer) => {
        got = Buffer.concat([got, chunk]);
      });
      while (got.length < data.length) await nextTurn();
      expect(got.equals(data)).to.equal(true);
    });

    it("the peer's FIN is 'end', and the server counts the connection until it is closed", async () => {
      const count = (): Promise<number> =>
        new Promise((resolve, reject) =>
          pair.server.getConnections((error, connections) => (error ? reject(error) : resolve(connections))),
        );
      const events: string[] = [];
      socket.on('end', () => events.push('end'));
      const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
      socket.resume();
      expect(await count()).to.equal(1);
      pair.client.end('last');
      while (events.length === 0) await nextTurn();
      expect(received.toString()).to.equal('last');
      socket.destroy();
      await closed;
      expect(await count()).to.equal(0);
    });

    it('server.close waits for the connection and ends with it', async () => {
      let serverClosed = false;
      pair.server.close(() => {
        serverClosed = true;
      });
      for (let i = 0; i < 5; i++) await nextTurn();
      expect(serverClosed).to.equal(false);
      socket.destroy();
      while (!serverClosed) await nextTurn();
    });
  });
}

/** Two ends of a TCP connection over loopback, the accepted one paused as the target's listener does it. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export interface SocketPair {
  readonly server: Server;
  readonly accepted: Socket;
  readonly client: Socket;
  close(): Promise<void>;
}

export async function socketPair(): Promise<SocketPair> {
  const server = createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const accepting = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const client = connect((server.address() as { port: number }).port, '127.0.0.1');
  await new Promise<void>((resolve, reject) => client.once('connect', resolve).once('error', reject));
  client.on('error', () => {});
  const accepted = await accepting;
  return {
    server,
    accepted,
    client,
    close: async () => {
      client.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

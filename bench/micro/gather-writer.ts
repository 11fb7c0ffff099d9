/** One writev of many buffers: over loopback with the kernel's part, and with a handle that takes all and does nothing. */
import { once } from 'node:events';
import { createConnection, createServer, Socket } from 'node:net';
import { GatherWriter } from '../../src/transport/tcp/gather-writer.ts';
import { bench, report } from './harness.ts';
import { FakeHandle } from './loop-link.ts';

const PDUS = 32;
const header = new Uint8Array(new ArrayBuffer(48));
const payload = new Uint8Array(new ArrayBuffer(4096));
const buffers: Uint8Array[] = [];
for (let i = 0; i < PDUS; i++) buffers.push(header, payload);

const fail = (error: Error): void => {
  throw error;
};

const idle = new GatherWriter(new Socket({ handle: new FakeHandle() } as object), () => {}, fail);
bench(`write(), ${buffers.length} buffers, no kernel`, (count) => {
  for (let i = 0; i < count; i++) idle.write(buffers, buffers.length);
});
bench('write(), 1 buffer, no kernel', (count) => {
  for (let i = 0; i < count; i++) idle.write(buffers, 1);
});

/** The receiver runs in between, outside the measured time. */
async function overLoopback(count: number): Promise<void> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const socket = createConnection((server.address() as { port: number }).port, '127.0.0.1');
  const [peer] = (await once(server, 'connection')) as [Socket];
  const scratch = new Uint8Array(256 << 10);
  let received = 0;
  const reader = new Socket({
    handle: (peer as unknown as { _handle: object })._handle,
    onread: {
      buffer: scratch,
      callback: (bytes: number) => {
        received += bytes;
        return true;
      },
    },
  } as object);
  reader.resume();
  let drained: () => void = () => {};
  const writer = new GatherWriter(socket, () => drained(), fail);
  const bytes = PDUS * (header.length + payload.length);
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    const before = performance.now();
    const done = writer.write(buffers, buffers.length);
    times.push((performance.now() - before) * 1e6);
    if (!done) {
      await new Promise<void>((resolve) => {
        drained = resolve;
      });
    }
    while (received < (i + 1) * bytes) await new Promise((resolve) => setImmediate(resolve));
  }
  socket.destroy();
  reader.destroy();
  server.close();
  const nsPerOp: number[] = [];
  const part = Math.floor(count / 8);
  for (let i = 1; i < 8; i++) {
    const sorted = times.slice(i * part, (i + 1) * part).sort((a, b) => a - b);
    nsPerOp.push(sorted[sorted.length >> 1]!);
  }
  report({ name: `write(), ${buffers.length} buffers, ${bytes} bytes, loopback`, nsPerOp, bytesPerOp: Number.NaN });
}

await overLoopback(4000);
process.exit(0);

/**
 * Memory of idle I/O queues of depth 128: what the target's resident memory and the kernel's socket buffers grow by. Once after connecting, and once
 * more after every queue has been used at full depth and is idle again.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { HostController, parseNvmeUri } from '../src/initiator.ts';
import { residentBytes, socketBufferBytes } from './lib/machine.ts';
import { ProductTarget } from './lib/product.ts';
import { short, table } from './lib/stats.ts';

const { values } = parseArgs({
  options: {
    controllers: { type: 'string', default: '200' },
    queues: { type: 'string', default: '4' },
  },
});
const CONTROLLERS = Number(values.controllers);
const QUEUES = Number(values.queues);
const DEPTH = 128;
const BLOCK_BYTES = 4096;
const BOUND_BYTES = 2 << 20;
const SETTLE_MS = 1500;

const target = await ProductTarget.start(['--memory', '64MiB']);
const { nsid, address, subnqn, ...rest } = parseNvmeUri(target.uri);
const connect = (): Promise<HostController> =>
  HostController.connect({
    ...rest,
    address,
    subnqn: subnqn!,
    ioQueues: QUEUES,
    queueSize: DEPTH,
    katoMs: 120_000,
  });

/** Full depth on every queue, reads and writes, several times. */
async function use(controller: HostController): Promise<void> {
  const namespace = await controller.namespace(nsid!);
  const buffer = new Uint8Array(BLOCK_BYTES);
  const count = QUEUES * (DEPTH - 1);
  for (const submit of ['submitRead', 'submitWrite'] as const) {
    for (let burst = 0; burst < 3; burst++) {
      await new Promise<void>((resolve, reject) => {
        let left = count;
        const done = (status: number): void => {
          if (status !== 0) reject(new Error(`Status 0x${status.toString(16)}`));
          if (--left === 0) resolve();
        };
        for (let i = 0; i < count; i++) namespace[submit](i, 1, buffer, done, undefined);
      });
    }
  }
}

const controllers: HostController[] = [];
// one first, used: what a process needs once is no memory of a queue
controllers.push(await connect());
await use(controllers[0]!);
await sleep(SETTLE_MS);
const rows: string[][] = [];
const residentBefore = residentBytes(target.pid);
const socketBefore = socketBufferBytes();
let worst = 0;
function measured(what: string): void {
  const queues = CONTROLLERS * QUEUES;
  const resident = (residentBytes(target.pid) - residentBefore) / queues;
  // of the whole machine: others may have given some back meanwhile
  const sockets = Math.max(0, socketBufferBytes() - socketBefore) / queues;
  worst = Math.max(worst, resident + sockets);
  rows.push([what, String(queues), short(resident / 1024), short(sockets / 1024), short((resident + sockets) / 1024)]);
}
for (let i = 0; i < CONTROLLERS; i++) controllers.push(await connect());
await sleep(SETTLE_MS);
measured('connected');
for (const controller of controllers) await use(controller);
await sleep(SETTLE_MS);
measured('used at full depth, idle again');
process.stdout.write(
  `${table(
    ['state', 'I/O queues', 'resident KiB/queue', 'socket buffers KiB/queue', 'sum KiB/queue'],
    ['left', 'right', 'right', 'right', 'right'],
    rows,
  )}\n\nBound: ${short(BOUND_BYTES / 1024)} KiB per idle queue of depth ${DEPTH}; the share of the admin queues is included. ${
    worst < BOUND_BYTES ? 'Met.' : 'NOT MET.'
  }\n`,
);
for (const controller of controllers) await controller.close();
await target.stop();
if (worst >= BOUND_BYTES) process.exitCode = 1;

/**
 * `nvmeferry demo --basics`: target and initiator end to end on loopback, told on screen. A target process with a memory and a file namespace; our initiator
 * finds it, writes and reads back verified data, sees a namespace appear, and rides over a kill -9 of the target. Ends non-zero if anything is off.
 */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostController } from '../../initiator/controller.ts';
import { discover } from '../../initiator/discovery.ts';
import type { HostNamespace } from '../../initiator/namespace.ts';
import { done, must, say } from './say.ts';
import { freePort, TargetProcess, TIMEOUT_MS } from './target-process.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:demo';
const MEMORY_NSID = 1;
const FILE_NSID = 2;
const HOT_NSID = 3;
const BLOCK_BYTES = 4096;
const PIECE_BLOCKS = 16;
const PIECES_IN_FLIGHT = 32;
const MEMORY_MIB = 64;
const FILE_RECORDS_BEFORE_KILL = 400;
const FILE_RECORDS = 600;

interface Services {
  port: number;
  discovery: number;
}

function configText(filePath: string, services: Services, withHotNamespace: boolean): string {
  const namespaces = [
    { nsid: MEMORY_NSID, backend: { type: 'memory', size: '1GiB', blockSize: BLOCK_BYTES } },
    { nsid: FILE_NSID, backend: { type: 'file', path: filePath, size: '256MiB', blockSize: BLOCK_BYTES } },
    ...(withHotNamespace
      ? [{ nsid: HOT_NSID, backend: { type: 'memory', size: '10TiB', blockSize: BLOCK_BYTES } }]
      : []),
  ];
  return JSON.stringify({
    subsystems: [{ nqn: NQN, allowAnyHost: true, namespaces }],
    ports: [{ portId: 1, address: '127.0.0.1', service: services.port, subsystems: ['*'] }],
    discovery: { address: '127.0.0.1', service: services.discovery, portId: 2 },
  });
}

/** @throws NvmeofError NVMEOF_ERR_DEMO if anything is off */
export async function runBasics(): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'nvmeferry-demo-'));
  const configPath = join(directory, 'target.json');
  const filePath = join(directory, 'disk.img');
  const target = new TargetProcess(configPath);
  let host: HostController | undefined;
  try {
    say('1. A target: one subsystem, a memory and a file namespace, NVMe/TCP on loopback');
    const services = { port: await freePort(), discovery: await freePort() };
    await writeFile(configPath, configText(filePath, services, false));
    await target.start();
    done(`listening on 127.0.0.1:${services.port}, discovery on ${services.discovery}`);

    say('2. A host finds it through discovery and connects: 2 I/O queues, header and data digests');
    const log = await discover({ address: '127.0.0.1', port: services.discovery });
    const entry = log.entries.find(({ subnqn }) => subnqn === NQN);
    must(entry !== undefined, 'the discovery log does not show the subsystem');
    host = await HostController.connect({
      address: entry.traddr,
      port: Number(entry.trsvcid),
      subnqn: entry.subnqn,
      ioQueues: 2,
      headerDigest: true,
      dataDigest: true,
      reconnectDelayMs: 100,
      ctrlLossTimeoutMs: TIMEOUT_MS,
    });
    done(`controller ${host.cntlid}, model ${host.identify.mn}, ${(await host.namespaces()).length} namespaces`);

    say(`3. ${MEMORY_MIB} MiB of random data into the memory namespace, read back and compared`);
    await verifiedLoad(await host.namespace(MEMORY_NSID));

    say('4. Deallocate: the space comes back, the blocks read as zeroes');
    await deallocated(await host.namespace(FILE_NSID), filePath);

    say('5. The configuration gets a 10 TiB namespace; SIGHUP; the host hears of it by an asynchronous event');
    await hotAdd(host, target, configPath, configText(filePath, services, true));

    say('6. kill -9 of the target under flushed writes to the file namespace; start it again; the host reconnects');
    await killAndReconnect(host, target);

    await host.close();
    say('7. Clean end: disconnect, SIGTERM, the target drains');
    await target.end('SIGTERM');
    done('the target ended');
    say('\nEverything that was acknowledged is there: demo passed');
  } finally {
    await host?.close().catch(() => {});
    await target.end('SIGKILL');
    await rm(directory, { recursive: true, force: true });
  }
}

/** Runs `count` jobs, `PIECES_IN_FLIGHT` at a time. */
async function inParallel(count: number, job: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await job(next++);
  };
  await Promise.all(Array.from({ length: PIECES_IN_FLIGHT }, lane));
}

const digest = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

async function verifiedLoad(namespace: HostNamespace): Promise<void> {
  const pieceBytes = PIECE_BLOCKS * BLOCK_BYTES;
  const pieces = (MEMORY_MIB << 20) / pieceBytes;
  const written: string[] = [];
  const startMs = performance.now();
  await inParallel(pieces, async (i) => {
    const data = randomBytes(pieceBytes);
    written[i] = digest(data);
    await namespace.write(i * PIECE_BLOCKS, data);
  });
  const middleMs = performance.now();
  let wrong = 0;
  await inParallel(pieces, async (i) => {
    if (digest(await namespace.read(i * PIECE_BLOCKS, PIECE_BLOCKS)) !== written[i]) wrong++;
  });
  must(wrong === 0, `${wrong} of ${pieces} pieces differ from what was written`);
  const rate = (ms: number): string => `${((MEMORY_MIB / ms) * 1000).toFixed(0)} MiB/s`;
  done(
    `written at ${rate(middleMs - startMs)}, read at ${rate(performance.now() - middleMs)} with SHA-256 on this side, all equal`,
  );
}

async function deallocated(namespace: HostNamespace, filePath: string): Promise<void> {
  const blocks = 4096;
  const data = randomBytes(256 * BLOCK_BYTES);
  await inParallel(blocks / 256, (i) => namespace.write(i * 256, data));
  await namespace.flush();
  const before = (await stat(filePath)).blocks * 512;
  await namespace.deallocate(0, blocks);
  await namespace.flush();
  const after = (await stat(filePath)).blocks * 512;
  const zeroes = await namespace.read(100, 1);
  must(
    zeroes.every((byte) => byte === 0),
    'a deallocated block does not read as zeroes',
  );
  done(`the file took ${before >> 10} KiB on disk, now ${after >> 10} KiB`);
}

async function hotAdd(host: HostController, target: TargetProcess, configPath: string, config: string): Promise<void> {
  const changed = once(host, 'namespacesChanged', { signal: AbortSignal.timeout(TIMEOUT_MS) });
  await writeFile(configPath, config);
  await target.reload();
  await changed;
  const namespace = await host.namespace(HOT_NSID);
  const last = namespace.blockCount - 1;
  const data = randomBytes(BLOCK_BYTES);
  await namespace.write(last, data);
  must(digest(await namespace.read(last, 1)) === digest(data), 'the last block of the new namespace differs');
  done(`namespace ${HOT_NSID} is there: ${namespace.sizeBytes / 2 ** 40} TiB; its last block holds what was written`);
}

/** One record a block: its number, then bytes that depend on it. */
function recordOf(index: number): Uint8Array {
  const record = new Uint8Array(BLOCK_BYTES).fill(index & 0xff);
  new DataView(record.buffer).setUint32(0, index, true);
  return record;
}

async function killAndReconnect(host: HostController, target: TargetProcess): Promise<void> {
  const namespace = await host.namespace(FILE_NSID);
  const before = host.reconnectCount;
  let acknowledged = 0;
  let killed: Promise<void> | undefined;
  let downAtMs = 0;
  for (let i = 0; i < FILE_RECORDS; i++) {
    if (i === FILE_RECORDS_BEFORE_KILL) {
      downAtMs = performance.now();
      killed = target.end('SIGKILL').then(async () => void (await target.start()));
    }
    // a write that the kill meets waits for the reconnect and goes out again
    await namespace.write(i, recordOf(i), { fua: true });
    acknowledged = i + 1;
  }
  await killed;
  must(host.reconnectCount > before, 'the host did not have to reconnect');
  for (let i = 0; i < acknowledged; i++) {
    must(digest(await namespace.read(i, 1)) === digest(recordOf(i)), `record ${i} of ${acknowledged} is lost`);
  }
  done(
    `${acknowledged} acknowledged records, all there; ${(performance.now() - downAtMs).toFixed(0)} ms from the kill to the last check`,
  );
}

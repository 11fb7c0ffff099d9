/** Peers that misbehave, in a process of their own: started by `hostile.ts` with what they do, and the target's port and NQN. */
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { icReqPdu, pattern, RawHost } from '../../test/support/raw-host.ts';

const [, , kind, portText, nqn] = process.argv;
const port = Number(portText);

const DEPTH = 32;
const TRANSFER_BYTES = 131_072;
const READ_BYTES = 4096;
const PACE_MS = 10;

async function admin(): Promise<RawHost> {
  const host = await RawHost.connect(port);
  await host.icReq();
  await host.connectQueue({ subnqn: nqn!, katoMs: 600_000 });
  await host.enable();
  return host;
}

async function queue(): Promise<RawHost> {
  const { cntlid } = await admin();
  const host = await RawHost.connect(port);
  await host.icReq();
  await host.connectQueue({ subnqn: nqn!, cntlid, qid: 1, sqsize: 127 });
  return host;
}

const many = <T>(count: number, make: () => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, make));

/** Asks for far more than it takes. */
async function slowReader(): Promise<void> {
  const host = await queue();
  host.socket.pause();
  const read = (): Uint8Array =>
    host.commandBytes(
      { opcode: 2, nsid: 1, cid: host.nextCid(), cdw12: TRANSFER_BYTES / 512 - 1 },
      { readBytes: TRANSFER_BYTES },
    );
  await host.send(...Array.from({ length: DEPTH }, read));
  setInterval(() => host.socket.read(READ_BYTES), PACE_MS);
}

/** Announces data and never sends it. */
async function stalledSender(): Promise<void> {
  const host = await queue();
  const data = pattern(TRANSFER_BYTES, 1);
  for (let i = 0; i < DEPTH; i++) {
    void host
      .command({ opcode: 1, nsid: 1, cdw12: TRANSFER_BYTES / 512 - 1 }, { data, by: 'r2t', manual: true })
      .catch(() => {});
  }
}

/** Reads, each command a byte at a time. */
async function byteByByte(): Promise<void> {
  const host = await queue();
  let bytes: Uint8Array = new Uint8Array(0);
  let at = 0;
  setInterval(() => {
    if (at === bytes.length) {
      const cid = host.nextCid();
      host.completion(cid).catch(() => {});
      bytes = host.commandBytes({ opcode: 2, nsid: 1, cid, cdw12: 7 }, { readBytes: 4096 });
      at = 0;
    }
    host.socket.write(bytes.subarray(at, ++at));
  }, PACE_MS);
}

/** Connects, sends a part of ICReq, resets. */
function aborter(): Promise<void> {
  let round = 0;
  setInterval(() => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.write(icReqPdu().subarray(0, (round++ % 128) + 1));
      setTimeout(() => socket.resetAndDestroy(), PACE_MS);
    });
    socket.on('error', () => {});
  }, PACE_MS);
  return Promise.resolve();
}

const KINDS: Readonly<Record<string, () => Promise<unknown>>> = {
  none: () => Promise.resolve(),
  'slow readers': () => many(64, slowReader),
  'stalled senders': () => many(64, stalledSender),
  'half-open': () => many(200, admin),
  'byte by byte': () => many(64, byteByByte),
  'aborted set-ups': aborter,
};

await KINDS[kind!]!();
process.send!('ready');
process.on('disconnect', () => process.exit());
await sleep(0x7fff_ffff);

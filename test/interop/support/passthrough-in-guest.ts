/**
 * Runs in a guest, bundled: commands to an NVMe device by the I/O engine itself, with data in one piece and in several, by io_uring and by ioctl, I/O
 * and Admin. Prints a line of JSON for each way. Arguments: character device of the namespace, of the controller.
 */
import { openSync } from 'node:fs';
import { IoEngine, NvmeCall } from '../../../src/native/io-engine.ts';
import { nativeBinding } from '../../../src/native/load.ts';
import { AdminOpcode, IoOpcode } from '../../../src/spec/opcode.ts';

/** A range that nobody else uses. */
const SLBA = 16_000;
const BLOCK_BYTES = 512;

/** What one way gave. */
export interface PassthroughResult {
  readonly ioctl: boolean;
  readonly statuses: number[];
  /** What was written in three pieces was read in two, and in one. */
  readonly same: boolean[];
  /** Status beyond the end. */
  readonly refused: number;
  /** Model number, by Identify Controller. */
  readonly model: string;
}

const [namespacePath, controllerPath] = process.argv.slice(2) as [string, string];
const engine = new IoEngine(nativeBinding()!, { depth: 32 });
const namespace = openSync(namespacePath, 'r+');
const controller = openSync(controllerPath, 'r');

function command(admin: boolean, ioctl: boolean, call: NvmeCall, views: readonly Uint8Array[]): Promise<number> {
  const bytes = views.reduce((sum, view) => sum + view.length, 0);
  const data = views.length === 1 ? views[0] : views;
  return new Promise((resolve) => {
    engine.nvme(admin ? controller : namespace, admin, call, data, views.length, bytes, ioctl, (error, result) =>
      resolve(error === null ? result : -1),
    );
  });
}

function io(opcode: number, slba: number, ioctl: boolean, views: readonly Uint8Array[]): Promise<number> {
  const call = new NvmeCall();
  call.opcode = opcode;
  call.nsid = 1;
  call.cdw10To15[0] = slba;
  call.cdw10To15[2] = views.reduce((sum, view) => sum + view.length, 0) / BLOCK_BYTES - 1;
  return command(false, ioctl, call, views);
}

for (const ioctl of [false, true]) {
  const data = Uint8Array.from({ length: 4 * BLOCK_BYTES }, (_, i) => (i * 13 + (i >> 8) + (ioctl ? 1 : 0)) & 0xff);
  const statuses = [
    await io(IoOpcode.Write, SLBA, ioctl, [data.slice(0, 512), data.slice(512, 1536), data.slice(1536)]),
  ];
  const two = [new Uint8Array(1536), new Uint8Array(512)];
  statuses.push(await io(IoOpcode.Read, SLBA, ioctl, two));
  const one = new Uint8Array(4 * BLOCK_BYTES);
  statuses.push(await io(IoOpcode.Read, SLBA, ioctl, [one]));
  const same = [Buffer.concat(two), Buffer.from(one)].map((found) => found.equals(data));
  const refused = await io(IoOpcode.Read, 0x7fff_0000, ioctl, [new Uint8Array(512)]);
  const identify = new NvmeCall();
  identify.opcode = AdminOpcode.Identify;
  identify.cdw10To15[0] = 1;
  const page = [new Uint8Array(4096)];
  statuses.push(await command(true, ioctl, identify, page));
  const model = Buffer.from(page[0]!.subarray(24, 64)).toString('latin1').trim();
  const result: PassthroughResult = { ioctl, statuses, same, refused, model };
  console.log(JSON.stringify({ ...result, passthrough: engine.passthrough }));
}
engine.close();

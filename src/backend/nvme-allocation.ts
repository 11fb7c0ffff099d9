/** Which blocks of a local SSD's namespace are allocated: its own Get LBA Status, Allocated LBAs. NVM Command Set 1.2 section 4.2.1 (TP4165). */
import { AdminOpcode } from '../spec/opcode.ts';
import { NvmeStatusError } from '../util/error.ts';
import { lbaStatusCodec, lbaStatusDescriptorCodec } from '../wire/cold/lba-status.ts';
import type { AllocatedRuns, ByteRun } from './block-backend.ts';
import type { NvmeDevice } from './nvme-device.ts';

const ACTION_ALLOCATED = 0x02;
const COMPLETE = 2;
/** Descriptors of one command: 4 KiB. */
const DESCRIPTORS_MAX = 255;

/** @throws NvmeStatusError, DeviceError */
export async function allocatedOfDevice(
  device: Pick<NvmeDevice, 'admin' | 'path'>,
  nsid: number,
  blockSize: number,
  fromBytes: number,
  endBytes: number,
  runsMax: number,
): Promise<AllocatedRuns> {
  const runs: ByteRun[] = [];
  let at = fromBytes;
  while (at < endBytes && runs.length < runsMax) {
    const wanted = Math.min(DESCRIPTORS_MAX, runsMax - runs.length);
    const { found, complete } = await ask(device, nsid, blockSize, at, wanted);
    for (const { startBytes, endBytes: end } of found) {
      // it answers up to its end
      if (startBytes < endBytes) runs.push({ startBytes, endBytes: Math.min(end, endBytes) });
    }
    const last = found.at(-1);
    if (complete || last === undefined || last.endBytes >= endBytes) return { runs, complete: true };
    at = last.endBytes;
  }
  return { runs, complete: at >= endBytes };
}

async function ask(
  device: Pick<NvmeDevice, 'admin' | 'path'>,
  nsid: number,
  blockSize: number,
  fromBytes: number,
  wanted: number,
): Promise<{ found: ByteRun[]; complete: boolean }> {
  const data = new Uint8Array(lbaStatusCodec.size + wanted * lbaStatusDescriptorCodec.size);
  const slba = fromBytes / blockSize;
  const { status } = await device.admin({
    opcode: AdminOpcode.GetLbaStatus,
    nsid,
    // RL 0: to the end of the namespace
    cdw10To15: [slba % 2 ** 32, Math.floor(slba / 2 ** 32), data.length / 4 - 1, (ACTION_ALLOCATED << 24) >>> 0, 0, 0],
    data,
  });
  if (status !== 0) throw new NvmeStatusError(`${device.path}: Get LBA Status`, status, 'admin');
  const { nlsd, cmpc } = lbaStatusCodec.decode(data);
  const found = Array.from({ length: Math.min(nlsd, wanted) }, (_, i) => {
    const offset = lbaStatusCodec.size + i * lbaStatusDescriptorCodec.size;
    const { dslba, nlb } = lbaStatusDescriptorCodec.decode(data, offset);
    const startBytes = Number(dslba) * blockSize;
    return { startBytes, endBytes: startBytes + (nlb + 1) * blockSize };
  });
  return { found, complete: cmpc === COMPLETE };
}

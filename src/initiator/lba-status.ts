/** Get LBA Status. NVM Command Set 1.2 section 4.2.1. */
import { AdminOpcode } from '../spec/opcode.ts';
import { NvmeofError } from '../util/error.ts';
import { lbaStatusCodec, lbaStatusDescriptorCodec } from '../wire/cold/lba-status.ts';
import type { HostController } from './controller.ts';

/** @public */
export interface LbaStatusOptions {
  /** Default 0. */
  readonly slba?: number;
  /** 0, the default: to the end of the namespace. */
  readonly blockCount?: number;
  /** ATYPE: 10h scan, 11h what is tracked (default), 02h allocated blocks. */
  readonly action?: number;
  /** Most ranges to return. Default 255. */
  readonly rangesMax?: number;
}

/** @public */
export interface LbaStatusRange {
  readonly slba: number;
  readonly blockCount: number;
  /** 0 maybe unreadable, 1 unreadable, 2 holds allocated blocks, 3 Write Uncorrectable. */
  readonly status: number;
}

/** @public */
export interface LbaStatusReport {
  /** CMPC: 0 nothing said, 1 there is more, 2 complete. */
  readonly completion: number;
  readonly ranges: readonly LbaStatusRange[];
}

const ACTION_TRACKED = 0x11;
const RANGES_DEFAULT = 255;
const RANGE_BLOCKS_MAX = 0xffff;

export async function readLbaStatus(
  controller: Pick<HostController, 'executeAdmin'>,
  nsid: number,
  options: LbaStatusOptions,
): Promise<LbaStatusReport> {
  const { slba = 0, blockCount = 0, action = ACTION_TRACKED, rangesMax = RANGES_DEFAULT } = options;
  if (blockCount < 0 || blockCount > RANGE_BLOCKS_MAX) {
    const allowed = `1 to ${RANGE_BLOCKS_MAX} blocks, or 0 for all that follow`;
    throw new NvmeofError('NVMEOF_ERR_ARGUMENT', `Get LBA Status of ${blockCount} blocks, allowed are ${allowed}`);
  }
  const bytes = lbaStatusCodec.size + rangesMax * lbaStatusDescriptorCodec.size;
  const { data } = await controller.executeAdmin(`Get LBA Status of namespace ${nsid}, block ${slba}`, {
    opcode: AdminOpcode.GetLbaStatus,
    nsid,
    cdw10: slba >>> 0,
    cdw11: slba / 0x1_0000_0000,
    cdw12: bytes / 4 - 1,
    cdw13: (blockCount | (action << 24)) >>> 0,
    readBytes: bytes,
  });
  const { nlsd, cmpc } = lbaStatusCodec.decode(data);
  const ranges: LbaStatusRange[] = [];
  const size = lbaStatusDescriptorCodec.size;
  for (let at = lbaStatusCodec.size; ranges.length < nlsd && at + size <= data.length; at += size) {
    const { dslba, nlb, status } = lbaStatusDescriptorCodec.decode(data.subarray(at, at + size));
    ranges.push({ slba: Number(dslba), blockCount: nlb + 1, status });
  }
  return { completion: cmpc, ranges };
}

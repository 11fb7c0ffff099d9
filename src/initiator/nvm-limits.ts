/** Size limits of the NVM command set's commands (Identify CNS 06h, CSI 0), read once per controller. */
import { Cns } from '../spec/identify.ts';
import { NvmeStatusError } from '../util/error.ts';
import { nvmControllerCodec } from '../wire/cold/identify-nvm.ts';
import type { HostController } from './controller.ts';
import { identify } from './controller-commands.ts';

/** Blocks of one command. A limit that the controller only recommends is kept to as well. */
export interface NvmLimits {
  readonly verifyBlocksMax: number;
  readonly writeZeroesBlocksMax: number;
  readonly writeUncorrectableBlocksMax: number;
  /** Write Zeroes takes NSZ. */
  readonly namespaceZeroes: boolean;
}

const BLOCKS_MAX = 65536;
/** Of a controller that was never asked. */
export const NO_LIMITS: NvmLimits = {
  verifyBlocksMax: BLOCKS_MAX,
  writeZeroesBlocksMax: BLOCKS_MAX,
  writeUncorrectableBlocksMax: BLOCKS_MAX,
  namespaceZeroes: false,
};
const PAGE_SHIFT = 12;
const ONCS_NAMESPACE_ZEROES = 0x1000;

interface Shifts {
  readonly vsl: number;
  readonly wzsl: number;
  readonly wusl: number;
}
const known = new WeakMap<HostController, Promise<Shifts>>();

/** A controller without that structure has no limits. */
async function readShifts(controller: HostController): Promise<Shifts> {
  try {
    const page = await identify((what, command) => controller.executeAdmin(what, command), Cns.CommandSetController);
    return nvmControllerCodec.decode(page);
  } catch (error) {
    if (error instanceof NvmeStatusError) return { vsl: 0, wzsl: 0, wusl: 0 };
    known.delete(controller);
    throw error;
  }
}

/** @throws TransportError if the controller is not connected and was never asked */
export async function nvmLimits(controller: HostController, blockSize: number): Promise<NvmLimits> {
  let shifts = known.get(controller);
  if (shifts === undefined) {
    shifts = readShifts(controller);
    known.set(controller, shifts);
  }
  const { vsl, wzsl, wusl } = await shifts;
  const mpsmin = Number(((controller.association?.cap ?? 0n) >> 48n) & 0xfn);
  const blocks = (shift: number): number =>
    shift === 0
      ? BLOCKS_MAX
      : Math.max(1, Math.min(BLOCKS_MAX, Math.floor(2 ** (shift + PAGE_SHIFT + mpsmin) / blockSize)));
  return {
    verifyBlocksMax: blocks(vsl),
    writeZeroesBlocksMax: blocks(wzsl),
    writeUncorrectableBlocksMax: blocks(wusl),
    namespaceZeroes: (controller.identify.oncs & ONCS_NAMESPACE_ZEROES) !== 0,
  };
}

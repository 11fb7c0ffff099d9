/** Of a controller behind PCIe, what of its state tells whether another can take its place. docs/live-migration-over-tcp.md has the layout. */
import { readStateSection } from '../migration/state-section.ts';
import { NvmeofError } from '../util/error.ts';
import { decodeControllerState } from '../wire/cold/controller-state.ts';
import { StateBlockKind } from '../wire/cold/state-blocks.ts';

const HEADER_BYTES = 80;
const CC_ENABLE = 1;
const MSIX_ENTRY_BYTES = 16;

export interface FunctionFigures {
  /** A guest uses it. */
  readonly isEnabled: boolean;
  readonly configBytes: number;
  readonly vectors: number;
  /** Of those that it gives (feature 07h), 0's based. */
  readonly ioQueuesMax: number;
}

/** Undefined: no controller behind PCIe, or none that this program knows. */
export function functionFigures(state: Uint8Array): FunctionFigures | undefined {
  try {
    const { vendor } = decodeControllerState(state);
    if (vendor === undefined) return undefined;
    const block = readStateSection(vendor).blocks.find(({ kind }) => kind === StateBlockKind.PcieFunction);
    if (block === undefined || block.bytes.length < HEADER_BYTES) return undefined;
    const view = new DataView(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength);
    return {
      isEnabled: (view.getUint32(0, true) & CC_ENABLE) !== 0,
      ioQueuesMax: view.getUint16(42, true),
      configBytes: view.getUint32(64, true),
      vectors: view.getUint32(68, true) / MSIX_ENTRY_BYTES,
    };
  } catch (error) {
    if (!(error instanceof NvmeofError)) throw error;
    return undefined; // of another format: its target will say what it does not take
  }
}

/** @param who the controller at the destination, for the messages */
export function functionDifferences(
  ours: FunctionFigures | undefined,
  theirs: FunctionFigures | undefined,
  who: string,
): string[] {
  if (ours === undefined && theirs === undefined) return [];
  if (ours === undefined || theirs === undefined) {
    const [found, needed] = ours === undefined ? ['one', 'none'] : ['none', 'one'];
    return [`${who} is ${found} behind PCIe, the source's is ${needed}: name a controller of the same kind`];
  }
  const found: string[] = [];
  if (theirs.isEnabled) {
    found.push(`${who} is enabled, a guest uses it: shut that down first, or name another controller`);
  }
  const remedy = 'start it with the same --vectors and --queues';
  if (theirs.vectors !== ours.vectors || theirs.configBytes !== ours.configBytes) {
    const figures = ({ vectors, configBytes }: FunctionFigures): string =>
      `${vectors} vectors and ${configBytes} bytes of config space`;
    found.push(`${who} has ${figures(theirs)}, the source's ${figures(ours)}: ${remedy}`);
  }
  if (theirs.ioQueuesMax < ours.ioQueuesMax) {
    found.push(`${who} has ${theirs.ioQueuesMax} I/O queues, the source's ${ours.ioQueuesMax}: ${remedy}`);
  }
  return found;
}

/** Of a controller behind PCIe, what of its state tells whether another can take its place. docs/live-migration-over-tcp.md has the layout. */
import { readStateSection, type StateBlock } from '../migration/state-section.ts';
import { NvmeofError } from '../util/error.ts';
import { decodeControllerState } from '../wire/cold/controller-state.ts';
import { pcieRegistersCodec, StateBlockKind } from '../wire/cold/state-blocks.ts';
import { type Difference, type FigureRule, figureDifferences } from './figure-rules.ts';

const HEADER_BYTES = 80;
const CC_ENABLE = 1;
const MSIX_ENTRY_BYTES = 16;

export interface FunctionFigures {
  /** A guest uses it. */
  readonly isEnabled: boolean;
  /** But it does not run. */
  readonly isSuspended?: boolean;
  readonly configBytes: number;
  readonly vectors: number;
  /** Of those that it gives (feature 07h), 0's based. */
  readonly ioQueuesMax: number;
  /** Undefined: its target does not say them. */
  readonly registers?: RegisterFigures | undefined;
}

/** Fields of CAP, and VS. */
const CAP_FIELDS = {
  mqes: [0, 16],
  cqr: [16, 1],
  ams: [17, 2],
  to: [24, 8],
  dstrd: [32, 4],
  nssrs: [36, 1],
  css: [37, 8],
  bps: [45, 1],
  mpsmin: [48, 4],
  mpsmax: [52, 4],
  pmrs: [56, 1],
  cmbs: [57, 1],
  crms: [59, 2],
} as const;
type CapField = keyof typeof CAP_FIELDS;
export type RegisterFigures = Readonly<Record<CapField | 'vs', number>>;

/** A guest reads them once, before it enables its controller. Base 2.1 section 3.1.4. */
export const REGISTER_RULES: readonly FigureRule<keyof RegisterFigures>[] = [
  {
    ...{ figure: 'dstrd', verdict: 'same', severity: { controller: 'refused' } },
    says: 'a guest rings where it was told; give it the same stride of doorbells',
  },
  {
    ...{ figure: 'mpsmin', verdict: 'atMost', severity: { controller: 'refused' } },
    says: "a guest's memory pages are too small for it, and transfers (MDTS) are counted in others; use the same version",
  },
  {
    ...{ figure: 'mpsmax', verdict: 'atLeast', severity: { controller: 'less' } },
    says: 'a guest that is reset may choose larger memory pages; use the same version',
  },
  {
    ...{ figure: 'mqes', verdict: 'atLeast', severity: { controller: 'less' }, unit: 'entries', isZeroBased: true },
    says: 'a guest that makes its queues again asks for more than there are; give it as many',
  },
  {
    ...{ figure: 'cqr', verdict: 'atMost', severity: { controller: 'refused' } },
    says: 'the queues of a guest need not be in one piece at the source; use the same version',
  },
  {
    ...{ figure: 'ams', verdict: 'bits', severity: { controller: 'less' } },
    says: 'a guest may have chosen that arbitration; use the same version',
  },
  {
    ...{ figure: 'css', verdict: 'bits', severity: { controller: 'less' } },
    says: 'a guest may have chosen that command set; use the same version',
  },
  {
    ...{ figure: 'nssrs', verdict: 'bits', severity: { controller: 'note' } },
    says: 'a guest that was told of the subsystem reset has none; allow it there',
  },
  {
    ...{ figure: 'bps', verdict: 'bits', severity: { controller: 'less' } },
    says: 'a guest was told of a boot partition; use the same version',
  },
  {
    ...{ figure: 'pmrs', verdict: 'bits', severity: { controller: 'refused' } },
    says: 'a guest may have its persistent memory region; use the same version',
  },
  {
    ...{ figure: 'cmbs', verdict: 'bits', severity: { controller: 'refused' } },
    says: "a guest may have queues in its controller's memory; use the same version",
  },
  {
    ...{ figure: 'crms', verdict: 'bits', severity: { controller: 'less' } },
    says: 'a guest may wait for it to be ready in that way; use the same version',
  },
  {
    ...{ figure: 'to', verdict: 'atMost', severity: { controller: 'note' }, unit: 'x 500 ms' },
    says: 'a guest that resets it waits no longer than it was told by the source',
  },
  {
    ...{ figure: 'vs', verdict: 'same', severity: { controller: 'note' } },
    says: 'a guest that reads it again sees another version of NVMe',
  },
];

/** Undefined: no controller behind PCIe, or none that this program knows. @param isSuspended it was, while its state was read */
export function functionFigures(state: Uint8Array, isSuspended = false): FunctionFigures | undefined {
  try {
    const { vendor } = decodeControllerState(state);
    if (vendor === undefined) return undefined;
    const { blocks } = readStateSection(vendor);
    const block = blocks.find(({ kind }) => kind === StateBlockKind.PcieFunction);
    if (block === undefined || block.bytes.length < HEADER_BYTES) return undefined;
    const view = new DataView(block.bytes.buffer, block.bytes.byteOffset, block.bytes.byteLength);
    return {
      isEnabled: (view.getUint32(0, true) & CC_ENABLE) !== 0,
      isSuspended,
      ioQueuesMax: view.getUint16(42, true),
      configBytes: view.getUint32(64, true),
      vectors: view.getUint32(68, true) / MSIX_ENTRY_BYTES,
      registers: registersIn(blocks),
    };
  } catch (error) {
    if (!(error instanceof NvmeofError)) throw error;
    return undefined; // of another format: its target will say what it does not take
  }
}

function registersIn(blocks: readonly StateBlock[]): RegisterFigures | undefined {
  const block = blocks.find(({ kind }) => kind === StateBlockKind.PcieRegisters);
  if (block === undefined) return undefined;
  const { cap, vs } = pcieRegistersCodec.decode(block.bytes);
  return registerFigures(cap, vs);
}

export function registerFigures(cap: bigint, vs: number): RegisterFigures {
  const fields = Object.entries(CAP_FIELDS).map(([name, [shift, bits]]) => [
    name,
    Number((cap >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n)),
  ]);
  return { ...(Object.fromEntries(fields) as Record<CapField, number>), vs };
}

/** @param who the controller at the destination, for the messages */
export function functionDifferences(
  ours: FunctionFigures | undefined,
  theirs: FunctionFigures | undefined,
  who: string,
): Difference[] {
  if (ours === undefined && theirs === undefined) return [];
  if (ours === undefined || theirs === undefined) {
    const [found, needed] = ours === undefined ? ['one', 'none'] : ['none', 'one'];
    return [refused(`${who} is ${found} behind PCIe, the source's is ${needed}: name a controller of the same kind`)];
  }
  const found: Difference[] = [];
  if (theirs.isEnabled) {
    const why = theirs.isSuspended
      ? 'suspended, as a move leaves it that could not be cleaned up, or is under way: end that, or start its process anew'
      : 'a guest uses it: shut that down first, or name another controller';
    found.push(refused(`${who} is enabled, ${why}`));
  }
  const remedy = 'start it with the same --vectors and --queues';
  if (theirs.vectors !== ours.vectors || theirs.configBytes !== ours.configBytes) {
    const figures = ({ vectors, configBytes }: FunctionFigures): string =>
      `${vectors} vectors and ${configBytes} bytes of config space`;
    found.push(refused(`${who} has ${figures(theirs)}, the source's ${figures(ours)}: ${remedy}`));
  }
  if (theirs.ioQueuesMax < ours.ioQueuesMax) {
    found.push(refused(`${who} has ${theirs.ioQueuesMax} I/O queues, the source's ${ours.ioQueuesMax}: ${remedy}`));
  }
  if (ours.registers !== undefined && theirs.registers !== undefined) {
    found.push(...figureDifferences(REGISTER_RULES, who, ours.registers, theirs.registers, 'controller'));
  }
  return found;
}

const refused = (message: string): Difference => ({ severity: 'refused', message });

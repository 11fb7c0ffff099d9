/** Asymmetric Namespace Access log page (LID 0Ch). Base 2.1 section 5.1.12.1.13. */
import { type Codec, type Decoded, structure } from './table.ts';
import { WireError } from './wire-error.ts';

export const ANA_HEADER_BYTES = 16;
export const ANA_DESCRIPTOR_BYTES = 32;
/** @public */
export const AnaState = { Optimized: 1, NonOptimized: 2, Inaccessible: 3, PersistentLoss: 4, Change: 15 } as const;

/** States by the names that Linux and nvme-cli use. @public */
export const ANA_STATE_NAMES = {
  optimized: 1,
  'non-optimized': 2,
  inaccessible: 3,
  'persistent-loss': 4,
  change: 15,
} as const;
/** @public */
export type AnaStateName = keyof typeof ANA_STATE_NAMES;

/** @param state one of `AnaState` @public */
export function anaStateName(state: number): AnaStateName | 'invalid' {
  const found = Object.entries(ANA_STATE_NAMES).find(([, value]) => value === state);
  return found === undefined ? 'invalid' : (found[0] as AnaStateName);
}

const HEADER = [
  [0, 'chgcnt', 'u64'],
  [8, 'ngrps', 'u16'],
  [10, 'reserved', 6],
] as const;
const headerCodec: Codec<Decoded<typeof HEADER>> = structure('AnaLog', ANA_HEADER_BYTES, HEADER);

const DESCRIPTOR = [
  [0, 'grpid', 'u32'],
  [4, 'nnsids', 'u32'],
  [8, 'chgcnt', 'u64'],
  [16, 'state', 'u8', 0x0f],
  [17, 'reserved', 15],
] as const;
const descriptorCodec: Codec<Decoded<typeof DESCRIPTOR>> = structure('AnaDescriptor', ANA_DESCRIPTOR_BYTES, DESCRIPTOR);

/** @public */
export interface AnaGroup {
  readonly grpid: number;
  readonly chgcnt: bigint;
  /** One of `AnaState`. */
  readonly state: number;
  /** Ascending. Empty if the log was asked for groups only. */
  readonly nsids: readonly number[];
}
/** @public */
export interface AnaLog {
  readonly chgcnt: bigint;
  /** Ascending by `grpid`. */
  readonly groups: readonly AnaGroup[];
}

/**
 * @param groupsOnly the host set RGO: no namespaces are listed, and NNSIDS is 0
 * @throws WireError if a value does not fit
 * @public
 */
export function encodeAnaLog(log: AnaLog, groupsOnly = false): Uint8Array {
  const nsidBytes = (group: AnaGroup): number => (groupsOnly ? 0 : group.nsids.length * 4);
  const size = log.groups.reduce((sum, group) => sum + ANA_DESCRIPTOR_BYTES + nsidBytes(group), ANA_HEADER_BYTES);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  headerCodec.encodeInto(bytes, 0, { chgcnt: log.chgcnt, ngrps: log.groups.length });
  let offset = ANA_HEADER_BYTES;
  for (const group of log.groups) {
    const { grpid, chgcnt, state } = group;
    const nsids = groupsOnly ? [] : group.nsids;
    descriptorCodec.encodeInto(bytes, offset, { grpid, nnsids: nsids.length, chgcnt, state });
    offset += ANA_DESCRIPTOR_BYTES;
    for (const nsid of nsids) {
      if (!Number.isInteger(nsid) || nsid < 1 || nsid > 0xfffffffe) {
        throw new WireError('range', 'AnaDescriptor', 'nsids', 32, `has ${nsid}, allowed are 1 to 4294967294`);
      }
      view.setUint32(offset, nsid, true);
      offset += 4;
    }
  }
  return bytes;
}

/**
 * @param bytes the page; what follows the last group is ignored
 * @throws WireError `short` if a group is not wholly in `bytes`
 * @public
 */
export function decodeAnaLog(bytes: Uint8Array): AnaLog {
  const { chgcnt, ngrps } = headerCodec.decode(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const groups: AnaGroup[] = [];
  let offset = ANA_HEADER_BYTES;
  for (let i = 0; i < ngrps; i++) {
    const group = descriptorCodec.decode(bytes, offset);
    offset += ANA_DESCRIPTOR_BYTES;
    if (group.nnsids * 4 > bytes.length - offset) {
      const detail = `is ${group.nnsids}, which do not fit into the ${bytes.length - offset} bytes left`;
      throw new WireError('short', 'AnaDescriptor', 'nnsids', 4, detail);
    }
    const nsids: number[] = [];
    for (let n = 0; n < group.nnsids; n++, offset += 4) nsids.push(view.getUint32(offset, true));
    groups.push({ grpid: group.grpid, chgcnt: group.chgcnt, state: group.state, nsids });
  }
  return { chgcnt, groups };
}

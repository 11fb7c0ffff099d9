/** A controller state as plain values, for people and for JSON; and what is different between two. */
import { isStateSection, readStateSection, type StateBlock } from '../../../migration/state-section.ts';
import {
  type CompletionQueueState,
  controllerStateHeaderCodec,
  decodeControllerState,
  type SubmissionQueueState,
} from '../../../wire/cold/controller-state.ts';
import {
  anaCountsCodec,
  dwordsCodec,
  errorsCodec,
  eventsCodec,
  hostBlockCodec,
  namespacesCodec,
  noticesCodec,
  pcieRegistersCodec,
  ReservationFlag,
  reservationsCodec,
  StateBlockKind,
  settingsCodec,
  settingsQueuesCodec,
  TimestampFlag,
  timestampCodec,
} from '../../../wire/cold/state-blocks.ts';
import { hex, toHex } from '../print.ts';

export interface StateView {
  readonly ver: number;
  readonly suspended: boolean;
  readonly nvmecss: number;
  readonly vss: number;
  /** Version 0 of the specification. */
  readonly nvme?: { readonly submissionQueues: readonly object[]; readonly completionQueues: readonly object[] };
  readonly vendor?: VendorView;
}

export interface VendorView {
  readonly format: string;
  readonly minor?: number;
  readonly blocks?: readonly BlockView[];
  /** Of a format that is not ours. */
  readonly bytes?: string;
}

export interface BlockView {
  readonly kind: number;
  readonly name: string;
  readonly version: number;
  readonly essential: boolean;
  readonly length: number;
  readonly content: unknown;
}

/** @param bytes the structure; more behind it is ignored @throws WireError, MigrationError what is wrong with it */
export function viewState(bytes: Uint8Array): StateView {
  const { ver, nvmecss, vss } = controllerStateHeaderCodec.decode(bytes);
  const size = 48 + 4 * Number(nvmecss + vss);
  const { suspended, nvme, vendor } = decodeControllerState(bytes.length > size ? bytes.subarray(0, size) : bytes);
  return {
    ver,
    suspended,
    nvmecss: Number(nvmecss),
    vss: Number(vss),
    ...(nvme === undefined
      ? {}
      : {
          nvme: {
            submissionQueues: nvme.submissionQueues.map(viewSubmissionQueue),
            completionQueues: nvme.completionQueues.map(viewCompletionQueue),
          },
        }),
    ...(vendor === undefined ? {} : { vendor: viewVendor(vendor) }),
  };
}

const viewSubmissionQueue = (queue: SubmissionQueueState): object => ({
  qid: queue.qid,
  cqid: queue.cqid,
  entries: queue.qsize + 1,
  prp1: hex(queue.prp1),
  pc: queue.attributes & 1,
  qprio: (queue.attributes >> 1) & 3,
  head: queue.head,
  tail: queue.tail,
});

const viewCompletionQueue = (queue: CompletionQueueState): object => ({
  qid: queue.qid,
  entries: queue.qsize + 1,
  prp1: hex(queue.prp1),
  pc: queue.attributes & 1,
  ien: (queue.attributes >> 1) & 1,
  s0pt: (queue.attributes >> 2) & 1,
  iv: queue.vector,
  head: queue.head,
  tail: queue.tail,
});

function viewVendor(vendor: Uint8Array): VendorView {
  if (!isStateSection(vendor)) return { format: 'unknown', bytes: toHex(vendor) };
  const { minor, blocks } = readStateSection(vendor);
  return { format: 'nvmeferry', minor, blocks: blocks.map(viewBlock) };
}

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(StateBlockKind).map(([name, kind]) => [kind, name[0]!.toLowerCase() + name.slice(1)]),
);

const pairs = (values: readonly number[]): object[] =>
  Array.from({ length: Math.floor(values.length / 2) }, (_, i) => ({
    fid: hex(values[2 * i]! & 0xff),
    ...(values[2 * i]! > 0xff ? { select: values[2 * i]! >>> 8 } : {}),
    value: hex(values[2 * i + 1]!),
  }));

function viewSettings(bytes: Uint8Array): object {
  const settings = settingsCodec.decode(bytes);
  if (bytes.length < settingsCodec.size + settingsQueuesCodec.size) return settings;
  return { ...settings, ...settingsQueuesCodec.decode(bytes, settingsCodec.size) };
}

function viewTimestamp(bytes: Uint8Array): object {
  const { ms, flags } = timestampCodec.decode(bytes);
  return { ms, wasSet: (flags & TimestampFlag.WasSet) !== 0, stopped: (flags & TimestampFlag.Stopped) !== 0 };
}

const CONTENTS: Readonly<Record<number, (bytes: Uint8Array) => unknown>> = {
  [StateBlockKind.Host]: hostBlockCodec.decode,
  [StateBlockKind.Settings]: viewSettings,
  [StateBlockKind.Features]: (bytes) => pairs(dwordsCodec.decode(bytes)),
  [StateBlockKind.ChangedNamespaces]: dwordsCodec.decode,
  [StateBlockKind.DeallocatedErrors]: dwordsCodec.decode,
  [StateBlockKind.ErrorCount]: (bytes) => dwordsCodec.decode(bytes)[0],
  [StateBlockKind.Timestamp]: viewTimestamp,
  [StateBlockKind.ChangedAllocatedNamespaces]: dwordsCodec.decode,
  [StateBlockKind.AnaCounts]: anaCountsCodec.decode,
  [StateBlockKind.Errors]: errorsCodec.decode,
  [StateBlockKind.Events]: eventsCodec.decode,
  [StateBlockKind.Namespaces]: namespacesCodec.decode,
  [StateBlockKind.Reservations]: (bytes) =>
    reservationsCodec.decode(bytes).map(({ flags, key, ...entry }) => ({
      ...entry,
      registered: (flags & ReservationFlag.Registered) !== 0,
      persistent: (flags & ReservationFlag.Persistent) !== 0,
      key: hex(key),
    })),
  [StateBlockKind.ReservationNotices]: noticesCodec.decode,
  [StateBlockKind.PcieRegisters]: (bytes) => {
    const { cap, vs } = pcieRegistersCodec.decode(bytes);
    return { cap: hex(cap), vs: hex(vs) };
  },
};

function viewBlock({ kind, version, essential, bytes }: StateBlock): BlockView {
  const content = CONTENTS[kind]?.(bytes) ?? toHex(bytes);
  return { kind, name: NAMES.get(kind) ?? 'unknown', version, essential, length: bytes.length, content };
}

// ---- text and differences ------------------------------------------------------------------------------------------------------------

/** One value of a state, by where it stands. */
export type Leaf = readonly [path: string, value: string];

/** Lists of objects are named by what identifies their elements. */
const IDENTITIES = ['qid', 'nsid', 'fid', 'anagrpid', 'name'] as const;

function elementName(element: unknown, index: number, siblings: readonly unknown[]): string {
  if (typeof element !== 'object' || element === null) return String(index);
  for (const key of IDENTITIES) {
    const value = (element as Record<string, unknown>)[key];
    if (value === undefined || value === 'unknown') continue;
    const isUnique = siblings.every((other, i) => i === index || (other as Record<string, unknown>)[key] !== value);
    if (isUnique) return key === 'name' ? String(value) : `${key}=${String(value)}`;
  }
  return String(index);
}

/** Every value, in order. */
export function leaves(value: unknown, path = ''): Leaf[] {
  const at = (name: string): string => (path === '' ? name : `${path}.${name}`);
  if (value instanceof Uint8Array) return [[path, toHex(value)]];
  if (Array.isArray(value)) {
    if (value.length === 0) return [[path, 'none']];
    if (value.every((element) => typeof element !== 'object')) return [[path, value.join(', ')]];
    return value.flatMap((element, i) => leaves(element, at(elementName(element, i, value))));
  }
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).flatMap(([name, inner]) => leaves(inner, at(name)));
  }
  return [[path, String(value)]];
}

/** One difference; undefined where one of them has nothing there. */
export interface StateDifference {
  readonly path: string;
  readonly before: string | undefined;
  readonly after: string | undefined;
}

export function diffStates(before: StateView, after: StateView): StateDifference[] {
  const [a, b] = [new Map(leaves(before)), new Map(leaves(after))];
  const paths = [...a.keys(), ...[...b.keys()].filter((path) => !a.has(path))];
  return paths
    .map((path) => ({ path, before: a.get(path), after: b.get(path) }))
    .filter((difference) => difference.before !== difference.after);
}

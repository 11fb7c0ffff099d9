/**
 * What Identify Controller and the logs of what is supported tell a guest, or hosts, and which way round it may differ. A guest asks once; a host asks each
 * path for itself, so that little of it matters to hosts, and nothing of what belongs to a connection (capsule sizes, SGLS, KAS, MAXCMD, ANA groups). What
 * needs more than a comparison is in compatibility.ts. Base 2.1 figure 312.
 */
import { type Difference, type FigureRule, figureDifferences, lacking } from './figure-rules.ts';
import type { MoveSpec } from './move-spec.ts';

type Kind = MoveSpec['kind'];

/** By name, as Identify Controller has them. */
export const IDENTIFY_FIELDS = [
  'vid',
  'ver',
  'cntrltype',
  'oacs',
  'oaes',
  'lpa',
  'aerl',
  'frmw',
  'elpe',
  'nn',
  'fna',
  'nwpc',
  'sqes',
  'cqes',
  'hmpre',
  'sanicap',
  'ocfs',
  'anacap',
] as const;
export type IdentifyFigures = Readonly<Record<(typeof IDENTIFY_FIELDS)[number], number>>;

/** Undefined: not known. */
export interface Told {
  readonly identify?: IdentifyFigures | undefined;
  /** Identifiers of those that are supported. */
  readonly logPages?: readonly number[] | undefined;
  readonly features?: readonly number[] | undefined;
}

const bothLess = { controller: 'less', namespaces: 'less' } as const;
const bothNote = { controller: 'note', namespaces: 'note' } as const;
const lessToGuests = { controller: 'less', namespaces: 'note' } as const;

export const IDENTIFY_RULES: readonly FigureRule<keyof IdentifyFigures>[] = [
  {
    ...{ figure: 'cntrltype', verdict: 'same', severity: bothLess },
    says: 'it is another type of controller; use an I/O controller',
  },
  {
    ...{ figure: 'oacs', verdict: 'bits', severity: lessToGuests },
    says: 'optional admin commands that were offered fail there; use the same version and settings',
  },
  {
    ...{ figure: 'oaes', verdict: 'bits', severity: { controller: 'note' } },
    says: 'events that were asked for do not come any more; use the same version',
  },
  {
    ...{ figure: 'lpa', verdict: 'bits', severity: { controller: 'note' } },
    says: 'log pages that were offered fail there; use the same version',
  },
  {
    ...{
      figure: 'aerl',
      verdict: 'atLeast',
      severity: { controller: 'less' },
      unit: 'event requests',
      isZeroBased: true,
    },
    says: 'a guest leaves as many with it as it was told; use the same version',
  },
  {
    ...{ figure: 'elpe', verdict: 'atLeast', severity: { controller: 'note' }, unit: 'errors', isZeroBased: true },
    says: 'the error log is shorter than a guest was told',
  },
  {
    ...{ figure: 'nn', verdict: 'atLeast', severity: lessToGuests, unit: 'namespaces' },
    says: 'NSIDs that the source could have are invalid there; raise the number of namespaces',
  },
  {
    ...{ figure: 'sqes', verdict: 'same', severity: { controller: 'less' } },
    says: 'entries of submission queues are of another size; use the same version',
  },
  {
    ...{ figure: 'cqes', verdict: 'same', severity: { controller: 'less' } },
    says: 'entries of completion queues are of another size; use the same version',
  },
  {
    ...{ figure: 'hmpre', verdict: 'atMost', severity: { controller: 'note' }, unit: 'x 4 KiB' },
    says: 'it would like more memory of its host, which nobody gives it now',
  },
  {
    ...{ figure: 'sanicap', verdict: 'bits', severity: bothNote },
    says: 'kinds of sanitizing that were offered fail there; use the same backend',
  },
  {
    ...{ figure: 'fna', verdict: 'same', severity: { controller: 'note' } },
    says: 'a format or an erasure concerns other namespaces than was told',
  },
  {
    ...{ figure: 'nwpc', verdict: 'bits', severity: bothNote },
    says: 'kinds of write protection that were offered fail there; use the same version',
  },
  {
    ...{ figure: 'ocfs', verdict: 'bits', severity: bothNote },
    says: 'formats of Copy that were offered fail there; use the same version',
  },
  {
    ...{ figure: 'frmw', verdict: 'same', severity: { controller: 'note' } },
    says: 'firmware slots are others than a guest was told',
  },
  {
    ...{ figure: 'anacap', verdict: 'bits', severity: { namespaces: 'note' } },
    says: 'there are ANA states that it does not report; use the same version',
  },
  {
    ...{ figure: 'vid', verdict: 'same', severity: { controller: 'note' } },
    says: 'a guest that identifies it again sees another vendor',
  },
  {
    ...{ figure: 'ver', verdict: 'same', severity: bothNote },
    says: 'it says another version of NVMe than was told; use the same version',
  },
];

const list = (ids: readonly number[]): string =>
  ids.map((id) => `${id.toString(16).toUpperCase().padStart(2, '0')}h`).join(', ');

/** @param who the destination, for the messages */
export function identifyDifferences(who: string, ours: Told, theirs: Told, kind: Kind): Difference[] {
  const found: Difference[] = [];
  if (ours.identify !== undefined && theirs.identify !== undefined) {
    found.push(...figureDifferences(IDENTIFY_RULES, who, ours.identify, theirs.identify, kind));
  }
  const logs = lacking(ours.logPages ?? [], theirs.logPages ?? ours.logPages ?? []);
  if (logs.length > 0) {
    const remedy = 'who was told of them finds none; use the same version';
    found.push({ severity: 'note', message: `${who} lacks log pages of the source (${list(logs)}): ${remedy}` });
  }
  const features = lacking(ours.features ?? [], theirs.features ?? ours.features ?? []);
  if (features.length > 0) {
    const remedy = 'what was set by them is refused, or lost; use the same version';
    const severity = kind === 'controller' ? 'less' : 'note';
    found.push({ severity, message: `${who} lacks features of the source (${list(features)}): ${remedy}` });
  }
  return found;
}

/** What one side says of itself against what the other says, by tables: which way round each figure may differ, and what is to be said if it does not fit. */
import type { MoveSpec } from './move-spec.ts';

/** `refused`: it cannot work; `less`: refused, unless the operator accepts it; `note`: to be known. */
export interface Difference {
  readonly severity: 'refused' | 'less' | 'note';
  readonly message: string;
}

/** That of the destination has to be: the same; no lower; no higher; with all bits that the source has. */
export type Verdict = 'same' | 'atLeast' | 'atMost' | 'bits';

export interface FigureRule<Name extends string> {
  readonly figure: Name;
  readonly verdict: Verdict;
  /** By kind of move; absent: no obstacle to it. */
  readonly severity: Partial<Readonly<Record<MoveSpec['kind'], Difference['severity']>>>;
  /** What comes of it, and the remedy. */
  readonly says: string;
  /** The unit of a figure that counts; others are shown in hex. */
  readonly unit?: string;
  /** 0's based: 1 is shown for 0. */
  readonly isZeroBased?: boolean;
}

type Figure = number | bigint;

const FITS: Readonly<Record<Verdict, (ours: bigint, theirs: bigint) => boolean>> = {
  same: (ours, theirs) => ours === theirs,
  atLeast: (ours, theirs) => theirs >= ours,
  atMost: (ours, theirs) => theirs <= ours,
  bits: (ours, theirs) => (ours & ~theirs) === 0n,
};

/** @param who the destination, for the messages */
export function figureDifferences<Name extends string>(
  rules: readonly FigureRule<Name>[],
  who: string,
  ours: Readonly<Record<Name, Figure>>,
  theirs: Readonly<Record<Name, Figure>>,
  kind: MoveSpec['kind'],
): Difference[] {
  return rules.flatMap((rule) => {
    const severity = rule.severity[kind];
    const [here, there] = [BigInt(ours[rule.figure]), BigInt(theirs[rule.figure])];
    if (severity === undefined || FITS[rule.verdict](here, there)) return [];
    const name = rule.figure.toUpperCase();
    const figures = `${name} ${shown(rule, there)}, the source ${shown(rule, here)}`;
    const missing = rule.verdict === 'bits' ? ` (lacks ${hex(here & ~there)})` : '';
    return [{ severity, message: `${who} has ${figures}${missing}: ${rule.says}` }];
  });
}

const hex = (value: bigint): string => `0x${value.toString(16)}`;

function shown<Name extends string>({ unit, isZeroBased = false }: FigureRule<Name>, value: bigint): string {
  return unit === undefined ? hex(value) : `${value + (isZeroBased ? 1n : 0n)} ${unit}`;
}

/** Identifiers that are there, and those of the other: which are missing. */
export function lacking(ours: readonly number[], theirs: readonly number[]): number[] {
  const there = new Set(theirs);
  return ours.filter((id) => !there.has(id));
}

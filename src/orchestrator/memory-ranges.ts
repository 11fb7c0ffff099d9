/** Memory as Track Memory Changes takes it: units of a granularity, so many ranges, of a power of two each where the controller wants that. Base 2.1 section 5.1.26. */
import { MEMORY_UNIT_BYTES, TrackingAttribute } from '../spec/migration.ts';
import type { IdentifyController } from '../wire/cold/identify-controller.ts';
import type { TrackedUnits } from '../wire/cold/track-memory.ts';
import type { MemoryRun } from './end.ts';

const RANGE_UNITS_MAX = 0xffff_ffff;

/**
 * @param exponent granularity 2^n x 4 KiB
 * @param rangesMax the nearest are put together, with what is between them, until there are no more than that
 * @returns undefined: it cannot be said in so many
 */
export function unitsOf(
  ranges: readonly MemoryRun[],
  exponent: number,
  { trattr }: Pick<IdentifyController, 'trattr'>,
  rangesMax: number,
): TrackedUnits[] | undefined {
  const unit = MEMORY_UNIT_BYTES * 2 ** exponent;
  const wantsPowers = (trattr & TrackingAttribute.PowerOfTwoRanges) !== 0;
  const aligned = ranges.map(({ address, lengthBytes }) => {
    const first = Math.floor(address / unit);
    return { address: first, lengthBytes: Math.ceil((address + lengthBytes) / unit) - first };
  });
  for (let count = rangesMax; count > 0; count--) {
    const units = nearestTogether(aligned, count).flatMap((range) => parts(range, unit, wantsPowers));
    if (units.length <= rangesMax) return units;
  }
  return undefined;
}

function parts({ address, lengthBytes }: MemoryRun, unit: number, wantsPowers: boolean): TrackedUnits[] {
  const found: TrackedUnits[] = [];
  for (let at = address, left = lengthBytes; left > 0; ) {
    const len = Math.min(RANGE_UNITS_MAX, wantsPowers ? 2 ** Math.floor(Math.log2(left)) : left);
    found.push({ saddr: BigInt(at) * BigInt(unit), len });
    at += len;
    left -= len;
  }
  return found;
}

/** Ranges that touch are one; of the others, those with the smallest gaps become one until `count` are left. */
function nearestTogether(ranges: readonly MemoryRun[], count: number): MemoryRun[] {
  const joined: { address: number; end: number }[] = [];
  for (const { address, lengthBytes } of [...ranges].sort((a, b) => a.address - b.address)) {
    const last = joined.at(-1);
    const end = address + lengthBytes;
    if (last !== undefined && address <= last.end) last.end = Math.max(last.end, end);
    else joined.push({ address, end });
  }
  const gaps = joined.slice(1).map(({ address }, i) => address - joined[i]!.end);
  const widest = [...gaps].sort((a, b) => b - a).slice(0, count - 1);
  // gaps of one width: not more of them than are kept
  const kept = new Map<number, number>();
  for (const gap of widest) kept.set(gap, (kept.get(gap) ?? 0) + 1);
  const result: { address: number; end: number }[] = [];
  for (const [i, range] of joined.entries()) {
    const gap = gaps[i - 1];
    const left = gap === undefined ? 1 : (kept.get(gap) ?? 0);
    if (left > 0) {
      if (gap !== undefined) kept.set(gap, left - 1);
      result.push({ ...range });
    } else result.at(-1)!.end = range.end;
  }
  return result.map(({ address, end }) => ({ address, lengthBytes: end - address }));
}

/** Those parts of `runs` that are in `ranges`: a unit may be more than was asked for. */
export function within(runs: readonly MemoryRun[], ranges: readonly MemoryRun[]): MemoryRun[] {
  return runs.flatMap((run) =>
    ranges.flatMap((range) => {
      const address = Math.max(run.address, range.address);
      const end = Math.min(run.address + run.lengthBytes, range.address + range.lengthBytes);
      return end > address ? [{ address, lengthBytes: end - address }] : [];
    }),
  );
}

/** The copying as it goes on, in three lines for a terminal: where it stands, what the hosts do and what the pause would be, and how it converges. */
import { bytesOf, type MoveReport } from '../../orchestrator/move-report.ts';
import { bytesText, durationText, rateText, sparkline } from './units.ts';

export interface PictureOf {
  readonly report: MoveReport;
  /** The step under way; undefined before the first. */
  readonly step: string | undefined;
  /** To copy at least, as planned. */
  readonly plannedBytes: number;
  /** Bytes a second, of the moment. */
  readonly throughput: number;
  readonly dirtyRate: number;
  /** Until the budget can be kept, as the last round has it; undefined: not known, or never. */
  readonly remainingMs: number | undefined;
}

/** @param columns no line is longer */
export function picture(of: PictureOf, columns: number): readonly string[] {
  const { report, step = 'begin', plannedBytes, throughput, dirtyRate } = of;
  const { rounds } = report;
  const { moved } = bytesOf(report);
  const isCopying = step === 'pre-copy';
  const isFirst = isCopying && rounds.length === 0;
  const share =
    isFirst && plannedBytes > 0
      ? ` of ${bytesText(plannedBytes)} (${Math.min(100, Math.floor((moved / plannedBytes) * 100))} %)`
      : '';
  const where = isCopying ? `pre-copy, round ${rounds.length + 1}` : step;
  const lines = [
    joined([where, durationText(report.totalMs), `${bytesText(moved)}${share}`, rateText(throughput)]),
    joined([`changing ${rateText(dirtyRate)}`, pauseText(report), toGoText(of, moved, isFirst)]),
  ];
  if (rounds.length > 0) {
    const left = rounds.map(({ dirtiedBytes }) => dirtiedBytes);
    lines.push(joined([`left ${bytesText(left.at(-1)!)}`, sparkline(left)]));
  }
  return lines.map((line) => cut(line, columns));
}

const joined = (parts: readonly string[]): string => parts.filter((part) => part !== '').join('   ');

function pauseText({ rounds, blackoutBudgetMs }: MoveReport): string {
  const ms = rounds.at(-1)?.blackoutMs;
  const forecast = ms === undefined || !Number.isFinite(ms) ? '?' : durationText(ms);
  return `pause ${forecast} of ${durationText(blackoutBudgetMs)}`;
}

function toGoText({ step, plannedBytes, throughput, remainingMs }: PictureOf, moved: number, isFirst: boolean): string {
  if (step !== 'pre-copy') return '';
  if (!isFirst) return remainingMs === undefined ? 'no end in sight' : `${durationText(remainingMs)} to go`;
  if (throughput <= 0) return '';
  return `${durationText((Math.max(0, plannedBytes - moved) / throughput) * 1000)} to go`;
}

/** A line that wraps could not be wiped. Every character here is one column wide. */
function cut(line: string, columns: number): string {
  return line.length <= columns ? line : `${line.slice(0, Math.max(0, columns - 1))}…`;
}

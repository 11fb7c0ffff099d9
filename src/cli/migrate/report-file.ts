/** The report of a move as a file, in the format of its name. */
import { writeFile } from 'node:fs/promises';
import { bytesOf, type MoveReport } from '../../orchestrator/move-report.ts';
import { ConfigError } from '../../util/error.ts';
import { reportHtml } from './report-html.ts';
import { reportText } from './report-text.ts';

/** What programs read: `event` `report` on stdout, and the file. */
export function reportJson(report: MoveReport): Record<string, unknown> {
  const finite = (value: number | undefined): number | null =>
    value === undefined || !Number.isFinite(value) ? null : value;
  return {
    ...report,
    blackoutMs: finite(report.blackoutMs),
    blackoutForecastMs: finite(report.blackoutForecastMs),
    rounds: report.rounds.map((round) => ({ ...round, blackoutMs: finite(round.blackoutMs) })),
    bytes: bytesOf(report),
  };
}

export async function writeReport(path: string, report: MoveReport): Promise<void> {
  const text = path.endsWith('.html')
    ? reportHtml(report)
    : path.endsWith('.json')
      ? `${JSON.stringify(reportJson(report), undefined, 2)}\n`
      : `${reportText(report)}\n`;
  try {
    await writeFile(path, text);
  } catch (cause) {
    throw new ConfigError(`--report: ${path} cannot be written (${(cause as Error).message})`, { cause });
  }
}

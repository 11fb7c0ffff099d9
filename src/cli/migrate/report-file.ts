/** The report of a move: on stdout, and as a file in the format of its name. */
import { access, constants, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { bytesOf, type MoveReport } from '../../orchestrator/move-report.ts';
import { ConfigError } from '../../util/error.ts';
import { reportHtml } from './report-html.ts';
import { reportText } from './report-text.ts';
import type { Teller } from './say.ts';

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

/** Before anything is touched. @throws ConfigError */
export async function mustTakeReport(path: string | undefined): Promise<void> {
  if (path === undefined) return;
  try {
    await access(path, constants.W_OK).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
      await access(dirname(path), constants.W_OK);
    });
  } catch (cause) {
    throw unwritable(path, cause);
  }
}

/** Of a move that has done something, or undone. A file that cannot be written is a warning: how the move ended is what counts. */
export async function tellReport(report: MoveReport, path: string | undefined, teller: Teller): Promise<void> {
  const { steps, undone, outcome } = report;
  if (steps.length === 0 && undone.length === 0 && outcome === 'under-way') return; // the error says all
  teller.line(reportText(report), { event: 'report', ...reportJson(report) });
  if (path === undefined) return;
  try {
    await writeReport(path, report);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    teller.event({ event: 'warning', message: error.message });
  }
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
    throw unwritable(path, cause);
  }
}

function unwritable(path: string, cause: unknown): ConfigError {
  return new ConfigError(`--report: ${path} cannot be written (${(cause as Error).message})`, { cause });
}

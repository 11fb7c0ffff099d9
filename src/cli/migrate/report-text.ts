import { bytesOf, type MoveFailure, type MoveReport, type UndoneStep } from '../../orchestrator/move-report.ts';
import { bytesText, durationText, rateText } from './units.ts';

const OUTCOMES: Readonly<Record<MoveReport['outcome'], (report: MoveReport) => string>> = {
  moved: ({ destination }) => `moved to ${destination}`,
  'as-before': ({ source }) => `as before, at ${source}`,
  'under-way': () => 'not over: something is left to do',
};

/** Why it did not come to its end. */
export function failureLines({ step, code, message, causes }: MoveFailure): string[] {
  const where = step === '' ? '' : ` in step ${step}`;
  return [`because${where}: ${message} (${code})`, ...causes.map((cause) => `  from ${cause}`)];
}

export function undoneText({ state, end }: UndoneStep): string {
  const what = state === 'undone' ? 'undone' : 'left to undo';
  return end === undefined ? what : `${what} at the ${end}`;
}

/** The end of a move, in words. */
export function reportText(report: MoveReport): string {
  const { outcome, failure, undone, rounds, steps, namespaces, warnings, memory } = report;
  const { minimum, moved } = bytesOf(report);
  const lines = [
    OUTCOMES[outcome](report),
    ...(failure === undefined ? [] : failureLines(failure)),
    ...undone.map((step) => `${undoneText(step)}: ${step.step}${step.said.map((text) => `; ${text}`).join('')}`),
    `total ${durationText(report.totalMs)}${report.blackoutMs === undefined ? '' : `, pause ${durationText(report.blackoutMs)}`}${
      report.blackoutForecastMs === undefined || !Number.isFinite(report.blackoutForecastMs)
        ? ''
        : ` (forecast ${durationText(report.blackoutForecastMs)}, allowed ${report.blackoutBudgetMs} ms)`
    }`,
  ];
  if (moved > 0) {
    const ratio = minimum === 0 ? '' : ` (${(moved / minimum).toFixed(2)} x what was allocated or changed)`;
    lines.push(`copied ${bytesText(moved)}${ratio} in ${rounds.length} rounds`);
  }
  for (const n of namespaces) {
    const verified = n.verifiedBytes === 0 ? '' : `, ${bytesText(n.verifiedBytes)} compared`;
    const sizes = `${bytesText(n.allocatedBytes)} allocated, ${bytesText(n.dirtiedBytes)} changed meanwhile`;
    lines.push(`namespace ${n.nsid}: ${sizes}, ${bytesText(n.writtenBytes)} written${verified}`);
  }
  if (memory !== undefined) {
    const { allocatedBytes, dirtiedBytes, copiedBytes } = memory;
    const sizes = `${bytesText(allocatedBytes)} in use, ${bytesText(dirtiedBytes)} changed meanwhile`;
    lines.push(`memory of the VM: ${sizes}, ${bytesText(copiedBytes)} copied`);
  }
  if (report.throttledTo !== undefined) lines.push(`hosts were held to ${rateText(report.throttledTo)} of writes`);
  if (report.queueOverflows > 0) lines.push(`the queue of changes was full ${report.queueOverflows} times`);
  if (report.restarts > 0) lines.push(`copying began again ${report.restarts} times`);
  lines.push(...steps.map(({ step, durationMs }) => `  ${step.padEnd(18)} ${durationText(durationMs)}`));
  lines.push(...warnings.map((message) => `warning: ${message}`));
  return lines.join('\n');
}

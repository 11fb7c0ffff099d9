/** Medians, spreads and tables. */

export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  if (sorted.length === 0) return Number.NaN;
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Three digits that matter: 0.52, 5.24, 52.4, 524, 5,240. */
export function short(value: number): string {
  if (Number.isNaN(value)) return '-';
  const magnitude = Math.abs(value);
  if (magnitude >= 100) return Math.round(value).toLocaleString('en-US');
  return value.toFixed(magnitude >= 10 ? 1 : 2);
}

/** `median (min - max)` */
export function spread(values: readonly number[]): string {
  if (values.length < 2) return short(median(values));
  return `${short(median(values))} (${short(Math.min(...values))} - ${short(Math.max(...values))})`;
}

/** `median (first quartile - third)`, of ratios */
export function quartiles(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): string => sorted[Math.floor((sorted.length - 1) * part)]!.toFixed(3);
  return `${median(values).toFixed(3)} (${at(0.25)} - ${at(0.75)})`;
}

/** Geometric mean of ratios without the tenth at each end, `+-` its standard error. */
export function logMean(ratios: readonly number[]): string {
  const logs = ratios.map(Math.log).sort((a, b) => a - b);
  const cut = Math.floor(logs.length / 10);
  const inner = logs.slice(cut, logs.length - cut);
  const mean = inner.reduce((sum, log) => sum + log, 0) / inner.length;
  // winsorized: what was cut counts as far out as the outermost that was kept
  const clamped = logs.map((log) => Math.min(Math.max(log, inner[0]!), inner.at(-1)!));
  const variance = clamped.reduce((sum, log) => sum + (log - mean) ** 2, 0) / Math.max(1, logs.length - 1);
  const error = Math.sqrt(variance / logs.length) / (inner.length / logs.length);
  return `${Math.exp(mean).toFixed(3)} +- ${error.toFixed(3)}`;
}

export type Align = 'left' | 'right';

/** A Markdown table that also reads well as text. */
export function table(head: readonly string[], align: readonly Align[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(title.length, 3, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    `| ${widths
      .map((width, i) => (align[i] === 'right' ? (cells[i] ?? '').padStart(width) : (cells[i] ?? '').padEnd(width)))
      .join(' | ')} |`;
  const rule = `|${widths.map((width, i) => (align[i] === 'right' ? `${'-'.repeat(width + 1)}:` : '-'.repeat(width + 2))).join('|')}|`;
  return [line(head), rule, ...rows.map(line)].join('\n');
}

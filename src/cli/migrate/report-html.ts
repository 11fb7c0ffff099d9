/** The report of a move as one page that needs nothing else: figures, how the copying converged, and where the blocks were that changed. */
import { bytesOf, type MoveReport, type NamespaceReport } from '../../orchestrator/move-report.ts';
import { undoneText } from './report-text.ts';
import { bytesText, durationText, rateText } from './units.ts';

const WIDTH = 880;
const PLOT_HEIGHT = 240;
const MARGIN = { left: 70, right: 70, top: 20, bottom: 34 };
const ROW_HEIGHT = 10;
/** Rows of a heat map; more are put together. */
const ROWS_MAX = 60;

const STYLE = `
  :root { color-scheme: light dark; --ink: #1b2230; --faint: #8a93a3; --line: #d8dde6; --page: #fff; --dirty: #c2410c; --pause: #1d4ed8; --heat: 194, 65, 12; }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #e6e9ef; --faint: #8f98a8; --line: #343c4a; --page: #12161d; --dirty: #fb923c; --pause: #7aa2ff; --heat: 251, 146, 60; }
  }
  body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 920px; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin-top: 2rem }
  .faint, text { color: var(--faint); fill: var(--faint) }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line) }
  td.n, th.n { text-align: right }
  svg { width: 100%; height: auto; font: 11px system-ui, sans-serif }
  .axis { stroke: var(--line) } .dirty { stroke: var(--dirty); fill: none; stroke-width: 2 } .pause { stroke: var(--pause); fill: none; stroke-width: 2 }
  .budget { stroke: var(--pause); stroke-dasharray: 5 4 } .dot-dirty { fill: var(--dirty) } .dot-pause { fill: var(--pause) }
  .key-dirty { color: var(--dirty) } .key-pause { color: var(--pause) }
`;

const TITLES: Readonly<Record<MoveReport['outcome'], string>> = {
  moved: 'Moved',
  'as-before': 'As before',
  'under-way': 'Not over',
};

export function reportHtml(report: MoveReport): string {
  const title = TITLES[report.outcome];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}: ${escaped(report.record?.subnqn ?? '')}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${title}</h1>
<p class="faint">${escaped(report.record?.subnqn ?? '')}<br>from ${escaped(report.source)}<br>to ${escaped(report.destination)}</p>
${why(report)}
${figures(report)}
${report.rounds.length === 0 ? '' : `<h2>Convergence</h2>\n${plot(report)}`}
${report.namespaces.map(heatMap).join('\n')}
<h2>Steps</h2>
${table(
  ['step', 'began', 'took'],
  report.steps.map(({ step, startMs, durationMs }) => [step, durationText(startMs), durationText(durationMs)]),
)}
${report.warnings.length === 0 ? '' : `<h2>Warnings</h2>\n<ul>${report.warnings.map((text) => `<li>${escaped(text)}</li>`).join('')}</ul>`}
</body>
</html>
`;
}

/** Of a move that did not come to its end: what began the rollback, where, and what was taken back. */
function why({ failure, undone }: MoveReport): string {
  if (failure === undefined) return '';
  const { step, code, message, causes } = failure;
  const from = causes.length === 0 ? '' : `<ul>${causes.map((cause) => `<li>${escaped(cause)}</li>`).join('')}</ul>`;
  const where = step === '' ? '' : `In step ${escaped(step)}: `;
  const text = `<h2>Why</h2>\n<p>${where}${escaped(message)} <span class="faint">${escaped(code)}</span></p>${from}`;
  if (undone.length === 0) return text;
  const rows = undone.map((line) => [line.step, undoneText(line), line.said.join('; ')]);
  return `${text}\n<h2>Taken back</h2>\n${table(['step', '', 'what failed on the way'], rows)}`;
}

function figures(report: MoveReport): string {
  const { minimum, moved } = bytesOf(report);
  const rows: string[][] = [['total', durationText(report.totalMs)]];
  if (report.blackoutMs !== undefined) {
    rows.push(['pause', `${durationText(report.blackoutMs)}, allowed ${report.blackoutBudgetMs} ms`]);
  }
  if (report.blackoutForecastMs !== undefined && Number.isFinite(report.blackoutForecastMs)) {
    rows.push(['pause as forecast', durationText(report.blackoutForecastMs)]);
  }
  rows.push(['copied', bytesText(moved)]);
  if (minimum > 0) rows.push(['of what had to be', `${bytesText(minimum)}, ${(moved / minimum).toFixed(2)} x`]);
  if (report.memory !== undefined) {
    const { allocatedBytes, dirtiedBytes, copiedBytes } = report.memory;
    const again = `${bytesText(allocatedBytes)} in use, ${bytesText(dirtiedBytes)} changed meanwhile`;
    rows.push(['memory of the VM, of that', `${bytesText(copiedBytes)}: ${again}`]);
  }
  if (report.throttledTo !== undefined) rows.push(['writes held to', rateText(report.throttledTo)]);
  if (report.queueOverflows > 0) rows.push(['queue of changes full', `${report.queueOverflows} times`]);
  if (report.restarts > 0) rows.push(['copying begun again', `${report.restarts} times`]);
  rows.push(['verification', report.verification]);
  return table(['', ''], rows);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (row: readonly string[], tag: 'td' | 'th'): string =>
    row.map((text, i) => `<${tag}${i === 0 ? '' : ' class="n"'}>${escaped(text)}</${tag}>`).join('');
  const header = head.some((text) => text !== '') ? `<tr>${cells(head, 'th')}</tr>` : '';
  return `<table>${header}${rows.map((row) => `<tr>${cells(row, 'td')}</tr>`).join('')}</table>`;
}

/** Bytes left, and the pause that a cut would have cost, by the time of each round's end. */
function plot(report: MoveReport): string {
  const { rounds, blackoutBudgetMs } = report;
  const inner = { width: WIDTH - MARGIN.left - MARGIN.right, height: PLOT_HEIGHT - MARGIN.top - MARGIN.bottom };
  const lastMs = Math.max(1, rounds.at(-1)!.atMs);
  const mostBytes = Math.max(1, ...rounds.map(({ dirtiedBytes }) => dirtiedBytes));
  const finite = rounds.map(({ blackoutMs }) => blackoutMs).filter(Number.isFinite);
  const mostMs = Math.max(blackoutBudgetMs * 1.2, ...finite);
  const x = (ms: number): number => MARGIN.left + (ms / lastMs) * inner.width;
  const y = (share: number): number => MARGIN.top + (1 - share) * inner.height;
  const line = (name: string, points: readonly (readonly [number, number])[]): string =>
    `<polyline class="${name}" points="${points.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(' ')}"/>${points
      .map(([a, b]) => `<circle class="dot-${name}" cx="${a.toFixed(1)}" cy="${b.toFixed(1)}" r="3"/>`)
      .join('')}`;
  const bottom = y(0);
  return `<p><span class="key-dirty">&#9679;</span> left to copy &nbsp; <span class="key-pause">&#9679;</span> pause of a cut then (dashed: allowed)</p>
<svg viewBox="0 0 ${WIDTH} ${PLOT_HEIGHT}" role="img" aria-label="Bytes left and pause by time">
<path class="axis" d="M${MARGIN.left} ${MARGIN.top}V${bottom}H${WIDTH - MARGIN.right}V${MARGIN.top}" fill="none"/>
<line class="budget" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${y(blackoutBudgetMs / mostMs).toFixed(1)}" y2="${y(blackoutBudgetMs / mostMs).toFixed(1)}"/>
<text x="${MARGIN.left - 6}" y="${MARGIN.top + 4}" text-anchor="end">${bytesText(mostBytes)}</text>
<text x="${MARGIN.left - 6}" y="${bottom}" text-anchor="end">0</text>
<text x="${WIDTH - MARGIN.right + 6}" y="${MARGIN.top + 4}">${durationText(mostMs)}</text>
<text x="${MARGIN.left}" y="${PLOT_HEIGHT - 12}">0</text>
<text x="${WIDTH - MARGIN.right}" y="${PLOT_HEIGHT - 12}" text-anchor="end">${durationText(lastMs)}</text>
${line(
  'dirty',
  rounds.map(({ atMs, dirtiedBytes }) => [x(atMs), y(dirtiedBytes / mostBytes)]),
)}
${line(
  'pause',
  rounds
    .filter(({ blackoutMs }) => Number.isFinite(blackoutMs))
    .map(({ atMs, blackoutMs }) => [x(atMs), y(blackoutMs / mostMs)]),
)}
</svg>`;
}

/** A row for each look at what was changed, from the first block on the left to the last on the right. */
function heatMap(namespace: NamespaceReport): string {
  const rows = fold(namespace.heat);
  const columns = rows[0]?.length ?? 0;
  const title = `<h2>Namespace ${namespace.nsid}: where blocks were changed</h2>`;
  const size = `${bytesText(namespace.allocatedBytes)} allocated of ${bytesText(namespace.blockSize * namespace.blockCount)}`;
  const note = `<p class="faint">${size}; ${bytesText(namespace.dirtiedBytes)} changed while it was copied. Each row is a round, from top to bottom.</p>`;
  if (columns === 0 || rows.every((row) => row.every((count) => count === 0))) return `${title}${note}`;
  const most = Math.max(...rows.map((row) => Math.max(...row)));
  const cell = WIDTH / columns;
  const cells = rows.flatMap((row, r) =>
    row.flatMap((count, c) => {
      if (count === 0) return [];
      const shade = (0.2 + 0.8 * Math.sqrt(count / most)).toFixed(2);
      return `<rect x="${(c * cell).toFixed(1)}" y="${r * ROW_HEIGHT}" width="${cell.toFixed(1)}" height="${ROW_HEIGHT - 1}" style="fill: rgba(var(--heat), ${shade})"/>`;
    }),
  );
  const height = rows.length * ROW_HEIGHT;
  return `${title}${note}<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="Changed blocks by round and place">
<rect class="axis" x="0.5" y="0.5" width="${WIDTH - 1}" height="${height - 1}" fill="none"/>
${cells.join('')}
</svg>`;
}

/** At most `ROWS_MAX` rows. */
function fold(heat: readonly (readonly number[])[]): readonly (readonly number[])[] {
  const each = Math.ceil(heat.length / ROWS_MAX);
  if (each <= 1) return heat;
  const rows: number[][] = [];
  for (let i = 0; i < heat.length; i += each) {
    const group = heat.slice(i, i + each);
    rows.push(group[0]!.map((_, column) => group.reduce((sum, row) => sum + row[column]!, 0)));
  }
  return rows;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}

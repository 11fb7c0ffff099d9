/** What a run found, as text, JSON, JUnit XML, or Markdown. */
import { type CaseResult, type ConformanceCase, VERDICTS, type Verdict } from './case.ts';
import { summarize } from './runner.ts';

/** What was judged. */
export interface ReportSubject {
  /** `target` or `host`. */
  readonly kind: 'target' | 'host';
  /** The URI of a target, or where a host was awaited. */
  readonly name: string;
  /** Model, firmware, version: what the subject says about itself. */
  readonly says: string;
  /** Whose deviations were accepted; undefined: nobody's. */
  readonly peer: string | undefined;
}

export interface Report {
  readonly subject: ReportSubject;
  readonly results: readonly CaseResult[];
}

const WIDTH = Math.max(...VERDICTS.map((verdict) => verdict.length));

/** The line of one case, and why. */
export function caseLine(result: CaseResult): string {
  const { id, verdict, title, requirement, reason, because, notes } = result;
  const lines = [`${id.padEnd(9)} ${verdict.padEnd(WIDTH)} ${title}  [${requirement}]`];
  if (reason !== undefined) lines.push(reason);
  if (because !== undefined) lines.push(`known: ${because}`);
  for (const note of notes) lines.push(`note: ${note}`);
  return lines.join(`\n${' '.repeat(10 + WIDTH + 1)}`);
}

export function summaryLine(results: readonly CaseResult[]): string {
  const counts = summarize(results);
  const parts = VERDICTS.filter((verdict) => counts[verdict] > 0).map((verdict) => `${counts[verdict]} ${verdict}`);
  return `${results.length} cases: ${parts.join(', ') || 'none'}`;
}

export function jsonReport({ subject, results }: Report): object {
  return { subject, summary: summarize(results), cases: results };
}

/** Characters that XML 1.0 allows, the special ones escaped. */
function xml(text: string): string {
  const clean = Array.from(text, (character) => {
    const code = character.codePointAt(0)!;
    const isControl = code < 0x20 && code !== 0x09 && code !== 0x0a && code !== 0x0d;
    return isControl || (code >= 0xd800 && code <= 0xdfff) || code === 0xfffe || code === 0xffff ? '\uFFFD' : character;
  }).join('');
  const names: Readonly<Record<string, string>> = { '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot', "'": 'apos' };
  return clean
    .replaceAll(/[&<>"']/g, (character) => `&${names[character]};`)
    .replaceAll(/[\r\n\t]/g, (c) => `&#${c.charCodeAt(0)};`);
}

/**
 * JUnit XML, as continuous integration servers read it. A known quirk is a case that passes and says so in its output; what is not
 * applicable, skipped or inconclusive is `skipped`.
 */
export function junitReport({ subject, results }: Report): string {
  const counts = summarize(results);
  const skipped = counts['not-applicable'] + counts.inconclusive + counts.skipped;
  const seconds = (ms: number): string => (ms / 1000).toFixed(3);
  const total = results.reduce((sum, { durationMs }) => sum + durationMs, 0);
  const head = `name="${xml(`nvmeferry conformance ${subject.name}`)}" tests="${results.length}" failures="${counts.fail}" errors="0" skipped="${skipped}" time="${seconds(total)}"`;
  const lines = ['<?xml version="1.0" encoding="UTF-8"?>', `<testsuites ${head}>`, `  <testsuite ${head}>`];
  lines.push('    <properties>', `      <property name="subject" value="${xml(subject.says)}"/>`, '    </properties>');
  for (const { id, title, requirement, verdict, reason = '', because, notes, durationMs } of results) {
    const open = `    <testcase classname="${xml(`conformance.${id.slice(0, id.lastIndexOf('-'))}`)}" name="${xml(`${id} ${title} [${requirement}]`)}" time="${seconds(durationMs)}"`;
    const inner: string[] = [];
    if (verdict === 'fail') inner.push(`<failure message="${xml(reason)}"/>`);
    else if (verdict !== 'pass' && verdict !== 'quirk')
      inner.push(`<skipped message="${xml(`${verdict}: ${reason}`)}"/>`);
    const said = verdict === 'quirk' ? [`differs: ${reason}`, `known: ${because ?? ''}`, ...notes] : notes;
    if (said.length > 0) inner.push(`<system-out>${xml(said.join('\n'))}</system-out>`);
    if (inner.length === 0) lines.push(`${open}/>`);
    else lines.push(`${open}>`, ...inner.map((line) => `      ${line}`), '    </testcase>');
  }
  lines.push('  </testsuite>', '</testsuites>');
  return lines.join('\n');
}

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', ' ');

const SECTIONS: readonly (readonly [Verdict, string])[] = [
  ['fail', 'Failures'],
  ['quirk', 'Differs, known'],
  ['inconclusive', 'Inconclusive'],
  ['not-applicable', 'Not applicable'],
  ['skipped', 'Not run'],
  ['pass', 'Passed'],
];

/** Tables by verdict, for a document that is kept; nothing in it changes from run to run. */
export function markdownReport({ subject, results }: Report): string {
  const lines = [`Subject: ${subject.says}. ${summaryLine(results)}.`];
  for (const [verdict, heading] of SECTIONS) {
    const rows = results.filter((result) => result.verdict === verdict);
    if (rows.length === 0) continue;
    lines.push('', `### ${heading} (${rows.length})`, '');
    const withReason = verdict !== 'pass';
    lines.push(withReason ? '| Case | Requirement | Found | Why |' : '| Case | Requirement | Notes |');
    lines.push(withReason ? '|---|---|---|---|' : '|---|---|---|');
    for (const { id, title, requirement, reason = '', because = '', notes } of rows) {
      const requirementCell = cell(`${title} (${requirement})`);
      const why = [because, ...notes].filter((text) => text !== '').join('; ');
      lines.push(
        withReason
          ? `| ${id} | ${requirementCell} | ${cell(reason)} | ${cell(why)} |`
          : `| ${id} | ${requirementCell} | ${cell(why)} |`,
      );
    }
  }
  return lines.join('\n');
}

/** What there is, without running it. */
export function listLine(
  one: Pick<ConformanceCase, 'id' | 'title' | 'requirement' | 'tags' | 'writes' | 'slow'>,
): string {
  const marks = [
    ...(one.writes === 'namespace' ? ['writes'] : []),
    ...(one.writes === 'subsystem' ? ['destroys'] : []),
    ...(one.slow === true ? ['slow'] : []),
  ];
  const tags = [...one.tags, ...marks].join(' ');
  return `${one.id.padEnd(9)} ${one.title}  [${one.requirement}]  (${tags})`;
}

/**
 * Verdicts that a document under docs/ records, in the tables of `--output markdown`. `NVMEFERRY_RECORD=1` writes the document anew from the run; read
 * the difference before it is committed: every failure and every quirk in it needs its reason.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { markdownReport, type Report } from '../../../src/conformance/report.ts';
import { projectRoot } from './paths.ts';

const HEADINGS: Readonly<Record<string, string>> = {
  Failures: 'fail',
  'Differs, known': 'quirk',
  Inconclusive: 'inconclusive',
  'Not applicable': 'not-applicable',
  'Not run': 'skipped',
  Passed: 'pass',
};

/** `tcp-1 pass` per case. */
function verdictsIn(markdown: string): string[] {
  let verdict = '';
  const found: string[] = [];
  for (const line of markdown.split('\n')) {
    const heading = /^### (.*) \(\d+\)$/.exec(line);
    if (heading !== null) verdict = HEADINGS[heading[1]!] ?? `unknown heading ${heading[1]}`;
    const row = /^\| ((?:tcp|nvme|host)-\d+) \|/.exec(line);
    if (row !== null) found.push(`${row[1]} ${verdict}`);
  }
  return found.sort();
}

/**
 * The run gave what `docs/NAME.md` records.
 * @param introduction what the document says before the tables
 * @param said by case, for whoever reads the failure: what is known of it besides the report
 */
export function expectRecorded(
  name: string,
  introduction: string,
  report: Report,
  said: ReadonlyMap<string, string> = new Map(),
): void {
  const path = join(projectRoot, 'docs', `${name}.md`);
  const tables = markdownReport(report);
  if (process.env.NVMEFERRY_RECORD === '1') writeFileSync(path, `${introduction.trim()}\n\n${tables}\n`);
  const recorded = verdictsIn(readFileSync(path, 'utf8'));
  const others = report.results
    .filter(({ id, verdict }) => !recorded.includes(`${id} ${verdict}`))
    .map(({ id, verdict, reason, notes }) => [id, verdict, reason, ...notes, said.get(id)].join('; '));
  expect(verdictsIn(tables), `other verdicts:\n${others.join('\n')}\n`).to.deep.equal(recorded);
}

import { expect } from 'chai';
import type { CaseResult, Verdict } from '../../../src/conformance/case.ts';
import {
  caseLine,
  jsonReport,
  junitReport,
  markdownReport,
  type Report,
  summaryLine,
} from '../../../src/conformance/report.ts';

function result(id: string, verdict: Verdict, more: Partial<CaseResult> = {}): CaseResult {
  return {
    id,
    title: `"${id}" <&> title`,
    requirement: 'Base 2.1 section 5',
    tags: ['tcp'],
    verdict,
    reason: verdict === 'pass' ? undefined : `why | ${verdict}`,
    because: verdict === 'quirk' ? 'known for it' : undefined,
    notes: [],
    durationMs: 1500,
    ...more,
  };
}
const report: Report = {
  subject: { kind: 'target', name: 'nvme+tcp://h:1/nqn', says: 'Linux, firmware 6', peer: 'nvmet' },
  results: [
    result('tcp-1', 'pass', { notes: ['a note'] }),
    result('tcp-2', 'fail', { reason: 'found \u0001 <b>' }),
    result('tcp-3', 'quirk'),
    result('tcp-4', 'not-applicable'),
    result('tcp-5', 'inconclusive'),
    result('tcp-6', 'skipped'),
  ],
};

describe('conformance: reports', () => {
  it('text: one line a case, reasons below, a summary by verdict', () => {
    expect(caseLine(report.results[2]!).split('\n')).to.deep.equal([
      'tcp-3     quirk          "tcp-3" <&> title  [Base 2.1 section 5]',
      '                         why | quirk',
      '                         known: known for it',
    ]);
    expect(summaryLine(report.results)).to.equal(
      '6 cases: 1 pass, 1 fail, 1 quirk, 1 not-applicable, 1 inconclusive, 1 skipped',
    );
    expect(summaryLine([])).to.equal('0 cases: none');
  });

  it('JSON: subject, counts, cases', () => {
    const json = JSON.parse(JSON.stringify(jsonReport(report)));
    expect(json.summary).to.deep.equal({
      pass: 1,
      fail: 1,
      quirk: 1,
      'not-applicable': 1,
      inconclusive: 1,
      skipped: 1,
    });
    expect(json.subject.peer).to.equal('nvmet');
    expect(json.cases[1]).to.include({ id: 'tcp-2', verdict: 'fail', durationMs: 1500 });
  });

  it('JUnit: well formed, counted, nothing unescaped', () => {
    const text = junitReport(report);
    expect(text).to.match(/^<\?xml version="1\.0" encoding="UTF-8"\?>\n<testsuites /);
    expect(text).to.match(/tests="6" failures="1" errors="0" skipped="3" time="9\.000"/);
    expect(text).to.include('name="tcp-1 &quot;tcp-1&quot; &lt;&amp;&gt; title [Base 2.1 section 5]" time="1.500"');
    expect(text).to.include('<failure message="found \uFFFD &lt;b&gt;"/>');
    expect(text).to.include('<skipped message="not-applicable: why | not-applicable"/>');
    expect(text).to.include('<system-out>differs: why | quirk&#10;known: known for it</system-out>');
    // every element that is opened is closed, in order
    const open: string[] = [];
    for (const [, slash, name, self] of text.matchAll(/<(\/?)([a-z-]+)(?:\s[^<>]*?)?(\/?)>/g)) {
      if (slash === '/') expect(open.pop()).to.equal(name);
      else if (self !== '/') open.push(name!);
    }
    expect(open).to.deep.equal([]);
    expect(text.match(/<testcase /g)).to.have.length(6);
  });

  it('Markdown: a table per verdict, failures first, no bars from texts', () => {
    const text = markdownReport(report);
    expect(text.indexOf('### Failures (1)')).to.be.within(0, text.indexOf('### Passed (1)'));
    expect(text).to.include('| tcp-3 | "tcp-3" <&> title (Base 2.1 section 5) | why \\| quirk | known for it |');
    expect(text).to.include('| tcp-1 | "tcp-1" <&> title (Base 2.1 section 5) | a note |');
    expect(text, 'nothing that differs from run to run').not.to.include('1500');
  });
});

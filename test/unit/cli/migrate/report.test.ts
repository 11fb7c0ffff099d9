import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { mustTakeReport, reportJson, tellReport, writeReport } from '../../../../src/cli/migrate/report-file.ts';
import { reportHtml } from '../../../../src/cli/migrate/report-html.ts';
import { reportText } from '../../../../src/cli/migrate/report-text.ts';
import { Teller } from '../../../../src/cli/migrate/say.ts';
import type { MoveReport } from '../../../../src/orchestrator/move-report.ts';
import { ConfigError } from '../../../../src/util/error.ts';

const MIB = 1 << 20;
const STEPS = [
  ['close-destination', 1, 5],
  ['pre-copy', 6, 1500],
  ['close-source', 1506, 20],
  ['last-copy', 1526, 60],
  ['commit', 1586, 3],
] as const;

/** A move of one namespace in three rounds. */
function made(fields: Partial<MoveReport> = {}): MoveReport {
  return {
    outcome: 'moved',
    source: 'nvme+tcp://10.0.0.1:4420/nqn.2026-01.test:<moved>',
    destination: 'nvme+tcp://10.0.0.2:4420/nqn.2026-01.test:<moved>',
    record: { subnqn: 'nqn.2026-01.test:<moved>' } as MoveReport['record'],
    steps: STEPS.map(([step, startMs, durationMs]) => ({ step, startMs, durationMs })),
    rounds: [
      { bytes: 64 * MIB, durationMs: 1000, dirtiedBytes: 16 * MIB, atMs: 1006, blackoutMs: Number.POSITIVE_INFINITY },
      { bytes: 16 * MIB, durationMs: 300, dirtiedBytes: 8 * MIB, atMs: 1306, blackoutMs: 240 },
      { bytes: 8 * MIB, durationMs: 150, dirtiedBytes: 2 * MIB, atMs: 1456, blackoutMs: 90 },
    ],
    namespaces: [
      {
        nsid: 7,
        blockSize: 4096,
        blockCount: (256 * MIB) / 4096,
        allocatedBytes: 64 * MIB,
        dirtiedBytes: 26 * MIB,
        readBytes: 90 * MIB,
        writtenBytes: 89 * MIB,
        clearedBytes: 0,
        verifiedBytes: 64 * MIB,
        heat: [
          [0, 4, 0, 1],
          [2, 0, 0, 0],
        ],
      },
    ],
    memory: undefined,
    restarts: 0,
    failure: undefined,
    undone: [],
    queueOverflows: 0,
    throttledTo: undefined,
    verification: 'full',
    blackoutBudgetMs: 300,
    blackoutForecastMs: 90,
    blackoutMs: 83,
    totalMs: 1589,
    warnings: ['the peer <b> is old'],
    ...fields,
  };
}

describe('report of a move', () => {
  it('text: outcome, pause against forecast and budget, bytes against the least, each step with its time', () => {
    const text = reportText(made());
    expect(text.split('\n')[0]).to.match(/^moved to nvme\+tcp:\/\/10\.0\.0\.2/);
    expect(text).to.include('total 1.6 s, pause 83 ms (forecast 90 ms, allowed 300 ms)');
    expect(text).to.include('copied 90.0 MiB (1.00 x what was allocated or changed) in 3 rounds');
    expect(text).to.include('namespace 7: 64.0 MiB allocated, 26.0 MiB changed meanwhile');
    for (const [step] of STEPS) expect(text).to.match(new RegExp(`^  ${step} +[\\d.]+ m?s$`, 'm'));
    expect(text).to.include('warning: the peer <b> is old');
    expect(reportText(made({ outcome: 'as-before', blackoutMs: undefined }))).to.match(/^as before, at .*10\.0\.0\.1/);
  });

  it('JSON: all of it, in numbers that JSON has', () => {
    const parsed = JSON.parse(JSON.stringify(reportJson(made()))) as Record<string, unknown>;
    expect(parsed.bytes).to.deep.equal({ minimum: 90 * MIB, moved: 90 * MIB });
    expect(parsed).to.include({ outcome: 'moved', blackoutMs: 83, blackoutForecastMs: 90, totalMs: 1589 });
    expect((parsed.rounds as { blackoutMs: number | null }[]).map(({ blackoutMs }) => blackoutMs)).to.deep.equal([
      null,
      240,
      90,
    ]);
    expect(parsed.steps).to.have.length(STEPS.length);
  });

  describe('HTML', () => {
    const html = reportHtml(made());

    it('needs nothing but itself', () => {
      expect(html).to.match(/^<!doctype html>/);
      // namespaces of SVG aside there is no address in it that a browser would ask for
      expect(html).not.to.match(/<(?:script|link|img|iframe|object)\b|@import|url\(|\b(?:src|href)=/i);
    });

    it('has the pause, the bytes against the least, and every step with begin and duration', () => {
      for (const text of ['83 ms, allowed 300 ms', '90 ms', '90.0 MiB, 1.00 x', 'full']) expect(html).to.include(text);
      for (const [step] of STEPS) expect(html).to.include(`<td>${step}</td>`);
      expect(html).to.include('<td>pre-copy</td><td class="n">6.0 ms</td><td class="n">1.5 s</td>');
    });

    it('plots what was left and the pause of a cut then; a pause without end has no point', () => {
      const points = (name: string): [number, number][] =>
        new RegExp(`<polyline class="${name}" points="([^"]*)"`)
          .exec(html)![1]!
          .split(' ')
          .map((pair) => pair.split(',').map(Number) as [number, number]);
      const dirty = points('dirty');
      expect(dirty).to.have.length(3);
      expect(points('pause')).to.have.length(2);
      for (let i = 1; i < dirty.length; i++) {
        expect(dirty[i]![0], 'time goes to the right').to.be.above(dirty[i - 1]![0]);
        expect(dirty[i]![1], 'less is lower').to.be.above(dirty[i - 1]![1]);
      }
      expect(html).to.include('class="budget"');
    });

    it('shows where blocks were changed: a cell for each part that was, darker for more, in its row and column', () => {
      const map = html.slice(html.indexOf('where blocks were changed'));
      const cells = [
        ...map.matchAll(/<rect x="([\d.]+)" y="(\d+)" width="([\d.]+)"[^>]*rgba\(var\(--heat\), ([\d.]+)\)/g),
      ];
      const width = Number(cells[0]![3]);
      expect(cells.map(([, x, y]) => [Number(x) / width, Number(y) / 10])).to.deep.equal([
        [1, 0],
        [3, 0],
        [0, 1],
      ]);
      const [most, least, between] = cells.map((cell) => Number(cell[4]));
      expect(most).to.equal(1);
      expect(between).to.be.above(least!).and.below(most!);
    });

    it('takes names as text', () => {
      expect(html).to.include('nqn.2026-01.test:&lt;moved&gt;').and.not.include('<moved>');
      expect(html).to.include('the peer &lt;b&gt; is old');
    });

    const failure = {
      step: 'pre-copy<i>',
      code: 'NVMEOF_ERR_MOVE_FAILED',
      message: 'Step pre-copy failed: <script>alert("1")</script> & more at nvme+tcp://10.0.0.1:4420/nqn:"><img>',
      causes: ['NVMEOF_ERR_PATH: <b>cut</b>'],
    };
    const undone: MoveReport['undone'] = [
      { step: 'close-source', end: 'source', state: 'undone', said: ['</td><td>A & B'] },
      { step: 'close-destination', end: 'destination', state: 'left', said: [] },
    ];

    it('says why it is as before: the error, its step, what was taken back at which end; hostile names as text', () => {
      const page = reportHtml(made({ outcome: 'as-before', failure, undone }));
      expect(page).to.include('<h1>As before</h1>');
      expect(page).to.include(
        '<p>In step pre-copy&lt;i&gt;: Step pre-copy failed: &lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; more at ' +
          'nvme+tcp://10.0.0.1:4420/nqn:&quot;&gt;&lt;img&gt; <span class="faint">NVMEOF_ERR_MOVE_FAILED</span></p>' +
          '<ul><li>NVMEOF_ERR_PATH: &lt;b&gt;cut&lt;/b&gt;</li></ul>',
      );
      expect(page).to.include(
        '<td>close-source</td><td class="n">undone at the source</td><td class="n">&lt;/td&gt;&lt;td&gt;A &amp; B</td>',
      );
      expect(page).to.include('<td>close-destination</td><td class="n">left to undo at the destination</td>');
      expect(page).not.to.match(/<script|<img|<b>|undefined/);
      expect(html, 'nothing of the sort for one that moved').not.to.match(/<h2>(Why|Taken back)/);
      expect(reportHtml(made({ outcome: 'under-way', failure }))).to.include('<h1>Not over</h1>');
    });

    it('text and JSON say it as well', () => {
      const report = made({ outcome: 'as-before', failure, undone });
      const lines = reportText(report).split('\n');
      expect(lines[0]).to.match(/^as before, at /);
      expect(lines[1]).to.match(/^because in step pre-copy<i>: Step pre-copy failed: .* \(NVMEOF_ERR_MOVE_FAILED\)$/);
      expect(lines[2]).to.equal('  from NVMEOF_ERR_PATH: <b>cut</b>');
      expect(lines[3]).to.equal('undone at the source: close-source; </td><td>A & B');
      expect(lines[4]).to.equal('left to undo at the destination: close-destination');
      expect(JSON.parse(JSON.stringify(reportJson(report)))).to.deep.include({ failure, undone });
      expect(reportText(made({ outcome: 'under-way', failure }))).to.match(
        /^not over: something is left to do\nbecause/,
      );
    });

    it('is whole for a move that came to nothing', () => {
      const nothing = reportHtml(
        made({ outcome: 'as-before', rounds: [], steps: [], namespaces: [], blackoutMs: undefined, record: undefined }),
      );
      expect(nothing)
        .to.include('<h1>As before</h1>')
        .and.to.match(/<\/html>\s*$/);
      expect(nothing).not.to.match(/NaN|undefined|Infinity/);
      expect(html).not.to.match(/NaN|undefined|Infinity/);
    });
  });

  it('a place that cannot be written is named, before anything is touched as well', async () => {
    for (const act of [writeReport('/nowhere/at/all.html', made()), mustTakeReport('/nowhere/at/all.html')]) {
      const failed = await act.catch((error: unknown) => error);
      expect(failed).to.be.instanceOf(ConfigError);
      expect((failed as Error).message).to.match(/--report: \/nowhere\/at\/all\.html cannot be written/);
    }
    await mustTakeReport(undefined);
    await mustTakeReport(join(tmpdir(), 'report-that-is-not-there.html'));
  });

  describe('is told', () => {
    async function told(report: MoveReport, path?: string): Promise<Record<string, unknown>[]> {
      let text = '';
      const teller = new Teller('json', { write: (line) => (text += line) });
      await tellReport(report, path, teller);
      return text
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Record<string, unknown>);
    }
    const left: MoveReport['undone'] = [{ step: 'suspend', end: 'source', state: 'left', said: ['it is away'] }];

    it('of a move that left something to undo, by the process that was to undo it', async () => {
      const [line, ...more] = await told(made({ outcome: 'under-way', steps: [], undone: left }));
      expect(line).to.deep.include({ event: 'report', outcome: 'under-way', undone: left });
      expect(more).to.deep.equal([]);
    });

    it('not of one that was refused: its error says all', async () => {
      expect(await told(made({ outcome: 'under-way', steps: [] }), '/nowhere/at/all.html')).to.deep.equal([]);
    });

    it('and a file that cannot be written by then does not stand for the end of the move', async () => {
      const lines = await told(made(), '/nowhere/at/all.html');
      expect(lines.map(({ event }) => event)).to.deep.equal(['report', 'warning']);
      expect(lines[1]!.message).to.match(/^--report: \/nowhere\/at\/all\.html cannot be written/);
    });
  });
});

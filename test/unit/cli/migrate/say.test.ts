/** What a terminal shows of a move: the frames as they are drawn from its events, and what is left of them on the screen. */
import { expect } from 'chai';
import { Teller } from '../../../../src/cli/migrate/say.ts';
import type { MoveReport, RoundReport } from '../../../../src/orchestrator/move-report.ts';
import type { MovePlan } from '../../../../src/orchestrator/move-spec.ts';

const MIB = 1 << 20;

/** What a terminal of that width shows of what was written: lines, cursor up, and clearing to the end of the line. */
class Screen {
  readonly isTTY: boolean;
  readonly columns: number;
  readonly lines: string[] = [''];
  raw = '';
  #row = 0;
  #column = 0;

  constructor(columns: number, isTTY = true) {
    this.columns = columns;
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.raw += text;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal obeys
    for (const [part] of text.matchAll(/\x1b\[1A|\x1b\[K|\r|\n|./gu)) {
      if (part === '\x1b[1A') this.#row--;
      else if (part === '\x1b[K') this.lines[this.#row] = this.lines[this.#row]!.slice(0, this.#column);
      else if (part === '\r') this.#column = 0;
      else if (part === '\n') this.#next();
      else this.#put(part);
    }
  }

  #next(): void {
    this.#row++;
    this.#column = 0;
    this.lines[this.#row] ??= '';
  }

  #put(character: string): void {
    if (this.#column === this.columns) this.#next();
    const line = this.lines[this.#row]!.padEnd(this.#column);
    this.lines[this.#row] = line.slice(0, this.#column) + character + line.slice(this.#column + 1);
    this.#column++;
  }

  get shown(): string[] {
    const lines = [...this.lines];
    while (lines.at(-1) === '') lines.pop();
    return lines;
  }
}

function emptyReport(): MoveReport {
  return {
    outcome: 'under-way',
    source: 'A',
    destination: 'B',
    record: undefined,
    steps: [],
    rounds: [],
    namespaces: [],
    memory: undefined,
    restarts: 0,
    failure: undefined,
    undone: [],
    queueOverflows: 0,
    throttledTo: undefined,
    verification: 'none',
    blackoutBudgetMs: 300,
    blackoutForecastMs: undefined,
    blackoutMs: undefined,
    totalMs: 0,
    warnings: [],
  };
}

/** A move whose progress the test makes. */
class Story {
  readonly screen: Screen;
  readonly teller: Teller;
  readonly report = emptyReport();

  constructor(columns = 80, format: 'text' | 'json' = 'text', isTTY = true) {
    this.screen = new Screen(columns, isTTY);
    this.teller = new Teller(format, this.screen);
    this.teller.begin(this);
    this.teller.event({ event: 'plan', plan: { allocatedBytes: 1024 * MIB } as unknown as MovePlan });
  }

  step(step: string, state: 'begun' | 'done' = 'begun'): void {
    this.teller.event({ event: 'step', step, state });
  }

  at(ms: number, copiedMib: number): void {
    this.report.totalMs = ms;
    this.report.memory = { allocatedBytes: 0, dirtiedBytes: 0, copiedBytes: copiedMib * MIB };
    this.teller.draw();
  }

  round(mib: number, durationMs: number, dirtiedMib: number, blackoutMs: number, remainingMs?: number): void {
    const dirtiedBytes = dirtiedMib * MIB;
    const round: RoundReport = { bytes: mib * MIB, durationMs, dirtiedBytes, atMs: this.report.totalMs, blackoutMs };
    this.report.rounds.push(round);
    const dirtyRate = (dirtiedBytes / durationMs) * 1000;
    this.teller.event({ event: 'round', round, copyRate: (mib * MIB * 1000) / durationMs, dirtyRate, remainingMs });
  }
}

describe('migrate on a terminal', () => {
  let story: Story;
  afterEach(() => story.teller.end());

  it('shows the first copy with its share, throughput and time to go', () => {
    story = new Story();
    story.step('pre-copy');
    story.at(1000, 128);
    expect(story.screen.shown).to.deep.equal([
      'pre-copy, round 1   1.0 s   128 MiB of 1.0 GiB (12 %)   0 B/s',
      'changing 0 B/s   pause ? of 300 ms',
    ]);
    story.at(2000, 256);
    expect(story.screen.shown).to.deep.equal([
      'pre-copy, round 1   2.0 s   256 MiB of 1.0 GiB (25 %)   128 MiB/s',
      'changing 0 B/s   pause ? of 300 ms   6.0 s to go',
    ]);
  });

  it('shows the rounds: dirty rate, forecast of the pause, time to go, and the curve of what is left', () => {
    story = new Story();
    story.step('pre-copy');
    story.at(8000, 1024);
    story.round(1024, 8000, 512, 4100, 9000);
    story.at(9000, 1152);
    expect(story.screen.shown).to.deep.equal([
      '  round 1: 1.0 GiB in 8.0 s, 512 MiB changed (64.0 MiB/s), pause 4.1 s',
      'pre-copy, round 2   9.0 s   1.1 GiB   128 MiB/s',
      'changing 64.0 MiB/s   pause 4.1 s of 300 ms   9.0 s to go',
      'left 512 MiB   █',
    ]);
    story.round(512, 4000, 256, 2100, 4000);
    story.round(256, 2000, 64, 520);
    story.at(10_000, 1280);
    expect(story.screen.shown.slice(-3)).to.deep.equal([
      'pre-copy, round 4   10.0 s   1.3 GiB   128 MiB/s',
      'changing 32.0 MiB/s   pause 520 ms of 300 ms   no end in sight',
      'left 64.0 MiB   █▅▂',
    ]);
  });

  it('in the pause, and after, tells the step instead of a time to go', () => {
    story = new Story();
    story.step('pre-copy');
    story.round(16, 100, 1, 20, 0);
    story.step('pre-copy', 'done');
    story.step('last-copy');
    story.at(500, 17);
    expect(story.screen.shown).to.deep.equal([
      '  round 1: 16.0 MiB in 100 ms, 1.0 MiB changed (10.0 MiB/s), pause 20 ms',
      '  copied while in use',
      'last-copy   500 ms   17.0 MiB   0 B/s',
      'changing 10.0 MiB/s   pause 20 ms of 300 ms',
      'left 1.0 MiB   █',
    ]);
    story.step('last-copy', 'done');
    story.teller.end();
    expect(story.screen.shown.slice(2), 'no picture is left').to.deep.equal(['  last changes copied']);
  });

  it('no line is longer than the terminal is wide, whatever the figures, and nothing of it stays behind', () => {
    for (const columns of [80, 40, 20]) {
      story = new Story(columns);
      story.step('pre-copy');
      for (let i = 0; i < 40; i++) {
        story.report.rounds.push({ bytes: 1e12, durationMs: 1e6, dirtiedBytes: 1e15, atMs: 0, blackoutMs: 9e7 });
      }
      for (let i = 1; i <= 5; i++) story.at(36_000_000 * i, 123_456_789 * i);
      const lines = story.screen.shown;
      expect(lines, `at ${columns} columns`).to.have.length(3);
      for (const line of lines) expect(line.length, line).to.be.below(columns);
      if (columns === 80) {
        for (const line of lines) expect(line, 'complete').to.not.match(/…$/);
        expect(lines[2]).to.match(/█{24}$/);
      }
      story.teller.end();
      expect(story.screen.shown).to.deep.equal([]);
    }
  });

  it('keeps still while somebody is asked', async () => {
    story = new Story();
    story.step('pre-copy');
    story.at(1000, 128);
    await story.teller.aside(async () => {
      story.screen.write('what now? ');
      story.at(2000, 256);
      expect(story.screen.shown).to.deep.equal(['what now? ']);
      story.screen.write('c\n');
    });
    story.at(3000, 384);
    expect(story.screen.shown).to.have.length(3);
    expect(story.screen.shown[0]).to.equal('what now? c');
  });

  it('draws nothing where there is no terminal, and speaks JSON as lines that parse', () => {
    story = new Story(80, 'text', false);
    story.step('pre-copy');
    story.at(1000, 128);
    expect(story.screen.raw).to.equal('');
    story.teller.end();
    story = new Story(80, 'json');
    story.step('pre-copy');
    story.at(1000, 128);
    story.round(16, 100, 1, Number.POSITIVE_INFINITY);
    const events = story.screen.raw.trim().split('\n');
    expect(events.map((line) => JSON.parse(line) as unknown)).to.deep.equal([
      { event: 'step', step: 'pre-copy', state: 'begun' },
      {
        ...{ event: 'round', number: 1, bytes: 16 * MIB, durationMs: 100, dirtiedBytes: MIB, atMs: 1000 },
        ...{ blackoutMs: null, copyRate: 160 * MIB, dirtyRate: 10 * MIB, remainingMs: null },
      },
    ]);
  });
});

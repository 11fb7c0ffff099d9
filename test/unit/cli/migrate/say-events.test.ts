import { expect } from 'chai';
import { Teller } from '../../../../src/cli/migrate/say.ts';
import type { MoveEvent } from '../../../../src/orchestrator/move-options.ts';

const round = { bytes: 1 << 20, durationMs: 100, dirtiedBytes: 4096, atMs: 120, blackoutMs: 40 };
const EVENTS: readonly MoveEvent[] = [
  { event: 'step', step: 'pre-copy', state: 'begun' },
  { event: 'round', round, copyRate: 10e6, dirtyRate: 40_960, remainingMs: 7 },
  {
    event: 'round',
    round: { ...round, blackoutMs: Number.POSITIVE_INFINITY },
    copyRate: undefined,
    dirtyRate: 0,
    remainingMs: undefined,
  },
  { event: 'retry', step: 'commit', message: 'the connection was lost' },
  { event: 'warning', message: 'a "name"\nin two lines' },
  { event: 'step', step: 'pre-copy', state: 'done' },
  { event: 'step', step: 'announce', state: 'undone' },
];

/** What goes to stdout meanwhile. */
function said(format: 'text' | 'json'): string {
  const teller = new Teller(format);
  const write = process.stdout.write;
  let text = '';
  process.stdout.write = ((chunk: string) => {
    text += chunk;
    return true;
  }) as typeof write;
  try {
    for (const event of EVENTS) teller.event(event);
  } finally {
    process.stdout.write = write;
  }
  return text;
}

describe('what migrate says', () => {
  it('as JSON: an object a line for every event, with its name, and no number that JSON has not', () => {
    const lines = said('json').trimEnd().split('\n');
    const parsed = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(parsed.map(({ event }) => event)).to.deep.equal(EVENTS.map(({ event }) => event));
    expect(parsed[0]).to.deep.equal({ event: 'step', step: 'pre-copy', state: 'begun' });
    expect(parsed[1]).to.include({ ...round, copyRate: 10e6, dirtyRate: 40_960, remainingMs: 7 });
    expect(parsed[2]).to.include({ blackoutMs: null, copyRate: null, remainingMs: null });
    expect(parsed[4]).to.deep.equal({ event: 'warning', message: 'a "name"\nin two lines' });
  });

  it('as text: what is done, each round with what is left, and what was tried again', () => {
    const text = said('text');
    expect(text).to.include('copied while in use');
    expect(text).to.match(/round \d+: 1\.0 MiB in 100 ms, 4\.0 KiB changed \(40\.0 KiB\/s\), pause 40 ms/);
    expect(text).to.include('commit: the connection was lost; trying again');
    expect(text).to.match(/undone: source's discovery/);
    expect(text, 'a pause without end is not written').not.to.match(/Infinity|NaN/);
  });
});

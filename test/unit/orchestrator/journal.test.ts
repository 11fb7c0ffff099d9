import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Journal, type JournalEntry } from '../../../src/orchestrator/journal.ts';

describe('Journal', () => {
  let folder: string;
  let path: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-journal-'));
    path = join(folder, 'move.journal');
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  const ENTRIES: JournalEntry[] = [
    { step: 'track', state: 'begun', detail: { nsid: 1 } },
    { step: 'track', state: 'done' },
    { step: 'suspend', state: 'begun' },
  ];
  async function written(): Promise<void> {
    const journal = await Journal.open(path);
    for (const entry of ENTRIES) await journal.note(entry);
    await journal.close();
  }
  async function entriesNow(): Promise<readonly JournalEntry[]> {
    const journal = await Journal.open(path);
    await journal.close();
    return journal.entries;
  }
  const failure = (): Promise<string> =>
    entriesNow().then(
      () => 'none',
      (error: Error) => error.message,
    );

  it('gives back what was noted, in order, and goes on behind it', async () => {
    await written();
    const journal = await Journal.open(path);
    expect(journal.entries).to.deep.equal(ENTRIES);
    expect(journal.last('track')).to.deep.equal(ENTRIES[1]);
    expect(journal.last('resume')).to.equal(undefined);
    await journal.note({ step: 'suspend', state: 'undone' });
    await journal.close();
    expect(await entriesNow()).to.deep.equal([...ENTRIES, { step: 'suspend', state: 'undone' }]);
  });

  it('cut off anywhere: the whole lines before it count, and what comes later is no damage', async () => {
    await written();
    const whole = readFileSync(path);
    const ends = [...whole.keys()].filter((i) => whole[i] === 10);
    for (const length of [0, 1, ...ends.flatMap((end) => [end - 1, end, end + 1, Math.min(end + 7, whole.length)])]) {
      writeFileSync(path, whole.subarray(0, length));
      const lines = whole.subarray(0, length).toString().split('\n').length - 1;
      const journal = await Journal.open(path);
      expect(journal.entries, `${length} bytes`).to.deep.equal(ENTRIES.slice(0, lines));
      await journal.note({ step: 'next', state: 'begun' });
      await journal.close();
      expect(await entriesNow()).to.deep.equal([...ENTRIES.slice(0, lines), { step: 'next', state: 'begun' }]);
    }
  });

  it('a line that the disk took half of is not there for the next one', async () => {
    await written();
    const long = { step: 'state', state: 'done', detail: 'x'.repeat(4096) };
    const short = { step: 'state', state: 'undone' };
    const source = `
      const { Journal } = await import(process.argv[1]);
      const journal = await Journal.open(process.argv[2]);
      const said = await journal.note(${JSON.stringify(long)}).then(() => 'noted', (error) => error.message);
      await Promise.all([journal.note(${JSON.stringify(short)}), journal.note(${JSON.stringify(short)})]);
      await journal.close();
      console.log(said);`;
    const journalUrl = new URL('../../../src/orchestrator/journal.js', import.meta.url).href;
    // files of 1 KiB at most, and no signal for more: the write that goes beyond is done in part
    const limited = 'trap "" XFSZ; ulimit -f 1; exec "$0" --input-type=module --eval "$1" "$2" "$3"';
    const said = execFileSync('bash', ['-c', limited, process.execPath, source, journalUrl, path], {
      encoding: 'utf8',
    });
    expect(said).to.match(/move\.journal cannot be written: see that there is space \(EFBIG/);
    expect(await entriesNow()).to.deep.equal([...ENTRIES, short, short]);
  });

  it('names what another program has done to it', async () => {
    await written();
    const whole = readFileSync(path, 'utf8');
    writeFileSync(path, `{]\n${whole}`);
    expect(await failure()).to.match(/move\.journal has a line 1 that is no JSON/);
    writeFileSync(path, whole.replace('"version":1', '"version":2'));
    expect(await failure()).to.match(/has version 2, this program knows 1/);
    writeFileSync(path, whole);
    appendFileSync(path, '{"version":1,"step":"x","state":"perhaps"}\n');
    expect(await failure()).to.match(/line 4 without a step or its state/);
  });

  it('a path that cannot be written names itself and the remedy; nothing is noted once it is closed', async () => {
    path = join(folder, 'none', 'move.journal');
    expect(await failure()).to.match(/none\/move\.journal cannot be opened: choose a path/);
    path = join(folder, 'other.journal');
    const journal = await Journal.open(path);
    await journal.close();
    await journal.close();
    expect(await journal.note(ENTRIES[0]!).catch((error: Error) => error.message)).to.match(/is closed/);
  });
});

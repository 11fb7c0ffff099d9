/**
 * The numbered cases of live migration: each has a test that names it in its title. Those about what no controller of ours has are in
 * absent.test.ts, which shows that it is not there. The list: I Identify, C queues, F feature 21h, L logging, M memory, S suspend and resume, G controller
 * state, A allocated blocks, E whole flows.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const COUNTS: Readonly<Record<string, number>> = { I: 17, C: 24, F: 19, L: 28, M: 25, S: 24, G: 37, A: 13, E: 8 };

/** `I02, I07 to I09` */
function idsOf(text: string): string[] {
  const ids: string[] = [];
  for (const [, letter, first, last] of text.matchAll(/\b([ICFLMSGAE])(\d\d)(?: to \1(\d\d))?\b/g)) {
    for (let n = Number(first); n <= Number(last ?? first); n++) ids.push(letter! + String(n).padStart(2, '0'));
  }
  return ids;
}

/** Titles and messages of the cases: every string of a test file. */
function namedIn(folder: string): Map<string, string> {
  const named = new Map<string, string>();
  for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.test.ts') || file.endsWith('checklist.test.ts')) continue;
    for (const [, title] of readFileSync(join(folder, file), 'utf8').matchAll(/\bit\(\s*['"`](.*?)['"`],/g)) {
      for (const id of idsOf(title!)) named.set(id, file);
    }
  }
  return named;
}

// compiled to dist-test/test/conformance/live-migration, beside which stands the source
const tests = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', '..', 'test', 'conformance');
const all = Object.entries(COUNTS).flatMap(([letter, count]) =>
  Array.from({ length: count }, (_, i) => letter + String(i + 1).padStart(2, '0')),
);

describe('conformance: live migration, the list of cases', () => {
  const named = namedIn(join(tests, 'live-migration'));

  it('has 195 cases, each with a test', () => {
    expect(all.length).to.equal(195);
    expect(all.filter((id) => !named.has(id))).to.deep.equal([]);
  });

  it('knows no others', () => {
    for (const id of named.keys()) expect(all, id).to.include(id);
  });
});

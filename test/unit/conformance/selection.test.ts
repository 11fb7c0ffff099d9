import { expect } from 'chai';
import { TARGET_CASES } from '../../../src/conformance/cases/index.ts';
import { selectCases } from '../../../src/conformance/selection.ts';
import { reasonToSkip } from '../../../src/conformance/target-run.ts';

const all = ['tcp-1', 'tcp-2', 'tcp-10', 'nvme-1', 'nvme-2'].map((id) => ({
  id,
  tags: [id.startsWith('tcp') ? 'tcp' : 'nvme', ...(id.endsWith('2') ? ['digests'] : [])],
}));
const ids = (only: string[], skip: string[] = []): string[] => selectCases(all, only, skip).map(({ id }) => id);

describe('conformance: selection of cases', () => {
  it('nothing selects all; numbers, ranges and tags select, in the order of the list', () => {
    expect(ids([])).to.have.length(5);
    expect(ids(['nvme-1', 'tcp-2'])).to.deep.equal(['tcp-2', 'nvme-1']);
    expect(ids(['tcp-2..10'])).to.deep.equal(['tcp-2', 'tcp-10']);
    expect(ids(['tcp-1..tcp-9'])).to.deep.equal(['tcp-1', 'tcp-2']);
    expect(ids(['digests'])).to.deep.equal(['tcp-2', 'nvme-2']);
    expect(ids(['tcp'], ['digests'])).to.deep.equal(['tcp-1', 'tcp-10']);
    expect(ids([], ['tcp-1..10', 'nvme-2'])).to.deep.equal(['nvme-1']);
  });

  it('a word that means nothing is an error that names it and what there is', () => {
    expect(() => ids(['tcp-3'])).to.throw(/--only: found tcp-3.*--list.*digests, nvme, tcp/);
    expect(() => ids([], ['digest'])).to.throw(/--skip: found digest/);
    expect(() => ids(['tcp-1..nvme-2'])).to.throw(/crosses two checklists/);
    expect(() => ids(['tcp-11..20'])).to.throw(/--only: found tcp-11..20/);
  });

  it('what writes, destroys or takes long runs only when it is allowed', () => {
    const none = { allowWrites: false, allowDestroy: false, slow: false };
    expect(reasonToSkip({}, none)).to.equal(undefined);
    expect(reasonToSkip({ writes: 'namespace' }, none)).to.match(/--allow-writes/);
    expect(reasonToSkip({ writes: 'subsystem' }, { ...none, allowWrites: true })).to.match(/--allow-destroy/);
    expect(reasonToSkip({ slow: true }, none)).to.match(/--slow/);
    expect(reasonToSkip({ writes: 'namespace', slow: true }, { ...none, allowWrites: true })).to.match(/--slow/);
    expect(reasonToSkip({ writes: 'namespace' }, { ...none, allowWrites: true })).to.equal(undefined);
  });
});

describe('conformance: the checklists', () => {
  it('every number once, each with a requirement and tags', () => {
    const seen = new Set<string>();
    for (const { id, title, requirement, tags } of TARGET_CASES) {
      expect(id).to.match(/^(tcp|nvme)-\d+$/);
      expect(seen.has(id), id).to.equal(false);
      seen.add(id);
      expect(requirement, id).to.match(/^(TCP 1\.0|Base 2\.1|NVM Command Set 1\.2) section \d/);
      expect(title, id).to.match(/^\S.*\S$/);
      expect(tags[0], id).to.equal(id.slice(0, id.indexOf('-')));
    }
    for (let line = 1; line <= 100; line++) expect(seen.has(`nvme-${line}`), `nvme-${line}`).to.equal(true);
    for (let line = 1; line <= 17; line++) expect(seen.has(`tcp-${line}`), `tcp-${line}`).to.equal(true);
  });
});

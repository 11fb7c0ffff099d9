import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FileStateStore } from '../../../src/service/file-state-store.ts';

describe('FileStateStore', () => {
  let directory: string;
  beforeEach(() => {
    directory = join(mkdtempSync(join(tmpdir(), 'nvmeferry-state-')), 'made', 'here');
  });
  afterEach(() => {
    rmSync(join(directory, '..', '..'), { recursive: true, force: true });
  });

  it('gives a later process the value as it was when saved', async () => {
    const store = new FileStateStore(directory);
    const value = { keys: ['0x1'] };
    const saved = store.save('reservations/nqn.2026-01.io.x:a/1', value);
    value.keys.push('later');
    await saved;
    expect(new FileStateStore(directory).load('reservations/nqn.2026-01.io.x:a/1')).to.deep.equal({ keys: ['0x1'] });
    expect(store.load('reservations/nqn.2026-01.io.x:a/2')).to.equal(undefined);
  });

  it('keeps the last of saves that were called together, and nothing half-made', async () => {
    const store = new FileStateStore(directory);
    await Promise.all([1, 2, 3].map((n) => store.save('n', n)));
    expect(store.load('n')).to.equal(3);
    expect(readdirSync(directory)).to.deep.equal(['n.json']);
  });

  it('forgets a value that is saved as undefined', async () => {
    const store = new FileStateStore(directory);
    await store.save('n', 1);
    await store.save('n', undefined);
    await store.save('never there', undefined);
    expect(store.load('n')).to.equal(undefined);
    expect(readdirSync(directory)).to.deep.equal([]);
  });

  it('names the file and the remedy when it is damaged', () => {
    const store = new FileStateStore(directory);
    writeFileSync(join(directory, 'n.json'), '{"cut');
    expect(() => store.load('n')).to.throw(/n\.json is not JSON: restore it, or remove it/);
  });

  it('fails a save that cannot be made, and keeps the value before', async () => {
    const store = new FileStateStore(directory);
    await store.save('n', 1);
    // a directory in the way of the new file: fails for root as well
    const blocked = new FileStateStore(directory);
    mkdirSync(join(directory, 'n.json.new'));
    let message = '';
    await blocked.save('n', 2).catch((error: Error) => (message = error.message));
    expect(message).to.match(/n\.json cannot be saved/);
    expect(store.load('n')).to.equal(1);
  });

  it('refuses a directory that cannot be', () => {
    writeFileSync(join(directory, '..', '..', 'file'), '');
    expect(() => new FileStateStore(join(directory, '..', '..', 'file', 'x'))).to.throw(/cannot be made: choose/);
  });
});

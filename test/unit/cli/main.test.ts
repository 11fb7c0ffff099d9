import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { PACKAGE_ROOT } from '../../support/cli.ts';

const main = join(PACKAGE_ROOT, 'dist', 'cli', 'main.js');
const run = (...args: string[]): string => execFileSync(process.execPath, [main, ...args], { encoding: 'utf8' });

describe('cli: verbs are loaded when they are asked for', () => {
  it('--help has the verbs of every part, each of which answers by itself', () => {
    const help = run('--help');
    for (const verb of ['target', 'demo', 'id-ctrl', 'conformance']) {
      expect(help).to.match(new RegExp(`^  ${verb}\\b`, 'm'));
      expect(run(verb, '--help')).to.match(new RegExp(`^Usage: nvmeferry ${verb}\\b`));
    }
    expect(run('help', 'target')).to.match(/^Usage: nvmeferry target\b/);
  });

  for (const verb of ['id-ctr', 'host', 'constructor']) {
    it(`'${verb}' is no verb: exit code 2`, () => {
      const { status, stderr } = spawnSync(process.execPath, [main, verb], { encoding: 'utf8' });
      expect(status).to.equal(2);
      expect(stderr).to.match(new RegExp(`unknown command '${verb}'`));
    });
  }

  it('--version loads none of them, and a verb only its own part', () => {
    const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-test-'));
    try {
      /** Folders of `dist` whose modules a run loads. */
      const loaded = (name: string, ...args: string[]): Set<string> => {
        const coverage = join(folder, name);
        execFileSync(process.execPath, [main, ...args], { env: { ...process.env, NODE_V8_COVERAGE: coverage } });
        const [file] = readdirSync(coverage);
        const { result } = JSON.parse(readFileSync(join(coverage, file!), 'utf8')) as { result: { url: string }[] };
        return new Set(result.flatMap(({ url }) => /\/dist\/(\w+)\//.exec(url)?.[1] ?? []));
      };
      // of the orchestrator only its error, which has exit codes of its own
      expect([...loaded('none', '--version')]).to.have.members(['cli', 'util', 'spec', 'orchestrator']);
      const verb = loaded('verb', 'id-ctrl', '--help');
      expect(verb).to.include('initiator');
      expect(verb).to.not.include('target').and.to.not.include('config');
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});

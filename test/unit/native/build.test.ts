/** What `npm ci` does where the addon cannot be built: one line, exit status 0, and nothing fetched. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, linkSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { PACKAGE_ROOT } from '../../support/cli.ts';

describe('build of the addon', function () {
  this.timeout(30_000);
  let folder: string;
  let node: string;

  before(function () {
    if (process.platform !== 'linux') this.skip();
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-build-'));
    for (const name of ['build.mjs', 'binding.gyp', 'src']) {
      cpSync(join(PACKAGE_ROOT, 'native', name), join(folder, 'native', name), { recursive: true });
    }
    // a Node without headers beside it, as some packages bring it
    mkdirSync(join(folder, 'bin'));
    node = join(folder, 'bin', 'node');
    try {
      linkSync(process.execPath, node);
    } catch {
      copyFileSync(process.execPath, node); // another file system
    }
  });
  after(() => {
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  function build(env: NodeJS.ProcessEnv): { status: number | null; said: string } {
    const kept = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));
    const { status, stdout, stderr } = spawnSync(node, [join(folder, 'native/build.mjs'), '--optional'], {
      encoding: 'utf8',
      env: { ...kept, HOME: folder, XDG_CACHE_HOME: folder, ...env },
    });
    return { status, said: stdout + stderr };
  }

  it('without a compiler: its name, what is missing without the addon, and how to build it later', () => {
    const { status, said } = build({ CXX: 'no-such-compiler' });
    expect(status).to.equal(0);
    expect(said.trim().split('\n')).to.have.length(1);
    expect(said)
      .to.match(/a C\+\+ compiler .* is missing/)
      .and.to.match(/works, but has no .*io_uring.*npm run build:native/);
  });

  it('without headers of Node: the same, and it fetches none', () => {
    const { status, said } = build({ CXX: 'true' });
    expect(status).to.equal(0);
    expect(said.trim().split('\n')).to.have.length(1);
    expect(said).to.match(/headers of this Node are missing.*npm run build:native/);
  });
});

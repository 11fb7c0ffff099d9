/** The set-up of prebuilt addons is coherent: what tools/prebuild.sh makes for each platform is what a machine of that platform loads. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { PACKAGE_ROOT } from '../../support/cli.ts';

const resolver = createRequire(import.meta.url).resolve('node-gyp-build');
const { scripts, files } = JSON.parse(readFileSync(join(PACKAGE_ROOT, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
  files: string[];
};
const script = readFileSync(join(PACKAGE_ROOT, 'tools', 'prebuild.sh'), 'utf8');
const matrix = [...script.matchAll(/^ {2}'(linux\/\w+) (node:[\w-]+) /gm)].map(([, platform, image]) => ({
  arch: platform === 'linux/amd64' ? 'x64' : 'arm64',
  libc: image!.endsWith('alpine') ? 'musl' : 'glibc',
}));

/** The file that a machine of that kind would load from `folder`. */
function found(folder: string, arch: string, libc: string): string {
  const code = `process.stdout.write(require(${JSON.stringify(resolver)}).path(process.argv[1]))`;
  return execFileSync(process.execPath, ['-e', code, folder], {
    encoding: 'utf8',
    env: { ...process.env, npm_config_arch: arch, npm_config_platform: 'linux', LIBC: libc },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

describe('prebuilt addons', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-prebuilds-'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('are made for x64 and arm64, glibc and musl', () => {
    expect(matrix).to.have.deep.members([
      { arch: 'x64', libc: 'glibc' },
      { arch: 'arm64', libc: 'glibc' },
      { arch: 'x64', libc: 'musl' },
      { arch: 'arm64', libc: 'musl' },
    ]);
    // one file for every Node: Node-API; its C library in the name; the oldest Node that is supported
    expect(scripts.prebuildify).to.match(/--napi\b.*--tag-libc\b.*--target 20\.19\.0/);
  });

  it('each is the one that is found on such a machine, and documented, and in the package', () => {
    const path = (arch: string, libc: string): string => join('prebuilds', `linux-${arch}`, `node.${libc}.node`);
    for (const { arch, libc } of matrix) {
      mkdirSync(dirname(join(folder, path(arch, libc))), { recursive: true });
      writeFileSync(join(folder, path(arch, libc)), '');
    }
    const contributing = readFileSync(join(PACKAGE_ROOT, 'CONTRIBUTING.md'), 'utf8');
    for (const { arch, libc } of matrix) {
      expect(found(folder, arch, libc)).to.equal(join(folder, path(arch, libc)));
      expect(contributing).to.include(`\`linux-${arch}/node.${libc}.node\``);
    }
    expect(() => found(folder, 'riscv64', 'glibc'), 'an architecture without one').to.throw();
    expect(files).to.include('native/prebuilds');
  });

  it('the source has nothing of one architecture outside of its own branch', () => {
    for (const name of ['crc32c.cc', 'ring.cc', 'kernel-abi.h']) {
      const text = readFileSync(join(PACKAGE_ROOT, 'native', 'src', name), 'utf8');
      for (const [guard, header] of [
        [/__x86_64__/, /#include <(?:nmmintrin|immintrin|x86intrin)\.h>/],
        [/__aarch64__/, /#include <arm_acle\.h>/],
      ] as const) {
        if (header.test(text)) expect(text, `${name}: ${header.source}`).to.match(guard);
      }
    }
  });
});

/** The product, as it would be installed, inside a guest: compiled code, the addon, and what it depends on. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { GuestVm } from './guest-vm.ts';
import { projectRoot } from './paths.ts';

/** Where it is in the guest. */
export const guestProduct = '/run/nvmeferry';
/** Its command line there. */
export const guestCli: string = `node --no-warnings ${guestProduct}/dist/cli/main.js`;

/** @throws Error naming what is not built */
export async function installProduct(vm: GuestVm): Promise<void> {
  const addon = join('native', 'build', 'Release', 'nvmeferry.node');
  for (const path of [join('dist', 'cli', 'main.js'), addon]) {
    if (!existsSync(join(projectRoot, path))) throw new Error(`No ${path}: run npm run build && npm run build:native`);
  }
  const list = ['ls', '--omit=dev', '--all', '--parseable'];
  const [, ...packages] = execFileSync('npm', list, { cwd: projectRoot, encoding: 'utf8' }).trim().split('\n');
  const paths = ['package.json', 'dist', addon, ...packages.map((path) => relative(projectRoot, path))];
  const archive = execFileSync('tar', ['-cz', '--exclude=*.map', '--exclude=*.d.ts', ...paths], {
    cwd: projectRoot,
    maxBuffer: 256 << 20,
  });
  await vm.writeFile('/run/product.tar.gz', archive);
  await vm.run(`mkdir -p ${guestProduct} && tar -xzf /run/product.tar.gz -C ${guestProduct} && rm /run/product.tar.gz`);
}

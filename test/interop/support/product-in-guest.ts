/**
 * The product inside a guest: the command line bundled (under emulation, finding and linking some hundred modules takes half a minute), the addon, and
 * the packages that load machine code.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { build } from 'rolldown';
import type { GuestVm } from './guest-vm.ts';
import { projectRoot } from './paths.ts';

/** Where it is in the guest. */
export const guestProduct = '/run/nvmeferry';
/** Its command line there. */
export const guestCli: string = `node --no-warnings ${guestProduct}/dist/cli/main.js`;

const MAIN = join('dist', 'cli', 'main.js');
const ADDON = join('native', 'build', 'Release', 'nvmeferry.node');

/**
 * A script of ours, bundled, beside the product in the guest.
 * @param path compiled, from the project's root on
 * @returns the command that runs it
 */
export async function installScript(vm: GuestVm, path: string): Promise<string> {
  const { output } = await build({
    input: join(projectRoot, path),
    platform: 'node',
    external: [/^@node-rs\//, 'node-gyp-build'],
    logLevel: 'warn',
    write: false,
    output: { format: 'esm' },
  });
  const file = `${guestProduct}/dist/${basename(path)}`;
  await vm.writeFile(file, Buffer.from(output[0].code));
  return `node --no-warnings ${file}`;
}

/** @throws Error naming what is not built */
export async function installProduct(vm: GuestVm): Promise<void> {
  for (const path of [MAIN, ADDON]) {
    if (!existsSync(join(projectRoot, path))) throw new Error(`No ${path}: run npm run build && npm run build:native`);
  }
  const folder = mkdtempSync(join(tmpdir(), 'nvmeferry-product-'));
  try {
    await build({
      input: join(projectRoot, MAIN),
      platform: 'node',
      external: [/^@node-rs\//, 'node-gyp-build'],
      logLevel: 'warn',
      output: { dir: dirname(join(folder, MAIN)), format: 'esm', minify: true },
    });
    for (const path of ['package.json', ADDON, 'node_modules/@node-rs', 'node_modules/node-gyp-build']) {
      mkdirSync(dirname(join(folder, path)), { recursive: true });
      cpSync(join(projectRoot, path), join(folder, path), { recursive: true });
    }
    await vm.writeFile(
      '/run/product.tar.gz',
      execFileSync('tar', ['-cz', '-C', folder, '.'], { maxBuffer: 256 << 20 }),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  await vm.run(`mkdir -p ${guestProduct} && tar -xzf /run/product.tar.gz -C ${guestProduct} && rm /run/product.tar.gz`);
}

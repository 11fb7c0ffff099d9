/**
 * Where things are: this project, and what tools/install-guest.sh unpacked.
 */
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

export type GuestKernel = '6.12' | '7.x';

/** The folder of this project's package.json, whether the running file is a source or compiled into dist-test/. */
export const projectRoot: string = findProjectRoot(import.meta.dirname);

function findProjectRoot(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
    if (folder === dirname(folder)) throw new Error(`No package.json above ${start}`);
  }
}

/** A path below the folder that holds emulator, kernels and guest. Throws, naming the remedy, when it is not installed. */
export function installedPath(...parts: string[]): string {
  const home = process.env.NVMEFERRY_GUEST_HOME ?? join(homedir(), '.cache', 'nvmeferry-guest');
  const path = join(home, ...parts);
  if (!existsSync(path))
    throw new Error(`The test guest is not installed (no ${path}): run tools/install-guest.sh first`);
  return path;
}

/** The release of an installed kernel, such as 6.12.48+deb13-cloud-amd64. */
export function kernelRelease(kernel: GuestKernel): string {
  return readFileSync(installedPath('guest', kernel, 'version'), 'utf8').trim();
}

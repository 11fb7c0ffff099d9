/** Who uses a local disk: mounts, swap, and what stands on it (RAID, LVM, dm-crypt). A disk in use is not served, unless it is forced. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** `mountinfo` escapes white space. */
const unescaped = (text: string): string =>
  text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/**
 * @param name of the whole disk or the partition as in `/sys/class/block`
 * @param root for tests: a folder with `sys` and `proc`
 * @returns one line each: `nvme0n1p1 is mounted on /data`; empty if nobody does
 */
export function deviceUsers(name: string, root = '/'): string[] {
  const folder = join(root, 'sys/class/block', name);
  const names = [name, ...list(folder).filter((entry) => existsSync(join(folder, entry, 'partition')))];
  const users: string[] = [];
  for (const each of names) {
    const number = read(join(root, 'sys/class/block', each, 'dev')).trim();
    for (const line of read(join(root, 'proc/self/mountinfo')).split('\n')) {
      const fields = line.split(' ');
      const separator = fields.indexOf('-');
      // btrfs and others have numbers of their own: their source tells
      if (separator > 0 && ((number !== '' && fields[2] === number) || fields[separator + 2] === `/dev/${each}`)) {
        users.push(`${each} is mounted on ${unescaped(fields[4] ?? '?')}`);
      }
    }
    for (const line of read(join(root, 'proc/swaps')).split('\n').slice(1)) {
      if (line.split(/\s/)[0] === `/dev/${each}`) users.push(`${each} is swap space`);
    }
    for (const holder of list(join(root, 'sys/class/block', each, 'holders')))
      users.push(`${each} is part of ${holder}`);
  }
  return [...new Set(users)];
}

/** The name in `/sys/class/block` of a block device. @returns undefined if the kernel does not show it */
export function blockDeviceName(major: number, minor: number, root = '/'): string | undefined {
  const uevent = read(join(root, `sys/dev/block/${major}:${minor}/uevent`));
  return /^DEVNAME=(.+)$/m.exec(uevent)?.[1];
}

import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect } from 'chai';
import { blockDeviceName, deviceUsers } from '../../../src/backend/device-users.ts';

describe('who uses a device', () => {
  let root: string;
  beforeEach(() => {
    root = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-sys-'));
    put('sys/class/block/nvme0n1/dev', '259:0\n');
    put('sys/class/block/nvme0n1/nvme0n1p1/partition', '1\n');
    put('sys/class/block/nvme0n1p1/dev', '259:1\n');
    put('sys/class/block/nvme0n1p1/partition', '1\n');
    put('sys/dev/block/259:0/uevent', 'MAJOR=259\nMINOR=0\nDEVNAME=nvme0n1\nDEVTYPE=disk\n');
  });
  afterEach(() => fs.rmSync(root, { recursive: true }));
  function put(path: string, text: string): void {
    fs.mkdirSync(dirname(join(root, path)), { recursive: true });
    fs.writeFileSync(join(root, path), text);
  }

  it('nobody', () => {
    put('proc/self/mountinfo', '22 1 8:1 / / rw - ext4 /dev/sda1 rw\n');
    expect(deviceUsers('nvme0n1', root)).to.deep.equal([]);
  });

  it('mounts of the disk and its partitions, swap, holders', () => {
    put(
      'proc/self/mountinfo',
      [
        '22 1 8:1 / / rw - ext4 /dev/sda1 rw',
        '23 22 259:1 / /mnt/my\\040data rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw',
        '24 22 0:40 / /pool rw - btrfs /dev/nvme0n1 rw', // an anonymous device number
      ].join('\n'),
    );
    put('proc/swaps', 'Filename\tType\tSize\n/dev/nvme0n1p1  partition 1 0 -2\n');
    put('sys/class/block/nvme0n1p1/holders/dm-3/x', '');
    expect(deviceUsers('nvme0n1', root)).to.deep.equal([
      'nvme0n1 is mounted on /pool',
      'nvme0n1p1 is mounted on /mnt/my data',
      'nvme0n1p1 is swap space',
      'nvme0n1p1 is part of dm-3',
    ]);
    expect(deviceUsers('nvme0n1p1', root)).to.have.length(3);
  });

  it('finds the name of a device number', () => {
    expect(blockDeviceName(259, 0, root)).to.equal('nvme0n1');
    expect(blockDeviceName(7, 7, root)).to.equal(undefined);
  });
});

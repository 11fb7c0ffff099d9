/** The README's commands for a Linux host, run in a guest against the target that `nvmeferry target` starts without any flag. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, PACKAGE_ROOT } from '../support/cli.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';

describe('README, Linux host', function () {
  this.timeout(120_000);
  let vm: GuestVm | undefined;
  let target: CliTarget | undefined;

  after(async () => {
    await vm?.stop();
    await target?.end('SIGTERM');
  });

  it('discovers, connects, lists and disconnects', async () => {
    const block = /^```sh guest\n([\s\S]*?)^```$/m.exec(readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8'));
    expect(block, 'block `sh guest` of the README').not.to.equal(null);
    target = await CliTarget.start([]);
    vm = await GuestVm.start({ kernel: '6.12', cpus: 1, memoryMiB: 768 });
    const output = await vm.run(`set -e; modprobe nvme-tcp; TARGET=${machineAddress}; ${block![1]!}`);
    expect(output)
      .to.include('nqn.2026-01.io.nvmeferry:demo')
      .and.to.match(/\blive\b/)
      .and.to.match(/disconnected 1 controller/);
  });
});

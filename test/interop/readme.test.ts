/** The README's commands for Linux machines, run in a guest: a host of the target that `nvmeferry target` starts without any flag; a machine with an SSD. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, PACKAGE_ROOT } from '../support/cli.ts';
import { emulatedSsd } from './support/emulated-ssd.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { guestCli, installProduct } from './support/product-in-guest.ts';

function blockOf(name: string): string {
  const block = new RegExp(`^\`\`\`sh ${name}\\n([\\s\\S]*?)^\`\`\`$`, 'm').exec(
    readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8'),
  );
  expect(block, `block \`sh ${name}\` of the README`).not.to.equal(null);
  return block![1]!;
}

describe('README, on Linux machines', function () {
  this.timeout(240_000);
  let vm: GuestVm | undefined;
  let target: CliTarget | undefined;
  let folder: string | undefined;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-interop-'));
    const ssd = { bytes: 8 << 20, controller: 'mdts=5', namespace: 'logical_block_size=4096,physical_block_size=4096' };
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      qemuArgs: emulatedSsd(folder, 'local', 1, ssd),
    });
  });

  after(async () => {
    await vm?.stop();
    await target?.end('SIGTERM');
    if (folder !== undefined) rmSync(folder, { recursive: true });
  });

  it('a host discovers, connects, lists and disconnects', async () => {
    target = await CliTarget.start([]);
    const output = await vm!.run(`set -e; modprobe nvme-tcp; TARGET=${machineAddress}; ${blockOf('guest')}`);
    expect(output)
      .to.include('nqn.2026-01.io.nvmeferry:demo')
      .and.to.match(/\blive\b/)
      .and.to.match(/disconnected 1 controller/);
  });

  it('a local SSD is served, and answers to our verbs', async () => {
    await installProduct(vm!);
    const output = await vm!.run(
      `wait_for 20 test -e /dev/ng0n1
       nvmeferry() { ${guestCli} "$@"; }
       ${blockOf('ssd')}
       modprobe nvme-tcp
       nqn=nqn.2026-01.io.nvmeferry:demo
       attempt() { nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $nqn > /dev/null 2>&1; }
       wait_for 120 attempt
       wait_for 30 has_namespace $nqn 1
       echo "exported $(blockdev --getss --getsize64 $(namespace_of $nqn 1) | tr '\\n' ' ')"
       disconnect_from $nqn
       kill $(pgrep -f 'main.js target')
       wait || true`,
      { timeoutMs: 220_000 },
    );
    expect(output)
      .to.match(/Smart Log for NVME device:\/dev\/nvme0/)
      .and.to.match(/"mdts"/)
      .and.to.match(/NVMe Admin Command is Success/)
      .and.to.match(/namespace 1: nvme, 8 ?MiB, 4096-byte blocks/)
      .and.to.match(/exported 4096 8388608 /);
  });
});

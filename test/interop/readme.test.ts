/**
 * The README's commands for Linux machines, run in a guest: a host of the target that `nvmeferry target` starts without any flag; a machine with an SSD;
 * and a VM whose SSD is `nvmeferry dpu`.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, PACKAGE_ROOT } from '../support/cli.ts';
import { emulatedSsd } from './support/emulated-ssd.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { guestCli, installProduct } from './support/product-in-guest.ts';

function blockOf(name: string, language = 'sh'): string {
  const block = new RegExp(`^\`\`\`${language} ${name}\\n([\\s\\S]*?)^\`\`\`$`, 'm').exec(
    readFileSync(join(PACKAGE_ROOT, 'README.md'), 'utf8'),
  );
  expect(block, `block \`sh ${name}\` of the README`).not.to.equal(null);
  return block![1]!;
}

describe('README, on Linux machines', function () {
  this.timeout(600_000);
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
      `wait_for 90 test -e /dev/ng0n1
       nvmeferry() { ${guestCli} "$@"; }
       ${blockOf('ssd')}
       modprobe nvme-tcp
       nqn=nqn.2026-01.io.nvmeferry:demo
       attempt() { nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $nqn > /dev/null 2>&1; }
       wait_for 120 attempt
       wait_for 90 has_namespace $nqn 1
       echo "exported $(blockdev --getss --getsize64 $(namespace_of $nqn 1) | tr '\\n' ' ')"
       disconnect_from $nqn
       kill $(pgrep -f 'main.js target')
       wait || true`,
      { timeoutMs: 300_000 },
    );
    expect(output)
      .to.match(/Smart Log for NVME device:\/dev\/nvme0/)
      .and.to.match(/"mdts"/)
      .and.to.match(/NVMe Admin Command is Success/)
      .and.to.match(/namespace 1: nvme, 8 ?MiB, 4096-byte blocks/)
      .and.to.match(/exported 4096 8388608 /);
  });

  it('a VM has what nvmeferry dpu serves as its own SSD, by flags and by a file', async () => {
    await vm!.stop();
    const socket = join(folder!, 'vm0.sock');
    const array = 'nqn.2026-01.com.example:array';
    const [port] = (await freePorts(1)) as [number];
    const far = await CliTarget.start([
      ...['--subsystem', array, '--listen', `127.0.0.1:${port}`, '--discovery', 'off'],
      '--memory',
      '64MiB',
    ]);
    /** The addresses of the README are nobody's here. */
    const here = (text: string): string =>
      text
        .replaceAll('/run/vm0.sock', socket)
        .replaceAll('10.0.0.1', `127.0.0.1:${port}`)
        .replaceAll('10.0.0.2', `127.0.0.1:${port}`);
    const [program, verb, ...flags] = words(here(blockOf('dpu')));
    expect([program, verb]).to.deep.equal(['nvmeferry', 'dpu']);
    // software emulation instead of KVM, and less memory
    const [qemu, ...machine] = words(
      here(blockOf('qemu')).replace('-accel kvm -cpu host', '-accel tcg,thread=multi -cpu max'),
    );
    expect([qemu, machine.pop()]).to.deep.equal(['qemu-system-x86_64', '...']);
    const machineArgs = machine.map((word) => word.replace(/(^|size=)4G\b/, '$1768M'));
    const file = join(folder!, 'dpu.yaml');
    writeFileSync(file, here(blockOf('dpu', 'yaml')));
    let dpu: CliTarget | undefined;
    try {
      dpu = await CliTarget.start(flags, { verb: 'dpu' });
      vm = await GuestVm.start({ kernel: '6.12', machineArgs });
      const found = await vm.run(`modprobe nvme; wait_for 90 test -b /dev/nvme0n1
        dd if=/dev/urandom of=/dev/nvme0n1 bs=64k count=4 oflag=direct status=none
        nvme list; sha256sum < <(dd if=/dev/nvme0n1 bs=64k count=4 iflag=direct status=none)`);
      expect(found).to.match(/67\.11 +MB/);
      await vm.stop();
      await dpu.end();
      dpu = await CliTarget.start(['--config', file], { verb: 'dpu' });
      vm = await GuestVm.start({ kernel: '6.12', machineArgs });
      const again = await vm.run(`modprobe nvme; wait_for 90 test -b /dev/nvme0n1
        sha256sum < <(dd if=/dev/nvme0n1 bs=64k count=4 iflag=direct status=none)`);
      expect(again.trim()).to.equal(found.trim().split('\n').at(-1));
    } finally {
      await vm?.stop();
      await dpu?.end();
      await far.end();
    }
  });
});

/** What a shell makes of one command. */
function words(text: string): string[] {
  const out = execFileSync('bash', ['-c', `printf '%s\\0' ${text}`], { encoding: 'utf8' });
  return out.split('\0').slice(0, -1);
}

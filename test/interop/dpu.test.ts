/**
 * `nvmeferry dpu` as the SSD of a stock Linux guest in QEMU: its own nvme driver on our PCIe function, with memory, a file, a namespace of our target and
 * one of Linux's behind it; file systems over a power cycle, resets, rebinding, and a controller that is killed under the running guest.
 */
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { NamespaceInput, TargetConfigInput } from '../../src/config/types.ts';
import { type GuestOptions, GuestVm } from './support/guest-vm.ts';
import { kernelTrouble } from './support/kernel-trouble.ts';
import { freePorts } from './support/ports.ts';
import { TargetProcess } from './support/product.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:dpu';
const FAR = 'nqn.2026-01.test.nvmeferry:far';
const LINUX = 'nqn.2026-01.test.nvmeferry:linux';
/** NSIDs. */
const MEMORY = 1;
const FILE = 2;
const REMOTE = 3;
const REMOTE_LINUX = 4;

const trouble = kernelTrouble();

describe('nvmeferry dpu in a Linux guest', function () {
  this.timeout(600_000);

  let far: TargetProcess;
  let dpu: TargetProcess;
  let vm: GuestVm;
  let farPort: number;
  let nvmetPort: number;
  let folder: string;
  let namespaces: NamespaceInput[];

  const socket = (name: string): string => `${folder}/${name}.sock`;
  const config = (name: string): TargetConfigInput => ({
    subsystems: [{ nqn: NQN, serial: 'DPU0', namespaces }],
    functions: [{ vfioUser: socket(name) }],
  });
  const device = (path: string, more: object = {}): string =>
    JSON.stringify({ driver: 'vfio-user-pci', ...more, socket: { type: 'unix', path } });
  const boot = (more: Partial<GuestOptions> = {}): Promise<GuestVm> =>
    GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      hostForwards: [{ hostPort: nvmetPort, guestPort: 4420 }],
      qemuArgs: ['-device', 'pcie-root-port,id=port1,chassis=1', '-device', device(socket('vm'))],
      ...more,
    });
  /** Binds the driver; in scripts, `disk NSID` is the block device. */
  const run = (script: string, timeoutMs = 300_000): Promise<string> =>
    vm.run(`disk() { namespace_of ${NQN} "$1"; }; ${script}`, { timeoutMs });
  const load = (nsid: number, mebibytes: number): Promise<string> =>
    run(
      `fio --name=verify --filename=$(disk ${nsid}) --rw=randrw --bsrange=4k-64k --ba=4k --size=${mebibytes}m --iodepth=8 --numjobs=1 \
       --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse > /run/fio.txt && echo verified`,
    );
  const kernelTrouble = async (): Promise<string[]> => (await vm.kernelLog()).filter((line) => trouble.test(line));

  before(async () => {
    [farPort, nvmetPort] = (await freePorts(2)) as [number, number];
    far = await TargetProcess.start((made) => ({
      subsystems: [
        { nqn: FAR, namespaces: [{ nsid: 1, backend: { type: 'file', path: `${made}/far`, size: '64MiB' } }] },
      ],
      ports: [{ service: farPort }],
      discovery: 'off',
    }));
    dpu = await TargetProcess.start((made) => {
      folder = made;
      namespaces = [
        { nsid: MEMORY, backend: { type: 'memory', size: '64MiB', blockSize: 512 } },
        { nsid: FILE, backend: { type: 'file', path: `${made}/disk`, size: '128MiB' } },
        {
          nsid: REMOTE,
          backend: { type: 'remote', uri: `nvme+tcp://127.0.0.1:${farPort}/${FAR}?nsid=1&reconnect-delay=1` },
        },
      ];
      return config('vm');
    }, 'dpu');
    vm = await boot();
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const said = await vm?.kernelLog().catch(() => ['nothing']);
    console.error(
      `The controller said:\n${dpu?.output.slice(-3000)}\nThe guest's kernel said:\n${said?.slice(-15).join('\n')}`,
    );
  });

  after(async () => {
    await vm?.stop();
    await dpu?.discard();
    await far?.discard();
  });

  it('binds with a queue per CPU, and says who it is', async () => {
    await run(`modprobe nvme; for nsid in 1 2 3; do wait_for 90 has_namespace ${NQN} $nsid; done`);
    const said = (await vm.kernelLog()).filter((line) => /nvme nvme0/.test(line)).join('\n');
    expect(said).to.match(/2\/0\/0 default\/read\/poll queues/);
    const id = JSON.parse(await run('nvme id-ctrl /dev/nvme0 -o json')) as Record<string, unknown>;
    expect(id).to.include({ subnqn: NQN, cntrltype: 1, ioccsz: 0 });
    expect(String(id.sn).trim()).to.equal('DPU0');
    const sizes = await run('for n in 1 2 3; do echo $(blockdev --getss --getsize64 $(disk $n)); done');
    expect(sizes.trim().split('\n')).to.deep.equal(['512 67108864', '4096 134217728', '4096 67108864']);
    await run(
      'nvme smart-log /dev/nvme0; nvme error-log /dev/nvme0; nvme fw-log /dev/nvme0; nvme effects-log /dev/nvme0 --csi=0',
    );
    await run('nvme list; nvme id-ns $(disk 1); nvme list-ns /dev/nvme0; nvme get-feature /dev/nvme0 -f 7');
    expect(await kernelTrouble()).to.deep.equal([]);
  });

  it('verified I/O on memory, on a file, on our target', async () => {
    for (const nsid of [MEMORY, FILE, REMOTE]) expect(await load(nsid, 4)).to.equal('verified\n');
    const interrupts = (await run("grep -E 'nvme0q[12]' /proc/interrupts")).trim().split('\n');
    expect(interrupts, 'both queues have a vector').to.have.length(2);
  });

  it("a namespace of Linux's own target comes while the guest runs, and holds verified I/O", async () => {
    await run(
      `modprobe brd rd_nr=1 rd_size=65536; nvmet_subsystem ${LINUX} /dev/ram0; nvmet_port 1 0.0.0.0 4420 ${LINUX}`,
    );
    namespaces.push({
      nsid: REMOTE_LINUX,
      backend: { type: 'remote', uri: `nvme+tcp://127.0.0.1:${nvmetPort}/${LINUX}?nsid=1&keep-alive-tmo=30` },
    });
    dpu.reload(config('vm'));
    await run(`wait_for 90 has_namespace ${NQN} ${REMOTE_LINUX}`);
    expect(await load(REMOTE_LINUX, 4)).to.equal('verified\n');
    namespaces.pop();
    dpu.reload(config('vm'));
    await run(`gone() { ! has_namespace ${NQN} ${REMOTE_LINUX}; }; wait_for 90 gone`);
  });

  it('the far target goes and comes back under I/O: the guest sees no error', async () => {
    const before = (await kernelTrouble()).length;
    const writing = run(
      `fio --name=write --filename=$(disk ${REMOTE}) --rw=randrw --bs=16k --size=16m --offset=16m --iodepth=4 --ioengine=libaio --direct=1 --time_based --runtime=6 \
       --output-format=terse > /run/fio.txt && echo done`,
    );
    await sleep(1500);
    await far.kill();
    await sleep(1000);
    await far.restart();
    expect(await writing).to.equal('done\n');
    expect((await kernelTrouble()).slice(before)).to.deep.equal([]);
  });

  it('discards and zeroes reach the file', async () => {
    const path = `${folder}/disk`;
    await run(`dd if=/dev/urandom of=$(disk ${FILE}) bs=1M count=16 seek=64 oflag=direct status=none`);
    const before = (await stat(path)).blocks;
    await run(`blkdiscard -o 64M -l 16M $(disk ${FILE})`);
    expect(before - (await stat(path)).blocks).to.be.at.least((16 << 20) / 512);
    const file = await open(path);
    try {
      await run(`dd if=/dev/urandom of=$(disk ${FILE}) bs=64k count=1 seek=1100 oflag=direct status=none`);
      await run(`blkdiscard -z -o $((1100*65536)) -l 65536 $(disk ${FILE})`);
      const found = Buffer.alloc(65_536);
      await file.read(found, 0, found.length, 1100 * 65_536);
      expect(found.every((byte) => byte === 0)).to.equal(true);
    } finally {
      await file.close();
    }
  });

  it('reset, and the driver unbound and bound again, with a file system in use before and after', async () => {
    const before = (await kernelTrouble()).length;
    await run(`mkfs.ext4 -q -F $(disk ${FILE}) && mount $(disk ${FILE}) /mnt
      dd if=/dev/urandom of=/mnt/random bs=1M count=24 status=none; cp -r /usr/share/bash-completion /mnt/ 2>/dev/null || cp -r /etc /mnt/
      nvme reset /dev/nvme0; (cd /mnt && find . -type f | sort | xargs sha256sum > /run/sums && sha256sum -c --quiet /run/sums)
      umount /mnt`);
    await run(`address=$(basename $(readlink -f /sys/class/nvme/nvme0/device)); echo $address > /run/address
      echo $address > /sys/bus/pci/drivers/nvme/unbind; gone() { [ -z "$(controllers_of ${NQN})" ]; }; wait_for 90 gone
      echo $address > /sys/bus/pci/drivers/nvme/bind; wait_for 90 has_namespace ${NQN} ${FILE}`);
    await run(
      'echo 1 > /sys/bus/pci/devices/$(cat /run/address)/reset; sleep 0.5; nvme id-ctrl /dev/nvme0 > /dev/null',
    );
    await run(
      `mount $(disk ${FILE}) /mnt && (cd /mnt && sha256sum -c --quiet /run/sums) && cp /run/sums /mnt/sums && umount /mnt`,
    );
    expect((await kernelTrouble()).slice(before).filter((line) => !/reset/.test(line))).to.deep.equal([]);
  });

  it('a power cycle of the VM, with pin interrupts this time: the controller stays, the data are intact', async () => {
    await vm.stop();
    vm = await boot({ kernelArgs: ['pci=nomsi'] });
    await run(`modprobe nvme; wait_for 90 has_namespace ${NQN} ${FILE}`);
    await run(`mount $(disk ${FILE}) /mnt && (cd /mnt && sha256sum -c --quiet sums) && umount /mnt`);
    expect(await load(MEMORY, 1)).to.equal('verified\n');
    expect(await run('grep nvme /proc/interrupts')).to.match(/IO-APIC/);
  });

  it('the controller is killed under the running guest; another one is plugged in, with the same data', async () => {
    // how long the driver waits for a command until it looks at the device; the case is not about that minute
    const waits = (seconds: number): string =>
      `echo ${seconds} | tee /sys/module/nvme_core/parameters/{admin,io}_timeout > /dev/null`;
    await run(waits(5));
    await dpu.kill();
    // reads of the device give ones now, and the driver gives it up
    await run(
      `nvme id-ctrl /dev/nvme0 > /dev/null 2>&1 || true; echo 1 > /sys/bus/pci/devices/$(basename $(readlink -f /sys/class/nvme/nvme0/device))/remove
       gone() { [ -z "$(controllers_of ${NQN})" ]; }; wait_for 90 gone; ${waits(60)}`,
      300_000,
    );
    dpu.configure(config('second'));
    await dpu.restart();
    await vm.qmp('device_add', JSON.parse(device(socket('second'), { id: 'dpu1', bus: 'port1' })) as object as never);
    await run(`wait_for 90 has_namespace ${NQN} ${FILE}`);
    await run(`mount $(disk ${FILE}) /mnt && (cd /mnt && sha256sum -c --quiet sums) && umount /mnt`);
    expect(await load(REMOTE, 1)).to.equal('verified\n');
  });
});

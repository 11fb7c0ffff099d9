/**
 * Local SSDs (QEMU's, in a guest) behind our target, which runs in that guest: the guest's kernel and our initiator on this machine are hosts.
 * What they write is on the SSDs afterwards, by io_uring and by ioctl; formats, small transfers, protection information, a device pulled under
 * I/O. And our command line on the local devices.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator.ts';
import { GuestVm } from './support/guest-vm.ts';
import { installedPath, projectRoot } from './support/paths.ts';
import { freePorts } from './support/ports.ts';
import { guestCli, installProduct } from './support/product-in-guest.ts';
import { verifiedLoad } from './support/verified-load.ts';

const nqn = 'nqn.2026-01.test.ferry:local';
const MIB = 1 << 20;

/** Serial number -> how QEMU makes it. One controller each. */
const ssds = {
  plain: { bytes: 32 * MIB, controller: 'mdts=3', namespace: 'logical_block_size=512,physical_block_size=512' },
  large: { bytes: 32 * MIB, controller: 'mdts=7', namespace: 'logical_block_size=4096,physical_block_size=4096' },
  guard: {
    bytes: 33 * MIB,
    controller: 'mdts=5',
    namespace: 'logical_block_size=512,physical_block_size=512,ms=8,pi=1',
  },
  meta: { bytes: 34 * MIB, controller: 'mdts=5', namespace: 'logical_block_size=4096,physical_block_size=4096,ms=16' },
  zoned: { bytes: 16 * MIB, controller: 'mdts=7', namespace: 'zoned=on,zoned.zone_size=1M,zoned.zone_capacity=1M' },
  pulled: { bytes: 16 * MIB, controller: 'mdts=5', namespace: 'logical_block_size=512,physical_block_size=512' },
} as const;
type Ssd = keyof typeof ssds;
const served = ['plain', 'large', 'guard', 'meta', 'pulled'] as const satisfies readonly Ssd[];
const pulledNsid = served.indexOf('pulled') + 1;

describe('Local SSDs behind our target, in a guest', function () {
  this.timeout(240_000);

  let vm: GuestVm;
  let folder: string;
  let port: number;
  /** Character device by serial number. */
  const nodes = new Map<Ssd, string>();
  const block = (ssd: Ssd): string => nodes.get(ssd)!.replace('/ng', '/nvme');

  before(async () => {
    installedPath('guest');
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-interop-'));
    [port] = (await freePorts(1)) as [number];
    const disk = join(folder, 'virtio');
    writeFileSync(disk, Buffer.alloc(16 * MIB));
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      hostForwards: [{ hostPort: port, guestPort: 4420 }],
      qemuArgs: [
        ...(Object.keys(ssds) as Ssd[]).flatMap((name, i) => ssdArguments(folder, name, i)),
        ...[
          '-drive',
          `file=${disk},format=raw,if=none,id=virtio,discard=unmap`,
          '-device',
          'virtio-blk-pci,drive=virtio',
        ],
      ],
    });
    await installProduct(vm);
    const listed = await vm.run(`
      for controller in /sys/class/nvme/*; do
        wait_for 20 test -e "$controller"/ng* || true
        for node in "$controller"/ng*; do echo "$(tr -d ' ' < "$controller/serial") /dev/\${node##*/}"; done
      done`);
    for (const line of listed.trim().split('\n')) {
      const [serial, node] = line.split(' ') as [Ssd, string];
      nodes.set(serial, node);
    }
    expect([...nodes.keys()]).to.have.members(Object.keys(ssds));
  });

  after(async () => {
    await vm?.stop();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  /** Starts the target in the guest; resolves when it is ready. */
  async function startTarget(option: string): Promise<void> {
    const namespaces = served.map((ssd, i) => `--nvme ${nodes.get(ssd)},nsid=${i + 1}${option}`).join(' ');
    await vm.run(
      `: > /run/target.out; : > /run/target.log
       setsid ${guestCli} target --subsystem ${nqn} -l 0.0.0.0:4420 --discovery off ${namespaces} --file /dev/vdb,blockSize=512,direct,nsid=${diskNsid} \\
         --output json < /dev/null > /run/target.out 2> /run/target.log &
       echo $! > /run/target.pid
       wait_for 150 grep -q '"ready"' /run/target.out || { cat /run/target.log; exit 1; }`,
      { timeoutMs: 170_000 },
    );
  }

  async function stopTarget(): Promise<void> {
    await vm.run(`kill -TERM $(cat /run/target.pid); wait_for 30 grep -q '"ended"' /run/target.out`);
  }

  /**
   * fio writes and verifies on the exported namespaces, then both sides are compared. Overlapping commands are kept apart: QEMU stores blocks and their
   * protection information one after the other, so that a read in between fails its check.
   */
  const verifyAll = (nsids: readonly number[], device: (nsid: number) => string, seconds: number): Promise<string> =>
    vm.run(
      `for nsid in ${nsids.join(' ')}; do
         wait_for 20 has_namespace ${nqn} $nsid
         disk=$(namespace_of ${nqn} $nsid)
         size=$(blockdev --getsize64 $disk)
         fio --name=v --filename=$disk --rw=randwrite --bsrange=4k-256k --ioengine=libaio --iodepth=16 --direct=1 \\
           --verify=crc32c --do_verify=1 --size=4m --output-format=terse > /run/fio.out || { tail -3 /run/fio.out | cut -c1-200; dmesg | tail -4; exit 1; }
         fio --name=m --filename=$disk --rw=randrw --bs=4k --ioengine=libaio --iodepth=32 --direct=1 --fsync=64 --serialize_overlap=1 \\
           --runtime=${seconds} --time_based --size=4m --output-format=terse > /run/fio.out || { tail -3 /run/fio.out | cut -c1-200; dmesg | tail -4; exit 1; }
         blockdev --flushbufs $disk
       done
       echo 3 > /proc/sys/vm/drop_caches
       ${nsids.map((nsid) => `blockdev --flushbufs ${device(nsid)}; cmp $(namespace_of ${nqn} ${nsid}) ${device(nsid)}`).join('\n')}`,
      { timeoutMs: 180_000 },
    );

  const allNsids = [...served.keys()].map((i) => i + 1);
  const diskNsid = served.length + 1;
  const deviceOf = (nsid: number): string => (nsid === diskNsid ? '/dev/vdb' : block(served[nsid - 1]!));

  for (const way of ['io_uring', 'ioctl'] as const) {
    it(`the guest's kernel writes and verifies on all of them, by ${way}; device and namespace are equal`, async () => {
      await startTarget(way === 'ioctl' ? ',ioctl' : '');
      const log = await vm.run('cat /run/target.log');
      expect(log).to.match(/"engine":"io_uring"/);
      expect(log).to.not.match(/by ioctl only/);
      await vm.run(`connect_to 127.0.0.1 4420 ${nqn} > /dev/null`);
      await verifyAll(way === 'io_uring' ? [...allNsids, diskNsid] : [1, 3], deviceOf, 2);
      await vm.run(`disconnect_from ${nqn}`);
      if (way === 'ioctl') await stopTarget();
      else await checkFromHere();
      if (way === 'io_uring') await stopTarget();
    });
  }

  /** Our initiator on this machine, on the 512-byte namespace with transfers larger than the device takes, and on the one with protection. */
  async function checkFromHere(): Promise<void> {
    const controller = await HostController.connect({ address: '127.0.0.1', port, subnqn: nqn, ioQueues: 1 });
    try {
      const identity = await controller.identifyController();
      expect(identity.vwc & 1).to.equal(1);
      for (const nsid of [1, 3]) {
        const namespace = await controller.namespace(nsid);
        const end = new AbortController();
        const timer = setTimeout(() => end.abort(), 2000);
        await verifiedLoad(namespace, { workers: 4, blocksPerWorker: 64, flushEvery: 50, signal: end.signal });
        clearTimeout(timer);
        // one command of 512 KiB is sixteen of the device
        const large = Buffer.alloc(512 << 10, `${nsid}`);
        await namespace.write(2048, large);
        expect(Buffer.compare(await namespace.read(2048, large.length / namespace.blockSize), large)).to.equal(0);
        const onDevice = await vm.run(
          `blockdev --flushbufs ${deviceOf(nsid)}; dd if=${deviceOf(nsid)} bs=512 skip=2048 count=1024 status=none | sha256sum`,
        );
        const here = await vm.run(`head -c 524288 /dev/zero | tr '\\0' '${nsid}' | sha256sum`);
        expect(onDevice).to.equal(here);
        await namespace.writeZeroes(2048, 1024, { deallocate: true });
        const zeroes = await vm.run(
          `blockdev --flushbufs ${deviceOf(nsid)}; dd if=${deviceOf(nsid)} bs=512 skip=2048 count=1024 status=none | tr -d '\\0' | wc -c`,
        );
        expect(Number(zeroes)).to.equal(0);
      }
    } finally {
      await controller.close();
    }
  }

  it('refuses a zoned namespace, a mounted one, and a controller, each in one line', async () => {
    const refusal = async (node: string): Promise<string> => {
      const { code, stderr } = await vm.exec(`${guestCli} target --nvme ${node} --log-level silent`);
      expect(code).to.not.equal(0);
      expect(stderr.trim().split('\n')).to.have.length(1);
      return stderr;
    };
    expect(await refusal(nodes.get('zoned')!)).to.match(/is a zoned namespace/);
    expect(await refusal('/dev/nvme0')).to.match(/is no namespace/);
    await vm.run(`mkfs.ext4 -q -F ${block('plain')}; mount ${block('plain')} /mnt`);
    expect(await refusal(nodes.get('plain')!)).to.match(/is mounted on \/mnt; end that first/);
    const asFile = await vm.exec(`${guestCli} target --file ${block('plain')},blockSize=512 --log-level silent`);
    expect(asFile.stderr).to.match(/is mounted on \/mnt; end that first/);
    await vm.run('umount /mnt');
  });

  it('verbs on the local device say what nvme-cli says', async () => {
    const controller = nodes.get('plain')!.replace(/ng(\d+)n\d+$/, 'nvme$1');
    const ours = await vm.run(`
      ${guestCli} id-ctrl ${controller} -o json | jq -c '[.sn, .mn, .mdts, .oncs, .subnqn]'
      ${guestCli} id-ns ${block('plain')} -o json | jq -c '[.nsze, .flbas, .lbafs[0].ds]'
      ${guestCli} get-log ${nodes.get('plain')} --log-id 2 --log-len 512 --raw-binary | wc -c
      ${guestCli} admin-passthru ${controller} --opcode=0x06 --cdw10=1 --data-len=4096 --read --raw-binary | sha256sum
      ${guestCli} io-passthru ${nodes.get('plain')} --opcode=0x02 --cdw10=0 --cdw12=0 --data-len=512 --read --raw-binary | sha256sum`);
    const theirs = await vm.run(`
      nvme id-ctrl ${controller} -o json | jq -c '[.sn, .mn, .mdts, .oncs, .subnqn]'
      nvme id-ns ${block('plain')} -o json | jq -c '[.nsze, .flbas, .lbafs[0].ds]'
      nvme get-log ${nodes.get('plain')} --log-id=2 --log-len=512 --raw-binary | wc -c
      nvme admin-passthru ${controller} --opcode=0x06 --cdw10=1 --data-len=4096 --read --raw-binary | sha256sum
      dd if=${block('plain')} bs=512 count=1 status=none | sha256sum`);
    const trimmed = (text: string): string[] => text.split('\n').map((line) => line.replaceAll(/ +"/g, '"'));
    expect(trimmed(ours)).to.deep.equal(trimmed(theirs));
    const failed = await vm.exec(`${guestCli} admin-passthru ${controller} --opcode=0xc7`);
    expect(failed.code).to.not.equal(0);
    expect(failed.stderr).to.match(/Invalid Command Opcode/i);
  });

  it("runs the README's commands", async () => {
    const found = /^```sh ssd\n([\s\S]*?)^```$/m.exec(readFileSync(join(projectRoot, 'README.md'), 'utf8'));
    expect(found, 'block `sh ssd` of the README').not.to.equal(null);
    const commands = found![1]!.replaceAll('/dev/ng0n1', nodes.get('large')!);
    const output = await vm.run(
      `nvmeferry() { ${guestCli} "$@"; }
       ${commands}
       kill -TERM $(pgrep -f 'main.js target'); wait`,
      { timeoutMs: 90_000 },
    );
    expect(output)
      .to.match(/Smart Log for NVME device:\/dev\/nvme0/)
      .and.to.match(/"mdts"/)
      .and.to.match(/NVMe Admin Command is Success/);
  });

  it('a device pulled under I/O: its namespace is not ready, then gone; the others go on', async () => {
    await startTarget('');
    await vm.run(`connect_to 127.0.0.1 4420 ${nqn} > /dev/null; wait_for 20 has_namespace ${nqn} ${pulledNsid}`);
    const load = vm.exec(
      `fio --name=p --filename=$(namespace_of ${nqn} ${pulledNsid}) --rw=randrw --bs=4k --ioengine=libaio --iodepth=8 --direct=1 \\
         --runtime=90 --time_based --size=8m --output-format=terse > /dev/null 2>&1`,
      { timeoutMs: 120_000 },
    );
    const others = vm.exec(
      `fio --name=o --filename=$(namespace_of ${nqn} 2) --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --direct=1 \\
         --verify=crc32c --runtime=20 --time_based --size=4m --output-format=terse`,
      { timeoutMs: 120_000 },
    );
    await vm.run(
      `disk=$(namespace_of ${nqn} ${pulledNsid})
       busy() { [ "$(awk '{print $5}' /sys/class/block/\${disk##*/}/stat)" -gt 50 ]; }
       wait_for 60 busy`,
      { timeoutMs: 90_000 },
    );
    await vm.qmp('device_del', { id: 'ctrl-pulled' });
    expect((await load).code, 'fio on a device that is gone').to.not.equal(0);
    await vm.run(`no_disk() { ! has_namespace ${nqn} ${pulledNsid}; }; wait_for 60 no_disk`, { timeoutMs: 90_000 });
    expect(await vm.run('cat /run/target.log')).to.match(/Device is gone, its namespace is removed/);
    const rest = await others;
    expect(rest.code, rest.stdout + rest.stderr).to.equal(0);
    await vm.run(`disconnect_from ${nqn}`);
    await stopTarget();
  });
});

function ssdArguments(folder: string, name: Ssd, index: number): string[] {
  const { bytes, controller, namespace } = ssds[name];
  const file = join(folder, name);
  // protection information of all ones is not checked: QEMU's disks come unformatted
  writeFileSync(file, Buffer.alloc(bytes, name === 'guard' ? 0xff : 0));
  return [
    ...['-drive', `file=${file},format=raw,if=none,id=drive-${name},discard=unmap`],
    ...['-device', `pcie-root-port,id=slot-${name},chassis=${index + 1},slot=${index + 1}`],
    ...['-device', `nvme,id=ctrl-${name},bus=slot-${name},serial=${name},${controller}`],
    ...['-device', `nvme-ns,bus=ctrl-${name},drive=drive-${name},nsid=1,${namespace}`],
  ];
}

/**
 * Local SSDs (QEMU's, in a guest) behind our target, one process in that guest: the guest's kernel and our initiator on this machine are hosts. What
 * they write is on the SSDs afterwards, by io_uring and by ioctl; formats, small transfers, protection information, refusals, a device pulled under
 * I/O. And our command line on the local devices.
 */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController, type NvmeStatusError } from '../../src/initiator.ts';
import { type EmulatedSsd, emulatedSsd, listSsds } from './support/emulated-ssd.ts';
import { GuestVm } from './support/guest-vm.ts';
import type { HugeMemoryResult } from './support/memory-in-guest.ts';
import type { PassthroughResult } from './support/passthrough-in-guest.ts';
import { installedPath } from './support/paths.ts';
import { freePorts } from './support/ports.ts';
import { guestCli, installProduct, installScript } from './support/product-in-guest.ts';
import { verifiedLoad } from './support/verified-load.ts';

const MIB = 1 << 20;
const plain = 'logical_block_size=512,physical_block_size=512';
const large = 'logical_block_size=4096,physical_block_size=4096';

/** By serial number. MDTS 3 is 32 KiB. */
const ssds = {
  plain: { bytes: 8 * MIB, controller: 'mdts=3', namespace: `${plain},mssrl=64,mcl=200,msrc=7` },
  large: { bytes: 8 * MIB, controller: 'mdts=7', namespace: large },
  // protection information of all ones is not checked: QEMU's disks come unformatted
  guard: { bytes: 9 * MIB, controller: 'mdts=5', namespace: `${plain},ms=8,pi=1`, fill: 0xff },
  meta: { bytes: 9 * MIB, controller: 'mdts=5', namespace: `${large},ms=16` },
  pulled: { bytes: 8 * MIB, controller: 'mdts=5', namespace: plain },
  ioctl: { bytes: 8 * MIB, controller: 'mdts=3', namespace: plain },
  ioctlguard: { bytes: 9 * MIB, controller: 'mdts=5', namespace: `${plain},ms=8,pi=1`, fill: 0xff },
  spare: { bytes: 8 * MIB, controller: 'mdts=5', namespace: plain },
  faulty: { bytes: 8 * MIB, controller: 'mdts=5', namespace: plain, badReads: 2000, badWrites: 3000 },
  zoned: { bytes: 8 * MIB, controller: 'mdts=7', namespace: 'zoned=on,zoned.zone_size=1M,zoned.zone_capacity=1M' },
} as const satisfies Record<string, EmulatedSsd>;
type Ssd = keyof typeof ssds;

/** What the subsystem serves, from NSID 1 on; `disk` and `failing` are block devices behind backend file, the latter with blocks that fail. */
const served = [
  'plain',
  'large',
  'guard',
  'meta',
  'disk',
  'pulled',
  'ioctl',
  'ioctlguard',
  'faulty',
  'failing',
] as const;
type Served = (typeof served)[number];
const byIoctl = ['ioctl', 'ioctlguard'] as const;
const byUring = ['plain', 'large', 'guard', 'meta', 'disk', 'pulled'] as const;
const FAILING = '/dev/dm-0';
const nsidOf = (name: Served): number => served.indexOf(name) + 1;
const spareNsid = served.length + 1;
const nqn = 'nqn.2026-01.test.ferry:local';
const adminPassthrough = { opcodes: [0x82], logPages: [] };

describe('Local SSDs behind our target, in a guest', function () {
  this.timeout(600_000);

  let vm: GuestVm;
  let folder: string;
  let port: number;
  /** Character device by serial number. */
  const nodes = new Map<string, string>([
    ['disk', '/dev/vdb'],
    ['failing', FAILING],
  ]);
  const block = (name: string): string => nodes.get(name)!.replace('/ng', '/nvme');

  const backendOf = (name: string): object =>
    name === 'disk' || name === 'failing'
      ? { type: 'file', path: nodes.get(name), blockSize: 512, direct: true }
      : {
          type: 'nvme',
          path: nodes.get(name),
          ...((byIoctl as readonly string[]).includes(name) ? { ioctl: true } : {}),
        };

  /** @param more backends beside those that are always served */
  function configuration(more: readonly object[] = []): Buffer {
    const backends = [...served.map(backendOf), ...more];
    return Buffer.from(
      JSON.stringify({
        subsystems: [{ nqn, adminPassthrough, namespaces: backends.map((backend, i) => ({ nsid: i + 1, backend })) }],
        ports: [{ address: '0.0.0.0', service: 4420 }],
        discovery: 'off',
      }),
    );
  }

  before(async () => {
    installedPath('guest');
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-interop-'));
    [port] = (await freePorts(1)) as [number];
    const disk = join(folder, 'virtio');
    writeFileSync(disk, Buffer.alloc(8 * MIB));
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      hostForwards: [{ hostPort: port, guestPort: 4420 }],
      qemuArgs: [
        ...(Object.keys(ssds) as Ssd[]).flatMap((name, i) => emulatedSsd(folder, name, i + 1, ssds[name])),
        ...['-drive', `file=${disk},format=raw,if=none,id=virtio,discard=unmap`],
        ...['-device', 'virtio-blk-pci,drive=virtio'],
      ],
    });
    await installProduct(vm);
    for (const line of (await vm.run(listSsds)).trim().split('\n')) {
      const [serial, node] = line.split(' ') as [string, string];
      nodes.set(serial, node);
    }
    expect([...nodes.keys()]).to.have.members(['disk', 'failing', ...Object.keys(ssds)]);
    await vm.run(
      `printf '%s\\n' '0 2000 zero' '2000 8 error' '2008 14376 zero' | dmsetup --noudevsync create failing; test -b ${FAILING}`,
    );
    await vm.writeFile('/run/target.json', configuration());
    await vm.run(
      `setsid ${guestCli} target --config /run/target.json --output json < /dev/null > /run/target.out 2> /run/target.log &
       echo $! > /run/target.pid
       wait_for 300 grep -q '"ready"' /run/target.out || { cat /run/target.log; exit 1; }
       connect_to 127.0.0.1 4420 ${nqn} > /dev/null
       for nsid in ${served.map(nsidOf).join(' ')}; do wait_for 90 has_namespace ${nqn} $nsid; done`,
      { timeoutMs: 460_000 },
    );
  });

  after(async () => {
    await vm?.stop();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  /**
   * fio writes and verifies on the exported namespaces, all at once, then both sides are compared. Overlapping commands are kept apart: QEMU stores
   * blocks and their protection information one after the other, so that a read in between fails its check.
   */
  async function verifyAll(names: readonly Served[]): Promise<void> {
    const jobs = names.map((name) => `--name=${name} --filename=$(namespace_of ${nqn} ${nsidOf(name)})`).join(' ');
    const fio = `fio --ioengine=libaio --direct=1 --output-format=terse`;
    const failed = `{ tail -12 /run/fio.out | cut -c1-300; dmesg | tail -4; exit 1; }`;
    await vm.run(
      `${fio} --rw=randwrite --bsrange=4k-256k --iodepth=16 --verify=crc32c --do_verify=1 --size=2m ${jobs} > /run/fio.out 2>&1 || ${failed}
       ${fio} --rw=randrw --bs=4k --iodepth=32 --fsync=64 --serialize_overlap=1 --runtime=2 --time_based --size=2m ${jobs} > /run/fio.out 2>&1 || ${failed}
       same() { blockdev --flushbufs $1; blockdev --flushbufs $2; cmp $1 $2; }
       ${names.map((name) => `same $(namespace_of ${nqn} ${nsidOf(name)}) ${block(name)}`).join('\n')}`,
      { timeoutMs: 400_000 },
    );
  }

  it('a Linux host writes and verifies on all of them, by io_uring; device and namespace are equal', async () => {
    const log = await vm.run('cat /run/target.log');
    expect(log).to.match(/"engine":"io_uring"/);
    expect(log, 'the kernel takes commands by io_uring').to.not.match(/by ioctl only/);
    await verifyAll(byUring);
  });

  it('and by ioctl', async () => {
    await verifyAll(byIoctl);
  });

  it('our initiator writes, verifies, and zeroes, with transfers longer than the device takes', async () => {
    const controller = await HostController.connect({ address: '127.0.0.1', port, subnqn: nqn, ioQueues: 1 });
    try {
      const identity = await controller.identifyController();
      expect(identity.vwc & 1).to.equal(1);
      for (const name of ['plain', 'guard'] as const) {
        const namespace = await controller.namespace(nsidOf(name));
        const end = new AbortController();
        const timer = setTimeout(() => end.abort(), 2000);
        await verifiedLoad(namespace, { workers: 4, blocksPerWorker: 64, flushEvery: 50, signal: end.signal });
        clearTimeout(timer);
        // one command of 512 KiB is sixteen of the device with MDTS 3
        const letter = name[0]!;
        const data = Buffer.alloc(512 << 10, letter);
        await namespace.write(2048, data);
        expect(Buffer.compare(await namespace.read(2048, data.length / namespace.blockSize), data)).to.equal(0);
        // by the device itself where blocks have no metadata
        await namespace.compare(2048, data);
        const other = Buffer.from(data);
        other[other.length - 1] = 0;
        const differs = namespace.compare(2048, other).catch((error: NvmeStatusError) => error.status & 0x7ff);
        expect(await differs).to.equal(0x285);
        const onDevice = `blockdev --flushbufs ${block(name)}; dd if=${block(name)} bs=512 skip=2048 count=1024 status=none`;
        expect(await vm.run(`{ ${onDevice}; } | tr -d '${letter}' | wc -c; { ${onDevice}; } | wc -c`)).to.equal(
          '0\n524288\n',
        );
        await namespace.writeZeroes(2048, 1024, { deallocate: true });
        expect(Number(await vm.run(`{ ${onDevice}; } | tr -d '\\0' | wc -c`))).to.equal(0);
      }
    } finally {
      await controller.close();
    }
  });

  it("Copy is the device's own, within its limits; where it cannot be, the target reads and writes", async () => {
    const controller = await HostController.connect({ address: '127.0.0.1', port, subnqn: nqn, ioQueues: 1 });
    const events = '/sys/kernel/tracing/events/nvme/nvme_setup_cmd';
    /** Copy commands that the kernel has given to a device since the last look. */
    const copies = async (): Promise<number> =>
      Number(
        await vm.run(
          `[ -d ${events} ] || mount -t tracefs none /sys/kernel/tracing
           grep -c '(0x19\\|(nvme_cmd_copy' /sys/kernel/tracing/trace || true
           echo 0 > /sys/kernel/tracing/trace; echo 1 > ${events}/enable`,
        ),
      );
    try {
      await copies();
      const namespace = await controller.namespace(nsidOf('plain'));
      const limits = JSON.parse(await vm.run(`nvme id-ns $(namespace_of ${nqn} ${nsidOf('plain')}) -o json`));
      expect([limits.mssrl, limits.mcl, limits.msrc]).to.deep.equal([64, 200, 7]);
      const data = Buffer.from(Array.from({ length: 200 * 512 }, (_, i) => (i * 7) ^ (i >> 9)));
      await namespace.write(4096, data);
      await namespace.copy(5000, [
        { slba: 4096 + 100, blockCount: 64 },
        { slba: 4096, blockCount: 3 },
      ]);
      const expected = Buffer.concat([data.subarray(100 * 512, 164 * 512), data.subarray(0, 3 * 512)]);
      expect(Buffer.compare(await namespace.read(5000, 67), expected)).to.equal(0);
      expect(await copies(), 'Copy commands to the device').to.equal(1);
      // more blocks than one range may have
      await namespace.copy(6000, [{ slba: 4096, blockCount: 65 }]);
      expect(Buffer.compare(await namespace.read(6000, 65), data.subarray(0, 65 * 512))).to.equal(0);
      expect(await copies()).to.equal(1);
      const guard = await controller.namespace(nsidOf('guard'));
      await guard.write(4096, data);
      await guard.copy(5000, [{ slba: 4096, blockCount: 200 }]);
      expect(Buffer.compare(await guard.read(5000, 200), data), 'blocks with protection information').to.equal(0);
      expect(await copies()).to.equal(0);
    } finally {
      await controller.close();
      await vm.run(`echo 0 > ${events}/enable`);
    }
  });

  it('media errors of an SSD and of a block device are the status of that command, and of no other', async () => {
    const controller = await HostController.connect({ address: '127.0.0.1', port, subnqn: nqn, ioQueues: 1 });
    const statusOf = (work: Promise<unknown>): Promise<number> =>
      work.then(
        () => 0,
        (error: unknown) => (error as NvmeStatusError).status & 0x7ff,
      );
    try {
      for (const [name, badRead, badWrite] of [
        ['faulty', 2000, 3000],
        ['failing', 2000, 2000],
      ] as const) {
        const namespace = await controller.namespace(nsidOf(name));
        const block = Buffer.alloc(512, 1);
        const around = [-1, 0, 8, 9].map((offset) => statusOf(namespace.read(badRead + offset, 1)));
        const statuses = await Promise.all(around);
        expect(statuses[1], `${name}: Unrecovered Read Error`).to.equal(0x281);
        expect([statuses[0], statuses[2], statuses[3]], `${name}: the blocks around`).to.deep.equal([0, 0, 0]);
        expect(await statusOf(namespace.write(badWrite, block)), `${name}: Write Fault`).to.equal(0x280);
        expect(await statusOf(namespace.write(badWrite - 1, block))).to.equal(0);
        expect(await statusOf(namespace.flush())).to.equal(0);
        if (name === 'faulty') {
          // by the device's own Verify, and its own protection
          expect(await statusOf(namespace.verify(badRead - 8, 8))).to.equal(0);
          expect(await statusOf(namespace.verify(badRead - 8, 16))).to.equal(0x281);
        }
        // a long one that meets the bad block in one of its pieces
        expect(await statusOf(namespace.read(badRead - 500, 1000))).to.equal(0x281);
      }
    } finally {
      await controller.close();
    }
  });

  it('refuses a zoned namespace, a mounted one, and a controller, each in one line, and serves on; what is served cannot be mounted', async () => {
    /** What a reload with that backend says. */
    const reload = async (backend: object): Promise<{ event: string; message?: string }> => {
      await vm.writeFile('/run/target.json', configuration([backend]));
      const line = await vm.run(
        `lines() { grep -c '"reload' /run/target.out || true; }
         before=$(lines)
         more() { [ $(lines) -gt $before ]; }
         kill -HUP $(cat /run/target.pid); wait_for 90 more; grep '"reload' /run/target.out | tail -1`,
      );
      return JSON.parse(line) as { event: string; message?: string };
    };
    const refusal = async (backend: object): Promise<string> => {
      const { event, message } = await reload(backend);
      expect(event).to.equal('reload-failed');
      expect(message!.split('\n')).to.have.length(1);
      return message!;
    };
    const nvme = (path: string): object => ({ type: 'nvme', path });
    expect(await refusal(nvme(nodes.get('zoned')!))).to.match(/is a zoned namespace/);
    expect(await refusal(nvme('/dev/nvme0'))).to.match(/is no namespace/);
    expect(await refusal(nvme('/dev/ng77n1'))).to.match(/\/dev\/ng77n1: no such device/);
    await vm.run(`mkfs.ext4 -q -F ${block('spare')}; mount ${block('spare')} /mnt`);
    expect(await refusal(nvme(nodes.get('spare')!))).to.match(/is mounted on \/mnt; end that first/);
    expect(await refusal({ type: 'file', path: block('spare'), blockSize: 512 })).to.match(
      /is mounted on \/mnt; end that first/,
    );
    await vm.run('umount /mnt');
    expect((await reload(nvme(nodes.get('spare')!))).event).to.equal('reloaded');
    await vm.run(`wait_for 90 has_namespace ${nqn} ${spareNsid}`);
    const mount = await vm.exec(`mount ${block('spare')} /mnt`);
    expect(mount.code, 'mounting a device that is served').to.not.equal(0);
    await vm.writeFile('/run/target.json', configuration());
    await vm.run(
      `no_disk() { ! has_namespace ${nqn} ${spareNsid}; }
       kill -HUP $(cat /run/target.pid); wait_for 90 no_disk; mount ${block('spare')} /mnt; umount /mnt`,
    );
  });

  it('a host sends the Admin command of the allow-list to the SSD, and no other; the Linux host reads what it reads locally', async () => {
    const local = nodes.get('plain')!.replace(/ng(\d+)n\d+$/, 'nvme$1');
    // Security Receive, protocol 0: the list of protocols that the device has
    const receive = (node: string, nsid: number): string =>
      `nvme admin-passthru ${node} --opcode=0x82 --namespace-id=${nsid} --cdw11=512 --data-len=512 --read --raw-binary | sha256sum`;
    const host = `/dev/$(controllers_of ${nqn})`;
    const [here, there, reads] = (
      await vm.run(`${receive(local, 0)}; ${receive(host, nsidOf('plain'))}
        nvme admin-passthru ${host} --opcode=0x82 --namespace-id=1 --cdw11=512 --data-len=512 --read --raw-binary | tr -d '\\0' | wc -c`)
    )
      .trim()
      .split('\n');
    expect(there).to.equal(here);
    expect(Number(reads), 'bytes that are not zero').to.be.greaterThan(0);
    const refused = async (args: string): Promise<string> => {
      const { code, stdout, stderr } = await vm.exec(
        `nvme admin-passthru ${host} ${args} --cdw11=512 --data-len=512 --read`,
      );
      expect(code).to.not.equal(0);
      return stdout + stderr;
    };
    expect(await refused('--opcode=0x82 --namespace-id=0'), 'several devices').to.match(/Invalid Namespace or Format/);
    expect(await refused(`--opcode=0x82 --namespace-id=${nsidOf('disk')}`), 'no device').to.match(
      /Invalid Field in Command/,
    );
    expect(await refused('--opcode=0xc2 --namespace-id=1'), 'not on the list').to.match(/Invalid Command Opcode/);
  });

  it('the engine itself: data in one piece and in several, by io_uring and by ioctl, I/O and Admin; statuses come back whole', async () => {
    const script = await installScript(vm, 'dist-test/test/interop/support/passthrough-in-guest.js');
    const node = nodes.get('spare')!;
    const said = await vm.run(`${script} ${node} ${node.replace(/ng(\d+)n\d+$/, 'nvme$1')}`, { timeoutMs: 300_000 });
    const results = said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as PassthroughResult & { passthrough: string });
    expect(results.map(({ ioctl, passthrough }) => [ioctl, passthrough])).to.deep.equal([
      [false, 'io_uring'],
      [true, 'io_uring'],
    ]);
    for (const { ioctl, statuses, same, refused, model } of results) {
      const way = ioctl ? 'ioctl' : 'io_uring';
      expect(statuses, way).to.deep.equal([0, 0, 0, 0]);
      expect(same, way).to.deep.equal([true, true]);
      expect(refused & 0x7ff, way).to.equal(0x80);
      expect(model, way).to.equal('QEMU NVMe Ctrl');
    }
  });

  it('what a host deallocates on a block device is discarded there, and nothing else', async () => {
    const backing = join(folder, 'virtio');
    const name = block('disk').slice('/dev/'.length);
    /** Discards that the kernel has given to the disk: requests, sectors. */
    const discards = async (): Promise<number[]> =>
      (await vm.run(`awk '{print $12, $14}' /sys/class/block/${name}/stat`)).trim().split(' ').map(Number);
    const controller = await HostController.connect({ address: '127.0.0.1', port, subnqn: nqn, ioQueues: 1 });
    try {
      const namespace = await controller.namespace(nsidOf('disk'));
      const data = Buffer.alloc(3 * MIB, 'd');
      const start = (4 * MIB) / 512;
      for (let i = 0; i < 6; i++) await namespace.write(start + i * 1024, data.subarray(0, MIB / 2));
      await namespace.flush();
      expect(Buffer.compare(readFileSync(backing).subarray(4 * MIB, 7 * MIB), data)).to.equal(0);
      const before = await discards();
      const { blocks } = statSync(backing);
      await namespace.deallocate(start + 2048, 2048);
      const after = await discards();
      expect(after[0]! - before[0]!, 'discards').to.be.greaterThan(0);
      expect(after[1]! - before[1]!, 'sectors').to.equal(2048);
      expect(blocks - statSync(backing).blocks, 'what the file behind the disk has less').to.equal(2048);
      data.fill(0, MIB, 2 * MIB);
      expect(Buffer.compare(readFileSync(backing).subarray(4 * MIB, 7 * MIB), data)).to.equal(0);
    } finally {
      await controller.close();
    }
  });

  it('memory on huge pages, from a memfd and from a file: mapped, shared, given back', async () => {
    const script = await installScript(vm, 'dist-test/test/interop/support/memory-in-guest.js');
    const said = await vm.run(
      `echo 4 > /proc/sys/vm/nr_hugepages; mkdir -p /run/huge; mount -t hugetlbfs -o pagesize=2M none /run/huge
       ${script} /run/huge/file; umount /run/huge; echo 0 > /proc/sys/vm/nr_hugepages`,
      { timeoutMs: 300_000 },
    );
    const found = JSON.parse(said) as HugeMemoryResult;
    expect(found.free[0], 'the guest has huge pages').to.be.at.least(3);
    expect(found).to.deep.equal({
      pageKb: [2048, 2048],
      free: [found.free[0], found.free[0]! - 3, found.free[0]],
      shared: [true, true],
      left: 0,
      leftInKernel: 0,
    });
  });

  it('verbs on the local device say what nvme-cli says', async () => {
    const controller = nodes.get('plain')!.replace(/ng(\d+)n\d+$/, 'nvme$1');
    const identity = `jq -c '[.sn, .mn, .mdts, .oncs, .subnqn]'`;
    const geometry = `jq -c '[.nsze, .flbas, .lbafs[0].ds]'`;
    // two at once: it is starting that takes long
    const ours = await vm.run(
      `{ ${guestCli} id-ctrl ${controller} -o json | ${identity}
         ${guestCli} id-ns ${block('plain')} -o json | ${geometry}
         ${guestCli} get-log ${nodes.get('plain')} --log-id 2 --log-len 512 --raw-binary | wc -c; } > /run/first &
       { ${guestCli} admin-passthru ${controller} --opcode=0x06 --cdw10=1 --data-len=4096 --read --raw-binary | sha256sum
         ${guestCli} io-passthru ${nodes.get('plain')} --opcode=0x02 --cdw10=0 --cdw12=0 --data-len=512 --read --raw-binary | sha256sum
         ! ${guestCli} admin-passthru ${controller} --opcode=0xc7 2>&1; } > /run/second
       wait $!
       cat /run/first /run/second`,
      { timeoutMs: 400_000 },
    );
    const theirs = await vm.run(`
      nvme id-ctrl ${controller} -o json | ${identity}
      nvme id-ns ${block('plain')} -o json | ${geometry}
      nvme get-log ${nodes.get('plain')} --log-id=2 --log-len=512 --raw-binary | wc -c
      nvme admin-passthru ${controller} --opcode=0x06 --cdw10=1 --data-len=4096 --read --raw-binary | sha256sum
      dd if=${block('plain')} bs=512 count=1 status=none | sha256sum`);
    const trimmed = (text: string): string[] =>
      text
        .trim()
        .split('\n')
        .map((line) => line.replaceAll(/ +"/g, '"'));
    const [failed, ...rest] = trimmed(ours).reverse();
    expect(rest.reverse()).to.deep.equal(trimmed(theirs));
    expect(failed).to.match(/Invalid Command Opcode/i);
  });

  it('a device pulled under I/O: its namespace is not ready, then gone; the others go on', async () => {
    const pulled = nsidOf('pulled');
    const load = vm.exec(
      `fio --name=p --filename=$(namespace_of ${nqn} ${pulled}) --rw=randrw --bs=4k --ioengine=libaio --iodepth=8 --direct=1 \\
         --runtime=120 --time_based --size=4m --output-format=terse > /dev/null 2>&1`,
      { timeoutMs: 300_000 },
    );
    const others = vm.exec(
      `fio --name=o --filename=$(namespace_of ${nqn} ${nsidOf('large')}) --rw=randwrite --bs=4k --ioengine=libaio --iodepth=8 --direct=1 \\
         --verify=crc32c --runtime=10 --time_based --size=4m --output-format=terse`,
      { timeoutMs: 300_000 },
    );
    await vm.run(
      `disk=$(namespace_of ${nqn} ${pulled})
       done_by() { [ "$(awk '{print $1 + $5}' /sys/class/block/\${disk##*/}/stat)" -gt $1 ]; }
       wait_for 90 done_by $(($(awk '{print $1 + $5}' /sys/class/block/\${disk##*/}/stat) + 50))`,
      { timeoutMs: 300_000 },
    );
    await vm.qmp('device_del', { id: 'ctrl-pulled' });
    expect((await load).code, 'fio on a device that is gone').to.not.equal(0);
    await vm.run(`no_disk() { ! has_namespace ${nqn} ${pulled}; }; wait_for 90 no_disk`, { timeoutMs: 300_000 });
    expect(await vm.run('cat /run/target.log')).to.match(/Device is gone, its namespace is removed/);
    const rest = await others;
    expect(rest.code, rest.stdout + rest.stderr).to.equal(0);
  });

  it('ends cleanly', async () => {
    await vm.run(
      `disconnect_from ${nqn}
       kill -TERM $(cat /run/target.pid); wait_for 90 grep -q '"ended"' /run/target.out`,
    );
    const lines = (await vm.run('cat /run/target.log')).trim().split('\n');
    // pino's levels: 50 is error
    expect(lines.filter((line) => (JSON.parse(line) as { level: number }).level >= 50)).to.deep.equal([]);
  });
});

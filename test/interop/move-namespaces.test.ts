/**
 * A namespace moves from one target of ours to another and back, ten times, under a Linux host: native multipath, ext4 with fio verify, a reservation.
 * Both targets have the same NQN, serial and namespace identity, and controller ids of their own. docs/moving.md
 */
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { TargetConfigInput } from '../../src/config/types.ts';
import { HostController } from '../../src/initiator.ts';
import { LiveMigration } from '../../src/migration.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { runCli, TargetProcess } from './support/product.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:moving';
const uuid = '6f1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31';
const sizeBytes = 96 << 20;
const MOVES = 10;
const patient = { timeoutMs: 300_000 };

/** Lost I/O, and what the kernel says when something is broken. */
const trouble =
  /I\/O error|critical .* error|Buffer I\/O|EXT4-fs (error|warning)|WARNING:|BUG:|Call Trace|hung task|Duplicate cntlid|nvme.*(ANA log|ANATT|identifiers changed|duplicate|unusual|timeout)/i;

/** A target: its ports for hosts, for managers and for discovery. */
interface Side {
  readonly name: 'A' | 'B';
  readonly target: TargetProcess;
  readonly ports: readonly [hosts: number, managers: number, discovery: number];
  /** The file behind the namespace. */
  readonly path: string;
}

describe('a namespace moves between two targets under a Linux host, 6.12', function () {
  this.timeout(600_000);
  let vm: GuestVm;
  let a: Side;
  let b: Side;
  let where: string;
  let folder: string | undefined;

  async function start(name: 'A' | 'B', ports: Side['ports']): Promise<Side> {
    const [hosts, managers, discovery] = ports;
    let path = '';
    const config = (folder: string): TargetConfigInput => {
      path = `${folder}/disk`;
      return {
        stateDirectory: `${folder}/state`,
        subsystems: [
          {
            nqn,
            serial: 'MOVING',
            allowAnyHost: true,
            ...(name === 'A' ? { cntlidMin: 1, cntlidMax: 0x7fff } : { cntlidMin: 0x8000, cntlidMax: 0xffef }),
            migration: { managers: { ports: [2] } },
            namespaces: [
              {
                nsid: 1,
                uuid,
                backend: { type: 'file', path, size: sizeBytes, blockSize: 4096 },
                closed: name === 'B',
              },
            ],
          },
        ],
        ports: [
          { portId: 1, address: '127.0.0.1', service: hosts, advertise: machineAddress },
          { portId: 2, address: '127.0.0.1', service: managers, advertise: false },
        ],
        discovery: { address: '127.0.0.1', service: discovery, advertise: machineAddress },
      };
    };
    const target = await TargetProcess.start(config);
    return { name, target, ports, path };
  }

  before(async () => {
    const ports = await freePorts(6);
    a = await start('A', [ports[0]!, ports[1]!, ports[2]!]);
    b = await start('B', [ports[3]!, ports[4]!, ports[5]!]);
    where = `address=${machineAddress} a=${a.ports[0]} b=${b.ports[0]} nqn=${nqn};`;
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-move-'));
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      // an emulated guest on a busy machine stands still at times, which is not what the log is searched for
      kernelArgs: ['nvme_core.io_timeout=120', 'nvme_core.admin_timeout=120'],
    });
    await vm.run('modprobe nvme-tcp; [ "$(cat /sys/module/nvme_core/parameters/multipath)" = Y ]');
  });

  after(async () => {
    await vm?.stop();
    await a?.target.discard();
    await b?.target.discard();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const said = await vm.exec('dmesg | tail -n 25; tail -n 20 /run/fio.log /run/sta?d.log 2> /dev/null');
    console.error(`A said:\n${a.target.output.slice(-2000)}\nB said:\n${b.target.output.slice(-2000)}\n${said.stdout}`);
  });

  const run = (script: string): Promise<string> => vm.run(`${where} ${functions} ${script}`, patient);
  const digestOf = ({ path }: Side): string => createHash('sha256').update(readFileSync(path)).digest('hex');

  it('the host sees one namespace on both, at A optimized and at B inaccessible', async () => {
    await run('connect $a; connect $b; wait_for 90 states optimized inaccessible');
    const device = JSON.parse(await run('nvme id-ns $(namespace_of $nqn 1) -o json')) as { nmic: number };
    expect(device.nmic & 1, 'NMIC').to.equal(1);
  });

  it(`${MOVES} moves under fio verify on ext4, with a reservation: no I/O error, everything is there`, async () => {
    const mark = await vm.markKernelLog();
    await run(`device=$(namespace_of $nqn 1)
      mkfs.ext4 -q -F $device; mount $device /mnt
      nvme resv-register $device --nrkey=0xfe11 --cptpl=3
      nvme resv-acquire $device --crkey=0xfe11 --rtype=1`);
    const reservation = await run('report');
    expect(JSON.parse(reservation)).to.deep.equal({ gen: 1, rtype: 1, ptpls: 1, hosts: [{ rcsts: 1, rkey: 0xfe11 }] });
    await run(startFio);
    for (let i = 1; i <= MOVES; i++) {
      const [from, to] = i % 2 === 1 ? [a, b] : [b, a];
      await move(from, to);
      await run(`wait_for 90 states ${to === b ? 'inaccessible optimized' : 'optimized inaccessible'}; works`);
      expect(await run('report'), `the reservation after move ${i}`).to.equal(reservation);
    }
    expect(await run(endFio)).to.include('fio verified');
    const digest = (await run('umount /mnt; e2fsck -fn $(namespace_of $nqn 1) >&2; digest')).trim();
    expect(digestOf(MOVES % 2 === 0 ? a : b), 'what the host reads is what the target has').to.equal(digest);
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
  });

  it('a host that follows discovery (nvme-stas) finds the destination when it is announced, and goes there', async () => {
    const mark = await vm.markKernelLog();
    await run('disconnect_from $nqn');
    const capture = await Capture.start({ ports: [...a.ports, ...b.ports], mayBeCut: true });
    try {
      const { manager, close } = await managerOf(a);
      const peer = { traddr: machineAddress, trsvcid: String(b.ports[0]), subnqn: nqn };
      await manager.announcePeer(peer, false);
      await run(`nvme_udevd; start_stas $address ${a.ports[2]}
        paths() { [ "$(controllers_of $nqn | wc -l)" = $1 ] && all_live $nqn; }
        wait_for 150 paths 1; wait_for 90 has_namespace $nqn 1
        mount $(namespace_of $nqn 1) /mnt
        ${startFio}`);
      await manager.announcePeer(peer, true);
      await run(`paths() { [ "$(controllers_of $nqn | wc -l)" = $1 ] && all_live $nqn; }
        wait_for 90 paths 2; wait_for 90 states optimized inaccessible`);
      await close();
      await move(a, b);
      await run('wait_for 90 states inaccessible optimized; works');
      expect(await run(endFio)).to.include('fio verified');
      await run('umount /mnt; stop_stas; nvme disconnect-all');
      expect((await capture.stop()).violations, 'hosts and orchestrator, as tshark sees them').to.deep.equal([]);
    } finally {
      await capture.discard();
    }
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
  });

  async function managerOf(side: Side): Promise<{ manager: LiveMigration; close(): Promise<void> }> {
    const controller = await HostController.connect({
      address: '127.0.0.1',
      port: side.ports[1],
      subnqn: nqn,
      ioQueues: 0,
      katoMs: 30_000,
    });
    return { manager: new LiveMigration(controller), close: () => controller.close() };
  }

  const managerUri = ({ ports }: Side): string => `nvme+tcp://127.0.0.1:${ports[1]}/${nqn}`;

  /**
   * Hosts find the destination by its address in the network of the guest. How long the pause is depends on the machine: it is not what is shown
   * here.
   */
  async function move(from: Side, to: Side): Promise<void> {
    const { code, stdout, stderr } = await runCli(
      [
        ...['migrate', managerUri(from), managerUri(to), '--overwrite', '--output', 'json'],
        ...['--blackout', '10000', '--when-stuck', 'cut'],
        ...['--announce', `${machineAddress}:${to.ports[0]}`, '--journal', join(folder!, 'journal')],
      ],
      patient,
    );
    expect(code, `${from.name} to ${to.name}:\n${stdout}\n${stderr}`).to.equal(0);
  }
});

// ---- scripts for the guest; functions from guest-lib.sh

const functions = `
connect() { # PORT
  quietly nvme connect -t tcp -a $address -s $1 -n $nqn -i 2 --keep-alive-tmo=120 --reconnect-delay=1 --ctrl-loss-tmo=120
  wait_for 90 has_namespace $nqn 1
}
ana_state() { # PORT
  local controller
  for controller in /sys/class/nvme/nvme*; do
    grep -q "trsvcid=$1" $controller/address || continue
    cat $controller/nvme*c*n*/ana_state 2> /dev/null && return
  done
  echo none
}
states() { [ "$(ana_state $a) $(ana_state $b)" = "$1 $2" ]; }
report() {
  nvme resv-report $(namespace_of $nqn 1) --eds -o json |
    jq -c '{gen, rtype, ptpls, hosts: [.regctlext | unique_by(.hostid) | .[] | {rcsts, rkey}]}'
}
works() { dd if=/dev/urandom of=/mnt/works bs=64k count=4 oflag=direct conv=fsync status=none; sync -f /mnt; }
digest() { dd if=$(namespace_of $nqn 1) bs=1M iflag=direct status=none | sha256sum | cut -d' ' -f1; }
`;

/** One verified pass after the other on a file, until it is told to stop. */
const startFio = `
rm -f /run/stop /run/fio.result
{ status=0
  while [ ! -e /run/stop ] && [ $status = 0 ]; do
    fio --name=load --filename=/mnt/load --size=8m --rw=randrw --bs=4k --iodepth=8 --verify=crc32c --verify_fatal=1 \\
      --ioengine=libaio --direct=1 --fsync=64 > /run/fio.log 2>&1 || status=$?
  done
  echo $status > /run/fio.result; } &
sleep 1
`;

const endFio = `
touch /run/stop
wait_for 240 [ -e /run/fio.result ]
[ $(cat /run/fio.result) = 0 ] || { cat /run/fio.log >&2; exit 1; }
echo 'fio verified'
`;

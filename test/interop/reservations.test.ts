/**
 * Reservations against Linux. Two hosts (each with a host NQN and identifier of its own) in one guest use our target through `nvme resv-*`, under
 * I/O, through a kill -9; then our verbs use the Linux target, and what the two report of one reservation is compared.
 */
import { expect } from 'chai';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { cliJson, runCli, TargetProcess } from './support/product.ts';

const nqn = 'nqn.2026-01.test.ours:reservations';
const linuxNqn = 'nqn.2026-01.test.linux:reservations';
const hostA = '11111111-1111-4111-8111-111111111111';
const hostB = '22222222-2222-4222-8222-222222222222';
const hostNqn = (uuid: string): string => `nqn.2014-08.org.nvmexpress:uuid:${uuid}`;

interface Report {
  gen: number;
  rtype: number;
  regctl: number;
  ptpls: number;
  regctlext: { cntlid: number; rcsts: number; rkey: number; hostid: string }[];
}

/**
 * connect_as UUID: a host with this identity connects; prints its block device. Native multipath would join both hosts' paths into one disk, so it
 * is off in this guest.
 */
const functions = `
device_of() { # UUID
  local folder
  for folder in /sys/class/nvme/*; do
    if [ "$(cat "$folder/hostid" 2> /dev/null)" = "$1" ]; then
      basename "$(ls -d "$folder"/nvme*n1 2> /dev/null | head -1)"; return
    fi
  done
}
has_device() { [ -n "$(device_of "$1")" ] && [ -b "/dev/$(device_of "$1")" ]; }
connect_as() { # UUID
  quietly nvme connect -t tcp -a $address -s $port -n $nqn --hostnqn=nqn.2014-08.org.nvmexpress:uuid:$1 --hostid=$1 \\
    --keep-alive-tmo=30 --reconnect-delay=1 --ctrl-loss-tmo=120
  wait_for 90 has_device $1
  echo "/dev/$(device_of $1)"
}
expect_failure() { if "$@" > /run/said 2>&1; then echo "did not fail: $*" >&2; exit 1; fi; }
conflicts() { expect_failure "$@"; grep -qi 'reservation conflict' /run/said || { cat /run/said >&2; exit 1; }; }
writes() { dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none; }
reads() { dd if=$1 of=/dev/null bs=4k count=1 iflag=direct status=none; }
report() { nvme resv-report $1 --eds -o json; }
`;

describe('reservations: Linux hosts 6.12 on our target', function () {
  this.timeout(600_000);
  let vm: GuestVm;
  let target: TargetProcess;
  let capture: Capture;
  let prelude: string;

  before(async () => {
    const [port] = (await freePorts(1)) as [number];
    capture = await Capture.start({ ports: [port], mayBeCut: true }); // the target is killed
    target = await TargetProcess.start((folder) => ({
      stateDirectory: `${folder}/state`,
      subsystems: [
        {
          nqn,
          allowAnyHost: true,
          namespaces: [{ nsid: 1, backend: { type: 'file', path: `${folder}/disk`, size: '64MiB', blockSize: 4096 } }],
        },
      ],
      ports: [{ portId: 1, address: '127.0.0.1', service: port, subsystems: ['*'] }],
      discovery: 'off',
    }));
    vm = await GuestVm.start({ kernel: '6.12', cpus: 1, kernelArgs: ['nvme_core.multipath=N'] });
    prelude = `address=${machineAddress} port=${port} nqn=${nqn} A=${hostA} B=${hostB}; ${functions}`;
    await vm.run(
      `[ "$(cat /sys/module/nvme_core/parameters/multipath)" = N ]; modprobe nvme-tcp; ${prelude} connect_as $A > /run/a; connect_as $B > /run/b`,
      {
        timeoutMs: 300_000,
      },
    );
    prelude += 'a=$(cat /run/a) b=$(cat /run/b);';
  });

  after(async () => {
    await vm?.stop();
    await capture?.discard();
    await target?.discard();
  });

  const run = (script: string): Promise<string> => vm.run(`${prelude} ${script}`, { timeoutMs: 300_000 });
  const report = async (device = '$a'): Promise<Report> => JSON.parse(await run(`report ${device}`)) as Report;

  it('is offered: RESCAP and ONCS as nvme-cli reads them', async () => {
    expect(JSON.parse(await run('nvme id-ns $a -o json'))).to.include({ rescap: 0xff });
    const { oncs } = JSON.parse(await run('nvme id-ctrl $a -o json')) as { oncs: number };
    expect(oncs & 0x20).to.equal(0x20);
  });

  it('register, acquire, report: the holder writes, the other gets a conflict', async () => {
    await run(`
      nvme resv-register $a --nrkey=0xaaaa --cptpl=3
      nvme resv-register $b --nrkey=0xbbbb
      nvme resv-acquire $a --crkey=0xaaaa --rtype=1
      conflicts nvme resv-acquire $b --crkey=0xbbbb --rtype=1
      writes $a
      reads $b
      expect_failure writes $b`);
    const { gen, rtype, regctl, ptpls, regctlext } = await report('$b');
    expect({ gen, rtype, regctl, ptpls }).to.deep.equal({ gen: 2, rtype: 1, regctl: 2, ptpls: 1 });
    const hex = (uuid: string): string => uuid.replaceAll('-', '');
    expect(regctlext.map(({ rcsts, rkey, hostid }) => ({ rcsts, rkey, hostid }))).to.deep.equal([
      { rcsts: 1, rkey: 0xaaaa, hostid: hex(hostA) },
      { rcsts: 0, rkey: 0xbbbb, hostid: hex(hostB) },
    ]);
  });

  it('it survives a kill -9 of the target; the hosts reconnect by themselves', async () => {
    const before = await report();
    await target.kill();
    await target.restart();
    await run('wait_for 90 all_live $nqn; wait_for 90 reads $a');
    const after = await report();
    expect({ ...after, regctlext: after.regctlext.length }).to.deep.equal({
      ...before,
      regctlext: before.regctlext.length,
    });
    await run('writes $a; expect_failure writes $b');
  });

  it('preempt and abort under I/O: the victim gets conflicts, the new holder goes on, notices arrive', async () => {
    const output = await run(`
      nvme resv-release $a --crkey=0xaaaa --rtype=1
      nvme resv-acquire $a --crkey=0xaaaa --rtype=3
      job() { fio --name=$1 --filename=$2 --rw=randwrite --bs=4k --size=16m --direct=1 --ioengine=libaio --iodepth=8 \\
        --time_based --runtime=$3 --output=/run/$1.out > /run/$1.err 2>&1; }
      job victim $a 60 & victim=$!
      job holder $b 6 & holder=$!
      sleep 2
      nvme resv-acquire $b --crkey=0xbbbb --prkey=0xaaaa --rtype=3 --racqa=2
      if wait $victim; then echo "victim went on"; fi
      wait $holder && echo "holder went on"
      nvme resv-notif-log $a -o json > /run/notice
      expect_failure writes $a
      reads $a
      writes $b
      cat /run/notice`);
    expect(output)
      .to.match(/^holder went on$/m)
      .and.not.match(/victim went on/);
    const notice = JSON.parse(output.slice(output.indexOf('{'))) as { rn_log_type: number; count: number };
    expect(notice).to.include({ rn_log_type: 1, count: 1 });
    const kernel = (await vm.kernelLog()).join('\n');
    expect(kernel).to.match(/reservation conflict/i);
    expect(await report()).to.include({ rtype: 3, regctl: 1 });
  });

  it('clear: nothing is left, both write', async () => {
    await run('nvme resv-release $b --crkey=0xbbbb --rrela=1; writes $a; writes $b');
    expect(await report()).to.include({ rtype: 0, regctl: 0 });
  });

  it('sent nothing that tshark calls malformed, and nothing unexpected', async () => {
    await vm.run('nvme disconnect-all'); // a connection that is still open is no whole one
    expect((await capture.stop()).violations).to.deep.equal([]);
  });
});

describe('reservations: our verbs on Linux target 7.x', function () {
  this.timeout(600_000);
  let vm: GuestVm;
  let uri: string;

  before(async () => {
    const [port] = (await freePorts(1)) as [number];
    uri = `nvme+tcp://127.0.0.1:${port}/${linuxNqn}?nsid=1`;
    vm = await GuestVm.start({ kernel: '7.x', cpus: 1, hostForwards: [{ hostPort: port, guestPort: port }] });
    // reservations are switched on before the namespace is enabled
    await vm.run(`
      modprobe -a brd nvmet nvmet-tcp
      folder=$nvmet/subsystems/${linuxNqn}
      mkdir -p $folder/namespaces/1
      echo 1 > $folder/attr_allow_any_host
      echo -n /dev/ram0 > $folder/namespaces/1/device_path
      echo 1 > $folder/namespaces/1/resv_enable
      echo 1 > $folder/namespaces/1/enable
      nvmet_port 1 0.0.0.0 ${port} ${linuxNqn}`);
  });

  after(async () => {
    await vm?.stop();
  });

  const as = (uuid: string, verb: string, ...args: string[]): string[] => [
    verb,
    uri,
    ...['--hostnqn', hostNqn(uuid), '--hostid', uuid],
    ...args,
  ];

  it('registers, acquires, is kept out, preempts, reports, releases, clears', async () => {
    await cliJson(as(hostA, 'resv-register', '--nrkey', '0xaaaa'));
    await cliJson(as(hostB, 'resv-register', '--nrkey', '0xbbbb'));
    await cliJson(as(hostA, 'resv-acquire', '--crkey', '0xaaaa', '--rtype', '2'));
    const conflict = await runCli(as(hostB, 'read', '--start-block', '0', '--block-count', '0'));
    expect(conflict.code).to.equal(1);
    expect(conflict.stderr).to.match(/Reservation Conflict/);
    const report = await cliJson<Report>(as(hostB, 'resv-report'));
    expect(report).to.include({ rtype: 2, regctl: 2 });
    expect(report.regctlext.map(({ rcsts, rkey }) => [rcsts, rkey])).to.deep.equal([
      [1, 0xaaaa],
      [0, 0xbbbb],
    ]);
    await cliJson(as(hostB, 'resv-acquire', '--crkey', '0xbbbb', '--prkey', '0xaaaa', '--rtype', '1', '--racqa', '2'));
    expect(await cliJson<Report>(as(hostA, 'resv-report'))).to.include({ rtype: 1, regctl: 1 });
    await cliJson(as(hostB, 'resv-release', '--crkey', '0xbbbb', '--rtype', '1'));
    await cliJson(as(hostB, 'resv-register', '--crkey', '0xbbbb', '--nrkey', '0xcccc', '--rrega', '2'));
    await cliJson(as(hostB, 'resv-release', '--crkey', '0xcccc', '--rrela', '1'));
    expect(await cliJson<Report>(as(hostA, 'resv-report'))).to.include({ rtype: 0, regctl: 0 });
    const refused = await runCli(as(hostA, 'resv-acquire', '--crkey', '0xaaaa', '--rtype', '1'));
    expect(refused.code).to.equal(1);
    expect(refused.stderr).to.match(/Reservation Conflict/);
  });
});

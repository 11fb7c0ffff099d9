/**
 * `nvmeferry conformance` on the Linux target, and its misbehaving target under the Linux host. What they do is recorded in docs/, with the reason for
 * every difference; a verdict that changes fails here.
 */
import { expect } from 'chai';
import type { CaseResult } from '../../src/conformance/case.ts';
import { makeHostCases } from '../../src/conformance/host/cases.ts';
import { HostBench, type HostPlace, type UserResult } from '../../src/conformance/host/host-bench.ts';
import type { HostCase } from '../../src/conformance/host/host-case.ts';
import { blockData } from '../../src/conformance/host/link.ts';
import { QUIRKS } from '../../src/conformance/quirks.ts';
import type { ReportSubject } from '../../src/conformance/report.ts';
import { type ExecResult, GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { runCli } from './support/product.ts';
import { expectRecorded } from './support/recorded-verdicts.ts';

const NQN = 'nqn.2026-01.test.linux:conformance';
const BLOCK_BYTES = 512;
/** 8 MiB: where the cases for hosts are brought about; the second of two operations is 1 MiB behind. */
const FIRST_LBA = 1 << 14;
const SECOND_LBA = FIRST_LBA + 2048;
const IO_BYTES = 32768;
/** An error status while an R2T is outstanding: Linux 6.12 frees the request and sends its data all the same. */
const CRASHES_LINUX = 'host-100';
/** Cases in which Linux goes on: only time tells that nothing more comes. */
const ENDED_BY_TIME = ['host-78', 'host-80', 'host-98'];

const NVMET_INTRODUCTION = `
# Conformance of the Linux target (nvmet, kernel 6.12 of Debian 13)

Written by \`test/interop/conformance.test.ts\` from a run of \`nvmeferry conformance --allow-writes --allow-destroy --slow\` against nvmet in a
virtual machine: one subsystem, two namespaces on null_blk disks. "Differs, known" lists what nvmet does otherwise than the specification asks, each with the
reason why it is taken for nvmet's own way and not for a mistake of the case (our target passes the same cases). Case \`tcp-16\` is left out: nvmet waits for
ICReq without limit.
`;

const LINUX_HOST_INTRODUCTION = `
# Conformance of the Linux host (kernel 6.12 of Debian 13)

Written by \`test/interop/conformance.test.ts\` from a run of the misbehaving target (\`nvmeferry conformance --host\`) under the kernel's nvme-tcp host in a
virtual machine; \`/dev/nvme-fabrics\` and \`dd\` are its user. "Differs, known" lists what the kernel does otherwise than the specification asks, each with its reason;
our own initiator passes the same cases (\`test/conformance/hosts.test.ts\`).

Case \`host-100\` is not run: an error status for a write whose R2T is still being answered makes kernel 6.12 free the request and go on sending its data; the
first run ended in a general protection fault in \`nvme_tcp_try_send_data\`. That is a defect of the host, not a way of its own.
`;

describe('Conformance of Linux 6.12', function () {
  this.timeout(900_000);
  let vm: GuestVm;
  let port: number;

  before(async () => {
    [port] = (await freePorts(1)) as [number];
    vm = await GuestVm.start({ kernel: '6.12', cpus: 2, hostForwards: [{ hostPort: port, guestPort: port }] });
    await vm.run(`
modprobe null_blk nr_devices=0
for disk in 0 1; do
  folder=/sys/kernel/config/nullb/nullb$disk
  mkdir $folder
  for setting in 'size 64' "blocksize $((512 << (3 * disk)))" 'memory_backed 1' 'discard 1' 'power 1'; do
    set -- $setting
    echo $2 > $folder/$1
  done
done
nvmet_subsystem ${NQN} /dev/nullb0 /dev/nullb1
nvmet_port 1 0.0.0.0 ${port} ${NQN}
modprobe nvme-tcp`);
    await vm.writeFile('/run/expected-1', blockData(FIRST_LBA, IO_BYTES));
    await vm.writeFile('/run/expected-2', blockData(SECOND_LBA, IO_BYTES));
  });
  after(async () => {
    await vm?.stop();
  });

  it('target: the verdicts are those of docs/conformance-nvmet.md', async () => {
    const uri = `nvme+tcp://127.0.0.1:${port}/${NQN}`;
    const flags = [
      '--allow-destroy',
      '--slow',
      '--skip',
      'tcp-16',
      '--answer-timeout',
      '4000',
      '--case-timeout',
      '60000',
    ];
    const { stdout, stderr, code } = await runCli(['conformance', uri, ...flags, '--output', 'json'], {
      timeoutMs: 880_000,
    });
    expect(code, stderr).to.be.oneOf([0, 1]);
    const { subject, cases } = JSON.parse(stdout.toString()) as { subject: ReportSubject; cases: CaseResult[] };
    expect(subject.peer).to.equal('nvmet');
    expectRecorded('conformance-nvmet', NVMET_INTRODUCTION, { subject, results: cases });
  });

  it('host: the verdicts are those of docs/conformance-linux-host.md', async () => {
    const quirks = QUIRKS.filter(({ peer }) => peer === 'linux-host');
    const cases = makeHostCases().map(patiently);
    const bench = await HostBench.listen({ address: '127.0.0.1', port: 0, settleMs: 4000, quirks, cases });
    const said = new Map<string, string>();
    try {
      const places = bench.places.filter(({ one }) => one.id !== CRASHES_LINUX);
      const worker = async (): Promise<void> => {
        for (let place = places.shift(); place !== undefined; place = places.shift()) {
          const { code, stdout, stderr } = await useInGuest(vm, place);
          said.set(place.one.id, `its user ended with ${code}, and said: ${stdout}${stderr}`);
          bench.userSaw(place.one.id, USER[code] ?? 'error');
          await bench.settled(place.one.id);
        }
      };
      await Promise.all(Array.from({ length: 4 }, worker));
      const results = bench.finish();
      const says = 'Linux 6.12, nvme-tcp';
      const subject: ReportSubject = { kind: 'host', name: 'guest', says, peer: 'linux-host' };
      expectRecorded('conformance-linux-host', LINUX_HOST_INTRODUCTION, { subject, results }, said);
    } finally {
      await bench.close();
    }
  });
});

const USER: Readonly<Record<number, UserResult>> = { 0: 'success', 4: 'wrong-data' };

/** Where a reaction ends the case, waiting longer for it costs nothing: a guest on a busy machine stands still at times. */
function patiently(one: HostCase): HostCase {
  const isEndedByTime = one.reaction.kind === 'alive' || ENDED_BY_TIME.includes(one.id);
  return isEndedByTime ? one : { ...one, timeoutMs: 60_000 };
}

/** What a user of the Linux host does for a case. */
async function useInGuest(vm: GuestVm, { one, port, nqn }: HostPlace): Promise<ExecResult> {
  const digests = one.tags.includes('digests') ? 'hdr_digest data_digest disable_sqflow' : '';
  const dd = (n: 1 | 2): string => {
    const at = ((n === 1 ? FIRST_LBA : SECOND_LBA) * BLOCK_BYTES) / IO_BYTES;
    return one.action.includes('write')
      ? `timeout 120 dd if=/run/expected-${n} of=$device bs=${IO_BYTES} seek=${at} count=1 oflag=direct status=none`
      : `{ timeout 120 dd if=$device of=/run/got-${one.id}-${n} bs=${IO_BYTES} skip=${at} count=1 iflag=direct status=none || exit 1; cmp -s /run/got-${one.id}-${n} /run/expected-${n} || exit 4; }`;
  };
  const use = one.action.startsWith('two-')
    ? `(${dd(1)}) & first=$!; (${dd(2)}) & second=$!; code=0; wait $first || code=$?; wait $second || code=$?; exit $code`
    : `(${dd(1)}); exit $?`;
  const script = `
set +e
# one more command, where the connection should go on
trap '[ -n "\${device:-}" ] && timeout 60 dd if=$device of=/dev/null bs=4096 count=1 iflag=direct status=none; remove_controllers ${nqn}' EXIT
add_controller ${machineAddress} ${port} ${nqn} nr_io_queues=1 keep_alive_tmo=30 reconnect_delay=1 ctrl_loss_tmo=30 ${digests} || exit 1
[ ${one.action} = connect ] && exit 0
wait_for 90 has_namespace ${nqn} 1 || exit 1
device=$(namespace_of ${nqn} 1)
${use}`;
  return vm.exec(script, { timeoutMs: 400_000 });
}

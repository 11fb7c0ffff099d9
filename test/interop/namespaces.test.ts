/**
 * The Linux host and nvme-cli on namespaces that come, go and change under them: by the operator's configuration, and by
 * their own commands (create-ns, attach-ns, detach-ns, delete-ns, format, sanitize); and 1,024 namespaces in three ANA groups.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { NamespaceInput, TargetConfigInput } from '../../src/config/types.ts';
import { answersOf } from './support/answers.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { cliJson, runCli, TargetProcess } from './support/product.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:managed';
const manyNqn = 'nqn.2026-01.test.nvmeferry:many';
const MIB = 1 << 20;
const MANY = 1024;

/** What a kernel says when something is wrong. */
const trouble =
  /I\/O error|critical .* error|WARNING:|BUG:|Call Trace|hung task|nvme.*(unusual|ANA log|ANATT|identifiers changed|duplicate|timeout|timed out|reset|reconnect)/i;

describe('Linux host 6.12 on namespaces that change', function () {
  this.timeout(600_000);

  let vm: GuestVm;
  let target: TargetProcess;
  let capture: Capture;
  let config: TargetConfigInput;
  let port: number;
  /** For scripts in the guest. */
  let where: string;

  const memory = (nsid: number, size: string, more: Partial<NamespaceInput> = {}): NamespaceInput => ({
    nsid,
    backend: { type: 'memory', size, blockSize: 512 },
    ...more,
  });
  const withNamespaces = (namespaces: NamespaceInput[]): TargetConfigInput => ({
    ...config,
    subsystems: [{ ...config.subsystems[0]!, namespaces }, ...config.subsystems.slice(1)],
  });

  before(async () => {
    port = (await freePorts(1))[0]!;
    capture = await Capture.start({ ports: [port], mayBeCut: true }); // the target is started again
    where = `address=${machineAddress} port=${port} nqn=${nqn} many=${manyNqn};`;
    target = await TargetProcess.start((folder) => {
      config = {
        subsystems: [
          {
            nqn,
            allowSanitize: true,
            volumes: { type: 'file', directory: `${folder}/volumes`, capacity: '1GiB' },
            namespaces: [memory(1, '64MiB')],
          },
          {
            nqn: manyNqn,
            namespaces: Array.from({ length: MANY }, (_, i) => memory(i + 1, '1MiB', { anagrpid: (i % 3) + 1 })),
          },
        ],
        ports: [{ address: '127.0.0.1', service: port }],
        discovery: 'off',
        stateDirectory: `${folder}/state`,
      };
      return config;
    });
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 1024,
      kernelArgs: ['nvme_core.io_timeout=120', 'nvme_core.admin_timeout=120'],
    });
    await vm.run(`${where} connect_to $address $port $nqn -i 1`);
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const kernelSaid = (await vm.kernelLog()).slice(-15).join('\n');
    console.error(`The target said:\n${target.output.slice(-2000)}\nThe guest's kernel said:\n${kernelSaid}`);
  });

  after(async () => {
    await vm?.stop();
    await capture?.discard();
    await target?.discard();
  });

  /** Bytes of a namespace as the guest's block layer has it; 0 if it is not there. */
  const size = async (nsid: number): Promise<number> =>
    Number(
      await vm.run(
        `${where} dev=$(namespace_of $nqn ${nsid} || true); blockdev --getsize64 "$dev" 2> /dev/null || echo 0`,
      ),
    );
  async function untilSize(nsid: number, bytes: number): Promise<void> {
    for (let left = 150; (await size(nsid)) !== bytes; left--) {
      if (left === 0) throw new Error(`Namespace ${nsid} has ${await size(nsid)} bytes, not ${bytes}`);
      await sleep(200);
    }
  }

  it('sees a namespace come, grow, shrink, hide and go without connecting again', async () => {
    const mark = await vm.markKernelLog();
    target.reload(withNamespaces([memory(1, '64MiB'), memory(9, '16MiB')]));
    await untilSize(9, 16 * MIB);
    target.reload(withNamespaces([memory(1, '64MiB'), memory(9, '32MiB', { allowShrink: true })]));
    await untilSize(9, 32 * MIB);
    target.reload(withNamespaces([memory(1, '64MiB'), memory(9, '8MiB', { allowShrink: true })]));
    await untilSize(9, 8 * MIB);
    const hosts = ['nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555'];
    target.reload(withNamespaces([memory(1, '64MiB'), memory(9, '8MiB', { hosts })]));
    await untilSize(9, 0);
    target.reload(withNamespaces([memory(1, '64MiB'), memory(9, '8MiB')]));
    await untilSize(9, 8 * MIB);
    target.reload(withNamespaces([memory(1, '64MiB')]));
    await untilSize(9, 0);
    expect(await size(1)).to.equal(64 * MIB);
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
  });

  it('creates, attaches, writes, detaches and deletes a namespace by nvme-cli', async () => {
    const output = await vm.run(
      `${where}
      ctrl=/dev/$(controllers_of $nqn)
      cntlid=$(nvme id-ctrl $ctrl -o json | grep -o '"cntlid":[0-9]*' | cut -d: -f2)
      nvme create-ns $ctrl --nsze=32768 --ncap=32768 --flbas=0 --nmic=1
      nvme list-ns $ctrl --all
      nvme attach-ns $ctrl --namespace-id=2 --controllers=$cntlid
      wait_for 90 has_namespace $nqn 2
      dev=$(namespace_of $nqn 2)
      test "$(blockdev --getsize64 $dev)" = 16777216
      head -c 1048576 /dev/urandom > /run/data
      dd if=/run/data of=$dev bs=64k oflag=direct status=none
      dd if=$dev bs=64k count=16 iflag=direct status=none | cmp - /run/data
      nvme list-ctrl $ctrl --namespace-id=2
      nvme detach-ns $ctrl --namespace-id=2 --controllers=$cntlid
      gone() { ! has_namespace $nqn 2; }
      wait_for 90 gone
      nvme attach-ns $ctrl --namespace-id=2 --controllers=$cntlid
      wait_for 90 has_namespace $nqn 2
      dd if=$(namespace_of $nqn 2) bs=64k count=16 iflag=direct status=none | cmp - /run/data
      echo kept`,
      { timeoutMs: 300_000 },
    );
    expect(output)
      .to.match(/created nsid:\s*2/)
      .and.match(/0x2/)
      .and.match(/^kept$/m);
  });

  it('a restart of the target loses nothing of it', async () => {
    await target.kill();
    await target.restart();
    await vm.run(
      `${where} wait_for 90 all_live $nqn; wait_for 90 has_namespace $nqn 2
      dd if=$(namespace_of $nqn 2) bs=64k count=16 iflag=direct status=none | cmp - /run/data`,
      { timeoutMs: 300_000 },
    );
  });

  it('formats it to 4,096-byte blocks and back', async () => {
    await vm.run(
      `${where}
      ctrl=/dev/$(controllers_of $nqn)
      sectors() { test "$(blockdev --getss $(namespace_of $nqn 2) 2> /dev/null)" = "$1"; }
      nvme format $ctrl --namespace-id=2 --lbaf=1 --force
      wait_for 90 sectors 4096
      dev=$(namespace_of $nqn 2)
      dd if=$dev bs=64k count=16 iflag=direct status=none | cmp - <(head -c 1048576 /dev/zero)
      dd if=/run/data of=$dev bs=64k oflag=direct status=none
      dd if=$dev bs=64k count=16 iflag=direct status=none | cmp - /run/data
      nvme format $ctrl --namespace-id=2 --block-size=512 --ses=1 --force
      wait_for 90 sectors 512
      test "$(blockdev --getsize64 $(namespace_of $nqn 2))" = 16777216`,
      { timeoutMs: 300_000 },
    );
  });

  it('sanitizes, and reads the log', async () => {
    const output = await vm.run(
      `${where}
      ctrl=/dev/$(controllers_of $nqn)
      head -c 1048576 /dev/urandom | dd of=$(namespace_of $nqn 1) bs=64k iflag=fullblock oflag=direct status=none
      nvme sanitize $ctrl --sanact=start-block-erase
      finished() { nvme sanitize-log $ctrl | grep -ci 'sstat.*0x101' > /dev/null; }
      wait_for 90 finished
      nvme sanitize-log $ctrl
      dd if=$(namespace_of $nqn 1) bs=64k count=16 iflag=direct status=none | cmp - <(head -c 1048576 /dev/zero)`,
      { timeoutMs: 300_000 },
    );
    expect(output).to.match(/SSTAT.*0x101/);
  });

  it('deletes it: the block device goes, the capacity is back', async () => {
    const output = await vm.run(
      `${where}
      ctrl=/dev/$(controllers_of $nqn)
      nvme delete-ns $ctrl --namespace-id=2
      gone() { ! has_namespace $nqn 2; }
      wait_for 90 gone
      nvme id-ctrl $ctrl | grep unvmcap`,
      { timeoutMs: 300_000 },
    );
    expect(output).to.match(/unvmcap\s*:\s*1073741824/);
  });

  it('our own command line does the same, with the kernel connected beside it', async () => {
    const uri = `nvme+tcp://127.0.0.1:${port}/${nqn}`;
    const cli = async (...args: string[]): Promise<string> => {
      const { code, stdout, stderr } = await runCli(args);
      expect(code, stderr).to.equal(0);
      return stdout.toString();
    };
    expect(await cli('create-ns', uri, '--nsze-si', '8m', '--block-size', '4096', '--nmic', '1')).to.match(/nsid:2/);
    const ids = JSON.parse(await cli('list-ctrl', uri, '-o', 'json')) as { ctrl_list: { ctrl_id: number }[] };
    // the kernel's controller is the older one
    const kernel = Math.min(...ids.ctrl_list.map(({ ctrl_id }) => ctrl_id));
    await cli('attach-ns', uri, '-N', '2', '--controllers', String(kernel));
    await untilSize(2, 8 * MIB);
    await cli('detach-ns', uri, '-N', '2', '--controllers', String(kernel));
    await untilSize(2, 0);
    await cli('delete-ns', uri, '-N', '2');
    expect(await cli('list-ns', uri, '--all', '-o', 'json')).to.not.match(/"nsid": 2/);
  });

  it('connects to 1,024 namespaces and lists them; nvme-cli and our own initiator read the same ANA log', async () => {
    const mark = await vm.markKernelLog();
    const output = await vm.run(
      `${where}
      nvme disconnect -n $nqn > /dev/null
      begin=$SECONDS
      quietly nvme connect -t tcp -a $address -s $port -n $many -i 1 --keep-alive-tmo=60
      disks() { ls /sys/class/block | grep -c '^nvme[0-9]*n[0-9]*$' || true; }
      complete() { sleep 1; test "$(disks)" = ${MANY}; } # looking takes a CPU from what makes them
      wait_for 200 complete || { echo "only $(disks)" >&2; false; }
      echo "connected after $((SECONDS - begin)) s"
      nvme list-ns /dev/$(controllers_of $many) | grep -c '\\[ *[0-9]*\\]'
      echo '### ana-log'
      nvme ana-log /dev/$(controllers_of $many) -o json
      echo '### end'
      nvme disconnect -n $many > /dev/null`,
      { timeoutMs: 380_000 },
    );
    expect(output).to.match(new RegExp(`^${MANY}$`, 'm'));
    const theirs = JSON.parse(answersOf(output).get('ana-log') ?? '') as Record<string, unknown>;
    const ours = await cliJson<Record<string, unknown>>(['ana-log', `nvme+tcp://127.0.0.1:${port}/${manyNqn}`]);
    const groups = ours['ANA DESC LIST '] as { grpid: number; nnsids: number; state: string; NSIDS: object[] }[];
    expect(groups.map(({ grpid, nnsids, state }) => [grpid, nnsids, state])).to.deep.equal([
      [1, 342, 'optimized'],
      [2, 341, 'optimized'],
      [3, 341, 'optimized'],
    ]);
    expect(ours['ANA DESC LIST ']).to.deep.equal(theirs['ANA DESC LIST ']);
    expect((await vm.kernelLog(mark)).filter((line) => trouble.test(line))).to.deep.equal([]);
  });

  it('sent nothing that tshark calls malformed, and nothing unexpected', async () => {
    await vm.run('nvme disconnect-all'); // a connection that is still open is no whole one
    expect((await capture.stop()).violations).to.deep.equal([]);
  });
});

/**
 * A stock Linux guest in QEMU keeps its SSD while the controller behind it moves: from an `nvmeferry dpu` on target A to one on target B, and on to one on
 * the Linux kernel's target. `nvmeferry front` holds QEMU's connection. The guest runs verified I/O all the time, and sees no error.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { TargetConfigInput } from '../../src/config/types.ts';
import type { MoveReport } from '../../src/orchestrator/move-report.ts';
import { CliTarget } from '../support/cli.ts';
import { GuestVm } from './support/guest-vm.ts';
import { kernelTrouble } from './support/kernel-trouble.ts';
import { freePorts } from './support/ports.ts';
import { runCli, TargetProcess } from './support/product.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:moved';
const FAR = 'nqn.2026-01.test.nvmeferry:far';
const LINUX = 'nqn.2026-01.test.nvmeferry:linux';
const MOVER = 'nqn.2026-01.test.nvmeferry:mover';
const DISK_MIB = 32;
const CNTLID = 1;
const PATIENCE_MS = 30_000;

const trouble = kernelTrouble('reset');

/** A `nvmeferry dpu`, and a manager of its controller. */
interface End {
  readonly dpu: TargetProcess;
  readonly socket: string;
  readonly service: number;
}

describe('a controller moves under a running Linux guest', function () {
  this.timeout(600_000);

  let folder: string;
  let vm: GuestVm;
  let front: CliTarget;
  let nvmetPort: number;
  let portC: number;
  let control: string;
  const ends: End[] = [];
  const targets: TargetProcess[] = [];

  const run = (script: string, timeoutMs = 300_000): Promise<string> =>
    vm.run(`disk() { namespace_of ${NQN} 1; }; ${script}`, { timeoutMs });
  const kernelTrouble = async (): Promise<string[]> => (await vm.kernelLog()).filter((line) => trouble.test(line));

  async function target(service: number): Promise<string> {
    const made = await TargetProcess.start((there) => ({
      subsystems: [
        {
          nqn: FAR,
          namespaces: [
            { nsid: 1, backend: { type: 'file', path: `${there}/disk`, size: `${DISK_MIB}MiB`, blockSize: 512 } },
          ],
        },
      ],
      ports: [{ service }],
      discovery: 'off',
    }));
    targets.push(made);
    return `nvme+tcp://127.0.0.1:${service}/${FAR}?nsid=1&reconnect-delay=1`;
  }

  async function dpu(name: string, service: number, uri: string): Promise<End> {
    const socket = join(folder, `${name}.sock`);
    const config: TargetConfigInput = {
      subsystems: [
        {
          nqn: NQN,
          serial: 'MOVED0',
          migration: { managers: { hosts: [MOVER] } },
          // whoever is to get it waits for it
          namespaces: [{ nsid: 1, closed: name !== 'a', backend: { type: 'remote', uri } }],
        },
      ],
      functions: [{ vfioUser: socket, cntlid: CNTLID }],
      ports: [{ portId: 1, service }],
      discovery: 'off',
      // who was opened stays so over a restart
      stateDirectory: join(folder, `state-${name}`),
    };
    const end = { dpu: await TargetProcess.start(() => config, 'dpu'), socket, service };
    ends.push(end);
    return end;
  }

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-move-'));
    const [a, b, dpuA, dpuB, dpuC, nvmet] = (await freePorts(6)) as [number, number, number, number, number, number];
    nvmetPort = nvmet;
    const [uriA, uriB] = [await target(a), await target(b)];
    await dpu('a', dpuA, uriA);
    await dpu('b', dpuB, uriB);
    portC = dpuC;
    const socket = join(folder, 'vm.sock');
    control = join(folder, 'control.sock');
    front = await CliTarget.start(
      ['--vfio-user', socket, '--dpu', ends[0]!.socket, '--control', control, '--patience', `${PATIENCE_MS}`],
      { verb: 'front' },
    );
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: 768,
      hostForwards: [{ hostPort: nvmetPort, guestPort: 4420 }],
      qemuArgs: [
        '-device',
        JSON.stringify({
          driver: 'vfio-user-pci',
          'x-msg-timeout': PATIENCE_MS + 5000,
          socket: { type: 'unix', path: socket },
        }),
      ],
    });
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const said = await vm?.kernelLog().catch(() => ['nothing']);
    console.error(
      `The front said:\n${front?.stderr.slice(-3000)}\nThe guest's kernel said:\n${said?.slice(-15).join('\n')}`,
    );
    for (const { dpu: process } of ends) console.error(`A controller said:\n${process?.output.slice(-1500)}`);
  });

  after(async () => {
    await vm?.stop();
    await front?.end('SIGKILL');
    for (const { dpu: process } of ends) await process?.discard();
    for (const process of targets) await process.discard();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  it('binds through the front, and makes a file system', async () => {
    await run(`modprobe nvme; wait_for 90 has_namespace ${NQN} 1
      mkfs.ext4 -q -F $(disk) 12m && mount $(disk) /mnt
      dd if=/dev/urandom of=/mnt/random bs=1M count=4 status=none; (cd /mnt && sha256sum random > /run/sums); sync`);
    const id = JSON.parse(await run('nvme id-ctrl /dev/nvme0 -o json')) as Record<string, unknown>;
    expect(id).to.include({ subnqn: NQN, cntlid: CNTLID });
    expect(await kernelTrouble()).to.deep.equal([]);
  });

  it('moves to target B and on to the kernel target under fio verify: no error, nothing lost', async () => {
    await run(`rm -f /run/fio.*; touch /run/go; cat > /run/load.sh <<'EOF'
n=0
while [ -e /run/go ]; do
  fio --name=verify --filename=$1 --rw=randrw --bsrange=4k-32k --ba=4k --offset=16m --size=4m --iodepth=8 --ioengine=libaio --direct=1 \\
    --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json --output=/run/fio.$n.json || { echo failed > /run/fio.ended; exit 1; }
  n=$((n+1))
done
echo "passes $n" > /run/fio.ended
EOF
      setsid bash /run/load.sh $(disk) > /run/fio.said 2>&1 < /dev/null &
      wait_for 90 test -e /run/fio.0.json`);
    const toB = await move(ends[0]!, ends[1]!);
    await passes(1);
    // the same guest's kernel is the third target
    await run(
      `modprobe brd rd_nr=1 rd_size=${DISK_MIB * 1024}; nvmet_subsystem ${LINUX} /dev/ram0; nvmet_port 1 0.0.0.0 4420 ${LINUX}`,
    );
    const uri = `nvme+tcp://127.0.0.1:${nvmetPort}/${LINUX}?nsid=1&keep-alive-tmo=30`;
    await dpu('c', portC, uri);
    const toC = await move(ends[1]!, ends[2]!, '--overwrite');
    await passes(1);
    const ended = await run(
      'rm /run/go; wait_for 90 test -e /run/fio.ended; cat /run/fio.ended; cat /run/fio.said >&2',
    );
    expect(ended).to.match(/^passes \d+$/m);
    const worst = worstLatencyMs(await run('cat /run/fio.*.json'));
    console.log(
      `      controller suspended for ${toB} and ${toC} ms; longest I/O of the guest ${worst} ms, over ${ended.trim()} (emulated CPUs)`,
    );
    expect(await kernelTrouble()).to.deep.equal([]);
    await run('echo 3 > /proc/sys/vm/drop_caches; cd /mnt && sha256sum -c --quiet /run/sums');
  });

  it('runs on alone: source processes and targets are gone, data and file system are whole', async () => {
    for (const { dpu: process } of ends.splice(0, 2)) await process.discard();
    for (const process of targets.splice(0)) await process.discard();
    await run(`umount /mnt; e2fsck -f -n $(disk) > /dev/null; mount $(disk) /mnt; (cd /mnt && sha256sum -c --quiet /run/sums)
      nvme reset /dev/nvme0; dd if=/dev/zero of=/mnt/more bs=64k count=8 oflag=direct status=none; rm /mnt/more; sync`);
    expect((await kernelTrouble()).filter((line) => !/reset/.test(line))).to.deep.equal([]);
  });

  it('the controller is killed and started again: the guest resets it, and has its data', async () => {
    const [end] = ends as [End];
    await end.dpu.kill();
    await end.dpu.restart();
    await run(
      'nvme reset /dev/nvme0; echo 3 > /proc/sys/vm/drop_caches; cd /mnt && sha256sum -c --quiet /run/sums',
      300_000,
    );
    expect((await kernelTrouble()).filter((line) => !/reset/.test(line))).to.deep.equal([]);
  });

  /** Until the load has begun and ended that many passes more. */
  async function passes(count: number): Promise<void> {
    await run(
      `before=$(ls /run/fio.*.json | wc -l); more() { [ -e /run/fio.ended ] || [ $(ls /run/fio.*.json | wc -l) -gt $((before + ${count})) ]; }
      wait_for 90 more; [ ! -e /run/fio.ended ] || { cat /run/fio.ended /run/fio.said >&2; exit 1; }`,
      300_000,
    );
  }

  /** @returns how long the guest's controller was suspended, in ms */
  async function move(from: End, to: End, ...more: string[]): Promise<number> {
    const uri = ({ service }: End): string => `nvme+tcp://127.0.0.1:${service}/${NQN}`;
    const { code, stdout, stderr } = await runCli(
      [
        ...['migrate', uri(from), uri(to), '--hostnqn', MOVER, '--controller', `${CNTLID}`, '--announce', 'off'],
        ...['--front', control, '--from-socket', from.socket, '--to-socket', to.socket, '--output', 'json'],
        ...['--blackout', '10000', '--journal', join(folder, `journal-${ends.indexOf(to)}`), ...more],
      ],
      { timeoutMs: 300_000 },
    );
    expect(code, `${stdout}${stderr}`).to.equal(0);
    const report = JSON.parse(stdout.toString().trim().split('\n').at(-1)!) as MoveReport;
    expect(report).to.include({ outcome: 'moved' });
    return Math.round(report.blackoutMs!);
  }
});

/** Of fio's JSON, one document after the other: the longest time from submission to completion. */
function worstLatencyMs(text: string): number {
  const found = [...text.matchAll(/"clat_ns" : \{\s*"min" : \d+,\s*"max" : (\d+)/g)].map(([, max]) => Number(max));
  expect(found).not.to.deep.equal([]);
  return Math.round(Math.max(...found) / 1e6);
}

/**
 * `nvmeferry migrate --memory --hypervisor` with a real hypervisor: a Linux guest in QEMU, whose disk is a `nvmeferry dpu`, while its CPUs and its disk write to
 * its memory. QEMU cannot move the CPUs of a VM with a vfio-user device; so the move goes as far as the commit, where the copy is compared page by page with
 * the memory that stands still, and is undone: the guest goes on where it was.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { MigrateProcess } from '../support/migrate-process.ts';
import { GuestVm } from './support/guest-vm.ts';
import { kernelTrouble } from './support/kernel-trouble.ts';
import { freePorts } from './support/ports.ts';
import { TargetProcess } from './support/product.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:vm-memory';
const MOVER = 'nqn.2026-01.test.nvmeferry:mover';
const MEMORY_MIB = 512;
const CNTLID = 1;
const INTERRUPTED = 130;
const PROGRAM = fileURLToPath(new URL('./support/qemu-hypervisor.js', import.meta.url));

describe('the memory of a Linux guest is copied while it runs', function () {
  this.timeout(600_000);
  let folder: string;
  let vm: GuestVm;
  let memory: FileHandle;
  const ports: Record<string, number> = {};
  const ends: TargetProcess[] = [];
  const trouble = kernelTrouble('reset');
  const path = (name: string): string => join(folder, name);

  async function dpu(name: 'a' | 'b'): Promise<void> {
    const end = await TargetProcess.start(
      () => ({
        subsystems: [
          {
            nqn: NQN,
            serial: 'MOVED0',
            migration: { managers: { hosts: [MOVER] } },
            namespaces: [
              {
                nsid: 1,
                uuid: '0c9d7a52-6a0e-4f4c-9a55-0d5be3c0f1ab',
                closed: name === 'b',
                backend: { type: 'memory', size: '32MiB', blockSize: 512 },
              },
            ],
          },
        ],
        functions: [{ vfioUser: path(`${name}.sock`), cntlid: CNTLID }],
        ports: [{ portId: 1, service: ports[name]! }],
        discovery: 'off',
        stateDirectory: path(`state-${name}`),
      }),
      'dpu',
    );
    ends.push(end);
  }

  before(async function () {
    if (process.env.NVMEFERRY_INTEROP !== 'full') this.skip();
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-vm-memory-'));
    const [a, b] = (await freePorts(2)) as [number, number];
    Object.assign(ports, { a, b });
    await dpu('a');
    await dpu('b');
    vm = await GuestVm.start({
      kernel: '6.12',
      cpus: 2,
      memoryMiB: MEMORY_MIB,
      qemuArgs: [
        '-device',
        JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path: path('a.sock') } }),
        ...['-qmp', `unix:${path('qmp')},server=on,wait=off`],
      ],
    });
    memory = await vm.openMemory();
    writeFileSync(path('hypervisor'), `#!/bin/sh\nexec '${process.execPath}' '${PROGRAM}' '${path('qmp')}' "$@"\n`, {
      mode: 0o755,
    });
    const there = await open(path('b.ram'), 'w');
    await there.truncate(MEMORY_MIB << 20);
    await there.close();
  });
  after(async () => {
    await memory?.close();
    await vm?.stop();
    for (const end of ends) await end.discard();
    if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  });

  it('in the pause both files are the same, page by page; undone, the guest goes on without an error', async () => {
    await vm.run(`modprobe nvme; wait_for 90 has_namespace ${NQN} 1; touch /run/go; cat > /run/load.sh <<'EOF'
n=0
while [ -e /run/go ]; do
  fio --name=verify --filename=$1 --rw=randrw --bs=4k --size=4m --iodepth=8 --ioengine=libaio --direct=1 \\
    --verify=crc32c --verify_fatal=1 --do_verify=1 > /run/fio.said 2>&1 || { echo failed > /run/ended; exit 1; }
  n=$((n+1)); echo $n > /run/passes
done
echo passed $n > /run/ended
EOF
      setsid bash /run/load.sh $(namespace_of ${NQN} 1) > /dev/null 2>&1 < /dev/null &
      wait_for 90 test -e /run/passes`);
    const uri = (name: string): string => `nvme+tcp://127.0.0.1:${ports[name]}/${NQN}?hostnqn=${MOVER}`;
    const here = `/proc/${process.pid}/fd/${memory.fd}`;
    const migrate = new MigrateProcess(
      [
        ...[uri('a'), uri('b'), '--controller', `${CNTLID}`, '--announce', 'off', '--journal', path('journal')],
        ...['--hypervisor', path('hypervisor'), '--memory', `${here}=${path('b.ram')}`],
        ...['--blackout', '30000', '--blackout-limit', '120000'],
      ],
      { killAt: { step: 'last-copy', state: 'done', signal: 'SIGSTOP' } },
    );
    // something else may stop it as well
    const stopped = (): boolean =>
      existsSync(path('journal')) &&
      /"step":"last-copy","state":"done"/.test(readFileSync(path('journal'), 'utf8')) &&
      /^\d+ \(.*\) T/.test(readFileSync(`/proc/${migrate.child.pid}/stat`, 'latin1'));
    const over = migrate.ended.then((code) => {
      throw new Error(`It ended with ${code}: ${migrate.stderr}`);
    });
    const waits = async (): Promise<void> => {
      while (!stopped()) await sleep(20);
    };
    await Promise.race([waits(), over]);
    over.catch(() => {});
    expect(await vm.qmp('query-status')).to.include({ status: 'paused' });
    const compared = spawnSync('cmp', [here, path('b.ram')], { encoding: 'utf8' });
    expect(`${compared.stdout}${compared.stderr}`, 'another page').to.equal('');
    expect(compared.status).to.equal(0);
    const used = statSync(path('b.ram')).blocks * 512;
    expect(used, 'a guest has been copied').to.be.greaterThan(32 << 20);

    migrate.signal('SIGINT');
    migrate.signal('SIGCONT');
    expect(await migrate.ended, migrate.stderr).to.equal(INTERRUPTED);
    expect(migrate.report).to.include({ outcome: 'as-before' });
    const report = migrate.report as unknown as { memory: { dirtiedBytes: number; copiedBytes: number } };
    expect(report.memory.dirtiedBytes, 'it was written to meanwhile').to.be.greaterThan(0);
    console.log(`      ${used >> 20} MiB in use, ${report.memory.dirtiedBytes >> 10} KiB of them again`);
    expect(await vm.qmp('query-status')).to.include({ status: 'running' });
    const ended = await vm.run(
      'before=$(cat /run/passes); more() { [ -e /run/ended ] || [ $(cat /run/passes) -gt $((before + 1)) ]; }; wait_for 120 more; rm /run/go; wait_for 90 test -e /run/ended; cat /run/ended',
      { timeoutMs: 300_000 },
    );
    expect(ended).to.match(/^passed \d+$/m);
    expect((await vm.kernelLog()).filter((line) => trouble.test(line))).to.deep.equal([]);
  });
});

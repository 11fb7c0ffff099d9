/**
 * nvme-cli's lm plugin over the kernel's NVMe/TCP host on our target: every subcommand that it has, in the order of a migration; what it makes of a
 * state and what our code makes of the same bytes agree. Then `nvmeferry lm` on the same device.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { answersOf } from './support/answers.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { cliJson, TargetProcess } from './support/product.ts';
import { guestCli, installProduct } from './support/product-in-guest.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:lm';
const manager = '11111111-2222-4333-8444-555555555555';
const hosted = 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee';

/** connect_as UUID: a host with this identity connects; prints its controller. */
const functions = `
controller_of() { # UUID
  local folder
  for folder in /sys/class/nvme/*; do
    if [ "$(cat "$folder/hostid" 2> /dev/null)" = "$1" ]; then basename "$folder"; return; fi
  done
}
is_live() { [ -n "$(controller_of "$1")" ] && [ "$(cat "/sys/class/nvme/$(controller_of "$1")/state")" = live ]; }
connect_as() { # UUID
  quietly nvme connect -t tcp -a $address -s $port -n $nqn --hostnqn=nqn.2014-08.org.nvmexpress:uuid:$1 --hostid=$1 -i 1 \\
    --keep-alive-tmo=30 --reconnect-delay=1 --ctrl-loss-tmo=120
  wait_for 90 is_live $1
  controller_of $1
}
say() { # NAME COMMAND...
  echo "### $1"; shift
  "$@" 2>&1 || echo "exit status $?"
}
writes() { dd if=/dev/urandom of=$disk bs=4k count=\${2:-1} seek=$1 oflag=direct status=none; }
`;

interface DecodedState {
  suspended: boolean;
  nvmecss: number;
  vss: number;
  vendor: { format: string; blocks: { name: string; content: Record<string, unknown> }[] };
}

describe("live migration: nvme-cli's lm plugin with Linux 6.12 on our target", function () {
  this.timeout(600_000);
  let vm: GuestVm;
  let target: TargetProcess;
  let capture: Capture;
  let folder: string;
  let prelude: string;

  before(async () => {
    const [port] = (await freePorts(1)) as [number];
    capture = await Capture.start({ ports: [port], mayBeCut: true }); // verbs may be ended within a PDU
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-lm-'));
    target = await TargetProcess.start(() => ({
      subsystems: [
        {
          nqn,
          allowAnyHost: true,
          allowSanitize: true,
          namespaces: [{ nsid: 1, backend: { type: 'memory', size: '16MiB', blockSize: 4096 } }],
          migration: { managers: { hosts: [`nqn.2014-08.org.nvmexpress:uuid:${manager}`] } },
        },
      ],
      ports: [{ portId: 1, address: '127.0.0.1', service: port, subsystems: [nqn] }],
      discovery: 'off',
    }));
    // native multipath would send the hosted controller's I/O by the manager as well
    // and a write waits while nvme-cli, which is slow in a guest, goes through the commands of a suspended controller
    vm = await GuestVm.start({ kernel: '6.12', kernelArgs: ['nvme_core.multipath=N', 'nvme_core.io_timeout=150'] });
    prelude = `address=${machineAddress} port=${port} nqn=${nqn} A=${manager} B=${hosted}; ${functions}`;
    await vm.run(`modprobe nvme-tcp; ${prelude} connect_as $A > /run/a; connect_as $B > /run/b`, {
      timeoutMs: 300_000,
    });
    prelude +=
      'M=/dev/$(cat /run/a) b=$(cat /run/b); T=$(cat /sys/class/nvme/$b/cntlid); disk=/dev/$(cd /sys/class/nvme/$b && ls -d nvme*n1);';
  });

  after(async () => {
    await vm?.stop();
    await capture?.discard();
    await target?.discard();
    rmSync(folder, { recursive: true, force: true });
  });

  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    const kernelSaid = (await vm.kernelLog()).slice(-15).join('\n');
    console.error(`The target said:\n${target.output.slice(-2000)}\nThe guest's kernel said:\n${kernelSaid}`);
  });

  const run = (script: string): Promise<string> => vm.run(`${prelude} ${script}`, { timeoutMs: 300_000 });

  it('the script of a migration, subcommand by subcommand', async () => {
    const answers = answersOf(await run(script));
    const said = (name: string): string => answers.get(name)?.trim() ?? `no answer called ${name}`;
    const status = (name: string, code: string): void => {
      expect(said(name), name).to.match(new RegExp(`\\(0x[46]?${code}\\)`));
    };
    expect(said('id-ctrl')).to.match(/oacs\s*: 0x[0-9a-f]*[89a-f][0-9a-f]{2}\b/);
    expect(said('hosted'), 'no HMLMS').to.match(/oacs\s*: 0x[0-9a-f]*[0-7][0-9a-f]{2}\b/);
    // a queue in host memory cannot be over NVMe/TCP
    status('create in memory', '002');
    // nvme-cli 2.13 shifts the controller's number out of its field: there is no controller 0; then the queue is made by passthrough
    expect(said('create')).to.match(/CDQID=0x0000|\(0x[46]?11f\)/);
    expect(said('created')).to.equal('yes');
    status('create again', '002');
    expect(said('start')).to.match(/Success/i);
    status('start again', '137');
    expect(said('get-cdq')).to.match(/Head Pointer: 0x0\b/);
    status('resume running', '13a');
    expect(said('notification')).to.match(/Success/i);
    expect(said('suspend')).to.match(/Success/i);
    expect(said('written'), 'a write waits').to.equal('waits');
    status('stop suspended', '139');
    status('sanitize', '139');
    expect(said('recv')).to.not.match(/exit status|status/);
    // nvme-cli 2.13 frees its buffer twice at its end, whatever the command came to
    expect(said('set')).to.not.match(/NVMe status/);
    status('set wrong', '002');
    status('resume uncommitted', '00c');
    expect(said('set again')).to.not.match(/NVMe status/);
    expect(said('resume')).to.match(/Success/i);
    expect(said('written after')).to.equal('done');
    expect(said('set-cdq')).to.match(/Head Pointer: 3\b/);
    expect(said('get-cdq after')).to.match(/Head Pointer: 0x3\b/);
    expect(said('stop')).to.match(/Success/i);
    expect(said('delete')).to.match(/Success/i);
    status('delete again', '137');
    status('hosted may not', '001');
  });

  it('a state that the plugin wrote and printed: our decoder says the same', async () => {
    const bytes = await vm.readFile('/run/state');
    const printed = await vm.readFile('/run/printed');
    const file = join(folder, 'state');
    writeFileSync(file, bytes);
    const state = await cliJson<DecodedState>(['lm', 'state', 'decode', file]);
    const field = (pattern: RegExp): number => Number(pattern.exec(printed.toString())?.[1] ?? Number.NaN);
    expect(field(/\(?NVMECSS\)?\s*:\s*(0x[0-9a-f]+|\d+)/i), printed.toString()).to.equal(state.nvmecss + 2); // with the NVMe part: version 0, no queues
    expect(field(/\(?VSS\)?\s*:\s*(0x[0-9a-f]+|\d+)/i), printed.toString()).to.equal(state.vss);
    expect(field(/\(?NIOSQ\)?\s*:\s*(0x[0-9a-f]+|\d+)/i)).to.equal(0);
    expect(field(/\(?NIOCQ\)?\s*:\s*(0x[0-9a-f]+|\d+)/i)).to.equal(0);
    expect(state).to.include({ suspended: true });
    expect(bytes.length).to.equal(48 + 4 * state.vss);
    const block = (name: string) => state.vendor.blocks.find((one) => one.name === name)?.content;
    expect(block('host')).to.include({ hostnqn: `nqn.2014-08.org.nvmexpress:uuid:${hosted}` });
    expect(block('settings')).to.include({ katoMs: 30_000, ioQueuesMax: 1 });
  });

  it('nvmeferry lm on the same device: a queue, its entries, the state', async () => {
    await installProduct(vm);
    await vm.writeFile(
      '/run/before',
      Buffer.from(`create-cdq --cntlid=$T --size=512
track-send --cdqid=0 --start\n`),
    );
    const output = await run(`
      { echo "create-cdq --cntlid=$T --size=512"; echo "track-send --cdqid=0 --start"; } | ${guestCli} lm batch $M
      writes 100; blkdiscard -o 409600 -l 4096 $disk
      { echo "read-cdq -C 0 -o json"; echo "migration-send -s 0 -t 1 -c $T"; echo "read-cdq -C 0 -o json --consume"
        echo "migration-recv -c $T -f /run/ours"; echo "migration-send -s 1 -c $T"; echo "delete-cdq -C 0"; } | ${guestCli} lm batch $M > /run/out
      cat /run/out`);
    const logs = [...output.matchAll(/^\{\n[\s\S]*?^\}/gm)].map(([text]) => JSON.parse(text)) as {
      suspended: boolean;
      entries: { sequence: string; slba?: number; blocks?: number; deallocated?: boolean }[];
    }[];
    expect(logs.map(({ suspended }) => suspended)).to.deep.equal([false, true]);
    const entries = logs[1]!.entries.map(({ sequence, slba, blocks, deallocated }) => [
      sequence,
      slba,
      blocks,
      deallocated,
    ]);
    expect(entries).to.deep.equal([
      ['first', undefined, undefined, undefined],
      ['changed', 100, 1, false],
      ['changed', 100, 1, true],
      ['last: suspended', undefined, undefined, undefined],
    ]);
    const file = join(folder, 'ours');
    writeFileSync(file, await vm.readFile('/run/ours'));
    expect((await cliJson<DecodedState>(['lm', 'state', 'decode', file])).suspended).to.equal(true);
  });

  it('sent nothing that tshark calls malformed, and nothing unexpected', async () => {
    await vm.run('nvme disconnect-all'); // a connection that is still open is no whole one
    expect((await capture.stop()).violations).to.deep.equal([]);
  });
});

const script = `
say 'id-ctrl' nvme id-ctrl $M
say 'hosted' nvme id-ctrl /dev/$b
say 'create in memory' nvme lm create-cdq $M --size=64 --cntlid=$T --queue-type=0 --consent
say 'create' nvme lm create-cdq $M --size=64 --cntlid=$T --queue-type=0xc0 --consent
create() { nvme admin-passthru $M --opcode=0x45 --cdw10=0xc00000 --cdw11=$((T << 16)) --cdw12=64; }
nvme lm get-cdq $M --cdqid=0 > /dev/null 2>&1 || create > /dev/null
say 'created' sh -c "nvme lm get-cdq $M --cdqid=0 > /dev/null && echo yes"
say 'create again' create
say 'start' nvme lm track-send $M --sel=0 --cdqid=0 --start
say 'start again' nvme lm track-send $M --sel=0 --cdqid=0 --start
say 'get-cdq' nvme lm get-cdq $M --cdqid=0
writes 0
say 'resume running' nvme lm migration-send $M --sel=1 --cntlid=$T
say 'notification' nvme lm migration-send $M --sel=0 --cntlid=$T --stype=0
say 'suspend' nvme lm migration-send $M --sel=0 --cntlid=$T --stype=1
{ writes 8; touch /run/written; } &
say 'written' sh -c 'sleep 0.5; if [ -e /run/written ]; then echo done; else echo waits; fi'
say 'stop suspended' nvme lm track-send $M --sel=0 --cdqid=0 --stop
say 'sanitize' nvme sanitize $M --sanact=2
# of the whole state: the plugin writes a dword less than it asked for
nvme lm migration-recv $M --sel=0 --cntlid=$T --csuuidi=1 --numd=11 --output-file=/run/head
vss=$(od -An -tu4 -j32 -N4 /run/head)
say 'recv' nvme lm migration-recv $M --sel=0 --cntlid=$T --csuuidi=1 --numd=$((12 + vss)) --output-file=/run/state
nvme lm migration-recv $M --sel=0 --cntlid=$T --csvi=1 --csuuidi=1 --numd=$((14 + vss)) --human-readable > /run/printed
say 'set' nvme lm migration-send $M --sel=2 --cntlid=$T --seq-ind=3 --csuuidi=1 --numd=$((12 + vss)) --input-file=/run/state
{ head -c 80 /run/state; head -c $((vss * 4 - 32)) /dev/zero; } > /run/wrong
say 'set wrong' nvme lm migration-send $M --sel=2 --cntlid=$T --seq-ind=3 --csuuidi=1 --numd=$((12 + vss)) --input-file=/run/wrong
say 'resume uncommitted' nvme lm migration-send $M --sel=1 --cntlid=$T
say 'set again' nvme lm migration-send $M --sel=2 --cntlid=$T --seq-ind=3 --csuuidi=1 --numd=$((12 + vss)) --input-file=/run/state
say 'resume' nvme lm migration-send $M --sel=1 --cntlid=$T
wait
say 'written after' sh -c 'if [ -e /run/written ]; then echo done; else echo waits; fi'
say 'set-cdq' nvme lm set-cdq $M --cdqid=0 --hp=3
say 'get-cdq after' nvme lm get-cdq $M --cdqid=0
say 'stop' nvme lm track-send $M --sel=0 --cdqid=0 --stop
say 'delete' nvme lm delete-cdq $M --cdqid=0
say 'delete again' nvme lm delete-cdq $M --cdqid=0
say 'hosted may not' nvme lm migration-send /dev/$b --sel=1 --cntlid=$T
`;

/**
 * The Linux host, as shipped by Debian, on our target: discovery, every way to connect, what nvme-cli asks, file systems,
 * verified I/O, deallocation, changes at run time, and a target that is killed under load. All of it is captured, and
 * tshark must agree with every PDU.
 */
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { NamespaceInput, SubsystemInput, TargetConfigInput } from '../../src/config/types.ts';
import { answersOf } from './support/answers.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { kernelTrouble } from './support/kernel-trouble.ts';
import { type GuestKernel, kernelRelease } from './support/paths.ts';
import { freePorts } from './support/ports.ts';
import { TargetProcess } from './support/product.ts';

const discoveryNqn = 'nqn.2026-01.test.nvmeferry:discovery';
const memoryNqn = 'nqn.2026-01.test.nvmeferry:memory';
const fileNqn = 'nqn.2026-01.test.nvmeferry:file';
const lateNqn = 'nqn.2026-01.test.nvmeferry:late';

/** What the kernel may say about NVMe when nothing is wrong. Everything else that looks like trouble is a failure. */
const troubled = kernelTrouble('reset', 'reconnect');
/** (The kernel repeats its own command line.) */
const isTrouble = (line: string): boolean => troubled.test(line) && !/ommand line: /.test(line);
const reconnection =
  /nvme nvme\d+: (starting error recovery|Reconnecting in \d+ seconds|Successfully reconnected|Failed reconnect attempt \d+\/\d+|failed to connect socket: -\d+|failed to connect queue: \d+ ret=-?\d+|Connect command failed|failed nvme_keep_alive_end_io error|Property (Get|Set) error|failed to send request)|nvme nvme\d+: (queue \d+: )?(receive failed|failed to receive response):? +-?\d+/;

for (const kernel of ['6.12', '7.x'] satisfies GuestKernel[]) {
  /** All of it on one kernel; on the other what may differ, unless NVMEFERRY_INTEROP=full. */
  const isWhole = kernel === '6.12' || process.env.NVMEFERRY_INTEROP === 'full';

  describe(`Linux host ${kernel} on our target`, function () {
    this.timeout(600_000);

    let vm: GuestVm;
    let target: TargetProcess;
    let config: TargetConfigInput;
    let capture: Capture;
    let port: number;
    let discoveryPort: number;
    let filePath: string;
    /** For scripts in the guest. */
    let where: string;

    before(async () => {
      [port, discoveryPort] = (await freePorts(2)) as [number, number];
      where = `address=${machineAddress} port=${port} discovery=${discoveryPort} memory=${memoryNqn} file=${fileNqn} late=${lateNqn};`;
      target = await TargetProcess.start((folder) => {
        filePath = `${folder}/disk`;
        config = targetConfig(port, discoveryPort, filePath);
        return config;
      });
      capture = await Capture.start({ ports: [port, discoveryPort] });
      // a machine that is busy with other things must not look like a target that does not answer
      vm = await GuestVm.start({
        kernel,
        cpus: 2,
        memoryMiB: 1024,
        kernelArgs: ['nvme_core.io_timeout=150', 'nvme_core.admin_timeout=150'],
      });
      expect((await vm.run('uname -r')).trim()).to.equal(kernelRelease(kernel));
    });

    afterEach(async function () {
      if (this.currentTest?.state === 'failed') {
        const kernelSaid = (await vm.kernelLog()).slice(-15).join('\n');
        console.error(`The target said:\n${target.output.slice(-2000)}\nThe guest's kernel said:\n${kernelSaid}`);
        await vm.exec('umount -q /mnt; nvme disconnect-all'); // the next test starts from nothing
      }
    });

    after(async () => {
      await vm?.stop();
      await capture?.discard();
      await target?.discard();
    });

    it('discovers', async () => {
      const { records } = JSON.parse(
        await vm.run(`${where} modprobe nvme-tcp; nvme discover -t tcp -a $address -s $discovery -o json`),
      ) as { records: Record<string, string>[] };
      const found = records.filter((record) => record.subtype === 'nvme subsystem');
      expect(found.map((record) => record.subnqn)).to.have.members([memoryNqn, fileNqn]);
      for (const record of found) {
        expect(record).to.include({ trtype: 'tcp', adrfam: 'ipv4', traddr: '127.0.0.1', trsvcid: String(port) });
      }
      expect(records.some((record) => record.subnqn === discoveryNqn)).to.equal(true, 'the discovery subsystem itself');
    });

    for (const options of isWhole
      ? ['', '-g', '-G', '-g -G', '--disable-sqflow', '-g -G --disable-sqflow']
      : ['', '-g -G --disable-sqflow']) {
      it(`connects ${options || 'without digests'} and keeps data`, async () => {
        const output = await vm.run(`${where} ${checkConnection(`-i 1 ${options}`)}`, { timeoutMs: 300_000 });
        expect(output).to.match(/^queue_count 2$/m);
      });
    }

    // two CPUs: at most two queues of a kind; one queue is above
    for (const [queues, options] of [
      ...(isWhole ? ([[2, '-i 2']] as const) : []),
      [4, '-i 2 --nr-write-queues=2'],
    ] as const) {
      it(`connects with ${queues} I/O queues`, async () => {
        const output = await vm.run(`${where} ${checkConnection(options)}`, { timeoutMs: 300_000 });
        expect(output).to.match(new RegExp(`^queue_count ${queues + 1}$`, 'm'));
      });
    }

    for (const entries of isWhole ? [16, 128, 1024] : [1024]) {
      it(`connects with queues of ${entries} entries`, async () => {
        const output = await vm.run(`${where} ${checkConnection(`-i 1 -Q ${entries}`)}`, { timeoutMs: 300_000 });
        expect(output).to.match(new RegExp(`^sqsize ${entries - 1}$`, 'm'));
      });
    }

    it('answers what nvme-cli asks', async () => {
      const answers = answersOf(await vm.run(`${where} ${askEverything}`, { timeoutMs: 300_000 }));
      const answer = <T = Record<string, number>>(name: string): T => {
        const text = answers.get(name);
        if (text === undefined) throw new Error(`No answer called ${name}`);
        return JSON.parse(text) as T;
      };
      expect(answer('id-ctrl'))
        .to.include({ subnqn: memoryNqn, cntrltype: 1, nn: 1024 })
        .and.to.have.property('kas')
        .above(0);
      expect(answer('id-ns')).to.include({ nsze: (256 << 20) / 512, ncap: (256 << 20) / 512 });
      expect(answer<{ lbafs: { ds: number }[] }>('id-ns').lbafs[0]?.ds).to.equal(9);
      expect(answer('id-ns 2')).to.include({ nsze: (256 << 20) / 4096 });
      expect(answer('smart-log')).to.include({ critical_warning: 0 });
      expect(answer<{ errors: unknown[] }>('error-log').errors).to.have.lengthOf(8);
      expect(answers.get('supported-log-pages')).to.match(/0x?0*2/i);
      expect(answers.get('effects-log')).to.match(/Get Log Page|get-log|"2"/i);
      expect(answers.get('fw-log')).to.have.length.above(0);
      expect(answers.get('changed-ns')).to.have.length.above(0);
      expect(answers.get('feature 7')).to.match(/Current value:/);
      expect(answers.get('feature 0xb')).to.match(/Current value:/);
      expect(answers.get('feature 0xf')).to.match(/Current value:0x0*7530\b/); // the keep-alive time of connect_to
      expect(answers.get('ns-descs')).to.match(/uuid|nguid/);
      expect(answers.get('list-subsys')).to.include(memoryNqn).and.match(/live/);
      expect(answers.get('list')).to.include('/dev/nvme');
      expect(answers.get('unknown log')).to.match(/Invalid Log Page|0x?\d*109|Invalid Field/i);
      expect(answers.get('unknown command')).to.match(/Invalid Command Opcode|Invalid Opcode/i);
    });

    it('holds a file system: mkfs, copy, unmount, mount again, compare, trim', async () => {
      await vm.run(`${where} ${fileSystem}`, { timeoutMs: 300_000 });
      const allocated = (await stat(filePath)).blocks * 512;
      expect(allocated).to.be.below(24 << 20, 'what was deleted and trimmed is a hole in the file again');
    });

    it('survives fio with verification: 512 B to 1 MiB, queue depth 1 to 64, with and without digests', async () => {
      // all of it on one kernel; on the other each size once, and each depth
      const jobs: FioJob[] = isWhole
        ? [1, 16, 64].flatMap((depth) => blockSizes.map((bs) => ({ bs, depth })))
        : [
            { bs: '512', depth: 64 },
            { bs: '4k', depth: 16 },
            { bs: '64k', depth: 64 },
            { bs: '1m', depth: 1 },
          ];
      const output = await vm.run(`${where} ${verifiedIo(jobs)}`, { timeoutMs: 300_000 });
      expect(output.match(/^verified /gm)).to.have.lengthOf(2 * jobs.length);
    });

    it('reads zeroes where blocks were discarded or zeroed, and only there', async () => {
      await vm.run(`${where} ${discard}`, { timeoutMs: 300_000 });
    });

    it('tells connected hosts of a new subsystem and a new namespace without disturbing them', async () => {
      const mark = await vm.markKernelLog();
      await vm.run(`${where} ${watchChanges}`);
      target.reload(withAdditions(config));
      await vm.run(`${where} ${expectChanges}`, { timeoutMs: 300_000 });
      expect((await vm.kernelLog(mark)).join('\n')).to.not.match(/reconnect|error recovery/i);
    });

    it('gave the kernel nothing to complain about', async () => {
      expect((await vm.kernelLog()).filter(isTrouble)).to.deep.equal([]);
    });

    it('sent nothing that tshark calls malformed, and nothing unexpected', async () => {
      const dissection = await capture.stop();
      expect(dissection.violations).to.deep.equal([]);
      expect([...dissection.pdusByType.keys()].sort((a, b) => a - b)).to.deep.equal([0, 1, 4, 5, 6, 7, 9]);
      expect([...dissection.digestsAgreed].sort((a, b) => a - b)).to.deep.equal(isWhole ? [0, 1, 2, 3] : [0, 3]);
    });

    const kills = isWhole ? 2 : 1;
    it(`loses nothing acknowledged as flushed when it is killed under load, ${kills === 2 ? 'twice' : 'once'}`, async () => {
      const mark = await vm.markKernelLog();
      const cutCapture = await Capture.start({ ports: [port, discoveryPort], mayBeCut: true });
      try {
        await vm.run(`${where} ${startWriters}`, { timeoutMs: 300_000 });
        for (let round = 0; round < kills; round++) {
          await moreAcknowledged(vm, 12);
          await target.kill();
          // Nobody has the disk now: whatever the host was told is durable must be in the file.
          await sleep(500); // its last answers are counted
          await expectInFile(filePath, await acknowledged(vm));
          await target.restart();
          await vm.run('wait_for 90 all_live "$(cat /run/nqn)"', { timeoutMs: 300_000 });
        }
        await moreAcknowledged(vm, 12);
        const output = await vm.run(stopWriters, { timeoutMs: 300_000 });
        expect(output).to.include('fio verified');
        const count = await acknowledged(vm);
        await expectInFile(filePath, count);
        const log = await vm.kernelLog(mark);
        expect(log.filter((line) => /Successfully reconnected/.test(line))).to.have.lengthOf.at.least(kills);
        expect(log.filter((line) => isTrouble(line) && !reconnection.test(line))).to.deep.equal([]);
        expect((await cutCapture.stop()).violations).to.deep.equal([]);
      } finally {
        await cutCapture.discard();
      }
    });

    it('ends cleanly on SIGTERM', async () => {
      await target.stop();
    });
  });
}

function targetConfig(port: number, discoveryPort: number, path: string): TargetConfigInput {
  const subsystems: SubsystemInput[] = [
    {
      nqn: memoryNqn,
      allowAnyHost: true,
      namespaces: [
        { nsid: 1, backend: { type: 'memory', size: '256MiB', blockSize: 512 } },
        { nsid: 2, backend: { type: 'memory', size: '256MiB', blockSize: 4096 } },
      ],
    },
    {
      nqn: fileNqn,
      allowAnyHost: true,
      namespaces: [{ nsid: 1, backend: { type: 'file', path, size: '256MiB', blockSize: 4096 } }],
    },
  ];
  return {
    subsystems,
    ports: [{ portId: 1, address: '127.0.0.1', service: port, subsystems: subsystems.map(({ nqn }) => nqn) }],
    // nvme-cli keeps its persistent connection by the NQN and address of the log
    discovery: { address: '127.0.0.1', service: discoveryPort, nqn: discoveryNqn, advertise: machineAddress },
  };
}

/** A third subsystem, and namespace 3 in the first. */
function withAdditions({ subsystems, ports = [], ...rest }: TargetConfigInput): TargetConfigInput {
  const namespace: NamespaceInput = { nsid: 3, backend: { type: 'memory', size: '64MiB', blockSize: 4096 } };
  const grown = subsystems.map((subsystem) =>
    subsystem.nqn === memoryNqn
      ? { ...subsystem, namespaces: [...(subsystem.namespaces ?? []), namespace] }
      : subsystem,
  );
  return {
    ...rest,
    subsystems: [...grown, { nqn: lateNqn, allowAnyHost: true, namespaces: [{ ...namespace, nsid: 1 }] }],
    ports: ports.map((one) => ({ ...one, subsystems: [...(one.subsystems ?? []), lateNqn] })),
  };
}

// ---- scripts for the guest; functions from guest-lib.sh

const checkConnection = (options: string): string => `
device=$(connect_to $address $port $memory ${options})
controller=/sys/class/nvme/$(controllers_of $memory)
echo "queue_count $(cat $controller/queue_count)"
echo "sqsize $(cat $controller/sqsize)"
dd if=/dev/urandom of=/tmp/data bs=1M count=2 status=none
# each with other data than there was
keeps() { # BLOCK_SIZE COUNT SKIP
  dd if=/tmp/data of=$device bs=$1 count=$2 skip=$3 iflag=fullblock oflag=direct status=none
  dd if=$device of=/tmp/back bs=$1 count=$2 iflag=direct status=none
  dd if=/tmp/data bs=$1 count=$2 skip=$3 status=none | cmp - /tmp/back
}
keeps 1M 2 0
keeps 64k 8 1
keeps 4k 48 1
disconnect_from $memory
`;

const askEverything = `
device=$(connect_to $address $port $memory -i 1)
wait_for 90 has_namespace $memory 2
controller=/dev/$(controllers_of $memory)
ask() { local name=$1; shift; echo "### $name"; "$@"; }
refused() { local name=$1; shift; echo "### $name"; if "$@" 2>&1; then echo 'it was accepted' >&2; return 1; fi; }
ask 'id-ctrl' nvme id-ctrl $controller -o json
ask 'id-ns' nvme id-ns $device -o json
ask 'id-ns 2' nvme id-ns $(namespace_of $memory 2) -o json
ask 'smart-log' nvme smart-log $controller -o json
ask 'error-log' nvme error-log $controller -e 8 -o json
ask 'supported-log-pages' nvme supported-log-pages $controller
ask 'effects-log' nvme effects-log $controller
ask 'fw-log' nvme fw-log $controller
ask 'changed-ns' nvme changed-ns-list-log $controller
ask 'feature 7' nvme get-feature $controller -f 7
ask 'feature 0xb' nvme get-feature $controller -f 0xb
ask 'feature 0xf' nvme get-feature $controller -f 0xf
ask 'ns-descs' nvme ns-descs $device
ask 'list-subsys' nvme list-subsys
ask 'list' nvme list
refused 'unknown log' nvme get-log $controller --log-id=0x7e --log-len=512
refused 'unknown command' nvme admin-passthru $controller --opcode=0x7d
disconnect_from $memory
`;

const fileSystem = `
device=$(connect_to $address $port $file -i 2)
mkfs.ext4 -q $device
mount $device /mnt
cp -a /usr/bin /mnt/copy # more than is allowed to be left
rm -rf /mnt/copy
cp -a /usr/sbin /mnt/copy
umount /mnt
disconnect_from $file
device=$(connect_to $address $port $file -i 2 -g -G)
mount $device /mnt
diff -r --no-dereference /usr/sbin /mnt/copy
rm -rf /mnt/copy
sync
fstrim /mnt
umount /mnt
e2fsck -fn $device > /dev/null 2>&1
disconnect_from $file
`;

interface FioJob {
  readonly bs: (typeof blockSizes)[number];
  readonly depth: number;
}

const blockSizes = ['512', '4k', '64k', '1m'] as const;

/** So that the queue can be as deep as that: at least two commands for each place. */
const sizeOf = ({ bs, depth }: FioJob): string =>
  ({ '512': '128k', '4k': '1m', '64k': '8m', '1m': `${Math.max(8, depth)}m` })[bs];

/** One job after the other, in one process: starting it takes as long as a job. */
const verifiedIo = (jobs: readonly FioJob[]): string => `
for digests in '' '-g -G'; do
  device=$(connect_to $address $port $memory -i 2 $digests)
  fio --filename=$device --rw=randrw --verify=crc32c --verify_fatal=1 --ioengine=libaio --direct=1 --output-format=json --output=/tmp/fio.json \\
    ${jobs.map((job) => `--name=v-${job.bs}-${job.depth} --stonewall --bs=${job.bs} --iodepth=${job.depth} --size=${sizeOf(job)}`).join(' ')} \\
    > /tmp/fio.log 2>&1 || { tail -n 50 /tmp/fio.log /tmp/fio.json >&2; exit 1; }
  sed -n '/^{/,$p' /tmp/fio.json | jq -r '.jobs[] | select(.error == 0 and .read.total_ios > 0 and .write.total_ios > 0) | "verified \\(.jobname)"'
  disconnect_from $memory
done
`;

const discard = `
device=$(connect_to $address $port $file -i 1)
yes nvmeferry | head -c 8388608 > /tmp/pattern || true
expected() { cp /tmp/pattern /tmp/expected; dd if=/dev/zero of=/tmp/expected bs=4096 seek=$1 count=$2 conv=notrunc status=none; }
dd if=/tmp/pattern of=$device bs=1M oflag=direct status=none
blkdiscard -o $((256 * 4096)) -l $((512 * 4096)) $device
expected 256 512
cmp -n 8388608 $device /tmp/expected
dd if=/tmp/pattern of=$device bs=1M oflag=direct status=none
blkdiscard --zeroout -o $((100 * 4096)) -l $((7 * 4096)) $device
expected 100 7
cmp -n 8388608 $device /tmp/expected
nvme write-zeroes $device --start-block=200 --block-count=9
nvme dsm $device --ad --slbs=300 --blocks=20
dd if=/dev/zero of=/tmp/expected bs=4096 seek=200 count=10 conv=notrunc status=none
dd if=/dev/zero of=/tmp/expected bs=4096 seek=300 count=20 conv=notrunc status=none
blockdev --flushbufs $device
cmp -n 8388608 $device /tmp/expected
disconnect_from $file
`;

const watchChanges = `
connect_to $address $port $memory -i 1
udevadm monitor --kernel --property --subsystem-match=nvme > /run/uevents &
nvme discover -t tcp -a $address -s $discovery --persistent --keep-alive-tmo=30 -o json | jq .genctr > /run/genctr
wait_for 90 all_live ${discoveryNqn}
rm -f /run/stop /run/fio.result
{ status=0 # one verified pass after the other, until it is told to stop
  while [ ! -e /run/stop ] && [ $status = 0 ]; do
    fio --name=load --filename=$(namespace_of $memory 2) --rw=randrw --bs=4k --iodepth=4 --size=2m --verify=crc32c --verify_fatal=1 \\
      --ioengine=libaio --direct=1 > /run/fio.log 2>&1 || status=$?
  done
  echo $status > /run/fio.result; } &
reads() { awk '{ print $1 }' /sys/class/block/$(basename $(namespace_of $memory 2))/stat; }
busy() { [ $(reads) -gt 50 ]; }
wait_for 90 busy
`;

const expectChanges = `
wait_for 90 grep -q NVME_AEN=0x70f002 /run/uevents
nvme discover -d $(controllers_of ${discoveryNqn}) -o json > /run/log.json
jq -e --arg late $late '[.records[].subnqn] | contains([$late])' /run/log.json
[ $(jq .genctr /run/log.json) -gt $(cat /run/genctr) ]
wait_for 90 has_namespace $memory 3
connect_to $address $port $late -i 1
dd if=$(namespace_of $memory 3) of=/dev/null bs=1M count=4 iflag=direct status=none
disconnect_from $late
touch /run/stop
wait_for 90 [ -e /run/fio.result ]
[ $(cat /run/fio.result) = 0 ] || { cat /run/fio.log >&2; exit 1; }
disconnect_from ${discoveryNqn}
disconnect_from $memory
pkill udevadm
`;

/** Blocks of the log: one line of this length each, whose number is that of the block, from 0. */
const logBlockBytes = 4096;

const startWriters = `
device=$(connect_to $address $port $file -i 2)
echo $file > /run/nqn
blkdiscard $device
[ "$(cat /sys/class/block/\${device#/dev/}/queue/write_cache)" = 'write back' ] # so that fsync is a Flush command
cat > /run/log-writer <<'WRITER'
# One block after the other, each flushed before the next; /run/acknowledged counts what fsync has promised.
number=0
while [ ! -e /run/stop ]; do
  printf '%-${logBlockBytes - 1}d\\n' $number | dd of=$1 bs=${logBlockBytes} seek=$number iflag=fullblock oflag=direct conv=notrunc,fsync status=none || exit 1
  number=$((number + 1))
  echo $number > /run/acknowledged.new
  mv /run/acknowledged.new /run/acknowledged
done
WRITER
rm -f /run/stop /run/acknowledged /run/fio.result /run/writer.result
{ bash /run/log-writer $device; echo $? > /run/writer.result; } 2> /run/writer.err &
# beside it, verified load in another part of the disk
{ status=0
  while [ ! -e /run/stop ] && [ $status = 0 ]; do
    fio --name=load --filename=$device --offset=128m --size=8m --rw=randwrite --bs=4k --iodepth=16 --fsync=64 --verify=crc32c --verify_fatal=1 \\
      --verify_backlog=512 --ioengine=libaio --direct=1 > /run/fio.log 2>&1 || status=$?
  done
  echo $status > /run/fio.result; } &
wait_for 90 [ -e /run/acknowledged ]
`;

const stopWriters = `
touch /run/stop
wait_for 90 [ -e /run/writer.result ]
wait_for 90 [ -e /run/fio.result ]
[ $(cat /run/writer.result) = 0 ] || { cat /run/writer.err >&2; exit 1; }
[ $(cat /run/fio.result) = 0 ] || { cat /run/fio.log >&2; exit 1; }
echo 'fio verified'
device=$(namespace_of $(cat /run/nqn) 1)
count=$(cat /run/acknowledged)
dd if=$device bs=${logBlockBytes} count=$count iflag=direct status=none | awk '$1 != NR - 1 { exit 1 }'
disconnect_from $(cat /run/nqn)
`;

async function acknowledged(vm: GuestVm): Promise<number> {
  return Number(await vm.run('cat /run/acknowledged'));
}

/** The log grows by so many blocks. */
async function moreAcknowledged(vm: GuestVm, blocks: number): Promise<void> {
  await vm.run(
    `first=$(cat /run/acknowledged); more() { [ $(cat /run/acknowledged) -ge $((first + ${blocks})) ]; }; wait_for 100 more`,
    { timeoutMs: 300_000 },
  );
}

/** The first `count` blocks of the log are in the backing file. */
async function expectInFile(path: string, count: number): Promise<void> {
  const file = await open(path);
  try {
    const block = Buffer.alloc(logBlockBytes);
    for (let number = 0; number < count; number++) {
      await file.read(block, 0, logBlockBytes, number * logBlockBytes);
      if (block.toString('latin1') !== `${String(number).padEnd(logBlockBytes - 1)}\n`) {
        throw new Error(`Block ${number} of ${count} acknowledged ones is lost: ${block.toString('latin1', 0, 40)}`);
      }
    }
  } finally {
    await file.close();
  }
}

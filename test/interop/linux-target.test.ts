/**
 * Our initiator's command line on the Linux target: discovery with referrals, what the controller and its namespaces say
 * (compared, field by field, with what nvme-cli reads from the same controller), I/O compared with the disk behind it,
 * digests, a target that goes away and comes back, and nvmet handing everything to an emulated SSD. All of it is
 * captured, and tshark must agree with every PDU.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { expect } from 'chai';
import { HostController } from '../../src/initiator.ts';
import { answersOf } from './support/answers.ts';
import { Capture } from './support/capture.ts';
import { GuestVm } from './support/guest-vm.ts';
import { type GuestKernel, installedPath } from './support/paths.ts';
import { freePorts } from './support/ports.ts';
import { type CliResult, cliJson, runCli } from './support/product.ts';
import { verifiedLoad } from './support/verified-load.ts';

const discoveryNqn = 'nqn.2014-08.org.nvmexpress.discovery';
const diskNqn = 'nqn.2026-01.test.linux:disks';
const ssdNqn = 'nqn.2026-01.test.linux:ssd';

type Json = Record<string, unknown>;

for (const kernel of ['6.12', '7.x'] satisfies GuestKernel[]) {
  /** All of it on one kernel; on the other what may differ, unless NVMEFERRY_INTEROP=full. */
  const isWhole = kernel === '6.12' || process.env.NVMEFERRY_INTEROP === 'full';

  describe(`Our initiator on Linux target ${kernel}`, function () {
    this.timeout(600_000);

    let vm: GuestVm;
    let capture: Capture;
    let folder: string;
    let port: number;
    let uri: (nqn: string, nsid?: number) => string;

    before(async () => {
      folder = mkdtempSync(join(tmpdir(), 'nvmeferry-interop-'));
      installedPath('guest'); // says what to do if it is not there
      const ssd = join(folder, 'ssd');
      writeFileSync(ssd, Buffer.alloc(64 << 20));
      [port] = (await freePorts(1)) as [number];
      uri = (nqn, nsid) => `nvme+tcp://127.0.0.1:${port}/${nqn}${nsid === undefined ? '' : `?nsid=${nsid}`}`;
      capture = await Capture.start({ ports: [port] });
      vm = await GuestVm.start({
        kernel,
        cpus: 2,
        hostForwards: [{ hostPort: port, guestPort: port }],
        qemuArgs: [
          '-drive',
          `file=${ssd},format=raw,if=none,id=ssd`,
          '-device',
          'nvme,serial=ferry-ssd,drive=ssd,mdts=7',
        ],
      });
      await vm.run(linuxTarget(port));
    });

    after(async () => {
      await vm?.stop();
      await capture?.discard();
      rmSync(folder, { recursive: true, force: true });
    });

    it('discovers subsystems and referrals', async () => {
      const { records } = await cliJson<{ records: Json[] }>(['discover', `nvme+tcp://127.0.0.1:${port}`]);
      const byKind = (subtype: RegExp): Json[] => records.filter((record) => subtype.test(String(record.subtype)));
      expect(byKind(/^nvme subsystem$/).map((record) => record.subnqn)).to.have.members([diskNqn, ssdNqn]);
      for (const record of byKind(/^nvme subsystem$/)) expect(record.trsvcid).to.equal(String(port));
      const [referral, ...others] = byKind(/referral/);
      expect(others).to.deep.equal([]);
      expect(referral).to.include({ subnqn: discoveryNqn, traddr: '10.0.2.99', trsvcid: '8010' });
    });

    for (const nqn of [diskNqn, ssdNqn]) {
      const title = nqn === ssdNqn ? 'the emulated SSD behind nvmet' : "nvmet's own subsystem";
      it(`reads of ${title} what nvme-cli reads`, async () => {
        const theirs = answersOf(await vm.run(linuxAnswers(nqn, port)));
        const differences: string[] = [];
        const compare = async (verb: string, own: readonly string[], exceptions: readonly string[]): Promise<void> => {
          const found = differingFields(await cliJson(own), JSON.parse(theirs.get(verb) ?? ''), exceptions);
          differences.push(...found.map((difference) => `${verb} ${difference}`));
        };
        // each connection gets a controller of its own; power states get more fields with every nvme-cli;
        // vs are the vendor's bytes, none here
        await compare('id-ctrl', ['id-ctrl', uri(nqn)], ['cntlid', 'psds']);
        await compare('id-ns', ['id-ns', uri(nqn, 1)], ['nuse', 'vs']);
        await compare('smart-log', ['smart-log', uri(nqn)], volatileSmartFields);
        // nvmet of 6.12 has none of these structures for the NVM command set
        if (nqn === diskNqn && kernel === '7.x') {
          // nvme-cli's JSON leaves NPDGL out
          await compare('nvm-id-ns', ['nvm-id-ns', uri(nqn, 1)], ['npdgl']);
          await compare('nvm-id-ctrl', ['nvm-id-ctrl', uri(nqn)], []);
          await compare('cmdset-ind-id-ns', ['cmdset-ind-id-ns', uri(nqn, 1)], []);
        }
        expect(differences).to.deep.equal([]);
        const listed = JSON.stringify(await cliJson(['list-ns', uri(nqn)]));
        const expected = nqn === diskNqn ? [1, 2, 3] : [1];
        for (const nsid of expected) expect(listed).to.match(new RegExp(`\\b${nsid}\\b`));
        expect(JSON.stringify(await cliJson(['list', uri(nqn)]))).to.include(nqn);
        expect(await cliJson(['error-log', uri(nqn)]))
          .to.have.property('errors')
          .that.is.an('array');
      });
    }

    it('reads log pages and features, sets a feature', async () => {
      const smart = await succeed(['get-log', uri(diskNqn), '--log-id', '2', '--log-len', '512', '--raw-binary']);
      expect(smart.stdout).to.have.lengthOf(512);
      const queues = await succeed(['get-feature', uri(diskNqn), '--feature-id', '7']);
      expect(queues.stdout.toString()).to.match(/0x0*7f007f\b|8323199/); // 128 and 128, nvmet's most
      // a feature that the emulated SSD keeps beyond the connection: temperature threshold
      await succeed(['set-feature', uri(ssdNqn), '--feature-id', '4', '--value', '0x155']);
      const threshold = await succeed(['get-feature', uri(ssdNqn), '--feature-id', '4']);
      expect(threshold.stdout.toString()).to.match(/0x0*155\b|\b341\b/);
    });

    it('passes commands through, admin and I/O', async () => {
      const identify = [
        'admin-passthru',
        uri(ssdNqn),
        '--opcode=0x06',
        '--cdw10=1',
        '--data-len=4096',
        '--read',
        '--raw-binary',
      ];
      const controller = (await succeed(identify)).stdout;
      expect(controller).to.have.lengthOf(4096);
      expect(controller.toString('latin1', 4, 24).trim()).to.equal('ferry-ssd');
      const block = randomBytes(512);
      const path = temporary('block', block);
      const io = ['io-passthru', uri(ssdNqn, 1), '--namespace-id=1', '--cdw10=77', '--data-len=512'];
      await succeed([...io, '--opcode=1', '--write', '--input-file', path]);
      const back = await succeed([...io, '--opcode=2', '--read', '--raw-binary']);
      expect(back.stdout.equals(block)).to.equal(true);
      const refused = await runCli(['admin-passthru', uri(ssdNqn), '--opcode=0x7d']);
      expect(refused.code).to.not.equal(0);
      expect(refused.stderr).to.match(/Invalid.*Opcode/i);
    });

    const disks = [
      { nqn: diskNqn, nsid: 1, device: '/dev/nullb0', blockBytes: 512 },
      { nqn: diskNqn, nsid: 2, device: '/dev/nullb1', blockBytes: 4096 },
      { nqn: diskNqn, nsid: 3, device: '/dev/ram0', blockBytes: 512 },
      { nqn: ssdNqn, nsid: 1, device: '/dev/nvme0n1', blockBytes: 512 },
    ];
    for (const digests of [[], ['--hdr-digest'], ['--data-digest'], ['--hdr-digest', '--data-digest']]) {
      // each disk both ways; each digest on nvmet's own disk and on the SSD that it passes through, on one kernel
      const both = digests.length !== 1;
      if (!both && !isWhole) continue;
      it(`writes and reads data ${digests.length > 0 ? `with ${digests.join(' ')}` : 'without digests'}`, async () => {
        const chosen = both ? disks : [disks[0]!, disks[3]!];
        await Promise.all(
          chosen.map(async (disk) => {
            // one block, which fits the capsule; and more than one transfer of data
            for (const blockCount of [1, (1 << 20) / disk.blockBytes]) await writeAndRead(disk, blockCount, digests);
          }),
        );
      });
    }

    it('zeroes, deallocates and flushes', async () => {
      const pattern = Buffer.alloc(256 * 4096, 'nvmeferry\n');
      const disk = uri(diskNqn, 2);
      await succeed([
        'write',
        disk,
        '--start-block',
        '0',
        '--block-count',
        '255',
        '--data',
        temporary('pattern', pattern),
      ]);
      await succeed(['write-zeroes', disk, '--start-block', '16', '--block-count', '7']);
      pattern.fill(0, 16 * 4096, 24 * 4096);
      await succeed(['dsm', disk, '--ad', '--slbs', '64', '--blocks', '32']);
      pattern.fill(0, 64 * 4096, 96 * 4096); // what null_blk does with discarded blocks
      await succeed(['flush', disk]);
      expect(await guestHash('/dev/nullb1', 0, pattern.length)).to.equal(hash(pattern));
      const back = join(folder, 'back');
      await succeed(['read', disk, '--start-block', '0', '--block-count', '255', '--data', back]);
      expect(hash(readFileSync(back))).to.equal(hash(pattern));
    });

    for (const [ioQueues, queueSize, options] of [
      [1, 16, {}],
      [2, 128, { disableSqFlow: true }],
      [4, 32, { headerDigest: true, dataDigest: true, disableSqFlow: true }],
    ] as const) {
      const title = `${ioQueues} I/O queue${ioQueues > 1 ? 's' : ''} of ${queueSize} entries ${Object.keys(options).join(' ')}`;
      it(`keeps data over ${title.trim()}`, async () => {
        const controller = await HostController.connect({
          address: '127.0.0.1',
          port,
          subnqn: diskNqn,
          ioQueues,
          queueSize,
          ctrlLossTimeoutMs: 0,
          ...options,
        });
        try {
          const pairs = controller.association!.ioQueuePairs;
          expect(pairs.map(({ freeCount }) => freeCount)).to.deep.equal(Array(ioQueues).fill(queueSize - 1));
          const load = { workers: 24, blocksPerWorker: 16, flushEvery: 16, signal: AbortSignal.timeout(400) };
          expect(await verifiedLoad(await controller.namespace(1), load)).to.be.above(24 * 16);
          for (const { completedCount } of pairs) expect(completedCount).to.be.above(0);
        } finally {
          await controller.close();
        }
      });
    }

    for (const [blockBytes, depth] of [
      [512, 1],
      [512, 64],
      [4096, 16],
      [65_536, 64],
      [1 << 20, 8],
    ] as const) {
      it(`verifies random reads and writes of ${blockBytes} bytes, ${depth} at once`, async () => {
        // little of it: all is captured and dissected
        const size = blockBytes < 65_536 ? '1m' : '8m';
        const io = ['--rw', 'randrw', '--bs', String(blockBytes), '--iodepth', String(depth), '--size', size];
        const result = await cliJson<{ verify: Json }>([
          ...['bench', uri(diskNqn, 1), ...io, '--time', '0.4', '--verify'],
          ...(depth === 64 ? ['-g', '-G'] : []),
        ]);
        expect(result.verify).to.include({ miscompare: null }).and.to.have.property('pieces').above(0);
      });
    }

    it('sent nothing that tshark calls malformed, and nothing unexpected', async () => {
      const dissection = await capture.stop();
      expect(dissection.violations).to.deep.equal([]);
      expect([...dissection.pdusByType.keys()].sort((a, b) => a - b)).to.deep.equal([0, 1, 4, 5, 6, 7, 9]);
      expect([...dissection.digestsAgreed].sort((a, b) => a - b)).to.deep.equal(isWhole ? [0, 1, 2, 3] : [0, 3]);
    });

    it('gave the kernel nothing to complain about', async () => {
      const trouble = (await vm.kernelLog()).filter((line) =>
        /nvmet.*(error|fail|invalid|unexpected|unhandled|bad|timed out|fatal)|WARNING:|BUG:|Call Trace/i.test(line),
      );
      // the opcode that was refused, and discovery controllers that are gone without further ado
      expect(trouble.filter((line) => !/unhandled cmd|opcode/.test(line))).to.deep.equal([]);
    });

    it('reconnects when the target was torn down and set up again under verified load, twice', async () => {
      const cutCapture = await Capture.start({ ports: [port], mayBeCut: true });
      const controller = await HostController.connect({
        address: '127.0.0.1',
        port,
        subnqn: diskNqn,
        ioQueues: 2,
        katoMs: 30_000,
        reconnectDelayMs: 500,
        ctrlLossTimeoutMs: 60_000,
      });
      try {
        const end = new AbortController();
        let commands = 0;
        const load = verifiedLoad(await controller.namespace(1), {
          workers: 8,
          blocksPerWorker: 64,
          flushEvery: 16,
          signal: end.signal,
          onCommand: () => commands++,
        });
        load.catch(() => {}); // awaited below
        const goesOn = (): Promise<void> => {
          const before = commands;
          return until(20_000, () => commands >= before + 300);
        };
        for (let round = 1; round <= 2; round++) {
          await goesOn();
          await vm.run('rm $nvmet/ports/1/subsystems/*'); // all: the port listens no more, controllers are gone
          await until(20_000, () => controller.state !== 'live');
          await sleep(1000); // it tries, in vain
          await vm.run(
            `for nqn in ${diskNqn} ${ssdNqn}; do ln -s $nvmet/subsystems/$nqn $nvmet/ports/1/subsystems/; done`,
          );
          await until(20_000, () => controller.state === 'live' && controller.reconnectCount >= round);
        }
        await goesOn();
        end.abort();
        await load;
        expect(controller.reconnectCount).to.equal(2);
      } finally {
        await controller.close();
        expect((await cutCapture.stop()).violations).to.deep.equal([]);
      }
    });

    it('verifies what it wrote in a bench run', async () => {
      const load = ['--rw', 'randrw', '--bs', '4k', '--iodepth', '8', '--size', '4m', '--time', '3', '--verify'];
      const { verify } = await cliJson<{ verify: Json }>(['bench', uri(diskNqn, 1), ...load, '-g', '-G']);
      expect(verify).to.include({ miscompare: null }).and.to.have.property('pieces').above(0);
    });

    // ---- helpers that know this guest

    async function writeAndRead(
      disk: { nqn: string; nsid: number; device: string; blockBytes: number },
      blockCount: number,
      digests: readonly string[],
    ): Promise<void> {
      const startBlock = 24;
      const data = randomBytes(blockCount * disk.blockBytes);
      const where = [
        uri(disk.nqn, disk.nsid),
        '--start-block',
        String(startBlock),
        '--block-count',
        String(blockCount - 1),
      ];
      const name = `${disk.nqn === ssdNqn ? 'ssd' : 'disk'}-${disk.nsid}`;
      await succeed(['write', ...where, '--data', temporary(name, data), ...digests]);
      expect(await guestHash(disk.device, startBlock * disk.blockBytes, data.length)).to.equal(hash(data), disk.device);
      const back = join(folder, `${name}-back`);
      await succeed(['read', ...where, '--data', back, ...digests]);
      expect(hash(readFileSync(back))).to.equal(hash(data), disk.device);
    }

    function temporary(name: string, content: Buffer): string {
      const path = join(folder, name);
      writeFileSync(path, content);
      return path;
    }

    /** SHA-256 of what is on the disk itself, past its caches. */
    async function guestHash(device: string, offset: number, length: number): Promise<string> {
      const dd = `dd if=${device} bs=64k iflag=direct,skip_bytes,count_bytes skip=${offset} count=${length} status=none`;
      return (await vm.run(`blockdev --flushbufs ${device}; ${dd} | sha256sum | cut -d ' ' -f 1`)).trim();
    }
  });
}

async function until(timeoutMs: number, condition: () => boolean): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`Not within ${timeoutMs} ms: ${condition}`);
    await sleep(50);
  }
}

function hash(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

async function succeed(args: readonly string[]): Promise<CliResult> {
  const result = await runCli(args);
  if (result.code !== 0) {
    throw new Error(`nvmeferry ${args.join(' ')} ended with ${result.code}:\n${result.stdout}\n${result.stderr}`);
  }
  return result;
}

/** They count, so two readings differ. */
const volatileSmartFields: readonly string[] = [
  'data_units_read',
  'data_units_written',
  'host_read_commands',
  'host_write_commands',
  'controller_busy_time',
  'power_on_hours',
];

/** Everything that nvme-cli prints, we print too, under the same name and with the same value (nvme-cli keeps padding). */
function differingFields(ours: Json, theirs: Json, exceptions: readonly string[]): string[] {
  return Object.entries(theirs).flatMap(([name, value]) => {
    const same = exceptions.includes(name) || isDeepStrictEqual(ours[name], unpadded(value));
    return same ? [] : [`${name}: ${JSON.stringify(ours[name])}, nvme-cli says ${JSON.stringify(value)}`];
  });
}

function unpadded(value: unknown): unknown {
  return typeof value === 'string' ? value.trimEnd() : value;
}

// ---- scripts for the guest; functions from guest-lib.sh

/** Two memory disks of null_blk (512 and 4096 bytes), a RAM disk, and an emulated SSD passed through; one port. */
const linuxTarget = (port: number): string => `
modprobe null_blk nr_devices=0
for disk in '0 512' '1 4096'; do
  set -- $disk
  folder=/sys/kernel/config/nullb/nullb$1
  mkdir $folder
  echo 128 > $folder/size
  echo $2 > $folder/blocksize
  echo 1 > $folder/memory_backed
  echo 1 > $folder/discard
  echo 1 > $folder/power
done
modprobe brd rd_nr=1 rd_size=65536
wait_for 90 [ -b /dev/nvme0n1 ]
nvmet_subsystem ${diskNqn} /dev/nullb0 /dev/nullb1 /dev/ram0
nvmet_passthru ${ssdNqn} /dev/nvme0
nvmet_port 1 0.0.0.0 ${port} ${diskNqn} ${ssdNqn}
nvmet_referral 1 elsewhere 10.0.2.99 8010
`;

/**
 * What nvme-cli reads from the same subsystem, connected within the guest. The kernel takes no namespace from there that
 * it knows already (the emulated SSD's), so the controller is asked.
 */
const linuxAnswers = (nqn: string, port: number): string => `
modprobe nvme-tcp
quietly nvme connect -t tcp -a 127.0.0.1 -s ${port} -n ${nqn} -i 1 --keep-alive-tmo=30
wait_for 90 all_live ${nqn}
controller=/dev/$(controllers_of ${nqn})
echo '### id-ctrl'
nvme id-ctrl $controller -o json
echo '### id-ns'
nvme id-ns $controller -n 1 -o json
echo '### smart-log'
nvme smart-log $controller -o json
echo '### nvm-id-ns'
nvme nvm-id-ns $controller -n 1 -o json || true
echo '### nvm-id-ctrl'
nvme nvm-id-ctrl $controller -o json || true
echo '### cmdset-ind-id-ns'
nvme cmdset-ind-id-ns $controller -n 1 -o json || true
disconnect_from ${nqn}
`;

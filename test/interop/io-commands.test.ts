/**
 * The I/O commands beyond read and write, both ways in one guest: nvme-cli's compare, verify, copy, write-uncor, write-zeroes, get-lba-status and
 * write protection over the kernel's host on our target; our verbs on the kernel's target that hands them to an emulated SSD.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { answersOf } from './support/answers.ts';
import { Capture } from './support/capture.ts';
import { GuestVm, machineAddress } from './support/guest-vm.ts';
import { freePorts } from './support/ports.ts';
import { cliJson, runCli, TargetProcess } from './support/product.ts';

const nqn = 'nqn.2026-01.test.nvmeferry:io';
const ssdNqn = 'nqn.2026-01.test.linux:ssd';

describe('I/O commands with Linux 6.12 and nvme-cli', function () {
  this.timeout(600_000);

  let vm: GuestVm;
  let target: TargetProcess;
  let capture: Capture;
  let folder: string;
  let ssdPath: string;
  let ssdPort: number;
  /** For scripts in the guest. */
  let where: string;

  before(async () => {
    const [port, forwarded] = (await freePorts(2)) as [number, number];
    ssdPort = forwarded;
    folder = mkdtempSync(join(tmpdir(), 'nvmeferry-io-'));
    ssdPath = join(folder, 'ssd');
    writeFileSync(ssdPath, Buffer.alloc(16 << 20));
    target = await TargetProcess.start((own) => ({
      stateDirectory: join(own, 'state'),
      subsystems: [
        {
          nqn,
          allowAnyHost: true,
          namespaces: [
            { nsid: 1, backend: { type: 'memory', size: '64MiB', blockSize: 512 } },
            { nsid: 2, backend: { type: 'file', path: join(own, 'disk'), size: '64MiB', blockSize: 512 } },
          ],
        },
      ],
      ports: [{ portId: 1, address: '127.0.0.1', service: port, subsystems: [nqn] }],
    }));
    capture = await Capture.start({ ports: [port, ssdPort] });
    vm = await GuestVm.start({
      kernel: '6.12',
      hostForwards: [{ hostPort: ssdPort, guestPort: ssdPort }],
      qemuArgs: [
        '-drive',
        `file=${ssdPath},format=raw,if=none,id=ssd`,
        '-device',
        'nvme,serial=ferry-ssd,id=ssd-controller,mdts=7',
        // as a device of its own it has Copy limits; a drive of the controller has none
        '-device',
        'nvme-ns,drive=ssd,bus=ssd-controller',
      ],
    });
    where = `address=${machineAddress} port=${port} nqn=${nqn};`;
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

  for (const nsid of [1, 2]) {
    const backend = nsid === 1 ? 'memory' : 'a file';
    it(`nvme-cli on our target, on ${backend}`, async () => {
      const answers = answersOf(await vm.run(`${where} nsid=${nsid}; ${ioCommands}`, { timeoutMs: 300_000 }));
      const said = (name: string): string => answers.get(name)?.trim() ?? `no answer called ${name}`;
      expect(said('compare')).to.match(/compare: Success/i);
      expect(said('compare different')).to.match(/Compare Failure/i);
      expect(said('verify')).to.match(/Success/i);
      expect(said('copy')).to.match(/success/i);
      expect(said('copied')).to.equal('same');
      expect(said('copy format 1')).to.match(/success/i);
      expect(said('copied by format 1')).to.equal('same');
      // the kernel keeps Set Features 16h to itself and enables no copy format, so this one is refused
      expect(said('copy between')).to.match(/Invalid Field/i);
      expect(said('uncorrectable')).to.match(/Success/i);
      expect(said('verify uncorrectable')).to.match(/Unrecovered Read Error/i);
      expect(said('read uncorrectable')).to.match(/failed/);
      expect(said('lba status')).to.match(/NLSD\)\s*: 1\b/);
      // block 80; releases of nvme-cli differ in the base
      expect(said('lba status')).to.match(/\b(?:0x)?0*(?:80|50)\b/);
      expect(said('rewritten')).to.equal('same');
      expect(said('zeroed')).to.equal('same');
      expect(said('nsz'), 'DW0').to.match(/0x0*1\b/);
      expect(said('protected')).to.match(/Write Protected/i);
      expect(said('unprotected')).to.match(/Success/i);
    });
  }

  it('our verbs on nvmet with the emulated SSD: compare, verify, copy; what it has not is said', async () => {
    await vm.run(`wait_for 90 [ -b /dev/nvme0n1 ]
      nvmet_passthru ${ssdNqn} /dev/nvme0
      nvmet_port 1 0.0.0.0 ${ssdPort} ${ssdNqn}`);
    const uri = `nvme+tcp://127.0.0.1:${ssdPort}/${ssdNqn}?nsid=1`;
    const data = randomBytes(64 * 512);
    const file = join(folder, 'data');
    writeFileSync(file, data);
    await cliJson(['write', uri, '-s', '8', '-c', '63', '-d', file]);
    await cliJson(['compare', uri, '-s', '8', '-c', '63', '-d', file]);
    const other = join(folder, 'other');
    writeFileSync(other, randomBytes(64 * 512));
    const different = await runCli(['compare', uri, '-s', '8', '-c', '63', '-d', other]);
    expect(different.code).to.equal(1);
    expect(different.stderr).to.match(/Compare Failure/);
    await cliJson(['verify', uri, '-s', '8', '-c', '63']);
    // more than its MSSRL and MCL of 128 blocks: several commands
    await cliJson(['copy', uri, '-d', '1000', '-s', '8,8,8', '-b', '63,63,63']);
    await cliJson(['copy', uri, '-d', '2000', '-s', '1000', '-b', '191']);
    // QEMU takes formats 1 and 3 only where there is a guard of 32 or 64 bits
    const wide = await runCli(['copy', uri, '-d', '3000', '-s', '1000', '-b', '63', '--format', '1']);
    expect([wide.code, /Invalid Format/.test(wide.stderr)]).to.deep.equal([1, true]);
    await cliJson(['flush', uri]);
    const disk = readFileSync(ssdPath);
    for (const at of [1000, 1064, 1128, 2000, 2064, 2128]) {
      expect(disk.subarray(at * 512, (at + 64) * 512).equals(data), `block ${at}`).to.equal(true);
    }
    const uncorrectable = await runCli(['write-uncor', uri, '-s', '8', '-c', '0']);
    expect(uncorrectable.code).to.equal(1);
    expect(uncorrectable.stderr).to.match(/Invalid.*Opcode/i);
    // nvmet takes no fused pairs: it says so, and nothing is written
    const fused = await runCli(['compare', uri, '-s', '8', '-c', '63', '-d', file, '--and-write', other]);
    expect(fused.code).to.equal(1);
    await cliJson(['compare', uri, '-s', '8', '-c', '63', '-d', file]);
  });

  it('tshark finds nothing wrong', async () => {
    const dissection = await capture.stop();
    expect(dissection.violations).to.deep.equal([]);
    expect([...dissection.pdusByType.keys()]).to.include.members([4, 5, 6, 7, 9]);
  });
});

/** nvme-cli's verbs on namespace $nsid: each says how it ended. */
const ioCommands = `
connect_to $address $port $nqn -i 1 > /dev/null
wait_for 90 has_namespace $nqn $nsid
device=$(namespace_of $nqn $nsid)
controller=/dev/$(controllers_of $nqn)
dd if=/dev/urandom of=data bs=512 count=16 status=none
dd if=/dev/urandom of=other bs=512 count=16 status=none
head -c 8192 /dev/zero > zero
same() { nvme read $device -s $1 -c 15 -z 8192 -d back > /dev/null 2>&1; cmp -s back $2 && echo same || echo different; }
nvme write $device -s 64 -c 15 -z 8192 -d data > /dev/null 2>&1
echo '### compare'; nvme compare $device -s 64 -c 15 -z 8192 -d data 2>&1
echo '### compare different'; nvme compare $device -s 64 -c 15 -z 8192 -d other 2>&1 || true
echo '### verify'; nvme verify $device -s 0 -c 4095 2>&1
echo '### copy'; nvme copy $device --sdlba=1000 --slbs=64,72 --blocks=7,7 2>&1
echo '### copied'; same 1000 data
echo '### copy format 1'; nvme copy $device --sdlba=3000 --slbs=64,72 --blocks=7,7 --format=1 2>&1
echo '### copied by format 1'; same 3000 data
echo '### copy between'; nvme copy $device --sdlba=2000 --slbs=64 --blocks=15 --snsids=$nsid --format=2 2>&1 || true
echo '### uncorrectable'; nvme write-uncor $device -s 80 -c 3 2>&1
echo '### verify uncorrectable'; nvme verify $device -s 0 -c 127 2>&1 || true
echo '### read uncorrectable'; nvme read $device -s 80 -c 0 -z 512 -d back > /dev/null 2>&1 && echo read || echo failed
echo '### lba status'; nvme get-lba-status $device -n $nsid -s 0 -m 1023 -a 0x11 -l 0 # its JSON aborts in nvme-cli 2.13
nvme write $device -s 76 -c 15 -z 8192 -d other > /dev/null 2>&1
echo '### rewritten'; same 76 other
nvme write-zeroes $device -s 1000 -c 15 -d > /dev/null 2>&1
echo '### zeroed'; same 1000 zero
echo '### nsz'; nvme io-passthru $device --opcode=8 --namespace-id=$nsid --cdw12=0x02800000 2>&1
same 64 zero
nvme set-feature $controller --namespace-id=$nsid --feature-id=0x84 --value=1 > /dev/null
echo '### protected'; nvme write $device -s 0 -c 15 -z 8192 -d data 2>&1 || true
nvme set-feature $controller --namespace-id=$nsid --feature-id=0x84 --value=0 > /dev/null
echo '### unprotected'; nvme write $device -s 0 -c 15 -z 8192 -d data 2>&1
disconnect_from $nqn
`;

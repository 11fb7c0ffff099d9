/** The host's verbs against a scripted controller: what they send, what they print, how they end. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Command } from 'commander';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { type HostPdu, pdu, ScriptedController, ScriptedTarget } from '../../../support/scripted-target.ts';
import { pattern, rejection } from '../../initiator/support.ts';

const NQN = 'nqn.2024-01.test:sub';

describe('host verbs', () => {
  let target: ScriptedTarget;
  let peer: ScriptedController;
  let folder: string;
  let disk: Buffer;
  let commands: HostPdu[];

  beforeEach(async () => {
    target = await ScriptedTarget.listen();
    peer = new ScriptedController(target, { nsze: 4096 });
    folder = mkdtempSync(join(tmpdir(), 'verbs-'));
    disk = Buffer.alloc(4096 * 512);
    commands = [];
    peer.override = (command, connection, qid) => {
      if (command.opcode !== 0x7f) commands.push(command);
      if (qid === 0 || command.opcode === 0x7f || (command.opcode !== 1 && command.opcode !== 2)) return false;
      const at = command.cdw(10) * 512;
      if (command.opcode === 1) command.data.copy(disk, at);
      if (command.opcode === 2) connection.send(pdu.c2hData(command.cid, disk.subarray(at, at + command.sglLength)));
      connection.send(pdu.capsuleResp(command.cid));
      return true;
    };
  });
  afterEach(async () => {
    await target.close();
    rmSync(folder, { recursive: true });
    process.exitCode = undefined;
  });

  const uri = (nsid?: number): string =>
    `nvme+tcp://127.0.0.1:${target.port}/${NQN}${nsid === undefined ? '' : `?nsid=${nsid}`}`;

  /** Runs the command line in this process. @returns what it wrote to stdout */
  async function run(...args: string[]): Promise<string> {
    const program = new Command('nvmeferry').exitOverride().configureOutput({ writeErr: () => {} });
    registerHostCommands(program);
    const original = process.stdout.write;
    const chunks: Buffer[] = [];
    process.stdout.write = ((chunk: string | Uint8Array, done?: (error?: Error) => void) => {
      chunks.push(Buffer.from(chunk as Uint8Array));
      if (typeof done === 'function') done();
      return true;
    }) as typeof process.stdout.write;
    try {
      await program.parseAsync(['node', 'nvmeferry', ...args]);
    } finally {
      process.stdout.write = original;
    }
    return Buffer.concat(chunks).toString('latin1');
  }
  // biome-ignore lint/suspicious/noExplicitAny: each verb has a shape of its own
  const json = async (...args: string[]): Promise<any> => JSON.parse(await run(...args, '-o', 'json'));

  it('id-ctrl, id-ns, list-ns, list and list-subsys have the JSON of nvme-cli', async () => {
    const controller = await json('id-ctrl', uri());
    expect(controller).to.include({ sn: 'SCRIPTED', cntlid: 1, maxcmd: 1024, ioccsz: 516 });
    expect(controller.psds.length).to.equal(1);
    const namespace = await json('id-ns', uri(1));
    expect(namespace).to.include({ nsze: 4096, eui64: '0000000000000000' });
    expect(namespace.lbafs).to.deep.equal([{ ms: 0, ds: 9, rp: 0 }]);
    expect(await json('list-ns', uri())).to.deep.equal({ nsid_list: [{ nsid: 1 }] });
    expect((await json('list', uri())).Devices).to.deep.equal([
      {
        NameSpace: 1,
        DevicePath: uri(1),
        Firmware: '',
        ModelNumber: '',
        SerialNumber: 'SCRIPTED',
        UsedBytes: 2097152,
        MaximumLBA: 4096,
        PhysicalSize: 2097152,
        SectorSize: 512,
      },
    ]);
    const [{ Subsystems }] = await json('list-subsys', uri());
    expect(Subsystems[0].NQN).to.equal(NQN);
    expect(Subsystems[0].Paths[0]).to.include({ Transport: 'tcp', State: 'live' });
  });

  it('takes nvme-cli flags instead of a URI, and lets them win over it', async () => {
    const port = String(target.port);
    const flags = ['-t', 'tcp', '-a', '127.0.0.1', '-s', port, '-n', NQN, '-N', '1'];
    expect((await json('id-ns', ...flags)).nsze).to.equal(4096);
    expect((await json('id-ns', `nvme+tcp://127.0.0.1:1/${NQN}`, '--trsvcid', port, '-N', '1')).nsze).to.equal(4096);
  });

  it('write and read move the blocks asked for, counted from 0, from and to files', async () => {
    const source = join(folder, 'in');
    const copy = join(folder, 'out');
    const data = pattern(3 * 512);
    writeFileSync(source, data);
    expect(await run('write', uri(1), '-s', '0x10', '-c', '2', '-d', source)).to.equal('write: Success\n');
    expect(disk.subarray(16 * 512, 19 * 512).equals(data)).to.equal(true);
    await run('read', uri(1), '--start-block', '16', '--data-size', '1536', '--data', copy);
    expect(readFileSync(copy).equals(data)).to.equal(true);
    expect(
      Buffer.from(await run('read', uri(1), '-s', '17', '-c', '0'), 'latin1').equals(data.subarray(512, 1024)),
    ).to.equal(true);
  });

  it('write sets FUA, write-zeroes DEAC, dsm builds its ranges', async () => {
    const source = join(folder, 'in');
    writeFileSync(source, pattern(512));
    await run('write', uri(1), '-d', source, '-f');
    expect(commands.at(-1)?.cdw(12)).to.equal(0x40000000);
    await run('write-zeroes', uri(1), '-s', '5', '-c', '7', '-d');
    expect([commands.at(-1)?.opcode, commands.at(-1)?.cdw(10), commands.at(-1)?.cdw(12)]).to.deep.equal([
      8, 5, 0x02000007,
    ]);
    await run('dsm', uri(1), '-d', '-s', '1,0x100000002', '-b', '3,4');
    const dsm = commands.at(-1)!;
    expect([dsm.cdw(10), dsm.cdw(11)]).to.deep.equal([1, 4]);
    expect(dsm.data.toString('hex')).to.equal('00000000030000000100000000000000' + '00000000040000000200000001000000');
    expect(await run('flush', uri(1))).to.equal('NVMe Flush: success\n');
  });

  it('get-log, get-feature and set-feature pass their fields on', async () => {
    expect((await json('get-log', uri(), '-i', '2', '-l', '16', '-L', '8', '-S', '1', '-R')).data).to.equal(
      '00'.repeat(16),
    );
    const log = commands.at(-1)!;
    expect([log.cdw(10), log.cdw(12), log.nsid]).to.deep.equal([0x00038102, 8, 0xffffffff]);
    await run('get-feature', uri(), '-f', '0xb', '-s', '3');
    expect(commands.at(-1)?.cdw(10)).to.equal(0x30b);
    await run('set-feature', uri(), '-f', '0xb', '-V', '0x100', '-s');
    expect([commands.at(-1)?.cdw(10), commands.at(-1)?.cdw(11)]).to.deep.equal([0x8000000b, 0x100]);
  });

  it('passthrough takes any dword and prints the result', async () => {
    const text = await run('admin-passthru', uri(7), '-O', '0xc0', '-2', '2', '-3', '3', '-4', '10', '-9', '15');
    expect(text).to.contain('Success and result: 0x00000000');
    const command = commands.at(-1)!;
    expect([command.nsid, command.cdw(2), command.cdw(3), command.cdw(10), command.cdw(15)]).to.deep.equal([
      7, 2, 3, 10, 15,
    ]);
    const source = join(folder, 'in');
    writeFileSync(source, pattern(512));
    await run('io-passthru', uri(1), '--opcode', '1', '-w', '-l', '512', '-i', source, '-4', '9');
    expect(disk.subarray(9 * 512, 10 * 512).equals(pattern(512))).to.equal(true);
    expect((await json('io-passthru', uri(1), '--opcode', '2', '-r', '-l', '512', '-4', '9')).data).to.equal(
      Buffer.from(pattern(512)).toString('hex'),
    );
  });

  it('a status other than success is an NvmeStatusError', async () => {
    peer.override = (command, connection, qid) => {
      if (qid !== 0 || command.opcode !== 0xc0) return false;
      connection.send(pdu.capsuleResp(command.cid, { status: 0x4002 }));
      return true;
    };
    const error = await rejection(run('admin-passthru', uri(), '-O', '0xc0'));
    expect([error.name, error.message]).to.deep.equal([
      'NvmeStatusError',
      'Admin command 0xc0 failed: Invalid Field in Command (0x4002)',
    ]);
  });

  for (const [args, words] of [
    [['id-ctrl'], 'no controller is named'],
    [['bench', '/dev/nvme0'], 'a local device is served as well by id-ctrl'],
    [['id-ctrl', 'nvme+tcp://127.0.0.1'], 'no subsystem is named'],
    [['id-ctrl', '-t', 'rdma', '-a', '127.0.0.1', '-n', NQN], 'allowed is tcp'],
    [['read', 'URI'], 'no namespace is named'],
    [['read', 'URI9'], 'found namespace 9, active are 1'],
    [['read', 'URI1', '-z', '100'], 'allowed are multiples of the block size 512'],
    [['read', 'URI1', '-z', '1024', '-c', '5'], 'which differ'],
    [['get-log', 'URI', '-l', '512'], '--log-id is missing'],
    [['dsm', 'URI1', '-s', '1,2', '-b', '1'], 'found 2 --slbs and 1 --blocks'],
    [['admin-passthru', 'URI', '-O', '0x101'], 'found 257, allowed are 0 to 0xff'],
    [['admin-passthru', 'URI', '-O', '1', '-r'], '--read needs an opcode'],
    [['bench', 'URI1', '--bs', '1000'], 'multiples of the block size 512'],
    [['bench', 'URI1', '--iodepth', '0'], '--iodepth: found 0'],
    [['bench', 'URI1', '--size', '1m', '--bs', '2m'], 'no I/O of 2097152 bytes fits'],
  ] as const) {
    it(`${args.join(' ')}: usage error`, async () => {
      const real = args.map((arg) =>
        arg.replace(/^URI(\d*)$/, (_, nsid: string) => uri(nsid === '' ? undefined : Number(nsid))),
      );
      const error = await rejection(run(...real));
      expect(error.code).to.equal('NVMEOF_ERR_CONFIG');
      expect(error.message).to.contain(words);
      expect(error.message).not.to.contain('\n');
    });
  }

  it('an unknown value of a flag is commander’s usage error', async () => {
    expect((await rejection(run('id-ctrl', uri(), '-o', 'xml'))).name).to.equal('CommanderError');
    expect((await rejection(run('bench', uri(1), '--rw', 'sideways'))).name).to.equal('CommanderError');
    expect((await rejection(run('read', uri(1), '-s', 'one'))).name).to.equal('CommanderError');
  });

  describe('bench', () => {
    it('writes, reads back and compares what it wrote, and reports in fio’s terms', async () => {
      const report = await json(
        'bench',
        uri(1),
        '--rw',
        'randwrite',
        '--verify',
        '--time',
        '0.2',
        '--iodepth',
        '4',
        '--seed',
        '3',
      );
      expect(report.write.total_ios).to.be.greaterThan(10);
      const iops = (report.write.total_ios * 1000) / report.write.runtime;
      expect(report.write.iops).to.be.closeTo(iops, iops / 50);
      expect(report.write.bw_bytes).to.be.closeTo(report.write.iops * 4096, 4096);
      const { min, max, mean, percentile } = report.write.lat_ns;
      expect(min).to.be.at.most(mean).and.to.be.at.most(percentile['50.000000']);
      expect(percentile['99.990000']).to.be.at.most(max);
      expect(report.verify.miscompare).to.equal(null);
      expect(report.verify.pieces).to.be.greaterThan(10);
      expect(process.exitCode).to.equal(undefined);
      // the same seed knows the content again; another does not
      const again = await json(
        'bench',
        uri(1),
        '--rw',
        'read',
        '--verify',
        '--time',
        '0.05',
        '--size',
        '4096',
        '--seed',
        '3',
      );
      expect(again.verify.pieces).to.be.greaterThan(0);
    });

    it('a flipped bit is a miscompare: the place, and exit code 4', async () => {
      await json(
        'bench',
        uri(1),
        '--rw',
        'write',
        '--verify',
        '--time',
        '0.2',
        '--seed',
        '3',
        '--size',
        '64k',
        '--bs',
        '4k',
      );
      disk[5 * 4096 + 77]! ^= 1;
      const report = await json(
        'bench',
        uri(1),
        '--rw',
        'read',
        '--verify',
        '--time',
        '1',
        '--seed',
        '3',
        '--size',
        '64k',
      );
      expect(report.verify.miscompare).to.deep.equal({ block: 40, byte: 77 });
      expect(process.exitCode).to.equal(4);
    });

    it('keeps the depth asked for on each connection', async () => {
      const report = await json('bench', uri(1), '--time', '0.05', '--iodepth', '7', '--connections', '3');
      expect(report['job options'].in_flight).to.equal(21);
      expect(peer.queue(3).length).to.equal(1);
    });

    it('an error status ends the run with it', async () => {
      const serve = peer.override!;
      peer.override = (command, connection, qid) => {
        if (qid === 0 || command.opcode !== 2) return serve(command, connection, qid);
        connection.send(pdu.capsuleResp(command.cid, { status: 0x281 }));
        return true;
      };
      const error = await rejection(run('bench', uri(1), '--time', '5'));
      expect(error.message).to.contain('Unrecovered Read Error');
    });

    it('a lost connection ends the run', async () => {
      peer.override = (command, connection, qid) => {
        if (qid !== 0 && command.opcode === 2) connection.destroy();
        return false;
      };
      expect((await rejection(run('bench', uri(1), '--time', '5'))).code).to.equal('NVMEOF_ERR_PATH');
    });
  });
});

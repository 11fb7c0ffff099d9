/** The verbs that say what a controller serves, against our target: nvme-cli's names, fields and order. */
import { expect } from 'chai';
import { Command } from 'commander';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { SUBSYSTEM_NQN, TestTarget } from '../../../support/test-target.ts';
import { rejection } from '../../initiator/support.ts';

describe('host verbs: what a controller serves', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start();
  });
  afterEach(() => t.close());

  /** Runs the command line in this process. @returns what it wrote to stdout */
  async function run(verb: string, ...args: string[]): Promise<string> {
    const program = new Command('nvmeferry').exitOverride().configureOutput({ writeErr: () => {} });
    registerHostCommands(program);
    const original = process.stdout.write;
    const chunks: Buffer[] = [];
    process.stdout.write = ((chunk: string | Uint8Array, done?: () => void) => {
      chunks.push(Buffer.from(chunk as Uint8Array));
      if (typeof done === 'function') done();
      return true;
    }) as typeof process.stdout.write;
    try {
      await program.parseAsync([
        'node',
        'nvmeferry',
        verb,
        `nvme+tcp://127.0.0.1:${t.port.service}/${SUBSYSTEM_NQN}`,
        ...args,
      ]);
    } finally {
      process.stdout.write = original;
    }
    return Buffer.concat(chunks).toString('latin1');
  }
  // biome-ignore lint/suspicious/noExplicitAny: each verb has a shape of its own
  const json = async (verb: string, ...args: string[]): Promise<any> =>
    JSON.parse(await run(verb, ...args, '-o', 'json'));

  it('nvm-id-ctrl', async () => {
    const id = await json('nvm-id-ctrl');
    expect(Object.keys(id)).to.deep.equal('vsl wzsl wusl dmrl dmrsl dmsl kpiocap wzdsl aocs ver lbamqf'.split(' '));
    expect(id).to.include({ vsl: 0, dmrl: 0, aocs: 1, ver: 0x10200 });
    expect(await run('nvm-id-ctrl')).to.match(
      /^NVMe Identify Controller NVM:\nvsl {4}: 0\n[\s\S]*\nver {4}: 0x10200\n/,
    );
    expect((await run('nvm-id-ctrl', '-b')).length).to.equal(4096);
  });

  it('nvm-id-ns: as many extended formats as the namespace has', async () => {
    const id = await json('nvm-id-ns', '-N', '1');
    expect(Object.keys(id)).to.deep.equal('lbstm pic pifa elbafs npdgl nprg npra nors npdal lbapss tlbaag'.split(' '));
    const formats = t.subsystem.namespaces[1]!.formatBlockSizes.length;
    expect(id.elbafs).to.deep.equal(Array.from({ length: formats }, () => ({ sts: 0, pif: 0, qpif: 0 })));
    expect(await run('nvm-id-ns', '-N', '1')).to.match(/^elbaf {2}0 : qpif:0 pif:0 sts:0 {2}\(in use\)$/m);
    expect((await rejection(run('nvm-id-ns'))).message).to.match(/-N 1/);
  });

  it('cmdset-ind-id-ns', async () => {
    const id = await json('cmdset-ind-id-ns', '-N', '1');
    expect(Object.keys(id)).to.deep.equal(
      'nsfeat nmic rescap fpi anagrpid nsattr nvmsetid endgid nstat kpios maxkt rgrpid'.split(' '),
    );
    expect(id).to.include({ nmic: 1, anagrpid: 1, nstat: 1 });
    expect(await run('cmdset-ind-id-ns', '-N', '1')).to.match(
      /^NVME Identify Command Set Independent Namespace 1:\nnsfeat {2}: 0x[\s\S]*\nnstat {3}: 0x1\n/,
    );
  });

  it('supported-log-pages and fid-support-effects-log', async () => {
    const { supported_logs } = await json('supported-log-pages');
    expect(supported_logs).to.deep.include.members([{ 'lid_0x0 ': 1 }, { 'lid_0x2 ': 1 }, { 'lid_0x80 ': 1 }]);
    expect(await run('supported-log-pages')).to.match(/^LID 0xc - Asymmetric Namespace Access$/m);
    const { fid_support } = await json('fid-support-effects-log');
    expect(fid_support).to.deep.include.members([{ fid_5: 0x10_0001 }, { fid_11: 0x20_0001 }]);
    expect(await run('fid-support-effects-log')).to.match(/^FID 0b -> Support Effects Log: 00200001$/m);
  });

  it('lba-status-log: the namespaces that have blocks made unreadable', async () => {
    expect(await json('lba-status-log')).to.deep.equal({ lslplen: 16, nlslne: 0, estulb: 0, lsgc: 0, ns_elements: [] });
    const io = await t.io(await t.admin());
    expect((await io.command({ opcode: 0x04, nsid: 1, cdw10: 8, cdw12: 3 })).status).to.equal(0);
    const log = await json('lba-status-log');
    expect(log).to.include({ lslplen: 32, nlslne: 1, estulb: 4 });
    expect(log.ns_elements).to.deep.equal([{ neid: 1, nlrd: 0xffff_ffff, ratype: 0x11, lba_rd: [] }]);
    expect(await run('lba-status-log')).to.match(/^Number of LBA Range Descriptors: none, examine the namespace$/m);
  });
});

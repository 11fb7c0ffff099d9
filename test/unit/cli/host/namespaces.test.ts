/** The verbs of namespace management, against our target: what they do, what they print, how they fail. */
import { expect } from 'chai';
import { Command } from 'commander';
import { MemoryVolumePool } from '../../../../src/backend/volume-pool.ts';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { SUBSYSTEM_NQN, TestTarget } from '../../../support/test-target.ts';
import { rejection } from '../../initiator/support.ts';

describe('host verbs of namespace management', () => {
  let t: TestTarget;
  beforeEach(async () => {
    t = await TestTarget.start({
      subsystem: { allowSanitize: true, volumes: new MemoryVolumePool({ capacityBytes: 16 << 20 }) },
    });
  });
  afterEach(() => t.close());

  const uri = (): string => `nvme+tcp://127.0.0.1:${t.port.service}/${SUBSYSTEM_NQN}`;

  /** Runs the command line in this process. @returns what it wrote to stdout */
  async function run(verb: string, ...args: string[]): Promise<string> {
    const program = new Command('nvmeferry').exitOverride().configureOutput({ writeErr: () => {} });
    registerHostCommands(program);
    const original = process.stdout.write;
    let text = '';
    process.stdout.write = ((chunk: string, done?: () => void) => {
      text += chunk;
      if (typeof done === 'function') done();
      return true;
    }) as typeof process.stdout.write;
    try {
      await program.parseAsync(['node', 'nvmeferry', verb, uri(), ...args]);
    } finally {
      process.stdout.write = original;
    }
    return text;
  }
  // biome-ignore lint/suspicious/noExplicitAny: each verb has a shape of its own
  const json = async (verb: string, ...args: string[]): Promise<any> =>
    JSON.parse(await run(verb, ...args, '-o', 'json'));

  it('create-ns, attach-ns, list-ctrl, detach-ns, delete-ns', async () => {
    const other = await t.admin();
    const cntlid = String(other.cntlid);
    expect(await run('create-ns', '-s', '2048', '-c', '2048', '-f', '1', '-m', '1')).to.equal(
      'create-ns: Success, created nsid:2\n',
    );
    expect(await json('list-ns')).to.deep.equal({ nsid_list: [{ nsid: 1 }] });
    expect(await json('list-ns', '--all')).to.deep.equal({ nsid_list: [{ nsid: 1 }, { nsid: 2 }] });
    expect(t.subsystem.namespaces[2]).to.include({ blockSize: 4096, blockCount: 2048, shared: true });
    expect(await run('attach-ns', '-N', '2', '-c', cntlid)).to.equal('attach-ns: Success, nsid:2\n');
    expect(await json('list-ctrl', '-N', '2')).to.deep.equal({ num_ctrl: 1, ctrl_list: [{ ctrl_id: other.cntlid }] });
    expect((await json('list-ctrl')).num_ctrl, 'with the one of the verb itself').to.equal(2);
    expect(await run('list-ctrl', '-N', '2')).to.equal(`num of ctrls present: 1\n[   0]:0x${cntlid}\n`);
    expect(await json('changed-ns-list-log', '--alloc')).to.deep.equal({ 'Changed Namespace List': [] });
    await run('detach-ns', '-N', '2', '-c', cntlid);
    expect((await json('list-ctrl', '-N', '2')).num_ctrl).to.equal(0);
    expect(await run('delete-ns', '-N', '2')).to.equal('delete-ns: Success, deleted nsid:2\n');
    expect(t.subsystem.namespaces[2]).to.equal(undefined);
  });

  it('create-ns takes bytes and a block size, and says what it can have', async () => {
    await run('create-ns', '--nsze-si', '1m', '--block-size', '4096');
    expect(t.subsystem.namespaces[2]).to.include({ blockSize: 4096, blockCount: 256, shared: false });
    expect((await rejection(run('create-ns', '-S', '1m', '-b', '8192'))).message).to.match(/8192.*512, 4096/);
    expect((await rejection(run('create-ns'))).message).to.match(/--nsze/);
    expect((await rejection(run('create-ns', '-s', '1', '-f', '0', '-b', '512'))).message).to.match(/give one/);
    expect((await rejection(run('create-ns', '-s', '1000000'))).message).to.match(/Namespace Insufficient Capacity/);
  });

  it('format: by index or block size, default what is in use; errors name the thing', async () => {
    expect(await run('format', '-N', '1', '-b', '4096')).to.equal('Success formatting namespace:1\n');
    expect(t.subsystem.namespaces[1]!.blockSize).to.equal(4096);
    await run('format', '-N', '1', '--ses', '1', '--force');
    expect(t.subsystem.namespaces[1]!.blockSize).to.equal(4096);
    await run('format', '-N', '1', '-l', '0');
    expect(t.subsystem.namespaces[1]!.blockSize).to.equal(512);
    expect((await rejection(run('format', '-N', '1', '-l', '7'))).message).to.match(/Invalid Format/);
    expect((await rejection(run('format'))).message).to.match(/-N 1/);
  });

  it('sanitize and sanitize-log', async () => {
    expect(await run('sanitize-log')).to.match(/\[2:0\] {3}\(0\) NVM Subsystem has never been sanitized/);
    await run('sanitize', '-a', 'start-overwrite', '-n', '2', '-p', '0x12345678');
    await t.until(() => (t.subsystem.sanitizer.sstat & 7) === 1);
    const log = (await json('sanitize-log'))['127.0.0.1'];
    expect(log).to.include({ sprog: 65_535, cdw10_info: 0x23 });
    expect(log.sstat).to.deep.equal({
      global_erased: 1,
      no_cmplted_passes: 2,
      status: '(1) Most Recent Sanitize Command Completed Successfully.',
    });
    expect((await rejection(run('sanitize'))).message).to.match(/--sanact/);
    expect((await rejection(run('sanitize', '-a', 'start-crypto-erase'))).message).to.match(/Invalid Field/);
  });

  it('ns-descs', async () => {
    const { ns_descs } = await json('ns-descs', '-N', '1');
    expect(ns_descs.map(({ type }: { type: string }) => type)).to.deep.equal(['uuid', 'csi']);
    expect(await run('ns-descs', '-N', '1')).to.match(/^uuid {4}: [0-9a-f-]{36}$/m);
  });
});

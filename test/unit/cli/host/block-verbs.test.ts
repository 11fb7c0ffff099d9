/** compare, verify, write-uncor, copy, get-lba-status, write-zeroes against our target: what they print, how they end. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Command } from 'commander';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { SUBSYSTEM_NQN, TestTarget } from '../../../support/test-target.ts';
import { pattern, rejection } from '../../initiator/support.ts';

describe('host verbs for blocks', () => {
  let t: TestTarget;
  let folder: string;

  beforeEach(async () => {
    t = await TestTarget.start();
    folder = mkdtempSync(join(tmpdir(), 'block-verbs-'));
  });
  afterEach(async () => {
    await t.close();
    rmSync(folder, { recursive: true });
    process.exitCode = undefined;
  });

  const uri = (): string => `nvme+tcp://127.0.0.1:${t.port.service}/${SUBSYSTEM_NQN}?nsid=1`;
  const file = (name: string, data: Uint8Array): string => {
    const path = join(folder, name);
    writeFileSync(path, data);
    return path;
  };

  /** Runs the command line in this process. @returns what it wrote to stdout */
  async function run(verb: string, ...args: string[]): Promise<string> {
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
      await program.parseAsync(['node', 'nvmeferry', verb, uri(), ...args]);
    } finally {
      process.stdout.write = original;
    }
    return Buffer.concat(chunks).toString('latin1');
  }

  it('compare: success, failure, and a fused write', async () => {
    const one = file('one', pattern(1024, 1));
    const two = file('two', pattern(1024, 2));
    await run('write', '-s', '4', '-c', '1', '-d', one);
    expect(await run('compare', '-s', '4', '-c', '1', '-d', one)).to.equal('compare: Success\n');
    const failed = await rejection(run('compare', '-s', '4', '-c', '1', '-d', two));
    expect(failed.message).to.match(/Compare Failure/);
    expect(
      JSON.parse(await run('compare', '-s', '4', '-z', '1024', '-d', one, '--and-write', two, '-o', 'json')),
    ).to.include({ compare: 'Success', bytes: 1024 });
    const again = await rejection(run('compare', '-s', '4', '-c', '1', '-d', one, '--and-write', two));
    expect(again.message).to.match(/^Compare, and nothing was written: failed: Compare Failure/);
    await run('compare', '-s', '4', '-c', '1', '-d', two);
    expect((await rejection(run('compare', '-c', '3', '-d', one))).message).to.match(/has 1024 bytes, 2048 are needed/);
  });

  it('write-uncor, verify, get-lba-status in text and JSON', async () => {
    expect(await run('write-uncor', '-s', '8', '-c', '3')).to.equal('NVME Write Uncorrectable Success\n');
    expect((await rejection(run('verify', '-s', '0', '-c', '9'))).message).to.match(/Unrecovered Read Error/);
    expect(await run('verify', '-s', '12', '-c', '9')).to.equal('NVME Verify Success\n');
    expect(await run('get-lba-status', '-a', '0x11')).to.equal(
      [
        'Number of LBA Status Descriptors(NLSD): 1',
        'Completion Condition(CMPC): 2',
        '\tCompleted for the range of blocks',
        '{ DSLBA: 0x0000000000000008, NLB: 0x00000003, Status: 0x03 }',
        '',
      ].join('\n'),
    );
    const report = JSON.parse(await run('get-lba-status', '-s', '9', '-l', '2', '-a', '16', '-o', 'json'));
    expect(report['Number of LBA Status Descriptors (NLSD)']).to.equal(1);
    expect(report['Completion Condition (CMPC)']).to.equal(2);
    expect(report['LSD entry 0']).to.deep.equal([
      { DSLBA: '0x0000000000000009' },
      { NLB: '0x00000001' },
      { Status: '0x03' },
    ]);
  });

  it('copy: ranges, formats, what does not fit together', async () => {
    const data = file('data', pattern(4096, 3));
    await run('write', '-c', '7', '-d', data);
    expect(await run('copy', '--sdlba', '100', '--slbs', '0,6', '--blocks', '5,1')).to.equal('NVMe Copy: success\n');
    await run('compare', '-s', '100', '-c', '7', '-d', data);
    const said = JSON.parse(await run('copy', '-d', '200', '-s', '0', '-b', '7', '-N', '1', '-o', 'json'));
    expect(said).to.include({ copy: 'Success', ranges: 1, blocks: 8 });
    await run('compare', '-s', '200', '-c', '7', '-d', data);
    for (const [args, message] of [
      [['-s', '0,1', '-b', '1'], /found 2 --slbs and 1 --blocks/],
      [['-s', '0', '-b', '1', '-N', '1,2'], /found 2 --snsids, allowed are none or 1/],
      [['-s', '0', '-b', '1', '-F', '4'], /--format: found 4, allowed are 0 to 3/],
      [['-s', '0', '-b', '1', '-d', '9', '-O', '0x8000'], /Fast Copy Not Possible/],
    ] as const) {
      expect((await rejection(run('copy', ...args))).message).to.match(message);
    }
  });

  it('write-zeroes of all: --nsz', async () => {
    const data = file('data', pattern(4096, 4));
    const zero = file('zero', new Uint8Array(4096));
    await run('write', '-s', '1000', '-c', '7', '-d', data);
    expect(await run('write-zeroes', '--nsz')).to.equal('NVME Write Zeroes Success\n');
    await run('compare', '-s', '1000', '-c', '7', '-d', zero);
  });
});

/** `nvmeferry lm` against our own target: what the verbs do and print, in text and JSON, and how they refuse. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { Command } from 'commander';
import { wordsOf } from '../../../../src/cli/host/lm/batch.ts';
import { describeEntries } from '../../../../src/cli/host/lm/queue-verbs.ts';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { encodeControllerState } from '../../../../src/wire/cold/controller-state.ts';
import { MANAGER_NQN, startManaged } from '../../../support/manager.ts';
import { pattern, type RawHost } from '../../../support/raw-host.ts';
import { SUBSYSTEM_NQN, type TestTarget } from '../../../support/test-target.ts';

/** Several JSON documents, one behind the other, each as printJson writes it. */
const documents = (text: string): unknown[] =>
  text
    .split(/(?<=^[}\]])\n/m)
    .filter((part) => part.trim() !== '')
    .map((part) => JSON.parse(part) as unknown);

describe('lm verbs', () => {
  let t: TestTarget;
  let admin: RawHost;
  let io: RawHost;
  let folder: string;
  let cntlid: number;
  beforeEach(async () => {
    t = await startManaged();
    ({ admin, io } = await t.association());
    cntlid = admin.cntlid;
    folder = mkdtempSync(join(tmpdir(), 'lm-'));
  });
  afterEach(async () => {
    await t.close();
    rmSync(folder, { recursive: true });
    process.exitCode = undefined;
  });

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
      await program.parseAsync(['node', 'nvmeferry', 'lm', ...args]);
    } finally {
      process.stdout.write = original;
    }
    return Buffer.concat(chunks).toString('latin1');
  }
  const where = (nsid?: number): string[] => [
    `nvme+tcp://127.0.0.1:${t.port.service}/${SUBSYSTEM_NQN}${nsid === undefined ? '' : `?nsid=${nsid}`}`,
    '--hostnqn',
    MANAGER_NQN,
  ];
  /** Lines of a batch. */
  const batch = (lines: readonly string[], ...more: string[]): Promise<string> => {
    const file = join(folder, 'lines');
    writeFileSync(file, lines.join('\n'));
    return run('batch', ...where(1), '--file', file, ...more);
  };
  // biome-ignore lint/suspicious/noExplicitAny: each verb has a shape of its own
  const json = async (lines: readonly string[]): Promise<any[]> => documents(await batch(lines, '-o', 'json')) as any[];
  const failure = async (work: Promise<unknown>): Promise<string> => {
    try {
      await work;
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error('it did not fail');
  };

  it('a queue from its creation to its deletion', async () => {
    expect((await io.write(10, pattern(4096, 1))).code).to.equal(0);
    const started = await json([
      `create-cdq --cntlid=${cntlid} --size=64 --queue-type=0xc0 --consent`,
      'get-cdq --cdqid=0',
      'track-send --sel=0 --cdqid=0 --start',
      'read-cdq -C 0 --consume',
      'set-cdq -C 0 -H 1 -T 3   # armed',
      'get-cdq -C 0',
      'track-send --cdqid=0 --mos=0',
      'read-cdq --cdqid=0',
      'delete-cdq --cdqid=0',
    ]);
    expect(started[0]).to.deep.equal({ cdqid: 0 });
    expect(started[1]).to.deep.equal({ cdqid: 0, etpt: false, hp: 0, tpt: 0 });
    expect(started[2]).to.deep.equal({ sel: 0, action: 'start' });
    expect(started[3]).to.include({ cntlid, slots: 8, waiting: 1, logging: true, full: false });
    expect(started[3].entries[0]).to.include({ slot: 0, number: 0, sequence: 'first', phase: 1 });
    expect(started[5]).to.deep.equal({ cdqid: 0, etpt: true, hp: 1, tpt: 3 });
    expect(started[6].action).to.equal('stop');
    expect(started[7].entries.map(({ sequence }: { sequence: string }) => sequence)).to.deep.equal(['last: stopped']);
    expect(started[8]).to.deep.equal({ cdqid: 0 });
  });

  it('entries as the table and as JSON have them', () => {
    const entries = Buffer.alloc(64);
    entries.writeUInt32LE(3, 0);
    entries.writeUInt32LE(7, 4);
    entries.writeBigUInt64LE(0x1_0000_0010n, 8);
    entries[31] = 0x21; // deallocated, phase 1
    entries.writeUInt32LE(4, 32);
    entries[63] = 0x4e; // full: all blocks of namespace 4
    expect(describeEntries(entries, 7, 8, 15)).to.deep.equal([
      {
        slot: 7,
        number: 15,
        sequence: 'changed',
        nsid: 3,
        slba: 0x1_0000_0010,
        blocks: 8,
        deallocated: true,
        phase: 1,
        raw: entries.subarray(0, 32).toString('hex'),
      },
      { slot: 0, number: 16, sequence: 'last: full', nsid: 4, phase: 0, raw: entries.subarray(32).toString('hex') },
    ]);
  });

  it('suspend, state, resume; the state in a file, decoded, compared and set again', async () => {
    const file = join(folder, 'state');
    const later = join(folder, 'later');
    await admin.setFeature(0x04, 333);
    const text = await batch([
      `lm migration-send --sel=0 --cntlid=${cntlid} --stype=1`,
      `migration-recv --sel=0 --cntlid=${cntlid} --output-file='${file}'`,
      `migration-recv --cntlid=${cntlid} --human-readable`,
      `migration-recv --cntlid=${cntlid} --numd=11 --csvi=1 --csuuidi=0`,
      `migration-send --sel=2 --cntlid=${cntlid} --input-file=${file}`,
      `migration-send --sel=1 --cntlid=${cntlid}`,
    ]);
    expect(text)
      .to.match(/suspend of controller/)
      .and.match(/controller suspended/);
    expect(text)
      .to.match(/Block 3: features/)
      .and.match(/0x14d/);
    const bytes = readFileSync(file);
    expect(bytes.length, 'all of it').to.equal(48 + 4 * bytes.readUInt32LE(32));
    const view = JSON.parse(await run('state', 'decode', file, '-o', 'json'));
    expect(view).to.include({ ver: 0, suspended: true, nvmecss: 0 });
    expect(view.vendor.format).to.equal('nvmeferry');
    const features = view.vendor.blocks.find(({ name }: { name: string }) => name === 'features');
    expect(features.content).to.deep.include({ fid: '0x4', value: '0x14d' });
    await admin.setFeature(0x04, 334);
    await batch([`migration-send -s 0 -c ${cntlid} -t 1`, `migration-recv -c ${cntlid} -f ${later}`]);
    expect(JSON.parse(await run('state', 'diff', file, file, '-o', 'json'))).to.deep.equal([]);
    expect(process.exitCode).to.equal(undefined);
    const path = 'vendor.blocks.features.content.fid=0x4.value';
    const differences = JSON.parse(await run('state', 'diff', file, later, '-o', 'json')) as { path: string }[];
    expect(differences.find((difference) => difference.path === path)).to.deep.equal({
      path,
      before: '0x14d',
      after: '0x14e',
    });
    expect(process.exitCode).to.equal(1);
    expect(await run('state', 'diff', file, later)).to.include(`- ${path}: 0x14d\n+ ${path}: 0x14e`);
  });

  it('a state in parts, each taken from its place in the file', async () => {
    const file = join(folder, 'state');
    await admin.setFeature(0x04, 300);
    const size = (await json([`migration-recv -c ${cntlid} -f ${file}`]))[0].bytes as number;
    await admin.setFeature(0x04, 301);
    const middle = size / 4 - 5;
    await json([
      `migration-send -s 0 -c ${cntlid} -t 1`,
      `migration-send -s 2 -c ${cntlid} -S 1 -f ${file} -O 0 -n 3`,
      `migration-send -s 2 -c ${cntlid} -S 0 -f ${file} -O 12 -n ${middle - 3}`,
      `migration-send -s 2 -c ${cntlid} -S 0 -f ${file} -O ${middle * 4}`,
      `migration-send -s 2 -c ${cntlid} -S 2 -n 0`,
      `migration-send -s 1 -c ${cntlid}`,
    ]);
    expect((await admin.getFeature(4)).result0).to.equal(300);
  });

  it('the NVMe part decoded, by hand-made bytes', async () => {
    const file = join(folder, 'nvme');
    const queue = { qid: 3, qsize: 63, prp1: 0x1000n, attributes: 5, head: 1, tail: 2 };
    const state = encodeControllerState({
      suspended: false,
      nvme: {
        submissionQueues: [{ ...queue, cqid: 3 }],
        completionQueues: [{ ...queue, attributes: 7, vector: 9 }],
      },
    });
    writeFileSync(file, Buffer.concat([state, Buffer.alloc(8)])); // numd asked for more
    const { nvme } = JSON.parse(await run('state', 'decode', file, '--output', 'json'));
    expect(nvme.submissionQueues).to.deep.equal([
      { qid: 3, cqid: 3, entries: 64, prp1: '0x1000', pc: 1, qprio: 2, head: 1, tail: 2 },
    ]);
    expect(nvme.completionQueues[0]).to.include({ ien: 1, s0pt: 1, iv: 9 });
    expect(await run('state', 'decode', file)).to.match(/submissionQueues\.qid=3\.entries\s*: 64/);
  });

  it('formats, allocated and dirty', async () => {
    await io.write(16, pattern(512 * 16, 3));
    const formats = JSON.parse(await run('formats', ...where(), '-o', 'json'));
    expect(formats).to.deep.equal({ versions: [0], uuids: ['b1e2c6a0-4d0b-4f7e-9a53-6e766d666572'] });
    const allocated = JSON.parse(await run('allocated', ...where(1), '-o', 'json'));
    expect(allocated).to.deep.equal({ nsid: 1, blocks: 16, runs: [{ slba: 16, blocks: 16 }] });
    expect(await run('allocated', ...where(1))).to.include('16 to 31: 16 blocks');
    const [off, started, none, text] = await json(['dirty', 'dirty --start', 'dirty --ack', 'dirty -N 1']);
    expect([off.tracking, started.action, none.runs, text.tracking]).to.deep.equal([false, 'start', [], true]);
    expect(text.epoch).to.equal(none.epoch + 1);
  });

  it('what would be gone with the connection is refused, and says what to do', async () => {
    for (const line of [
      ['create-cdq', '-c', `${cntlid}`],
      ['get-cdq', '-C', '0'],
      ['track-send', '-C', '0', '--start'],
      ['migration-send', '-s', '0', '-t', '1', '-c', `${cntlid}`],
      ['dirty', '--start', '-N', '1'],
      ['track-receive', '-c', `${cntlid}`],
    ]) {
      expect(await failure(run(...line, ...where())), line[0]).to.match(/lm batch/);
    }
    await run('migration-send', '-s', '0', '-t', '0', '-c', `${cntlid}`, ...where()); // only a hint
  });

  it('one line about what is wrong', async () => {
    const says = async (line: string, what: RegExp): Promise<void> => {
      expect(await failure(batch(['', '# a comment', line])), line)
        .to.match(/^line 3: /)
        .and.match(what);
    };
    await says('create-cdq -c 9999', /Invalid Controller Identifier/);
    await says(`create-cdq -c ${cntlid} -s 20`, /--size: found 20/);
    await says(`create-cdq -c ${cntlid} -q 0`, /--queue-type: found 0, allowed is 0xc0/);
    await says('create-cdq', /--cntlid/);
    await says('delete-cdq -C 5', /Invalid Controller Data Queue/);
    await says('track-send -C 0', /exactly one of --start/);
    await says('track-send -s 1 -c 1 --start', /give --range/);
    await says('track-send -s 1 -c 1 --start --range 0x1001:4k', /--range: found 0x1001:4096/);
    await says('track-send -s 1 -c 1 --start --range 0x1000', /Address and length/);
    await says('track-send -s 1 -c 1 --start --granularity 5000 --range 0:4k', /--granularity/);
    await says(`migration-send -s 2 -c ${cntlid}`, /give --input-file/);
    await says(`migration-send -s 3 -c ${cntlid}`, /--sel: found 3/);
    await says(`migration-send -s 0 -t 0 -d -c ${cntlid}`, /--dudmq/);
    await says(`migration-send -s 2 -c ${cntlid} -f ${folder}/none`, /none: ENOENT/);
    await says(`migration-send -s 1 -c ${cntlid}`, /Controller Not Suspended/);
    await says('no-such-verb', /unknown command/);
    await says("get-cdq -C '0", /quote/);
    await says('nvme+tcp://x/y', /unknown command/);
    await says(`formats nvme+tcp://127.0.0.1/${SUBSYSTEM_NQN}`, /no address of their own/);
    const file = join(folder, 'junk');
    writeFileSync(file, Buffer.alloc(47));
    expect(await failure(run('state', 'decode', file))).to.match(/junk: /);
    writeFileSync(
      file,
      Buffer.concat([Buffer.alloc(32), Buffer.from([6]), Buffer.alloc(15), Buffer.from('N_FY'), Buffer.alloc(20)]),
    );
    expect(await failure(run('state', 'decode', file))).to.match(/junk: .*version/);
  });

  it('--keep-going runs what follows, and fails all the same', async () => {
    const original = process.stderr.write;
    const said: string[] = [];
    process.stderr.write = ((text: string) => said.push(text) > 0) as typeof process.stderr.write;
    try {
      const file = join(folder, 'lines');
      writeFileSync(file, `get-cdq -C 9\ncreate-cdq -c ${cntlid}\nget-cdq -C 0\n`);
      const message = await failure(run('batch', ...where(1), '--file', file, '--keep-going'));
      expect(message).to.match(/^line 1: /);
      expect(said).to.deep.equal([`nvmeferry: ${message}\n`]);
    } finally {
      process.stderr.write = original;
    }
  });

  it('a line is cut into words as a shell does it', () => {
    expect(wordsOf(`a  'b c' --d="e f" # g`)).to.deep.equal(['a', 'b c', '--d=e f']);
    expect(wordsOf('   # nothing')).to.deep.equal([]);
    expect(() => wordsOf('"a')).to.throw(/quote/);
  });
});

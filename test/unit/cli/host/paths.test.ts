/** ana-log, list-subsys with ANA states, and --path, against our target on two ports. */
import { expect } from 'chai';
import { Command } from 'commander';
import { NullBackend } from '../../../../src/backend/null.ts';
import { registerHostCommands } from '../../../../src/cli/host/register.ts';
import { AnaState } from '../../../../src/wire/cold/log-ana.ts';
import { SUBSYSTEM_NQN } from '../../../support/test-target.ts';
import { Fabric } from '../../initiator/multipath/support.ts';
import { rejection } from '../../initiator/support.ts';

describe('host verbs over several paths', () => {
  let fabric: Fabric;

  beforeEach(async () => {
    fabric = await Fabric.start(2);
    fabric.t.target.addNamespace(fabric.t.subsystem, {
      nsid: 7,
      anagrpid: 3,
      backend: new NullBackend({ blockSize: 512, blockCount: 64 }),
    });
    fabric.setAna(1, AnaState.Inaccessible);
    fabric.setAna(2, AnaState.NonOptimized, 3);
  });
  afterEach(async () => {
    await fabric.close();
    process.exitCode = undefined;
  });

  const uri = (portId: number, nsid?: number): string =>
    `nvme+tcp://127.0.0.1:${fabric.services[portId]}/${SUBSYSTEM_NQN}${nsid === undefined ? '' : `?nsid=${nsid}`}`;

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

  it('ana-log as nvme-cli prints it', async () => {
    const log = await json('ana-log', uri(1));
    expect(log).to.include({ 'Asymmetric Namespace Access Log for NVMe device': '127.0.0.1', ngrps: 2 });
    expect(log['ANA DESC LIST ']).to.deep.equal([
      { grpid: 1, nnsids: 1, chgcnt: 0, state: 'inaccessible', NSIDS: [{ nsid: 1 }] },
      { grpid: 3, nnsids: 1, chgcnt: 0, state: 'optimized', NSIDS: [{ nsid: 7 }] },
    ]);
    const groups = (await json('ana-log', uri(2), '--groups'))['ANA DESC LIST '];
    expect(groups).to.deep.equal([
      { grpid: 1, nnsids: 0, chgcnt: 0, state: 'optimized' },
      { grpid: 3, nnsids: 0, chgcnt: 0, state: 'non-optimized' },
    ]);
    expect(await run('ana-log', uri(2))).to.match(
      /grpid\t:\t3\nnnsids\t:\t1\nchgcnt\t:\t0\nstate\t:\tnon-optimized\n\tnsid\t:\t7\n/,
    );
  });

  it('list-subsys shows the state of the namespace, or of every group', async () => {
    const path = async (portId: number, nsid?: number): Promise<Record<string, unknown>> =>
      (await json('list-subsys', uri(portId, nsid)))[0].Subsystems[0].Paths[0];
    expect((await path(1, 1)).ANAState).to.equal('inaccessible');
    expect((await path(2, 7)).ANAState).to.equal('non-optimized');
    expect((await path(1)).ANAState).to.equal(undefined);
    expect((await path(1)).ANAGroups).to.deep.equal([
      { grpid: 1, state: 'inaccessible', nsids: [1] },
      { grpid: 3, state: 'optimized', nsids: [7] },
    ]);
    expect(await run('list-subsys', uri(1, 1))).to.match(/live inaccessible\n$/);
    expect(await run('list-subsys', uri(1))).to.match(/live 1:inaccessible,3:optimized\n$/);
  });

  it('--path: data goes where ANA allows, whichever path is named first', async () => {
    const second = `127.0.0.1:${fabric.services[2]}`;
    expect(await run('write-zeroes', uri(1, 1), '-s', '1', '-c', '3', '--path', second)).to.match(/Success/);
    const data = await run('read', uri(1, 1), '-s', '0', '-c', '1', '--path', second);
    expect(data).to.equal('\0'.repeat(1024));
    const report = await json('bench', uri(1, 1), '--path', second, '--time', '0.05', '--iodepth', '4', '--bs', '512');
    expect(report.read.total_ios).to.be.greaterThan(0);
    expect(report['job options'].in_flight).to.equal(4);
  });

  it('without the other path the status says why', async () => {
    const error = await rejection(run('flush', uri(1, 1)));
    expect(error.message).to.match(/ANA Inaccessible|Asymmetric/i);
  });

  it('a path that is no address is a usage error', async () => {
    for (const path of ['', 'a:b', '1.2.3.4:0', '1.2.3.4:70000', 'http://x']) {
      expect((await rejection(run('flush', uri(2, 1), '--path', path))).message, path).to.match(/An address is needed/);
    }
  });
});

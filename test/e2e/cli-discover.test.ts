/** `nvmeferry discover` from outside: filters, connecting to what is named, following changes until it is interrupted. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect } from 'chai';
import { CliTarget, cli, MAIN } from '../support/cli.ts';

const ONE = 'nqn.2026-01.test.nvmeferry:one';
const TWO = 'nqn.2026-01.test.nvmeferry:two';
const DISCOVERY = 'nqn.2026-01.test.nvmeferry:discovery';

interface Line {
  readonly event: string;
  readonly subnqn?: string;
  readonly added?: { subnqn: string }[];
  readonly removed?: { subnqn: string }[];
  readonly namespaces?: { nsid: number; uri: string; blockCount: number; blockSize: number }[];
}

describe('nvmeferry discover', function () {
  this.timeout(180_000);
  let directory: string;
  let target: CliTarget;
  let file: string;
  let port: number;
  let where: string[];
  let watcher: ChildProcess | undefined;

  /** Discovery is asked on the I/O port, which the system chooses at the start and a reload leaves alone. */
  const write = (nqns: readonly string[]): Promise<void> =>
    writeFile(
      file,
      JSON.stringify({
        subsystems: nqns.map((nqn) => ({ nqn, namespaces: [{ backend: { type: 'memory', size: '1MiB' } }] })),
        ports: [{ portId: 1, address: '127.0.0.1', service: 0 }],
        discovery: { service: 0, nqn: DISCOVERY },
      }),
    );

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-test-'));
    file = join(directory, 'target.json');
    await write([ONE]);
    target = await CliTarget.start(['--config', file]);
    const ready = target.ready as unknown as { ports: { portId: number; service: number }[] };
    port = ready.ports.find(({ portId }) => portId === 1)!.service;
    where = ['-a', '127.0.0.1', '-s', String(port), '-q', 'nqn.2026-01.test.nvmeferry:host'];
  });
  afterEach(async () => {
    if (watcher?.exitCode === null && watcher.signalCode === null) {
      watcher.kill('SIGKILL');
      await once(watcher, 'close');
    }
    await target.end('SIGKILL');
    await rm(directory, { recursive: true, force: true });
  });

  it('--filter takes a part, by its own discovery NQN as well', async () => {
    const all = await cli(['discover', ...where, '-n', DISCOVERY, '-o', 'json']);
    const names = (text: string): string[] =>
      (JSON.parse(text) as { records: { subnqn: string }[] }).records.map(({ subnqn }) => subnqn);
    expect(names(all.stdout)).to.deep.equal([DISCOVERY, ONE]);
    const some = await cli(['discover', ...where, '--filter', 'subtype=nvm', '-o', 'json']);
    expect(names(some.stdout)).to.deep.equal([ONE]);
    const refused = await cli(['discover', ...where, '--filter', 'nqn=x']);
    expect([refused.code, refused.stderr]).to.satisfy(
      ([code, text]: [number, string]) => code === 2 && /KEY=PATTERN/.test(text),
    );
  });

  it('--all-subsystems is refused by a target that does not offer it', async () => {
    const all = await cli(['discover', ...where, '--all-subsystems']);
    expect(all.code).to.equal(3);
    expect(all.stderr).to.match(/does not offer this host all subsystems/);
  });

  it('--mdns together with an address is refused', async () => {
    const both = await cli(['discover', ...where, '--mdns']);
    expect(both.code).to.equal(2);
    expect(both.stderr).to.match(/--mdns: found together with an address/);
  });

  it('--connect lists the namespaces of every subsystem, and leaves no connection behind', async () => {
    await write([ONE, TWO]);
    target.signal('SIGHUP');
    await target.event('reloaded');
    const { code, stdout } = await cli(['discover', ...where, '--connect', '-o', 'json']);
    expect(code).to.equal(0);
    const found = JSON.parse(stdout) as Line[];
    expect(found.map(({ subnqn, namespaces }) => [subnqn, namespaces!.map(({ uri }) => uri)])).to.deep.equal(
      [ONE, TWO].map((nqn) => [nqn, [`nvme+tcp://127.0.0.1:${port}/${nqn}?nsid=1`]]),
    );
    const text = await cli(['discover', ...where, '--connect', '--filter', `subnqn=${TWO}`]);
    expect(text.stdout).to.match(new RegExp(`^${TWO} at 127\\.0\\.0\\.1:${port}: controller \\d+\n {2}namespace 1: `));
    expect(text.stdout).to.not.contain(ONE);
  });

  it('--persistent --connect follows the log, and ends with 130 when interrupted', async () => {
    watcher = spawn(process.execPath, [MAIN, 'discover', ...where, '--persistent', '--connect'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: watcher.stdout! })[Symbol.asyncIterator]();
    const next = async (): Promise<Line> => JSON.parse((await lines.next()).value as string) as Line;
    const first = await next();
    expect(first.event).to.equal('log');
    expect(first.added!.map(({ subnqn }) => subnqn)).to.deep.equal([DISCOVERY, ONE]);
    const connected = await next();
    expect([connected.event, connected.subnqn]).to.deep.equal(['connected', ONE]);
    expect(connected.namespaces![0]).to.include({ nsid: 1, blockCount: 256, blockSize: 4096 });
    await write([ONE, TWO]);
    target.signal('SIGHUP');
    const added = await next();
    expect([added.event, added.added!.map(({ subnqn }) => subnqn), added.removed]).to.deep.equal(['log', [TWO], []]);
    expect(await next()).to.include({ event: 'connected', subnqn: TWO });
    await write([TWO]);
    target.signal('SIGHUP');
    const removed = await next();
    expect([removed.added, removed.removed!.map(({ subnqn }) => subnqn)]).to.deep.equal([[], [ONE]]);
    expect(await next()).to.include({ event: 'disconnected', subnqn: ONE });
    const closed = once(watcher, 'close');
    watcher.kill('SIGINT');
    expect((await closed)[0]).to.equal(130);
  });
});

/** `nvmeferry target` from outside: what it says of bad input, reload, drain. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { discover } from '../../src/initiator/discovery.ts';
import { CliTarget, cli, MAIN } from '../support/cli.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:one';

describe('nvmeferry target', function () {
  this.timeout(180_000);
  let directory: string;
  let target: CliTarget | undefined;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-test-'));
  });
  afterEach(async () => {
    await target?.end('SIGKILL');
    target = undefined;
    await rm(directory, { recursive: true, force: true });
  });

  async function expectRefusal(args: string[], code: number, ...says: RegExp[]): Promise<void> {
    const result = await cli(['target', ...args], { cwd: directory });
    expect(result.code, result.stderr).to.equal(code);
    for (const pattern of says) expect(result.stderr).to.match(pattern);
    expect(result.stderr.trim().split('\n'), 'one line').to.have.length(1);
    expect(result.stderr).not.to.match(/\bat .*:\d+:\d+/);
  }

  it('names the flag, what was found and what is allowed', () =>
    expectRefusal(['--memory', '12parsecs'], 2, /--memory/, /12parsecs/, /allowed/i));

  it('names the place in a configuration file', async () => {
    const file = join(directory, 'bad.yaml');
    await writeFile(
      file,
      `subsystems:\n  - nqn: ${NQN}\n    namespaces:\n      - nsid: 0\n        backend: { type: memory, size: 1MiB }\n`,
    );
    await expectRefusal(['--config', file], 2, /bad\.yaml/, /namespaces\[0\]\.nsid/, /0/);
  });

  it('refuses a configuration file together with flags that it would override', async () => {
    const file = join(directory, 'ok.yaml');
    await writeFile(file, `subsystems: [{ nqn: '${NQN}' }]\n`);
    await expectRefusal(['--config', file, '--memory', '1GiB'], 2, /--config/, /--memory/);
  });

  it('says that a file is missing', () =>
    expectRefusal(['--config', 'nowhere.yaml'], 2, /nowhere\.yaml/, /no such file/i));

  it('says which port is in use and what to do', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    try {
      await expectRefusal(
        ['--listen', `127.0.0.1:${port}`, '--discovery', 'off'],
        3,
        new RegExp(`127\\.0\\.0\\.1:${port}`),
        /another program/,
      );
    } finally {
      server.close();
      await once(server, 'close');
    }
  });

  it('refuses a backing file in a directory that does not exist, by name', () =>
    expectRefusal(
      ['--file', 'no/such/disk.img,size=1MiB', '--listen', '127.0.0.1:0', '--discovery', 'off'],
      2,
      /no\/such\/disk\.img/,
    ));

  it('prints the nvme connect line', async () => {
    target = await CliTarget.start(['--listen', '127.0.0.1:0', '--discovery', 'off']);
    const text = await textOf(['--listen', '127.0.0.1:0', '--discovery', 'off']);
    expect(text).to.match(/nvme connect -t tcp -a 127\.0\.0\.1 -s \d+ -n nqn\.2026-01\.io\.nvmeferry:demo/);
    expect(text.trim().endsWith('ready')).to.equal(true);
  });

  it('reloads on SIGHUP without disturbing the host, which gets events', async () => {
    const file = join(directory, 'target.json');
    const ports = [await freePort(), await freePort()] as const;
    await writeFile(file, config(ports, 1, []));
    target = await CliTarget.start(['--config', file]);
    const host = await HostController.connect({ address: '127.0.0.1', port: ports[0], subnqn: NQN });
    const namespace = await host.namespace(1);
    await namespace.write(0, new Uint8Array(4096).fill(7));
    const before = (await discover({ address: '127.0.0.1', port: ports[1] })).genctr;

    const changed = once(host, 'namespacesChanged');
    await writeFile(file, config(ports, 2, ['nqn.2026-01.test.nvmeferry:two']));
    target.signal('SIGHUP');
    expect(await target.event('reloaded')).to.deep.include({ changed: true, restart: [] });
    await changed;
    expect((await host.namespaces()).map(({ nsid }) => nsid)).to.deep.equal([1, 2]);
    expect((await namespace.read(0, 1))[4095]).to.equal(7);
    expect(host.reconnectCount).to.equal(0);
    const after = await discover({ address: '127.0.0.1', port: ports[1] });
    expect(after.genctr > before).to.equal(true);
    expect(after.entries.map(({ subnqn }) => subnqn)).to.include('nqn.2026-01.test.nvmeferry:two');

    // a broken file changes nothing
    await writeFile(file, 'subsystems: 7');
    target.signal('SIGHUP');
    expect((await target.event('reload-failed')).message).to.match(/subsystems/);
    expect((await namespace.read(0, 1))[0]).to.equal(7);
    await host.close();
  });

  it('grows a namespace on SIGHUP', async () => {
    const file = join(directory, 'target.json');
    const ports = [await freePort(), await freePort()] as const;
    await writeFile(file, config(ports, 1, [], '1MiB'));
    target = await CliTarget.start(['--config', file]);
    const host = await HostController.connect({ address: '127.0.0.1', port: ports[0], subnqn: NQN });
    const namespace = await host.namespace(1);
    expect(namespace.blockCount).to.equal(256);
    const changed = once(host, 'namespacesChanged');
    await writeFile(file, config(ports, 1, [], '3MiB'));
    target.signal('SIGHUP');
    await changed;
    expect(namespace.blockCount).to.equal(768);
    await namespace.write(767, new Uint8Array(4096).fill(9));
    expect((await namespace.read(767, 1))[1]).to.equal(9);
    await host.close();
  });

  it('drains on SIGTERM: what was acknowledged is in the file, exit code 0', async () => {
    const file = join(directory, 'disk.img');
    target = await CliTarget.start([
      '--file',
      `${file},size=1MiB`,
      '--listen',
      '127.0.0.1:0',
      '--discovery',
      'off',
      '--subsystem',
      NQN,
    ]);
    const second = await cli([
      'target',
      '--file',
      `${file},size=1MiB`,
      '--listen',
      '127.0.0.1:0',
      '--discovery',
      'off',
    ]);
    expect(second.code, 'one file, one target').to.equal(2);
    expect(second.stderr).to.match(/disk\.img/);
    expect(await target.end('SIGTERM')).to.equal(0);
    expect(await target.event('ended')).to.deep.include({ commandsCutOff: 0 });
  });
});

async function textOf(args: string[]): Promise<string> {
  const child = spawn(process.execPath, [MAIN, 'target', ...args], { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  for await (const chunk of child.stdout.setEncoding('utf8')) {
    text += chunk as string;
    if (text.includes('ready')) break;
  }
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  await closed;
  return text;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function config(ports: readonly [number, number], namespaces: number, more: string[], size = '1MiB'): string {
  return JSON.stringify({
    subsystems: [
      {
        nqn: NQN,
        allowAnyHost: true,
        namespaces: Array.from({ length: namespaces }, (_, i) => ({ nsid: i + 1, backend: { type: 'memory', size } })),
      },
      ...more.map((nqn) => ({ nqn, allowAnyHost: true })),
    ],
    ports: [{ portId: 1, address: '127.0.0.1', service: ports[0], subsystems: ['*'] }],
    discovery: { address: '127.0.0.1', service: ports[1], portId: 2 },
    log: { level: 'warn' },
  });
}

/** `nvmeferry conformance` from outside: selection, safeguards, reports, exit codes, and the target that misbehaves. */
import { once } from 'node:events';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { blockData } from '../../src/conformance/host/link.ts';
import { CliTarget, cli, MAIN } from '../support/cli.ts';
import { ScriptedController, ScriptedTarget } from '../support/scripted-target.ts';

const NQN = 'nqn.2026-01.io.nvmeferry:demo';

describe('nvmeferry conformance', function () {
  this.timeout(120_000);
  let target: CliTarget;
  let uri: string;

  before(async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, 'close');
    target = await CliTarget.start(['--listen', `127.0.0.1:${port}`, '--discovery', 'off', '--memory', '64MiB']);
    uri = `nvme+tcp://127.0.0.1:${port}/${NQN}`;
  });
  after(() => target.end('SIGTERM'));

  it('passes our target with everything allowed that does not wait: exit code 0, JSON', async () => {
    const { code, stdout, stderr } = await cli(['conformance', uri, '--allow-destroy', '-o', 'json']);
    expect(stderr).to.equal('');
    const { summary, cases, subject } = JSON.parse(stdout) as {
      summary: Record<string, number>;
      cases: { id: string; verdict: string; reason?: string }[];
      subject: { says: string; peer: string };
    };
    const bad = cases.filter(({ verdict }) => verdict === 'fail' || verdict === 'inconclusive');
    expect(bad.map(({ id, reason }) => `${id}: ${reason}`)).to.deep.equal([]);
    expect(code).to.equal(0);
    expect(summary.pass).to.be.greaterThan(110);
    expect(cases.filter(({ verdict }) => verdict === 'quirk').map(({ id }) => id)).to.deep.equal(['tcp-110']);
    expect(subject).to.include({ peer: 'nvmeferry' });
  });

  it('leaves data alone unless told otherwise, and refuses a selection that only writes', async () => {
    const { code, stdout } = await cli(['conformance', uri, '--only', 'h2c,tcp-1']);
    expect(code).to.equal(0);
    expect(stdout).to.match(/^tcp-1 +pass /m);
    expect(stdout).to.match(/^tcp-81 +skipped .*\n +writes to the namespace; give --allow-writes$/m);
    const refused = await cli(['conformance', uri, '--only', 'tcp-81']);
    expect(refused.code).to.equal(2);
    expect(refused.stderr).to.match(/none of the 1 selected cases may run.*--allow-writes/);
  });

  it('lists cases, also those for hosts, without a target', async () => {
    const all = await cli(['conformance', '--list']);
    expect(all.code).to.equal(0);
    expect(all.stdout).to.match(/^tcp-28 .*\[TCP 1\.0 section 3\.6\.2\]/m);
    expect(all.stdout).to.match(/^nvme-66 .*destroys\)$/m);
    const hosts = await cli(['conformance', '--host', '--list', '--only', 'setup']);
    expect(hosts.stdout.trim().split('\n')[0]).to.match(/^host-19 /);
    expect(hosts.stdout).not.to.match(/host-72/);
  });

  it('says what is wrong with its arguments', async () => {
    for (const [args, says] of [
      [['--only', 'tcp-999', uri], /--only: found tcp-999/],
      [[], /no controller is named/],
      [['--host', uri], /no target is asked/],
      [['--host', '--listen', 'a:b:c'], /--listen: found "a:b:c"/],
    ] as const) {
      const { code, stderr } = await cli(['conformance', ...args]);
      expect([code, stderr.trim().split('\n').length]).to.deep.equal([2, 1]);
      expect(stderr).to.match(says);
    }
    const nobody = await cli(['conformance', `nvme+tcp://127.0.0.1:1/${NQN}`]);
    expect(nobody.code).to.equal(3);
    expect(nobody.stderr).to.match(/127\.0\.0\.1:1 cannot be asked: .*ECONNREFUSED/);
  });

  it('a target that fails: exit code 1, JUnit', async () => {
    const broken = await ScriptedTarget.listen();
    new ScriptedController(broken);
    try {
      const args = ['conformance', `nvme+tcp://127.0.0.1:${broken.port}/${NQN}`, '--only', 'nvme-2', '-o', 'junit'];
      const { code, stdout } = await cli(args);
      expect(code).to.equal(1);
      expect(stdout).to.match(/<failure message="Property Get of offset 4h: found 0x000/);
    } finally {
      await broken.close();
    }
  });

  it('--host with a driver: our own initiator reacts as it should', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'nvmeferry-host-'));
    try {
      await writeFile(join(folder, 'data'), blockData(1 << 14, 32768));
      const driver = join(folder, 'driver');
      await writeFile(
        driver,
        `#!/bin/sh
uri="nvme+tcp://127.0.0.1:$2/$3?nsid=1"
options="--start-block 16384 --block-count 63"
case $1 in
connect) exec "${process.execPath}" "${MAIN}" id-ctrl "nvme+tcp://127.0.0.1:$2/$3" ;;
write) exec "${process.execPath}" "${MAIN}" write "$uri" $options --data "${folder}/data" ;;
read) "${process.execPath}" "${MAIN}" read "$uri" $options --data "${folder}/got" || exit 1
  cmp -s "${folder}/got" "${folder}/data" || exit 4 ;;
esac
`,
      );
      await chmod(driver, 0o755);
      const only = ['--only', 'host-19,host-20,host-72,host-78,host-93,host-95'];
      const { code, stdout } = await cli([
        'conformance',
        '--host',
        '--listen',
        '127.0.0.1:0',
        ...only,
        '--driver',
        driver,
        '-o',
        'json',
      ]);
      const { cases } = JSON.parse(stdout) as { cases: { id: string; verdict: string; reason?: string }[] };
      expect(cases.map(({ id, verdict, reason }) => `${id} ${verdict} ${reason ?? ''}`.trim())).to.deep.equal(
        ['host-19', 'host-20', 'host-72', 'host-78', 'host-93', 'host-95'].map((id) => `${id} pass`),
      );
      expect(code).to.equal(0);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

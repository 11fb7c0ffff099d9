/** `nvmeferry dpu` from outside: what it prints, what it refuses, and a client at its socket. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { CliTarget, cli } from '../support/cli.ts';
import { needNative } from '../support/native.ts';
import { Cmd, fields, VfioUserClient } from '../support/vfio-user-client.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:dpu';

describe('nvmeferry dpu', function () {
  this.timeout(180_000);
  let folder: string;
  let dpu: CliTarget | undefined;

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-dpu-'));
  });
  afterEach(async () => {
    await dpu?.end('SIGKILL');
    dpu = undefined;
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  it('is an NVMe function at its socket, one for each, and on no network port', async () => {
    const sockets = ['a', 'b'].map((name) => join(folder, `${name}.sock`));
    const flags = sockets.flatMap((socket) => ['--vfio-user', socket]);
    dpu = await CliTarget.start(['--subsystem', NQN, '--memory', '16MiB', '--queues', '4', ...flags], { verb: 'dpu' });
    expect(dpu.ready).to.deep.include({
      functions: sockets.map((socket) => ({ socket, subsystem: NQN })),
      ports: [],
    });
    for (const socket of sockets) {
      const client = await VfioUserClient.connect(socket);
      const config = await client.readRegion(7, 0, 256);
      expect(config.readUIntBE(9, 3), 'class code, low byte first').to.equal(0x02_0801);
      expect((await client.call(Cmd.Reset)).flags).to.equal(1);
      expect((await client.readRegion(0, 0, 8)).readUInt32LE(4) & 0x20, 'CAP.CSS: NVM').to.equal(0x20);
      expect((await client.call(Cmd.GetIrqInfo, fields(16, 0, 2, 0))).body.readUInt32LE(12)).to.be.at.least(5);
      client.close();
    }
    expect(await dpu.end('SIGTERM')).to.equal(0);
    dpu = undefined;
    expect(sockets.filter((socket) => fs.existsSync(socket))).to.deep.equal([]);
  });

  it('replaces the socket of one that was killed', async () => {
    const args = ['--memory', '16MiB', '--vfio-user', join(folder, 'vm.sock')];
    dpu = await CliTarget.start(args, { verb: 'dpu' });
    const busy = await cli(['dpu', ...args]);
    expect([busy.code, busy.stderr.trim().split('\n').at(-1)]).to.deep.equal([
      2,
      `nvmeferry: Socket ${join(folder, 'vm.sock')}: is in use by another program; choose another path`,
    ]);
    await dpu.end('SIGKILL');
    dpu = await CliTarget.start(args, { verb: 'dpu' });
  });

  it('says what is missing', async () => {
    const file = join(folder, 'dpu.yaml');
    fs.writeFileSync(file, `subsystems: [{ nqn: '${NQN}' }]\n`);
    const longPath = join(folder, 'x'.repeat(100));
    for (const [args, says] of [
      [['--memory', '1MiB'], /--vfio-user/],
      [['--vfio-user', join(folder, 'a')], /--connect/],
      [['--vfio-user', join(folder, 'a'), '--connect', 'tcp://x'], /--connect tcp:\/\/x/],
      [['--vfio-user', join(folder, 'no', 'a'), '--memory', '1MiB'], /directory does not exist/],
      [['--vfio-user', longPath, '--memory', '1MiB'], /--vfio-user .*107 bytes/],
      [['--vfio-user', join(folder, 'a'), '--memory', '1MiB', '--vectors', '999'], /--vectors/],
      [['--config', file], /functions/],
    ] as const) {
      const { code, stderr } = await cli(['dpu', ...args]);
      expect(code, stderr).to.equal(2);
      expect(stderr.trim().split('\n').at(-1)).to.match(says);
      expect(stderr).not.to.match(/\bat .*:\d+:\d+/);
    }
  });
});

/** `nvmeferry front` from outside: processes of its own, a guest of ours at its socket, controllers that are killed and exchanged by the control socket. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { FrontControl } from '../../src/orchestrator/front-control.ts';
import { CliTarget, cli } from '../support/cli.ts';
import { needNative, until } from '../support/native.ts';
import { RemoteVm } from '../support/remote-vm.ts';

describe('nvmeferry front', function () {
  this.timeout(180_000);
  let folder: string;
  let vm: RemoteVm | undefined;
  const processes: CliTarget[] = [];
  const socket = (name: string): string => join(folder, `${name}.sock`);

  beforeEach(function () {
    needNative(this as unknown as Mocha.Context);
    folder = fs.mkdtempSync(join(tmpdir(), 'nvmeferry-front-'));
  });
  afterEach(async () => {
    await vm?.close();
    vm = undefined;
    for (const process of processes.splice(0)) await process.end('SIGKILL');
    if (folder !== undefined) fs.rmSync(folder, { recursive: true, force: true });
  });

  async function start(verb: 'dpu' | 'front', ...args: string[]): Promise<CliTarget> {
    const made = await CliTarget.start(args, { verb });
    processes.push(made);
    return made;
  }
  const dpu = (name: string, disk = 'disk'): Promise<CliTarget> =>
    start(
      'dpu',
      '--vfio-user',
      socket(name),
      '--file',
      `${join(folder, disk)},size=8MiB,blockSize=512,force`,
      '--vectors',
      '4',
    );
  const startFront = (): Promise<CliTarget> =>
    start('front', '--vfio-user', socket('vm'), '--dpu', socket('a'), '--control', socket('control'));

  it('a controller is killed and another takes its place; SIGTERM ends it and leaves no socket', async () => {
    const first = await dpu('a');
    const front = await startFront();
    expect(front.ready).to.deep.include({ vfioUser: socket('vm'), dpu: socket('a'), control: socket('control') });
    vm = await RemoteVm.connect(socket('vm'));
    await vm.start(2);
    await vm.guest.write(1, 0, new Uint8Array(4096).fill(0x42));
    await vm.guest.flush(1);
    await first.end('SIGKILL');
    await dpu('a');
    // lost: the guest is told, resets it, and finds its data
    expect((await vm.readDword(0x1c)) & 3).to.equal(2);
    vm.guest.queues.length = 0;
    await vm.start(2);
    expect((await vm.guest.read(1, 0, 1))[0]).to.equal(0x42);
    const control = await FrontControl.connect(socket('control'), { source: socket('a'), destination: socket('b') });
    await control.pause();
    await dpu('b', 'other');
    await control.attach('destination');
    await control.resume();
    expect((await control.status()).controller).to.deep.equal({ socket: socket('b'), state: 'joined' });
    await control.close();
    expect(await front.end('SIGTERM')).to.equal(0);
    await until(() => vm!.client.isClosed);
    expect([socket('vm'), socket('control')].filter((path) => fs.existsSync(path))).to.deep.equal([]);
  });

  it('says what is missing', async () => {
    for (const [args, says] of [
      [[], /--vfio-user/],
      [['--vfio-user', socket('vm')], /--dpu/],
      [['--vfio-user', socket('vm'), '--dpu', socket('vm')], /two sockets are needed/],
      [['--vfio-user', socket('vm'), '--dpu', socket('a'), '--patience', 'long'], /--patience: is long/],
      [['--vfio-user', join(folder, 'no', 'vm'), '--dpu', socket('a')], /directory does not exist/],
      [
        ['--vfio-user', socket('vm'), '--dpu', socket('a'), '--control', join(folder, 'no', 'c')],
        /Control socket .*directory does not exist/,
      ],
    ] as const) {
      const { code, stderr } = await cli(['front', ...args]);
      expect([code, stderr.trim().split('\n').length], stderr).to.deep.equal([2, 1]);
      expect(stderr).to.match(says);
    }
  });
});

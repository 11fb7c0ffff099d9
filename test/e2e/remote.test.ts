/** A target whose namespace is another target's: two processes, and a host at the near one. */
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import { CliTarget, cli } from '../support/cli.ts';
import { rejection } from '../unit/initiator/support.ts';

const FAR = 'nqn.2026-01.test.nvmeferry:far';
const NEAR = 'nqn.2026-01.test.nvmeferry:near';
const listen = ['--listen', '127.0.0.1:0', '--discovery', 'off'];
const BLOCK = 4096;

const serviceOf = ({ ready }: CliTarget): number =>
  (ready as unknown as { ports: { service: number }[] }).ports[0]!.service;

describe('nvmeferry target --remote', function () {
  this.timeout(180_000);
  const targets: CliTarget[] = [];
  let near: HostController | undefined;

  async function start(...args: string[]): Promise<CliTarget> {
    const target = await CliTarget.start([...listen, ...args]);
    targets.push(target);
    return target;
  }
  afterEach(async () => {
    await near?.close();
    near = undefined;
    for (const target of targets.splice(0).reverse()) await target.end('SIGKILL');
  });

  it("serves another target's namespace: data, allocated blocks, a size that changes", async () => {
    const far = await start('--subsystem', FAR, '--memory', '16MiB,nsid=5');
    const uri = `nvme+tcp://127.0.0.1:${serviceOf(far)}/${FAR}?nsid=5`;
    const target = await start('--subsystem', NEAR, '--remote', `${uri},nsid=2`);
    const { namespaces } = (target.ready as unknown as { subsystems: { namespaces: object[] }[] }).subsystems[0]!;
    expect(namespaces).to.deep.equal([{ nsid: 2, kind: 'remote', bytes: 16 << 20, blockSize: BLOCK }]);
    near = await HostController.connect({ address: '127.0.0.1', port: serviceOf(target), subnqn: NEAR });
    const namespace = await near.namespace(2);
    const data = Buffer.alloc(3 * BLOCK, 0x5a);
    await namespace.write(100, data);
    await namespace.flush();
    const direct = await HostController.connect({ address: '127.0.0.1', port: serviceOf(far), subnqn: FAR });
    try {
      expect(Buffer.compare(await (await direct.namespace(5)).read(100, 3), data)).to.equal(0);
    } finally {
      await direct.close();
    }
    const { ranges, completion } = await namespace.getLbaStatus({ action: 0x02 });
    expect({ ranges, completion }).to.deep.equal({ ranges: [{ slba: 100, blockCount: 3, status: 2 }], completion: 2 });
    await namespace.deallocate(101, 1);
    const after = await namespace.getLbaStatus({ action: 0x02, slba: 50, blockCount: 60, rangesMax: 1 });
    expect(after).to.deep.equal({ ranges: [{ slba: 100, blockCount: 1, status: 2 }], completion: 1 });
    expect((await rejection(namespace.read(namespace.blockCount, 1))).message).to.match(/LBA Out of Range/);
  });

  it('says what is wrong in one line', async () => {
    const far = await start('--subsystem', FAR, '--memory', '16MiB');
    const uri = `nvme+tcp://127.0.0.1:${serviceOf(far)}/${FAR}`;
    const missing = await cli(['target', ...listen, '--remote', `${uri}?nsid=9`]);
    expect([missing.code, missing.stderr.trim()]).to.deep.equal([
      2,
      `nvmeferry: ${uri}?nsid=9: there is no namespace 9, active are 1`,
    ]);
    const nobody = await cli(['target', ...listen, '--remote', `nvme+tcp://127.0.0.1:1/${FAR}?nsid=1`]);
    expect(nobody.code).to.equal(3);
    expect(nobody.stderr.trim().split('\n')).to.have.length(1);
    expect(nobody.stderr).to.match(/127\.0\.0\.1:1/);
  });
});

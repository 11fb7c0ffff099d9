/** `nvmeferry target --metrics`, read as Prometheus reads it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator.ts';
import { CliTarget } from '../support/cli.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:metrics';

describe('nvmeferry target --metrics', function () {
  this.timeout(180_000);
  let directory: string;
  let target: CliTarget | undefined;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-test-'));
  });
  afterEach(async () => {
    await target?.end('SIGKILL');
    await rm(directory, { recursive: true, force: true });
  });

  for (const engine of ['thread-pool', 'node'] as const) {
    it(`tells the engine in use (${engine}) and counts what a host does`, async function () {
      const file = `${join(directory, 'disk.img')},size=1MiB,blockSize=4096`;
      target = await CliTarget.start([
        ...['--subsystem', NQN, '--file', file, '--listen', '127.0.0.1:0', '--discovery', 'off'],
        ...['--metrics', '127.0.0.1:0', '--io-engine', engine, '--log-level', 'error'],
      ]).catch((error: unknown) => {
        if (engine === 'node' || process.env.NVMEFERRY_REQUIRE_NATIVE === '1') throw error;
        return this.skip(); // no addon here
      });
      const { ports, metrics } = target.ready as unknown as {
        ports: [{ service: number }];
        metrics: { service: number };
      };
      const read = async (): Promise<string> => (await fetch(`http://127.0.0.1:${metrics.service}/metrics`)).text();
      expect(await read())
        .to.include(`nvmeferry_io_engine_info{engine="${engine}"`)
        .and.to.include(`nvmeferry_controllers{subnqn="${NQN}"} 0`);
      const host = await HostController.connect({ address: '127.0.0.1', port: ports[0].service, subnqn: NQN });
      const namespace = await host.namespace(1);
      await namespace.write(0, Buffer.alloc(8192, 1));
      await namespace.read(0, 1);
      const label = `{subnqn="${NQN}",nsid="1",backend="file"}`;
      const during = await read();
      expect(during)
        .to.include(`nvmeferry_controllers{subnqn="${NQN}"} 1`)
        .and.to.include(`nvmeferry_namespace_written_bytes_total${label} 8192`)
        .and.to.include(`nvmeferry_namespace_read_bytes_total${label} 4096`);
      const operations = /^nvmeferry_io_engine_operations_total\{.*\} (\d+)$/m.exec(during)?.[1];
      if (engine === 'node') expect(operations).to.equal(undefined);
      else expect(Number(operations)).to.be.at.least(2);
      await host.close();
      expect(await target.end('SIGTERM')).to.equal(0);
    });
  }
});

import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { MemoryBackend } from '../../../src/backend/memory.ts';
import type { IoEngine } from '../../../src/native/io-engine.ts';
import { MetricsServer } from '../../../src/service/metrics-server.ts';
import { targetMetrics } from '../../../src/service/target-metrics.ts';
import { Target } from '../../../src/target/target.ts';
import { ConfigError } from '../../../src/util/error.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:metrics';

describe('metrics of a target', () => {
  const totals = { controllersConnected: 3, controllersClosed: 2, controllersFatal: 1, connectionsClosed: 9 };
  const engine = {
    mode: 'thread-pool',
    refusal: 'it is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp profile)',
    passthrough: 'ioctl',
    completedCount: 70,
    pendingCount: 5,
    enterCount: 6,
    wakeUpCount: 7,
    threadJobCount: 8,
    inlineJobCount: 9,
  } as unknown as IoEngine;
  let target: Target;
  beforeEach(() => {
    target = new Target({ discoveryNqn: `${NQN}.discovery` });
  });
  afterEach(() => target.close());

  const lines = async (engines: IoEngine[] = [], usesNodeFs = false): Promise<string[]> => {
    const page = targetMetrics({ target, totals, engines: () => engines, usesNodeFs: () => usesNodeFs });
    return (await page.text()).split('\n');
  };

  it('says which engine does the I/O, why it is not io_uring, and what it counted', async () => {
    const found = await lines([engine]);
    expect(found).to.include(
      'nvmeferry_io_engine_info{engine="thread-pool",refusal="it is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp profile)",passthrough="ioctl"} 1',
    );
    for (const [name, value] of [
      ['operations_total', 70],
      ['pending_operations', 5],
      ['submits_total', 6],
      ['wakeups_total', 7],
      ['thread_jobs_total', 8],
      ['inline_jobs_total', 9],
    ] as const) {
      expect(found).to.include(`nvmeferry_io_engine_${name}{engine="thread-pool"} ${value}`);
    }
    expect(await lines([], true)).to.include('nvmeferry_io_engine_info{engine="node",refusal="",passthrough="none"} 1');
  });

  it('counts connections, controllers, and what hosts read and wrote; what is gone is not told', async () => {
    const subsystem = target.addSubsystem({ nqn: NQN, allowAnyHost: true });
    target.addNamespace(subsystem, { nsid: 4, backend: new MemoryBackend({ blockSize: 512, blockCount: 8 }) });
    subsystem.namespaces[4]!.countRead(512);
    subsystem.namespaces[4]!.countWrite(1024);
    const found = await lines();
    const label = `{subnqn="${NQN}",nsid="4",backend="memory"}`;
    for (const line of [
      'nvmeferry_connections_closed_total 9',
      'nvmeferry_controllers_connected_total 3',
      'nvmeferry_controllers_closed_total 2',
      'nvmeferry_controllers_fatal_total 1',
      `nvmeferry_controllers{subnqn="${NQN}"} 0`,
      `nvmeferry_namespace_read_bytes_total${label} 512`,
      `nvmeferry_namespace_written_bytes_total${label} 1024`,
      `nvmeferry_namespace_read_commands_total${label} 1`,
      `nvmeferry_namespace_write_commands_total${label} 1`,
    ]) {
      expect(found).to.include(line);
    }
    await target.removeNamespace(subsystem, 4);
    expect((await lines()).some((line) => line.includes('nsid="4"'))).to.equal(false);
  });
});

describe('MetricsServer', () => {
  const page = { contentType: 'text/plain; version=0.0.4', text: async () => 'a 1\n' };

  it('answers GET and HEAD of /metrics, and nothing else; close ends connections that are open', async () => {
    const server = await MetricsServer.listen('127.0.0.1', 0, page);
    const at = `http://127.0.0.1:${server.service}`;
    const answer = await fetch(`${at}/metrics?x=1`);
    expect([answer.status, answer.headers.get('content-type'), await answer.text()]).to.deep.equal([
      200,
      'text/plain; version=0.0.4',
      'a 1\n',
    ]);
    expect((await fetch(`${at}/metrics`, { method: 'HEAD' })).status).to.equal(200);
    expect((await fetch(`${at}/metrics`, { method: 'POST', body: 'x' })).status).to.equal(405);
    expect((await fetch(`${at}/`)).status).to.equal(404);
    await server.close();
    await server.close();
    const refused = await fetch(`${at}/metrics`).then(
      () => 'answered',
      () => 'refused',
    );
    expect(refused).to.equal('refused');
  });

  it('a page that cannot be made is an error of the server, which goes on', async () => {
    const server = await MetricsServer.listen('127.0.0.1', 0, { ...page, text: () => Promise.reject(new Error('x')) });
    for (let i = 0; i < 2; i++) {
      expect((await fetch(`http://127.0.0.1:${server.service}/metrics`)).status).to.equal(500);
    }
    await server.close();
  });

  it('names the place where it cannot listen', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    const error = await MetricsServer.listen('127.0.0.1', port, page).catch((caught: unknown) => caught);
    expect(error).to.be.instanceOf(ConfigError);
    expect((error as Error).message).to.equal(
      `metrics: cannot listen on 127.0.0.1:${port} (EADDRINUSE); choose another address or port`,
    );
    other.close();
    await once(other, 'close');
  });
});

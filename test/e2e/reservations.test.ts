/** Reservations from outside: the command line of both ends, kill -9 and restart, notices in a program. */
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { HostController } from '../../src/initiator/controller.ts';
import type { HostNamespace } from '../../src/initiator/namespace.ts';
import {
  AcquireAction,
  ChangePersistence,
  RegisterAction,
  ReleaseAction,
  ReservationType,
} from '../../src/spec/reservation.ts';
import { CliTarget, cli } from '../support/cli.ts';

const NQN = 'nqn.2026-01.test.nvmeferry:reservations';
const HOST_A = '11111111-1111-4111-8111-111111111111';
const HOST_B = '22222222-2222-4222-8222-222222222222';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

describe('reservations, from outside', function () {
  this.timeout(180_000);
  let directory: string;
  let target: CliTarget | undefined;
  let port: number;
  const hosts: HostController[] = [];

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'nvmeferry-test-'));
    port = await freePort();
    await start('--state-directory', join(directory, 'state'));
  });
  afterEach(async () => {
    for (const host of hosts.splice(0)) await host.close();
    await target?.end('SIGKILL');
    target = undefined;
    await rm(directory, { recursive: true, force: true });
  });

  async function start(...more: string[]): Promise<void> {
    const disk = join(directory, 'disk.img');
    target = await CliTarget.start([
      ...['--file', `${disk},size=1MiB`, '--listen', `127.0.0.1:${port}`, '--discovery', 'off', '--subsystem', NQN],
      ...more,
    ]);
  }

  const identity = (hostid: string): { hostnqn: string; hostid: string } => ({
    hostnqn: `nqn.2014-08.org.nvmexpress:uuid:${hostid}`,
    hostid,
  });

  async function connect(hostid: string): Promise<HostNamespace & { owner: HostController }> {
    const host = await HostController.connect({ address: '127.0.0.1', port, subnqn: NQN, ...identity(hostid) });
    hosts.push(host);
    return (await host.namespace(1)) as HostNamespace & { owner: HostController };
  }

  const verb = async (
    name: string,
    hostid: string,
    ...args: string[]
  ): Promise<{ code: number | null; json: unknown; stderr: string }> => {
    const { hostnqn } = identity(hostid);
    const uri = `nvme+tcp://127.0.0.1:${port}/${NQN}?nsid=1`;
    const result = await cli([name, uri, '--hostnqn', hostnqn, '--hostid', hostid, '-o', 'json', ...args]);
    return {
      code: result.code,
      json: result.code === 0 ? JSON.parse(result.stdout) : undefined,
      stderr: result.stderr,
    };
  };

  const expectConflict = async (command: Promise<unknown>): Promise<void> => {
    const error = await command.then(
      () => undefined,
      (reason: unknown) => reason as Error,
    );
    expect(error?.message).to.match(/Reservation Conflict/);
  };

  it('PTPL: kill -9 and restart; the holder holds, others are kept out; without it nothing is left', async () => {
    const a = await connect(HOST_A);
    const b = await connect(HOST_B);
    await a.reservationRegister({ newKey: 0xaaaan, persistence: ChangePersistence.Set });
    await b.reservationRegister({ newKey: 0xbbbbn });
    await a.reservationAcquire({ type: ReservationType.ExclusiveAccess, currentKey: 0xaaaan });
    const before = await a.reservationReport();
    expect(before).to.deep.include({ gen: 2, rtype: 2, regctl: 2, ptpls: 1, extended: true });
    expect(a.identify.rescap).to.equal(0xff);

    await target!.end('SIGKILL');
    for (const host of hosts.splice(0)) await host.close();
    await start('--state-directory', join(directory, 'state'));
    const again = await connect(HOST_A);
    const other = await connect(HOST_B);
    const keys = ({ registrants }: typeof before): unknown =>
      registrants.map(({ rkey, rcsts, hostid }) => [rkey, rcsts, hostid]);
    const after = await again.reservationReport();
    expect(after).to.deep.include({ gen: 2, rtype: 2, regctl: 2, ptpls: 1 });
    expect(keys(after)).to.deep.equal(keys(before));
    await again.write(0, new Uint8Array(4096).fill(1));
    await expectConflict(other.read(0, 1));
    await other.reservationAcquire({
      action: AcquireAction.PreemptAndAbort,
      type: ReservationType.WriteExclusive,
      currentKey: 0xbbbbn,
      preemptKey: 0xaaaan,
    });
    await expectConflict(again.write(0, new Uint8Array(4096)));
    await other.reservationRegister({
      action: RegisterAction.Replace,
      currentKey: 0xbbbbn,
      newKey: 0xbbbbn,
      persistence: ChangePersistence.Clear,
    });
    expect((await readdir(join(directory, 'state'))).filter((file) => file.startsWith('reservations-'))).to.deep.equal(
      [],
    );

    await target!.end('SIGKILL');
    for (const host of hosts.splice(0)) await host.close();
    await start('--state-directory', join(directory, 'state'));
    expect(await (await connect(HOST_A)).reservationReport()).to.deep.include({
      gen: 0,
      rtype: 0,
      regctl: 0,
      ptpls: 0,
    });
  });

  it('without a state directory PTPL is not offered, and refused; a damaged state stops the start, by name', async () => {
    const a = await connect(HOST_A);
    await a.reservationRegister({ newKey: 1n, persistence: ChangePersistence.Set });
    await target!.end('SIGKILL');
    for (const host of hosts.splice(0)) await host.close();
    await start();
    const plain = await connect(HOST_A);
    expect(plain.identify.rescap).to.equal(0xfe);
    const refused = plain.reservationRegister({ newKey: 1n, persistence: ChangePersistence.Set });
    expect((await refused.catch((error: Error) => error)) as Error)
      .to.have.property('message')
      .that.matches(/Invalid Field/);
    await target!.end('SIGTERM');

    const [file] = (await readdir(join(directory, 'state'))).filter((name) => name.startsWith('reservations-'));
    await writeFile(join(directory, 'state', file!), '{"version":7}');
    const args = [
      '--file',
      `${join(directory, 'disk.img')},size=1MiB`,
      '--listen',
      '127.0.0.1:0',
      '--discovery',
      'off',
    ];
    const { code, stderr } = await cli([
      'target',
      ...args,
      '--subsystem',
      NQN,
      '--state-directory',
      join(directory, 'state'),
    ]);
    expect(code).to.be.above(0);
    expect(stderr)
      .to.include('reservations-')
      .and.match(/version is 7/)
      .and.match(/remove it/);
    expect(
      stderr
        .trim()
        .split('\n')
        .filter((line) => !line.startsWith('{')),
      'beside the log',
    ).to.have.length(1);
  });

  it('notices reach the program that asked for them', async () => {
    const a = await connect(HOST_A);
    const b = await connect(HOST_B);
    const notice = once(a.owner, 'reservationNotice');
    await a.reservationRegister({ newKey: 1n });
    await b.reservationRegister({ newKey: 2n });
    await b.reservationAcquire({ action: AcquireAction.Preempt, type: 1, currentKey: 2n, preemptKey: 1n });
    expect((await notice)[0]).to.deep.equal({ nsid: 1, type: 1, count: 1n });
    const next = once(a.owner, 'reservationNotice');
    await a.reservationRegister({ newKey: 1n });
    await b.reservationRelease({ action: ReleaseAction.Clear, currentKey: 2n });
    expect((await next)[0]).to.deep.equal({ nsid: 1, type: 3, count: 2n });
  });

  it("verbs: nvme-cli's options and JSON, exit code 1 for a conflict", async () => {
    expect((await verb('resv-register', HOST_A, '--nrkey', '0xaaaa', '--cptpl', '3')).json).to.deep.equal({
      'resv-register': 'Success',
      nsid: 1,
    });
    expect((await verb('resv-register', HOST_B, '-k', '48059')).code).to.equal(0);
    expect((await verb('resv-acquire', HOST_A, '-c', '0xaaaa', '-t', '1')).code).to.equal(0);
    const conflict = await verb('resv-acquire', HOST_B, '--crkey=0xbbbb', '--rtype=1', '--racqa=0');
    expect(conflict.code).to.equal(1);
    expect(conflict.stderr).to.match(/Reservation Acquire of namespace 1 failed: Reservation Conflict/);
    const report = (await verb('resv-report', HOST_B)).json as { regctlext: Record<string, unknown>[] };
    expect(report).to.deep.include({ gen: 2, rtype: 1, regctl: 2, ptpls: 1 });
    const hex = (uuid: string): string => uuid.replaceAll('-', '');
    const [holder, reader] = report.regctlext;
    expect(holder).to.deep.equal({ cntlid: 0xffff, rcsts: 1, rkey: 0xaaaa, hostid: hex(HOST_A) });
    expect(reader).to.deep.include({ rcsts: 0, rkey: 0xbbbb, hostid: hex(HOST_B) });
    expect(reader!.cntlid, 'the controller that reads').to.be.below(0xffff);
    const header = (await verb('resv-report', HOST_B, '--numd', '15')).json;
    expect(header).to.deep.include({ regctl: 2, regctlext: [] });
    expect((await verb('resv-acquire', HOST_B, '-c', '0xbbbb', '-p', '0xaaaa', '-t', '3', '-a', '2')).code).to.equal(0);
    expect((await verb('resv-release', HOST_B, '-c', '0xbbbb', '-t', '3')).code).to.equal(0);
    expect((await verb('resv-release', HOST_B, '-c', '0xbbbb', '-a', '1')).code).to.equal(0);
    expect((await verb('resv-notif-log', HOST_B)).json).to.deep.equal({
      count: 0,
      rn_log_type: 0,
      num_logs: 0,
      NSID: 0,
    });
    const usage = await verb('resv-register', HOST_A, '--nrkey', '0x10000000000000000');
    expect(usage.code).to.equal(2);
    expect(usage.stderr)
      .to.match(/--nrkey/)
      .and.match(/64 bits/);
  });
});

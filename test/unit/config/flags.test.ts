import { expect } from 'chai';
import { configFromFlags, type TargetFlags } from '../../../src/config/flags.ts';
import { ConfigError } from '../../../src/util/error.ts';

describe('config: flags', () => {
  it('none: one subsystem with a 1 GiB memory namespace on the loopback, and discovery', () => {
    const { subsystems, ports, discovery } = configFromFlags();
    expect(subsystems).to.have.length(1);
    expect(subsystems[0]).to.include({ nqn: 'nqn.2026-01.io.nvmeferry:demo', allowAnyHost: true });
    expect(subsystems[0]!.namespaces.map(({ nsid, backend }) => ({ nsid, backend }))).to.deep.equal([
      { nsid: 1, backend: { type: 'memory', sizeBytes: 2 ** 30, blockSize: 4096 } },
    ]);
    expect(ports).to.have.length(1);
    expect(ports[0]).to.include({ portId: 1, address: '127.0.0.1', service: 4420 });
    expect(discovery).to.deep.include({ address: '127.0.0.1', service: 8009 });
  });

  it('namespaces of other targets', () => {
    const uri = 'nvme+tcp://10.0.0.1:4420/nqn.2026-01.io.nvmeferry:far?nsid=7';
    const { subsystems } = configFromFlags({
      remote: [`${uri},path=10.0.0.2,nsid=3,path=[fe80::1]:4421,readOnly`, uri],
    });
    expect(subsystems[0]!.namespaces.map(({ nsid, backend }) => ({ nsid, backend }))).to.deep.equal([
      { nsid: 3, backend: { type: 'remote', uri, paths: ['10.0.0.2', '[fe80::1]:4421'], readOnly: true } },
      { nsid: 1, backend: { type: 'remote', uri, readOnly: false } },
    ]);
  });

  it('a closed namespace, where hosts of the network manage; nobody could open it elsewhere', () => {
    const flags: TargetFlags = { listen: ['10.0.0.1'], memory: ['1GiB,closed', '1GiB'], vfioUser: ['/run/vm.sock'] };
    const [subsystem] = configFromFlags(flags).subsystems;
    expect(subsystem!.namespaces.map(({ closed }) => closed)).to.deep.equal([true, undefined]);
    expect(() => configFromFlags({ memory: ['1GiB,closed'] })).to.throw(
      ConfigError,
      /^--memory 1GiB,closed: only managers of live migration .*migration\.managers/,
    );
  });

  it('each says what it is for', () => {
    const config = configFromFlags({
      listen: ['10.0.0.1:4421', '::1', '[::1]:5', ':6', '10.0.0.2'],
      subsystem: 'nqn.2026-01.io.nvmeferry:x',
      memory: ['512MiB,blockSize=512', '1G,nsid=9,readOnly'],
      file: ['/srv/a,b.img,size=10GiB,uuid=8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31', 'c.img'],
      null: ['4096'],
      host: ['nqn.2026-01.io.nvmeferry:host'],
      discovery: '10.0.0.1',
      maxQueues: 3,
      maxQueueSize: 32,
      inCapsuleDataSize: '4KiB',
      headerDigest: 'refuse',
      logLevel: 'warn',
    });
    expect(config.ports.map(({ portId, address, service }) => [portId, address, service])).to.deep.equal([
      [1, '10.0.0.1', 4421],
      [2, '::1', 4420],
      [3, '::1', 5],
      [4, '127.0.0.1', 6],
      [5, '10.0.0.2', 4420],
    ]);
    expect(config.ports[4]).to.include({
      maxQueueSize: 32,
      inCapsuleDataSize: 4096,
      headerDigest: false,
      dataDigest: true,
    });
    const [subsystem] = config.subsystems;
    expect(subsystem).to.deep.include({ maxQueues: 3, allowAnyHost: false, hosts: ['nqn.2026-01.io.nvmeferry:host'] });
    expect(
      subsystem!.namespaces.map(({ nsid, backend, readOnly, uuid }) => ({ nsid, backend, readOnly, uuid })),
    ).to.deep.equal([
      { nsid: 1, backend: { type: 'memory', sizeBytes: 2 ** 29, blockSize: 512 }, readOnly: false, uuid: undefined },
      { nsid: 9, backend: { type: 'memory', sizeBytes: 2 ** 30, blockSize: 4096 }, readOnly: true, uuid: undefined },
      {
        nsid: 2,
        backend: { type: 'file', path: '/srv/a,b.img', sizeBytes: 10 * 2 ** 30, blockSize: 4096, readOnly: false },
        readOnly: false,
        uuid: '8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31',
      },
      {
        nsid: 3,
        backend: {
          type: 'file',
          path: `${process.cwd()}/c.img`,
          sizeBytes: undefined,
          blockSize: 4096,
          readOnly: false,
        },
        readOnly: false,
        uuid: undefined,
      },
      { nsid: 4, backend: { type: 'null', sizeBytes: 4096, blockSize: 4096 }, readOnly: false, uuid: undefined },
    ]);
    expect(config.discovery).to.deep.include({ address: '10.0.0.1', service: 8009 });
    expect(config.log.level).to.equal('warn');
    expect(configFromFlags({ discovery: 'off' }).discovery).to.equal('off');
    const nqn = 'nqn.2026-01.io.nvmeferry:discovery';
    const place = { portId: 0xffff, address: '127.0.0.1', service: 8009 };
    expect(configFromFlags({ discoveryNqn: nqn, mdns: true }).discovery).to.deep.equal({ ...place, nqn, mdns: true });
  });

  for (const [flags, wanted] of [
    [{ memory: ['10Q'] }, /^--memory 10Q: found "10Q"; allowed: .*1\.5GiB/],
    [{ memory: ['1GiB', '5000'] }, /^--memory 5000: found "5000"; allowed: a multiple of the block size 4096/],
    [{ memory: ['1GiB,nsid=x'] }, /^--memory: found "nsid=x"; allowed: nsid=NUMBER/],
    [{ memory: ['1GiB,color=red'] }, /^--memory: found "color=red"; allowed: size=, blockSize=/],
    [
      { memory: ['1GiB,nsid=1', '2GiB,nsid=1'] },
      /^--memory 2GiB,nsid=1: 1 is used already \(by --memory 1GiB,nsid=1\)/,
    ],
    [{ remote: ['tcp://a/b'] }, /^--remote tcp:\/\/a\/b: found "tcp:\/\/a\/b"; allowed: nvme\+tcp/],
    [{ remote: ['nvme+tcp://a/b,blockSize=512'] }, /^--remote: found .*; allowed: no size and no blockSize/],
    [{ file: [''] }, /^--file: found ""; allowed: PATH/],
    [{ file: ['/a,blockSize=520'] }, /^--file \/a,blockSize=520: found 520; allowed: 512/],
    [{ listen: ['0.0.0.0:x'] }, /^--listen: found "0\.0\.0\.0:x"; allowed: ADDRESS/],
    [{ listen: ['0.0.0.0:70000'] }, /^--listen: found "70000"; allowed: a TCP port/],
    [{ listen: ['localhost:4420'] }, /^--listen: found "localhost:4420"/],
    [
      { listen: ['10.0.0.1', '10.0.0.1:4420'] },
      /^--listen 10\.0\.0\.1:4420: .*used already \(by --listen 10\.0\.0\.1\)/,
    ],
    [{ subsystem: 'disk' }, /^--subsystem: found "disk"/],
    [{ host: ['me'] }, /^--host: found "me"/],
    [{ discovery: 'yes' }, /^--discovery: found "yes"/],
    [{ discoveryNqn: 'me' }, /^--discovery-nqn: found "me"/],
    [{ discovery: 'off', mdns: true }, /^--mdns: found "--discovery off"; allowed: a discovery service to publish/],
    [{ serial: '' }, /^--serial: found ""/],
    [{ maxQueues: 0 }, /^--max-queues: found 0; allowed: 1 to 65534/],
    [{ maxQueueSize: 1.5 }, /^--max-queue-size: found 1\.5; allowed: a whole number/],
    [{ inCapsuleDataSize: '17' }, /^--in-capsule-data-size: found "17"/],
    [{ logLevel: 'loud' as never }, /^--log-level: found "loud"; allowed: fatal/],
  ] as [TargetFlags, RegExp][]) {
    it(`refuses ${JSON.stringify(flags)} by the flag's name`, () => {
      expect(() => configFromFlags(flags)).to.throw(ConfigError, wanted);
    });
  }
});

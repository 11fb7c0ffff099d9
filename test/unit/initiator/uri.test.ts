import { expect } from 'chai';
import { defaultHostIdentity } from '../../../src/initiator/identity.ts';
import { resolveOptions } from '../../../src/initiator/options.ts';
import { formatNvmeUri, isNvmeUri, parseNvmeUri } from '../../../src/initiator/uri.ts';

describe('nvme+tcp URI', () => {
  it('names address, port, subsystem, namespace and options', () => {
    const text =
      'nvme+tcp://10.0.0.1:4421/nqn.2014-08.org.nvmexpress:uuid:1?nsid=3&hdgst=1&ddgst=0&nr-io-queues=4&queue-size=0x40';
    expect(parseNvmeUri(text)).to.deep.equal({
      address: '10.0.0.1',
      port: 4421,
      subnqn: 'nqn.2014-08.org.nvmexpress:uuid:1',
      nsid: 3,
      headerDigest: true,
      dataDigest: false,
      ioQueues: 4,
      queueSize: 64,
    });
  });

  it('takes times in seconds, -1 for never', () => {
    const uri = parseNvmeUri('nvme+tcp://h?keep-alive-tmo=2.5&ctrl-loss-tmo=-1&reconnect-delay=1');
    expect([uri.katoMs, uri.ctrlLossTimeoutMs, uri.reconnectDelayMs]).to.deep.equal([
      2500,
      Number.POSITIVE_INFINITY,
      1000,
    ]);
  });

  it('leaves out what is not there', () => {
    expect(parseNvmeUri('nvme+tcp://host')).to.deep.equal({ address: 'host' });
    expect(parseNvmeUri('nvme+tcp://host:8009/')).to.deep.equal({ address: 'host', port: 8009 });
  });

  it('knows IPv6 addresses, port 80 and encoded names', () => {
    expect(parseNvmeUri('nvme+tcp://[fe80::1]:4420/nqn.a')).to.deep.equal({
      address: 'fe80::1',
      port: 4420,
      subnqn: 'nqn.a',
    });
    expect(parseNvmeUri('nvme+tcp://host:80/nqn.a').port).to.equal(80);
    expect(parseNvmeUri('nvme+tcp://host/nqn.a%20b').subnqn).to.equal('nqn.a b');
  });

  for (const [text, words] of [
    ['http://host', 'does not start with nvme+tcp://'],
    ['nvme+rdma://host', 'transport is rdma, supported is tcp'],
    ['nvme+tcp://host:99999/x', 'malformed'],
    ['nvme+tcp://user:pw@host/x', 'user or password'],
    ['nvme+tcp://host/x?nsid=one', 'nsid is one'],
    ['nvme+tcp://host/x?nsid=-1', 'nsid is -1'],
    ['nvme+tcp://host/x?hdgst=yes', 'hdgst is yes, allowed are 0 and 1'],
    ['nvme+tcp://host/x?colour=red', 'colour is not known, allowed are nsid'],
    ['nvme+tcp://host/x?ctrl-loss-tmo=-2', 'seconds are needed'],
  ] as const) {
    it(`refuses ${text}`, () => {
      expect(() => parseNvmeUri(text))
        .to.throw(words)
        .with.property('code', 'NVMEOF_ERR_CONFIG');
    });
  }

  it('is written as it is read', () => {
    const uri = { address: 'fe80::1', port: 4420, subnqn: 'nqn.2014-08.org.nvmexpress:uuid:1', nsid: 2 };
    expect(formatNvmeUri(uri)).to.equal('nvme+tcp://[fe80::1]:4420/nqn.2014-08.org.nvmexpress:uuid:1?nsid=2');
    expect(parseNvmeUri(formatNvmeUri(uri))).to.deep.equal(uri);
    expect(isNvmeUri('NVME+TCP://x')).to.equal(true);
    expect(isNvmeUri('/dev/nvme0')).to.equal(false);
  });
});

describe('host options', () => {
  const base = { address: 'h', subnqn: 'nqn.2024-01.a:b' };

  it('defaults to port 4420, or 8009 with no I/O queue and no keep alive for discovery', () => {
    const io = resolveOptions(base);
    expect([io.port, io.ioQueues, io.katoMs, io.queueSize, io.cntlid]).to.deep.equal([4420, 1, 5000, 128, 0xffff]);
    const discovery = resolveOptions({ ...base, subnqn: 'nqn.2014-08.org.nvmexpress.discovery' });
    expect([discovery.port, discovery.ioQueues, discovery.katoMs]).to.deep.equal([8009, 0, 0]);
  });

  it('takes the host identifier from a UUID NQN, and a stable one from any other', () => {
    const uuid = defaultHostIdentity('nqn.2014-08.org.nvmexpress:uuid:00112233-4455-6677-8899-aabbccddeeff');
    expect(Buffer.from(uuid.hostid).toString('hex')).to.equal('00112233445566778899aabbccddeeff');
    const named = defaultHostIdentity('nqn.2024-01.test:host');
    expect(named.hostid.length).to.equal(16);
    expect(Buffer.compare(named.hostid, defaultHostIdentity('nqn.2024-01.test:host').hostid)).to.equal(0);
    expect(Buffer.compare(named.hostid, defaultHostIdentity('nqn.2024-01.test:other').hostid)).not.to.equal(0);
    expect(defaultHostIdentity()).to.deep.equal(defaultHostIdentity());
  });

  for (const [wrong, words] of [
    [{ port: 0 }, 'port is 0'],
    [{ ioQueues: 65535 }, 'ioQueues is 65535'],
    [{ hpda: 32 }, 'hpda is 32'],
    [{ hostid: 'nonsense' }, 'hostid'],
    [{ subnqn: `nqn.${'x'.repeat(220)}` }, '224 bytes long, allowed are 223'],
    [{ address: '' }, 'address is empty'],
    [{ ioTimeoutMs: -1 }, 'ioTimeoutMs is -1'],
  ] as const) {
    it(`refuses ${JSON.stringify(wrong).slice(0, 40)}`, () => {
      expect(() => resolveOptions({ ...base, ...wrong })).to.throw(words);
    });
  }
});

/** What a published discovery service says on the network: RFC 6762, RFC 6763, TP8009. */
import { expect } from 'chai';
import { mdnsPlaces } from '../../../src/fabrics/mdns-interfaces.ts';
import type { DnsRecord } from '../../../src/fabrics/mdns-link.ts';
import { MdnsPublisher } from '../../../src/service/mdns-publisher.ts';
import { FakeMdnsNetwork } from '../../support/fake-mdns.ts';
import { ManualClock } from '../../support/manual-clock.ts';

const NQN = 'nqn.2026-01.org.example:discovery';
const TYPE = '_nvme-disc._tcp.local';
const known = (type: string, name: string, data: string, ttl: number): DnsRecord => ({ type, name, data, ttl });

describe('mDNS publisher', () => {
  let network: FakeMdnsNetwork;
  let clock: ManualClock;
  let publisher: MdnsPublisher;
  let problems: string[];

  beforeEach(() => {
    network = new FakeMdnsNetwork();
    clock = new ManualClock();
    problems = [];
    publisher = new MdnsPublisher({
      nqn: NQN,
      port: 8010,
      places: [
        { interfaceAddress: '192.0.2.1', addresses: ['192.0.2.1', '2001:db8::1'] },
        { interfaceAddress: '198.51.100.1', addresses: ['198.51.100.1'] },
      ],
      clock,
      open: network.open,
      onProblem: (address, error) => problems.push(`${address}: ${error.message}`),
    });
  });
  afterEach(async () => {
    await publisher.close();
    expect(network.linkCount).to.equal(0);
    expect(clock.timerCount).to.equal(0);
  });

  const types = (records: readonly DnsRecord[]): string[] => records.map(({ type }) => type).sort();
  const find = (records: readonly DnsRecord[], type: string, name?: string): DnsRecord =>
    records.find((record) => record.type === type && (name === undefined || record.name === name))!;
  const announcement = (): readonly DnsRecord[] => network.responses()[0]!.packet.answers;
  const instance = (): string => String(find(announcement(), 'PTR', TYPE).data);

  it('announces PTR, SRV, TXT and its addresses on each interface, twice a second apart', () => {
    const records = announcement();
    expect(types(records)).to.deep.equal(['A', 'AAAA', 'PTR', 'PTR', 'SRV', 'TXT']);
    expect(instance()).to.match(/^nvmeferry-[0-9a-f]{12}\._nvme-disc\._tcp\.local$/);
    expect(find(records, 'PTR', '_services._dns-sd._udp.local').data).to.equal(TYPE);
    expect(find(records, 'SRV')).to.deep.include({ name: instance(), flush: true });
    expect(find(records, 'SRV').data).to.deep.include({ port: 8010 });
    expect(find(records, 'TXT')).to.deep.include({ name: instance(), data: ['p=tcp', `nqn=${NQN}`], flush: true });
    const { target } = find(records, 'SRV').data as { target: string };
    expect(target).to.match(/^nvmeferry-[0-9a-f]{12}\.local$/);
    expect(find(records, 'A')).to.deep.include({ name: target, data: '192.0.2.1' });
    expect(find(records, 'AAAA')).to.deep.include({ name: target, data: '2001:db8::1' });
    expect(network.responses().map(({ from }) => from)).to.deep.equal(['192.0.2.1', '198.51.100.1']);
    expect(types(network.responses()[1]!.packet.answers)).to.deep.equal(['A', 'PTR', 'PTR', 'SRV', 'TXT']);
    clock.advance(999);
    expect(network.responses()).to.have.length(2);
    clock.advance(1);
    expect(network.responses()).to.have.length(4);
    clock.advance(3_600_000);
    expect(network.responses()).to.have.length(4);
  });

  it('answers a query for the type with what is needed to connect, whatever the case of the name', () => {
    const before = network.responses().length;
    network.send('query', '192.0.2.77', { questions: [{ name: TYPE.toUpperCase(), type: 'PTR' }] });
    const [answer] = network.responses().slice(before);
    expect(answer!.to).to.equal(undefined);
    expect(answer!.packet.answers.map(({ data }) => data)).to.deep.equal([instance()]);
    expect(types(answer!.packet.additionals)).to.deep.equal(['A', 'AAAA', 'SRV', 'TXT']);
  });

  it('answers single questions, and keeps silent about what is not its own', () => {
    const ask = (name: string, type: 'A' | 'AAAA' | 'SRV' | 'TXT' | 'ANY' | 'PTR'): string[] => {
      const before = network.responses().length;
      network.send('query', '192.0.2.77', { questions: [{ name, type }] });
      const first = network.responses()[before];
      return first === undefined ? [] : types(first.packet.answers);
    };
    expect(ask(instance(), 'TXT')).to.deep.equal(['TXT']);
    expect(ask(instance(), 'ANY')).to.deep.equal(['SRV', 'TXT']);
    expect(ask(`${instance().split('.')[0]}.local`, 'A')).to.deep.equal(['A']);
    expect(ask('_http._tcp.local', 'PTR')).to.deep.equal([]);
    expect(ask('_cdc._sub._nvme-disc._tcp.local', 'PTR'), 'it is no CDC').to.deep.equal([]);
    expect(ask(TYPE, 'TXT')).to.deep.equal([]);
  });

  it('does not repeat what the asker knows, unless that is about to expire', () => {
    const ask = (ttl: number): number => {
      const before = network.responses().length;
      const answers = [known('PTR', TYPE, instance(), ttl)];
      network.send('query', '192.0.2.77', { questions: [{ name: TYPE, type: 'PTR' }], answers });
      return network.responses().length - before;
    };
    expect(ask(4500)).to.equal(0);
    expect(ask(2250)).to.equal(0);
    expect(ask(2000)).to.equal(2);
  });

  it('answers a plain resolver alone, with its question and id', () => {
    const before = network.responses().length;
    const questions = [{ name: instance(), type: 'SRV' as const }];
    network.send('query', '192.0.2.77', { id: 4711, questions }, undefined, 40_000);
    const [answer] = network.responses().slice(before);
    expect(answer!.to).to.deep.equal({ address: '192.0.2.77', port: 40_000 });
    expect(answer!.packet).to.deep.include({ id: 4711, questions });
  });

  it('says goodbye with every record, once', async () => {
    const before = network.responses().length;
    await publisher.close();
    await publisher.close();
    const goodbyes = network.responses().slice(before);
    expect(goodbyes.map(({ from }) => from).sort()).to.deep.equal(['192.0.2.1', '198.51.100.1']);
    expect(goodbyes.flatMap(({ packet }) => packet.answers).every(({ ttl }) => ttl === 0)).to.equal(true);
    expect(types(goodbyes[0]!.packet.answers)).to.deep.equal(types(announcement()));
  });

  it('tells of an interface that cannot send, and goes on with the others', () => {
    network.broken.add('192.0.2.1');
    clock.advance(1000);
    expect(problems).to.deep.equal(['192.0.2.1: send ENETUNREACH']);
    expect(network.responses().at(-1)!.from).to.equal('198.51.100.1');
  });
});

describe('mDNS places', () => {
  const info = (address: string, internal = false): never =>
    ({ address, internal, family: address.includes(':') ? 'IPv6' : 'IPv4' }) as never;
  const interfaces = {
    lo: [info('127.0.0.1', true), info('::1', true)],
    eth0: [info('192.0.2.1'), info('2001:db8::1'), info('fe80::1')],
    eth1: [info('198.51.100.1')],
    v6only: [info('2001:db8:1::1')],
  };

  for (const [bound, advertised, wanted] of [
    ['192.0.2.1', undefined, [['192.0.2.1', ['192.0.2.1']]]],
    ['2001:db8::1', undefined, [['192.0.2.1', ['2001:db8::1']]]],
    [
      '0.0.0.0',
      undefined,
      [
        ['192.0.2.1', ['192.0.2.1']],
        ['198.51.100.1', ['198.51.100.1']],
      ],
    ],
    [
      '::',
      undefined,
      [
        ['192.0.2.1', ['192.0.2.1', '2001:db8::1']],
        ['198.51.100.1', ['198.51.100.1']],
      ],
    ],
    ['127.0.0.1', undefined, [['127.0.0.1', ['127.0.0.1']]]],
    ['127.0.0.9', undefined, [['127.0.0.1', ['127.0.0.9']]]],
    ['192.0.2.1', '203.0.113.5', [['192.0.2.1', ['203.0.113.5']]]],
    ['192.0.2.99', undefined, []],
  ] as const) {
    it(`bound to ${bound}${advertised === undefined ? '' : `, advertised as ${advertised}`}`, () => {
      const places = mdnsPlaces(bound, advertised, interfaces);
      expect(places.map(({ interfaceAddress, addresses }) => [interfaceAddress, addresses])).to.deep.equal(wanted);
    });
  }
});

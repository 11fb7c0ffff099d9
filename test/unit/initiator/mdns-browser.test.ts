/** Browsing for discovery services: what is heard, asked for, and made of it. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { expect } from 'chai';
import { type DnsRecord, mdnsOn } from '../../../src/fabrics/mdns-link.ts';
import type { FoundService } from '../../../src/fabrics/mdns-records.ts';
import { browseDiscovery } from '../../../src/initiator/mdns-browser.ts';
import { MdnsPublisher } from '../../../src/service/mdns-publisher.ts';
import { FakeMdnsNetwork } from '../../support/fake-mdns.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { rejection, settle } from './support.ts';

const TYPE = '_nvme-disc._tcp.local';
const ptr = (name: string, type = TYPE): DnsRecord => ({ type: 'PTR', name: type, ttl: 4500, data: `${name}.${TYPE}` });
const srv = (name: string, port = 8009, target = `${name}.local`): DnsRecord => ({
  type: 'SRV',
  name: `${name}.${TYPE}`,
  ttl: 120,
  flush: true,
  data: { port, target },
});
const txt = (name: string, ...data: string[]): DnsRecord => ({ type: 'TXT', name: `${name}.${TYPE}`, ttl: 4500, data });
const a = (name: string, data: string): DnsRecord => ({ type: 'A', name: `${name}.local`, ttl: 120, data });
const aaaa = (name: string, data: string): DnsRecord => ({ ...a(name, data), type: 'AAAA' });

describe('mDNS browser', () => {
  let network: FakeMdnsNetwork;
  let clock: ManualClock;
  beforeEach(() => {
    network = new FakeMdnsNetwork();
    clock = new ManualClock();
  });

  /** Browses for two seconds, with what `act` does in the first. */
  async function browse(act: () => void, interfaces = ['192.0.2.2']): Promise<FoundService[]> {
    const found = browseDiscovery({ interfaces, clock, open: network.open });
    await settle();
    act();
    await settle();
    clock.advance(2000);
    const services = await found;
    expect(network.linkCount).to.equal(0);
    expect(clock.timerCount).to.equal(0);
    return services;
  }
  const respond = (...answers: DnsRecord[]): void => network.send('response', '192.0.2.50', { answers });
  const queries = (): string[] =>
    network.sent
      .filter(({ kind }) => kind === 'query')
      .flatMap(({ packet }) => packet.questions.map(({ name, type }) => `${type} ${name}`));

  it('asks for the type and for CDCs, and again after a second', async () => {
    await browse(() => {});
    const asked = [`PTR ${TYPE}`, `PTR _cdc._sub.${TYPE}`];
    expect(queries()).to.deep.equal([...asked, ...asked]);
  });

  it('finds a service from one answer, whichever section its records are in', async () => {
    const services = await browse(() =>
      network.send('response', '192.0.2.50', {
        answers: [ptr('one')],
        additionals: [
          srv('one', 8010),
          txt('one', 'p=tcp', 'nqn=nqn.2026-01.org.example:d'),
          a('one', '192.0.2.50'),
          aaaa('one', '2001:db8::50'),
        ],
      }),
    );
    expect(services).to.deep.equal([
      {
        name: 'one',
        addresses: ['192.0.2.50', '2001:db8::50'],
        port: 8010,
        nqn: 'nqn.2026-01.org.example:d',
        isCdc: false,
      },
    ]);
    expect(queries().length, 'nothing was missing').to.equal(4);
  });

  it('asks once for what an answer leaves out, until it can connect', async () => {
    const services = await browse(() => {
      respond(ptr('one'));
      respond(ptr('one'));
      respond(srv('one'));
      respond(txt('one', 'p=tcp'));
      respond(a('one', '192.0.2.50'));
    });
    expect(services).to.deep.equal([{ name: 'one', addresses: ['192.0.2.50'], port: 8009, isCdc: false }]);
    const more = queries().slice(2, -2);
    expect(more).to.deep.equal([`SRV one.${TYPE}`, `TXT one.${TYPE}`, 'A one.local', 'AAAA one.local']);
  });

  it('takes the sender for the address if none is named, or a link-local one only', async () => {
    const services = await browse(() => respond(ptr('one'), srv('one'), txt('one', 'p=tcp'), aaaa('one', 'fe80::50')));
    expect(services[0]!.addresses).to.deep.equal(['192.0.2.50']);
  });

  it('leaves out other transports, services without TXT, and those that said goodbye', async () => {
    const services = await browse(() => {
      respond(
        ptr('roce'),
        srv('roce'),
        txt('roce', 'p=roce'),
        ptr('mute'),
        srv('mute'),
        ptr('none'),
        srv('none'),
        txt('none', 'x=y'),
      );
      respond(ptr('gone'), srv('gone'), txt('gone', 'p=tcp'));
      respond({ ...ptr('gone'), ttl: 0 });
      respond(ptr('stays'), srv('stays'), txt('stays', 'P=TCP', 'nqn=', 'p=roce'), a('stays', '192.0.2.9'));
    });
    expect(services).to.deep.equal([{ name: 'stays', addresses: ['192.0.2.9'], port: 8009, isCdc: false }]);
  });

  it('a record with the flush bit replaces what was known', async () => {
    const services = await browse(() => {
      respond(ptr('one'), srv('one', 8009), txt('one', 'p=tcp'), a('one', '192.0.2.50'));
      respond(srv('one', 8010));
    });
    expect(services.map(({ port }) => port)).to.deep.equal([8010]);
  });

  it('knows a CDC by its subtype', async () => {
    const services = await browse(() =>
      respond(ptr('cdc', `_cdc._sub.${TYPE}`), srv('cdc'), txt('cdc', 'p=tcp'), a('cdc', '192.0.2.60')),
    );
    expect(services.map(({ name, isCdc }) => [name, isCdc])).to.deep.equal([['cdc', true]]);
  });

  it('survives records of any other kind', async () => {
    const services = await browse(() =>
      respond(
        { type: 'NSEC', name: TYPE, ttl: 1, data: {} },
        { type: 'SRV', name: `one.${TYPE}`, ttl: 1, data: null },
        { type: 'TXT', name: `one.${TYPE}`, ttl: 1, data: 7 },
        ptr('one'),
      ),
    );
    expect(services).to.deep.equal([]);
  });

  it('one interface that cannot send is no error, none that can is one', async () => {
    network.broken.add('192.0.2.2');
    expect(await browse(() => {}, ['192.0.2.2', '198.51.100.2'])).to.deep.equal([]);
    const failed = rejection(browse(() => {}));
    expect(await failed).to.include({
      code: 'NVMEOF_ERR_MDNS',
      message: 'Cannot browse by multicast DNS: send ENETUNREACH',
    });
  });

  it('ends early when told', async () => {
    const abort = new AbortController();
    const found = browseDiscovery({ interfaces: ['192.0.2.2'], clock, open: network.open, signal: abort.signal });
    await settle();
    respond(ptr('one'), srv('one'), txt('one', 'p=tcp'), a('one', '192.0.2.50'));
    abort.abort();
    expect((await found).map(({ name }) => name)).to.deep.equal(['one']);
    expect(clock.timerCount).to.equal(0);
  });

  it('finds what the publisher publishes, over real sockets on the loopback interface', async () => {
    const open = mdnsOn(await freeUdpPort());
    const publisher = new MdnsPublisher({
      nqn: 'nqn.2026-01.org.example:d',
      port: 8010,
      places: [{ interfaceAddress: '127.0.0.1', addresses: ['127.0.0.1'] }],
      clock,
      open,
      onProblem: (_address, error) => {
        throw error;
      },
    });
    try {
      // it ends as soon as the answer is there; the time limit of the test is the longest it may take
      const abort = new AbortController();
      const found = browseDiscovery({
        interfaces: ['127.0.0.1'],
        timeoutMs: 20_000,
        signal: abort.signal,
        open: (address, events) =>
          open(address, {
            ...events,
            response: (packet, from) => {
              events.response!(packet, from);
              if (packet.answers.some(({ name }) => name === TYPE)) abort.abort();
            },
          }),
      });
      const [service, ...others] = await found;
      expect(others).to.deep.equal([]);
      expect(service).to.deep.include({ addresses: ['127.0.0.1'], port: 8010, nqn: 'nqn.2026-01.org.example:d' });
    } finally {
      await publisher.close();
    }
  });
});

async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(() => resolve()));
  return port;
}

/** Which address of a port a host is told. */
import { expect } from 'chai';
import { advertisedAddress, plainAddress } from '../../../src/target/advertised-address.ts';

const EXTERNAL = { IPv4: '203.0.113.9', IPv6: '2001:db8::9' };
const external = (family: 'IPv4' | 'IPv6'): string => EXTERNAL[family];
const none = (): undefined => undefined;

describe('advertised address', () => {
  it('is where the port listens, unless that is a wildcard', () => {
    expect(advertisedAddress('192.0.2.1', '127.0.0.1', external)).to.equal('192.0.2.1');
    expect(advertisedAddress('2001:db8::1', '127.0.0.1', external)).to.equal('2001:db8::1');
  });

  for (const [bound, used, wanted] of [
    ['0.0.0.0', '192.0.2.7', '192.0.2.7'],
    ['0.0.0.0', '::ffff:192.0.2.7', '192.0.2.7'],
    ['0.0.0.0', '2001:db8::7', '203.0.113.9'],
    ['0.0.0.0', undefined, '203.0.113.9'],
    ['::', '2001:db8::7', '2001:db8::7'],
    ['::', '::ffff:192.0.2.7', '192.0.2.7'],
    ['::', '192.0.2.7', '192.0.2.7'],
    ['::', undefined, '2001:db8::9'],
  ] as const) {
    it(`a port on ${bound}, reached at ${used ?? 'no address'}: ${wanted}`, () => {
      expect(advertisedAddress(bound, used, external)).to.equal(wanted);
    });
  }

  it('is none where the port cannot be reached by any family', () => {
    expect(advertisedAddress('0.0.0.0', '2001:db8::7', none)).to.equal(undefined);
  });

  it('has no zone', () => {
    expect(plainAddress('fe80::1%eth0')).to.equal('fe80::1');
  });
});

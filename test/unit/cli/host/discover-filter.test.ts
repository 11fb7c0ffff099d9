/** Which discovery log entries `--filter` takes. */
import { expect } from 'chai';
import { addFilter, type EntryFilter, matcher } from '../../../../src/cli/host/discover-filter.ts';
import type { DiscoveryLogEntry } from '../../../../src/wire/cold/discovery-log.ts';

const entry = (fields: Partial<DiscoveryLogEntry>): DiscoveryLogEntry =>
  ({
    subtype: 2,
    adrfam: 1,
    portid: 1,
    subnqn: 'nqn.a:one',
    traddr: '192.0.2.1',
    trsvcid: '4420',
    ...fields,
  }) as DiscoveryLogEntry;
const takes = (texts: string[], fields: Partial<DiscoveryLogEntry>): boolean =>
  matcher(texts.reduce<EntryFilter[]>((filters, text) => addFilter(text, filters), []))(entry(fields));

describe('discover --filter', () => {
  it('none takes everything; patterns match whole values', () => {
    expect(takes([], {})).to.equal(true);
    expect(takes(['subnqn=nqn.a:one'], {})).to.equal(true);
    expect(takes(['subnqn=nqn.a:on'], {})).to.equal(false);
    expect(takes(['subnqn=nqn.a:*'], {})).to.equal(true);
    expect(takes(['subnqn=nqnxa:*'], {})).to.equal(false);
    expect(takes(['traddr=192.0.2.*'], { traddr: '192.0.20.1' })).to.equal(false);
    expect(takes(['portid=1', 'trsvcid=4420'], {})).to.equal(true);
  });

  it('one key twice is either, two keys are both', () => {
    expect(takes(['portid=1', 'portid=2'], { portid: 2 })).to.equal(true);
    expect(takes(['portid=1', 'portid=2'], { portid: 3 })).to.equal(false);
    expect(takes(['portid=1', 'trsvcid=9'], {})).to.equal(false);
  });

  it('subtypes and families go by word', () => {
    expect(takes(['subtype=nvm'], {})).to.equal(true);
    expect(takes(['subtype=referral'], { subtype: 1 })).to.equal(true);
    expect(takes(['subtype=current'], { subtype: 2 })).to.equal(false);
    expect(takes(['adrfam=ipv6'], { adrfam: 2 })).to.equal(true);
  });

  for (const [text, wanted] of [
    ['nqn=x', /keys: subnqn, traddr/],
    ['subnqn', /KEY=PATTERN/],
    ['subnqn=', /KEY=PATTERN/],
    ['subtype=2', /referral, nvm, current/],
    ['adrfam=ipv', /ipv4, ipv6/],
  ] as const) {
    it(`refuses ${text}`, () => {
      expect(() => addFilter(text, [])).to.throw(wanted);
    });
  }
});

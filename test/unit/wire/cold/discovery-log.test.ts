import { expect } from 'chai';
import {
  AddressFamily,
  decodeDiscoveryLog,
  decodeDiscoveryLogEntries,
  decodeDiscoveryLogHeader,
  encodeDiscoveryLog,
  SecurityType,
  SubsystemType,
  TransportType,
  Treq,
} from '../../../../src/wire.ts';
import { place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

const ascii = (text: string): string => Buffer.from(text).toString('hex');
const DISCOVERY = 'nqn.2014-08.org.nvmexpress.discovery';
const DISK = 'nqn.2026-01.org.example:disk';
/** Base 2.1 figures 294 and 295: generation 5, the discovery subsystem itself and one NVM subsystem with TLS required. */
const PAGE = place(
  3 * 1024,
  [0, '0500000000000000 0200000000000000 0000'],
  [1024, '03 01 03 02 0100 ffff 2000 0300'],
  [1024 + 32, ascii('8009'.padEnd(32))],
  [1024 + 256, ascii(DISCOVERY)],
  [1024 + 512, ascii('192.0.2.1'.padEnd(256))],
  [2048, '03 02 02 05 0200 feff 8000 0000'],
  [2048 + 32, ascii('4420'.padEnd(32))],
  [2048 + 256, ascii(DISK)],
  [2048 + 512, ascii('2001:db8::1'.padEnd(256))],
  [2048 + 768, '02'],
);
const ENTRIES = [
  {
    trtype: TransportType.Tcp,
    adrfam: AddressFamily.Ipv4,
    subtype: SubsystemType.CurrentDiscovery,
    treq: Treq.SecureChannelNotRequired,
    portid: 1,
    cntlid: 0xffff,
    asqsz: 32,
    eflags: 3,
    trsvcid: '8009',
    subnqn: DISCOVERY,
    traddr: '192.0.2.1',
    sectype: SecurityType.None,
  },
  {
    trtype: TransportType.Tcp,
    adrfam: AddressFamily.Ipv6,
    subtype: SubsystemType.Nvm,
    treq: Treq.SecureChannelRequired | Treq.DisableSqFlowControl,
    portid: 2,
    cntlid: 0xfffe,
    asqsz: 128,
    eflags: 0,
    trsvcid: '4420',
    subnqn: DISK,
    traddr: '2001:db8::1',
    sectype: SecurityType.Tls13,
  },
];

describe('wire/cold discovery-log', () => {
  it('builds and reads a whole page', () => {
    expect(encodeDiscoveryLog({ genctr: 5n }, ENTRIES)).to.deep.equal(PAGE);
    const header = { genctr: 5n, numrec: 2n, recfmt: 0, dlpf: 0, tdlpl: 0 };
    expect(decodeDiscoveryLog(PAGE)).to.deep.equal({ ...header, entries: ENTRIES });
  });

  it('builds and reads an empty page', () => {
    const page = encodeDiscoveryLog({ genctr: 1n }, []);
    expect(page).to.deep.equal(place(1024, [0, '01']));
    expect(decodeDiscoveryLog(page).entries).to.deep.equal([]);
  });

  it('reads NUL-padded addresses as other targets send them', () => {
    const page = PAGE.slice();
    page.fill(0, 1024 + 32 + 4, 1024 + 64);
    page.fill(0, 1024 + 512 + 9, 1024 + 768);
    expect(decodeDiscoveryLog(page).entries).to.deep.equal(ENTRIES);
  });

  it('reads the header from the 20 bytes that hosts ask for first', () => {
    expect(decodeDiscoveryLogHeader(PAGE.subarray(0, 20))).to.include({ genctr: 5n, numrec: 2n, tdlpl: 0 });
    for (let length = 0; length < 18; length++) {
      expect(wireError(() => decodeDiscoveryLogHeader(PAGE.subarray(0, length))).reason).to.equal('short');
    }
    expect(decodeDiscoveryLogHeader(PAGE)).to.include({ genctr: 5n, numrec: 2n });
  });

  it('reads entries from a later part of the page', () => {
    expect(decodeDiscoveryLogEntries(PAGE.subarray(1024), 2)).to.deep.equal(ENTRIES);
    expect(decodeDiscoveryLogEntries(PAGE.subarray(2048), 1)).to.deep.equal(ENTRIES.slice(1));
  });

  it('refuses every truncation of the page', () => {
    for (let length = 0; length < PAGE.length; length += 1) {
      if (wireError(() => decodeDiscoveryLog(PAGE.subarray(0, length))).reason !== 'short')
        expect.fail(`${length} bytes`);
    }
  });

  it('does not believe a NUMREC that the bytes do not bear out', () => {
    for (const numrec of ['0300000000000000', 'ffffffffffffffff', '0000000001000000']) {
      const page = PAGE.slice();
      page.set(Buffer.from(numrec, 'hex'), 8);
      expect(wireError(() => decodeDiscoveryLog(page)).field).to.equal('numrec');
    }
  });

  it('refuses a record format it does not know', () => {
    const page = PAGE.slice();
    page[16] = 1;
    expect(wireError(() => decodeDiscoveryLog(page))).to.include({
      reason: 'invalid',
      field: 'recfmt',
      fieldOffset: 16,
    });
  });

  it('refuses values that do not fit', () => {
    expect(wireError(() => encodeDiscoveryLog({}, [{ traddr: 'x'.repeat(257) }])).field).to.equal('traddr');
    expect(wireError(() => encodeDiscoveryLog({}, [{ subnqn: 'x'.repeat(256) }])).field).to.equal('subnqn');
    expect(wireError(() => encodeDiscoveryLog({ genctr: -1n }, [])).field).to.equal('genctr');
  });
});

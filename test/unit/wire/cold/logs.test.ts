import { expect } from 'chai';
import {
  type AnaLog,
  AnaState,
  CommandEffect,
  decodeAnaLog,
  decodeErrorLog,
  effectsLogCodec,
  encodeAnaLog,
  encodeErrorLog,
  firmwareLogCodec,
  LogPageSupport,
  smartLogCodec,
  supportedLogPagesCodec,
} from '../../../../src/wire.ts';
import { hex, place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

describe('wire/cold log-error', () => {
  /** Invalid Field with DNR for an Identify, CID 7 of the admin queue, byte 40: Base 2.1 section 5.1.12.1.2. */
  const ENTRY = place(64, [0, '0200000000000000 0000 0700 0480 2800'], [24, '01000000 00 03 00 06']);
  const VALUE = {
    errorCount: 2n,
    cmdid: 7,
    statusField: 0x4002 << 1,
    parmErrorLocation: 40,
    nsid: 1,
    trtype: 3,
    opcode: 6,
  };

  it('builds a page of used and unused entries', () => {
    expect(encodeErrorLog([VALUE], 3)).to.deep.equal(Uint8Array.from([...ENTRY, ...new Uint8Array(128)]));
    expect(encodeErrorLog([VALUE, VALUE], 1)).to.deep.equal(ENTRY);
    expect(encodeErrorLog([])).to.deep.equal(new Uint8Array(0));
  });

  it('reads the used ones among the whole ones', () => {
    const page = Uint8Array.from([...ENTRY, ...new Uint8Array(64), ...ENTRY.subarray(0, 63)]);
    const entries = decodeErrorLog(page);
    expect(entries).to.have.length(1);
    expect(entries[0]).to.include(VALUE);
  });
});

describe('wire/cold log-ana', () => {
  /** Base 2.1 section 5.1.12.1.13: change count 3; group 1 optimized with namespaces 1 and 2, group 2 in transition and empty. */
  const BYTES = Uint8Array.from([
    ...hex('0300000000000000 0200 000000000000'),
    ...place(32, [0, '01000000 02000000 0200000000000000 01']),
    ...hex('01000000 02000000'),
    ...place(32, [0, '02000000 00000000 0300000000000000 0f']),
  ]);
  const VALUE: AnaLog = {
    chgcnt: 3n,
    groups: [
      { grpid: 1, chgcnt: 2n, state: AnaState.Optimized, nsids: [1, 2] },
      { grpid: 2, chgcnt: 3n, state: AnaState.Change, nsids: [] },
    ],
  };

  it('builds and reads the page', () => {
    expect(encodeAnaLog(VALUE)).to.deep.equal(BYTES);
    expect(decodeAnaLog(BYTES)).to.deep.equal(VALUE);
    expect(decodeAnaLog(Uint8Array.from([...BYTES, 1, 2, 3])), 'what follows is padding').to.deep.equal(VALUE);
  });

  it('leaves the namespaces out if the host asks for groups only', () => {
    const groups = Uint8Array.from([...BYTES.subarray(0, 48), ...BYTES.subarray(56)]);
    groups[20] = 0;
    expect(encodeAnaLog(VALUE, true)).to.deep.equal(groups);
    expect(decodeAnaLog(groups).groups.map((group) => group.nsids)).to.deep.equal([[], []]);
  });

  it('ignores reserved bits', () => {
    const bytes = BYTES.slice();
    bytes.fill(0xff, 10, 16);
    bytes.fill(0xff, 33, 48);
    bytes[32] = 0xf1;
    expect(decodeAnaLog(bytes)).to.deep.equal(VALUE);
  });

  it('refuses every truncation, and counts that the bytes do not bear out', () => {
    for (let length = 0; length < BYTES.length; length++) {
      expect(wireError(() => decodeAnaLog(BYTES.subarray(0, length))).reason, `${length}`).to.equal('short');
    }
    const nnsids = BYTES.slice();
    nnsids.fill(0xff, 20, 24);
    expect(wireError(() => decodeAnaLog(nnsids))).to.include({ reason: 'short', field: 'nnsids' });
    const ngrps = BYTES.slice();
    ngrps.fill(0xff, 8, 10);
    expect(wireError(() => decodeAnaLog(ngrps)).reason).to.equal('short');
  });

  it('refuses what does not fit', () => {
    const group = { grpid: 1, chgcnt: 0n, state: 1, nsids: [] };
    const one = (change: object): Uint8Array => encodeAnaLog({ chgcnt: 0n, groups: [{ ...group, ...change }] });
    expect(wireError(() => one({ state: 16 })).field).to.equal('state');
    expect(wireError(() => one({ grpid: -1 })).field).to.equal('grpid');
    for (const nsid of [0, 0xffffffff, 1.5]) expect(wireError(() => one({ nsids: [nsid] })).field).to.equal('nsids');
  });
});

describe('wire/cold logs of fixed size', () => {
  it('has the temperature of the SMART log at its odd offset', () => {
    const bytes = smartLogCodec.encode({ temperature: 303, availSpare: 100, hostReadCommands: 1n << 127n });
    expect(bytes.subarray(0, 4)).to.deep.equal(hex('00 2f01 64'));
    expect([...bytes.subarray(64, 80)]).to.deep.equal([...new Uint8Array(15), 0x80]);
  });

  it('leaves firmware slots without an image all zero', () => {
    const bytes = firmwareLogCodec.encode({ afi: 1, frs: [{ fr: '0.1' }] });
    expect(bytes).to.deep.equal(place(512, [0, '01'], [8, '302e312020202020']));
    expect(wireError(() => firmwareLogCodec.encode({ afi: 8 })).field).to.equal('afi');
  });

  it('indexes commands by opcode and pages by identifier', () => {
    const acs = new Array<number>(256).fill(0);
    acs[6] = CommandEffect.Supported;
    const iocs = new Array<number>(256).fill(0);
    iocs[1] = CommandEffect.Supported | CommandEffect.LogicalBlockContentChange | CommandEffect.ScopeNamespace;
    expect(effectsLogCodec.encode({ acs, iocs })).to.deep.equal(place(4096, [24, '01000000'], [1028, '03001000']));
    const lids = new Array<number>(256).fill(0);
    lids[0x70] = LogPageSupport.Supported;
    expect(supportedLogPagesCodec.encode({ lids })).to.deep.equal(place(1024, [0x1c0, '01']));
  });
});

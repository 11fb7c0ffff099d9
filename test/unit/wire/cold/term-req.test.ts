import { expect } from 'chai';
import { decodeTermReq, encodeTermReq, Fes, PduType } from '../../../../src/wire.ts';
import { hex } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

/** A C2HTermReq that refuses an R2T-sized PDU with PLEN 40000000h: FES 01h, FEI 4 at its unaligned place. */
const HEADER = '06 00 18 18 00000040 0100 0000 00000000 00000000 00000000';
const TERM_REQ = hex(`03 00 18 00 30000000 0100 04000000 ${'00'.repeat(10)} ${HEADER}`);

describe('wire/cold term-req', () => {
  it('builds the bytes of the specification', () => {
    const value = { type: PduType.C2HTermReq, fes: Fes.InvalidPduHeaderField, fei: 4, header: hex(HEADER) };
    expect(encodeTermReq(value)).to.deep.equal(TERM_REQ);
    expect(decodeTermReq(TERM_REQ)).to.deep.equal(value);
  });

  it('works without a header', () => {
    const bytes = encodeTermReq({ type: 2, fes: 2, fei: 0, header: new Uint8Array(0) });
    expect(bytes).to.deep.equal(hex(`02 00 18 00 18000000 0200 ${'00'.repeat(14)}`));
    expect(decodeTermReq(bytes)).to.deep.equal({ type: 2, fes: 2, fei: 0, header: new Uint8Array(0) });
  });

  it('carries a digest in FEI', () => {
    const bytes = encodeTermReq({ type: 3, fes: Fes.HeaderDigestError, fei: 0xfedcba98, header: new Uint8Array(0) });
    expect(bytes.subarray(8, 14)).to.deep.equal(hex('0300 98badcfe'));
    expect(decodeTermReq(bytes).fei).to.equal(0xfedcba98);
  });

  it('sends at most 128 bytes of the header', () => {
    const header = new Uint8Array(200).fill(7);
    const bytes = encodeTermReq({ type: 3, fes: 1, fei: 0, header });
    expect(bytes.length).to.equal(152);
    expect(decodeTermReq(bytes).header).to.deep.equal(header.subarray(0, 128));
  });

  it('refuses every truncation', () => {
    for (let length = 0; length < TERM_REQ.length; length++) {
      expect(wireError(() => decodeTermReq(TERM_REQ.subarray(0, length))).reason).to.equal('short');
    }
  });

  it('does not read past PLEN', () => {
    const longer = new Uint8Array([...TERM_REQ, 1, 2, 3]);
    expect(decodeTermReq(longer).header).to.deep.equal(hex(HEADER));
  });

  it('refuses a PLEN outside 24 to 152, another HLEN, another type', () => {
    const changed = (offset: number, byte: number): Uint8Array => {
      const bytes = new Uint8Array(200);
      bytes.set(TERM_REQ);
      bytes[offset] = byte;
      return bytes;
    };
    expect(wireError(() => decodeTermReq(changed(4, 23)))).to.include({
      reason: 'invalid',
      field: 'plen',
      fieldOffset: 4,
    });
    expect(wireError(() => decodeTermReq(changed(4, 153)))).to.include({ reason: 'invalid', field: 'plen' });
    expect(wireError(() => decodeTermReq(changed(7, 1)))).to.include({ reason: 'invalid', field: 'plen' });
    expect(decodeTermReq(changed(4, 152)).header.length).to.equal(128);
    expect(wireError(() => decodeTermReq(changed(2, 25)))).to.include({
      reason: 'invalid',
      field: 'hlen',
      fieldOffset: 2,
    });
    expect(wireError(() => decodeTermReq(changed(0, 4)))).to.include({
      reason: 'invalid',
      field: 'type',
      fieldOffset: 0,
    });
    expect(wireError(() => encodeTermReq({ type: 4, fes: 1, fei: 0, header: hex('') })).field).to.equal('type');
  });

  it('ignores reserved bytes', () => {
    const bytes = TERM_REQ.slice();
    for (const i of [1, 3, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]) bytes[i] = 0xff;
    expect(decodeTermReq(bytes)).to.deep.equal(decodeTermReq(TERM_REQ));
  });
});

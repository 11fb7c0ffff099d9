import { expect } from 'chai';
import { encodeIcReq, encodeIcResp, icReqCodec, icRespCodec } from '../../../../src/wire.ts';
import { place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

/** TCP 1.0 section 3.6.2.2: what the Linux host sends with both digests, byte by byte. */
const LINUX_ICREQ = place(128, [0, '00 00 80 00 80000000'], [8, '0000 00 03 00000000']);
/** TCP 1.0 section 3.6.2.3: what the Linux target answers, MAXH2CDATA 4 MiB. */
const LINUX_ICRESP = place(128, [0, '01 00 80 00 80000000'], [8, '0000 00 03 00004000']);

describe('wire/cold ic', () => {
  it('builds the ICReq of the Linux host', () => {
    expect(encodeIcReq({ dgst: 3 })).to.deep.equal(LINUX_ICREQ);
  });

  it('builds the ICResp of the Linux target', () => {
    expect(encodeIcResp({ dgst: 3, maxh2cdata: 0x400000 })).to.deep.equal(LINUX_ICRESP);
  });

  it('reads both', () => {
    expect(icReqCodec.decode(LINUX_ICREQ)).to.deep.equal({
      type: 0,
      flags: 0,
      hlen: 128,
      plen: 128,
      pfv: 0,
      hpda: 0,
      dgst: 3,
      maxr2t: 0,
    });
    expect(icRespCodec.decode(LINUX_ICRESP)).to.include({ type: 1, hlen: 128, cpda: 0, maxh2cdata: 4 << 20 });
  });

  it('reads an HPDA and a PFV that nobody may use: the reader answers with their offset', () => {
    const { hpda, pfv } = icReqCodec.decode(place(128, [8, '0100 20']));
    expect({ hpda, pfv }).to.deep.equal({ hpda: 32, pfv: 1 });
    expect([icReqCodec.offsetOf('plen'), icReqCodec.offsetOf('pfv'), icReqCodec.offsetOf('hpda')]).to.deep.equal([
      4, 8, 10,
    ]);
    expect([icRespCodec.offsetOf('dgst'), icRespCodec.offsetOf('maxh2cdata')]).to.deep.equal([11, 12]);
  });

  it('cannot send a reserved digest bit', () => {
    expect(wireError(() => encodeIcReq({ dgst: 4 })).message).to.equal('ICReq.dgst is 0x4, allowed are the bits 0x3');
    expect(wireError(() => encodeIcResp({ maxh2cdata: 2 ** 32 })).field).to.equal('maxh2cdata');
  });
});

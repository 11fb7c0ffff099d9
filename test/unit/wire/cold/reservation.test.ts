/** Reservation structures against bytes laid out by hand from Base 2.1 sections 7.3 to 7.6 and 5.1.12.1.32. */
import { expect } from 'chai';
import {
  decodeReservationStatus,
  encodeReservationStatus,
  reservationAcquireCodec,
  reservationLogCodec,
  reservationRegisterCodec,
  reservationReleaseCodec,
} from '../../../../src/wire.ts';
import { hex, place } from '../../../vectors/layout.ts';

describe('wire/cold reservation', () => {
  it('keys: 64 bits each, in the order current, other', () => {
    const keys = hex('8877665544332211 ffffffffffffffff');
    const crkey = 0x1122334455667788n;
    const other = 0xffff_ffff_ffff_ffffn;
    expect(reservationRegisterCodec.encode({ crkey, nrkey: other })).to.deep.equal(keys);
    expect(reservationAcquireCodec.decode(keys)).to.deep.equal({ crkey, prkey: other });
    expect(reservationReleaseCodec.encode({ crkey })).to.deep.equal(keys.subarray(0, 8));
  });

  const REGISTRANTS = [
    { cntlid: 0x0102, rcsts: 1, rkey: 0xaaaan, hostid: new Uint8Array(16).fill(0x11) },
    { cntlid: 0xffff, rcsts: 0, rkey: 1n, hostid: new Uint8Array(16).fill(0x22) },
  ];
  const STATUS = { gen: 0x01020304, rtype: 5, ptpls: 1, registrants: REGISTRANTS };
  const EXTENDED = place(
    192,
    [0, '04030201 05 0200 0000 01'],
    [64, '0201 01 0000000000 aaaa000000000000 11111111111111111111111111111111'],
    [128, 'ffff 00 0000000000 0100000000000000 22222222222222222222222222222222'],
  );
  const NARROW = place(
    72,
    [0, '04030201 05 0200 0000 01'],
    [24, '0201 01 0000000000 1111111111111111 aaaa000000000000'],
    [48, 'ffff 00 0000000000 2222222222222222 0100000000000000'],
  );
  const narrow = {
    ...STATUS,
    registrants: REGISTRANTS.map((one) => ({ ...one, hostid: one.hostid.subarray(0, 8) })),
  };

  it('status with host identifiers of 128 bits, and of 64', () => {
    expect(encodeReservationStatus(STATUS, true)).to.deep.equal(EXTENDED);
    expect(encodeReservationStatus(narrow, false)).to.deep.equal(NARROW);
    expect(decodeReservationStatus(EXTENDED, true)).to.deep.equal({ ...STATUS, regctl: 2 });
    const decoded = decodeReservationStatus(NARROW, false);
    expect(decoded.registrants.map(({ hostid }) => [...hostid])).to.deep.equal([
      Array(8).fill(0x11),
      Array(8).fill(0x22),
    ]);
    expect(decoded).to.deep.include({ gen: STATUS.gen, regctl: 2 });
  });

  it('cut short anywhere: the registrants that are there, or an error if not even the header is', () => {
    for (let length = 0; length <= EXTENDED.length; length++) {
      const bytes = EXTENDED.subarray(0, length);
      if (length < 24) expect(() => decodeReservationStatus(bytes, true)).to.satisfy(wireErrorThrown);
      else {
        const { regctl, registrants } = decodeReservationStatus(bytes, true);
        expect([regctl, registrants.length], `${length} bytes`).to.deep.equal([
          2,
          Math.max(0, Math.floor((length - 64) / 64)),
        ]);
      }
    }
  });

  it('reserved bits and bytes of a registrant are ignored; a host identifier of the other width does not fit', () => {
    const dirty = EXTENDED.slice();
    dirty[64 + 2] = 0xff;
    dirty.fill(0xee, 64 + 3, 64 + 8);
    dirty.fill(0xee, 64 + 32, 128);
    expect(decodeReservationStatus(dirty, true).registrants[0]).to.deep.equal(REGISTRANTS[0]);
    expect(() => encodeReservationStatus(STATUS, false)).to.throw();
  });

  it('notification log page', () => {
    const page = place(64, [0, '0807060504030201 03 ff 0000 04030201']);
    const value = { lpc: 0x0102030405060708n, rnlpt: 3, nalp: 255, nsid: 0x01020304 };
    expect(reservationLogCodec.encode(value)).to.deep.equal(page);
    expect(reservationLogCodec.decode(page)).to.deep.equal(value);
  });
});

function wireErrorThrown(act: () => unknown): boolean {
  try {
    act();
    return false;
  } catch (error) {
    return (error as { code?: string }).code === 'NVMEOF_ERR_WIRE';
  }
}

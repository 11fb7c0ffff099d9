import { expect } from 'chai';
import {
  decodeMemoryReport,
  decodeTrackMemory,
  encodeMemoryReport,
  encodeTrackMemory,
  trackMemoryBytes,
} from '../../../../src/wire/cold/track-memory.ts';
import { hex } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

/** M25: the second range stands at byte 20, packed. */
const TRACK = hex('00 0000 08 02000000  0000100000000000 01000000  0000200000000000 03000000');
const REPORT = hex('00 03 0500 01000000 0000 000000000000  00f0010000000000 02000000 00000000');

describe('wire/cold track-memory', () => {
  it('builds and reads the ranges to track', () => {
    const value = {
      ver: 0,
      rmrtg: 8,
      ranges: [
        { saddr: 0x100000n, len: 1 },
        { saddr: 0x200000n, len: 3 },
      ],
    };
    expect(encodeTrackMemory(value)).to.deep.equal(TRACK);
    expect(decodeTrackMemory(TRACK)).to.deep.equal(value);
    expect(trackMemoryBytes(TRACK.subarray(0, 8))).to.equal(32);
    for (let length = 0; length < TRACK.length; length++) {
      expect(wireError(() => decodeTrackMemory(TRACK.subarray(0, length))).reason).to.equal('short');
    }
  });

  it('builds and reads the report', () => {
    const value = { more: true, suspended: true, cntlid: 5, rpmpg: 0, changes: [{ saddr: 0x1f000n, len: 2 }] };
    expect(encodeMemoryReport(value)).to.deep.equal(REPORT);
    expect(decodeMemoryReport(Uint8Array.from([...REPORT, 0xff]))).to.deep.equal(value);
    for (let length = 0; length < REPORT.length; length++) {
      expect(wireError(() => decodeMemoryReport(REPORT.subarray(0, length))).reason).to.equal('short');
    }
  });
});

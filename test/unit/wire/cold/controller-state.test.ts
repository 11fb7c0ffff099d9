import { expect } from 'chai';
import {
  type ControllerState,
  controllerStateBytes,
  decodeControllerState,
  decodeControllerStateFormats,
  encodeControllerState,
  encodeControllerStateFormats,
} from '../../../../src/wire/cold/controller-state.ts';
import { hex, place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

/** One SQ and one CQ, no vendor part: 104 bytes (Base 2.1 figures 358 to 361). */
const BYTES = place(
  104,
  [0, '0000 01'],
  [16, '0e'],
  [48, '0000 0100 0100'],
  [56, '0010000001000000 3f00 0100 0100 0100 0500 0900'],
  [80, '0020000001000000 1f00 0100 0300 0400 0700 0200'],
);
const STATE: ControllerState = {
  suspended: true,
  nvme: {
    submissionQueues: [{ prp1: 0x1_0000_1000n, qsize: 63, qid: 1, cqid: 1, attributes: 1, head: 5, tail: 9 }],
    completionQueues: [{ prp1: 0x1_0000_2000n, qsize: 31, qid: 1, head: 3, tail: 4, attributes: 7, vector: 2 }],
  },
  vendor: undefined,
};

describe('wire/cold controller-state', () => {
  it('builds and reads the structure, byte by byte', () => {
    expect(encodeControllerState(STATE)).to.deep.equal(BYTES);
    expect(decodeControllerState(BYTES)).to.deep.equal(STATE);
  });

  it('puts the vendor part behind the queues, and counts both in dwords', () => {
    const bytes = encodeControllerState({ ...STATE, suspended: false, vendor: hex('0102030405060708') });
    expect(bytes.subarray(104)).to.deep.equal(hex('0102030405060708'));
    expect([bytes[2], bytes[16], bytes[32]]).to.deep.equal([0, 14, 2]);
    expect(controllerStateBytes(bytes)).to.equal(112);
    expect(encodeControllerState({ suspended: false })).to.deep.equal(new Uint8Array(48));
    expect(wireError(() => encodeControllerState({ suspended: false, vendor: hex('01') })).field).to.equal('vss');
  });

  it('G14: no queues are two dwords', () => {
    const bytes = encodeControllerState({ suspended: true, nvme: { submissionQueues: [], completionQueues: [] } });
    expect([bytes.length, bytes[16]]).to.deep.equal([56, 2]);
  });

  it('refuses every truncation, and sizes that do not agree', () => {
    for (let length = 0; length < BYTES.length; length++) {
      expect(wireError(() => decodeControllerState(BYTES.subarray(0, length))).reason, `${length}`).to.equal('short');
    }
    const change = (offset: number, value: number): Uint8Array => {
      const bytes = BYTES.slice();
      bytes[offset] = value;
      return bytes;
    };
    expect(wireError(() => decodeControllerState(change(0, 1))).field).to.equal('ver');
    expect(wireError(() => decodeControllerState(change(48, 1))).field).to.equal('ver');
    expect(wireError(() => decodeControllerState(change(50, 2))).reason).to.equal('invalid');
    expect(wireError(() => decodeControllerState(change(31, 0xff))).reason).to.equal('range');
    expect(wireError(() => decodeControllerState(change(66, 0))).field, 'QID 0').to.equal('qid');
  });

  it('refuses queues that do not ascend', () => {
    const [queue] = STATE.nvme!.submissionQueues;
    const twice = encodeControllerState({
      suspended: true,
      nvme: { submissionQueues: [queue!, queue!], completionQueues: [] },
    });
    expect(wireError(() => decodeControllerState(twice)).field).to.equal('qid');
  });

  it('lists versions and vendor formats where Identify CNS 20h has them', () => {
    const uuid = hex('00112233445566778899aabbccddeeff');
    const bytes = encodeControllerStateFormats({ versions: [0], uuids: [uuid] });
    expect(bytes).to.deep.equal(place(4096, [0, '0101 0000 00112233445566778899aabbccddeeff']));
    expect(decodeControllerStateFormats(bytes)).to.deep.equal({ versions: [0], uuids: [uuid] });
    expect(wireError(() => decodeControllerStateFormats(bytes.subarray(0, 19))).reason).to.equal('short');
  });
});

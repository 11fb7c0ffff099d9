import { expect } from 'chai';
import {
  Cattr,
  connectCommandCodec,
  connectDataCodec,
  FABRICS_SPECIFIC_OFFSET,
  PropertySize,
  propertyGetCodec,
  propertySetCodec,
} from '../../../../src/wire.ts';
import { hex, place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

const ascii = (text: string): string => Buffer.from(text).toString('hex');
const SUBNQN = 'nqn.2026-01.org.example:disk';
const HOSTNQN = 'nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6';
/** Base 2.1 section 6.3: Connect data of an admin queue, dynamic controller. */
const DATA = place(1024, [0, 'f81d4fae7dec11d0a76500a0c91e6bf6 ffff'], [256, ascii(SUBNQN)], [512, ascii(HOSTNQN)]);

describe('wire/cold connect', () => {
  it('builds the Connect of the Linux host: SQE bytes 40 to 63', () => {
    const admin = connectCommandCodec.encode({ sqsize: 31, cattr: Cattr.DisableSqFlowControl, kato: 5000 });
    expect(admin).to.deep.equal(hex(`0000 0000 1f00 04 00 88130000 ${'00'.repeat(12)}`));
    const io = connectCommandCodec.encode({ qid: 1, sqsize: 127 });
    expect(io).to.deep.equal(hex(`0000 0100 7f00 00 00 00000000 ${'00'.repeat(12)}`));
  });

  it('has the offsets that a failing Connect reports', () => {
    const ipo = (field: 'qid' | 'sqsize' | 'kato'): number =>
      FABRICS_SPECIFIC_OFFSET + connectCommandCodec.offsetOf(field);
    expect([ipo('qid'), ipo('sqsize'), ipo('kato')]).to.deep.equal([42, 44, 48]);
    expect(connectDataCodec.offsetOf('cntlid')).to.equal(16);
  });

  it('builds and reads the data', () => {
    const value = { hostid: hex('f81d4fae7dec11d0a76500a0c91e6bf6'), cntlid: 0xffff, subnqn: SUBNQN, hostnqn: HOSTNQN };
    expect(connectDataCodec.encode(value)).to.deep.equal(DATA);
    expect(connectDataCodec.decode(DATA)).to.deep.equal(value);
  });

  it('answers a NQN without its NUL at once, with the IPO', () => {
    const subnqn = DATA.slice().fill(0x41, 256, 512);
    expect(wireError(() => connectDataCodec.decode(subnqn))).to.include({ reason: 'unterminated', fieldOffset: 256 });
    const hostnqn = DATA.slice().fill(0x41, 512, 768);
    expect(wireError(() => connectDataCodec.decode(hostnqn))).to.include({ reason: 'unterminated', fieldOffset: 512 });
    const all = new Uint8Array(1024).fill(0x41);
    expect(wireError(() => connectDataCodec.decode(all))).to.include({ reason: 'unterminated', field: 'subnqn' });
  });

  it('takes a NQN of 255 bytes off the wire: its length is for the caller to judge', () => {
    const long = DATA.slice().fill(0x41, 256, 511);
    expect(connectDataCodec.decode(long).subnqn).to.equal('A'.repeat(255));
  });

  it('builds the Property commands', () => {
    const get = propertyGetCodec.encode({ attrib: PropertySize.Bytes8, ofst: 0 });
    expect(get).to.deep.equal(hex(`01 000000 00000000 ${'00'.repeat(16)}`));
    const set = propertySetCodec.encode({ ofst: 0x14, value: 0x00460001 });
    expect(set).to.deep.equal(hex(`00 000000 14000000 01004600 00000000 ${'00'.repeat(8)}`));
  });
});

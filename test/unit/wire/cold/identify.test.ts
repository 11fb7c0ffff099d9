import { expect } from 'chai';
import {
  identifyControllerCodec,
  identifyNamespaceCodec,
  independentNamespaceCodec,
  nvmControllerCodec,
} from '../../../../src/wire.ts';
import { hex, place } from '../../../vectors/layout.ts';
import { wireError } from '../expect-wire-error.ts';

const ascii = (text: string): string => Buffer.from(text).toString('hex');
const SUBNQN = 'nqn.2026-01.org.example:disk';

describe('wire/cold identify', () => {
  it('builds the controller of a fabrics target, byte by byte', () => {
    const bytes = identifyControllerCodec.encode({
      sn: 'S1',
      mn: 'nvmeferry',
      fr: '0.1',
      ieee: 0x002538,
      cmic: 0x0b,
      mdts: 8,
      cntlid: 0xffef,
      ver: 0x00020100,
      oaes: 0x80000900,
      cntrltype: 1,
      oacs: 0x0a00,
      kas: 10,
      tnvmcap: 1n << 64n,
      sqes: 0x66,
      cqes: 0x44,
      maxcmd: 128,
      nn: 0xfffffffe,
      sgls: 0x00300001,
      subnqn: SUBNQN,
      ioccsz: 516,
      iorcsz: 1,
      msdbd: 1,
      ofcs: 1,
      psd: [{ mp: 2500, enlat: 1, exlat: 2 }],
    });
    const expected = place(
      4096,
      [4, ascii('S1'.padEnd(20))],
      [24, ascii('nvmeferry'.padEnd(40))],
      [64, ascii('0.1'.padEnd(8))],
      [73, '382500 0b 08 efff 00010200'],
      [92, '00090080'],
      [111, '01'],
      [256, '000a'],
      [288, '01'],
      [320, '0a00'],
      [512, '66 44 8000 feffffff'],
      [536, '01003000'],
      [768, ascii(SUBNQN)],
      [1792, '04020000 01000000 0000 00 01 0100'],
      [2048, 'c409 00 00 01000000 02000000'],
    );
    expect(bytes).to.deep.equal(expected);
  });

  it('builds a namespace of 4 KiB blocks, byte by byte', () => {
    const bytes = identifyNamespaceCodec.encode({
      nsze: 0x1_0000_0001n,
      ncap: 0x1_0000_0001n,
      nuse: 2n,
      nmic: 1,
      dlfeat: 9,
      nvmcap: 0x1000_0000_1000n,
      mssrl: 0x8000,
      mcl: 0x80000000,
      anagrpid: 1,
      nguid: hex('0123456789abcdeffedcba9876543210'),
      eui64: hex('002538b1b1b1b1b1'),
      lbaf: [
        { lbads: 9, rp: 2 },
        { ms: 8, lbads: 12 },
      ],
      flbas: 1,
      nlbaf: 1,
    });
    const expected = place(
      4096,
      [0, '0100000001000000 0100000001000000 0200000000000000 00 01 01'],
      [30, '01 00 00 09'],
      [48, '0010 0000 0010'],
      [74, '0080 00000080'],
      [92, '01'],
      [104, '0123456789abcdeffedcba9876543210 002538b1b1b1b1b1'],
      [128, '0000 09 02 0800 0c 00'],
    );
    expect(bytes).to.deep.equal(expected);
    expect(identifyNamespaceCodec.decode(bytes).lbaf[1]).to.deep.equal({ ms: 8, lbads: 12, rp: 0 });
  });

  it('has NSTAT where hosts look for the ready bit, and the command set version', () => {
    expect(independentNamespaceCodec.encode({ nstat: 1 })).to.deep.equal(place(4096, [14, '01']));
    expect(nvmControllerCodec.encode({ ver: 0x00010200 })).to.deep.equal(place(4096, [20, '00020100']));
  });

  it('refuses values out of range by name', () => {
    const refuse = (value: object): string | undefined => wireError(() => identifyControllerCodec.encode(value)).field;
    expect(refuse({ sn: 'x'.repeat(21) })).to.equal('sn');
    expect(refuse({ cntlid: 0x10000 })).to.equal('cntlid');
    expect(refuse({ ieee: 0x1000000 })).to.equal('ieee');
    expect(refuse({ tnvmcap: 1n << 128n })).to.equal('tnvmcap');
    expect(refuse({ psd: new Array(33).fill({}) })).to.equal('psd');
    expect(wireError(() => identifyNamespaceCodec.encode({ lbaf: [{ rp: 4 }] })).message).to.match(/^LbaFormat\.rp /);
  });
});

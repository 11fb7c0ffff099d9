/** Each row of the tables of what a guest, or hosts, were told: one figure of the destination is changed at a time, either way. */
import { expect } from 'chai';
import type { ControllerFigures } from '../../../src/orchestrator/end.ts';
import { type Difference, figureDifferences } from '../../../src/orchestrator/figure-rules.ts';
import {
  type FunctionFigures,
  functionDifferences,
  functionFigures,
  REGISTER_RULES,
  type RegisterFigures,
  registerFigures,
} from '../../../src/orchestrator/function-figures.ts';
import {
  IDENTIFY_FIELDS,
  IDENTIFY_RULES,
  type IdentifyFigures,
  identifyDifferences,
} from '../../../src/orchestrator/identify-rules.ts';

type Kind = 'controller' | 'namespaces';
/** Of a value that is not the source's: for a move of a controller, and of namespaces. `-`: nothing. */
type Row<Name> = readonly [
  Name,
  ours: number,
  theirs: number,
  Difference['severity'] | '-',
  Difference['severity'] | '-',
];

const REGISTERS: readonly Row<keyof RegisterFigures>[] = [
  ['mqes', 1023, 1022, 'less', '-'],
  ['mqes', 1023, 4095, '-', '-'],
  ['cqr', 0, 1, 'refused', '-'],
  ['cqr', 1, 0, '-', '-'],
  ['ams', 0b11, 0b10, 'less', '-'],
  ['ams', 0, 1, '-', '-'],
  ['to', 1, 2, 'note', '-'],
  ['to', 2, 1, '-', '-'],
  ['dstrd', 0, 1, 'refused', '-'],
  ['dstrd', 1, 0, 'refused', '-'],
  ['nssrs', 1, 0, 'note', '-'],
  ['nssrs', 0, 1, '-', '-'],
  ['css', 0x41, 0x01, 'less', '-'],
  ['css', 0x01, 0x41, '-', '-'],
  ['bps', 1, 0, 'less', '-'],
  ['bps', 0, 1, '-', '-'],
  ['mpsmin', 0, 1, 'refused', '-'],
  ['mpsmin', 1, 0, '-', '-'],
  ['mpsmax', 4, 3, 'less', '-'],
  ['mpsmax', 4, 5, '-', '-'],
  ['pmrs', 1, 0, 'refused', '-'],
  ['pmrs', 0, 1, '-', '-'],
  ['cmbs', 1, 0, 'refused', '-'],
  ['cmbs', 0, 1, '-', '-'],
  ['crms', 0b01, 0b10, 'less', '-'],
  ['crms', 0b01, 0b11, '-', '-'],
  ['vs', 0x20100, 0x20000, 'note', '-'],
  ['vs', 0x20000, 0x20100, 'note', '-'],
];

const IDENTIFY: readonly Row<keyof IdentifyFigures>[] = [
  ['vid', 1, 2, 'note', '-'],
  ['ver', 0x20100, 0x20000, 'note', 'note'],
  ['cntrltype', 1, 3, 'less', 'less'],
  ['oacs', 0x0a06, 0x0a02, 'less', 'note'],
  ['oacs', 0x0a06, 0x0b06, '-', '-'],
  ['oaes', 0x900, 0x100, 'note', '-'],
  ['oaes', 0x100, 0x900, '-', '-'],
  ['lpa', 3, 1, 'note', '-'],
  ['lpa', 1, 3, '-', '-'],
  ['aerl', 7, 3, 'less', '-'],
  ['aerl', 3, 7, '-', '-'],
  ['frmw', 2, 4, 'note', '-'],
  ['elpe', 63, 31, 'note', '-'],
  ['elpe', 31, 63, '-', '-'],
  ['nn', 32, 16, 'less', 'note'],
  ['nn', 16, 32, '-', '-'],
  ['fna', 0, 1, 'note', '-'],
  ['nwpc', 3, 1, 'note', 'note'],
  ['nwpc', 1, 3, '-', '-'],
  ['sqes', 0x66, 0x76, 'less', '-'],
  ['cqes', 0x44, 0x54, 'less', '-'],
  ['hmpre', 0, 8, 'note', '-'],
  ['hmpre', 8, 0, '-', '-'],
  ['sanicap', 7, 3, 'note', 'note'],
  ['sanicap', 3, 7, '-', '-'],
  ['ocfs', 3, 1, 'note', 'note'],
  ['ocfs', 1, 3, '-', '-'],
  ['anacap', 0xff, 0xfe, '-', 'note'],
  ['anacap', 0, 1, '-', '-'],
];

const zeroes = <Name extends string>(names: readonly Name[]): Record<Name, number> =>
  Object.fromEntries(names.map((name) => [name, 0])) as Record<Name, number>;
const severities = (found: readonly Difference[]): string => found.map(({ severity }) => severity).join() || '-';

describe('what a guest, or hosts, were told', () => {
  for (const kind of ['controller', 'namespaces'] as const satisfies readonly Kind[]) {
    const expected = kind === 'controller' ? 3 : 4;
    it(`registers of a function, for a move of ${kind}`, () => {
      const none = registerFigures(0n, 0);
      for (const row of REGISTERS) {
        const [name, ours, theirs] = row;
        const found = figureDifferences(
          REGISTER_RULES,
          'B',
          { ...none, [name]: ours },
          { ...none, [name]: theirs },
          kind,
        );
        expect(severities(found), `${name} ${ours} becomes ${theirs}`).to.equal(row[expected]);
      }
    });

    it(`Identify Controller, for a move of ${kind}`, () => {
      const none = zeroes(IDENTIFY_FIELDS);
      for (const row of IDENTIFY) {
        const [name, ours, theirs] = row;
        const told = (value: number): ControllerFigures =>
          ({ identify: { ...none, [name]: value } }) as ControllerFigures;
        const found = identifyDifferences('B', told(ours), told(theirs), kind);
        expect(severities(found), `${name} ${ours} becomes ${theirs}`).to.equal(row[expected]);
      }
    });
  }

  it('there is a row for each field, and no rule says nothing', () => {
    const registers = Object.keys(registerFigures(0n, 0));
    expect([...new Set(REGISTERS.map(([name]) => name))].sort()).to.deep.equal(registers.sort());
    expect(REGISTER_RULES.map(({ figure }) => figure).sort()).to.deep.equal(registers.sort());
    expect([...new Set(IDENTIFY.map(([name]) => name))].sort()).to.deep.equal([...IDENTIFY_FIELDS].sort());
    expect(IDENTIFY_RULES.map(({ figure }) => figure).sort()).to.deep.equal([...IDENTIFY_FIELDS].sort());
  });

  it('messages name the figure, both sides, what is missing and the remedy', () => {
    const none = registerFigures(0n, 0);
    const say = (ours: Partial<RegisterFigures>, theirs: Partial<RegisterFigures>): string =>
      figureDifferences(REGISTER_RULES, 'B', { ...none, ...ours }, { ...none, ...theirs }, 'controller')[0]!.message;
    expect(say({ mqes: 1023 }, { mqes: 127 })).to.equal(
      'B has MQES 128 entries, the source 1024 entries: a guest that makes its queues again asks for more than there are; give it as many',
    );
    expect(say({ css: 0x41 }, { css: 1 })).to.match(
      /^B has CSS 0x1, the source 0x41 \(lacks 0x40\): .*; use the same version$/,
    );
  });

  it('log pages and features', () => {
    const ours = { logPages: [1, 2, 5, 0xc9], features: [6, 0x10] };
    expect(
      identifyDifferences('B', ours, { logPages: [1, 2, 5, 0xc9, 0xd], features: [6, 0x10] }, 'controller'),
    ).to.deep.equal([]);
    expect(identifyDifferences('B', ours, {}, 'controller'), 'not known').to.deep.equal([]);
    const less = { logPages: [1, 2], features: [6] };
    const found = identifyDifferences('B', ours, less, 'controller');
    expect(severities(found)).to.equal('note,less');
    expect(found[0]!.message).to.match(/^B lacks log pages of the source \(05h, C9h\): /);
    expect(found[1]!.message).to.match(/^B lacks features of the source \(10h\): /);
    expect(severities(identifyDifferences('B', ours, less, 'namespaces'))).to.equal('note,note');
  });

  it('fields of CAP are where Base 2.1 section 3.1.4.1 has them', () => {
    // MQES 1023, CQR, AMS 01b, TO 15, DSTRD 2, NSSRS, CSS 41h, BPS, MPSMIN 1, MPSMAX 8, PMRS, CMBS, CRMS 11b
    const cap = 0x1b81_2832_0f03_03ffn | (1n << 59n);
    expect(registerFigures(cap, 0x20100)).to.deep.equal({
      ...{ mqes: 1023, cqr: 1, ams: 1, to: 15, dstrd: 2, nssrs: 1, css: 0x41, bps: 1 },
      ...{ mpsmin: 1, mpsmax: 8, pmrs: 1, cmbs: 1, crms: 3, vs: 0x20100 },
    });
  });

  it('registers that one of both does not tell are not compared', () => {
    const registers = registerFigures(0n, 0);
    const ours: FunctionFigures = { isEnabled: true, configBytes: 4096, vectors: 4, ioQueuesMax: 3, registers };
    const theirs = { ...ours, isEnabled: false };
    expect(functionDifferences(ours, { ...theirs, registers: undefined }, 'X')).to.deep.equal([]);
    const other = { ...theirs, registers: registerFigures(1n << 32n, 0) };
    expect(severities(functionDifferences(ours, other, 'X'))).to.equal('refused');
    expect(functionFigures(new Uint8Array(100))).to.equal(undefined);
  });
});

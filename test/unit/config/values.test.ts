import { expect } from 'chai';
import { ConfigIssue } from '../../../src/config/issue.ts';
import { formatSize, parseSize } from '../../../src/config/values.ts';

describe('config: sizes', () => {
  for (const [text, bytes] of [
    [0, 0],
    [4096, 4096],
    ['4096', 4096],
    ['512MiB', 512 * 2 ** 20],
    ['1GiB', 2 ** 30],
    ['10G', 10 * 2 ** 30],
    ['10g', 10 * 2 ** 30],
    ['1.5GiB', 1.5 * 2 ** 30],
    ['3 TiB', 3 * 2 ** 40],
    ['1P', 2 ** 50],
    ['64k', 65_536],
  ] as const) {
    it(`${JSON.stringify(text)} is ${bytes} bytes`, () => {
      expect(parseSize(text, [])).to.equal(bytes);
    });
  }

  for (const text of [
    '',
    '10Q',
    '1GB',
    '-1',
    '1e9',
    '0x10',
    'GiB',
    '1.3',
    '9P5',
    '10 000',
    '16EiB',
    '9999999P',
    -1,
    1.5,
    Number.NaN,
    null,
  ]) {
    it(`${JSON.stringify(text)} is none`, () => {
      expect(() => parseSize(text, ['size'])).to.throw(ConfigIssue, 'allowed: a number of bytes');
    });
  }

  it('are written in the largest unit', () => {
    expect([0, 1023, 1024, 1.5 * 2 ** 30, 2 ** 50].map(formatSize)).to.deep.equal([
      '0 B',
      '1023 B',
      '1 KiB',
      '1.5 GiB',
      '1 PiB',
    ]);
  });
});

import { expect } from 'chai';
import { MigrationError } from '../../../src/migration/migration-error.ts';
import { decodeStateSection, encodeStateSection, type StateBlock } from '../../../src/migration/state-section.ts';
import { type Random, withSeeds } from '../../support/random.ts';

const BLOCKS: StateBlock[] = [
  { kind: 1, version: 0, essential: true, bytes: Uint8Array.of(1, 2, 3) },
  { kind: 7, version: 2, essential: false, bytes: new Uint8Array(0) },
  { kind: 9, version: 1, essential: false, bytes: Uint8Array.from({ length: 16 }, (_, i) => i) },
];
const ALL = new Set([1, 7, 9]);

describe('Vendor section of a controller state', () => {
  it('gives back every block', () => {
    const section = encodeStateSection(BLOCKS);
    expect(section.length % 4, 'whole dwords').to.equal(0);
    expect([...decodeStateSection(section, ALL).values()]).to.deep.equal(BLOCKS);
  });

  it('is the same bytes when what was read is written again', () => {
    const section = encodeStateSection(BLOCKS);
    expect(encodeStateSection([...decodeStateSection(section, ALL).values()])).to.deep.equal(section);
  });

  it('takes a newer minor version, longer blocks, and kinds that may be skipped', () => {
    const longer = BLOCKS.map((block) => ({ ...block, version: 9, bytes: Uint8Array.from([...block.bytes, 0xee]) }));
    const section = encodeStateSection(
      [...longer, { kind: 500, version: 0, essential: false, bytes: Uint8Array.of(1) }],
      7,
    );
    expect([...decodeStateSection(section, ALL).keys()]).to.deep.equal([1, 7, 9]);
  });

  it('refuses an essential block that it does not know', () => {
    expect(() => decodeStateSection(encodeStateSection(BLOCKS), new Set([7, 9]))).to.throw(
      MigrationError,
      /needs a reader that knows blocks of kind 1/,
    );
  });

  it('refuses another major version, and a kind that occurs twice', () => {
    const section = encodeStateSection(BLOCKS);
    section[4] = 2;
    expect(() => decodeStateSection(section, ALL)).to.throw(/has version 2, known is 1/);
    expect(() => decodeStateSection(encodeStateSection([...BLOCKS, BLOCKS[0]!]), ALL)).to.throw(/two blocks of kind 1/);
  });

  it('refuses every truncation and every flipped bit', () => {
    const section = encodeStateSection(BLOCKS);
    for (let length = 0; length < section.length; length++) {
      expect(() => decodeStateSection(section.subarray(0, length), ALL), `${length} bytes`).to.throw(MigrationError);
    }
    for (let bit = 0; bit < section.length * 8; bit++) {
      const damaged = section.slice();
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      // the minor version is covered by the checksum like everything else
      expect(() => decodeStateSection(damaged, ALL), `bit ${bit}`).to.throw(MigrationError);
    }
  });

  it('ends every random image in blocks or a MigrationError', () => {
    withSeeds(2000, (random: Random) => {
      const image = random.oneIn(2) ? random.bytes(random.below(200)) : encodeStateSection(BLOCKS);
      for (let i = random.below(5); i > 0 && image.length > 0; i--)
        image[random.below(image.length)] = random.below(256);
      try {
        decodeStateSection(image, ALL);
      } catch (error) {
        if (!(error instanceof MigrationError)) throw error;
      }
    });
  });
});

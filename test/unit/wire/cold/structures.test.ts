import { expect } from 'chai';
import { WireError } from '../../../../src/wire.ts';
import { golden } from '../../../vectors/layout.ts';
import { LAYOUTS } from '../../../vectors/structures.ts';

/** Above this, only the edges of fields are disturbed one by one: a decode costs a fraction of a millisecond. */
const DISTURB_ALL_BYTES_MAX = 1024;

for (const [name, layout] of Object.entries(LAYOUTS)) {
  describe(`wire/cold ${name}`, () => {
    const { bytes, value, ignored, edges } = golden(layout);
    const { codec } = layout;

    it('declares every field of the layout and no other', () => {
      expect(codec.size).to.equal(layout.size);
      expect(Object.keys(codec.decode(bytes))).to.have.members(Object.keys(value));
    });

    it('decodes the golden bytes', () => {
      expect(codec.decode(bytes)).to.deep.equal(value);
    });

    it('encodes the golden value', () => {
      expect(codec.encode(value as never)).to.deep.equal(bytes);
    });

    it('encodes nothing as zeroes', () => {
      expect(codec.encode({} as never)).to.deep.equal(new Uint8Array(layout.size));
    });

    it('decodes and encodes in the middle of a larger buffer', () => {
      const room = new Uint8Array(layout.size + 20).fill(0xee);
      codec.encodeInto(room, 7, value as never);
      expect(room.subarray(7, 7 + layout.size)).to.deep.equal(bytes);
      expect([...room.subarray(0, 7), ...room.subarray(7 + layout.size)]).to.deep.equal(new Array(20).fill(0xee));
      expect(codec.decode(room, 7)).to.deep.equal(value);
      expect(codec.decode(Buffer.from(room.buffer, 7, layout.size))).to.deep.equal(value);
    });

    it('ignores every reserved bit and never sends one', () => {
      const disturbed = bytes.map((byte, i) => byte | ignored[i]!);
      expect(codec.decode(disturbed)).to.deep.equal(value);
      expect(codec.encode(codec.decode(disturbed) as never)).to.deep.equal(bytes);
    });

    it('refuses every truncation', () => {
      for (let length = 0; length < layout.size; length++) {
        let error: unknown;
        try {
          codec.decode(bytes.subarray(0, length));
        } catch (thrown) {
          error = thrown;
        }
        if (!(error instanceof WireError) || error.reason !== 'short') expect.fail(`${length} bytes were not refused`);
      }
    });

    it('depends on every bit that is not reserved', () => {
      const before = JSON.stringify(codec.decode(bytes), plain);
      const indices = layout.size <= DISTURB_ALL_BYTES_MAX ? bytes.keys() : edges;
      for (const i of indices) {
        const used = ~ignored[i]! & 0xff;
        if (used === 0) continue;
        const disturbed = bytes.slice();
        disturbed[i]! ^= used & -used;
        let after = 'an error';
        try {
          after = JSON.stringify(codec.decode(disturbed), plain);
        } catch (error) {
          if (!(error instanceof WireError)) throw error;
        }
        if (after === before) expect.fail(`byte ${i} does not matter`);
      }
    });

    it('decodes to values of its own', () => {
      const source = bytes.slice();
      const decoded = codec.decode(source);
      source.fill(0);
      expect(decoded).to.deep.equal(value);
    });
  });
}

function plain(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `${value}` : value;
}

import { createRequire } from 'node:module';
import { expect } from 'chai';
import { nativeBinding } from '../../../src/native/load.ts';
import { CRC32C_IMPLEMENTATION, crc32c, crc32cScript, crc32cView } from '../../../src/wire/crc32c.ts';
import { CRC32C_VECTORS, HDGST_VECTORS } from '../../vectors/crc32c.ts';
import { hex } from '../../vectors/layout.ts';

type Implementation = (data: Uint8Array, crc?: number) => number;

const viewOf = (data: Uint8Array): DataView => new DataView(data.buffer, data.byteOffset, data.byteLength);
const IMPLEMENTATIONS: Record<string, Implementation> = {
  crc32c,
  crc32cScript,
  crc32cView: (data, crc) => crc32cView(viewOf(data), 0, data.length, crc),
};
const addon = nativeBinding()?.crc32c;
if (addon !== undefined) IMPLEMENTATIONS.addon = (data, crc = 0) => addon(data, crc);
try {
  IMPLEMENTATIONS.library = (createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: Implementation }).crc32c;
} catch {
  expect(CRC32C_IMPLEMENTATION).to.equal(addon === undefined ? 'script' : 'native');
}

for (const [name, implementation] of Object.entries(IMPLEMENTATIONS)) {
  describe(`wire/crc32c ${name}`, () => {
    for (const [what, data, crc] of CRC32C_VECTORS) {
      it(`of ${what}`, () => {
        expect(implementation(data)).to.equal(crc);
      });
    }

    it('continues over any cut', () => {
      const data = CRC32C_VECTORS[12]![1].subarray(0, 300);
      const whole = crc32cScript(data);
      for (let cut = 0; cut <= data.length; cut++) {
        if (implementation(data.subarray(cut), implementation(data.subarray(0, cut))) !== whole)
          expect.fail(`cut at ${cut}`);
      }
    });

    it('does not depend on where the data lies', () => {
      const data = CRC32C_VECTORS[12]![1].subarray(3, 260);
      const crc = implementation(data.slice());
      for (let offset = 0; offset < 9; offset++) {
        const room = new Uint8Array(300).fill(0xee);
        room.set(data, offset);
        expect(implementation(room.subarray(offset, offset + data.length)), `offset ${offset}`).to.equal(crc);
      }
    });

    for (const [what, header, digest] of HDGST_VECTORS) {
      it(`of the header of ${what} is its HDGST, little-endian`, () => {
        const wire = new DataView(new ArrayBuffer(4));
        wire.setUint32(0, implementation(hex(header)), true);
        expect(new Uint8Array(wire.buffer)).to.deep.equal(hex(digest));
      });
    }
  });
}

describe('wire/crc32c', () => {
  it('answers the same above and below the threshold of the native library', () => {
    const data = Uint8Array.from({ length: 200 }, (_, i) => (i * 7) & 0xff);
    for (let length = 0; length <= data.length; length++) {
      if (crc32c(data.subarray(0, length)) !== crc32cScript(data.subarray(0, length))) expect.fail(`${length} bytes`);
    }
  });

  it('reads a part of a view', () => {
    const data = Uint8Array.from({ length: 64 }, (_, i) => 255 - i);
    for (let offset = 0; offset < 8; offset++) {
      for (const length of [0, 1, 2, 3, 4, 5, 24, 31]) {
        const expected = crc32cScript(data.subarray(offset + 8, offset + 8 + length));
        expect(crc32cView(new DataView(data.buffer, 8), offset, length)).to.equal(expected);
      }
    }
  });
});

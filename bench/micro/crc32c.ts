/** CRC32C by the native library and by script; `crc32c` chooses by length. */
import { createRequire } from 'node:module';
import { nativeBinding } from '../../src/native/load.ts';
import { CRC32C_IMPLEMENTATION, crc32c, crc32cScript, crc32cView } from '../../src/wire/crc32c.ts';
import { bench, sink } from './harness.ts';

const data = new Uint8Array(128 << 10);
for (let i = 0; i < data.length; i++) data[i] = (i * 31) >>> 3;
const view = new DataView(data.buffer);

for (const length of [24, 72]) {
  bench(`script over a DataView, ${length} bytes`, (count) => {
    let crc = 0;
    for (let i = 0; i < count; i++) crc ^= crc32cView(view, (i & 63) << 2, length);
    sink[0] = crc;
  });
}

type Crc32c = (bytes: Uint8Array, crc?: number) => number;
const natively =
  CRC32C_IMPLEMENTATION === 'native'
    ? (createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: Crc32c }).crc32c
    : undefined;

function over(name: string, digest: Crc32c, bytes: Uint8Array): void {
  bench(`${name}, ${bytes.length} bytes`, (count) => {
    let crc = 0;
    for (let i = 0; i < count; i++) crc ^= digest(bytes, 0);
    sink[0] = crc;
  });
}

const addon = nativeBinding()?.crc32c;

for (const length of [24, 72, 512, 4096, 131072]) {
  const bytes = data.subarray(0, length);
  over('script', crc32cScript, bytes);
  if (natively !== undefined) over('native', natively, bytes);
  if (addon !== undefined) over('our addon', addon as Crc32c, bytes);
  over('crc32c()', crc32c, bytes);
}

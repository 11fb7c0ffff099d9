/** Views into one buffer, remembered and not. */
import { ViewCache } from '../../src/util/view-cache.ts';
import { bench, sink } from './harness.ts';

const bytes = new Uint8Array(new ArrayBuffer(256 << 10));
const cache = new ViewCache(bytes);
const PDU = 4168;

bench('view(), seen before', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += cache.view((i & 31) * PDU, 4096).length;
  sink[0] = sum;
});

bench('view(), never seen', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) sum += cache.view((i & 31) * PDU, 2048 + ((i >>> 5) & 1)).length;
  sink[0] = sum;
});

bench('subarray()', (count) => {
  let sum = 0;
  for (let i = 0; i < count; i++) {
    const offset = (i & 31) * PDU;
    sum += bytes.subarray(offset, offset + 4096).length;
  }
  sink[0] = sum;
});

// @hot
/**
 * CRC32C (Castagnoli): reflected polynomial 82F63B78h, init and final XOR all ones. TCP 1.0 section 3.3.1.1.
 * Above a threshold our addon does the work by the processor's instruction, without it a library; below, and without either, JavaScript.
 */
import { createRequire } from 'node:module';
import { nativeBinding } from '../native/load.ts';

const TABLES = makeTables();
const T0 = TABLES.subarray(0, 256);
const T1 = TABLES.subarray(256, 512);
const T2 = TABLES.subarray(512, 768);
const T3 = TABLES.subarray(768, 1024);

function makeTables(): Uint32Array {
  const tables = new Uint32Array(4 * 256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    tables[n] = c >>> 0;
  }
  for (let t = 1; t < 4; t++) {
    for (let n = 0; n < 256; n++) {
      const c = tables[(t - 1) * 256 + n]!;
      tables[t * 256 + n] = (tables[c & 0xff]! ^ (c >>> 8)) >>> 0;
    }
  }
  return tables;
}

/** Continues `crc` (0 to start) over `length` bytes of `view` at `offset`; slice-by-4. Meant for PDU headers. */
export function crc32cView(view: DataView, offset: number, length: number, crc = 0): number {
  let c = ~crc;
  const end4 = offset + (length & ~3);
  let i = offset;
  for (; i < end4; i += 4) {
    c ^= view.getUint32(i, true);
    c = T3[c & 0xff]! ^ T2[(c >>> 8) & 0xff]! ^ T1[(c >>> 16) & 0xff]! ^ T0[c >>> 24]!;
  }
  for (const end = offset + length; i < end; i++) c = T0[(c ^ view.getUint8(i)) & 0xff]! ^ (c >>> 8);
  return ~c >>> 0;
}

function crc32cScript(data: Uint8Array, crc = 0): number {
  let c = ~crc;
  const end4 = data.length & ~3;
  let i = 0;
  for (; i < end4; i += 4) {
    c ^= data[i]! | (data[i + 1]! << 8) | (data[i + 2]! << 16) | (data[i + 3]! << 24);
    c = T3[c & 0xff]! ^ T2[(c >>> 8) & 0xff]! ^ T1[(c >>> 16) & 0xff]! ^ T0[c >>> 24]!;
  }
  for (; i < data.length; i++) c = T0[(c ^ data[i]!) & 0xff]! ^ (c >>> 8);
  return ~c >>> 0;
}

type Crc32c = (data: Uint8Array, crc?: number) => number;

function loadNative(): Crc32c | undefined {
  // three streams at once: over three times as fast as the library at 4 KiB
  const addon = nativeBinding()?.crc32c;
  if (addon !== undefined) return addon as Crc32c;
  try {
    return (createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: Crc32c }).crc32c;
  } catch {
    return undefined; // no build of it for this platform: the script below answers the same
  }
}

const native = loadNative();
/** Which implementation large buffers use; said at start-up and in metrics. */
export const CRC32C_IMPLEMENTATION: 'native' | 'script' = native === undefined ? 'script' : 'native';
const large: Crc32c = native ?? crc32cScript;
/** A call into the library costs about as much as this many bytes in JavaScript. */
const NATIVE_THRESHOLD_BYTES = 96;

/** Continues `crc` (0 to start) over all of `data`. */
export function crc32c(data: Uint8Array, crc = 0): number {
  return data.length < NATIVE_THRESHOLD_BYTES ? crc32cScript(data, crc) : large(data, crc);
}

const nativeAt = nativeBinding()?.crc32cAt;

/** Continues `crc` over a piece of an arena that the addon knows by number; `bytes` are all of the arena. */
export function crc32cAt(arena: number, bytes: Uint8Array, offset: number, length: number, crc: number): number {
  if (nativeAt !== undefined) return nativeAt(arena, offset, length, crc);
  return crc32c(bytes.subarray(offset, offset + length), crc);
}

/** The JavaScript form, exported so that tests hold both to the same vectors. */
export { crc32cScript };

/** PDUs captured from real peers, in `test/vectors/*.json`. */
import { readFileSync } from 'node:fs';
import { PACKAGE_ROOT } from './cli.ts';

export interface CapturedPdu {
  readonly connection: number;
  readonly direction: 'h2c' | 'c2h';
  readonly bytes: Uint8Array;
}

/** @param name a file of `test/vectors` without `.json` */
export function capture(name: string): CapturedPdu[] {
  const file = JSON.parse(readFileSync(`${PACKAGE_ROOT}test/vectors/${name}.json`, 'utf8')) as {
    pdus: { connection: number; direction: 'h2c' | 'c2h'; bytes: string }[];
  };
  return file.pdus.map(({ connection, direction, bytes }) => ({ connection, direction, bytes: unpack(bytes) }));
}

/** Hex, where `zN` stands for N zero bytes. */
function unpack(text: string): Uint8Array {
  return Buffer.concat(
    text
      .split(' ')
      .map((word) => (word.startsWith('z') ? Buffer.alloc(Number(word.slice(1))) : Buffer.from(word, 'hex'))),
  );
}

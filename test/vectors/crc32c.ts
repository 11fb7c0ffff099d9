/** CRC32C of known inputs. The first ones are RFC 3720 appendix B.4's; the value is what goes on the wire, little-endian. */
const ascending = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => i & 0xff);
const text = (value: string): Uint8Array => new TextEncoder().encode(value);

export const CRC32C_VECTORS: readonly (readonly [name: string, data: Uint8Array, crc: number])[] = [
  ['nothing', new Uint8Array(0), 0x00000000],
  ['123456789', text('123456789'), 0xe3069283],
  ['one zero', new Uint8Array(1), 0x527d5351],
  ['abc', text('abc'), 0x364b3fb7],
  ['abc and a zero', text('abc\0'), 0x34940e4c],
  ['32 zeroes', new Uint8Array(32), 0x8a9136aa],
  ['32 times FFh', new Uint8Array(32).fill(0xff), 0x62a8ab43],
  ['00h to 1Fh', ascending(32), 0x46dd794e],
  ['1Fh to 00h', ascending(32).reverse(), 0x113fdb5c],
  ['512 zeroes', new Uint8Array(512), 0x30fcedc0],
  ['4096 zeroes', new Uint8Array(4096), 0x98f94189],
  ['4096 times FFh', new Uint8Array(4096).fill(0xff), 0x25c1fe13],
  ['4096 ascending', ascending(4096), 0x9c71fe32],
  ['4096 descending', ascending(4096).reverse(), 0x214941a8],
];

/** PDU headers and the header digest that follows them on the wire. */
export const HDGST_VECTORS: readonly (readonly [name: string, header: string, digest: string])[] = [
  ['CapsuleResp, SQHD 1, CID 1', '050118001c00000000000000000000000100000001000000', '04c57a1d'],
  ['R2T, CCCID 1234h, TTAG 1, R2TL 4096', '090118001c00000034120100000000000010000000000000', 'fa2a6e34'],
];

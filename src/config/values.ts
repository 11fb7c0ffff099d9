/** Single values of a configuration: text to checked value, or a ConfigIssue that says what is allowed. */
import { isIP } from 'node:net';
import { DISCOVERY_NQN, NQN_BYTES_MAX } from '../spec/nqn.ts';
import { type Path, wrong } from './issue.ts';

const SIZE = /^(\d+(?:\.\d+)?) ?(?:([kmgtp])(?:ib)?)?$/i;
const SIZE_ALLOWED = 'a number of bytes, or a size such as 512MiB, 1.5GiB, 10G (powers of 1024)';

/** @returns bytes, a safe integer */
export function parseSize(value: unknown, path: Path): number {
  let bytes = Number.NaN;
  if (typeof value === 'number') {
    bytes = value;
  } else if (typeof value === 'string') {
    const match = SIZE.exec(value);
    const unit = match?.[2]?.toLowerCase() ?? '';
    if (match !== null) bytes = Number(match[1]) * 1024 ** ' kmgtp'.indexOf(unit === '' ? ' ' : unit);
  }
  if (!Number.isSafeInteger(bytes) || bytes < 0) wrong(path, value, SIZE_ALLOWED);
  return bytes;
}

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** `1.5 GiB`: the largest unit that keeps it exact to a hundredth. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${Number(value.toFixed(2))} ${UNITS[unit]}`;
}

/** A namespace's size: at least one block, and whole blocks. */
export function parseBlockedSize(value: unknown, blockSize: number, path: Path): number {
  const bytes = parseSize(value, path);
  if (bytes === 0) wrong(path, value, `at least one block of ${blockSize} bytes`);
  if (bytes % blockSize !== 0) {
    wrong(
      path,
      value,
      `a multiple of the block size ${blockSize}, such as ${Math.ceil(bytes / blockSize) * blockSize}`,
    );
  }
  return bytes;
}

const NQN = /^nqn\.(\d{4})-(0[1-9]|1[0-2])\.[^\s:]+:\S+$/;
const NQN_ALLOWED = `nqn.yyyy-mm.reverse.domain:name, at most ${NQN_BYTES_MAX} bytes`;

/** Base 2.1 section 4.7. @param strict false: any name without spaces, as the Linux target takes them */
export function checkNqn(value: string, path: Path, strict = true): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const plain = value !== '' && !/[\s\u0000-\u001f\u007f]/.test(value) && Buffer.byteLength(value) <= NQN_BYTES_MAX;
  if (!plain || (strict && !NQN.test(value)))
    wrong(path, value, strict ? NQN_ALLOWED : `a name of 1 to ${NQN_BYTES_MAX} bytes without spaces`);
  return value;
}

export function checkSubsystemNqn(value: string, path: Path, strict = true): string {
  checkNqn(value, path, strict);
  if (value === DISCOVERY_NQN) wrong(path, value, 'any NQN but that of the discovery subsystem, which is always there');
  return value;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function parseUuid(value: string, path: Path): string {
  if (!UUID.test(value) || isZeroes(value)) wrong(path, value, 'a UUID such as 8d1c2f60-5f3a-4a52-9e1b-2f7d5c9a0b31');
  return value.toLowerCase();
}

/** NGUID (16 bytes) or EUI64 (8): hex digits, with or without hyphens or colons. */
export function parseIdentifier(value: string, bytes: 8 | 16, path: Path): string {
  const digits = value.replaceAll(/[-:]/g, '').toLowerCase();
  if (digits.length !== bytes * 2 || !/^[0-9a-f]+$/.test(digits) || isZeroes(digits)) {
    wrong(path, value, `${bytes * 2} hex digits, not all zero`);
  }
  return digits;
}

/** True if an identifier is absent by its value. */
export function isZeroes(value: string): boolean {
  return /^[0:-]*$/.test(value);
}

export function checkAddress(value: string, path: Path): string {
  if (isIP(value) === 0) wrong(path, value, 'an IPv4 or IPv6 address, such as 127.0.0.1, 0.0.0.0 or ::1');
  return value;
}

/** TCP port. @param min 0 where the system may choose */
export function parseService(value: unknown, path: Path, min = 0): number {
  const number = typeof value === 'string' && /^\d{1,5}$/.test(value) ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isInteger(number) || number < min || number > 65_535) {
    wrong(path, value, `a TCP port from ${min} to 65535`);
  }
  return number;
}

/** `127.0.0.1:4420`, `[::1]:4420`, `10.0.0.5`, `:4420` */
export function parseEndpoint(
  value: string,
  path: Path,
  defaults: { readonly address: string; readonly service: number },
): { address: string; service: number } {
  const match = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d{1,5}))?$/.exec(value);
  const allowed = 'ADDRESS, ADDRESS:PORT or [IPV6]:PORT, such as 127.0.0.1:4420';
  if (match === null || value === '') {
    // an IPv6 address alone has colons, but no port
    if (isIP(value) === 6) return { address: value, service: defaults.service };
    return wrong(path, value, allowed);
  }
  const address = (match[1] ?? match[2]) || defaults.address;
  if (isIP(address) === 0) wrong(path, value, allowed);
  return { address, service: match[3] === undefined ? defaults.service : parseService(match[3], path) };
}

/** Printable ASCII, as the Identify fields want. */
export function checkAscii(value: string, charsMax: number, path: Path): string {
  if (!/^[ -~]+$/.test(value) || value.length > charsMax || value.trim() === '') {
    wrong(path, value, `1 to ${charsMax} printable ASCII characters`);
  }
  return value;
}

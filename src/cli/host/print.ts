/** Output in nvme-cli's style. */

export function printLine(text = ''): void {
  process.stdout.write(`${text}\n`);
}

/** Big integers as plain numbers as far as those are exact, else as text. */
function plain(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value.toString();
  if (value instanceof Uint8Array) return toHex(value);
  return value;
}

export function printJson(value: unknown): void {
  printLine(JSON.stringify(value, plain, 2));
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex');
}

/** `name      : value` lines, the names padded to a common width. */
export function printFields(fields: readonly (readonly [string, string])[], width = 10): void {
  for (const [name, value] of fields) printLine(`${name.padEnd(width)}: ${value}`);
}

/** A table with a rule below its head, as `nvme list`. */
export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join(' ')
      .trimEnd();
  printLine(line(head));
  printLine(line(widths.map((width) => '-'.repeat(width))));
  for (const row of rows) printLine(line(row));
}

/** 16 bytes a line, with offsets and characters, as nvme-cli dumps buffers. */
export function printHexDump(bytes: Uint8Array): void {
  printLine('       0  1  2  3  4  5  6  7  8  9  a  b  c  d  e  f');
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const text = Array.from(row, (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : '.')).join('');
    printLine(`${at.toString(16).padStart(4, '0')}: ${hex.padEnd(47)} "${text}"`);
  }
}

/** Raw bytes; settles when they are written. */
export async function writeRaw(bytes: Uint8Array): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

const DECIMAL_UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `1.07 GB`: powers of 1000, as `nvme list` shows sizes. */
export function decimalSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < DECIMAL_UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value.toFixed(2).padStart(6)} ${DECIMAL_UNITS[unit]!.padStart(2)}`;
}

export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

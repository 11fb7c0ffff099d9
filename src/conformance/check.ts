/** Checks of a case: what does not hold is a `CheckFailure` whose message says what was found and what is needed. */
import { isDeepStrictEqual } from 'node:util';
import { STATUS_CODE_MASK, statusName } from '../spec/status.ts';

/** The peer did something that the requirement forbids. */
export class CheckFailure extends Error {
  override readonly name = 'CheckFailure';
}

/** The peer need not do this, or cannot be asked to. */
export class NotApplicable extends Error {
  override readonly name = 'NotApplicable';
}

/** What was seen proves neither that the requirement holds nor that it does not. */
export class Inconclusive extends Error {
  override readonly name = 'Inconclusive';
}

export type CommandKind = 'admin' | 'io' | 'fabrics';

const show = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

/** `0x002 Invalid Field in Command`. @param status 15-bit, or its code */
export function showStatus(status: number, kind: CommandKind): string {
  const code = status & STATUS_CODE_MASK;
  return `0x${code.toString(16).padStart(3, '0')} ${statusName(code, kind)}`;
}

export const check = {
  that(condition: boolean, what: string): void {
    if (!condition) throw new CheckFailure(what);
  },

  equal(actual: unknown, expected: unknown, what: string): void {
    if (!isDeepStrictEqual(actual, expected)) {
      throw new CheckFailure(`${what}: found ${show(actual)}, needed ${show(expected)}`);
    }
  },

  oneOf(actual: unknown, allowed: readonly unknown[], what: string): void {
    if (!allowed.some((one) => isDeepStrictEqual(one, actual))) {
      throw new CheckFailure(`${what}: found ${show(actual)}, needed one of ${allowed.map(show).join(', ')}`);
    }
  },

  /** Whole byte strings; the message names the first difference. */
  bytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
    if (actual.length !== expected.length) {
      throw new CheckFailure(`${what}: found ${actual.length} bytes, needed ${expected.length}`);
    }
    const at = actual.findIndex((byte, i) => byte !== expected[i]);
    if (at >= 0) throw new CheckFailure(`${what}: byte ${at} is ${actual[at]}, needed ${expected[at]}`);
  },

  zeroes(actual: Uint8Array, what: string): void {
    check.bytes(actual, new Uint8Array(actual.length), what);
  },
} as const;

/**
 * The status of a completion is one of `allowed` (SCT and SC; 0 is success).
 * @param what names the command in the message
 */
export function checkStatus(
  completion: { readonly code: number },
  allowed: number | readonly number[],
  what: string,
  kind: CommandKind = 'admin',
): void {
  const list = typeof allowed === 'number' ? [allowed] : allowed;
  if (list.includes(completion.code)) return;
  const needed = list.map((code) => showStatus(code, kind)).join(' or ');
  throw new CheckFailure(`${what}: found ${showStatus(completion.code, kind)}, needed ${needed}`);
}

/** @throws NotApplicable with `reason` unless the peer offers what the case is about */
export function applies(condition: boolean, reason: string): void {
  if (!condition) throw new NotApplicable(reason);
}

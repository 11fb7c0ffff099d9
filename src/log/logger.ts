/** The root logger: JSON lines on stderr, without secrets and without payloads. */
import { type DestinationStream, type Logger, pino } from 'pino';
import { ConfigError } from '../util/error.ts';

export type { Logger } from 'pino';

/** Keys that authenticate or encrypt; also one level down, in any parent. */
const SECRETS = ['psk', 'dhchapKey', 'dhchapCtrlKey', 'tlsKey'];
const REDACTED: readonly string[] = SECRETS.flatMap((key) => [key, `*.${key}`]);

export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export const LOG_LEVEL_VARIABLE = 'NVMEFERRY_LOG_LEVEL';
const LEVEL_DEFAULT = 'info';
const STDERR = 2;

/** @public */
export interface LoggerOptions {
  /** Default: the environment variable NVMEFERRY_LOG_LEVEL, else `info`. */
  readonly level?: string | undefined;
  readonly env?: NodeJS.ProcessEnv | undefined;
  /** Default: stderr, written at once. */
  readonly destination?: DestinationStream | undefined;
}

/** @throws ConfigError if the level is none of LOG_LEVELS @public */
export function createLogger(options: LoggerOptions = {}): Logger {
  const env = options.env ?? process.env;
  const fromEnv = env[LOG_LEVEL_VARIABLE] === '' ? undefined : env[LOG_LEVEL_VARIABLE];
  const level = options.level ?? fromEnv ?? LEVEL_DEFAULT;
  if (!(LOG_LEVELS as readonly string[]).includes(level)) {
    const place = options.level === undefined ? LOG_LEVEL_VARIABLE : 'Log level';
    throw new ConfigError(`${place}: found ${JSON.stringify(level)}; allowed: ${LOG_LEVELS.join(', ')}`);
  }
  return pino(
    {
      level,
      base: null,
      redact: { paths: [...REDACTED], censor: '[redacted]' },
      formatters: { level: (label) => ({ level: label }), log: withoutPayload },
    },
    options.destination ?? pino.destination({ fd: STDERR, sync: true }),
  );
}

/** Data blocks do not belong into logs: bytes are replaced by their number, at the top and one level down. */
function withoutPayload(object: Record<string, unknown>): Record<string, unknown> {
  return replaced(object, true);
}

function replaced(object: Record<string, unknown>, deeper: boolean): Record<string, unknown> {
  let copy: Record<string, unknown> | undefined;
  for (const [key, value] of Object.entries(object)) {
    let safe: unknown = value;
    if (isBytes(value)) safe = `[${value.byteLength} bytes]`;
    else if (Array.isArray(value) && value.some(isBytes))
      safe = value.map((item) => (isBytes(item) ? `[${item.byteLength} bytes]` : item));
    else if (deeper && isPlain(value)) safe = replaced(value, false);
    if (safe === value) continue;
    copy ??= { ...object };
    copy[key] = safe;
  }
  return copy ?? object;
}

function isBytes(value: unknown): value is ArrayBufferView | ArrayBufferLike {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer || value instanceof SharedArrayBuffer;
}

/** Errors and class instances keep to their serializers. */
function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** `nvme+tcp://host:port/subnqn?nsid=1&hdgst=1`: everything that names a controller or a namespace, in one argument. */
import { DISCOVERY_NQN, DISCOVERY_PORT, NVMEOF_PORT } from '../spec/nqn.ts';
import { ConfigError } from '../util/error.ts';
import type { HostOptions } from './options.ts';

/** What a URI says; only `address` is always there. @public */
export interface NvmeUri extends Partial<HostOptions> {
  readonly address: string;
  readonly nsid?: number;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type Field = keyof NvmeUri;

/** Query parameters: nvme-cli's option names, and the field each sets. */
const NUMBERS: Readonly<Record<string, Field>> = {
  nsid: 'nsid',
  'nr-io-queues': 'ioQueues',
  'queue-size': 'queueSize',
  'keep-alive-tmo': 'katoMs',
  'reconnect-delay': 'reconnectDelayMs',
  'ctrl-loss-tmo': 'ctrlLossTimeoutMs',
  'fast-io-fail-tmo': 'fastIoFailTimeoutMs',
  cntlid: 'cntlid',
};
/** Given in seconds, as nvme-cli does; -1 is never. */
const SECONDS: ReadonlySet<string> = new Set([
  'keep-alive-tmo',
  'reconnect-delay',
  'ctrl-loss-tmo',
  'fast-io-fail-tmo',
]);
const BOOLEANS: Readonly<Record<string, Field>> = {
  hdgst: 'headerDigest',
  'hdr-digest': 'headerDigest',
  ddgst: 'dataDigest',
  'data-digest': 'dataDigest',
  'disable-sqflow': 'disableSqFlow',
};
const TEXTS: Readonly<Record<string, Field>> = { hostnqn: 'hostnqn', hostid: 'hostid' };
const PARAMETERS = [...Object.keys(NUMBERS), ...Object.keys(BOOLEANS), ...Object.keys(TEXTS)];

/** Whether a text means to be such a URI. */
export const isNvmeUri = (text: string): boolean => /^nvme\+[a-z]+:\/\//i.test(text);

/** @throws ConfigError naming the part, what was found, what is allowed @public */
export function parseNvmeUri(text: string): NvmeUri {
  const match = /^nvme\+([a-z]+):\/\/(.*)$/is.exec(text);
  if (match === null) throw new ConfigError(`URI ${JSON.stringify(text)} does not start with nvme+tcp://`);
  if (match[1]!.toLowerCase() !== 'tcp') throw new ConfigError(`URI transport is ${match[1]}, supported is tcp`);
  let url: URL;
  try {
    url = new URL(`http://${match[2]}`);
  } catch (cause) {
    throw new ConfigError(`URI ${JSON.stringify(text)} is malformed; it should read nvme+tcp://host:port/subnqn`, {
      cause,
    });
  }
  if (url.username !== '' || url.password !== '')
    throw new ConfigError('URI contains a user or password, none is used');
  const subnqn = decodeURIComponent(url.pathname.slice(1));
  const uri: Mutable<NvmeUri> = { address: url.hostname.replace(/^\[|\]$/g, '') };
  // http's own default port vanishes when parsed
  const port = url.port === '' ? (/^[^/?]*:80(?:[/?]|$)/.test(match[2]!) ? '80' : '') : url.port;
  if (port !== '') uri.port = Number(port);
  if (subnqn !== '') uri.subnqn = subnqn;
  for (const [name, value] of url.searchParams) setParameter(uri, name, value);
  return uri;
}

function setParameter(uri: Mutable<NvmeUri>, name: string, value: string): void {
  const fields = uri as Record<string, unknown>;
  if (NUMBERS[name] !== undefined) {
    fields[NUMBERS[name]] = parseNumber(name, value);
  } else if (BOOLEANS[name] !== undefined) {
    if (!/^(?:0|1|true|false|)$/.test(value))
      throw new ConfigError(`URI parameter ${name} is ${value}, allowed are 0 and 1`);
    fields[BOOLEANS[name]] = value !== '0' && value !== 'false';
  } else if (TEXTS[name] !== undefined) {
    fields[TEXTS[name]] = value;
  } else {
    throw new ConfigError(`URI parameter ${name} is not known, allowed are ${PARAMETERS.join(', ')}`);
  }
}

function parseNumber(name: string, value: string): number {
  const number = /^-?(?:\d+(?:\.\d+)?|0x[0-9a-f]+)$/i.test(value) ? Number(value) : Number.NaN;
  if (!SECONDS.has(name)) {
    if (!Number.isInteger(number) || number < 0)
      throw new ConfigError(`URI parameter ${name} is ${value}, a number is needed`);
    return number;
  }
  if (Number.isNaN(number) || (number < 0 && number !== -1)) {
    throw new ConfigError(`URI parameter ${name} is ${value}, seconds are needed`);
  }
  return number === -1 ? Number.POSITIVE_INFINITY : number * 1000;
}

/** The URI of a controller, or of a namespace if `nsid` is given. @public */
export function formatNvmeUri(uri: { address: string; port?: number; subnqn?: string; nsid?: number }): string {
  const host = uri.address.includes(':') ? `[${uri.address}]` : uri.address;
  const port = uri.port ?? (uri.subnqn === DISCOVERY_NQN ? DISCOVERY_PORT : NVMEOF_PORT);
  const query = uri.nsid === undefined ? '' : `?nsid=${uri.nsid}`;
  return `nvme+tcp://${host}:${port}/${encodeURI(uri.subnqn ?? '')}${query}`;
}

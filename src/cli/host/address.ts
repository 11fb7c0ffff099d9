/** Which controller and namespace a verb is about: a URI, or nvme-cli's flags, or both (flags win). */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { HostOptions } from '../../initiator/options.ts';
import { isNvmeUri, type NvmeUri, parseNvmeUri } from '../../initiator/uri.ts';
import { DISCOVERY_NQN } from '../../spec/nqn.ts';
import { ConfigError } from '../../util/error.ts';
import { isDevicePath, nsidOfDevice } from './local-device.ts';

/** What commander makes of the flags below. */
export interface AddressFlags {
  transport?: string;
  traddr?: string;
  trsvcid?: number;
  nqn?: string;
  namespaceId?: number;
  hostnqn?: string;
  hostid?: string;
  hdrDigest?: boolean;
  dataDigest?: boolean;
  disableSqflow?: boolean;
  nrIoQueues?: number;
  queueSize?: number;
  keepAliveTmo?: number;
  reconnectDelay?: number;
  ctrlLossTmo?: number;
  fastIoFailTmo?: number;
  path?: PathAddress[];
  cntlid?: number;
  timeout?: number;
  output: OutputFormat;
}
export type OutputFormat = 'text' | 'json';

/** Where else the subsystem is: `--path`. */
export interface PathAddress {
  readonly address: string;
  readonly port: number | undefined;
}

/** `10.0.0.2`, `storage-b:4421`, `[fe80::1]:4420`; one more of a list. */
function parsePath(text: string, before: PathAddress[] = []): PathAddress[] {
  const match = /^(?:\[([^\]]+)\]|([^:[\]/]+))(?::(\d{1,5}))?$/.exec(text);
  const port = match?.[3] === undefined ? undefined : Number(match[3]);
  if (match === null || port === 0 || (port ?? 0) > 65_535) {
    throw new InvalidArgumentError('An address is needed, such as 10.0.0.2, storage-b:4421 or [fe80::1]:4420.');
  }
  return [...before, { address: (match[1] ?? match[2])!, port }];
}

/** A whole number, decimal or 0x hex. */
export function parseInteger(text: string): number {
  const value = /^(?:\d+|0x[0-9a-f]+)$/i.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('A whole number is needed, such as 4096 or 0x1000.');
  return value;
}

/** Seconds as nvme-cli takes them: -1 is never. */
function parseSeconds(text: string): number {
  const value = /^-?\d+(?:\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value) || (value < 0 && value !== -1)) {
    throw new InvalidArgumentError('Seconds are needed, or -1 for never.');
  }
  return value;
}

/** Bytes: 4096, 4k, 1MiB. */
export function parseBytes(text: string): number {
  const match = /^(\d+)([kmg]?)(?:i?b)?$/i.exec(text);
  const value = match === null ? Number.NaN : Number(match[1]) * 1024 ** ' kmg'.indexOf(match[2]!.toLowerCase() || ' ');
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('A size is needed, such as 4096, 4k or 1m.');
  return value;
}

/** `-s, --name`, or `--name` alone where the verb itself uses the letter, as nvme-cli does. */
const flag = (letter: string, name: string, taken: string): string =>
  taken.includes(letter) ? `--${name}` : `-${letter}, --${name}`;

/**
 * Adds the positional URI and the flags that address a controller.
 * @param taken letters that the verb's own options use
 * @param io the verb moves data: it takes the options of I/O queues
 * @param ownsCntlid `--cntlid` is an option of the verb itself
 */
export function addAddress(command: Command, taken = '', io = false, ownsCntlid = false): Command {
  command
    .argument('[uri]', 'nvme+tcp://host:port/subnqn?nsid=1, or for many verbs a local /dev/nvme0')
    .option(flag('t', 'transport <type>', taken), 'transport type: tcp')
    .option(flag('a', 'traddr <address>', taken), 'address of the controller')
    .option(flag('s', 'trsvcid <port>', taken), 'TCP port', parseInteger)
    .option(flag('n', 'nqn <nqn>', taken), 'NQN of the subsystem')
    .option(flag('N', 'namespace-id <nsid>', taken), 'namespace', parseInteger)
    .option(flag('q', 'hostnqn <nqn>', taken), 'NQN of this host')
    .option(flag('I', 'hostid <uuid>', taken), 'identifier of this host')
    .option(flag('g', 'hdr-digest', taken), 'header digests')
    .option(flag('G', 'data-digest', taken), 'data digests')
    .option(flag('k', 'keep-alive-tmo <seconds>', taken), 'keep alive time-out', parseSeconds)
    .option('--timeout <ms>', 'for each command', parseInteger);
  if (!ownsCntlid) command.option('--cntlid <id>', 'controller to ask for (static controllers)', parseInteger);
  if (io) {
    command
      .option('--disable-sqflow', 'disable SQ flow control')
      .option(flag('i', 'nr-io-queues <n>', taken), 'I/O queues', parseInteger)
      .option(flag('Q', 'queue-size <n>', taken), 'entries of an I/O queue', parseInteger)
      .option(flag('c', 'reconnect-delay <seconds>', taken), 'between attempts to reconnect', parseSeconds)
      .option(flag('l', 'ctrl-loss-tmo <seconds>', taken), 'give up after (-1: never)', parseSeconds)
      .option('--fast-io-fail-tmo <seconds>', 'fail waiting I/O after (-1: never)', parseSeconds)
      .option('--path <address[:port]>', 'another way to the subsystem, repeatable: I/O uses all of them', parsePath);
  }
  const formats = ['text', 'normal', 'json'];
  return command
    .addOption(
      new Option(flag('o', 'output <format>', taken), 'output format')
        .choices(formats)
        .argParser((format: string) => {
          if (!formats.includes(format)) throw new InvalidArgumentError(`Allowed choices are ${formats.join(', ')}.`);
          return format === 'json' ? 'json' : 'text';
        })
        .default('text'),
    )
    .addOption(new Option('--output-format <format>', 'as --output').choices(formats).hideHelp())
    .hook('preAction', (_, action) => {
      const other = action.opts<{ outputFormat?: string }>().outputFormat;
      if (other !== undefined) action.setOptionValue('output', other === 'json' ? 'json' : 'text');
    });
}

export interface Address {
  readonly options: HostOptions;
  readonly nsid: number | undefined;
  /** Every way to the subsystem, if `--path` names more than one. */
  readonly paths: readonly HostOptions[];
}

/** Verbs that a local device serves as well. */
const LOCAL_VERBS: ReadonlySet<string> = new Set([
  ...['id-ctrl', 'id-ns', 'list-ns', 'smart-log', 'error-log', 'fw-log', 'effects-log', 'get-log'],
  ...['get-feature', 'set-feature', 'admin-passthru', 'io-passthru', 'lm'],
]);

/** The path stands where the address of a controller would. */
function localAddress(path: string, flags: AddressFlags): Address {
  const options: HostOptions = { address: path, subnqn: '', adminTimeoutMs: flags.timeout };
  return { options, nsid: flags.namespaceId ?? nsidOfDevice(path), paths: [options] };
}

const milliseconds = (seconds: number | undefined): number | undefined =>
  seconds === undefined ? undefined : seconds === -1 ? Number.POSITIVE_INFINITY : seconds * 1000;

/**
 * @param verb for messages
 * @param defaultNqn where a verb has a default subsystem
 * @throws ConfigError naming what is missing or wrong
 */
export function resolveAddress(
  verb: string,
  uriText: string | undefined,
  flags: AddressFlags,
  defaultNqn?: string,
): Address {
  if (uriText !== undefined && isDevicePath(uriText) && LOCAL_VERBS.has(verb.split(' ')[0]!))
    return localAddress(uriText, flags);
  if (uriText !== undefined && !isNvmeUri(uriText)) {
    const hint = isDevicePath(uriText)
      ? '; a local device is served as well by id-ctrl, get-log, admin-passthru...'
      : '';
    throw new ConfigError(`${verb}: found ${JSON.stringify(uriText)}, needed is nvme+tcp://host:port/subnqn${hint}`);
  }
  if (flags.transport !== undefined && flags.transport !== 'tcp') {
    throw new ConfigError(`--transport: found ${flags.transport}, allowed is tcp`);
  }
  const uri: NvmeUri = uriText === undefined ? { address: '' } : parseNvmeUri(uriText);
  const address = flags.traddr ?? uri.address;
  if (address === '') {
    throw new ConfigError(
      `${verb}: no controller is named; give nvme+tcp://host:port/subnqn, or -a ADDRESS and -n NQN`,
    );
  }
  const subnqn = flags.nqn ?? uri.subnqn ?? defaultNqn;
  if (subnqn === undefined) {
    throw new ConfigError(
      `${verb}: no subsystem is named; give nvme+tcp://host:port/SUBNQN or --nqn ('discover' lists them)`,
    );
  }
  const { nsid, ...fromUri } = uri;
  const options: HostOptions = {
    ...fromUri,
    address,
    subnqn,
    port: flags.trsvcid ?? uri.port,
    hostnqn: flags.hostnqn ?? uri.hostnqn,
    hostid: flags.hostid ?? uri.hostid,
    headerDigest: flags.hdrDigest ?? uri.headerDigest,
    dataDigest: flags.dataDigest ?? uri.dataDigest,
    disableSqFlow: flags.disableSqflow ?? uri.disableSqFlow,
    ioQueues: flags.nrIoQueues ?? uri.ioQueues,
    queueSize: flags.queueSize ?? uri.queueSize,
    katoMs: milliseconds(flags.keepAliveTmo) ?? uri.katoMs,
    reconnectDelayMs: milliseconds(flags.reconnectDelay) ?? uri.reconnectDelayMs,
    ctrlLossTimeoutMs: milliseconds(flags.ctrlLossTmo) ?? uri.ctrlLossTimeoutMs,
    fastIoFailTimeoutMs: milliseconds(flags.fastIoFailTmo) ?? uri.fastIoFailTimeoutMs,
    cntlid: flags.cntlid ?? uri.cntlid,
    adminTimeoutMs: flags.timeout,
    ioTimeoutMs: flags.timeout,
  };
  const paths = [options, ...(flags.path ?? []).map((path) => ({ ...options, ...path }))];
  return { options, nsid: flags.namespaceId ?? nsid, paths };
}

export const isDiscovery = (options: HostOptions): boolean => options.subnqn === DISCOVERY_NQN;

/** Runs what `nvmeferry target` and `nvmeferry dpu` serve: from configuration to the last signal. */
import { configFromFlags, type TargetFlags } from '../config/flags.ts';
import { loadConfig } from '../config/load.ts';
import type { TargetConfig } from '../config/types.ts';
import { formatSize } from '../config/values.ts';
import { createLogger } from '../log/logger.ts';
import { TargetService } from '../service/target-service.ts';
import { ConfigError } from '../util/error.ts';
import { CRC32C_IMPLEMENTATION } from '../wire/crc32c.ts';
import { endSignal } from './end-signal.ts';

export interface ServeOptions extends TargetFlags {
  config?: string;
  output: 'text' | 'json';
}

/** Options that were not given stay out of the flags, so that the defaults of the configuration apply. */
function flagsOf(options: ServeOptions): TargetFlags {
  const { config: _config, output: _output, ...flags } = options;
  return Object.fromEntries(
    Object.entries(flags).filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)),
  ) as TargetFlags;
}

async function read(options: ServeOptions): Promise<TargetConfig> {
  const flags = flagsOf(options);
  if (options.config === undefined) return configFromFlags(flags);
  const { logLevel, ...others } = flags;
  const given = Object.keys(others);
  if (given.length > 0) {
    const names = given.map((name) => `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`);
    throw new ConfigError(
      `--config: found together with ${names.join(', ')}; allowed: the file alone, with --log-level and --output`,
    );
  }
  const config = await loadConfig(options.config);
  return logLevel === undefined ? config : { ...config, log: { level: logLevel } };
}

/** Runs a target until it is told to end. @param extra lines for people, about what is served */
export async function serve(
  options: ServeOptions,
  extra: (config: TargetConfig) => string[] = () => [],
): Promise<void> {
  const config = await read(options);
  const lines = extra(config);
  const log = createLogger({ level: config.log.level });
  const service = await TargetService.start({ config, log });
  log.info({ crc32c: CRC32C_IMPLEMENTATION }, 'Target started');
  const served = ready(service);
  // whoever reads that it is ready may send a signal at once
  process.on('SIGHUP', () => void reload(service, options));
  const ended = endSignal();
  say(options, served, readyText(served, lines));
  const signal = await ended;
  say(options, { event: 'draining', signal }, `${signal}: finishing what runs`);
  const cutOff = await service.close();
  say(
    options,
    { event: 'ended', commandsCutOff: cutOff },
    cutOff === 0 ? 'ended' : `ended; ${cutOff} commands were cut off`,
  );
}

async function reload(service: TargetService, options: ServeOptions): Promise<void> {
  if (options.config === undefined) {
    say(options, { event: 'reloaded', changed: false }, 'SIGHUP: there is no configuration file to read again');
    return;
  }
  try {
    const report = await service.reload(await read(options));
    say(options, { event: 'reloaded', ...report }, report.changed ? 'reloaded' : 'reloaded: nothing to change');
    for (const line of report.restart) say(options, undefined, `waits for a restart: ${line}`);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    say(options, { event: 'reload-failed', message }, `reload failed, the target runs on as before: ${message}`);
  }
}

/** One line on stdout: the object as JSON, or the text. */
function say(options: ServeOptions, event: object | undefined, text: string): void {
  if (options.output === 'text') process.stdout.write(`${text}\n`);
  else if (event !== undefined) process.stdout.write(`${JSON.stringify(event)}\n`);
}

interface Ready {
  readonly event: 'ready';
  readonly subsystems: readonly {
    nqn: string;
    namespaces: { nsid: number; kind: string; bytes: number; blockSize: number }[];
  }[];
  /** Controllers behind PCIe. */
  readonly functions?: readonly { socket: string; subsystem: string }[];
  readonly ports: readonly { portId: number; address: string; service: number; subsystems: readonly string[] }[];
  readonly metrics?: { readonly address: string; readonly service: number };
}

function ready(service: TargetService): Ready {
  return {
    event: 'ready',
    subsystems: [...service.target.subsystems].map((subsystem) => ({
      nqn: subsystem.nqn,
      namespaces: subsystem.allocatedNamespaces().map(({ nsid, backend, blockSize, blockCount }) => ({
        nsid,
        kind: backend.kind,
        bytes: blockSize * blockCount,
        blockSize,
      })),
    })),
    ...(service.config.functions === undefined
      ? {}
      : { functions: service.config.functions.map(({ vfioUser, subsystem }) => ({ socket: vfioUser, subsystem })) }),
    ports: [...service.target.ports].map((port) => ({
      portId: port.portId,
      address: port.options.address,
      service: port.service,
      subsystems: port.subsystems,
    })),
    ...(service.metrics === undefined ? {} : { metrics: service.metrics }),
  };
}

/** What is served, and the line to copy for each place it is served at. */
function readyText({ subsystems, ports, metrics }: Ready, extra: readonly string[]): string {
  const lines = subsystems.flatMap(({ nqn, namespaces }) => [
    `subsystem ${nqn}`,
    ...namespaces.map(
      ({ nsid, kind, bytes, blockSize }) =>
        `  namespace ${nsid}: ${kind}, ${formatSize(bytes)}, ${blockSize}-byte blocks`,
    ),
    ...ports
      .filter((port) => port.subsystems.includes('*') || port.subsystems.includes(nqn))
      .map((port) => `  nvme connect -t tcp -a ${port.address} -s ${port.service} -n ${nqn}`),
  ]);
  const discovery = ports.filter((port) => port.subsystems.length === 0);
  lines.push(
    ...discovery.map((port) => `discovery: nvme discover -t tcp -a ${port.address} -s ${port.service}`),
    ...(metrics === undefined ? [] : [`metrics: http://${urlHost(metrics.address)}:${metrics.service}/metrics`]),
    ...extra,
    'ready',
  );
  return lines.join('\n');
}

const urlHost = (address: string): string => (address.includes(':') ? `[${address}]` : address);

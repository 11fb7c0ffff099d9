/** `nvmeferry target`: serves namespaces until it is told to end. */
import { type Command, Option } from 'commander';
import { configFromFlags, type TargetFlags } from '../config/flags.ts';
import { loadConfig } from '../config/load.ts';
import type { TargetConfig } from '../config/types.ts';
import { formatSize } from '../config/values.ts';
import { createLogger, LOG_LEVELS } from '../log/logger.ts';
import { TargetService } from '../service/target-service.ts';
import { ConfigError } from '../util/error.ts';
import { CRC32C_IMPLEMENTATION } from '../wire/crc32c.ts';

const collect = (value: string, list: string[]): string[] => [...list, value];

interface TargetOptions extends TargetFlags {
  config?: string;
  output: 'text' | 'json';
}

export function registerTargetCommand(program: Command): void {
  program
    .command('target')
    .description('serve namespaces over NVMe/TCP (default: one 1 GiB memory namespace on loopback)')
    .option('-c, --config <file>', 'YAML or JSON, or a file saved by nvmetcli; SIGHUP reads it again')
    .option('-l, --listen <address[:port]>', 'where hosts connect, repeatable (default 127.0.0.1:4420)', collect, [])
    .option('--subsystem <nqn>', 'NQN of the subsystem')
    .option('--memory <size[,opt...]>', 'memory namespace, e.g. 1GiB,blockSize=512; repeatable', collect, [])
    .option('--file <path[,opt...]>', 'file namespace, e.g. disk.img,size=10GiB; repeatable', collect, [])
    .option('--nvme <device[,opt...]>', "a local SSD's namespace, e.g. /dev/ng0n1; repeatable", collect, [])
    .option('--remote <uri[,opt...]>', "another target's namespace: nvme+tcp://host:port/nqn?nsid=1", collect, [])
    .option('--null <size[,opt...]>', 'namespace that drops what is written; repeatable', collect, [])
    .option('--discovery <address[:port]|off>', 'discovery service (default port 8009 of the first address)')
    .option('--discovery-nqn <nqn>', "NQN of the discovery subsystem (default: made from this machine's identity)")
    .option('--mdns', 'publish the discovery service by multicast DNS')
    .option('--host <nqn>', 'host that may connect, repeatable (default: any host)', collect, [])
    .option('--serial <text>', 'serial number')
    .option('--model <text>', 'model number')
    .option('--max-queues <n>', 'I/O queues of one controller', Number)
    .option('--max-queue-size <n>', 'entries of one I/O queue', Number)
    .option('--in-capsule-data-size <size>', 'data that a command capsule may carry')
    .option('--max-h2c-data <size>', 'MAXH2CDATA')
    .addOption(new Option('--header-digest <policy>', 'header digests when the host asks').choices(['allow', 'refuse']))
    .addOption(new Option('--data-digest <policy>', 'data digests when the host asks').choices(['allow', 'refuse']))
    .option('--state-directory <dir>', 'where reservations and other state survive a restart (default: nowhere)')
    .addOption(
      new Option('--io-engine <engine>', 'who does the I/O of files and devices').choices([
        'auto',
        'io_uring',
        'thread-pool',
        'node',
      ]),
    )
    .addOption(new Option('--log-level <level>', 'what goes to stderr').choices([...LOG_LEVELS]))
    .addOption(new Option('-o, --output <format>', 'what is said on stdout').choices(['text', 'json']).default('text'))
    .action(async (options: TargetOptions) => run(options));
}

/** Options that were not given stay out of the flags, so that the defaults of the configuration apply. */
function flagsOf(options: TargetOptions): TargetFlags {
  const { config: _config, output: _output, ...flags } = options;
  return Object.fromEntries(
    Object.entries(flags).filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0)),
  ) as TargetFlags;
}

async function read(options: TargetOptions): Promise<TargetConfig> {
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

async function run(options: TargetOptions): Promise<void> {
  const config = await read(options);
  const log = createLogger({ level: config.log.level });
  const service = await TargetService.start({ config, log });
  log.info({ crc32c: CRC32C_IMPLEMENTATION }, 'Target started');
  const served = ready(service);
  // whoever reads that it is ready may send a signal at once
  process.on('SIGHUP', () => void reload(service, options));
  const ended = endSignal();
  say(options, served, readyText(served));
  const signal = await ended;
  say(options, { event: 'draining', signal }, `${signal}: finishing what runs`);
  const cutOff = await service.close();
  say(
    options,
    { event: 'ended', commandsCutOff: cutOff },
    cutOff === 0 ? 'ended' : `ended; ${cutOff} commands were cut off`,
  );
}

/** The second signal ends at once. */
function endSignal(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        resolve(signal);
        process.on(signal, () => process.exit(130));
      });
    }
  });
}

async function reload(service: TargetService, options: TargetOptions): Promise<void> {
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
function say(options: TargetOptions, event: object | undefined, text: string): void {
  if (options.output === 'text') process.stdout.write(`${text}\n`);
  else if (event !== undefined) process.stdout.write(`${JSON.stringify(event)}\n`);
}

interface Ready {
  readonly event: 'ready';
  readonly subsystems: readonly {
    nqn: string;
    namespaces: { nsid: number; kind: string; bytes: number; blockSize: number }[];
  }[];
  readonly ports: readonly { portId: number; address: string; service: number; subsystems: readonly string[] }[];
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
    ports: [...service.target.ports].map((port) => ({
      portId: port.portId,
      address: port.options.address,
      service: port.service,
      subsystems: port.subsystems,
    })),
  };
}

/** What is served, and the line to copy for each place it is served at. */
function readyText({ subsystems, ports }: Ready): string {
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
    'ready',
  );
  return lines.join('\n');
}

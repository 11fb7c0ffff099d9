/** A target's configuration from command-line flags; without any, a target to try things out with. */
import type { EngineChoice } from '../backend/open.ts';
import { ConfigError } from '../util/error.ts';
import { DEFAULTS, DEMO_NAMESPACE_BYTES, DEMO_NQN } from './defaults.ts';
import { ConfigIssue, type Path, wrong } from './issue.ts';
import { normalize } from './normalize.ts';
import type {
  BackendInput,
  DigestInput,
  DiscoveryInput,
  FunctionInput,
  LogLevel,
  NamespaceInput,
  PortInput,
  SubsystemInput,
  TargetConfig,
} from './types.ts';
import { validateShape } from './validate.ts';
import { parseEndpoint } from './values.ts';

/** What the flags of `nvmeferry target` hold, unchecked. Names in messages are those of the flags. @public */
export interface TargetFlags {
  /** `ADDRESS[:PORT]`, each a port. Default 127.0.0.1:4420. */
  listen?: readonly string[];
  /** NQN of the subsystem. */
  subsystem?: string;
  /** `SIZE[,blockSize=N][,nsid=N][,uuid=U][,readOnly][,closed]`, each a namespace. */
  memory?: readonly string[];
  /** `PATH[,size=SIZE][,...]` */
  file?: readonly string[];
  /** `PATH[,force][,...]`: namespaces of local SSDs. */
  nvme?: readonly string[];
  /** `URI[,path=ADDRESS[:PORT]][,...]`: namespaces of other targets. */
  remote?: readonly string[];
  /** The same; `nvmeferry dpu` calls it so. */
  connect?: readonly string[];
  /** `SIZE[,...]` */
  null?: readonly string[];
  /** `ADDRESS[:PORT]` or `off`. Default: port 8009 of the first address. */
  discovery?: string;
  /** NQN of the discovery subsystem. */
  discoveryNqn?: string;
  /** Publish the discovery service by multicast DNS. */
  mdns?: boolean;
  /** NQNs of the hosts that may connect. Default: any. */
  host?: readonly string[];
  /** Sockets of controllers behind PCIe; `nvmeferry dpu`. */
  vfioUser?: readonly string[];
  /** Of each such controller. */
  vectors?: number;
  queues?: number;
  dmaByMessage?: boolean;
  serial?: string;
  model?: string;
  maxQueues?: number;
  maxQueueSize?: number;
  inCapsuleDataSize?: string;
  maxH2cData?: string;
  headerDigest?: DigestInput;
  dataDigest?: DigestInput;
  /** Directory for what must outlive the process. Default: nothing does. */
  stateDirectory?: string;
  ioEngine?: EngineChoice;
  /** `ADDRESS[:PORT]`. Default: no metrics. */
  metrics?: string;
  logLevel?: LogLevel;
}

/**
 * @throws ConfigError one line: the flag, what was found, what is allowed
 * @public
 */
export function configFromFlags(flags: TargetFlags = {}): TargetConfig {
  const names: FlagNames = { listen: [], namespaces: [], functions: [] };
  try {
    const input = {
      subsystems: [subsystemOf(flags, names)],
      ports: portsOf(flags, names),
      ...functionsOf(flags, names),
      ...given({ stateDirectory: flags.stateDirectory, ioEngine: flags.ioEngine }),
      ...metricsOf(flags),
      ...discoveryOf(flags),
      ...(flags.logLevel === undefined ? {} : { log: { level: flags.logLevel } }),
    };
    validateShape(input);
    return normalize(input, { baseDirectory: process.cwd() });
  } catch (error) {
    if (!(error instanceof ConfigIssue)) throw error;
    const other = error.other === undefined ? '' : ` (by ${flagOf(error.other, names)})`;
    throw new ConfigError(`${flagOf(error.path, names)}: ${error.message}${other}`, { cause: error });
  }
}

/** Which flag each list entry came from. */
interface FlagNames {
  readonly listen: string[];
  readonly namespaces: string[];
  readonly functions: string[];
}

function subsystemOf(flags: TargetFlags, names: FlagNames): SubsystemInput {
  const namespaces: NamespaceInput[] = [];
  for (const flag of ['memory', 'file', 'nvme', 'remote', 'connect', 'null'] as const) {
    for (const spec of flags[flag] ?? []) {
      names.namespaces.push(`--${flag} ${spec}`);
      namespaces.push(namespaceOf(flag === 'connect' ? 'remote' : flag, `--${flag}`, spec));
    }
  }
  if (namespaces.length === 0) {
    names.namespaces.push('--memory');
    namespaces.push({ backend: { type: 'memory', size: DEMO_NAMESPACE_BYTES } });
  }
  return {
    nqn: flags.subsystem ?? DEMO_NQN,
    namespaces,
    ...given({ hosts: flags.host?.slice(), serial: flags.serial, model: flags.model, maxQueues: flags.maxQueues }),
    // hosts of the network manage the controllers of the VMs
    ...(flags.vfioUser !== undefined && (flags.listen?.length ?? 0) > 0
      ? { migration: { managers: { ports: flags.listen!.map((_, i) => i + 1) } } }
      : {}),
  };
}

function functionsOf(flags: TargetFlags, names: FlagNames): { functions?: FunctionInput[] } {
  const { vfioUser, vectors, queues, dmaByMessage } = flags;
  if (vfioUser === undefined) return {};
  return {
    functions: vfioUser.map((path) => {
      names.functions.push(`--vfio-user ${path}`);
      return { vfioUser: path, ...given({ vectors, queues, dmaByMessage }) };
    }),
  };
}

function portsOf(flags: TargetFlags, names: FlagNames): PortInput[] {
  const { address, service } = DEFAULTS.port;
  const listen = flags.listen ?? (flags.vfioUser === undefined ? [`${address}:${service}`] : []);
  return listen.map((text) => {
    names.listen.push(`--listen ${text}`);
    return {
      ...parseEndpoint(text, ['--listen'], { address, service }),
      ...given({
        maxQueueSize: flags.maxQueueSize,
        inCapsuleDataSize: flags.inCapsuleDataSize,
        maxH2cData: flags.maxH2cData,
        headerDigest: flags.headerDigest,
        dataDigest: flags.dataDigest,
      }),
    };
  });
}

function discoveryOf({ discovery, discoveryNqn, mdns, vfioUser }: TargetFlags): { discovery?: 'off' | DiscoveryInput } {
  const { address } = DEFAULTS.port;
  const more = given({ nqn: discoveryNqn, mdns });
  if (discovery === 'off') {
    if (mdns === true)
      wrong(['--mdns'], '--discovery off', 'a discovery service to publish: an address, or none given');
    return { discovery: 'off' };
  }
  if (discovery === undefined && vfioUser !== undefined) return { discovery: 'off' };
  if (discovery === undefined) return Object.keys(more).length === 0 ? {} : { discovery: more };
  const at = parseEndpoint(discovery, ['--discovery'], { address, service: DEFAULTS.discovery.service });
  return { discovery: { ...at, ...more } };
}

function metricsOf({ metrics }: TargetFlags): { metrics?: { address: string; service: number | string } } {
  if (metrics === undefined) return {};
  return { metrics: parseEndpoint(metrics, ['--metrics'], DEFAULTS.metrics) };
}

/** The entries that are there. */
function given<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

// ---- namespaces ------------------------------------------------------------------------------------------------------------------

const OPTION = /^(size|blockSize|nsid|uuid|nguid|eui64|path)=(.*)$/;
const OPTIONS_ALLOWED = 'size=, blockSize=, nsid=, uuid=, nguid=, eui64=, readOnly, closed';
/** Words that stand for themselves, by kind of namespace. */
const SWITCHES = {
  memory: ['readOnly', 'closed'],
  null: ['readOnly', 'closed'],
  file: ['readOnly', 'closed', 'direct', 'force'],
  nvme: ['readOnly', 'closed', 'force', 'ioctl'],
  remote: ['readOnly', 'closed'],
} as const;

/** `VALUE,key=value,...`. The options are taken from the end, so that a path may have commas. */
function namespaceOf(type: keyof typeof SWITCHES, flag: string, spec: string): NamespaceInput {
  const path: Path = [flag];
  const parts = spec.split(',');
  const options = new Map<string, string>();
  const paths: string[] = [];
  while (parts.length > 1) {
    const last = parts.at(-1)!;
    const match = OPTION.exec(last);
    if (match?.[1] === 'path' && type === 'remote') paths.unshift(match[2]!);
    else if (match !== null && match[1] !== 'path') options.set(match[1]!, match[2]!);
    else if ((SWITCHES[type] as readonly string[]).includes(last)) options.set(last, '');
    else break;
    parts.pop();
  }
  const hasPath = type === 'file' || type === 'nvme' || type === 'remote';
  if (!hasPath && parts.length > 1) wrong(path, parts.at(-1), OPTIONS_ALLOWED);
  const value = parts.join(',');
  if (value === '')
    wrong(path, spec, type === 'remote' ? 'URI[,option...]' : hasPath ? 'PATH[,option...]' : 'SIZE[,option...]');
  const number = (key: string): number | undefined => {
    const text = options.get(key);
    if (text === undefined) return undefined;
    return /^\d{1,9}$/.test(text) ? Number(text) : wrong(path, `${key}=${text}`, `${key}=NUMBER`);
  };
  const blockSize = given({ blockSize: number('blockSize') });
  const switches = Object.fromEntries(
    ['direct', 'force', 'ioctl'].filter((name) => options.has(name)).map((name) => [name, true]),
  );
  if ((type === 'nvme' || type === 'remote') && (options.has('size') || options.has('blockSize')))
    wrong(path, spec, 'no size and no blockSize: it has its own');
  const backend: BackendInput =
    type === 'remote'
      ? { type, uri: value, ...(paths.length === 0 ? {} : { paths }) }
      : type === 'nvme'
        ? { type, path: value, ...switches }
        : type === 'file'
          ? { type, path: value, ...given({ size: options.get('size') }), ...blockSize, ...switches }
          : { type, size: value, ...blockSize };
  return {
    backend,
    ...given({
      nsid: number('nsid'),
      uuid: options.get('uuid'),
      nguid: options.get('nguid'),
      eui64: options.get('eui64'),
    }),
    ...(options.has('readOnly') ? { readOnly: true } : {}),
    ...(options.has('closed') ? { closed: true } : {}),
  };
}

// ---- messages --------------------------------------------------------------------------------------------------------------------

const FLAGS: Record<string, string> = {
  nqn: '--subsystem',
  hosts: '--host',
  maxQueues: '--max-queues',
  maxQueueSize: '--max-queue-size',
  inCapsuleDataSize: '--in-capsule-data-size',
  maxH2cData: '--max-h2c-data',
  headerDigest: '--header-digest',
  dataDigest: '--data-digest',
  stateDirectory: '--state-directory',
  ioEngine: '--io-engine',
  level: '--log-level',
};

/** The flag behind a place of the configuration that was made from the flags. */
function flagOf(path: Path, names: FlagNames): string {
  const [root, index, key, item] = path;
  if (typeof root !== 'string' || root.startsWith('--')) return String(root);
  if (key === 'namespaces' && typeof item === 'number') return names.namespaces[item] ?? '--memory';
  if (root === 'functions' && key === 'vfioUser') return names.functions[Number(index)] ?? '--vfio-user';
  const last = path.findLast((step) => typeof step === 'string') ?? '';
  if (root === 'metrics') return '--metrics';
  if (root === 'discovery') return last === 'nqn' ? '--discovery-nqn' : '--discovery';
  const flag = FLAGS[last];
  if (flag !== undefined) return flag;
  if (root === 'ports') return names.listen[Number(index)] ?? '--listen';
  return `--${last}`;
}

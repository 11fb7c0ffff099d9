/** A target's configuration: what a file or the flags say (`...Input`), and the same with every default filled in and checked. */
import type { BackendConfig, EngineChoice } from '../backend/open.ts';
import type { AnaStateName } from '../wire/cold/log-ana.ts';

export type { BackendConfig } from '../backend/open.ts';

/** Bytes as a number, or `512MiB`, `10G`. @public */
export type SizeInput = number | string;
export type DigestInput = 'allow' | 'refuse';
export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent';
export type ControllerModel = 'dynamic' | 'static';

// ---- as written ------------------------------------------------------------------------------------------------------------------

/** @public */
export interface TargetConfigInput {
  subsystems: SubsystemInput[];
  ports?: PortInput[];
  functions?: FunctionInput[];
  discovery?: DiscoveryInput | 'off' | false;
  referrals?: ReferralInput[];
  limits?: {
    connectionBuffers?: SizeInput;
    totalBuffers?: SizeInput;
    setupTimeoutMs?: number;
    drainTimeoutMs?: number;
  };
  stateDirectory?: string;
  ioEngine?: EngineChoice;
  metrics?: { address?: string; service?: number | string };
  log?: { level?: LogLevel };
}

/** @public */
export interface DiscoveryInput {
  address?: string;
  service?: number | string;
  portId?: number;
  nqn?: string;
  advertise?: AdvertiseInput;
  mdns?: boolean;
  allSubsystemsFor?: string[];
}

/** `ADDRESS`, `ADDRESS:PORT`, `:PORT`, or not at all. @public */
export type AdvertiseInput = string | false;

/** @public */
export interface SubsystemInput {
  nqn: string;
  serial?: string;
  model?: string;
  allowAnyHost?: boolean;
  hosts?: string[];
  maxQueues?: number;
  maxControllers?: number;
  cntlidMin?: number;
  cntlidMax?: number;
  controllerModel?: ControllerModel;
  ports?: number[];
  anaTransitionSeconds?: number;
  anaGroups?: AnaGroupInput[];
  migration?: { managers: { hosts?: string[]; ports?: number[] } };
  volumes?: VolumesInput;
  allowSanitize?: boolean;
  adminPassthrough?: AdminPassthroughInput;
  duplicateHosts?: DuplicateHostsConfig;
  namespaces?: NamespaceInput[];
}

/** What goes to the local SSDs below as it came. @public */
export interface AdminPassthroughInput {
  opcodes?: number[];
  logPages?: number[];
}

/** @public */
export interface NamespaceInput {
  nsid?: number;
  backend: BackendInput;
  uuid?: string;
  nguid?: string;
  eui64?: string;
  readOnly?: boolean;
  hosts?: string[];
  allowShrink?: boolean;
  closed?: boolean;
  anagrpid?: number;
}

/** @public */
export interface AnaGroupInput {
  anagrpid: number;
  /** By port id. */
  states: Record<string, AnaStateName>;
}

/** @public */
export type BackendInput =
  | { type: 'memory' | 'null'; size: SizeInput; blockSize?: number }
  | { type: 'file'; path: string; size?: SizeInput; blockSize?: number; direct?: boolean; force?: boolean }
  | { type: 'nvme'; path: string; force?: boolean; ioctl?: boolean }
  | { type: 'remote'; uri: string; paths?: string[] };

/** Where hosts create namespaces. @public */
export type VolumesInput =
  | { type: 'memory'; capacity: SizeInput }
  | { type: 'file'; directory: string; capacity: SizeInput };

/** @public */
export interface PortInput {
  portId?: number;
  address?: string;
  service?: number | string;
  subsystems?: string[];
  advertise?: AdvertiseInput;
  inCapsuleDataSize?: SizeInput;
  maxH2cData?: SizeInput;
  maxQueueSize?: number;
  headerDigest?: DigestInput;
  dataDigest?: DigestInput;
}

/** @public */
export interface ReferralInput {
  portId: number;
  address: string;
  service: number | string;
  nqn?: string;
}

/** A controller behind PCIe, in a VM. @public */
export interface FunctionInput {
  vfioUser: string;
  subsystem?: string;
  hostnqn?: string;
  cntlid?: number;
  vectors?: number;
  queues?: number;
  queueSize?: number;
  dmaByMessage?: boolean;
}

// ---- complete --------------------------------------------------------------------------------------------------------------------

/** Complete and consistent: what the target is built from. @public */
export interface TargetConfig {
  readonly subsystems: readonly SubsystemConfig[];
  readonly ports: readonly PortConfig[];
  /** Absent: none. */
  readonly functions?: readonly FunctionConfig[] | undefined;
  readonly discovery: DiscoveryConfig | 'off';
  readonly referrals: readonly ReferralConfig[];
  readonly limits: LimitsConfig;
  /** Where the target keeps what must outlive its process. Absent: nothing does. */
  readonly stateDirectory?: string | undefined;
  /** Who does the I/O of files and devices. Absent: auto. */
  readonly ioEngine?: EngineChoice | undefined;
  /** Where its counters are read over HTTP. Absent: nowhere. */
  readonly metrics?: { readonly address: string; readonly service: number } | undefined;
  readonly log: { readonly level: LogLevel };
}

/** @public */
export interface SubsystemConfig {
  readonly nqn: string;
  /** Absent: the target makes one from the NQN. */
  readonly serial?: string | undefined;
  readonly model?: string | undefined;
  readonly allowAnyHost: boolean;
  readonly hosts: readonly string[];
  /** I/O queue pairs of one controller. */
  readonly maxQueues: number;
  /** Controllers at once. */
  readonly maxControllers: number;
  readonly cntlidMin: number;
  readonly cntlidMax: number;
  /** `static`: hosts may ask for a controller id of the range. */
  readonly controllerModel: ControllerModel;
  /** Ids of the ports that it keeps to; absent: all that show it. */
  readonly ports?: readonly number[] | undefined;
  /** ANATT. Absent: 10. */
  readonly anaTransitionSeconds?: number | undefined;
  /** Groups that are not optimized on every port. */
  readonly anaGroups: readonly AnaGroupConfig[];
  /** Hosts and ports whose controllers manage live migration. Absent: nobody does, and nothing can be migrated. */
  readonly migration?:
    | { readonly managers: { readonly hosts: readonly string[]; readonly ports: readonly number[] } }
    | undefined;
  /** Absent: hosts cannot create namespaces. */
  readonly volumes?: VolumesConfig | undefined;
  /** Absent: false. */
  readonly allowSanitize?: boolean | undefined;
  /** Absent: nothing is passed through. */
  readonly adminPassthrough?: AdminPassthroughConfig | undefined;
  readonly duplicateHosts?: DuplicateHostsConfig | undefined;
  readonly namespaces: readonly NamespaceConfig[];
}

/** Opcodes of Admin commands, and log page identifiers. @public */
export interface AdminPassthroughConfig {
  readonly opcodes: readonly number[];
  readonly logPages: readonly number[];
}

/** @public */
export interface NamespaceConfig {
  readonly nsid: number;
  readonly backend: BackendConfig;
  /** Lower case, with hyphens. Absent: the target makes one from NQN and NSID. */
  readonly uuid?: string | undefined;
  /** 32 lower-case hex digits. */
  readonly nguid?: string | undefined;
  /** 16 lower-case hex digits. */
  readonly eui64?: string | undefined;
  readonly readOnly: boolean;
  /** The hosts that see it. Absent: every host of the subsystem. */
  readonly hosts?: readonly string[] | undefined;
  /** A smaller size, at a reload, takes the blocks at the end with their data. Absent: false. */
  readonly allowShrink?: boolean | undefined;
  /** Managers of live migration alone may use it until one opens it; counts where the state store knows nothing of it. Absent: false. */
  readonly closed?: boolean | undefined;
  /** ANA group. */
  readonly anagrpid: number;
}

/** @public */
export interface AnaGroupConfig {
  readonly anagrpid: number;
  readonly states: readonly { readonly portId: number; readonly state: AnaStateName }[];
}

/** @public */
export type VolumesConfig =
  | { readonly type: 'memory'; readonly capacityBytes: number }
  | { readonly type: 'file'; readonly directory: string; readonly capacityBytes: number };

/** What a host gets that connects while its NQN is connected already; see `DuplicateHostPolicy`. @public */
export interface DuplicateHostsConfig {
  readonly sameHostid?: 'allow' | 'refuse' | 'replace';
  readonly otherHostid?: 'allow' | 'refuse' | 'replace';
}

/** @public */
export interface PortConfig {
  readonly portId: number;
  /** IPv4 or IPv6 address. */
  readonly address: string;
  /** TCP port; 0: any free one. */
  readonly service: number;
  /** NQNs; '*' for all. */
  readonly subsystems: readonly string[];
  readonly advertise?: AdvertiseConfig | undefined;
  readonly inCapsuleDataSize: number;
  readonly maxH2cData: number;
  /** Entries of an I/O queue. */
  readonly maxQueueSize: number;
  readonly headerDigest: boolean;
  readonly dataDigest: boolean;
}

/** A controller behind PCIe. What is absent is as `PciFunctionOptions` has it. @public */
export interface FunctionConfig {
  /** Path of the socket that the VM's emulator connects to. */
  readonly vfioUser: string;
  /** NQN. */
  readonly subsystem: string;
  /** Whose namespaces and reservations it has. */
  readonly hostnqn?: string | undefined;
  readonly cntlid?: number | undefined;
  /** Entries of the MSI-X table. */
  readonly vectors?: number | undefined;
  /** I/O queue pairs. */
  readonly queues?: number | undefined;
  /** Entries of an I/O queue. */
  readonly queueSize?: number | undefined;
  /** Guest memory is written by messages instead of directly. */
  readonly dmaByMessage?: boolean | undefined;
}

/** What the discovery log says of a port instead of where it listens; 'off': nothing. @public */
export type AdvertiseConfig = { readonly address?: string; readonly service?: number } | 'off';

/** @public */
export interface DiscoveryConfig {
  readonly portId: number;
  readonly address: string;
  readonly service: number;
  /** Absent: one made from the machine's identity and the address. */
  readonly nqn?: string | undefined;
  /** Of the discovery service itself. */
  readonly advertise?: AdvertiseConfig | undefined;
  /** Published by multicast DNS. */
  readonly mdns?: true | undefined;
  /** NQNs of central discovery controllers, which may read all entries. */
  readonly allSubsystemsFor?: readonly string[] | undefined;
}

/** @public */
export interface ReferralConfig {
  readonly portId: number;
  readonly address: string;
  readonly service: number;
  readonly nqn?: string | undefined;
}

/** @public */
export interface LimitsConfig {
  /** Bytes of data buffers that one connection may hold. */
  readonly connectionBuffers: number;
  /** Bytes of data buffers that all connections may hold together; beyond, each has one command with data at a time. */
  readonly totalBuffers: number;
  /** From accept to a successful Connect. */
  readonly setupTimeoutMs: number;
  /** What commands under way get to finish when the target is told to end. */
  readonly drainTimeoutMs: number;
}

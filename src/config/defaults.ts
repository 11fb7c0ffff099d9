/** Every default of a target's configuration, and the bounds. */
import { DISCOVERY_PORT, NVMEOF_PORT } from '../spec/nqn.ts';
import type { DiscoveryConfig, LimitsConfig, LogLevel, PortConfig, SubsystemConfig } from './types.ts';

export const KIB = 1024;
export const MIB: number = 1024 * KIB;
export const GIB: number = 1024 * MIB;

/** The subsystem of a target that is started without any configuration. */
export const DEMO_NQN = 'nqn.2026-01.io.nvmeferry:demo';
export const DEMO_NAMESPACE_BYTES: number = GIB;

export interface ConfigDefaults {
  readonly blockSize: number;
  readonly anagrpid: number;
  readonly subsystem: Pick<
    SubsystemConfig,
    'maxQueues' | 'maxControllers' | 'cntlidMin' | 'cntlidMax' | 'controllerModel'
  >;
  readonly port: Omit<PortConfig, 'portId' | 'subsystems'>;
  readonly discovery: Omit<DiscoveryConfig, 'address'>;
  readonly limits: LimitsConfig;
  readonly metrics: { readonly address: string; readonly service: number };
  readonly log: { readonly level: LogLevel };
}

export const DEFAULTS: ConfigDefaults = {
  blockSize: 4096,
  anagrpid: 1,
  subsystem: {
    maxQueues: 128,
    maxControllers: 1024,
    cntlidMin: 1,
    cntlidMax: 0xffef,
    controllerModel: 'dynamic',
  },
  port: {
    address: '127.0.0.1',
    service: NVMEOF_PORT,
    inCapsuleDataSize: 8 * KIB,
    maxH2cData: MIB,
    maxQueueSize: 1024,
    headerDigest: true,
    dataDigest: true,
  },
  /** Its address is the first port's. The id is out of the way of those that ports count up to. */
  discovery: { portId: 0xffff, service: DISCOVERY_PORT },
  limits: { connectionBuffers: 8 * MIB, totalBuffers: 1024 * MIB, setupTimeoutMs: 30_000, drainTimeoutMs: 5_000 },
  /** The port that OpenTelemetry's Prometheus exporter has made usual. */
  metrics: { address: '127.0.0.1', service: 9464 },
  log: { level: 'info' },
};

export const BLOCK_SIZES: readonly number[] = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
export interface ConfigBounds {
  readonly nsidMax: number;
  readonly anaGroupsMax: number;
  readonly queuesMax: number;
  readonly cntlidMax: number;
  readonly portIdMax: number;
  readonly vectorsMax: number;
  readonly functionQueuesMax: number;
  readonly functionQueueSizeMax: number;
  readonly queueSizeMin: number;
  readonly queueSizeMax: number;
  readonly inCapsuleMax: number;
  readonly h2cMin: number;
  readonly h2cMax: number;
  readonly serialCharsMax: number;
  readonly modelCharsMax: number;
  readonly memoryBytesMax: number;
}

export const BOUNDS: ConfigBounds = {
  vectorsMax: 256,
  functionQueuesMax: 511,
  functionQueueSizeMax: 65_536,
  nsidMax: 1024,
  anaGroupsMax: 128,
  queuesMax: 65_534,
  /** Controller ids FFF0h and up have meanings of their own. */
  cntlidMax: 0xffef,
  portIdMax: 0xffff,
  queueSizeMin: 2,
  queueSizeMax: 4096,
  inCapsuleMax: MIB,
  h2cMin: 4 * KIB,
  h2cMax: 16 * MIB,
  serialCharsMax: 20,
  modelCharsMax: 40,
  memoryBytesMax: 64 * 1024 * GIB,
};

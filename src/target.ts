/** The target as a library: `nvmeferry/target`. */
export type { BlockBackend, BlockIo } from './backend/block-backend.ts';
export { MemoryBackend } from './backend/memory.ts';
export { NullBackend } from './backend/null.ts';
export { type BackendConfig, openBackend, type RemoteBackendConfig } from './backend/open.ts';
export { FileVolumePool, MemoryVolumePool, type VolumePool } from './backend/volume-pool.ts';
export { configFromFlags, type TargetFlags } from './config/flags.ts';
export { loadConfig } from './config/load.ts';
export type { TargetConfig, TargetConfigInput } from './config/types.ts';
export { createLogger, type LoggerOptions } from './log/logger.ts';
export { type OpenRemoteDeps, openRemoteNamespace } from './service/remote-namespace.ts';
export { type ReloadReport, TargetService, type TargetServiceOptions } from './service/target-service.ts';
export type { Referral } from './target/discovery.ts';
export type { DuplicateHostPolicy, DuplicatePolicy } from './target/duplicate-hosts.ts';
export type { NamespaceOptions } from './target/namespace.ts';
export type { PciController } from './target/pci.ts';
export type { PortOptions } from './target/port.ts';
export type { SubsystemOptions } from './target/subsystem.ts';
export { Target, type TargetEvents, type TargetOptions } from './target/target.ts';
export {
  type DmaWriter,
  type GuestRegion,
  InterruptMode,
  type InterruptSink,
  type PciBar,
  type PciDirtyRange,
  PciError,
  type PciFunction,
  type PciFunctionOptions,
} from './transport/pcie/pci-function.ts';
export { DeviceMigration, type LoggedRange } from './transport/vfio-user/client/device-migration.ts';
export {
  type DeviceLimits,
  type DmaMapping,
  VfioUserClient,
  type VfioUserClientOptions,
} from './transport/vfio-user/client/vfio-user-client.ts';
export { FrontControlServer } from './transport/vfio-user/front/control-server.ts';
export { VfioUserFront } from './transport/vfio-user/front/front.ts';
export type { FrontEvent, FrontStatus, VfioUserFrontOptions } from './transport/vfio-user/front/front-options.ts';
export { VfioUserServer, type VfioUserServerOptions } from './transport/vfio-user/server.ts';
export { ConfigError, NvmeofError } from './util/error.ts';
export { type DataPointers, Guest, type GuestCommand, type GuestCompletion, type GuestOptions } from './vm/guest.ts';
export { type BothEnds, GuestFront } from './vm/guest-front.ts';
export { GuestMemoryCopy, type GuestMemoryRun } from './vm/guest-memory-copy.ts';

/**
 * The host's side of NVMe over TCP: connect to controllers, read and write their namespaces, discover subsystems.
 * @packageDocumentation
 */

export type { FoundService } from './fabrics/mdns-records.ts';
export { AdminQueue, type PassthruCommand, type PassthruResult } from './initiator/admin-queue.ts';
export { readAnaLog, reportsAna } from './initiator/ana-log.ts';
export type { AsyncEvent } from './initiator/async-events.ts';
export {
  type FeatureOptions,
  HostController,
  type HostControllerEvents,
  type HostControllerState,
} from './initiator/controller.ts';
export type { GetLogPageOptions } from './initiator/controller-commands.ts';
export type { CopyOptions, CopySource } from './initiator/copy.ts';
export {
  DiscoveredControllers,
  type DiscoveredControllersEvents,
  type SubsystemPlace,
  subsystemPlace,
} from './initiator/discovered-controllers.ts';
export {
  DiscoveryController,
  type DiscoveryEvents,
  type DiscoveryLogOptions,
  type DiscoveryOptions,
  type DiscoveryVisit,
  discover,
  discoverReferrals,
  entryAddress,
} from './initiator/discovery.ts';
export {
  type DiscoverySource,
  DiscoveryWatch,
  type DiscoveryWatchEvents,
  type DiscoveryWatchOptions,
} from './initiator/discovery-watch.ts';
export { defaultHostIdentity, type HostIdentity } from './initiator/identity.ts';
export { IoDispatcher } from './initiator/io-dispatcher.ts';
export type { LbaStatusOptions, LbaStatusRange, LbaStatusReport } from './initiator/lba-status.ts';
export { type BrowseOptions, browseDiscovery } from './initiator/mdns-browser.ts';
export {
  type MultipathEvents,
  type MultipathOptions,
  MultipathSubsystem,
} from './initiator/multipath/multipath-subsystem.ts';
export type { PathPolicy } from './initiator/multipath/namespace-paths.ts';
export type { MultipathPath } from './initiator/multipath/path.ts';
export { HostNamespace } from './initiator/namespace.ts';
export {
  type CreateNamespaceOptions,
  type FormatOptions,
  NamespaceManagement,
  type SanitizeOptions,
} from './initiator/namespace-management.ts';
export type { IoSubmitter, NamespaceOwner } from './initiator/namespace-owner.ts';
export type { IoOptions } from './initiator/operation.ts';
export type { HostOptions } from './initiator/options.ts';
export { type CommandDone, HostQueuePair } from './initiator/queue-pair.ts';
export type {
  ReservationAcquireOptions,
  ReservationNotice,
  ReservationRegisterOptions,
  ReservationReleaseOptions,
  ReservationReport,
  ReservationReportOptions,
} from './initiator/reservation.ts';
export { formatNvmeUri, isNvmeUri, type NvmeUri, parseNvmeUri } from './initiator/uri.ts';
export { ConfigError, NvmeofError, NvmeStatusError, OutcomeUnknownError, TransportError } from './util/error.ts';

/** Host Managed Live Migration: the commands of a host, and what their data mean. */
export {
  type ChangedBlocks,
  LiveMigration,
  type MigrationHost,
  type ReceivedState,
  type StatePart,
  type StateSelection,
} from './initiator/live-migration.ts';
export type { FenceStatus, PeerEntry } from './initiator/migration-extension.ts';
export { QueueReader, type VisitEntries } from './initiator/queue-reader.ts';
export { MigrationError } from './migration/migration-error.ts';
export {
  readStateSection,
  STATE_SECTION_UUID,
  type StateBlock,
  type StateSection,
} from './migration/state-section.ts';
export type { DeviceFront, End, EndController, EndNamespace, GuestMemoryMover } from './orchestrator/end.ts';
export { FabricEnd } from './orchestrator/fabric-end.ts';
export { HypervisorProgram } from './orchestrator/hypervisor-program.ts';
export { Journal, type JournalEntry, type MoveJournal } from './orchestrator/journal.ts';
export { Move } from './orchestrator/move.ts';
export { MoveError, type MoveErrorCode, type MoveOutcome } from './orchestrator/move-error.ts';
export type { MoveEvent, MoveOptions } from './orchestrator/move-options.ts';
export { bytesOf, type MoveReport } from './orchestrator/move-report.ts';
export type { MovePlan, MoveRecord, MoveSpec, MoveTuning } from './orchestrator/move-spec.ts';
export { VmMemory, type VmMemoryRegion } from './orchestrator/vm-memory.ts';
export {
  CdqEvent,
  EntryRange,
  EntrySequence,
  MIGRATION_EXTENSION_UUID,
  SequenceIndicator,
} from './spec/migration.ts';
export {
  type CompletionQueueState,
  type ControllerState,
  type ControllerStateFormats,
  controllerStateBytes,
  decodeControllerState,
  encodeControllerState,
  type NvmeControllerState,
  type SubmissionQueueState,
} from './wire/cold/controller-state.ts';
export {
  type BlockRun,
  type CdqFeature,
  ChangedBlocksFlag,
  type ChangedBlocksHeader,
  ResidentQueueFlag,
  type ResidentQueueHeader,
  type ResidentQueueLog,
} from './wire/cold/log-migration.ts';
export type { TrackedMemoryChanges, TrackedUnits } from './wire/cold/track-memory.ts';
export {
  entryBlockCount,
  entryDeallocated,
  entryNsid,
  entryRange,
  entrySequence,
  entrySlba,
  entryWordAttributes,
  entryWordBlockCount,
  entryWordNsid,
  entryWordSlba,
  isDeallocated,
  rangeOfAttributes,
  UDMQ_ENTRY_BYTES,
  UDMQ_ENTRY_DWORDS,
} from './wire/udmq-entry.ts';

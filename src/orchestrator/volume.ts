/**
 * The two ends of a namespace that moves, as the engine sees them: blocks by number, no connection, no command. What they stand on is the
 * initiator's (`fabric-volume.ts`), or a model's in tests and the simulator.
 */

/** Consecutive blocks. */
export interface BlockRun {
  readonly slba: number;
  /** 1 and more. */
  readonly blockCount: number;
}

export interface ChangedRun extends BlockRun {
  /** The blocks read zero since: there is nothing to read. */
  readonly isDeallocated?: boolean;
}

/** What was changed up to a moment; what is changed later is in the next one, whenever this one is acknowledged. */
export interface ChangeSnapshot {
  /** Ascending; may name blocks that were not changed, never leaves one out. */
  readonly runs: readonly ChangedRun[];
  /** False: there were more than it can name; those are in the next one. */
  readonly complete: boolean;
  /** They are copied: the source forgets them. Until then it gives the same snapshot again, also to another orchestrator. */
  acknowledge(): Promise<void>;
}

export interface SourceVolume {
  readonly blockSize: number;
  readonly blockCount: number;
  /** From its return on, every change is in a snapshot. */
  startTracking(): Promise<void>;
  /** Idempotent. */
  stopTracking(): Promise<void>;
  /** Runs with allocated blocks, ascending; all others read zero. */
  allocated(signal: AbortSignal | undefined): AsyncIterable<BlockRun>;
  /** @throws NvmeofError NVMEOF_ERR_TRACKING_LOST if they are not followed (any more): what was copied says nothing then */
  changes(): Promise<ChangeSnapshot>;
  /** @param buffer whole blocks; not used after this settles */
  readInto(slba: number, buffer: Uint8Array): Promise<void>;
}

export interface DestinationVolume {
  readonly blockSize: number;
  readonly blockCount: number;
  /** @param data whole blocks; not used after this settles */
  write(slba: number, data: Uint8Array): Promise<void>;
  /** The blocks read zero afterwards; deallocated if the destination can. */
  clear(slba: number, blockCount: number): Promise<void>;
  /** What was written and cleared before is durable. */
  flush(): Promise<void>;
}

/** Those whose content has to be read. */
export function withContent(runs: readonly ChangedRun[]): readonly BlockRun[] {
  return runs.filter(({ isDeallocated }) => isDeallocated !== true);
}

export function blocksIn(runs: readonly BlockRun[]): number {
  return runs.reduce((sum, { blockCount }) => sum + blockCount, 0);
}

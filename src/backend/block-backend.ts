/**
 * What a namespace stands on: blocks by byte offset, no NVMe command. One small interface for memory, file, null, local SSD and remote.
 */

import type { Arena } from '../util/arena.ts';
import type { DevicePassthrough } from './device-passthrough.ts';

/**
 * One operation in flight. The target's Request is one; a backend keeps no reference past `complete`.
 * Offsets and lengths are bytes, multiples of the backend's block size, range-checked by the caller.
 */
export interface BlockIo {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Write: the data must be durable before `complete`. Read: cached data is committed first. */
  readonly fua: boolean;
  /**
   * Write: the data, in order, `segments[0]` to `segments[segmentCount - 1]`; the array is longer and reused. Valid until the backend's `write`
   * returns, or until `complete` if it calls `retain` first.
   */
  readonly segments: Uint8Array[];
  readonly segmentCount: number;
  /** A write that goes on after `write` returns calls this before it returns: `segments` may then be other memory with the same bytes. */
  retain(): void;
  /** Read: appends `view`, memory that never changes (zeroes), as the next piece of the answer. */
  lend(view: Uint8Array): void;
  /** Read: appends `lengthBytes` of the backend's own memory as the next piece of the answer; they may change once `complete` returns. */
  lendAt(arena: Arena, offsetBytes: number, lengthBytes: number): void;
  /**
   * Read: a buffer of `lengthBytes` for the backend to fill; it is then the answer. A backend that uses it has `lendsMemory` false or undefined.
   */
  provide(): Uint8Array;
  /** Exactly once, in the same turn or later. @param status 15-bit NVMe status, 0 on success */
  complete(status: number): void;
}

/** What a device takes in one Copy: MSSRL and MCL in blocks, MSRC (0's based). @public */
export interface CopyLimits {
  readonly mssrl: number;
  readonly mcl: number;
  readonly msrc: number;
}

/** A Copy within the namespace that its device does. @public */
export interface DeviceCopy {
  /** In order; together they go to where the operation's own range begins. No more than `CopyLimits` allow. */
  readonly sources: readonly { readonly offsetBytes: number; readonly lengthBytes: number }[];
  /** Set by the backend if it fails: sources that were copied as a whole, from the first on. */
  completeCount: number;
}

/** Consecutive bytes. @public */
export interface ByteRun {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** @public */
export interface AllocatedRuns {
  /** In order, apart from each other. */
  readonly runs: readonly ByteRun[];
  /** No more follow. */
  readonly complete: boolean;
}

/** Of what is below, in the terms of the SMART log. @public */
export interface BackendHealth {
  /** Bits of CRITICAL WARNING. */
  readonly criticalWarning: number;
  readonly mediaErrors: bigint;
  /** What only a device of its own tells. */
  readonly device?: DeviceHealth | undefined;
}

/** Of a device, as its SMART log has it. @public */
export interface DeviceHealth {
  readonly temperatureKelvin: number;
  /** Percent, as the two that follow. */
  readonly availableSpare: number;
  readonly availableSpareThreshold: number;
  readonly percentageUsed: number;
  readonly powerCycles: bigint;
  readonly powerOnHours: bigint;
  readonly unsafeShutdowns: bigint;
}

/** @public */
export interface BlockBackend {
  /** For `nvmeferry target` and logs: `memory`, `file`, `null`... */
  readonly kind: string;
  /** 512 or 4096 (any power of two from 512 to 65536). */
  readonly blockSize: number;
  readonly blockCount: number;
  /** True if a completed write may be lost until `flush` (reported as VWC). */
  readonly volatileWriteCache: boolean;
  /** True if deallocated blocks read as zeroes (reported in DLFEAT). */
  readonly readsZeroAfterDeallocate: boolean;
  readonly readOnly: boolean;
  /** Reads lend the backend's own memory: they need no buffer where the transport sends by place. */
  readonly lendsMemory?: boolean;
  /** Every operation takes effect and completes before the call returns: no two are ever in flight together. */
  readonly immediate?: boolean;
  /** What it holds is gone once it is closed. */
  readonly isVolatile?: boolean;
  /** A write inside one aligned unit of this many bytes is seen by reads as a whole or not at all (reported as NAWUN and NABSN). */
  readonly atomicBytes?: number;
  read(io: BlockIo): void;
  write(io: BlockIo): void;
  /** Everything completed before is durable when this completes. */
  flush(io: BlockIo): void;
  /** @param mayDeallocate DEAC: the blocks may be deallocated, as long as they read zero */
  writeZeroes(io: BlockIo, mayDeallocate: boolean): void;
  /** Completes as a read of the range would, without its data; absent: reading is how to find out. */
  verify?(io: BlockIo): void;
  /**
   * Compares the range with `segments`, which are valid as in a write: Compare Failure if they differ; absent: reading is how to find out.
   */
  compare?(io: BlockIo): void;
  /** Copies `sources` to the range; absent: reading and writing is how to copy. */
  copy?(io: BlockIo, copy: DeviceCopy): void;
  /** Of `copy`. */
  readonly copyLimits?: CopyLimits | undefined;
  /** Advisory; blocks it does not deallocate keep their content. */
  deallocate(io: BlockIo): void;
  /** Adds blocks at the end, which read as zeroes; `blockCount` is the new one when it resolves. */
  grow?(blockCount: number): Promise<void>;
  /** True if every block of the range was written and not deallocated since; absent if that is not known of each block. */
  readonly isAllocated?: ((offsetBytes: number, lengthBytes: number) => boolean) | undefined;
  /** Gives up the blocks from `blockCount` on, with their content. The caller sees to it that no operation reaches them any more. */
  readonly shrink?: ((blockCount: number) => Promise<void>) | undefined;
  /**
   * Format NVM: the same bytes in blocks of another size (512 or 4096), what does not fill a block left over. The caller sees to it that nothing
   * is in flight.
   */
  readonly setBlockSize?: ((blockSize: number) => void) | undefined;
  /** Bytes, a multiple of the block size, by which `nextAllocated` knows; absent or 0 where that is. */
  readonly allocationUnitBytes?: number | undefined;
  /**
   * The first bytes at or after `fromBytes`, and before `endBytes`, that may hold what was written and not deallocated since; absent if all may.
   * Both ends of what it gives are multiples of `allocationUnitBytes`, or the ends asked for.
   */
  nextAllocated?(fromBytes: number, endBytes: number): ByteRun | undefined;
  /**
   * As `nextAllocated`, where somebody else has to be asked: the first runs, `runsMax` at most, and whether that is all.
   * @throws NvmeofError
   */
  readonly readAllocated?:
    | ((fromBytes: number, endBytes: number, runsMax: number) => Promise<AllocatedRuns>)
    | undefined;
  /** Bytes that the namespace really takes now, or undefined if not known cheaply. */
  allocatedBytes?(): number | undefined;
  /** What is known of its health now; undefined if nothing is. */
  health?(): BackendHealth | undefined;
  /** `listener` is called whenever `health` tells something else; the one owner of the backend listens. */
  watchHealth?(listener: () => void): void;
  /** Absent where the backend is no device that takes NVMe commands. */
  readonly passthrough?: DevicePassthrough | undefined;
  /** Idempotent; resolves when every operation has completed and everything is released (and durable). */
  close(): Promise<void>;
}

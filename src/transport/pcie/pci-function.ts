/**
 * What a bus front end drives: one PCI function with its config space, its BARs, its interrupts and the guest memory that it reaches. vfio-user
 * is such a front end, the in-process VM (src/vm) another. The front end owns sockets, descriptors and mappings; the function owns what NVMe says.
 *
 * The rules between the two:
 * - All calls come from one thread and return at once; none waits for a backend.
 * - The function works only inside `run`. A BAR write, a completion of a backend or a resume says through `onWork` that there is something to do;
 *   the front end then calls `run` soon (after it has handled all messages that are there, so that doorbells and interrupts coalesce), and again as
 *   long as it returns true, with a turn of the event loop between two calls.
 * - Guest memory is touched only inside these calls, and never outside of what is mapped at that moment: after `unmap` returns nothing of the
 *   region is read or written any more.
 * - Memory is reached, and messages are sent, only while the guest has set Bus Master Enable in config space: without it commands wait unfetched, and
 *   one that was fetched before finds its memory gone. A front end that keeps config space itself passes the Command register on.
 */
import { NvmeofError } from '../../util/error.ts';

/** Memory of the guest that the function reaches by DMA. */
export interface GuestRegion {
  /** Address as PRPs, SGLs and queue bases name it, below 2^53. */
  readonly iova: number;
  /** 1 and more. */
  readonly lengthBytes: number;
  /**
   * The memory itself, of which the region is `lengthBytes` from `bufferOffset` on. Absent: the region is known, but not reachable; commands that
   * touch it end with Data Transfer Error.
   */
  readonly buffer?: ArrayBufferLike | undefined;
  /** Default 0. */
  readonly bufferOffset?: number | undefined;
  /** Default true. A write into a region that is not writable ends the command with Data Transfer Error. */
  readonly writable?: boolean | undefined;
  /** Writes go through it instead of into `buffer` (vfio-user DMA_WRITE): a client that tracks dirty pages itself sees them. */
  readonly writer?: DmaWriter | undefined;
}

/** Writes guest memory by message. */
export interface DmaWriter {
  /** Writes reach the guest in the order of the calls. @param bytes valid until the call returns */
  write(iova: number, bytes: Uint8Array): void;
  /** Calls `done` once everything written before is in guest memory (or cannot be any more): interrupts wait for that. */
  fence(done: () => void): void;
}

/** Where interrupts go. Called inside `run` or a BAR or config write. */
export interface InterruptSink {
  /** MSI-X or MSI: an edge. @param vector index into the MSI-X table (0 to `vectorCount` - 1), or the MSI message number */
  message(vector: number): void;
  /** The level of the interrupt pin has changed. Called only while neither MSI-X nor MSI is enabled, or to deassert. */
  pin(asserted: boolean): void;
}

/** @public */
export interface PciBar {
  /** 0 to 5. A 64-bit BAR takes `index + 1` as well. */
  readonly index: number;
  /** A power of two. */
  readonly lengthBytes: number;
  readonly is64Bit: boolean;
}

export interface PciDirtyRange {
  readonly iova: number;
  readonly lengthBytes: number;
}

/** Index of each interrupt mode; what the guest has enabled. */
export const InterruptMode = { Pin: 0, Msi: 1, MsiX: 2 } as const;

export interface PciFunction {
  // ---- config space: standard header, PM, MSI, MSI-X and PCI Express capability ---------------------------------------------------

  /** Bytes of config space: 256 or 4096. */
  readonly configBytes: number;
  /**
   * Fills `into` from `offset` on; bytes behind the end read as 0. BARs read as they were written, under the size mask (a front end that sizes and
   * places BARs itself, as QEMU does, needs none of that).
   */
  readConfig(offset: number, into: Uint8Array): void;
  /** Read-only bits stay. A function level reset, D3hot and back, MSI and MSI-X enable are acted upon. */
  writeConfig(offset: number, bytes: Uint8Array): void;

  // ---- BARs -----------------------------------------------------------------------------------------------------------------------

  readonly bars: readonly PciBar[];
  /** Any offset and length; what is not there reads as 0. */
  readBar(index: number, offset: number, into: Uint8Array): void;
  /** 4 or 8 bytes, aligned to 4; anything else is dropped, as is what is not writable. */
  writeBar(index: number, offset: number, bytes: Uint8Array): void;

  // ---- interrupts -----------------------------------------------------------------------------------------------------------------

  /** Entries of the MSI-X table. */
  readonly vectorCount: number;
  /** Log2 is in the MSI capability: messages that a guest can have with MSI. */
  readonly msiCount: number;
  /** `InterruptMode`. */
  readonly interruptMode: number;
  /**
   * Undefined: interrupts are dropped.
   * @param ownsMsixTable the front end keeps the MSI-X table with its mask bits itself, so that accesses to it never come here (QEMU): every
   * message goes to the sink, masked or not. Default: the function has the table, masks, and keeps the pending bits.
   */
  setInterruptSink(sink: InterruptSink | undefined, ownsMsixTable?: boolean): void;
  /** The pin is asserted now: a front end whose pin is an edge triggers again when the guest unmasks it. */
  readonly pinAsserted: boolean;

  // ---- guest memory ---------------------------------------------------------------------------------------------------------------

  /** At any time. @throws PciError EEXIST if it overlaps one that is there, EINVAL if it is no range */
  map(region: GuestRegion): void;
  /** The exact range of one map. @throws PciError ENOENT if there is none */
  unmap(iova: number, lengthBytes: number): void;
  unmapAll(): void;

  /**
   * Follows which pages the function writes, beside what NVMe's own Track Memory does. Starting again forgets what was there.
   * @param pageBytes a power of two, 4096 and more
   * @param ranges empty: whatever is written
   */
  startDirtyLog(pageBytes: number, ranges: readonly PciDirtyRange[]): void;
  stopDirtyLog(): void;
  /**
   * Reports and forgets the pages of a range in one step. A bit per page of `pageBytes` from `iova` on, in 64-bit words, least significant bit first.
   * @throws PciError EINVAL if there is no log, or `iova` and `lengthBytes` are not multiples of `pageBytes`
   */
  reportDirty(iova: number, lengthBytes: number, pageBytes: number): Uint8Array;

  // ---- life -----------------------------------------------------------------------------------------------------------------------

  /** There is work for `run`; may be called from anywhere, also while `run` runs. Set by the front end. */
  onWork: () => void;
  /** @returns true if it stopped because it has worked long enough: call again */
  run(): boolean;
  /** As by PCIe reset: config space, registers, queues. Commands that a backend has end without a trace. */
  reset(): void;
  /**
   * Stops fetching commands.
   * @param onQuiet called once, in this call or later, when everything that was fetched is complete, with its CQE in guest memory; not if the
   * function is reset or resumed meanwhile
   */
  stop(onQuiet: () => void): void;
  readonly isStopped: boolean;
  /** Fetches again, and interrupts for what waits in the completion queues. */
  resume(): void;
  /** All that a destination needs: the Controller State of NVMe, with config space and MSI-X in its vendor part. Call it while stopped. */
  saveState(): Uint8Array;
  /** Verifies all of it, then applies all of it; call it while stopped, after a reset. @throws MigrationError; nothing is applied then */
  loadState(state: Uint8Array): void;
  /** The controller is gone from its subsystem. Idempotent. */
  close(): void;
}

/** A controller behind PCIe: `Target.addFunction(subsystem, options)` makes one and gives its function. @public */
export interface PciFunctionOptions {
  /** Whose namespaces it sees and whose reservations it holds; a PCIe host has no NQN of its own. Default: one made from the subsystem's NQN. */
  readonly hostnqn?: string | undefined;
  /** Default: the next that is free. Two functions of one subsystem in one guest need different ones. */
  readonly cntlid?: number | undefined;
  /** Id of the port that it counts as, for ANA states and managers of live migration. Default 0, which no NVMe/TCP port has. */
  readonly portId?: number | undefined;
  /** Entries of the MSI-X table, 1 to 256. Default 64. */
  readonly vectorCount?: number | undefined;
  /** I/O queue pairs, 1 to 511. Default: one less than vectors. */
  readonly ioQueuesMax?: number | undefined;
  /** Entries of an I/O queue (CAP.MQES + 1), 2 to 65536. Default 1024. */
  readonly queueEntriesMax?: number | undefined;
  /** CAP.DSTRD, 0 to 4: doorbells are 4 << n bytes apart. Default 0. */
  readonly doorbellStride?: number | undefined;
  /** CAP.NSSRS: the guest may reset the whole subsystem, all hosts of it included. Default false. */
  readonly allowSubsystemReset?: boolean | undefined;
  /** The interrupt pin is there (INTA#). Default true. */
  readonly hasPin?: boolean | undefined;
  readonly vendorId?: number | undefined;
  readonly deviceId?: number | undefined;
}

/** The front end asked for what cannot be. @public */
export class PciError extends NvmeofError {
  override readonly name = 'PciError';
  /** Positive: EEXIST 17, ENOENT 2, EINVAL 22. */
  readonly errno: number;
  constructor(errno: number, message: string) {
    super('NVMEOF_ERR_PCI', message);
    this.errno = errno;
  }
}
